"""What the page of timm's files says is what the script finds, for some small ones."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models.pit import PoolingVisionTransformer

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
