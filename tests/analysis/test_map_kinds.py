"""Maps of every kind against a slow way to make them."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.analysis.map_kinds import MapKind, MapReader, MapRequest
from attention_transfer.analysis.subject import Subject
from attention_transfer.data import DataSet
from tests.analysis.conftest import as_subject
from tests.closeness import assert_near
from tests.conftest import SmallNet


@pytest.fixture
def small(dataset: DataSet) -> Subject:
    torch.manual_seed(0)
    return as_subject(SmallNet(classes=3), dataset)


@pytest.fixture
def batch(small: Subject) -> tuple[Tensor, Tensor]:
    return next(small.batches(small.dataset.test, 6))


def read(subject: Subject, batch: tuple[Tensor, Tensor], kind: MapKind, **settings: object) -> np.ndarray:
    reader = MapReader(subject, MapRequest((kind,), **settings))
    try:
        return reader(*batch)[1][kind]
    finally:
        reader.close()


def last_features(subject: Subject, image: Tensor) -> Tensor:
    network = subject.module
    assert isinstance(network, SmallNet)
    return network.layer2(network.layer1(image))


def test_activation_is_the_sum_of_powers_over_channels(small: Subject, batch: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        last, first = last_features(small, batch[0]), small.module.get_submodule("layer1")(batch[0])
    for features, settings in ((last, {}), (first, {"stage": 0, "power": 3.0})):
        found = read(small, batch, "activation", **settings)
        expected = features.abs().pow(settings.get("power", 2.0)).sum(1).numpy()
        assert found.shape == (6, *features.shape[2:])
        assert found == pytest.approx(expected / np.sqrt((expected**2).sum((1, 2), keepdims=True)), rel=1e-4)


def test_class_maps_average_to_the_logit_of_the_chosen_class(small: Subject, batch: tuple[Tensor, Tensor]) -> None:
    logits = small.module(batch[0])
    chosen = {"true": batch[1], "predicted": logits.argmax(1)}
    assert not torch.equal(chosen["true"], chosen["predicted"])
    head = small.module.get_submodule("fc")
    for class_of, classes in chosen.items():
        means = read(small, batch, "class", class_of=class_of).mean((1, 2))
        expected = (logits - head.get_parameter("bias"))[torch.arange(6), classes]
        assert means == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_gradient_is_the_length_over_colours_of_each_images_own_gradient(
    small: Subject, batch: tuple[Tensor, Tensor]
) -> None:
    found = read(small, batch, "gradient")
    for image, label, ours in zip(*batch, found, strict=True):
        single = image[None].clone().requires_grad_()
        functional.cross_entropy(small.module(single), label[None]).backward()
        assert single.grad is not None
        assert_near(ours, single.grad[0].square().sum(0).sqrt())


def test_grad_cam_of_a_pooled_network_is_the_positive_part_of_its_class_map(
    small: Subject, batch: tuple[Tensor, Tensor]
) -> None:
    """For global average pooling and a linear head the gradient is the head's weight over the number of positions."""
    maps = read(small, batch, "class")
    expected = maps.clip(0) / (maps.shape[1] * maps.shape[2])
    assert expected.any()
    assert_near(read(small, batch, "gradient-cam"), expected)


def test_several_kinds_at_once_are_those_one_by_one_and_leave_no_trace(
    small: Subject, batch: tuple[Tensor, Tensor]
) -> None:
    kinds: tuple[MapKind, ...] = ("gradient", "class", "activation", "gradient-cam")
    before = {name: value.clone() for name, value in small.module.state_dict().items()}
    reader = MapReader(small, MapRequest(kinds))
    logits, maps = reader(*batch)
    reader.close()
    assert torch.equal(logits, small.module(batch[0]))
    assert not logits.requires_grad
    for kind in kinds:
        assert_near(maps[kind], read(small, batch, kind), msg=kind)
    assert all(torch.equal(value, before[name]) for name, value in small.module.state_dict().items())
    assert all(parameter.grad is None for parameter in small.module.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.module.modules())
    assert not batch[0].requires_grad


def test_what_a_network_does_not_have_is_refused_with_what_to_do(small: Subject) -> None:
    with pytest.raises(ValueError, match=r"network mine has 2 stages: give a stage from 0 to 1, not 2"):
        MapReader(small, MapRequest(stage=2))
    unknown = replace(small.opened.description, stages=(), pooled=None)
    stageless = replace(small, opened=replace(small.opened, description=unknown))
    with pytest.raises(ValueError, match="ask for gradient maps instead"):
        MapReader(stageless, MapRequest())
    with pytest.raises(ValueError, match="nobody knows what the network mine averages"):
        MapReader(stageless, MapRequest(("class",)))


def test_class_maps_must_be_proved(small: Subject) -> None:
    with pytest.raises(ValueError, match="no class maps at layer1"):
        MapReader(small, MapRequest(("class",), layer="layer1"))
    assert not any(module._forward_hooks for module in small.module.modules())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kinds": ()}, "each once"),
        ({"kinds": ("class", "class")}, "each once"),
        ({"kinds": ("heat",)}, "activation, class, gradient, gradient-cam, attention"),
        ({"power": 0.5}, "power must be at least 1, not 0.5"),
    ],
)
def test_requests_that_mean_nothing_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MapRequest(**settings)


def test_attention_is_the_mean_over_all_heads_of_all_layers(dataset: DataSet) -> None:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 3}
    model = timm.create_model("deit_tiny_distilled_patch16_224", **sizes).eval()
    inputs: list[Tensor] = []
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=0.4)
        block.attn.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    subject = as_subject(model, dataset)
    image, label = next(subject.batches(dataset.test, 6))
    found = read(subject, (image, label), "attention")
    inputs.clear()
    with torch.no_grad():
        model(image)
    expected = torch.zeros(6, 16)
    for block, tokens in zip(model.blocks, inputs, strict=True):
        query, key, _ = block.attn.qkv(tokens).unflatten(2, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        logits = (query[:, :, :1] @ key[:, :, 2:].mT)[:, :, 0] / 8**0.5
        expected += logits.softmax(-1).sum(1).detach() / 6
    assert found.shape == (6, 4, 4)
    assert found.reshape(6, 16) == pytest.approx(expected.numpy(), rel=1e-4)


def test_a_network_without_attention_has_no_attention_maps(small: Subject) -> None:
    with pytest.raises(ValueError, match="has no self-attention layers"):
        MapReader(small, MapRequest(("attention",)))
