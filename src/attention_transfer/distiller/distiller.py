"""The module that people train: teacher, student and methods in one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import set_mode
from attention_transfer.capture.opaque_modules import leave_uncompiled_where_it_must_be
from attention_transfer.capture.private_names import Move, TakesAlong
from attention_transfer.distiller.arguments import check_phase, checked
from attention_transfer.distiller.batch_checks import BatchChecks
from attention_transfer.distiller.building import hooked, prove
from attention_transfer.distiller.error_context import explaining
from attention_transfer.distiller.gradient_limits import Limits
from attention_transfer.distiller.network_pair import Deployed
from attention_transfer.distiller.notes import Notes
from attention_transfer.distiller.observed_network import Role
from attention_transfer.distiller.output import TASK, Output
from attention_transfer.distiller.output_checks import FirstBatches, readers_of_logits
from attention_transfer.distiller.plausibility import unusual
from attention_transfer.distiller.step import run
from attention_transfer.distiller.summary import in_a_line, summary
from attention_transfer.distiller.teacher import TeacherMemory
from attention_transfer.distiller.trained_parameters import Moving
from attention_transfer.errors import InputError
from attention_transfer.methods import Method, Phase, Reads
from attention_transfer.methods.layers.maps import never_halved
from attention_transfer.models import Input, Renormalise
from attention_transfer.phases import num_epochs, stretch_of


class Distiller(TakesAlong):
    """A student that learns from a teacher by any number of methods.

    Building it proves, on noise of the example's shape, that everything the methods want can be read. Parameters,
    buffers, modes and random generators are left as they were. The forward pass runs the teacher without gradient, then
    the student, and sums the loss terms in float32.

    The student stays the user's own object. The teacher is frozen; it is neither in `parameters()` nor in
    `state_dict()`, but follows the distiller to another device, dtype or memory format. So does what methods learn and
    remember, which never goes below float32.

    The loop that is right for every method::

        optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
        for epoch in range(distiller.num_epochs(100)):
            distiller.set_epoch(epoch)
            distiller.train()
            for images, labels, *index in loader:
                out = distiller(images, labels, *index)
                optimizer.zero_grad()
                out.loss.backward()
                optimizer.step()

    In several processes: `DistributedDataParallel(distiller, find_unused_parameters=True)`, as some parameters are
    reached by no term, or frozen in a phase.

    `torch.compile(distiller, fullgraph=True)` works from torch 2.10 on (before, a compiled distiller runs as it is),
    unless a method differentiates inside the step, matches heads of attention distillation or has `same_drop_path`.
    Compiled, the teacher does not stop after its last tap; what nothing reads is left out of the graph instead.

    Args:
        student: any network that returns logits.
        teacher: any other network; may be left out if no method needs one.
        methods: what is transferred; each brings its weight.
        task_weight: weight of the cross-entropy with the labels; 0 trains without labels.
        example: images of the shape, dtype and device of training; their values are not looked at.
        student_input: how the student's images are normalised. With `teacher_input`, the teacher's are derived from
            them.
        teacher_input: how the teacher expects its images, their size included.
        train_labels: class indices of all training images, by dataset index; needed by some methods.

    Attributes:
        student: the network that learns.
        reads_teacher_logits: whether the teacher must run to its end.
        teacher_images: a function of the student's images that gives the teacher's.

    Raises:
        ValueError: for one network in both roles, networks without values, or methods that do not fit the
            networks.
        CaptureError: for a tap that does not exist, never fires, is overwritten or carries no gradient.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        methods: Sequence[Method] = (),
        *,
        example: Float[Tensor, "b 3 h w"],
        task_weight: float = 1.0,
        student_input: Input | None = None,
        teacher_input: Input | None = None,
        train_labels: Int64[Tensor, " n"] | None = None,
    ) -> None:
        super().__init__()
        leave_uncompiled_where_it_must_be(Distiller)
        methods, task_weight, train_labels = checked(
            student,
            teacher,
            methods,
            example,
            task_weight=task_weight,
            inputs={"student_input": student_input, "teacher_input": teacher_input},
            train_labels=train_labels,
        )
        self.student = student
        self._size = tuple(example.shape[2:])
        self.task_weight = task_weight
        self.phase = Phase("all")
        self._epoch = self._phase_start = 0
        self._entered: Literal["not yet", "by epoch", "by hand"] = "not yet"
        self._detached = False
        self._checks: BatchChecks | None = None
        self.teacher_images = Renormalise(student_input, teacher_input).to(example)
        self._both = hooked(student, teacher, methods, example, self.teacher_images, task_weight)
        self.reads_teacher_logits = any(reads.teacher.logits for reads in self.reads)
        try:
            self._schedule()
            proved = prove(self._both, example, train_labels, self.phases)
        except BaseException:
            self.detach()
            raise
        self.parts, self._replaces, self._shapes = proved.parts, proved.replaces, proved.shapes
        self._checks = BatchChecks(
            {bound.name: bound.reads for bound in self._both.bound},
            task=task_weight > 0,
            channels=example.shape[1],
            classes=proved.classes,
            num_train_images=None if train_labels is None else len(train_labels),
        )
        self._first_batches = FirstBatches(readers_of_logits(self._both.bound, task_weight), self._both.models)
        self._moving = Moving(student, proved.parts, proved.reached, proved.reached_by_logits)
        if len(self.phases) == 1:
            self._entered = "by epoch"
        self._enter(self.phases[0] if len(self.phases) == 1 else self.phase, 0)
        self._notes = Notes()
        self._notes.say(unusual(self._both))

    # ------------------------------------------------------------------ the step

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        labels: Int64[Tensor, " b"] | Float[Tensor, "b k"] | None = None,
        index: Int64[Tensor, " b"] | None = None,
    ) -> Output:
        """One step: loss, its terms, and both networks' logits.

        Args:
            images: as the student expects them.
            labels: class indices, -100 for an image without a label, or class probabilities; needed unless
                `task_weight` is 0 and no method reads them.
            index: dataset index of each image; needed by some methods.

        Raises:
            InputError: for images, labels or index of another kind, shape or device, or of values that they cannot
                have; an accelerator is asked for values one step late. Compiled, values are not looked at.
        """
        self._check_attached()
        if self._entered == "not yet" and self.training and torch.is_grad_enabled():
            raise InputError(
                f"the training has {len(self.phases)} phases, {' and '.join(phase.name for phase in self.phases)}, and "
                "none was entered: call distiller.set_epoch(epoch) before the steps of each epoch"
            )
        assert self._checks is not None
        labels, index = self._checks(images, labels, index)
        with self._explaining({"images": images, "labels": labels, "index": index}):
            return self._step(images, labels, index)

    def check_batch(self, images: Tensor, labels: Tensor | None = None, index: Tensor | None = None) -> None:
        """Refuse a batch that a step could not learn from, by the `InputError` of the step."""
        self._check_attached()
        assert self._checks is not None
        self._checks(images, labels, index)

    def predict(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of the student as it is used after training.

        By itself, or where a method replaces something in it, with what the teacher gives for these images.

        Args:
            images: as the student expects them.

        Raises:
            InputError: for images of another kind or shape, or after `detach`.
        """
        self._check_attached()
        assert self._checks is not None
        self._checks.images(images)
        with self._explaining({"images": images}):
            teacher = self._both.read_teacher(images, None) if self._replaces else None
            logits = self._both.read_student(images, None, teacher, self.parts).logits
        assert logits is not None
        return logits

    def backward(self, out: Output) -> None:
        """Accumulate the gradient of a step; the same as `out.loss.backward()`."""
        out.backward()

    def remember_teacher(self, memory: TeacherMemory) -> None:
        """Read the outputs of the teacher from a cache in training steps that have dataset indices.

        See `attention_transfer.training.cache`. The image of a dataset index must be the same whenever an epoch is
        repeated.

        Raises:
            ValueError: if what the teacher gives depends on more than its images, or nothing is read of it.
        """
        if self._both.teacher is None:
            raise InputError("there is no teacher")
        self._both.teacher.remember(memory)

    # ------------------------------------------------------------------ what is trained

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that an optimiser made once for all phases should have: the student's and those of the methods.

        What does not move in a phase has a gradient of None there, and optimisers leave it alone.
        """
        return self._moving.parameters()

    def trained_modules(self) -> dict[str, nn.Module]:
        """The modules that the phase trains, by name."""
        return self._moving.modules()

    def unused_parameters(self) -> tuple[str, ...]:
        """Names of parameters that need a gradient and get none in this phase, for DistributedDataParallel."""
        return self._moving.unused()

    def num_epochs(self, epochs: int) -> int:
        """Epochs of all phases together, for the loop.

        Args:
            epochs: of the main phase, in which the student learns its task.

        Raises:
            ValueError: for less than one.
        """
        return num_epochs(self.phases, epochs)

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Begin an epoch of the whole training: enter its phase, and move the schedules of the weights to it.

        Args:
            epoch: counted from 0.
            epochs: of the main phase, as for `num_epochs`; needed only where a phase comes after it.

        Raises:
            ValueError: for an epoch outside of the training.
        """
        if self._checks is not None:
            self._checks.read_late()
        stretch = stretch_of(self.phases, epoch, epochs)
        self._epoch = int(epoch)
        if self._entered != "by hand":
            self._entered = "by epoch"
            if (stretch.phase, stretch.first) != (self.phase, self._phase_start):
                self._enter(stretch.phase, stretch.first)
        self._schedule()

    def set_phase(self, phase: Phase, first_epoch: int = 0) -> None:
        """Enter a phase of training by hand: which parameters move, and which terms count.

        From then on `set_epoch` moves nothing but the schedules.

        What is frozen is in evaluation mode and gets no gradient.

        Args:
            phase: to enter.
            first_epoch: epoch in which it begins.

        Raises:
            SettingError: for anything but a `Phase`.
            InputError: for one in which nothing is learned.
        """
        check_phase(phase, self._moving.terms)
        self._entered = "by hand"
        self._epoch = max(self._epoch, first_epoch)
        self._enter(phase, first_epoch)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that the methods ask for, in order; one that trains everything if they ask for none."""
        return tuple(phase for bound in self._both.bound for phase in bound.phases) or (Phase("all"),)

    @property
    def methods(self) -> tuple[Method, ...]:
        """What is transferred, with every setting that depended on the two networks decided."""
        return tuple(bound.method for bound in self._both.bound)

    @property
    def reads(self) -> tuple[Reads, ...]:
        """What each of the methods reads."""
        return tuple(bound.reads for bound in self._both.bound)

    @property
    def replaces(self) -> bool:
        """Whether a method replaces something in the student, which then always needs its teacher."""
        return self._replaces

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher."""
        return None if self._both.teacher is None else self._both.teacher.model

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about this distillation, in sentences. Of each a `DistillationWarning` was given once."""
        return tuple(self._notes.said)

    def summary(self) -> str:
        """The distillation as a table in plain text.

        Networks with their size and mode, a row for each method and pair of layers with the shapes that are compared
        (of the example's images) and the weight of the epoch, what is learned beside the student, phases and notes.
        """
        return summary(self._both, self._shapes, self.parts, self.phases, self.notes)

    def __repr__(self) -> str:
        return in_a_line(self._both, self.phase if len(self.phases) > 1 else None)

    @property
    def deployed(self) -> nn.Module:
        """The network as it is used after training.

        The student itself, or where a method replaces something in it, one module that runs student and teacher. Good
        for measuring only; it gives logits and no terms.
        """
        return Deployed(self, self.predict) if self._replaces else self.student

    def detach(self) -> None:
        """Give the teacher back in the modes and as trainable as it came; the distiller cannot be used any more."""
        self._both.release()
        self._detached = True
        if hasattr(self, "_moving"):
            self._moving.release()

    # ------------------------------------------------------------------ nn.Module

    def train(self, mode: bool = True) -> "Distiller":
        """Switch the student (and learned parts) to training or evaluation; the teacher as the methods want it."""
        self.training = mode
        for module in self.children():
            set_mode(module, mode)
        self._moving.set_modes()
        self._follow()
        return self

    def taken_along(self) -> Iterator[tuple[nn.Module, Callable[[Move], Move]]]:
        """Everything that goes with it to another device, type or memory format, the teacher included."""
        yield self.student, lambda move: move
        yield self.parts, lambda move: partial(never_halved, move)
        yield self.teacher_images, lambda move: move
        if self.teacher is not None:
            yield self.teacher, lambda move: move

    # ------------------------------------------------------------------ inside

    def _explaining(self, given: dict[str, Tensor | None]) -> AbstractContextManager[None]:
        return nullcontext() if torch.compiler.is_compiling() else explaining(given, self._both.models, self._size)

    def _step(self, images: Tensor, labels: Tensor | None, index: Tensor | None) -> Output:
        ran = run(self._both, self.parts, self.phase, Batch(images, labels, index), self._epoch)
        if not torch.compiler.is_compiling():
            if torch.is_grad_enabled():
                self._moving.check(ran.terms)
            outputs: dict[Role, Tensor | None] = {"teacher": ran.teacher_logits, "student": ran.logits}
            self._first_batches(images, outputs, training=self.training)
        limits = self._limits if any(term.limit is not None for term in ran.terms.values()) else None
        notes = self._notes if self.phase.trains != "parts" and not self.student.training else None
        return Output(ran.terms, ran.logits, ran.teacher_logits, limits, notes)

    def _check_attached(self) -> None:
        if self._detached:
            raise InputError("this distiller was detached from its networks: build a new one")

    def _enter(self, phase: Phase, first_epoch: int) -> None:
        self.phase, self._phase_start = phase, first_epoch
        self._moving.enter(phase)
        self._schedule()
        self._follow()

    def _schedule(self) -> None:
        """Move to the epoch whatever goes by it."""
        of_phase = max(0, self._epoch - self._phase_start)
        for bound in self._both.bound:
            bound.set_epoch(of_phase)
        if hasattr(self, "_moving"):
            self._limits = Limits(TASK, self._moving.named, self._moving.unreached(TASK), of_phase)

    def _follow(self) -> None:
        if self._both.teacher is not None:
            self._both.teacher.follow(self.training)
