"""Counts against formulas, memory against sums by hand, and times that are taken in turns."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import build
from attention_transfer.analysis import cost
from attention_transfer.analysis.cost import (
    Candidate,
    count_flops,
    file_bytes,
    inference_memory,
    measure_costs,
    training_memory,
)
from attention_transfer.models import OpenedModel, describe
from attention_transfer.training.device import Place

FLOAT = 4  # bytes
PLACE = Place(torch.device("cpu"))


def opened(module: nn.Module, name: str = "resnet8", classes: int = 3) -> OpenedModel:
    return OpenedModel(module, name, classes, None, describe(module), trained=False)


def candidate(name: str, side: int = 16) -> Candidate:
    torch.manual_seed(0)
    return Candidate(name, opened(build(name, 3), name), side, PLACE)


class Attention(nn.Module):
    """Fused attention of `heads` heads over the rows of an image."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(x, x, x)


def test_convolutions_and_linear_layers_are_counted() -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    assert count_flops(conv, torch.zeros(5, 4, 8, 10)) == 2 * 5 * (4 * 5) * 6 * (4 // 2) * 3 * 3
    assert count_flops(nn.Linear(7, 9), torch.zeros(5, 7)) == 2 * 5 * 7 * 9


@pytest.mark.parametrize("fused", [True, False])
def test_attention_is_counted_on_cpu(fused: bool) -> None:
    batch, heads, tokens, size = 2, 3, 17, 8
    products = 2 * batch * heads * tokens * tokens * size * 2  # queries with keys, weights with values
    if fused:
        assert count_flops(Attention(), torch.zeros(batch, heads, tokens, size)) == products
        return
    # torch's own encoder layer, which in evaluation mode runs as one fused call that no counter knows.
    width = heads * size
    layer = nn.TransformerEncoderLayer(width, heads, dim_feedforward=50, batch_first=True).eval()
    linear = 2 * batch * tokens * (4 * width * width + 2 * width * 50)
    assert count_flops(layer, torch.zeros(batch, tokens, width)) == products + linear
    assert torch.backends.mha.get_fastpath_enabled()


def test_resnet20_multiplies_as_often_as_its_layers_say() -> None:
    pixels = [32 * 32, 16 * 16, 8 * 8]
    products = 3 * 16 * 9 * pixels[0] + 6 * 16 * 16 * 9 * pixels[0]
    products += (16 * 32 + 5 * 32 * 32) * 9 * pixels[1] + 16 * 32 * pixels[1]
    products += (32 * 64 + 5 * 64 * 64) * 9 * pixels[2] + 32 * 64 * pixels[2]
    products += 64 * 100
    assert count_flops(build("resnet20", 100).eval(), torch.zeros(1, 3, 32, 32)) == 2 * products


def test_inference_holds_weights_images_and_two_values_at_a_time() -> None:
    network = nn.Sequential(nn.Linear(10, 20), nn.Sigmoid(), nn.Linear(20, 5)).eval()
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert inference_memory(network, torch.zeros(8, 10)) == FLOAT * (weights + 8 * 10 + 2 * 8 * 20)


def test_a_training_step_holds_weights_gradients_and_momentum() -> None:
    network = nn.Linear(1000, 1000)
    weights = FLOAT * 1000 * 1001
    assert training_memory(network, torch.zeros(2, 1000)) == pytest.approx(3 * weights, rel=0.02)


def test_a_training_step_holds_every_value_that_its_backward_pass_needs() -> None:
    layers = 12
    network = nn.Sequential(nn.Linear(4, 1000), *(nn.Sigmoid() for _ in range(layers)), nn.Linear(1000, 2))
    value = FLOAT * 500 * 1000
    image = torch.zeros(500, 4)
    assert inference_memory(network, image) == pytest.approx(2 * value, rel=0.05)
    # All results of the sigmoids; that of the first layer is needed by nobody.
    assert layers * value < training_memory(network, image) < (layers + 3) * value


def test_measuring_memory_leaves_a_network_as_it_was() -> None:
    network = build("resnet8", 3).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training_memory(network, torch.randn(4, 3, 16, 16))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network.training


def test_the_larger_network_is_larger_in_everything_that_does_not_depend_on_the_hour() -> None:
    small, large = measure_costs([candidate("resnet8"), candidate("resnet14")], batch_size=4, repeats=1)
    assert (small.name, small.image_size) == ("resnet8", 16)
    assert small.parameters == sum(p.numel() for p in build("resnet8", 3).parameters())
    assert small.flops == 2 * small.multiply_adds
    for number, value in small.row().items():
        if number in ("latency_seconds", "images_per_second"):
            assert value > 0
        elif number not in ("name", "image_size"):
            assert 0 < value < getattr(large, number), number


def test_times_are_medians_of_networks_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[tuple[str, int]], int]] = []
    both = [candidate("resnet8"), candidate("resnet14")]
    names = {id(each.opened.module): each.name for each in both}

    def in_turns(works: Mapping[str, Any], rounds: int, device: torch.device) -> dict[str, list[float]]:
        asked.append(([(names[id(work.func)], len(work.args[0])) for work in works.values()], rounds))
        return {name: [1.0, 2.0, 6.0] for name in works}

    monkeypatch.setattr(cost, "seconds_in_turns", in_turns)
    found = measure_costs(both, batch_size=4, repeats=3)
    assert asked == [([("resnet8", 1), ("resnet14", 1)], 3), ([("resnet8", 4), ("resnet14", 4)], 3)]
    assert [each.latency_seconds for each in found] == [2, 2]
    assert [each.images_per_second for each in found] == [4 / 2, 4 / 2]


def test_weights_take_what_their_file_takes() -> None:
    network = build("resnet8", 3)
    tensors = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    assert tensors < file_bytes(opened(network)) < tensors + 20_000


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: measure_costs([]), "give at least one model"),
        (lambda: measure_costs([candidate("resnet8")], batch_size=1), "batch_size must be at least 2"),
        (lambda: measure_costs([candidate("resnet8")], repeats=0), "repeats at least 1"),
        (
            lambda: measure_costs([Candidate("mine", opened(nn.Linear(5, 3)), 8, PLACE)]),
            "mine cannot run on images of 8×8: .*; give another --image-size",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
