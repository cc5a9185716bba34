"""What every network of this library promises; a new line in MODELS joins by itself."""

from copy import deepcopy
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attention_transfer.capture import Tap, spatial
from attention_transfer.models import MODELS, Description, build, describe

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
    "resnet18_cifar": 11_220_132,
    "resnet50_cifar": 23_705_252,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "mobilenetv2_half": 812_836,
    "shufflenetv1": 949_258,
    "shufflenetv2": 1_355_528,
}
"""Trainable, with 100 classes."""

MULTIPLICATIONS = {
    "resnet20": 40.8,
    "resnet32": 69.1,
    "resnet44": 97.4,
    "resnet56": 125.8,
    "resnet110": 253.2,
    "resnet8x4": 177.1,
    "resnet32x4": 1083.0,
    "resnet18_cifar": 555.5,
    "resnet50_cifar": 1298.0,
    "wrn_16_2": 101.1,
    "wrn_40_1": 83.3,
    "wrn_40_2": 327.6,
    "vgg8": 96.2,
    "vgg13": 284.9,
    "mobilenetv2_half": 6.5,
    "shufflenetv1": 38.7,
    "shufflenetv2": 44.5,
}
"""Millions of multiply-adds on one 32×32 image, of convolutions and linear layers, where they are published."""

NARROW = [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
TWICE = [(32, 32, 32), (64, 16, 16), (128, 8, 8)]
WIDE = [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
VGG = [(128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4)]
STAGES = {
    **{f"resnet{depth}": NARROW for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{"resnet8x4": WIDE, "resnet32x4": WIDE},
    "resnet18_cifar": [*WIDE, (512, 4, 4)],
    "resnet50_cifar": [(256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)],
    **{"wrn_16_1": NARROW, "wrn_40_1": NARROW, "wrn_16_2": TWICE, "wrn_40_2": TWICE},
    **{f"vgg{depth}": VGG for depth in (8, 11, 13, 16, 19)},
    "mobilenetv2_half": [(12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2)],
    "shufflenetv1": [(240, 16, 16), (480, 8, 8), (960, 4, 4)],
    "shufflenetv2": [(116, 16, 16), (232, 8, 8), (464, 4, 4)],
}
"""Channels, height and width of each stage on 32×32 images."""

POOLED = {"mobilenetv2_half": 1280, "shufflenetv2": 1024}
"""Channels that the last layer takes, where they are not those of the last stage."""


# Of the module's scope, so that the tests of one network run together and it is drawn once.
@pytest.fixture(params=MODELS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@lru_cache(maxsize=1)
def new(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build(name, 100).eval()


@pytest.fixture
def model(name: str) -> nn.Module:
    return deepcopy(new(name))


@pytest.fixture
def outline(name: str) -> nn.Module:
    """The network without its memory."""
    with torch.device("meta"):
        return build(name, 100).eval()


def run_and_read(model: nn.Module, taps: list[Tap], image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the values at taps, by plain hooks, so that nothing here depends on the library's own capture."""
    values: dict[int, Tensor] = {}
    for i, tap in enumerate(taps):
        module = model.get_submodule(tap.module)
        if tap.site == "input":
            module.register_forward_pre_hook(lambda _, given, i=i: values.update({i: given[0].clone()}))
        else:
            module.register_forward_hook(lambda _, __, out, i=i: values.update({i: out.clone()}))
    with torch.no_grad():
        logits = model(image)
    return logits, [values[i] for i in range(len(taps))]


def before_activations(description: Description) -> list[Tap]:
    taps = [stage.pre_activation for stage in description.stages if stage.pre_activation is not None]
    assert len(taps) == len(description.stages)
    return taps


def test_it_has_the_published_number_of_parameters(name: str, outline: nn.Module) -> None:
    assert sum(p.numel() for p in outline.parameters() if p.requires_grad) == PARAMETERS[name]


def test_its_stages_have_the_published_shapes(name: str, outline: nn.Module) -> None:
    description = describe(outline)
    taps = [stage.output for stage in description.stages]
    logits, values = run_and_read(
        outline, taps + before_activations(description), torch.empty(2, 3, 32, 32, device="meta")
    )
    shapes = [tuple(spatial(value, tap).shape[1:]) for value, tap in zip(values, taps * 2, strict=True)]
    assert shapes == STAGES[name] * 2
    assert tuple(logits.shape) == (2, 100)
    head = outline.get_submodule(description.head or "")
    assert isinstance(head, nn.Linear)
    assert head.in_features == POOLED.get(name, STAGES[name][-1][0])


@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_it_has_the_published_number_of_multiplications(name: str, outline: nn.Module) -> None:
    with FlopCounterMode(display=False) as counter:
        outline(torch.empty(1, 3, 32, 32, device="meta"))
    assert counter.get_total_flops() / 2e6 == pytest.approx(MULTIPLICATIONS[name], abs=0.05001)


def test_it_takes_images_of_64_pixels(name: str, outline: nn.Module) -> None:
    taps = [stage.output for stage in describe(outline).stages]
    logits, values = run_and_read(outline, taps, torch.empty(2, 3, 64, 64, device="meta"))
    assert tuple(logits.shape) == (2, 100)
    # A fourth pooling keeps the last features of the VGG networks at 4×4.
    growth = [2] * 3 + [1 if name.startswith("vgg") else 2]
    shapes = [tuple(value.shape[1:]) for value in values]
    assert shapes == [(c, k * h, k * w) for (c, h, w), k in zip(STAGES[name], growth, strict=False)]


def test_evaluating_it_changes_no_buffer(model: nn.Module) -> None:
    before = deepcopy(model.state_dict())
    with torch.no_grad():
        first, second = model(torch.ones(1, 3, 32, 32)), model(torch.ones(1, 3, 32, 32))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_training_step_moves_each_running_mean_once_and_reaches_every_parameter(model: nn.Module) -> None:
    model.train()(torch.randn(2, 3, 32, 32)).logsumexp(1).sum().backward()
    counts = {key: int(value) for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    assert counts
    assert set(counts.values()) == {1}
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_its_description_can_be_resolved(outline: nn.Module) -> None:
    description = describe(outline)
    for tap in [stage.output for stage in description.stages] + before_activations(description):
        outline.get_submodule(tap.module)
    head = outline.get_submodule(description.head or "")
    assert isinstance(head, nn.Linear)
    assert head.out_features == 100
    assert description.input is None
    assert description.convolutional


def test_its_pre_activations_lead_to_its_stages_or_follow_from_them(name: str, model: nn.Module) -> None:
    description = describe(model)
    outputs, befores = [stage.output for stage in description.stages], before_activations(description)
    _, values = run_and_read(model, outputs + befores, torch.randn(1, 3, 32, 32))
    for i, tap in enumerate(befores):
        output, before = values[i], values[len(outputs) + i]
        assert before.min() < 0
        if name.startswith("wrn"):
            norm = model.get_submodule(tap.module.replace("relu1", "bn1").replace("relu", "bn1"))
            assert isinstance(norm, nn.BatchNorm2d)
            torch.testing.assert_close(norm(output), before, rtol=0, atol=0)
        elif name.startswith("mobilenetv2"):
            assert tap == outputs[i]
        else:
            assert tap.site == "input"
            assert tap.module.startswith(outputs[i].module)
            activation = model.get_submodule(tap.module)
            assert isinstance(activation, nn.ReLU)
            torch.testing.assert_close(activation(before), output, rtol=0, atol=0)


def test_the_same_seed_gives_the_same_weights(name: str, model: nn.Module) -> None:
    torch.manual_seed(0)
    again = build(name, 100).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
