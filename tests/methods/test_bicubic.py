"""Many channels on one grid, against torch's own interpolation of each stage."""

from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from torch import Tensor
from torch.nn import functional

from attention_transfer.methods.attention_links import loss
from attention_transfer.methods.attention_links.loss import resized

SHAPES = ((3, 12, 9), (5, 2, 3), (2, 12, 9), (4, 6, 5), (1, 4, 4))


def stages() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(6, 5), (4, 4), (20, 16)])
@pytest.mark.parametrize("few", [0, 512])
def test_stages_are_resized_as_torch_does_it(
    grid: tuple[int, int], antialias: bool, align_corners: bool, few: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loss, "_FEW_POSITIONS", few)
    how: dict[str, Any] = {"align_corners": align_corners, "antialias": antialias}
    for found, stage in zip(resized(stages(), grid, **how), stages(), strict=True):
        expected = functional.interpolate(stage, grid, mode="bicubic", **how)
        assert_near(found, expected.flatten(2))


def test_channels_of_one_size_are_resized_in_one_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loss, "_FEW_POSITIONS", 0)
    calls: list[tuple[int, ...]] = []
    real = functional.interpolate

    def counted(values: Tensor, *arguments: Any, **others: Any) -> Tensor:
        calls.append(tuple(values.shape))
        return real(values, *arguments, **others)

    monkeypatch.setattr(functional, "interpolate", counted)
    resized(stages(), (6, 5))
    # What is as large already, or smaller, needs none; lines are not images.
    assert [shape for shape in calls if shape[0] == 2 and shape[1] > 1] == [(2, 5, 12, 9)]


def test_half_precision_becomes_float32():
    for found in resized([stage.bfloat16() for stage in stages()], (6, 5)):
        assert found.dtype == torch.float32
