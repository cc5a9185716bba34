"""How the CIFAR networks draw their first weights; shared by the families whose published code agrees on it."""

import torch
from torch import nn


def draw_convolutions(network: nn.Module) -> None:
    """Draw every convolution's weights from N(0, √(2 / (k²·o))), with k its kernel's side and o its output channels.

    Biases become zero.

    He et al. (ICCV 2015, arXiv:1502.01852, section 2.2, backward form): the gradient keeps its scale through a ReLU.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def draw_small_linear(layer: nn.Linear) -> None:
    """Draw a last layer's weights from N(0, 0.01) and set its bias to zero."""
    layer.weight.normal_(0, 0.01)
    layer.bias.zero_()
