"""What the page of families says is what the script finds, for the small ones of each kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm

PAGE = (Path(__file__).parents[2] / "docs" / "attention-families.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["EVA-02", "hybrid ViT", "PiT, distilled", "CaiT", "ConViT", "Swin", "LeViT"])
def test_a_family_of_timm_is_read_as_the_page_says(family: str, script: Callable[[str], Any]) -> None:
    pytest.importorskip("transformers")
    families = script("attention_families")
    name = families.TIMM[family]
    assert str(families.examine(family, name, timm.create_model(name), families._side(name))) in PAGE.splitlines()


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "BEiT", "DINOv2", "DINOv2 with registers"])
def test_a_family_of_transformers_is_read_as_the_page_says(kind: str, script: Callable[[str], Any]) -> None:
    pytest.importorskip("transformers")
    families = script("attention_families")
    family = f"transformers {kind}"
    name, model, side = families._OTHERS[family]()
    assert str(families.examine(family, name, model, side)) in PAGE.splitlines()
