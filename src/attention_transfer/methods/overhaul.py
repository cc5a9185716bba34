"""Feature distillation overhauled: what the teacher has before its activations, as far as it matters after them.

>>> import torch
>>> margin_of_norm(torch.tensor([1.0]), torch.tensor([0.0])).shape
torch.Size([1])
>>> Overhaul(margins="data").key
'ofd'
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32, same_size
from attention_transfer.methods.layers.stage_selection import check_stages, paired_layers
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term
from attention_transfer.models.introspection.description import Description
from attention_transfer.models.introspection.pre_activations import BatchNorms, Norm
from attention_transfer.parallel import gathered

# Where fewer values than this share are negative, their mean says nothing.
_FEWEST_NEGATIVE = 0.001
_FAR_BELOW = 3.0  # standard deviations


def partial_distance(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"], margin: Float[Tensor, "1 c 1 1"]
) -> Float[Tensor, ""]:
    """Squared distance to the teacher's features, summed over an image and averaged over the batch.

    Eqs. 1 to 3 of Heo et al. (ICCV 2019, arXiv:1904.01866). Values below the margin count as the margin. Where the
    teacher's value is negative, a student below it is right already, for both are zero after a ReLU.

    Args:
        student: before the activation.
        teacher: before the activation.
        margin: of each channel, at most 0.
    """
    wanted = torch.maximum(teacher, margin)
    counts = (student > wanted) | (wanted > 0)
    return torch.where(counts, student - wanted, 0.0).square().sum() / len(student)


def margin_of_norm(scale: Float[Tensor, " c"], shift: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
    """The mean of what is negative after a batch norm, whose values are taken to be normally distributed.

    Eqs. 4 and 5 of Heo et al. Where hardly anything is negative, −3 standard deviations, as in the authors' code.

    Args:
        scale: standard deviation; its sign does not count.
        shift: mean.
    """
    deviation, mean = scale.double().abs().clamp_min(1e-12), shift.double()
    share = torch.special.ndtr(-mean / deviation)
    density = (-(mean / deviation).square() / 2).exp() / (2 * torch.pi) ** 0.5
    margin = mean - deviation * density / share.clamp_min(_FEWEST_NEGATIVE)
    return torch.where(share > _FEWEST_NEGATIVE, margin, -_FAR_BELOW * deviation).to(scale.dtype)


class Connector(nn.Module):
    """Brings the student's channels to the teacher's, and knows the teacher's margins.

    Args:
        student: features of the probe.
        teacher: features of the probe.
        norm: that made the teacher's; None where the margins are to be estimated from what is seen in training.
    """

    # Margins are gathered; the norm's running statistics are those of the first process, as everywhere.
    def __init__(self, student: Tensor, teacher: Tensor, norm: Norm | None) -> None:
        super().__init__()
        channels = teacher.shape[1]
        convolution = nn.Conv2d(student.shape[1], channels, 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        self.connect = nn.Sequential(convolution, nn.BatchNorm2d(channels))
        self.margin: Tensor
        margin = torch.zeros(channels) if norm is None else margin_of_norm(norm.scale.detach(), norm.shift.detach())
        self.register_buffer("margin", at_least_float32(margin))
        if norm is None:
            # How many negative values of each channel the margin is the mean of.
            self.register_buffer("seen", torch.zeros(channels))

    def forward(self, student: Tensor, teacher: Tensor) -> Float[Tensor, ""]:
        """The distance of this pair of layers; in training, margins that are estimated take the batch into account."""
        theirs, ours = same_size(at_least_float32(teacher), at_least_float32(student))
        return partial_distance(cast(Tensor, self.connect(ours)), theirs, self._margin(theirs)[None, :, None, None])

    @torch.no_grad()
    def _margin(self, teacher: Float[Tensor, "b c h w"]) -> Float[Tensor, " c"]:
        if not hasattr(self, "seen"):
            return self.margin
        negative = teacher.clamp_max(0).sum((0, 2, 3))
        batch = torch.stack([negative, (teacher < 0).sum((0, 2, 3)).to(negative.dtype)])
        total, count = gathered(batch[None]).sum(0)
        seen = self.get_buffer("seen") + count
        # The running mean in this form stays exact where sums would outgrow float32.
        margin = self.margin + (total - count * self.margin) / seen.clamp_min(1)
        if self.training:
            self.margin.copy_(margin)
            self.get_buffer("seen").copy_(seen)
        return margin


@dataclass(frozen=True)
class Overhaul(Method):
    """Features before the last activation of each stage, through a connector that is learned along.

    OFD: Heo, Kim, Yun, Park, Kwak & Choi, *A comprehensive overhaul of feature distillation* (ICCV 2019,
    arXiv:1904.01866). What is negative in the teacher need only be negative in the student, and what is very negative
    is raised to a margin of its channel.

    Args:
        weight: of the sum over stages; 0.001 in the benchmark on CIFAR-100 and in the authors' code for ImageNet,
            0.0001 from ResNet-50 to MobileNet.
        margins: `norm` computes each channel's margin from the teacher's batch norm before the activation, as the
            authors do, and estimates it from the data where there is none; `data` always takes the mean of the negative
            values seen in training so far.
        teacher_runs: `train` normalises the teacher's features with the statistics of the batch (and draws its
            dropout), as the authors' code does; `eval` runs it as it is used. Its own statistics are left alone.
        stages: which top-level stages, counted from 0 (negative from the end), the same in both networks; None takes
            all, and where one network has more, as many of them as the other has, spread evenly over depth.
        student_layers: module paths in the student, instead of stages; their input is read.
        teacher_layers: module paths in the teacher, one for each of `student_layers`.

    Raises:
        ValueError: for layers that do not pair up, or stages whose activation could not be found.

    Departs from the paper: it is written for ReLU networks of equal resolution. Features of different height or width
    are averaged to the smaller size first; stages that end without an activation are read as they are; of transformers,
    the tokens after a block are read as a grid. In a sum with a shortcut, the norm of the main branch alone gives the
    margin, as in the authors' code. A stage weighs half as much as the one after it, as in their code.
    """

    key: ClassVar[str] = "ofd"

    weight: float = 0.001
    margins: Literal["norm", "data"] = "norm"
    teacher_runs: Literal["train", "eval"] = "train"
    stages: tuple[int, ...] | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stages(self.stages, self.student_layers, self.teacher_layers)

    @property
    def teacher_mode(self) -> Literal["eval", "train", "same noise"]:
        """As `teacher_runs` says."""
        return self.teacher_runs

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Features before the last activations, and the batch norms that make the teacher's."""
        if teacher is None:
            raise InputError("the overhaul of feature distillation needs a teacher")
        theirs, ours = paired_layers(teacher, student, self, "pre", "pre")
        return Reads(Request(theirs, provide=(BatchNorms(),)), Request(ours))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        """Connectors to the teacher's channels, with the margins of its features."""
        connectors = nn.ModuleList()
        for theirs, ours, norm in zip(teacher.features, student.features, teacher[BatchNorms()], strict=True):
            # A norm of some of the channels says nothing about the others.
            known = norm is not None and self.margins == "norm" and len(norm.scale) == theirs.shape[1]
            connectors.append(Connector(ours, theirs, norm if known else None))
        return connectors

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The partial distance to features above their margin; deeper stages weigh more."""
        del batch
        connectors = cast(nn.ModuleList, parts)
        pairs = zip(connectors, student.features, teacher.features, strict=True)
        distances = [cast(Tensor, connector(ours, theirs)) for connector, ours, theirs in pairs]
        last = len(distances) - 1
        weighted = [distance / 2 ** (last - i) for i, distance in enumerate(distances)]
        return {self.key: Term(torch.stack(weighted).sum())}
