"""ShuffleNet (the first) for CIFAR: grouped 1×1 convolutions with a channel shuffle between them.

>>> import torch
>>> from attention_transfer import build
>>> build("shufflenetv1", 10)(torch.rand(2, 3, 32, 32)).shape
torch.Size([2, 10])
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.errors import InputError

_STEM = 24


class ShuffleUnit(nn.Module):
    """Grouped 1×1 convolution, shuffle, 3×3 within each channel, grouped 1×1 convolution, beside a shortcut.

    A stride of 1 adds the input; a stride of 2 joins the input, averaged over 3×3, as further channels.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, those of a joined input among them.
        stride: 1 or 2.
        groups: of the 1×1 convolutions; the first one after the stem has a single group.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.joins = stride == 2
        made = out_channels - in_channels if self.joins else out_channels
        middle = made // 4
        groups_in = 1 if in_channels == _STEM else groups
        self.conv1 = nn.Conv2d(in_channels, middle, 1, groups=groups_in, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.relu1 = nn.ReLU(inplace=True)
        self.shuffle = nn.ChannelShuffle(groups_in)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(middle, made, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.shortcut = nn.AvgPool2d(3, 2, padding=1) if self.joins else nn.Identity()
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Features of the block."""
        out = self.shuffle(self.relu1(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        kept = self.shortcut(x)
        return self.relu3(torch.cat((out, kept), dim=1) if self.joins else out + kept)


class ShuffleNetV1(nn.Module):
    """ShuffleNet (Zhang et al., CVPR 2018, arXiv:1707.01083, table 1) as used on CIFAR-100.

    The stem is a 1×1 convolution of stride 1, without a pooling.

    Other than in the paper, the depth-wise convolution is followed by a ReLU, as in the published benchmarks. A stage
    ends after its last ReLU; its pre-activation is the sum before that.

    Names of parameters are those of RepDistiller's network.

    Args:
        widths: channels of the three groups.
        blocks: units in each of them; the first halves the resolution.
        groups: of the 1×1 convolutions.
        num_classes: size of the last layer.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], groups: int, num_classes: int) -> None:
        super().__init__()
        if not len(widths) == len(blocks) == 3 or min(blocks) < 1:
            raise InputError(
                f"ShuffleNet has three groups of at least one unit, not widths {tuple(widths)}, blocks {tuple(blocks)}"
            )
        self.conv1 = nn.Conv2d(3, _STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        first, second, third = widths
        self.layer1 = _group(_STEM, first, blocks[0], groups)
        self.layer2 = _group(first, second, blocks[1], groups)
        self.layer3 = _group(second, third, blocks[2], groups)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, num_classes)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of a batch."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.avgpool(x).flatten(1))


def _group(in_channels: int, out_channels: int, blocks: int, groups: int) -> nn.Sequential:
    first = ShuffleUnit(in_channels, out_channels, 2, groups)
    return nn.Sequential(first, *(ShuffleUnit(out_channels, out_channels, 1, groups) for _ in range(1, blocks)))
