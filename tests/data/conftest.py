"""Small data sets, in memory and on disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attention_transfer.data import DataSet, Split


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _write_image(path: Path, width: int, height: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_noise(height, width, 3, seed=seed)).save(path)


@pytest.fixture
def write_image() -> Callable[..., None]:
    """Writes noise: (path, width, height, seed=0), with the folders that lead there."""
    return _write_image


@pytest.fixture
def small_set() -> DataSet:
    """50 training and 10 test images of 16×16 in memory."""
    labels = np.arange(60) % 5
    return DataSet(
        name="small",
        classes=tuple("abcde"),
        train=Split(_noise(50, 16, 16, 3), labels[:50]),
        validation=None,
        test=Split(_noise(10, 16, 16, 3, seed=1), labels[50:]),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        image_size=16,
        photographs=False,
    )


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of two classes, 12 + 4 pictures of different sizes and kinds."""
    for part, num in (("train", 6), ("val", 2)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(num):
                suffix = (".png", ".jpg", ".bmp")[i % 3]
                _write_image(tmp_path / part / name / f"{i}{suffix}", 100 + 7 * i, 120 - 9 * i, seed=10 * c + i)
    return tmp_path


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    """Writes train.npz and test.npz; keyword arguments replace arrays of the training file, None removes them."""

    def write(**changes: np.ndarray | None) -> Path:
        for name, num in (("train", 12), ("test", 6)):
            arrays: dict[str, np.ndarray | None] = {
                "images": _noise(num, 16, 16, 3),
                "labels": np.arange(num) % 3,
            }
            arrays |= changes if name == "train" else {}
            np.savez(tmp_path / f"{name}.npz", **{key: array for key, array in arrays.items() if array is not None})
        return tmp_path

    return write
