"""Maps of every kind and class maps, against a slow way to make them, on the right images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from tests.analysis.conftest import as_subject
from tests.closeness import assert_near
from tests.conftest import SmallNet
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import Data
from attention_transfer.analysis.class_maps import Evidence, chosen_images, evidence, pictures
from attention_transfer.analysis.map_kinds import MapKind, MapReader, MapRequest
from attention_transfer.analysis.subject import Subject
from attention_transfer.data import DataSet
from attention_transfer.training.prepare import load_data


class Flattened(SmallNet):
    """Its head takes all positions, one after another."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.fc = nn.Linear(8 * 8 * 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).flatten(1))


class LogitsOfPositions(nn.Module):
    """Made of convolutions to the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
        self.layer2 = nn.Sequential(nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(self.layer1(x)).mean((2, 3))


@pytest.fixture
def found() -> Evidence:
    """Made up: two images, three classes, maps of 4×4."""
    draws = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 4, generator=draws)
    return Evidence("made up", torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]]), maps)


def test_maps_are_the_head_at_every_position(subject: Subject, dataset: DataSet) -> None:
    shown = dataset.test.subset(np.array([3, 5, 6]))
    found = evidence(subject, shown)
    network = subject.module
    image = next(subject.batches(shown, 3))[0]
    with torch.no_grad():
        logits = network(image)
        features = network.layer3(network.layer2(network.layer1(network.relu(network.bn1(network.conv1(image))))))
    expected = torch.zeros(3, 3, 4, 4)
    for k in range(3):
        for y in range(4):
            for x in range(4):
                expected[:, k, y, x] = (features[:, :, y, x] * network.fc.weight[k]).sum(1).detach()
    torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.maps.mean((2, 3)) + network.fc.bias, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.probabilities, logits.softmax(1))


def test_many_images_are_read_like_few(subject: Subject, dataset: DataSet) -> None:
    together = evidence(subject, dataset.test)
    last = evidence(subject, dataset.test.subset(np.array([23])))
    assert len(together.maps) == 24
    torch.testing.assert_close(together.maps[23:], last.maps, rtol=1e-4, atol=1e-5)


def test_the_network_is_left_as_it_was(subject: Subject, dataset: DataSet) -> None:
    network = subject.module
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.layer1.train()
    evidence(subject, dataset.test)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.layer1.training
    assert not network.layer2.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_classes_are_ranked_by_their_scores(found: Evidence) -> None:
    assert found.ranked(2).tolist() == [[1, 0], [0, 2]]
    assert found.ranked(3).tolist() == [[1, 0, 2], [0, 2, 1]]
    np.testing.assert_allclose(found.scores(found.ranked(2)), [[0.7, 0.2], [0.5, 0.4]])
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=f"top must be between 1 and the 3 classes of made up, not {wrong}"):
            found.ranked(wrong)


def test_maps_are_averaged_and_binarised_before_that(found: Evidence) -> None:
    classes = np.array([[2], [0]])
    for image, (k,) in enumerate(classes.tolist()):
        values = found.maps[image, k].numpy()
        np.testing.assert_array_equal(found.of(classes)[image, 0], values)
        np.testing.assert_allclose(found.of(classes, 2)[image, 0, 0, 1], values[:2, 2:].mean(), rtol=1e-6)
        above = values > np.abs(values).mean()
        np.testing.assert_array_equal(found.of(classes, None, "mean")[image, 0], above)
        np.testing.assert_allclose(found.of(classes, 2, "mean")[image, 0, 1, 0], above[2:, :2].mean())
    assert found.of(classes, None, "median").sum() == 16  # half of the positions of two maps


@pytest.mark.parametrize("resolution", [0, 5])
def test_a_resolution_that_the_maps_do_not_have_is_refused(found: Evidence, resolution: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 4, as the maps of made up are 4×4"):
        found.of(found.ranked(1), resolution)


def test_pictures_are_the_images_themselves(dataset: DataSet, images: Path) -> None:
    shown = dataset.test.subset(np.arange(20))
    np.testing.assert_array_equal(pictures(dataset, shown), dataset.test.images[:20])
    larger = load_data(Data(f"npz:{images}", image_size=24), seed=0)
    assert pictures(larger, larger.test.subset(np.arange(2))).shape == (2, 24, 24, 3)


def test_images_are_spread_over_the_split_or_named(dataset: DataSet) -> None:
    assert chosen_images(dataset.test, 3, None).tolist() == [0, 12, 23]
    assert len(chosen_images(dataset.test, None, None)) == 6
    assert len(chosen_images(dataset.test, 100, None)) == 24
    assert chosen_images(dataset.test, None, (7, 2)).tolist() == [7, 2]


@pytest.mark.parametrize(
    ("count", "index", "words"),
    [
        (2, (1,), "not both"),
        (0, None, "images must be at least 1, not 0"),
        (None, (3, 24, -1), "from 0 to 23, not 24, -1"),
        (None, (), "not none"),
    ],
)
def test_images_that_do_not_exist_are_refused(
    dataset: DataSet, count: int | None, index: tuple[int, ...] | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        chosen_images(dataset.test, count, index)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Flattened(), r"mine: .*no class maps|mine: could not locate"),
        (LogitsOfPositions(), "mine: .*no single linear layer"),
    ],
)
def test_networks_of_another_form_are_refused_by_name_with_the_reason(
    dataset: DataSet, network: nn.Module, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        evidence(as_subject(network, dataset), dataset.test)


def test_the_pooled_layer_can_be_named(subject: Subject, dataset: DataSet) -> None:
    own = evidence(subject, dataset.test)
    named = evidence(subject, dataset.test, "layer3")
    torch.testing.assert_close(named.maps, own.maps)
    with pytest.raises(ValueError, match="the network has no class maps at layer2"):
        evidence(subject, dataset.test, "layer2")


# ---------------------------------------------------------------- maps of every kind against a slow way to make them


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
    with pytest.raises(ValueError, match="could not be determined: use gradient maps"):
        MapReader(stageless, MapRequest())
    with pytest.raises(ValueError, match=r"could not locate global average pooling .* of the network mine"):
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
