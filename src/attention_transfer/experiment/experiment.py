"""Experiment: everything that determines a training run, as one frozen dataclass.

>>> experiment = Experiment("mine", student="resnet8", teacher="resnet20")
>>> experiment.tiny().training.batch_size
8
>>> Experiment("mine", student="resnet8", task_weight=0.5)
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: without methods a task_weight of 0.5 only scales the learning rate: give 1
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from attention_transfer.errors import InputError
from attention_transfer.experiment.data import Data
from attention_transfer.experiment.optimisation import Optimisation
from attention_transfer.experiment.training import Training
from attention_transfer.methods import Method
from attention_transfer.models.naming import split_weights
from attention_transfer.models.untrained import smaller
from attention_transfer.phases import Phase, num_epochs
from attention_transfer.pretraining import MaskedAutoencoding
from attention_transfer.settings import require

_DIGITS = 10  # classes of cluttered-digits, which need no download


@dataclass(frozen=True)
class Experiment:
    """Everything that determines a run.

    Args:
        recipe: name of the recipe that the settings come from.
        student: model to train: a name of this package, `timm:NAME`, `torchvision:NAME`, `hf:NAME`, a run folder, or
            any of these names followed by `@FILE` with weights to start from.
        teacher: model to learn from, written as the student is; None trains the baseline.
        methods: distillation methods, each with its weight.
        task_weight: weight of the cross-entropy with the labels; 0 trains without labels.
        untrained_teacher: accept a teacher with random weights; for trying things out.
        teacher_mean: mean per channel that the teacher's images are normalised with, for pixels in 0…1; None takes that
            of its weights (run folders, published weights), or else that of the data set.
        teacher_std: standard deviation per channel that the teacher's images are normalised with, for pixels in 0…1;
            None takes that of its weights, or else that of the data set.
        match_classes: `index` pairs the classes of pre-trained networks with those of the data set by class index, for
            names that are spelled in another way or language; None pairs them by name, where both have names.
        seed: seed of initialisation, order, augmentation and everything else that is random.
        pretraining: pre-train without labels and teacher by masked autoencoding; None trains with labels or a teacher.
    """

    recipe: str
    student: str
    teacher: str | None = None
    methods: tuple[Method, ...] = ()
    task_weight: float = 1.0
    untrained_teacher: bool = False
    teacher_mean: tuple[float, float, float] | None = None
    teacher_std: tuple[float, float, float] | None = None
    match_classes: Literal["index"] | None = None
    seed: int = 0
    data: Data = field(default_factory=Data)
    optimisation: Optimisation = field(default_factory=Optimisation)
    training: Training = field(default_factory=Training)
    pretraining: MaskedAutoencoding | None = None

    def __post_init__(self) -> None:
        require(-(2**63) <= self.seed < 2**63, "seed", "a whole number of 64 bits, below 2^63", self.seed)
        require(0 <= self.task_weight < math.inf, "task_weight", "at least 0", self.task_weight)
        if (self.teacher_mean is None) != (self.teacher_std is None):
            raise InputError(
                "teacher_mean and teacher_std belong together, but only one was given: give both, or neither"
            )
        # With a single loss term, its weight and the learning rate are one knob.
        if not self.methods and self.task_weight != 1:
            raise InputError(
                f"without methods a task_weight of {self.task_weight} only scales the learning rate: give 1"
            )
        if self.pretraining is not None and (self.methods or self.teacher is not None):
            raise InputError("pre-training takes neither a teacher nor methods: leave them out")
        last = max(self.training.snapshot_epochs or (0,))
        wanted = f"within the {self.epochs} epochs of the run (recipes bring some: --snapshot-epochs None, or others)"
        require(last <= self.epochs, "snapshot_epochs", wanted, last)

    @property
    def epochs(self) -> int:
        """Epochs of all phases of the methods together; those of the training where no method has phases."""
        phases = [phase for method in self.methods for phase in method.phases] or [Phase("all")]
        return num_epochs(phases, self.training.epochs)

    def tiny(self, *, own_data: bool = False) -> "Experiment":
        """The same experiment made so small that it runs in seconds: a few steps under an untrained teacher.

        Args:
            own_data: take a few images of the data set that is named, at least one of each class; otherwise cluttered
                digits, which need no download.
        """
        data, snapshots = self.data, self.training.snapshot_epochs
        full = data.image_size or (data.own_side if own_data else None)
        side = min(full or 32, 64)
        teacher = None if self.teacher is None else smaller(split_weights(self.teacher)[0], side)
        return replace(
            self,
            student=smaller(split_weights(self.student)[0], side),
            teacher=teacher,
            methods=tuple(
                method.stretched(1 / self.training.epochs).shrunk(side / (full or side), None if own_data else _DIGITS)
                for method in self.methods
            ),
            untrained_teacher=teacher is not None,
            # The largest networks need half a second an image for all that is done with it.
            data=data.few(side) if own_data else data.few_digits(side),
            # The same share of the training.
            optimisation=replace(
                self.optimisation, warmup_epochs=self.optimisation.warmup_epochs / self.training.epochs
            ),
            training=replace(
                self.training,
                epochs=1,
                batch_size=8,
                snapshot_epochs=None if snapshots is None else tuple(sorted({min(epoch, 1) for epoch in snapshots})),
            ),
        )
