"""FitNets: a middle layer of the student gives what a middle layer of the teacher gives.

>>> FitNet(hint_epochs=5).phases[0].epochs
5
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.batch import Batch
from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32, averaged_to
from attention_transfer.methods.layers.stage_selection import check_stages, paired_layers
from attention_transfer.methods.method import Method, Observed, Reads, Request, Term
from attention_transfer.models.introspection.description import Description
from attention_transfer.phases import Phase

_Size = tuple[int, ...]
_SIDES_OF_VOLUMES = 3


@dataclass(frozen=True)
class FitNet(Method):
    """Hints: the student's features, brought to the teacher's shape by a regressor learned along, match the teacher's.

    Romero et al., FitNets: Hints for Thin Deep Nets (ICLR 2015, arXiv:1412.6550), Eq. 3. By default in one stage beside
    the task, with one hint, as the public benchmarks run it; with `hint_epochs` in the paper's two stages.

    Args:
        weight: of the hint; 100 goes with the form `code`.
        form: `code` is the mean of squared differences over everything, as the benchmarks have it; `paper` half their
            sum per image, averaged over the batch, as Eq. 3 is printed.
        stages: which top-level stages, counted from 0 (negative from the end), the same in both networks; None takes
            the middle one of those that pair up, the second of three or four, as the benchmarks do.
        student_layers: module paths in the student, instead of stages.
        teacher_layers: module paths in the teacher, one for each of `student_layers`.
        batch_norm: whether the regressor has a batch norm after its convolution.
        rectify: whether it ends in a ReLU; None: where the teacher's stages end in an activation, or stand before one.
            Negative features could not be reached with it.
        hint_epochs: train student and regressor for so many epochs on the hint alone, before the training with the
            task and all other methods, from which the hint is then left out; None trains on everything at once.
        hint_learning_rate: of that first stage, constant; None keeps the schedule of the experiment.

    Raises:
        ValueError: for layers that do not pair up, or a first stage without epochs.

    Departs from the paper: its regressor is a convolution without padding that is as large as the difference of the two
    sizes wants. As in the benchmarks, a convolution of 1×1 is taken for equal sizes, one of 3×3 with stride 2 for twice
    the teacher's size, and a transposed one of 4×4 with stride 2 for half of it. For all other sizes, which they cannot
    handle or only with huge kernels, features are averaged over areas or interpolated to the teacher's size, and the
    convolution is 1×1. A batch norm follows; the paper knew none.
    """

    key: ClassVar[str] = "fitnet"
    volumes: ClassVar[bool] = True
    epoch_settings: ClassVar[tuple[str, ...]] = ("hint_epochs",)

    weight: float = 100.0
    form: Literal["code", "paper"] = "code"
    stages: tuple[int, ...] | None = None
    student_layers: tuple[str, ...] = ()
    teacher_layers: tuple[str, ...] = ()
    batch_norm: bool = True
    rectify: bool | None = None
    hint_epochs: int | None = None
    hint_learning_rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stages(self.stages, self.student_layers, self.teacher_layers)
        if self.hint_epochs is not None and self.hint_epochs < 1:
            raise InputError(f"hint_epochs must be at least 1, or None for one stage, not {self.hint_epochs}")
        if self.hint_learning_rate is not None and self.hint_epochs is None:
            raise InputError("hint_learning_rate is that of the first of two stages: give hint_epochs too")
        if self.hint_learning_rate is not None and not 0 < self.hint_learning_rate < float("inf"):
            raise InputError(f"hint_learning_rate must be a finite number above 0, not {self.hint_learning_rate}")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """A phase of hints alone before the training, where `hint_epochs` asks for it."""
        if self.hint_epochs is None:
            return ()
        return (
            Phase(
                "hint",
                terms=(self.key,),
                epochs=self.hint_epochs,
                learning_rate=self.hint_learning_rate,
                title="hints",
            ),
            Phase("task", without=(self.key,)),
        )

    def resolved(self, teacher: Description | None, student: Description) -> "FitNet":
        """With its layers decided: the middle stages of both networks."""
        if self.rectify is not None or teacher is None:
            return self
        theirs, _ = self._pairs(teacher, student)
        # Unknown ones, named by the user or not, are taken to end in one, as most networks have it.
        without = {stage.output for stage in teacher.stages if stage.pre_activation == stage.output}
        return replace(self, rectify=not without & set(theirs))

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        """Features of the hint and guided layers."""
        if teacher is None:
            raise InputError("hints need a teacher")
        theirs, ours = self._pairs(teacher, student)
        return Reads(Request(theirs), Request(ours))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        """One regressor for each pair, from the student's shape to the teacher's."""
        pairs = zip(student.features, teacher.features, strict=True)
        regressors = (
            Regressor(ours.shape[1:], theirs.shape[1:], batch_norm=self.batch_norm, rectify=bool(self.rectify))
            for ours, theirs in pairs
        )
        return nn.ModuleList(regressors).to(at_least_float32(student.features[0]).dtype)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        """The distance between the regressed features and the teacher's."""
        del batch
        pairs = zip(cast(nn.ModuleList, parts), student.features, teacher.features, strict=True)
        regressed = [(regressor(ours, _size(theirs.shape[1:])), theirs) for regressor, ours, theirs in pairs]
        value = torch.stack([hint_distance(ours, theirs, self.form) for ours, theirs in regressed]).sum()
        return {self.key: Term(value, of_images=lambda: self._of_images(regressed))}

    def _of_images(self, regressed: Sequence[tuple[Tensor, Tensor]]) -> Float[Tensor, " b"]:
        """The distance of each image."""
        values: list[Tensor] = []
        for ours, theirs in regressed:
            squares = (at_least_float32(ours) - at_least_float32(theirs)).square().flatten(1)
            values.append(squares.mean(1) if self.form == "code" else squares.sum(1) / 2)
        return torch.stack(values).sum(0)

    def _pairs(self, teacher: Description, student: Description) -> tuple[tuple[Tap, ...], tuple[Tap, ...]]:
        theirs, ours = paired_layers(teacher, student, self, "post", "post")
        if self.stages is None and not self.student_layers:
            middle = slice((len(ours) - 1) // 2, (len(ours) - 1) // 2 + 1)
            theirs, ours = theirs[middle], ours[middle]
        return theirs, ours


def hint_distance(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"], form: Literal["code", "paper"] = "code"
) -> Float[Tensor, ""]:
    """Mean of squared differences (`code`), or half their sum per image, averaged over the batch (`paper`).

    Args:
        student: after the regressor.
        teacher: taken as constant.
        form: see above.
    """
    ours, theirs = at_least_float32(student), at_least_float32(teacher.detach())
    if form == "code":
        return functional.mse_loss(ours, theirs)
    return functional.mse_loss(ours, theirs, reduction="sum") / (2 * len(ours))


class Regressor(nn.Module):
    """Brings features to another number of channels and another size.

    Args:
        given: channels, height and width of what it takes, and of volumes the time before height.
        wanted: the same of what it gives.
        batch_norm: whether a batch norm follows the convolution.
        rectify: whether a ReLU comes last.
    """

    def __init__(self, given: torch.Size, wanted: torch.Size, *, batch_norm: bool, rectify: bool) -> None:
        super().__init__()
        channels = given[0], wanted[0]
        size, self._size = _size(given), _size(wanted)
        if len(size) != len(self._size):
            raise InputError(
                f"hints are of sides {self._size} in the teacher and {size} in the student: name layers of which both "
                "are of images, or both of volumes"
            )
        volumes = len(size) == _SIDES_OF_VOLUMES
        plain, transposed, norm = (
            (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d)
            if volumes
            else (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
        )
        self.convolution: nn.Module
        if size == _doubled(self._size):
            self.convolution = plain(*channels, kernel_size=3, stride=2, padding=1)
        elif _doubled(size) == self._size:
            self.convolution = transposed(*channels, kernel_size=4, stride=2, padding=1)
        else:
            self.convolution = plain(*channels, kernel_size=1)
        self.norm = norm(wanted[0]) if batch_norm else nn.Identity()
        self.activation = nn.ReLU() if rectify else nn.Identity()

    def forward(self, features: Float[Tensor, "b c h w"], size: _Size | None = None) -> Float[Tensor, "b d x y"]:
        """What the features become.

        Args:
            features: of the student.
            size: height and width of the teacher's, for images of another size than it was made for.
        """
        features = features.to(next(self.parameters()).dtype)
        size = size or self._size
        if isinstance(self.convolution, nn.Conv2d | nn.Conv3d) and set(self.convolution.kernel_size) == {1}:
            features = _resized(features, size)
        # Halves of odd sizes are rounded by one network this way, and by another that way.
        return self.activation(self.norm(_resized(self.convolution(features), size)))


def _size(shape: torch.Size) -> _Size:
    return tuple(shape[1:])


def _doubled(size: _Size) -> _Size:
    return tuple(2 * side for side in size)


def _resized(features: Tensor, size: _Size) -> Tensor:
    """Averaged over areas where that makes them smaller, then interpolated where they must grow."""
    smaller = tuple(map(min, features.shape[2:], size))
    features = averaged_to(features, smaller)
    if smaller != size:
        mode = "trilinear" if len(size) == _SIDES_OF_VOLUMES else "bilinear"
        features = functional.interpolate(features, size, mode=mode, align_corners=False)
    return features
