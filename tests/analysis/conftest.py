"""Trained networks on disk, and small images to read them with."""

from pathlib import Path

import pytest
import torch
from tests.training.conftest import images, make
from torch import nn

from attention_transfer import Data, Input, Training, build
from attention_transfer.analysis.subject import Subject, open_subjects
from attention_transfer.data import DataSet
from attention_transfer.models import OpenedModel, Renormalise, describe, save_model
from attention_transfer.training.device import choose_arithmetic
from attention_transfer.training.prepare import load_data

__all__ = ["images", "make"]

CPU = Training(device="cpu", threads=1)


def save_network(
    folder: Path, seed: int = 0, name: str = "resnet8", classes: int = 3, input: Input | None = None
) -> str:
    """A seeded network of ours, with running statistics of its own, as training would have left it."""
    torch.manual_seed(seed)
    network = build(name, classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    folder.mkdir(parents=True)
    save_model(network, folder, name, classes, input=input)
    return str(folder)


def as_subject(module: nn.Module, dataset: DataSet, classes: int = 3) -> Subject:
    """A network that no name says, given the data set's images as they are."""
    opened = OpenedModel(module.eval(), "mine", classes, None, describe(module), trained=True)
    return Subject("mine", opened, choose_arithmetic(CPU, True), dataset, Renormalise(None, None), ())


@pytest.fixture
def dataset(images: Path) -> DataSet:
    """48 training and 24 test images of three classes."""
    return load_data(Data(f"npz:{images}"), seed=0)


@pytest.fixture
def subject(dataset: DataSet, tmp_path: Path) -> Subject:
    """A ResNet-8 that was trained with another normalisation than these images have."""
    saved = save_network(tmp_path / "network", input=Input((0.3, 0.4, 0.5), (0.2, 0.3, 0.4)))
    return open_subjects([saved], dataset, CPU)[0]
