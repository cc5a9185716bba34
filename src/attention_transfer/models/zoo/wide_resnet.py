"""The wide residual networks for CIFAR: blocks that normalise and activate before each convolution.

>>> import torch
>>> from attention_transfer import build
>>> build("wrn_16_1", 10)(torch.rand(2, 3, 32, 32)).shape
torch.Size([2, 10])
"""

from collections import OrderedDict

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.models.introspection.description import Stage
from attention_transfer.models.zoo.initialisation import draw_convolutions


class WideBlock(nn.Module):
    """Norm, ReLU and 3×3 convolution, twice, added to a shortcut; the sum is handed on as it is.

    Where the width changes, the shortcut is a 1×1 convolution of the normalised and activated input, without a norm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        # Called so in the published checkpoints.
        self.convShortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.convShortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        """Features of the block."""
        activated = self.relu1(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return shortcut + self.conv2(self.relu2(self.bn2(self.conv1(activated))))


class WideResNet(nn.Module):
    """A wide ResNet WRN-d-k (Zagoruyko & Komodakis, BMVC 2016, arXiv:1605.07146, table 1), without dropout.

    Its three stages end with the raw sum of a block, before any norm or ReLU. Their pre-activations are what the next
    ReLU takes: the sum after the batch norm of the next block (of the network's end, for the last stage). They are read
    where that norm runs anyway, so that none of them sees a batch twice.

    Names of parameters are those of the checkpoints that RepDistiller publishes.

    Args:
        depth: number of weighted layers, 6n + 4.
        widen: width k: the groups have 16k, 32k and 64k channels.
        num_classes: size of the last layer.
    """

    def __init__(self, depth: int, widen: int, num_classes: int) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise InputError(f"a wide ResNet has 6n + 4 layers (10, 16, 22, …), not {depth}")
        if widen < 1:
            raise InputError(f"a wide ResNet is at least 1 time as wide as the narrow one, not {widen}")
        blocks = (depth - 4) // 6
        widths = (16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = _group(16, widths[0], blocks, stride=1)
        self.block2 = _group(widths[0], widths[1], blocks, stride=2)
        self.block3 = _group(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        self.declared_stages = (
            Stage(Tap("block1"), Tap("block2.layer.0.relu1", "input")),
            Stage(Tap("block2"), Tap("block3.layer.0.relu1", "input")),
            Stage(Tap("block3"), Tap("relu", "input")),
        )
        draw_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of a batch."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))


def _group(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = WideBlock(in_channels, out_channels, stride)
    layer = nn.Sequential(first, *(WideBlock(out_channels, out_channels, 1) for _ in range(1, blocks)))
    return nn.Sequential(OrderedDict(layer=layer))
