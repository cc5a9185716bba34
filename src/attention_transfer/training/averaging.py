"""Exponential moving average (EMA) of a network's weights."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The exponential moving average of a network's parameters and buffers: a ← d·a + (1 − d)·w after each step.

    It begins with the network as it is; whole numbers, such as counts of batches, are copied.

    Args:
        network: that is trained.
        decay: d, 0 < d < 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._network = network
        # The tensors alone: a copy of the network would bring the hooks along with which it is read.
        self._average = {name: value.detach().clone() for name, value in _tensors(network).items()}
        self._move = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as a step has left it."""
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for name, value in _tensors(self._network).items():
            if value.is_floating_point():
                averages.append(self._average[name])
                values.append(value)
            else:
                self._average[name].copy_(value)
        if averages:
            # One call for all of them; the last argument, how many were averaged, is for means of equal weight.
            self._move(averages, values, 0)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Inside, the network has the averaged weights; afterwards its own again, to the last bit."""
        own = {name: value.clone() for name, value in _tensors(self._network).items()}
        _copy(self.state(), _tensors(self._network))
        try:
            yield
        finally:
            _copy(own, _tensors(self._network))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the averages by the names of the network."""
        return dict(self._average)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        _copy(state, self.state())


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network, without what a module keeps there that is no tensor (`get_extra_state`)."""
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    for name, place in places.items():
        place.copy_(values[name])
