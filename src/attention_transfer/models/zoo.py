"""The networks of this library by name: one line per variant."""

from collections.abc import Callable

from torch import nn

from attention_transfer.models.resnet import ResNet

_NARROW = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)

MODELS: dict[str, Callable[[int], nn.Module]] = {
    "resnet8": lambda num_classes: ResNet(8, _NARROW, num_classes),
    "resnet14": lambda num_classes: ResNet(14, _NARROW, num_classes),
    "resnet20": lambda num_classes: ResNet(20, _NARROW, num_classes),
    "resnet32": lambda num_classes: ResNet(32, _NARROW, num_classes),
    "resnet44": lambda num_classes: ResNet(44, _NARROW, num_classes),
    "resnet56": lambda num_classes: ResNet(56, _NARROW, num_classes),
    "resnet110": lambda num_classes: ResNet(110, _NARROW, num_classes),
    "resnet8x4": lambda num_classes: ResNet(8, _WIDE, num_classes),
    "resnet32x4": lambda num_classes: ResNet(32, _WIDE, num_classes),
}
"""Builders by name; each takes the number of classes and gives a randomly initialised network for 3-channel images."""
