"""ShuffleNetV2 for CIFAR: half of the channels pass each block untouched.

>>> import torch
>>> from attention_transfer import build
>>> build("shufflenetv2", 10)(torch.rand(2, 3, 32, 32)).shape
torch.Size([2, 10])
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.models.introspection.description import Stage

_STEM = 24


class KeepingBlock(nn.Module):
    """Two 1×1 convolutions around a 3×3 one within each channel, on the second half of the channels.

    The last ReLU acts on both halves together, after the shuffle. The first half is the output of such a ReLU already,
    so values and gradients are those of a ReLU on the second half alone, and the value before it can be read in the
    order of the block's channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the block."""
        kept, changed = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(changed)))))
        out = self.bn3(self.conv3(out))
        return self.relu2(self.shuffle(torch.cat((kept, out), dim=1)))


class DownBlock(nn.Module):
    """Two branches on all channels, each halving the resolution and giving half of the output's channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)
        self.shuffle = nn.ChannelShuffle(2)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Features of the block."""
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = self.bn4(self.conv4(self.relu1(self.bn3(self.conv3(x)))))
        right = self.bn5(self.conv5(right))
        return self.relu2(self.shuffle(torch.cat((left, right), dim=1)))


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 (Ma et al., ECCV 2018, arXiv:1807.11164, table 5) as used on CIFAR-100.

    The stem is a 1×1 convolution of stride 1, without a pooling.

    A stage ends after its last ReLU. Its pre-activation is the value before that: the untouched half of the channels
    and the batch norm's output of the other half, in the order that the shuffle gives them.

    Names of parameters are those of RepDistiller's network.

    Args:
        widths: channels of the three groups, and of the 1×1 convolution before the last layer.
        blocks: blocks in each group after the one that halves the resolution.
        num_classes: size of the last layer.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if len(widths) != 4 or len(blocks) != 3 or min(blocks) < 1:
            raise InputError(
                "ShuffleNetV2 has three groups of at least one block and a last width, not widths "
                f"{tuple(widths)}, blocks {tuple(blocks)}"
            )
        if any(width % 2 for width in widths):
            raise InputError(f"ShuffleNetV2 halves an even number of channels; its widths are {tuple(widths)}")
        first, second, third, last = widths
        self.conv1 = nn.Conv2d(3, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu1 = nn.ReLU(inplace=True)
        self.layer1 = _group(_STEM, first, blocks[0])
        self.layer2 = _group(first, second, blocks[1])
        self.layer3 = _group(second, third, blocks[2])
        self.conv2 = nn.Conv2d(third, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.relu2 = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(last, num_classes)
        self.declared_stages = tuple(
            Stage(Tap(f"layer{i}"), Tap(f"layer{i}.{count}.relu2", "input")) for i, count in enumerate(blocks, start=1)
        )

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of a batch."""
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        return self.linear(self.avgpool(x).flatten(1))


def _group(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(DownBlock(in_channels, out_channels), *(KeepingBlock(out_channels) for _ in range(blocks)))
