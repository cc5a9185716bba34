"""Class attention: the student finds the evidence for every class where the teacher finds it.

>>> import torch
>>> maps = torch.rand(2, 5, 2, 2)
>>> float(class_map_distance(maps, 3 * maps, normalise="l2")) < 1e-6
True
>>> ClassAttention(resolution=2, normalise="l2").key
'cat'
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32, binarised, class_maps, unit
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term, require_same_classes
from attention_transfer.models.introspection.class_maps import ClassMapHead, Head, class_map_tap
from attention_transfer.models.introspection.description import Description

Normalisation = Literal["l2", "l1", "none"]

# Targets that must be made before pooling are made for so many classes at a time, which bounds their memory.
_CLASSES_AT_ONCE = 16

_HEAD = ClassMapHead()


def class_map_distance(
    student: Float[Tensor, "b k h w"],
    teacher: Float[Tensor, "b k h w"],
    *,
    normalise: Normalisation = "l2",
    form: Literal["code", "paper"] = "code",
    weights: Float[Tensor, "b k"] | None = None,
) -> Float[Tensor, ""]:
    """How far class maps are apart: squared difference of each class's map, averaged over images and classes.

    Eq. 5 of Guo et al. (CVPR 2023, arXiv:2304.12777).

    Args:
        student: class maps.
        teacher: class maps of the same classes and size.
        normalise: each map is divided by its norm, `l2` or `l1`, or left as it is.
        form: `code` averages over positions too, `paper` sums over them; they differ by the number of positions.
        weights: of the classes, per image; None weighs all alike.
    """
    ours, theirs = student.flatten(2), teacher.flatten(2)
    if normalise != "none":
        order = 2.0 if normalise == "l2" else 1.0
        ours, theirs = unit(ours, order), unit(theirs, order)
    squares = (ours - theirs).square()
    each = squares.mean(2) if form == "code" else squares.sum(2)
    return each.mean() if weights is None else (weights * each).mean()


@dataclass(frozen=True)
class ClassAttention(Method):
    """Class attention transfer: matches class activation maps of teacher and student.

    CAT and CAT-KD of Guo et al. (CVPR 2023, arXiv:2304.12777), Eq. 5 and 6: CAT-KD is this beside the cross-entropy,
    CAT this alone (`task_weight` 0), without labels. For any network whose logits are a linear layer of globally
    averaged features, which is proved when the distiller is built; nothing is added to it. Features are pooled before
    the layer is applied, so no map of full size is ever made, except for targets that are made before pooling.

    Args:
        weight: β. It depends on everything below and on the pair: the authors use 0.5 … 15 for maps that are not
            normalised and 10 … 600 for normalised ones; `attention-transfer suggest-weight` proposes one.
        resolution: maps are averaged to so many rows and columns; None keeps the smaller of both networks' sizes.
        normalise: `l2` or `l1` norm of each map, or `none`; `auto` is `none` where both networks are of one Python
            class, `l2` otherwise. Appendix A.3 speaks of similar structures; one class may build unlike ones, and
            two libraries the same one: then say which.
        form: `code` averages over positions, `paper` sums; they differ by the factor `resolution²`, and so does β.
        producer: of the teacher's maps: `cam`, or `grad-cam`, the paper's negative control. For these networks,
            Grad-CAM of a class is its map without what is negative, up to a factor.
        binarise: the teacher's maps become 1 above a threshold and 0 below it before pooling: the `mean` of a map's
            magnitudes, or its `median`.
        top: only the classes with the n highest scores of the teacher, for each image; None takes all.
        lowest: only those with the n lowest scores.
        score_weights: weigh classes by the teacher's probabilities among those chosen, times their number.
        bias: add the head's bias to the maps, and to the scores that choose classes. Without it they are those of the
            authors' code.
        student_layer: path of the module whose mean over positions the student's head takes, where it is not found.
        teacher_layer: the same of the teacher.

    Raises:
        ValueError: for a resolution below 1, or both or neither positive of `top` and `lowest`.

    Departs from the paper: the head keeps its bias for the logits; the authors' code drops it there. Exactly n classes
    are chosen by `top` and `lowest`; theirs are off by one. The authors' argument for taking 2×2 maps everywhere is the
    default, though their code has 4×4 for ShuffleNets and for ResNet-34 → ResNet-18.
    """

    key: ClassVar[str] = "cat"

    weight: float = 10.0
    resolution: int | None = 2
    normalise: Literal["auto", "l2", "l1", "none"] = "auto"
    form: Literal["code", "paper"] = "code"
    producer: Literal["cam", "grad-cam"] = "cam"
    binarise: Literal["none", "mean", "median"] = "none"
    top: int | None = None
    lowest: int | None = None
    score_weights: bool = False
    bias: bool = False
    student_layer: str | None = None
    teacher_layer: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution is not None and self.resolution < 1:
            raise InputError(f"resolution must be at least 1, not {self.resolution}")
        if self.top is not None and self.lowest is not None:
            raise InputError("give top or lowest, not both")
        for name, count in (("top", self.top), ("lowest", self.lowest)):
            if count is not None and count < 1:
                raise InputError(f"{name} must be between 1 and the number of classes, not {count}")

    def shrunk(self, scale: float, classes: int | None) -> "ClassAttention":
        """With maps of a lower resolution, and no more classes than there are."""
        most = math.inf if classes is None else classes - 1
        few = {name: min(count, most) for name in ("top", "lowest") if (count := getattr(self, name)) is not None}
        if self.resolution is not None:
            few["resolution"] = max(int(scale * self.resolution), min(2, self.resolution))
        return replace(self, **few)

    def resolved(self, teacher: Description | None, student: Description) -> "ClassAttention":
        """With its normalisation decided by the two architectures."""
        if self.normalise != "auto" or teacher is None:
            return self
        return replace(self, normalise="none" if teacher.architecture == student.architecture else "l2")

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """What is pooled before each linear head, and the heads."""
        if teacher is None:
            raise InputError("class attention needs a teacher")
        return Reads(
            Request((class_map_tap(teacher, "teacher", self.teacher_layer),), provide=(_HEAD,)),
            Request((class_map_tap(student, "student", self.student_layer),), provide=(_HEAD,)),
        )

    def check(self, teacher: Observed, student: Observed) -> None:
        """Refuse different classes, and resolutions that the maps do not have."""
        (theirs,), (ours,) = teacher.features, student.features
        classes = [observed[_HEAD].weight.shape[0] for observed in (teacher, student)]
        without = "a method without classes such as attention transfer"
        require_same_classes("class attention needs", classes[0], classes[1], without)
        for role, features in (("teacher", theirs), ("student", ours)):
            if self.resolution is not None and self.resolution > min(features.shape[2:]):
                raise InputError(
                    f"resolution {self.resolution} is larger than the {role}'s maps of {features.shape[2]}×"
                    f"{features.shape[3]}: give at most {min(min(f.shape[2:]) for f in (theirs, ours))}, or None"
                )
        if self._size(theirs, ours) == (1, 1) and self.normalise in ("l1", "l2"):
            raise InputError(
                "a normalised map of one position says nothing but its sign: give a resolution of 2 or more, larger "
                "images, or normalise='none'"
            )
        for name, count in (("top", self.top), ("lowest", self.lowest)):
            if count is not None and count > classes[0]:
                raise InputError(f"{name} must be between 1 and the {classes[0]} classes, not {count}")

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The distance between pooled class maps."""
        del batch, parts
        (theirs,), (ours,) = teacher.features, student.features
        assert self.normalise != "auto"
        head = teacher[_HEAD]
        size = self._size(theirs, ours)
        maps = _maps(_pooled(ours, size), student[_HEAD], self.bias)
        with torch.no_grad():
            targets = self._targets(theirs, head, size)
            logits = _maps(_pooled(theirs, (1, 1)), head, bias=True).flatten(1)
            chosen = self._chosen(logits, head)
        if chosen is not None:
            maps, targets = (m.gather(1, chosen[:, :, None, None].expand(-1, -1, *size)) for m in (maps, targets))
            logits = logits.gather(1, chosen)
        weights = functional.softmax(logits, dim=1) * logits.shape[1] if self.score_weights else None
        distance = class_map_distance(maps, targets, normalise=self.normalise, form=self.form, weights=weights)
        return {self.key: Term(distance)}

    def _size(self, theirs: Tensor, ours: Tensor) -> tuple[int, int]:
        if self.resolution is not None:
            return self.resolution, self.resolution
        return min(theirs.shape[2], ours.shape[2]), min(theirs.shape[3], ours.shape[3])

    def _targets(self, features: Tensor, head: Head, size: tuple[int, int]) -> Tensor:
        """The teacher's maps, pooled."""
        if self.producer == "cam" and self.binarise == "none":
            return _maps(_pooled(features, size), head, self.bias)
        pooled: list[Tensor] = []
        features = at_least_float32(features)
        for first in range(0, head.weight.shape[0], _CLASSES_AT_ONCE):
            some = slice(first, first + _CLASSES_AT_ONCE)
            part = Head(head.weight[some], None if head.bias is None else head.bias[some])
            # Grad-CAM knows no bias: it differentiates the score.
            maps = _maps(features, part, self.bias and self.producer == "cam")
            if self.producer == "grad-cam":
                maps = maps.relu()
            if self.binarise != "none":
                maps = binarised(maps, self.binarise)
            pooled.append(_pooled(maps, size))
        return torch.cat(pooled, dim=1)

    def _chosen(self, logits: Tensor, head: Head) -> Tensor | None:
        """Numbers of the classes that are compared, per image; None for all."""
        count = self.top or self.lowest
        if count is None:
            return None
        scores = logits if self.bias or head.bias is None else logits - at_least_float32(head.bias)
        return scores.topk(count, dim=1, largest=self.top is not None).indices


def _maps(features: Tensor, head: Head, bias: bool) -> Tensor:
    added = at_least_float32(head.bias) if bias and head.bias is not None else None
    return class_maps(features, at_least_float32(head.weight), added)


def _pooled(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Averages over areas, in float32 at least; taken in the network's own precision, which is cheaper."""
    if tuple(values.shape[2:]) == size:
        return at_least_float32(values)
    return at_least_float32(functional.adaptive_avg_pool2d(values, size))
