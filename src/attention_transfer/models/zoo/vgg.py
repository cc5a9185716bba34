"""The VGG networks for small images: five blocks of 3×3 convolutions with batch norm, and one linear layer.

>>> import torch
>>> from attention_transfer import build
>>> build("vgg8", 10)(torch.rand(2, 3, 32, 32)).shape
torch.Size([2, 10])
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.models.introspection.description import Stage
from attention_transfer.models.zoo.initialisation import draw_convolutions, draw_small_linear

_WIDTHS = (64, 128, 256, 512, 512)
# From here on the fourth block is followed by a pooling too.
_LARGE_IMAGE = 64


class VGG(nn.Module):
    """A VGG with batch norm (Simonyan & Zisserman, ICLR 2015, arXiv:1409.1556) as it is used on CIFAR.

    The average of the last features and one linear layer take the place of the three large ones.

    A 2×2 max-pooling follows the first three blocks, and the fourth where images have 64 pixels or more a side. The
    first block is the stem; the other four are the stages, read after their last ReLU and before the pooling.

    Names of parameters are those of the checkpoints that RepDistiller publishes.

    Args:
        convolutions: how many each of the five blocks has.
        num_classes: size of the last layer.
    """

    def __init__(self, convolutions: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if len(convolutions) != len(_WIDTHS) or min(convolutions) < 1:
            raise InputError(f"a VGG has five blocks of at least one convolution, not {tuple(convolutions)}")
        blocks = [
            _block(before, width, count)
            for before, width, count in zip((3, *_WIDTHS[:-1]), _WIDTHS, convolutions, strict=True)
        ]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        self.pool0, self.pool1, self.pool2, self.pool3 = (nn.MaxPool2d(2) for _ in range(4))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(_WIDTHS[-1], num_classes)
        self.declared_stages = tuple(
            Stage(Tap(f"block{i}"), Tap(f"block{i}.{len(block) - 1}", "input"))
            for i, block in enumerate(blocks)
            if i > 0
        )
        draw_convolutions(self)
        draw_small_linear(self.classifier)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of a batch."""
        large = x.shape[-2] >= _LARGE_IMAGE
        x = self.pool0(self.block0(x))
        x = self.pool1(self.block1(x))
        x = self.pool2(self.block2(x))
        x = self.block3(x)
        x = self.block4(self.pool3(x) if large else x)
        return self.classifier(self.avgpool(x).flatten(1))


def _block(in_channels: int, width: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(convolutions):
        convolution = nn.Conv2d(width if i else in_channels, width, 3, padding=1)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
