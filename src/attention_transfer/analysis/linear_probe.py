"""Linear probing: a linear layer trained on a frozen network's features.

>>> features, labels = torch.eye(4).repeat(8, 1), torch.arange(4).repeat(8)
>>> layer = train_linear(features, labels, 4, ProbeSettings(epochs=5, batch_size=8, learning_rate=1.0), seed=0)
>>> measure_linear(layer, features, labels).top1
100.0
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.analysis.subject import Subject
from attention_transfer.capture import Capture, CaptureError, Reading, Tap, noise, undisturbed
from attention_transfer.data import Split
from attention_transfer.data.pipeline.order import permutation
from attention_transfer.errors import InputError
from attention_transfer.training.evaluate import Score
from attention_transfer.training.metrics import NonFiniteLossError, scores

_IMAGES_AT_A_TIME = 256
_ROWS_AT_A_TIME = 8192  # rows of features whose logits are computed at once


@dataclass(frozen=True)
class ProbeSettings:
    """Training of the linear layer: SGD on the cross-entropy with the labels.

    Epochs, batch size, learning rate and steps are those of Guo et al. (CVPR 2023, arXiv:2304.12777, appendix A.5),
    which says nothing about momentum and weight decay: these are the defaults of their training code.

    Args:
        epochs: passes over the features, at least 1.
        batch_size: features per step, at least 1.
        learning_rate: in the first epoch, above 0.
        step_epochs: after so many epochs each, the learning rate is multiplied by `step_factor`; ascending.
        step_factor: above 0.
        momentum: 0 ≤ m < 1.
        weight_decay: of weight and bias, at least 0; the gradient of half of it times their squared norm is added.
    """

    epochs: int = 40
    batch_size: int = 128
    learning_rate: float = 0.1
    step_epochs: tuple[int, ...] = (10, 20, 30)
    step_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        ascending = list(self.step_epochs) == sorted(set(self.step_epochs)) and all(e >= 1 for e in self.step_epochs)
        for holds, name, wanted in (
            (self.epochs >= 1, "epochs", "at least 1"),
            (self.batch_size >= 1, "batch_size", "at least 1"),
            (0 < self.learning_rate < math.inf, "learning_rate", "above 0"),
            (ascending, "step_epochs", "at least 1 each and ascending"),
            (0 < self.step_factor < math.inf, "step_factor", "above 0"),
            (0 <= self.momentum < 1, "momentum", "0 ≤ m < 1"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "at least 0"),
        ):
            if not holds:
                raise InputError(f"{name} of the probe must be {wanted}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Probe:
    """Accuracy of the linear probes of one network.

    Args:
        name: name of the network, as its user wrote it.
        features: module path and side that the features were read from.
        channels: number of channels of the features.
        seeds: seeds of the linear layers.
        test: scores on the test images, by seed, after the last epoch.
        train: scores on the training images, by seed, after the last epoch.
        feature_seconds: seconds for reading the features of all images.
        layer_seconds: seconds for training one linear layer, on average.
    """

    name: str
    features: str
    channels: int
    seeds: tuple[int, ...]
    test: tuple[Score, ...]
    train: tuple[Score, ...]
    feature_seconds: float
    layer_seconds: float


def probe(
    subject: Subject,
    settings: ProbeSettings,
    seeds: Sequence[int],
    *,
    module: str | None = None,
    num_workers: int = 0,
) -> Probe:
    """Train a linear layer on a network's frozen features of a data set's training images; measure it on its test ones.

    Table 9 of Guo et al. (CVPR 2023, arXiv:2304.12777). The features are read once and kept in memory.

    Args:
        subject: the network and the data set.
        settings: training of the linear layer.
        seeds: seeds of its initialisation and of the order of images, one layer each.
        module: module path whose output, averaged over positions, is probed; None probes the input of the head.
        num_workers: processes that decode photographs.

    Raises:
        ValueError: no seeds, a network without a linear head, or a module that does not exist.
        NonFiniteLossError: the learning rate was too high for these features.

    Departs from the paper's code: the network stays in evaluation mode, where that code lets batch statistics run over
    the new images and chooses what it trains by the order of parameters; images are normalised as the network was
    trained, where that code normalises them differently or not at all; training images are not shifted or mirrored, so
    that their features need be read but once.
    """
    if not seeds:
        raise InputError("give at least one seed")
    dataset = subject.dataset
    tap = features_tap(subject, module)
    started = time.perf_counter()
    train, test = (frozen_features(subject, split, tap, num_workers) for split in (dataset.train, dataset.test))
    read = time.perf_counter()
    device = subject.place.device
    train, test = train.to(device), test.to(device)
    train_labels, test_labels = (torch.from_numpy(s.labels).to(device) for s in (dataset.train, dataset.test))
    on_test: list[Score] = []
    on_train: list[Score] = []
    layer_seconds = 0.0
    for seed in seeds:
        begun = _now(device)
        layer = train_linear(train, train_labels, dataset.num_classes, settings, seed)
        layer_seconds += _now(device) - begun
        on_test.append(measure_linear(layer, test, test_labels))
        on_train.append(measure_linear(layer, train, train_labels))
    return Probe(
        name=subject.name,
        features=str(tap),
        channels=train.shape[1],
        seeds=tuple(seeds),
        test=tuple(on_test),
        train=tuple(on_train),
        feature_seconds=read - started,
        layer_seconds=layer_seconds / len(seeds),
    )


def features_tap(subject: Subject, module: str | None = None) -> Tap:
    """Module path and side of a network that its features are read from.

    Args:
        subject: the network.
        module: module path whose output is read; None takes the input of the network's linear head.

    Raises:
        ValueError: there is no linear head.
    """
    description = subject.opened.description
    if module is not None:
        return description.tap(module)
    if description.head is None:
        raise InputError(
            f"{subject.name} has no single linear layer between pooled features and logits: name the module whose "
            "output, averaged over positions, shall be probed (--features MODULE)"
        )
    return Tap(description.head, "input")


@torch.no_grad()
def frozen_features(subject: Subject, split: Split, tap: Tap, num_workers: int = 0) -> Float[Tensor, "n c"]:
    """Features of all images of a split, in its order, on the CPU; the network is left as it was.

    Args:
        subject: the network.
        split: split of its data set.
        tap: what is read; values with positions are averaged over them.
        num_workers: processes that decode photographs.

    Raises:
        CaptureError: the tap cannot be read.
    """
    network = subject.module
    capture = Capture(network, [tap], f"network {subject.name}")
    found: list[Tensor] = []
    try:
        with undisturbed(network):
            network.eval()
            for image, _ in subject.batches(split, _IMAGES_AT_A_TIME, num_workers):
                if not found:
                    capture.probe(noise(image[:1]), gradient=False)
                found.append(_pooled(capture.run(image, until_last_tap=True), tap, subject).float().cpu())
    finally:
        capture.close()
    return torch.cat(found)


def train_linear(
    features: Float[Tensor, "n c"],
    labels: Int64[Tensor, " n"],
    num_classes: int,
    settings: ProbeSettings,
    seed: int,
) -> nn.Linear:
    """Train a linear layer on features, without normalising them.

    Args:
        features: any scale; the layer has their type and device.
        labels: class indices.
        num_classes: number of its logits.
        settings: training of the layer.
        seed: seed of its initialisation (uniform within ± 1/√c) and of the order of images.

    Raises:
        NonFiniteLossError: the loss was not finite.
    """
    count, channels = features.shape
    # Made on meta and filled by a generator of its own: the global one is not touched, on no device.
    layer = nn.Linear(channels, num_classes, device="meta", dtype=features.dtype).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(channels**-0.5), channels**-0.5, generator=generator)
    layer = layer.to(features.device)
    optimizer = torch.optim.SGD(
        layer.parameters(), settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay
    )
    for epoch in range(settings.epochs):
        steps = sum(epoch >= step for step in settings.step_epochs)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * settings.step_factor**steps
        total = torch.zeros((), device=features.device)
        for index in permutation(count, seed=seed, epoch=epoch).to(features.device).split(settings.batch_size):
            loss = functional.cross_entropy(layer(features[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        if not torch.isfinite(total):
            raise NonFiniteLossError(
                f"the probe's loss is not finite in epoch {epoch + 1}: lower the learning rate (--learning-rate), "
                f"which is {settings.learning_rate:g}"
            )
    layer.requires_grad_(False)
    return layer


@torch.no_grad()
def measure_linear(layer: nn.Linear, features: Float[Tensor, "n c"], labels: Int64[Tensor, " n"]) -> Score:
    """Loss and accuracy of a linear layer on features."""
    totals = [0.0, 0.0, 0.0]
    for rows, truth in zip(features.split(_ROWS_AT_A_TIME), labels.split(_ROWS_AT_A_TIME), strict=True):
        totals = [total + float(value) for total, value in zip(totals, scores(layer(rows), truth), strict=True)]
    loss, top1, top5 = totals
    count = len(labels)
    return Score(loss / count, 100 * top1 / count, 100 * top5 / count, count)


def _now(device: torch.device) -> float:
    """Seconds on a clock, after the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def _pooled(reading: Reading, tap: Tap, subject: Subject) -> Float[Tensor, "b c"]:
    value = reading.values[tap]
    if value.ndim == 2:
        return value
    if tap.site == "input":
        raise CaptureError(
            f"the head of {subject.name} takes values of shape {tuple(value.shape)}, not (batch, channels): name the "
            "module whose output, averaged over positions, shall be probed (--features MODULE)"
        )
    return reading.spatial(tap).mean((2, 3))
