"""The networks of this library by name: one line per variant.

>>> "resnet56" in MODELS
True
"""

from collections.abc import Callable

from torch import nn

from attention_transfer.models.zoo.deep_resnet import Basic, Bottleneck, DeepResNet
from attention_transfer.models.zoo.mobilenet_v2 import MobileNetV2
from attention_transfer.models.zoo.resnet import ResNet
from attention_transfer.models.zoo.shufflenet_v1 import ShuffleNetV1
from attention_transfer.models.zoo.shufflenet_v2 import ShuffleNetV2
from attention_transfer.models.zoo.vgg import VGG
from attention_transfer.models.zoo.wide_resnet import WideResNet

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
    "resnet18_cifar": lambda num_classes: DeepResNet(Basic, (2, 2, 2, 2), num_classes),
    "resnet50_cifar": lambda num_classes: DeepResNet(Bottleneck, (3, 4, 6, 3), num_classes),
    "wrn_16_1": lambda num_classes: WideResNet(16, 1, num_classes),
    "wrn_16_2": lambda num_classes: WideResNet(16, 2, num_classes),
    "wrn_40_1": lambda num_classes: WideResNet(40, 1, num_classes),
    "wrn_40_2": lambda num_classes: WideResNet(40, 2, num_classes),
    "vgg8": lambda num_classes: VGG((1, 1, 1, 1, 1), num_classes),
    "vgg11": lambda num_classes: VGG((1, 1, 2, 2, 2), num_classes),
    "vgg13": lambda num_classes: VGG((2, 2, 2, 2, 2), num_classes),
    "vgg16": lambda num_classes: VGG((2, 2, 3, 3, 3), num_classes),
    "vgg19": lambda num_classes: VGG((2, 2, 4, 4, 4), num_classes),
    "mobilenetv2_half": lambda num_classes: MobileNetV2(0.5, num_classes),
    "shufflenetv1": lambda num_classes: ShuffleNetV1((240, 480, 960), (4, 8, 4), 3, num_classes),
    "shufflenetv2": lambda num_classes: ShuffleNetV2((116, 232, 464, 1024), (3, 7, 3), num_classes),
}
"""Builders by name; each takes the number of classes and gives a randomly initialised network for 3-channel images."""
