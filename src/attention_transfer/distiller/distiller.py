"""The module that people train: teacher, student and methods in one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from attention_transfer.batch import Batch
from attention_transfer.capture import Images, Where, set_mode
from attention_transfer.capture.opaque_modules import leave_uncompiled_where_it_must_be
from attention_transfer.capture.outputs import first_image
from attention_transfer.capture.private_names import Move, TakesAlong
from attention_transfer.distiller.arguments import check_phase, checked, task_of
from attention_transfer.distiller.batch_checks import BatchChecks
from attention_transfer.distiller.building import checks_of, hooked, prove
from attention_transfer.distiller.error_context import explaining
from attention_transfer.distiller.gradient_limits import Limits
from attention_transfer.distiller.network_pair import Deployed
from attention_transfer.distiller.notes import Notes
from attention_transfer.distiller.output import Output
from attention_transfer.distiller.output_checks import FirstBatches, readers_of_logits
from attention_transfer.distiller.plausibility import unusual
from attention_transfer.distiller.step import output_of, run
from attention_transfer.distiller.summary import in_a_line, summary
from attention_transfer.distiller.teacher import TeacherMemory
from attention_transfer.distiller.teacher_arguments import TeacherArguments
from attention_transfer.distiller.trained_parameters import Moving
from attention_transfer.distiller.training_position import TrainingPosition
from attention_transfer.errors import InputError
from attention_transfer.methods import Method, Phase, Reads
from attention_transfer.methods.layers.maps import never_halved
from attention_transfer.models import Input
from attention_transfer.phases import num_epochs


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

    The room's docstring says how it is compiled, and how it runs in several processes.

    Args:
        student: any network.
        teacher: any other network; several by name, or in a list, which gives them numbers; may be left out if no
            method needs one.
        methods: what is transferred; each brings its weight, and where there are several teachers, the name of its own.
        task_weight: weight of the task's loss; 0 trains without labels.
        task_loss: `cross-entropy`, `binary-cross-entropy` (several hot labels, or one logit), `mse`, `smooth-l1`, or a
            function `(student_output, labels) -> scalar`; None where the labels are learned by a loss of your own.
        example: images of the shape, dtype and device of training, whose values are not looked at: a tensor, or a list
            of images where the networks take lists. With labels beside them, `(images, labels)`, a function as
            `task_loss` is tried out, too.
        student_input: how the student's images are normalised. With `teacher_input`, the teacher's are derived from
            them.
        teacher_input: how the teacher expects its images, their size included; by name where there are several.
        student_logits: where the logits are in what the student returns, if anything reads them: a key, an index, a
            path such as `decoder.logits`, or a function of the output. None knows the usual ones.
        teacher_logits: same as for `student_logits`; by name where there are several.
        student_takes_labels: whether the student is called with `(images, labels)`, as torchvision's detection networks
            are while they train.
        train_labels: class indices of all training images, by dataset index; needed by some methods.
        teacher_weights: by name; multiply the weights of all methods that learn from the teacher.
        teacher_dropping: with which probability a teacher is left out for an image, unless its loss is the largest for
            it; needs dataset indices.
        teacher_device: where a teacher stays, wherever the student goes; by name where there are several.

    Attributes:
        student: the network that learns.
        reads_teacher_logits: whether the teacher must run to its end.

    Raises:
        InputError: for one network in both roles, networks without values, or methods that do not fit the networks.
        CaptureError: for a tap that does not exist, never fires, is overwritten or carries no gradient.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Mapping[str, nn.Module] | Sequence[nn.Module] | None = None,
        methods: Sequence[Method] = (),
        *,
        example: Images | tuple[Images, Any],
        task_weight: float = 1.0,
        task_loss: str | Callable[[Any, Any], Tensor] | None = "cross-entropy",
        student_input: Input | None = None,
        teacher_input: Input | Mapping[str, Input] | None = None,
        student_logits: Where | None = None,
        teacher_logits: Where | Mapping[str, Where] | None = None,
        student_takes_labels: bool = False,
        train_labels: Int64[Tensor, " n"] | None = None,
        teacher_weights: Mapping[str, float] | None = None,
        teacher_dropping: float = 0.0,
        teacher_device: torch.device | str | Mapping[str, torch.device | str] | None = None,
    ) -> None:
        super().__init__()
        leave_uncompiled_where_it_must_be(Distiller)
        about = student_input, teacher_input, teacher_logits, teacher_weights, teacher_device, teacher_dropping
        setup = checked(
            student,
            TeacherArguments(teacher, *about),
            methods,
            example,
            task_of(task_loss, task_weight),
            student_logits=student_logits,
            takes_labels=student_takes_labels,
            train_labels=train_labels,
        )
        self.student, example = student, setup.example
        self.task_weight = 0.0 if setup.task is None else setup.task.weight
        self._size = tuple(first_image(example).shape[2:]) if isinstance(example, Tensor) else ()
        self._detached = False
        self._checks: BatchChecks | None = None
        self._images = nn.ModuleDict({name: said.images for name, said in setup.teachers.items()})
        self._images.to(first_image(example))
        self._stay = frozenset(name for name, said in setup.teachers.items() if said.device is not None)
        self._both = hooked(setup)
        self.reads_teacher_logits = any(reads.teacher.logits for reads in self.reads)
        self._position = TrainingPosition(self.phases)
        try:
            self._schedule()
            proved = prove(self._both, setup, self.phases)
            self._checks = checks_of(self._both, setup, proved.outputs)
        except BaseException:
            self.detach()
            raise
        self.parts, self._replaces, self._shapes = proved.parts, proved.replaces, proved.shapes
        self._first_batches = FirstBatches(readers_of_logits(self._both), self._both.models)
        self._moving = Moving(student, proved.parts, proved.reached, proved.reached_by_output)
        self._enter()
        self._notes = Notes()
        self._notes.say(unusual(self._both))

    def forward(
        self,
        images: Images,
        labels: Int64[Tensor, " b"] | Float[Tensor, "b k"] | Any = None,
        index: Int64[Tensor, " b"] | None = None,
    ) -> Output:
        """One step: loss, its terms, and what the networks return.

        Args:
            images: as the student expects them.
            labels: class indices, -100 for an image without a label, or class probabilities; or what else the task's
                loss takes, such as lists of boxes. Needed where labels are learned or a method reads them.
            index: dataset index of each image; needed by some methods.

        Raises:
            InputError: for images, labels or index of another kind, shape or device, or of values that they cannot
                have; an accelerator is asked for values one step late. Compiled, values are not looked at.
        """
        self._check_attached()
        if self.training and torch.is_grad_enabled():
            self._position.check_entered()
        assert self._checks is not None
        labels, index = self._checks(images, labels, index)
        with self._explaining({"images": images, "labels": labels, "index": index}):
            return self._step(images, labels, index)

    def check_batch(self, images: Images, labels: Any = None, index: Tensor | None = None) -> None:
        """Refuse a batch that a step could not learn from, by the `InputError` of the step."""
        self._check_attached()
        assert self._checks is not None
        self._checks(images, labels, index)

    def predict(self, images: Images) -> Any:
        """What the student returns as it is used after training: logits where it has some, or its output as it comes.

        By itself, or where a method replaces something in it, with what the teacher gives for these images.

        Args:
            images: as the student expects them.
        """
        self._check_attached()
        assert self._checks is not None
        self._checks.images(images)
        with self._explaining({"images": images}):
            return self._both.predict(images, self.parts, replaces=self._replaces)

    def backward(self, out: Output) -> None:
        """Accumulate the gradient of a step; the same as `out.loss.backward()`."""
        out.backward()

    def remember_teacher(self, memory: TeacherMemory, teacher: str | None = None) -> None:
        """Read the outputs of a teacher from a cache in training steps that have dataset indices.

        The image of a dataset index must be the same whenever an epoch is repeated. See `training/cache.py`.

        Args:
            memory: the cache.
            teacher: its name, where there are several.

        Raises:
            InputError: if what the teacher gives depends on more than its images, or nothing is read of it.
        """
        self._both.teachers[self._both.name_of(teacher)].remember(memory)

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
            epochs: of the main phase, in which the student learns its task; at least 1.
        """
        return num_epochs(self.phases, epochs)

    def set_epoch(self, epoch: int, epochs: int | None = None) -> None:
        """Begin an epoch of the whole training: enter its phase, and move the schedules of the weights to it.

        Args:
            epoch: counted from 0, within the training.
            epochs: of the main phase, as for `num_epochs`; needed only where a phase comes after it.
        """
        if self._checks is not None:
            self._checks.read_late()
        if self._position.set_epoch(epoch, epochs):
            self._enter()
        self._schedule()

    def set_phase(self, phase: Phase, first_epoch: int = 0) -> None:
        """Enter a phase of training by hand: which parameters move, and which terms count.

        From then on `set_epoch` moves schedules alone. What is frozen is in evaluation mode and gets no gradient.

        Args:
            phase: to enter.
            first_epoch: epoch in which it begins.

        Raises:
            SettingError: for anything but a `Phase`.
            InputError: for one in which nothing is learned.
        """
        check_phase(phase, self._moving.terms)
        self._position.set_phase(phase, first_epoch)
        self._enter()

    @property
    def phase(self) -> Phase:
        """The phase that the training is in."""
        return self._position.phase

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
        """The only teacher, frozen; None where there is none. Several are in `teachers`."""
        return self.teachers[self._both.name_of(None)] if self._both.teachers else None

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """The frozen teachers by name; one without a name is called `teacher`."""
        return {name: teacher.model for name, teacher in self._both.teachers.items()}

    @property
    def teacher_images(self) -> nn.Module:
        """Makes the only teacher's images of the student's."""
        return self.images_for() if self._both.teachers else nn.Identity()

    def images_for(self, teacher: str | None = None) -> nn.Module:
        """What makes a teacher's images of the student's; by the teacher's name, where there are several."""
        return self._images[self._both.name_of(teacher)]

    @property
    def task_term(self) -> str | None:
        """Name of the term that learns from the labels; None where there is none."""
        return None if self._both.task is None else self._both.task.loss.key

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual about this distillation, in sentences. Of each a `DistillationWarning` was given once."""
        return tuple(self._notes.said)

    def summary(self) -> str:
        """Networks, methods with the layers and shapes that they compare, weights, phases and notes: a plain table."""
        return summary(self._both, self._shapes, self.parts, self.phases, self.notes)

    def __repr__(self) -> str:
        return in_a_line(self._both, self.phase if len(self.phases) > 1 else None)

    @property
    def deployed(self) -> nn.Module:
        """The network as it is used after training, for measuring: it gives logits and no terms.

        The student itself, or where a method replaces something in it, one module that runs student and teacher.
        """
        return Deployed(self, self.predict) if self._replaces else self.student

    def detach(self) -> None:
        """Give the teacher back in the modes and as trainable as it came; the distiller cannot be used any more."""
        self._both.release()
        self._detached = True
        if hasattr(self, "_moving"):
            self._moving.release()

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
        yield self._images, lambda move: move
        for name, teacher in self.teachers.items():
            if name not in self._stay:
                yield teacher, lambda move: move

    def _explaining(self, given: dict[str, Any]) -> AbstractContextManager[None]:
        return nullcontext() if torch.compiler.is_compiling() else explaining(given, self._both.models, self._size)

    def _step(self, images: Images, labels: Any, index: Tensor | None) -> Output:
        ran = run(self._both, self.parts, self.phase, Batch(cast(Tensor, images), labels, index), self._position.epoch)
        if not torch.compiler.is_compiling():
            if torch.is_grad_enabled():
                self._moving.check(ran.terms)
            self._first_batches(images, ran.logits(self._both), training=self.training)
        limits = self._limits if any(term.limit is not None for term in ran.terms.values()) else None
        notes = self._notes if self.phase.trains != "parts" and not self.student.training else None
        return output_of(self._both, ran, images, limits, notes)

    def _check_attached(self) -> None:
        if self._detached:
            raise InputError("this distiller was detached from its networks: build a new one")

    def _enter(self) -> None:
        self._moving.enter(self.phase)
        self._schedule()
        self._follow()

    def _schedule(self) -> None:
        """Move to the epoch whatever goes by it."""
        of_phase = self._position.epoch_of_phase
        for bound in self._both.bound:
            bound.set_epoch(of_phase)
        if hasattr(self, "_moving"):
            task = self.task_term or ""
            self._limits = Limits(task, self._moving.named, self._moving.unreached(task), of_phase)

    def _follow(self) -> None:
        for teacher in self._both.teachers.values():
            teacher.follow(self.training)
