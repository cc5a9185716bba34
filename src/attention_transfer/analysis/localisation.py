"""Weakly supervised object localisation: attention maps scored against bounding boxes, and rank correlations.

>>> rank_correlation([60.0, 70.0, 80.0], [1.0, 3.0, 2.0])
RankCorrelation(count=3, spearman=0.5, spearman_p=1.0, kendall=0.333..., kendall_p=1.0, note='')
>>> rank_correlation([60.0, 70.0], [1.0, 2.0]).note
'a rank correlation needs at least 3 networks, here are 2'
>>> boxes = np.array([[8, 8, 24, 24], [0, 0, 12, 12]], np.float32)
>>> split = Split(np.zeros((2, 32, 32, 3), np.uint8), np.array([0, 1]), boxes)
>>> centre_scores(split, 32, "mine").pointing  # the centre lies in the first box, not in the second
50.0
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import permutations
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from attention_transfer.analysis.box_scores import (
    OVERLAPS,
    area_share,
    at_image_size,
    box_overlaps,
    energy_inside,
    max_box_accuracy,
    pointing_game,
)
from attention_transfer.analysis.map_kinds import MapKind, MapReader, MapRequest
from attention_transfer.analysis.subject import Subject
from attention_transfer.data import Split
from attention_transfer.errors import InputError

FEWEST = 3  # networks that a rank correlation needs
# Up to 8 networks, p is exact: all 8! = 40,320 orders are tried.
_ALL_ORDERS = 8
_ROUNDING = 1e-9  # correlations closer than this are equal; orders of equal strength differ by rounding only


@dataclass(frozen=True)
class RankCorrelation:
    """Rank correlations of two scores over several networks, with p-values.

    Args:
        count: number of networks.
        spearman: Spearman's ρ, −1…1; None where it is not defined.
        spearman_p: two-sided p-value of ρ.
        kendall: Kendall's τ-b, −1…1; None where it is not defined.
        kendall_p: two-sided p-value of τ-b.
        note: why there are no numbers; empty where there are.
    """

    count: int
    spearman: float | None = None
    spearman_p: float | None = None
    kendall: float | None = None
    kendall_p: float | None = None
    note: str = ""

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> RankCorrelation:
    """Spearman's ρ and Kendall's τ-b between two scores of the same networks.

    Up to 8 networks, p is exact: the share of all orders whose correlation is at least as strong, in either direction.
    For more, it is scipy's.

    Args:
        first: one finite number per network.
        second: another finite number per network.

    Raises:
        ValueError: the two are not equally long.
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} numbers cannot be paired with {len(second)}")
    count = len(first)
    if count < FEWEST:
        return RankCorrelation(count, note=f"a rank correlation needs at least {FEWEST} networks, here are {count}")
    if len(set(first)) == 1 or len(set(second)) == 1:
        return RankCorrelation(count, note="all equal: nothing to rank")
    x, y = (stats.rankdata(values) for values in (first, second))
    if count > _ALL_ORDERS:
        spearman, kendall = cast(Any, stats.spearmanr(x, y)), cast(Any, stats.kendalltau(x, y))
        return RankCorrelation(
            count,
            spearman=float(spearman.statistic),
            spearman_p=float(spearman.pvalue),
            kendall=float(kendall.statistic),
            kendall_p=float(kendall.pvalue),
        )
    orders = y[np.array(list(permutations(range(count))))]
    # Pearson's correlation of ranks is Spearman's; that of the signs of all pairs is Kendall's τ-b.
    spearman, spearman_p = _exact((x - x.mean())[None], orders - orders.mean())
    kendall, kendall_p = _exact(_signs(x[None]), _signs(orders))
    return RankCorrelation(count, spearman, spearman_p, kendall, kendall_p)


