"""Networks that look at the box, beside it or nowhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attention_transfer.analysis.localisation import BoxScores, Localisation, centre_scores, correlations, localise
from attention_transfer.analysis.map_kinds import MapRequest
from attention_transfer.analysis.subject import Subject
from attention_transfer.data import DataSet, Split
from tests.analysis.conftest import as_subject

SIDE = 16
BOX = (2, 4, 10, 14)


class Looks(nn.Module):
    """Its last stage is the brightness above a limit; it always says class 1."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
        self.fc = nn.Linear(1, 3)
        with torch.no_grad():
            for stage, weight in ((self.layer1, 1 / 3), (self.layer2, 1.0)):
                stage[0].weight.fill_(weight)
                stage[0].bias.zero_()
            self.layer2[0].bias.fill_(-limit)
            self.fc.weight.zero_()
            self.fc.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


@pytest.fixture
def boxed(dataset: DataSet) -> DataSet:
    """Twelve black images with a white box, of labels 0 1 2 0 …; the box of the last one is unknown."""
    left, top, right, bottom = BOX
    images = np.zeros((12, SIDE, SIDE, 3), dtype=np.uint8)
    images[:, top:bottom, left:right] = 255
    boxes = np.tile(np.array(BOX, dtype=np.float32), (12, 1))
    images[11], boxes[11] = 255, np.nan
    test = Split(images, np.arange(12) % 3, boxes)
    return replace(dataset, test=test, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def looks(boxed: DataSet, limit: float = 0.5) -> Subject:
    return as_subject(Looks(limit), boxed)


def test_a_network_that_looks_at_the_box_alone_scores_everything(boxed: DataSet) -> None:
    found = localise(looks(boxed), boxed.test, MapRequest(), batch_size=5)
    assert (found.name, found.images, found.boxes) == ("mine", 12, 11)
    assert found.top1 == pytest.approx(100 * 4 / 12)
    scores = found.scores["activation"]
    area = 100 * 8 * 10 / SIDE**2
    assert scores.energy == pytest.approx(100)
    assert scores.area == pytest.approx(area)
    assert scores.energy_over_area == pytest.approx(100 / area)
    assert scores.pointing == 100
    assert (scores.box_accuracy_30, scores.box_accuracy_50, scores.box_accuracy_70) == (100, 100, 100)
    assert (scores.box_accuracy, scores.box_accuracy_v2, scores.flat) == (100, 100, 0)


def test_a_network_that_sees_nothing_scores_chance(boxed: DataSet) -> None:
    scores = localise(looks(boxed, limit=2), boxed.test, MapRequest()).scores["activation"]
    assert scores.energy == pytest.approx(scores.area)
    assert scores.pointing == pytest.approx(scores.area)
    assert scores.box_accuracy_v2 == 0
    assert scores.flat == 11


def test_batches_do_not_matter(boxed: DataSet, small_images: DataSet) -> None:
    del boxed
    torch.manual_seed(1)
    subject = as_subject(Looks(0.3), small_images)
    kinds = MapRequest(("activation", "gradient-cam"))
    whole, parts = (localise(subject, small_images.test, kinds, batch_size=size) for size in (24, 7))
    for kind in whole.scores:
        assert whole.scores[kind].row() == pytest.approx(parts.scores[kind].row())


@pytest.fixture
def small_images(dataset: DataSet) -> DataSet:
    """The noisy images of the tests with made-up boxes, some of them unknown."""
    draws = np.random.default_rng(0)
    low = draws.uniform(0, 10, (24, 2))
    boxes = np.concatenate([low, low + draws.uniform(2, 6, (24, 2))], axis=1).astype(np.float32)
    boxes[[3, 20]] = np.nan
    return replace(dataset, test=replace(dataset.test, boxes=boxes))


def test_data_without_boxes_and_other_classes_are_refused(boxed: DataSet, dataset: DataSet) -> None:
    with pytest.raises(ValueError, match="has no boxes around its objects: use cluttered-digits"):
        localise(looks(boxed), dataset.test, MapRequest())
    unknown = replace(boxed.test, boxes=np.full((12, 4), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="has no boxes"):
        localise(looks(boxed), unknown, MapRequest())
    with pytest.raises(ValueError, match="has no boxes"):
        centre_scores(dataset.test, SIDE, "these")
    fewer = replace(boxed, classes=("a", "b"))
    with pytest.raises(ValueError, match=r"mine has 3 classes, .* has 2"):
        localise(looks(fewer), boxed.test, MapRequest())


def test_values_that_are_not_finite_are_refused(boxed: DataSet) -> None:
    subject = looks(boxed)
    with torch.no_grad():
        subject.module.get_parameter("layer2.0.weight").fill_(torch.inf)
    with pytest.raises(ValueError, match="not finite"):
        localise(subject, boxed.test, MapRequest())


def test_the_centre_points_into_boxes_of_the_middle() -> None:
    middle = np.array([[6, 6, 10, 10]], dtype=np.float32)
    corner = np.array([[0, 0, 4, 4]], dtype=np.float32)
    images, labels = np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8), np.zeros(1, dtype=np.int64)
    inside = centre_scores(Split(images, labels, middle), SIDE, "these")
    outside = centre_scores(Split(images, labels, corner), SIDE, "these")
    assert (inside.pointing, outside.pointing) == (100, 0)
    assert inside.box_accuracy_70 == 100
    assert inside.energy_over_area > 2 > 0.5 > outside.energy_over_area


def scores(**numbers: float) -> BoxScores:
    same = dict.fromkeys(("area", "energy_over_area", "box_accuracy_30", "box_accuracy_50", "box_accuracy_70"), 1.0)
    return BoxScores(**(same | {"box_accuracy": 1.0, "box_accuracy_v2": 1.0, "flat": 0} | numbers))


def test_accuracy_is_ranked_against_every_score() -> None:
    found = [
        Localisation(str(i), top1, 10, 10, {"activation": scores(energy=energy, pointing=top1 + 1)})
        for i, (top1, energy) in enumerate([(10.0, 3.0), (20.0, 2.0), (30.0, 1.0), (40.0, 0.0)])
    ]
    related = correlations(found)["activation"]
    assert related["energy"].spearman == pytest.approx(-1)
    assert related["pointing"].kendall == pytest.approx(1)
    assert related["energy"].count == 4
    assert related["box_accuracy"].spearman is None
    assert correlations(found[:2])["activation"]["energy"].note.startswith("2 of the 3")
