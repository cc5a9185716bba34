"""The scripts that measure what a step costs run, and compare what they say."""

from typing import Any

import pytest

SMALL_VIT = "timm:vit_tiny_patch16_224(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)"


def test_a_step_of_any_methods_is_compared_with_both_networks(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    step = script("step")
    flags = step.Flags(
        ("attention-links", "kd"), "resnet8", SMALL_VIT, batch_size=2, image_size=16, classes=3, rounds=1
    )
    step.main(flags)
    shown = capsys.readouterr().out
    assert "attention-links + kd, resnet8 → timm:vit_tiny" in shown
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["teacher", "student", "distiller", "ratio", "ratio"]


def test_a_step_of_links_is_compared_with_the_trunk_of_the_teacher(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    links = script("links_step")
    links.main(links.Flags(SMALL_VIT, "resnet8", "2:1", batch_size=2, image_size=16, rounds=2, clock="cpu"))
    shown = capsys.readouterr().out
    assert "2:1 links, resnet8 → timm:vit_tiny" in shown
    assert "(cpu)" in shown
    assert "median over 2 rounds" in shown


def test_ratios_are_of_the_distiller_to_both_networks_together(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    beside = script("beside_networks")
    beside.print_times(
        "made up", {"teacher": [1.0, 2.0, 1.0], "student": [1.0, 2.0, 3.0], "distiller": [3.0, 4.0, 8.0]}
    )
    of_medians, median = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[-2:])
    assert of_medians == pytest.approx(4 / 3, abs=1e-3)
    assert median == pytest.approx(1.5)


def test_a_forward_pass_is_compared_with_and_without_norms(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folding = script("folding")
    folding.main(folding.Flags("resnet8", batch_size=16, precision="bfloat16", rounds=2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "resnet8, batch 16, bfloat16: 6 of 9 norms folded"
    assert [line.split()[0] for line in lines[1:]] == ["plain", "folded", "ratio"]


@pytest.mark.parametrize("mixed", [False, True])
def test_checks_of_a_batch_are_measured_beside_their_step(
    script: Any, capsys: pytest.CaptureFixture[str], mixed: bool
) -> None:
    checks = script("batch_checks")
    checks.main(checks.Flags("resnet8", "", batch_size=2, classes=3, mixed=mixed, rounds=2))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no teacher → resnet8, batch 2, class ")
    assert [line.split()[0] for line in lines[1:]] == ["step", "checks"]