def _exact(ours: Float[np.ndarray, "1 k"], theirs: Float[np.ndarray, "m k"]) -> tuple[float, float]:
    """The correlation with the first row, and the share of rows where it is at least as strong."""
    # The first row is the observed order: permutations come in lexicographic order.
    strengths = (ours * theirs).sum(1) / np.sqrt((ours**2).sum(1) * (theirs**2).sum(1))
    return float(strengths[0]), float((abs(strengths) >= abs(strengths[0]) - _ROUNDING).mean())


def _signs(values: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m pairs"]:
    """Which of each pair is larger: 1, −1, or 0 for equals."""
    upper, lower = np.triu_indices(values.shape[1], k=1)
    return np.sign(values[:, upper] - values[:, lower])


# Fields of `BoxScores` that are set against accuracy. Energy over area ranks networks as energy does.
RANKED = (
    "energy",
    "pointing",
    "box_accuracy_30",
    "box_accuracy_50",
    "box_accuracy_70",
    "box_accuracy",
    "box_accuracy_v2",
)


@dataclass(frozen=True)
class BoxScores:
    """Localisation scores of maps, over the images whose box is known; all in percent but the ratio.

    Args:
        energy: share of the maps' mass inside the box, mean over images.
        area: share of the image inside the box, mean over images: the energy and the pointing of even maps.
        energy_over_area: ratio of the two means; 1 is chance.
        pointing: images whose largest value lies in the box.
        box_accuracy_30: MaxBoxAcc, largest region, at an overlap of 0.3.
        box_accuracy_50: MaxBoxAcc at an overlap of 0.5.
        box_accuracy_70: MaxBoxAcc at an overlap of 0.7.
        box_accuracy: mean of these three.
        box_accuracy_v2: mean of the three with the best of all regions instead of the largest: MaxBoxAccV2.
        flat: number of maps without any range, which point everywhere and give no box.
    """

    energy: float
    area: float
    energy_over_area: float
    pointing: float
    box_accuracy_30: float
    box_accuracy_50: float
    box_accuracy_70: float
    box_accuracy: float
    box_accuracy_v2: float
    flat: int

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Localisation:
    """Accuracy and localisation scores of one network.

    Args:
        name: name of the network, as its user wrote it.
        top1: top-1 accuracy over all images, in percent.
        images: number of images.
        boxes: number of images whose box is known.
        scores: localisation scores by kind of map.
    """

    name: str
    top1: float
    images: int
    boxes: int
    scores: Mapping[MapKind, BoxScores]


def localise(
    subject: Subject, split: Split, request: MapRequest, *, batch_size: int = 64, num_workers: int = 0
) -> Localisation:
    """Measure a network's accuracy on a split, and how well its maps find the objects.

    Args:
        subject: the network and its data set.
        split: split of that data set, with boxes.
        request: kinds of maps.
        batch_size: images at a time.
        num_workers: processes that decode photographs.

    Raises:
        ValueError: the data set has no boxes, or other classes than the network; the network lacks what a map needs, or
            gives values that are not finite.
    """
    known = known_boxes(split, subject.dataset.name)
    assert split.boxes is not None
    reader = _reader(subject, request)
    tallies: dict[MapKind, _Tally] = {kind: _Tally(subject.dataset.image_size) for kind in request.kinds}
    hits = seen = 0
    try:
        for image, label in subject.batches(split, batch_size, num_workers):
            logits, maps = reader(image, label)
            hits += int((logits.argmax(1) == label).sum())
            some = slice(seen, seen + len(label))
            for kind, tally in tallies.items():
                tally.add(maps[kind][known[some]], split.boxes[some][known[some]])
            seen += len(label)
    finally:
        reader.close()
    scores: dict[MapKind, BoxScores] = {kind: tally.scores() for kind, tally in tallies.items()}
    return Localisation(subject.name, 100 * hits / seen, seen, int(known.sum()), scores)


def check(subject: Subject, request: MapRequest) -> None:
    """Refuse at once, before any image is read, what `localise` would refuse about a network.

    Raises:
        ValueError: it has other classes than the data set, or lacks what a map needs.
    """
    _reader(subject, request).close()


def centre_scores(split: Split, image_size: int, name: str, *, batch_size: int = 64) -> BoxScores:
    """Scores of the centre baseline: the same map for every image, highest in its centre, where objects mostly are.

    Args:
        split: images with boxes.
        image_size: side of its images in pixels.
        name: name of the data set, for messages.
        batch_size: boxes at a time.

    Raises:
        ValueError: there are no boxes.
    """
    known = known_boxes(split, name)
    assert split.boxes is not None
    boxes = split.boxes[known]
    # A Gaussian with a deviation of a quarter of the side; no box depends on which.
    profile = np.exp(-0.5 * ((np.arange(image_size) + 0.5 - image_size / 2) / (image_size / 4)) ** 2)
    tally = _Tally(image_size)
    for start in range(0, len(boxes), batch_size):
        some = boxes[start : start + batch_size]
        tally.add(np.broadcast_to(np.outer(profile, profile), (len(some), image_size, image_size)), some)
    return tally.scores()


def correlations(found: Sequence[Localisation]) -> dict[MapKind, dict[str, RankCorrelation]]:
    """Rank correlation between accuracy and each score over several networks, by kind of map and by score."""
    top1 = [each.top1 for each in found]
    return {
        kind: {score: rank_correlation(top1, [getattr(each.scores[kind], score) for each in found]) for score in RANKED}
        for kind in found[0].scores
    }


def known_boxes(split: Split, name: str) -> Bool[np.ndarray, " n"]:
    """Which images of a split have a known box.

    Raises:
        ValueError: none has.
    """
    known: Bool[np.ndarray, " n"] = np.zeros(len(split), dtype=bool)
    if split.boxes is not None:
        known |= np.isfinite(split.boxes).all(axis=1)
    if not known.any():
        raise InputError(
            f"{name} has no boxes around its objects: use cluttered-digits, cub200 or tiny-imagenet, which have some, "
            "or an npz:PATH with boxes"
        )
    return known


def _reader(subject: Subject, request: MapRequest) -> MapReader:
    classes, wanted = subject.opened.num_classes, subject.dataset.num_classes
    if classes != wanted:
        raise InputError(f"{subject.name} has {classes} classes, {subject.dataset.name} has {wanted}")
    return MapReader(subject, request)


@dataclass
class _Tally:
    """Scores of one kind of map, batch by batch."""

    side: int
    parts: list[tuple[Float[np.ndarray, " n"], ...]] = field(default_factory=list[tuple[np.ndarray, ...]])

    def add(self, maps: Float[np.ndarray, "n r c"], boxes: Float[np.ndarray, "n 4"]) -> None:
        if not len(maps):
            return
        large = at_image_size(maps, self.side, self.side)
        overlaps = box_overlaps(large, boxes)
        self.parts.append((
            area_share(boxes, self.side, self.side),
            energy_inside(maps, boxes, self.side, self.side),
            pointing_game(large, boxes),
            overlaps.largest,
            overlaps.best,
            large.max((1, 2)) == 0,
        ))

    def scores(self) -> BoxScores:
        area, energy, pointing, largest, best, flat = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        accuracies = [100 * max_box_accuracy(largest, least) for least in OVERLAPS]
        return BoxScores(
            energy=100 * float(energy.mean()),
            area=100 * float(area.mean()),
            energy_over_area=float(energy.mean() / area.mean()),
            pointing=100 * float(pointing.mean()),
            box_accuracy_30=accuracies[0],
            box_accuracy_50=accuracies[1],
            box_accuracy_70=accuracies[2],
            box_accuracy=float(np.mean(accuracies)),
            box_accuracy_v2=100 * float(np.mean([max_box_accuracy(best, least) for least in OVERLAPS])),
            flat=int(flat.sum()),
        )
