"""Networks that look at the box, beside it or nowhere: regions, ranks, and what every analysis opens."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from tests.analysis.conftest import CPU, as_subject, save_network
from torch import Tensor, nn

from attention_transfer import Input
from attention_transfer.analysis.localisation import (
    BoxScores,
    Localisation,
    centre_scores,
    correlations,
    localise,
    rank_correlation,
)
from attention_transfer.analysis.map_kinds import MapRequest
from attention_transfer.analysis.subject import Subject, open_subjects
from attention_transfer.data import DataSet, Split

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
    assert correlations(found[:2])["activation"]["energy"].note.endswith("here are 2")


# ---------------- rank correlations against scipy and against counting


def draws(count: int, seed: int, ties: bool) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    first = generator.integers(0, 4, count) if ties else generator.random(count)
    return first.tolist(), (first + generator.random(count)).tolist()


@pytest.mark.parametrize("count", [3, 5, 8, 9, 15])
@pytest.mark.parametrize("ties", [False, True])
def test_values_are_those_of_scipy(count: int, ties: bool) -> None:
    first, second = draws(count, count, ties)
    found = rank_correlation(first, second)
    assert found.count == count
    assert found.spearman == pytest.approx(stats.spearmanr(first, second).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(first, second).statistic)


@pytest.mark.parametrize("count", [4, 7])
def test_p_is_exact_for_few_things(count: int) -> None:
    first, second = draws(count, 1, ties=False)
    found = rank_correlation(first, second)
    # Without ties scipy counts Kendall's orders too; Spearman's are counted here.
    assert found.kendall_p == pytest.approx(stats.kendalltau(first, second, method="exact").pvalue)
    strengths = [abs(stats.spearmanr(first, order).statistic) for order in permutations(second)]
    assert found.spearman is not None
    assert found.spearman_p == pytest.approx(np.mean([s >= abs(found.spearman) - 1e-9 for s in strengths]))


def test_three_models_in_perfect_order_prove_little() -> None:
    found = rank_correlation([1, 2, 3], [10, 20, 30])
    assert (found.spearman, found.kendall) == pytest.approx((1, 1))
    assert (found.spearman_p, found.kendall_p) == pytest.approx((1 / 3, 1 / 3))


def test_p_of_many_things_is_scipys() -> None:
    first, second = draws(20, 3, ties=False)
    found = rank_correlation(first, second)
    assert found.spearman_p == pytest.approx(stats.spearmanr(first, second).pvalue)
    assert found.kendall_p == pytest.approx(stats.kendalltau(first, second).pvalue)


def test_too_few_or_equal_numbers_get_a_note_and_no_number() -> None:
    few = rank_correlation([1, 2], [1, 2])
    assert few.spearman is few.spearman_p is few.kendall is few.kendall_p is None
    assert few.note == "a rank correlation needs at least 3 networks, here are 2"
    equal = rank_correlation([1, 1, 1], [1, 2, 3])
    assert equal.spearman is None
    assert "all equal" in equal.note


def test_numbers_without_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="3 numbers cannot be paired with 2"):
        rank_correlation([1, 2, 3], [1, 2])


# ---------------------------------------------------------------- what every analysis opens


def test_images_are_normalised_as_the_network_was_trained(subject: Subject, dataset: DataSet) -> None:
    image, label = next(subject.batches(dataset.test, 7))
    pixels = torch.from_numpy(dataset.test.images[:7]).permute(0, 3, 1, 2) / 255
    expected = (pixels - torch.tensor([0.3, 0.4, 0.5])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    torch.testing.assert_close(image, expected, rtol=1e-5, atol=1e-5)
    assert label.tolist() == dataset.test.labels[:7].tolist()
    assert subject.notes == ()


def test_a_normalisation_that_nobody_knows_is_said_or_given(dataset: DataSet, tmp_path: Path) -> None:
    silent = save_network(tmp_path / "silent")
    (assumed,) = open_subjects([silent], dataset, CPU)
    assert f"the normalisation of {silent} is unknown" in assumed.notes[0]
    knows = save_network(tmp_path / "knows", input=Input((0.1, 0.1, 0.1), (1.0, 1.0, 1.0)))
    told, own = open_subjects([silent, knows], dataset, CPU, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))
    first, second = (next(each.batches(dataset.test, 4))[0] for each in (told, own))
    torch.testing.assert_close(first + 0.4, second, rtol=1e-5, atol=1e-5)
    assert told.notes == ()


def test_what_cannot_be_looked_at_is_refused(subject: Subject, dataset: DataSet) -> None:
    with pytest.raises(ValueError, match="give at least one model"):
        open_subjects([], dataset, CPU)
    with pytest.raises(ValueError, match="names a network without weights"):
        open_subjects(["resnet8"], dataset, CPU)
    with pytest.raises(ValueError, match="together, or neither"):
        open_subjects([subject.name], dataset, CPU, mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="leave out --mean and --std"):
        open_subjects([subject.name], dataset, CPU, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), r"the std .* above 0 and at most 1, not 0 0 0$"),
        ((float("nan"), 0.0, 0.0), (1.0, 1.0, 1.0), r"the mean .* 0…1, not nan 0 0$"),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), r"not 123.675 116.28 103.53: divide by 255$"),
        ((0.5, 0.5, 0.5), (-0.5, 0.5, 0.5), r"the std .*, not -0.5 0.5 0.5$"),
        ((0.5, 0.5, 0.5), (127.5, 127.5, 127.5), r"the std .*: divide by 255$"),
        ((0.5, 0.5, 0.5), (float("inf"), 1.0, 1.0), r"the std .*, not inf 1 1$"),
    ],
)
def test_a_normalisation_that_cannot_be_is_refused(
    mean: tuple[float, float, float], std: tuple[float, float, float], words: str, dataset: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        open_subjects([save_network(tmp_path / "silent")], dataset, CPU, mean, std)
