"""Small networks and values that many tests share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"


class SmallNet(nn.Module):
    """Two stages and a linear head; stages are named as describe() looks for them."""

    def __init__(self, width: int = 4, classes: int = 5, stride: int = 2) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        )
        self.layer2 = nn.Sequential(nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride, padding=1), nn.ReLU()))
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


@pytest.fixture
def small_pair() -> tuple[nn.Module, nn.Module]:
    """A student and a wider teacher, seeded."""
    torch.manual_seed(0)
    return SmallNet(4), SmallNet(6)


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """What the authors' code gave on random tensors."""
    values: dict[str, Tensor] = {}
    for path in sorted(GOLDEN.glob("*.npz")):
        with np.load(path) as file:
            values |= {name: torch.from_numpy(file[name]) for name in file.files}
    return values
