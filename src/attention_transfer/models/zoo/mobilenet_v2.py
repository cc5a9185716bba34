"""MobileNetV2 for CIFAR: inverted residual blocks with linear ends.

>>> import torch
>>> from attention_transfer import build
>>> build("mobilenetv2_half", 10)(torch.rand(2, 3, 32, 32)).shape
torch.Size([2, 10])
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.models.introspection.description import Stage
from attention_transfer.models.zoo.initialisation import draw_convolutions, draw_small_linear


class _Group(NamedTuple):
    """Inverted residual blocks of one width; the stride is that of the first."""

    channels: int
    blocks: int
    stride: int


_GROUPS = (
    _Group(16, 1, 1),
    _Group(24, 2, 1),
    _Group(32, 3, 2),
    _Group(64, 4, 2),
    _Group(96, 3, 1),
    _Group(160, 3, 2),
    _Group(320, 1, 1),
)
# The last of each resolution.
_STAGES = (1, 2, 4, 6)
_STEM = 32
_POOLED = 1280


class InvertedResidual(nn.Module):
    """1×1 up, 3×3 within each channel, 1×1 down without an activation; added to the input where the shape allows."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = in_channels * expansion
        self.adds_input = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Features of the block."""
        return x + self.conv(x) if self.adds_input else self.conv(x)


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381, table 2) with the strides used on 32×32 images.

    As in the published benchmarks on CIFAR-100, and other than in the paper: ReLU, not ReLU6; no dropout; the first
    block has a 1×1 convolution before its 3×3 one like the others, of the same width; and the second group keeps the
    resolution. The last group of each resolution ends a stage. It ends linearly, with a batch norm or a sum, and a
    convolution follows, so that its pre-activation is the stage itself.

    Names of parameters are those of RepDistiller's network.

    Args:
        width: multiplies all channels but those before the last layer, which stay at least 1280.
        num_classes: size of the last layer.
        expansion: channels inside a block, in multiples of its input's.
    """

    def __init__(self, width: float, num_classes: int, expansion: int = 6) -> None:
        super().__init__()
        if int(_GROUPS[0].channels * width) < 1 or expansion < 1:
            raise InputError(f"MobileNetV2 has channels in every block, not with width {width}, expansion {expansion}")
        channels = int(_STEM * width)
        self.conv1 = _activated(3, channels, kernel=3, stride=2)
        self.blocks = nn.ModuleList()
        for i, group in enumerate(_GROUPS):
            made = nn.Sequential()
            for j in range(group.blocks):
                wanted = int(group.channels * width)
                stride = 1 if j else group.stride
                made.append(InvertedResidual(channels, wanted, stride, expansion if i else 1))
                channels = wanted
            self.blocks.append(made)
        pooled = max(_POOLED, int(_POOLED * width))
        self.conv2 = _activated(channels, pooled, kernel=1, stride=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        last = nn.Linear(pooled, num_classes)
        self.classifier = nn.Sequential(last)
        self.declared_stages = tuple(Stage(Tap(f"blocks.{i}"), Tap(f"blocks.{i}")) for i in _STAGES)
        draw_convolutions(self)
        draw_small_linear(last)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of a batch."""
        x = self.conv1(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.avgpool(self.conv2(x)).flatten(1))


def _activated(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
