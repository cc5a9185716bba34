"""Small networks and values that many tests share."""

import importlib
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trained import as_trained
from tests.two_processes import TwoProcesses

# NumPy looks at the smallest numbers when it is first asked, and warns where these are flushed to zero just then.
FINFO = np.finfo(np.float32), np.finfo(np.float64)

GOLDEN = Path(__file__).parent / "golden"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


class SmallNet(nn.Module):
    """Two stages and a linear head; stages are named as describe() looks for them."""

    def __init__(self, width: int = 4, classes: int = 5, stride: int = 2) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        )
        self.layer2 = nn.Sequential(nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride, padding=1), nn.ReLU()))
        self.fc = nn.Linear(2 * width, classes)
        as_trained(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


@pytest.fixture(autouse=True)
def _compiler_forgets() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    """What one test compiled, or gave up compiling, is not used by the next."""
    yield
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of two processes go to the same worker, which then starts them once."""
    for item in items:
        if "two_processes" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("two processes"))


@pytest.fixture(scope="session")
def two_processes() -> Generator[TwoProcesses]:
    """Two processes that stay alive from test to test."""
    both = TwoProcesses()
    yield both
    both.stop()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[str], Any]]:
    """Imports a script of `benchmarks/` by its name; afterwards its modules are as if they had never been there."""
    names = [path.stem for path in BENCHMARKS.glob("*.py")]
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
