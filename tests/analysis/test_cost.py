"""Counts against formulas, memory against sums by hand, and times and scores that are measured."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.analysis.conftest import CPU, save_network
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import Data, Input, build
from attention_transfer.analysis import cost, step_cost
from attention_transfer.analysis.cost import (
    Candidate,
    count_flops,
    file_bytes,
    inference_memory,
    measure_costs,
    training_memory,
)
from attention_transfer.analysis.measure import SplitName, measure
from attention_transfer.analysis.peak_memory import LiveTensors, peak_bytes
from attention_transfer.analysis.subject import Subject
from attention_transfer.data import DataSet
from attention_transfer.models import OpenedModel, describe
from attention_transfer.training.device import Arithmetic
from attention_transfer.training.prepare import load_data

FLOAT = 4  # bytes
PLACE = Arithmetic(torch.device("cpu"))


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


# ---------------------------------------------------------------- one model on one split


@pytest.mark.parametrize("split", ["test", "validation", "train", "unseen"])
def test_a_score_is_that_of_the_images_of_the_split(subject: Subject, images: Path, split: SplitName) -> None:
    data = Data(f"npz:{images}", validation_fraction=0.3, train_classes=2)
    found, notes = measure(subject.name, data, split, CPU, seed=4)
    dataset = load_data(data, seed=4)
    batches = list(replace(subject, dataset=dataset).batches(dataset.splits[split], 64))
    with torch.no_grad():
        logits = torch.cat([subject.module(image) for image, _ in batches])
    labels = torch.cat([label for _, label in batches])
    assert found.count == len(labels) == len(dataset.splits[split])
    assert found.top1 == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))
    assert found.loss == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-4)
    assert notes == ()


def test_unseen_are_the_images_of_the_classes_that_are_left_out(subject: Subject, images: Path) -> None:
    found, _ = measure(subject.name, Data(f"npz:{images}", train_classes=2), "unseen", CPU)
    assert found.count == 8


@pytest.mark.parametrize(
    ("split", "fields", "words"),
    [
        ("validation", {}, "nothing was set aside for validation: give --validation-fraction"),
        ("unseen", {}, "no classes that training leaves out: give --train-classes, fewer"),
        ("unseen", {"train_classes": 3}, "no classes that training leaves out"),
    ],
)
def test_a_split_that_is_not_there_is_refused(
    subject: Subject, images: Path, split: SplitName, fields: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        measure(subject.name, Data(f"npz:{images}", **fields), split, CPU)


def test_models_that_do_not_fit_are_refused(dataset: DataSet, images: Path, tmp_path: Path) -> None:
    data = Data(f"npz:{images}")
    with pytest.raises(ValueError, match="names a network without weights"):
        measure("resnet8", data, "test", CPU)
    more = save_network(tmp_path / "more", classes=4, input=Input())
    with pytest.raises(ValueError, match=f"4 classes, {dataset.name} has 3"):
        measure(more, data, "test", CPU)


def test_a_normalisation_is_taken_only_where_the_weights_have_none(
    subject: Subject, images: Path, tmp_path: Path
) -> None:
    data, grey, one = Data(f"npz:{images}"), (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
    silent = save_network(tmp_path / "silent")
    told, notes = measure(silent, data, "test", CPU, mean=grey, std=one)
    assert told == measure(subject.name, data, "test", CPU)[0]
    assert notes == ()
    assumed, notes = measure(silent, data, "test", CPU)
    assert assumed.loss != told.loss
    assert f"the normalisation of {silent} is unknown" in notes[0]
    with pytest.raises(ValueError, match="leave out --mean and --std"):
        measure(subject.name, data, "test", CPU, mean=grey, std=one)
    with pytest.raises(ValueError, match="give --mean and --std together"):
        measure(silent, data, "test", CPU, mean=grey)


# ---------------------------------------------------------------- bytes counted against bytes known

DEVICE = torch.device("cpu")
KILO = 1000  # bytes of 250 numbers


def test_tensors_count_for_as_long_as_anything_refers_to_them() -> None:
    held = torch.zeros(250)
    with LiveTensors([held]) as live:
        first = held + 1
        assert live.now == 2 * KILO
        view = first.view(25, 10)
        del first
        assert live.now == 2 * KILO  # the view keeps the storage
        second = view * 2
        assert live.now == 3 * KILO
        del view
        assert (live.now, live.peak) == (2 * KILO, 3 * KILO)
        live.restart()
        assert live.peak == 2 * KILO
        second.mul_(3)  # in place
        assert live.peak == 2 * KILO


def test_what_autograd_keeps_counts_until_the_backward_pass() -> None:
    weight = torch.ones(250, requires_grad=True)
    with LiveTensors([weight]) as live:
        loss = weight.exp().sum()  # the backward pass of exp needs its result
        assert live.now == 2 * KILO + 4
        loss.backward()
        assert live.now == 2 * KILO + 4  # the gradient is there, the result of exp is gone
        assert live.peak >= 3 * KILO
        del loss
        assert live.now == 2 * KILO


def test_several_names_of_one_storage_count_once() -> None:
    held = torch.zeros(250)
    with LiveTensors([held, held.view(5, 50), held[:10]]) as live:
        assert live.now == KILO


def test_the_peak_of_the_preparation_is_forgotten_and_what_it_leaves_counts() -> None:
    held = torch.zeros(250)
    left: list[torch.Tensor] = []

    def prepare() -> None:
        torch.zeros(250_000)
        left.append(held + 1)

    peak = peak_bytes([held], DEVICE, prepare, lambda: (held + 1) + 1)
    assert peak == 4 * KILO  # held, left, and two at once


def test_other_tensors_do_not_count() -> None:
    other = torch.zeros(10_000)
    assert peak_bytes([], DEVICE, lambda: None, lambda: other[:250] + 1) == KILO + 40_000  # read through a view
    assert peak_bytes([other], DEVICE, lambda: None, lambda: other[:250] + 1) == KILO + 40_000
    del other
    assert peak_bytes([], DEVICE, lambda: None, lambda: torch.zeros(250)) == KILO


# ---------------------------------------------------------------- measuring pieces of work in turns


def test_works_take_turns_and_the_first_rounds_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, done = [0.0], list[str]()

    def work(name: str, seconds: float) -> None:
        done.append(name)
        # The first rounds are slow.
        now[0] += seconds * (10 if len(done) <= 4 else 1)

    monkeypatch.setattr(step_cost, "_CLOCKS", {"wall": lambda: now[0], "cpu": lambda: -1.0})
    works = {"a": lambda: work("a", 1.0), "b": lambda: work("b", 2.0)}
    assert step_cost.seconds_in_turns(works, 3, DEVICE) == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert done == ["a", "b"] * 5
    assert step_cost.seconds_in_turns(works, 1, DEVICE, warm_ups=0, clock="cpu") == {"a": [0.0], "b": [0.0]}
    assert len(done) == 12


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        step_cost.seconds_in_turns({}, 0, DEVICE)
