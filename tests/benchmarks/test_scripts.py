"""The scripts that measure run, and say what the pages say."""

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from timm.models.pit import PoolingVisionTransformer

from attention_transfer.experiment import Data, Experiment
from attention_transfer.models.meta_networks import outline

PAGE = Path(__file__).parents[2] / "docs" / "timm-families.md"


@pytest.mark.parametrize(
    ("file", "name"), [("byobnet", "test_byobnet"), ("maxxvit", "test_coatnet"), ("pit", "pit_ti_224")]
)
def test_a_file_of_timm_is_read_as_the_page_says(file: str, name: str, script: Callable[[str], Any]) -> None:
    if not hasattr(PoolingVisionTransformer, "forward_intermediates") or not timm.is_model(name):
        pytest.skip("this version of timm takes fewer features")
    families = script("timm_families")
    row = str(families.examine(file, name, 0))
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert row in lines
    assert not any("**" in line for line in lines if line.startswith("|"))


def test_a_run_that_was_stopped_goes_on_and_makes_no_row_anew(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    families, kept, made = script("timm_families"), tmp_path / "rows.jsonl", list[str]()
    monkeypatch.setattr(families, "smallest", lambda files: {"one": ("a", 1), "two": ("b", 2)})

    def examine(file: str, name: str, size: int) -> Any:
        made.append(file)
        if file == "two" and made.count("two") == 1:
            raise KeyboardInterrupt
        return families.Row(file, name, 64, "4: nchw", "–", "yes", "**RuntimeError** broken")

    monkeypatch.setattr(families, "examine", examine)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(sys, "argv", ["timm_families.py", "--resume", str(kept)])
    with pytest.raises(KeyboardInterrupt):
        families.main()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        families.main()
    assert made == ["one", "two", "two"]
    printed = capsys.readouterr().out
    assert "| `one` | `a` | 64 | 4: nchw | – | yes | **RuntimeError** broken |\n| `two` |" in printed
    assert "2 files, of which 2 run; stages are found in 2 of these." in printed


def test_an_error_that_is_no_refusal_is_shown_as_broken(script: Callable[[str], Any]) -> None:
    families = script("timm_families")
    row = families.Row("one", "a", 64, "4: nchw", "–", "yes", "refused: the student has no attention")
    assert not row.broken
    assert families.Row("one", "a", 64, "4: nchw", "–", "**RuntimeError** shapes", "yes").broken


def test_the_smallest_network_of_a_file_is_that_with_the_fewest_parameters(script: Callable[[str], Any]) -> None:
    name, size = script("timm_families").smallest(["tnt"])["tnt"]
    sizes: dict[str, int] = {}
    for other in timm.list_models("tnt_*"):
        network = outline(partial(timm.create_model, other, num_classes=10))
        sizes[other] = sum(p.numel() for p in network.parameters())
    assert sizes[name] == size == min(sizes.values())


# ---------------- the scripts that measure what a step costs run, and compare what they say

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


# ---------------- the script behind `make recipes` finds what fails and what is slow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "recipes.py"


@pytest.fixture
def recipes_script(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_of_recipes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    small, broken = Experiment("small", "resnet8"), Experiment("small-broken", "resnet9", data=Data())
    monkeypatch.setattr(module, "RECIPES", {"small": lambda: small, "small-broken": lambda: broken})
    return module


def test_a_recipe_that_runs_in_time_passes(recipes_script: Any, capsys: pytest.CaptureFixture[str]):
    del recipes_script.RECIPES["small-broken"]
    assert recipes_script.main(recipes_script.Flags(limit=60, threads=1)) == 0
    assert "1 of 1 recipes run within 60 s" in capsys.readouterr().out


def test_slow_and_broken_recipes_are_named(recipes_script: Any, capsys: pytest.CaptureFixture[str]):
    assert recipes_script.main(recipes_script.Flags(limit=0, threads=1)) == 1
    shown = capsys.readouterr().out
    assert "0 of 2 recipes" in shown
    assert "s  slow" in shown
    assert "InputError: unknown model 'resnet9'" in shown


def test_names_choose_by_their_beginning(recipes_script: Any, capsys: pytest.CaptureFixture[str]):
    assert recipes_script.main(recipes_script.Flags(names=("small-b",), limit=60, threads=1)) == 1
    assert "0 of 1 recipes" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no recipe begins with large"):
        recipes_script.main(recipes_script.Flags(names=("large",)))


# ---------------- what the page of families says is what the script finds, for the small ones of each kind

FAMILIES = (Path(__file__).parents[2] / "docs" / "attention-families.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["EVA-02", "hybrid ViT", "PiT, distilled", "CaiT", "ConViT", "Swin", "LeViT"])
def test_a_family_of_timm_is_read_as_the_page_says(family: str, script: Callable[[str], Any]) -> None:
    pytest.importorskip("transformers")
    families = script("attention_families")
    name = families.TIMM[family]
    assert str(families.examine(family, name, timm.create_model(name), families._side(name))) in FAMILIES.splitlines()


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "BEiT", "DINOv2", "DINOv2 with registers"])
def test_a_family_of_transformers_is_read_as_the_page_says(kind: str, script: Callable[[str], Any]) -> None:
    pytest.importorskip("transformers")
    families = script("attention_families")
    family = f"transformers {kind}"
    name, model, side = families._OTHERS[family]()
    assert str(families.examine(family, name, model, side)) in FAMILIES.splitlines()


def test_methods_are_tried_on_every_task_and_refusals_written_down(script: Callable[[str], Any]):
    found = script("tasks_and_methods")
    kinds = {task.name: task for task in found.tasks()}
    assert found.tried(kinds["segmentation"], found.METHODS["kd"]) == "yes"
    assert found.tried(kinds["detection, lists"], found.METHODS["at"]) == "yes"
    assert "reads labels, which are class indices" in found.tried(kinds["one logit"], found.METHODS["dkd"])
    assert "logits of one row per image" in found.tried(kinds["segmentation"], found.METHODS["gradient"])
