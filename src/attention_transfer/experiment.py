"""One training run as data: what is trained, on what, how. Everything is a frozen dataclass that survives JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import tyro

from attention_transfer.data.dataset import check_validation_fraction
from attention_transfer.data.request import Request
from attention_transfer.data.selection import Selection
from attention_transfer.methods import METHODS, ClassAttention, Method


@dataclass(frozen=True)
class Data:
    """Which images, and how they are prepared.

    Args:
        name: `cluttered-digits`, `cifar10`, `cifar100`, `npz:PATH`, `folder:PATH`, `tiny-imagenet`, `cub200`, `stl10`
            or `scenes`.
        root: folder that holds (or receives) all but `cluttered-digits`, `npz:PATH` and `folder:PATH`.
        image_size: side in pixels that images are brought to; None keeps the data set's own (224 for photographs).
        augment: what happens to training images; `auto` is `crop-flip` for small images, `random-resized-crop` for
            photographs and `crop` for digits, which must not be mirrored. Crops of small images are shifted by up to an
            eighth of the side and filled with black, by `reflect-crop-flip` with the image's reflection.
            `trivial-augment` changes each image further after `crop-flip`.
        validation_fraction: share of the training images, 0 ≤ f < 1, set aside by (seed, index) for validation.
        train_classes: learn only from images of the first so many classes, in the data set's order; networks keep all
            classes, and the test images of the others are also measured apart, as `unseen`. None learns from all.
        train_fraction: of every class learn only from this share of its images, 0 < f ≤ 1, the first in the data set's
            order; the number is rounded, at least one. None uses all.
        train_limit: learn only from the first so many images of those that `train_classes` and `train_fraction` leave;
            None uses all. What is set aside for validation is taken from what these three leave.
        test_limit: measure on only the first so many test images; None uses all.
        num_workers: processes that decode photographs; small sets live on the device and need none.
    """

    name: Annotated[str, tyro.conf.arg(name="data")] = "cluttered-digits"
    root: Annotated[Path | None, tyro.conf.arg(name="data-root")] = None
    image_size: int | None = None
    augment: Literal[
        "auto", "none", "crop", "crop-flip", "reflect-crop-flip", "trivial-augment", "random-resized-crop"
    ] = "auto"
    validation_fraction: float = 0.0
    train_classes: int | None = None
    train_fraction: float | None = None
    train_limit: int | None = None
    test_limit: int | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        # The data room says what it cannot deliver; settings are refused before it is asked.
        check_validation_fraction(self.validation_fraction)
        Request(image_size=self.image_size, selection=Selection(None, self.train_fraction, self.train_limit))
        _require(
            self.train_classes is None or self.train_classes >= 1, "train_classes", "at least 1", self.train_classes
        )
        _require(self.test_limit is None or self.test_limit >= 1, "test_limit", "at least 1", self.test_limit)
        _require(self.num_workers >= 0, "num_workers", "at least 0", self.num_workers)


@dataclass(frozen=True)
class Optimisation:
    """Optimiser and learning-rate schedule.

    Args:
        optimizer: `momentum` is plain SGD with momentum, `nesterov` its variant; any other name is timm's.
        learning_rate: at its peak.
        momentum: of the SGD variants.
        weight_decay: in units of the optimiser.
        decay_norm_and_bias: whether 1-D parameters are decayed too, as the CIFAR protocols have it.
        schedule: `steps` multiplies by `step_factor` at each of `steps`; `cosine` falls to `min_learning_rate`.
        steps: fractions of the whole training, ascending.
        step_factor: factor of each step.
        warmup_epochs: linear rise from zero.
        min_learning_rate: absolute end of the cosine.
        clip_gradient_norm: largest norm of the whole gradient; None leaves it alone.
    """

    optimizer: str = "momentum"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norm_and_bias: bool = True
    schedule: Literal["steps", "cosine", "constant"] = "steps"
    steps: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    min_learning_rate: float = 0.0
    clip_gradient_norm: float | None = None

    def __post_init__(self) -> None:
        _require(0 < self.learning_rate < math.inf, "learning_rate", "above 0", self.learning_rate)
        _require(0 <= self.momentum < 1, "momentum", "0 ≤ m < 1", self.momentum)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0", self.weight_decay)
        _require(self.warmup_epochs >= 0, "warmup_epochs", "at least 0", self.warmup_epochs)
        ascending = list(self.steps) == sorted(self.steps) and all(0 < step <= 1 for step in self.steps)
        _require(ascending, "steps", "fractions of the training between 0 and 1, ascending", self.steps)


@dataclass(frozen=True)
class Training:
    """How long, how large, on what.

    Args:
        epochs: passes over the training images.
        batch_size: images per step and process.
        device: `auto` takes an accelerator if there is one.
        precision: arithmetic of the networks; losses are always float32.
        channels_last: memory format of networks and images; None means yes for networks of convolutions.
        compile: run the distiller through `torch.compile`.
        threads: CPU threads; None leaves torch's choice.
        checkpoint_every_steps: write a checkpoint inside epochs too; None only at their ends.
        evaluate_every_epochs: how often the student is measured; the last epoch always is.
        snapshot_epochs: after so many finished epochs (0: before training) the student is also kept apart, under
            snapshots/epoch-N of the run folder, which opens as a model; ascending. None keeps only the last.
    """

    epochs: int = 240
    batch_size: int = 64
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool | None = None
    compile: bool = False
    threads: int | None = None
    checkpoint_every_steps: int | None = None
    evaluate_every_epochs: int = 1
    snapshot_epochs: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        _require(self.batch_size >= 2, "batch_size", "at least 2 (batch norm needs them)", self.batch_size)
        _require(self.evaluate_every_epochs >= 1, "evaluate_every_epochs", "at least 1", self.evaluate_every_epochs)
        every = self.checkpoint_every_steps
        _require(every is None or every >= 1, "checkpoint_every_steps", "at least 1", every)
        _require(self.threads is None or self.threads >= 1, "threads", "at least 1", self.threads)
        snapshots = self.snapshot_epochs or ()
        ascending = list(snapshots) == sorted(set(snapshots)) and all(epoch >= 0 for epoch in snapshots)
        _require(ascending, "snapshot_epochs", "numbers of finished epochs, at least 0 and ascending", snapshots)


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a run.

    Args:
        recipe: name of the recipe that it came from.
        student: model to train: a name of ours, `timm:NAME`, `torchvision:NAME`, `hf:NAME`, a run folder, or any of
            these names followed by `@FILE` with weights to start from.
        teacher: model to learn from, written the same way; None trains the student alone.
        methods: what is transferred.
        task_weight: weight of the cross-entropy with the labels; 0 trains without labels.
        untrained_teacher: accept a teacher without weights, which teaches noise; for trying things out.
        teacher_mean: per channel, of the teacher's images, given pixels in 0…1; None where its weights say so
            themselves (run folders, published weights), or where they are those of the data.
        teacher_std: per channel, likewise.
        seed: of initialisation, order, augmentation and everything else that is random.
    """

    recipe: str
    student: str
    teacher: str | None = None
    methods: tuple[Method, ...] = ()
    task_weight: float = 1.0
    untrained_teacher: bool = False
    teacher_mean: tuple[float, float, float] | None = None
    teacher_std: tuple[float, float, float] | None = None
    seed: int = 0
    data: Data = field(default_factory=Data)
    optimisation: Optimisation = field(default_factory=Optimisation)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        _require(0 <= self.task_weight < math.inf, "task_weight", "at least 0", self.task_weight)
        if (self.teacher_mean is None) != (self.teacher_std is None):
            raise ValueError("give teacher_mean and teacher_std together, or neither")
        if not self.methods and self.task_weight != 1:
            raise ValueError(
                f"without methods a task_weight of {self.task_weight} only scales the learning rate: give 1"
            )
        last = max(self.training.snapshot_epochs or (0,))
        _require(last <= self.epochs, "snapshot_epochs", f"within the {self.epochs} epochs of the run", last)

    @property
    def epochs(self) -> int:
        """Epochs of all phases of the methods together; those of the training where no method has phases."""
        lengths = [phase.epochs for method in self.methods for phase in method.phases] or [None]
        return sum(self.training.epochs if length is None else length for length in lengths)

    def tiny(self) -> "Experiment":
        """The same experiment made so small that it runs in seconds: two steps on digits, an untrained teacher."""
        teacher = self.teacher.partition("@")[0] if self.teacher is not None else None
        data, snapshots = self.data, self.training.snapshot_epochs
        side = min(data.image_size or 32, 64)
        return replace(
            self,
            student=self.student.partition("@")[0],
            teacher=teacher,
            methods=tuple(_tiny(method, side / (data.image_size or side)) for method in self.methods),
            untrained_teacher=teacher is not None,
            # The largest networks need half a second an image for all that is done with it.
            data=Data(
                image_size=side,
                augment=data.augment,
                # Of the ten digits; a hundredth of one class is still a batch.
                train_classes=None if data.train_classes is None else min(data.train_classes, 5),
                train_fraction=None if data.train_fraction is None else max(data.train_fraction, 0.01),
                train_limit=16,
                test_limit=16,
            ),
            training=replace(
                self.training,
                epochs=1,
                batch_size=8,
                snapshot_epochs=None if snapshots is None else tuple(sorted({min(epoch, 1) for epoch in snapshots})),
            ),
        )


