"""A data set of a few small images on disk, and experiments on it that take a second."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attention_transfer import AttentionTransfer, Data, Experiment, Optimisation, SoftTargets, Training

Make = Callable[..., Experiment]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """48 + 24 images of three classes that differ in colour, so that a network learns them quickly."""
    folder = tmp_path / "images"
    folder.mkdir()
    for split, count in (("train", 48), ("test", 24)):
        draws = np.random.default_rng(count)
        labels = np.arange(count) % 3
        pixels = draws.integers(0, 120, (count, 16, 16, 3))
        pixels[np.arange(count), :, :, labels] += 100
        np.savez(folder / f"{split}.npz", images=pixels.astype(np.uint8), labels=labels.astype(np.int64))
    return folder


@pytest.fixture
def make(images: Path) -> Make:
    """Experiments on those images: two epochs of ResNet-8, taught by an untrained ResNet-14 unless told otherwise."""

    def experiment(**fields: object) -> Experiment:
        training = {"epochs": 2, "batch_size": 16, "threads": 1, "device": "cpu"} | fields.pop("training", {})
        optimisation = {"learning_rate": 0.05, "schedule": "cosine"} | fields.pop("optimisation", {})
        settings = {
            "recipe": "test",
            "student": "resnet8",
            "teacher": "resnet14",
            "methods": (AttentionTransfer(), SoftTargets()),
            "untrained_teacher": True,
            "data": Data(f"npz:{images}", augment="crop-flip"),
            "training": Training(**training),
            "optimisation": Optimisation(**optimisation),
        }
        return Experiment(**(settings | fields))

    return experiment
