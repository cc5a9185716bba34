"""A moving average of the weights of a network, kept beside it."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of a network's parameters and buffers: a ← d·a + (1 − d)·w after each step.

    It begins with the network as it is; whole numbers, such as counts of batches, are copied. timm's `ModelEmaV3`
    without warm-up does the arithmetic.

    Args:
        network: that is trained.
        decay: d, 0 < d < 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._network = network
        # The tensors alone: a copy of the network would bring the hooks along with which it is read.
        self._average = ModelEmaV3(_Tensors(network), decay=decay)

    def update(self) -> None:
        """Take in the network as a step has left it."""
        self._average.update(self._network)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Inside, the network has the averaged weights; afterwards its own again, to the last bit."""
        own = {name: value.clone() for name, value in self._network.state_dict().items()}
        _copy(self.state(), self._network.state_dict())
        try:
            yield
        finally:
            _copy(own, self._network.state_dict())

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the averages by the names of the network."""
        return dict(zip(self._network.state_dict(), self._average.module.state_dict().values(), strict=True))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        _copy(state, self.state())


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    for name, place in places.items():
        place.copy_(values[name])


class _Tensors(nn.Module):
    """Copies of all that a network's state dict holds, in its order and by number: names may hold dots."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        values: list[Any] = list(network.state_dict().values())
        for number, value in enumerate(values):
            self.register_parameter(str(number), nn.Parameter(value.detach().clone(), requires_grad=False))
