"""The residual networks of ImageNet with a stem for small images: four groups of 64 to 512 channels.

>>> import torch
>>> from attention_transfer import build
>>> build("resnet18_cifar", 10)(torch.rand(2, 3, 32, 32)).shape
torch.Size([2, 10])
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.errors import InputError
from attention_transfer.models.zoo.initialisation import draw_convolutions

_WIDTHS = (64, 128, 256, 512)
_STEM = 64


class Basic(nn.Module):
    """Two 3×3 convolutions added to a shortcut.

    The same as the narrow networks' block, under the names of the published checkpoints of these.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Features of the block."""
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1 down, 3×3 (with the stride) and 1×1 up to four times the width, added to a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Features of the block."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + self.shortcut(x))


class DeepResNet(nn.Module):
    """ResNet-18 to ResNet-152 (He et al., CVPR 2016, arXiv:1512.03385, table 1) for images of 32 or 64 pixels.

    A 3×3 convolution of stride 1 takes the place of the 7×7 one and of the max-pooling.

    Names of parameters are those of the checkpoints that RepDistiller and mdistiller publish.

    Args:
        block: kind of block.
        blocks: how many each of the four groups has.
        num_classes: size of the last layer.
    """

    def __init__(self, block: type[Basic] | type[Bottleneck], blocks: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if len(blocks) != len(_WIDTHS) or min(blocks) < 1:
            raise InputError(f"a ResNet of this kind has four groups of at least one block, not {tuple(blocks)}")
        channels = [_STEM, *(block.expansion * width for width in _WIDTHS)]
        self.conv1 = nn.Conv2d(3, _STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _group(block, channels[0], _WIDTHS[0], blocks[0], stride=1)
        self.layer2 = _group(block, channels[1], _WIDTHS[1], blocks[1], stride=2)
        self.layer3 = _group(block, channels[2], _WIDTHS[2], blocks[2], stride=2)
        self.layer4 = _group(block, channels[3], _WIDTHS[3], blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels[4], num_classes)
        draw_convolutions(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of a batch."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.avgpool(x).flatten(1))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _group(
    block: type[Basic] | type[Bottleneck], in_channels: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    inner = block.expansion * width
    return nn.Sequential(block(in_channels, width, stride), *(block(inner, width, 1) for _ in range(1, blocks)))
