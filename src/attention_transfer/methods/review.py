"""Knowledge review: deeper stages of the student help its earlier ones to become what the teacher's are.

>>> import torch
>>> features = torch.rand(2, 8, 4, 4)
>>> float(hierarchical_context_loss(features, features))
0.0
>>> Review(most_stages=3).key
'reviewkd'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.layers.stage_selection import (
    Activation,
    check_stages,
    embedding,
    embedding_tap,
    paired_layers,
)
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term
from attention_transfer.models.introspection.description import Description
from attention_transfer.schedule import Schedule

_POOLED_SIZES = (4, 2, 1)
_WIDEST = 512  # of the fusion modules, in the authors' settings


def hierarchical_context_loss(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """Mean squared difference of features and of their averages over 4×4, 2×2 and 1×1 areas, each worth half the last.

    HCL of section 3.3, Chen et al. (CVPR 2021, arXiv:2104.09044); divided by the sum of the weights, as in the authors'
    code. Averages that are not smaller than the features are left out.

    Args:
        student: of the teacher's shape.
        teacher: its features.
    """
    difference = student - teacher
    total, weights, weight = difference.square().mean(), 1.0, 1.0
    for size in _POOLED_SIZES:
        if size >= min(student.shape[2:]):
            continue
        weight /= 2
        # Of the difference, which is the difference of the averages.
        pooled = functional.adaptive_avg_pool2d(difference, size)
        total, weights = total + weight * pooled.square().mean(), weights + weight
    return total / weights


class Fusion(nn.Module):
    """One level: the student's features, mixed by attention with those of the levels below it.

    ABF of section 3.3, Chen et al.

    Args:
        channels: of the student.
        width: of what is handed on to the next level.
        teacher_channels: of what is compared.
        deepest: whether there is no level below.
    """

    def __init__(self, channels: int, width: int, teacher_channels: int, *, deepest: bool) -> None:
        super().__init__()
        self.narrow = _normed(nn.Conv2d(channels, width, 1, bias=False))
        self.compared = _normed(nn.Conv2d(width, teacher_channels, 3, padding=1, bias=False))
        self.attention: nn.Module | None = None
        if not deepest:
            self.attention = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())

    def forward(
        self, features: Float[Tensor, "b c h w"], below: Float[Tensor, "b m i j"] | None, size: Sequence[int]
    ) -> tuple[Float[Tensor, "b k x y"], Float[Tensor, "b m x y"]]:
        """What is compared with the teacher's features, and what is handed on to the next level.

        Args:
            features: of the student.
            below: handed on by the next deeper level.
            size: height and width in the teacher.
        """
        mixed = cast(Tensor, self.narrow(features))
        if self.attention is not None:
            assert below is not None
            below = _resized(below, mixed.shape[2:])
            shares = cast(Tensor, self.attention(torch.cat([mixed, below], 1)))
            mixed = mixed * shares[:, :1] + below * shares[:, 1:]
        mixed = _resized(mixed, size)
        return cast(Tensor, self.compared(mixed)), mixed


@dataclass(frozen=True)
class Review(Method):
    """Every stage of the student, fused with all deeper ones, becomes what the teacher's stage is.

    ReviewKD: Chen, Liu, Zhao & Jia, *Distilling knowledge via knowledge review* (CVPR 2021, arXiv:2104.09044), with
    the average of the last features as one more level.

    Args:
        weight: the authors' commands use 0.6 to 8 from pair to pair, see the documentation.
        schedule: rises over 20 epochs, as in the benchmark on CIFAR-100.
        widest: channels of the fusion modules at most; at least 1. They have as many as the student's last level if
            that is fewer.
        most_stages: where both networks have more stages, as a transformer has blocks, so many are taken, spread evenly
            over depth; at least 1. Every one costs two convolutions.
        student_activation: `post` reads the student's stages as the next one receives them, `pre` before their last
            activation.
        teacher_activation: the same of the teacher; the authors read it before the activation.
        stages: which top-level stages, counted from 0 (negative from the end), the same in both networks; None takes
            all, and where one network has more, as many of them as the other has, spread evenly over depth.
        student_layers: module paths in the student, instead of stages.
        teacher_layers: module paths in the teacher, one for each of `student_layers`.

    Raises:
        ValueError: for layers that do not pair up, stages whose activation could not be found, or a number
            out of its range.

    Departs from the paper: the pooled level is left out where no linear head is known in one of the networks. Stages
    of transformers are read as grids of tokens, without class tokens.
    """

    key: ClassVar[str] = "reviewkd"

    schedule: Schedule = field(default_factory=lambda: Schedule(warmup_epochs=20))
    widest: int = _WIDEST
    most_stages: int = 4
    student_activation: Activation = "post"
    teacher_activation: Activation = "pre"
    stages: tuple[int, ...] | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stages(self.stages, self.student_layers, self.teacher_layers)
        if self.widest < 1 or self.most_stages < 1:
            raise InputError(f"widest and most_stages must be at least 1, not {self.widest} and {self.most_stages}")

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Features of the stages, and the pooled embedding where both networks have a linear head."""
        if teacher is None:
            raise InputError("knowledge review needs a teacher")
        theirs, ours = paired_layers(
            teacher, student, self, self.teacher_activation, self.student_activation, self.most_stages
        )
        if teacher.head is not None and student.head is not None:
            theirs, ours = (*theirs, embedding_tap(teacher, "teacher")), (*ours, embedding_tap(student, "student"))
        return Reads(Request(theirs), Request(ours))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        """Fusions from the deepest level to the first."""
        theirs, ours = _levels(teacher, "teacher"), _levels(student, "student")
        width, last = min(self.widest, ours[-1].shape[1]), len(ours) - 1
        return nn.ModuleList(
            Fusion(level.shape[1], width, wanted.shape[1], deepest=i == last)
            for i, (level, wanted) in enumerate(zip(ours, theirs, strict=True))
        )

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The distance of each fused level to the stage of the teacher."""
        del batch
        levels = zip(cast(nn.ModuleList, parts), _levels(student, "student"), _levels(teacher, "teacher"), strict=True)
        below: Tensor | None = None
        losses: list[Tensor] = []
        for fusion, ours, theirs in reversed(list(levels)):
            compared, below = cast(Fusion, fusion)(ours, below, theirs.shape[2:])
            losses.append(hierarchical_context_loss(compared, theirs))
        return {self.key: Term(torch.stack(losses).sum())}


def _levels(observed: Observed, role: str) -> list[Float[Tensor, "b c h w"]]:
    """Features from shallow to deep; those that have no positions as if they had one."""
    features = [at_least_float32(value) for value in observed.features]
    return [value if value.ndim == 4 else embedding(value, role)[:, :, None, None] for value in features]


def _resized(features: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c i j"]:
    if tuple(features.shape[2:]) == tuple(size):
        return features
    return functional.interpolate(features, tuple(size), mode="nearest")


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))