def _tiny(method: Method, scale: float) -> Method:
    """A method for the ten digits, and for images that are smaller by a factor, and maps with them."""
    if not isinstance(method, ClassAttention):
        return method
    return replace(
        method,
        top=None if method.top is None else min(method.top, 9),
        lowest=None if method.lowest is None else min(method.lowest, 9),
        resolution=None
        if method.resolution is None
        else max(int(scale * method.resolution), min(2, method.resolution)),
    )


def to_json(experiment: Experiment) -> dict[str, Any]:
    """Every field, as JSON holds it; methods carry their key as `name`."""
    return cast(dict[str, Any], _to_json(experiment))


def from_json(content: Mapping[str, Any]) -> Experiment:
    """The experiment that `to_json` wrote.

    Raises:
        ValueError: for a field or a method that does not exist; it may come from another version.
    """
    return cast(Experiment, _from_json(Experiment, content))


def _to_json(value: Any) -> Any:
    if isinstance(value, Method):
        return {"name": value.key} | _fields_to_json(value)
    if is_dataclass(value):
        return _fields_to_json(value)
    if isinstance(value, tuple):
        return [_to_json(item) for item in cast(tuple[Any, ...], value)]
    return str(value) if isinstance(value, Path) else value


def _fields_to_json(value: Any) -> dict[str, Any]:
    hints = get_type_hints(type(value))
    return {f.name: _to_json(_as(hints[f.name], getattr(value, f.name))) for f in fields(value)}


