"""What every network of this library promises; a new line in MODELS joins by itself."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from attention_transfer.capture import spatial
from attention_transfer.models import MODELS, build, describe

PARAMETERS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
}
"""Trainable, with 100 classes."""

NARROW = [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
WIDE = [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
STAGES = {name: WIDE if name.endswith("x4") else NARROW for name in PARAMETERS}
"""Channels, height and width of each stage on 32×32 images."""


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name, 100).eval()


def test_it_has_the_published_number_of_parameters(name: str, model: nn.Module) -> None:
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == PARAMETERS[name]


def test_its_stages_have_the_published_shapes(name: str) -> None:
    with torch.device("meta"):
        model = build(name, 100)
    shapes: list[tuple[int, ...]] = []
    stages = describe(model).stages
    for stage in stages:
        tap = stage.output
        model.get_submodule(tap.module).register_forward_hook(
            lambda _, __, output, tap=tap: shapes.append(tuple(spatial(output, tap).shape[1:]))
        )
    logits = model(torch.empty(2, 3, 32, 32, device="meta"))
    assert shapes == STAGES[name]
    assert tuple(logits.shape) == (2, 100)


def test_evaluating_it_changes_no_buffer(model: nn.Module) -> None:
    before = deepcopy(model.state_dict())
    with torch.no_grad():
        first, second = model(torch.ones(1, 3, 32, 32)), model(torch.ones(1, 3, 32, 32))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_training_it_moves_each_running_mean_once(model: nn.Module) -> None:
    model.train()(torch.randn(2, 3, 32, 32))
    counts = {key: int(value) for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts
    assert set(counts.values()) == {1}


def test_its_description_can_be_resolved(model: nn.Module) -> None:
    description = describe(model)
    for stage in description.stages:
        model.get_submodule(stage.output.module)
        assert stage.pre_activation is not None
        model.get_submodule(stage.pre_activation.module)
    head = model.get_submodule(description.head or "")
    assert isinstance(head, nn.Linear)
    assert head.out_features == 100
    assert description.input is None
    assert description.convolutional


def test_the_activation_of_its_pre_activations_gives_its_stages(model: nn.Module) -> None:
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    activations: list[nn.Module] = []
    for stage in describe(model).stages:
        assert stage.pre_activation is not None
        assert stage.pre_activation.site == "input"
        module = model.get_submodule(stage.pre_activation.module)
        activations.append(type(module)())
        module.register_forward_pre_hook(lambda _, given: before.append(given[0].clone()))
        model.get_submodule(stage.output.module).register_forward_hook(lambda _, __, out: after.append(out.clone()))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert len(before) == len(after) > 0
    for activation, value, output in zip(activations, before, after, strict=True):
        assert value.min() < 0
        torch.testing.assert_close(activation(value), output, rtol=0, atol=0)


def test_the_same_seed_gives_the_same_weights(name: str, model: nn.Module) -> None:
    torch.manual_seed(0)
    again = build(name, 100).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
