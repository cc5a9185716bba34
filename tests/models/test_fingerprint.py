"""Networks are told apart by their weights and buffers, whatever else they keep."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from attention_transfer.models.fingerprint import fingerprint


class Recording(nn.Module):
    """Keeps something beside its weights, as layers of quantised networks do."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.layer, self.kept = nn.Linear(2, 2), kept

    def get_extra_state(self) -> Any:
        return self.kept

    def set_extra_state(self, state: Any) -> None:
        self.kept = state


@pytest.mark.parametrize("kept", [{"scale": 1.0}, [object()], None, b"bytes"])
def test_what_is_no_weight_does_not_count(kept: Any) -> None:
    network = Recording(kept)
    other = Recording({"scale": 2.0})
    other.layer.load_state_dict(network.layer.state_dict())
    assert fingerprint(network) == fingerprint(other)
    with torch.no_grad():
        other.layer.weight[0, 0] += 1e-3
    assert fingerprint(network) != fingerprint(other)


def test_every_buffer_and_kept_tensor_counts() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), Recording(torch.zeros(2)))
    found = [fingerprint(network)]
    for name, change in (("0.num_batches_tracked", 1), ("0.running_var", 1), ("1._extra_state", 1)):
        other = copy.deepcopy(network)
        other.load_state_dict({n: v + change if n == name else v for n, v in network.state_dict().items()})
        found.append(fingerprint(other))
    assert len(set(found)) == len(found)