def _as(kind: Any, value: Any) -> Any:
    """Whole numbers of a float field as floats: 1 and 1.0 are the same setting and must read the same."""
    return float(value) if kind is float and isinstance(value, int) else value


def _from_json(kind: Any, value: Any) -> Any:
    """Read a value of a type: dataclasses, methods by name, tuples, optional ones; the rest as it is."""
    if get_origin(kind) in (Union, UnionType):
        kinds = [each for each in get_args(kind) if each is not type(None)]
        return None if value is None else _from_json(kinds[0], value)
    if kind is Method:
        if value["name"] not in METHODS:
            raise ValueError(f"there is no method {value['name']!r}; there are {', '.join(METHODS)}")
        return _from_json(METHODS[value["name"]], {k: v for k, v in value.items() if k != "name"})
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        known = {f.name for f in fields(kind)}
        strange = sorted(set(value) - known)
        if strange:
            raise ValueError(
                f"{cast(type, kind).__name__} has no {', '.join(strange)}; was it written by another version?"
            )
        return cast(Any, kind)(**{name: _from_json(hints[name], item) for name, item in value.items()})
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        each = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is Ellipsis else inner
        return tuple(_from_json(one, item) for one, item in zip(each, value, strict=True))
    if kind is Path:
        return Path(value)
    return _as(kind, value)


def _require(holds: bool, name: str, wanted: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, not {value}")
