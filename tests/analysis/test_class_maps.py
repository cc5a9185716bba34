"""Class maps as pictures need them: the right values, of the right classes, on the right images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attention_transfer import Data
from attention_transfer.analysis.class_maps import Evidence, chosen_images, evidence, pictures
from attention_transfer.analysis.subject import Subject
from attention_transfer.data import DataSet
from attention_transfer.training.prepare import load_data
from tests.analysis.conftest import as_subject
from tests.conftest import SmallNet


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
        (Flattened(), r"mine: .*no class maps|mine: nobody knows"),
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
