"""The CIFAR residual networks: three groups of basic blocks on 32×32 images.

>>> import torch
>>> from attention_transfer import build
>>> build("resnet8", 10)(torch.rand(2, 3, 32, 32)).shape
torch.Size([2, 10])
"""

from collections import OrderedDict
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.errors import InputError
from attention_transfer.models.zoo.initialisation import draw_convolutions


class BasicBlock(nn.Module):
    """Two 3×3 convolutions added to a shortcut; the last ReLU is a module so that its input can be tapped."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Features of the block."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.downsample(x))


class ResNet(nn.Module):
    """A CIFAR ResNet of depth 6n + 2 (He et al., CVPR 2016, arXiv:1512.03385, section 4.2).

    Projection shortcuts (option B) where the width or the resolution changes.

    Args:
        depth: number of weighted layers, 6n + 2.
        widths: channels of the stem and of the three groups.
        num_classes: size of the last layer.
    """

    def __init__(self, depth: int, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise InputError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, …), not {depth}")
        blocks = (depth - 2) // 6
        stem, *groups = widths
        self.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        channels = (stem, *groups)
        self.layer1 = _group(channels[0], channels[1], blocks, stride=1)
        self.layer2 = _group(channels[1], channels[2], blocks, stride=2)
        self.layer3 = _group(channels[2], channels[3], blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[3], num_classes)
        draw_convolutions(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of a batch."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def _group(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module]()
    for i in range(blocks):
        first = i == 0
        layers[str(i)] = BasicBlock(in_channels if first else out_channels, out_channels, stride if first else 1)
    return nn.Sequential(layers)
