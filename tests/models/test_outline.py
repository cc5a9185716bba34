"""Networks without memory, whatever their constructors compute."""

import threading

import pytest
import torch
from torch import Tensor, nn

from attention_transfer.models.meta_networks import outline


class Rates(nn.Module):
    """Computes with tensors that are no parameters, as constructors with drop path do."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = [float(rate) for rate in torch.linspace(0, 1, 3)]
        self.layer = nn.Linear(2, 3)
        self.tied = nn.Linear(2, 3)
        self.tied.weight = self.layer.weight
        self.register_buffer("places", torch.arange(3))


class Beside(nn.Module):
    """Makes a buffer where its parameters are, out of their values' shapes, on one device."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        scale: Tensor = torch.ones(3)
        self.register_buffer("scale", torch.cat([self.layer.bias.detach(), scale]))


class Measures(nn.Module):
    """Needs the values of its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.size = float(self.layer.weight.detach().norm())


@pytest.mark.parametrize("kind", [Rates, Beside, Measures])
def test_shapes_are_those_of_the_network_and_generators_stay(kind: type[nn.Module]) -> None:
    before = torch.get_rng_state()
    shapes = {name: value.shape for name, value in outline(kind).state_dict().items()}
    assert torch.equal(torch.get_rng_state(), before)
    assert shapes == {name: value.shape for name, value in kind().state_dict().items()}


def test_what_constructors_compute_is_right_and_parameters_have_no_memory() -> None:
    sketch = outline(Rates)
    assert sketch.rates == [0.0, 0.5, 1.0]
    assert all(parameter.is_meta for parameter in sketch.parameters())
    assert sketch.tied.weight is sketch.layer.weight
    assert sketch.get_buffer("places").tolist() == [0, 1, 2]
    assert outline(Measures).size > 0


def test_networks_that_are_made_afterwards_and_by_other_threads_have_memory() -> None:
    made: list[nn.Module] = []

    def make() -> nn.Module:
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 3)))
        thread.start()
        thread.join()
        return nn.Linear(2, 3)

    assert outline(make).weight.is_meta
    assert not made[0].get_parameter("weight").is_meta
    assert not nn.Linear(2, 3).weight.is_meta


def test_what_a_constructor_raises_comes_out() -> None:
    def fail() -> nn.Module:
        raise KeyError("no such layer")

    def refuse() -> nn.Module:
        raise ValueError("no such size")

    with pytest.raises(KeyError, match="no such layer"):
        outline(fail)
    with pytest.raises(ValueError, match="no such size"):
        outline(refuse)
