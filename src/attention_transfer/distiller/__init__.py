"""The meeting point: teacher, student and methods in one module."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.capture import CaptureError, Replacement, Tap, noise, undisturbed
from attention_transfer.data.batch import Batch
from attention_transfer.distiller.bound import Bound, bind, check_batch, check_methods, described, part, task_logits
from attention_transfer.distiller.deployed import Deployed
from attention_transfer.distiller.memory import TeacherMemory
from attention_transfer.distiller.network import Network, Seen, Wanted
from attention_transfer.distiller.reached import check_finite, check_phases, parameters_reached
from attention_transfer.distiller.teacher import Teacher
from attention_transfer.methods import Method, Observed, Phase, Reads, Term
from attention_transfer.methods.limits import limited_gradients, sum_of
from attention_transfer.methods.maps import at_least_float32, never_halved
from attention_transfer.models import Input, Renormalise, check_pair

TASK = "ce"


@dataclass(frozen=True)
class Output:
    """What one step of a distiller gives.

    Args:
        loss: Σ weight·value of the terms, to be minimised.
        terms: raw value and weight of each summand, by name; `ce` is the task's cross-entropy.
        student_logits: (batch, classes); of no classes in a phase in which the student does not run.
        teacher_logits: likewise; None where no method reads them, for then the teacher need not run to its end.
    """

    loss: Float[Tensor, ""]
    terms: Mapping[str, Term]
    student_logits: Float[Tensor, "b k"]
    teacher_logits: Float[Tensor, "b k"] | None


class Distiller(nn.Module):
    """A student that learns from a teacher by any number of methods.

    Building it proves, on noise of the example's shape, that everything the methods want can be read. Parameters,
    buffers, modes and random generators are left as they were. The forward pass runs the teacher without gradient, then
    the student, and sums the loss terms in float32.

    The student stays the user's own object. The teacher is frozen; it is neither in `parameters()` nor in
    `state_dict()`, but follows the distiller to another device, dtype or memory format. So does what methods learn and
    remember, which never goes below float32.

    `torch.compile(distiller, fullgraph=True)` works, unless a method differentiates inside the step, matches heads of
    attention distillation or has `same_drop_path`. Compiled, the teacher does not stop after its last tap; what nothing
    reads is left out of the graph instead.

    Args:
        student: any network that returns logits.
        teacher: any other network; may be left out if no method needs one.
        methods: what is transferred; each brings its weight.
        task_weight: weight of the cross-entropy with the labels; 0 trains without labels.
        example: images of the shape, dtype and device of training; their values are not looked at.
        student_input: how the student's images are normalised. With `teacher_input`, the teacher's are derived from
            them.
        teacher_input: how the teacher expects its images, their size included.
        train_labels: class numbers of all training images, by their places; needed by some methods.

    Attributes:
        student: the network that learns.
        reads_teacher_logits: whether the teacher must run to its end.
        teacher_images: a function of the student's images that gives the teacher's.

    Raises:
        ValueError: for one network in both roles, a compiled or wrapped network, or methods that do not fit the
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
        check_pair(student, teacher)
        if not 0 <= task_weight < float("inf"):
            raise ValueError(f"task_weight must be a finite number of at least 0, not {task_weight}")
        if not methods and not task_weight:
            raise ValueError("nothing to learn from: give at least one method, or a task_weight above 0")
        self.student = student
        self.task_weight = task_weight
        self.phase = Phase("all")
        self._epoch = self._phase_start = 0
        self._replaces = self._detached = False
        check_methods(methods)
        self.teacher_images = Renormalise(student_input, teacher_input).to(example)
        student_description = described(student, example, methods, "student")
        teacher_description = (
            None if teacher is None else described(teacher, self.teacher_images(example), methods, "teacher")
        )
        self._bound = bind(methods, teacher_description, student_description)
        of_teacher = Wanted.together([bound.of_teacher for bound in self._bound])
        self.reads_teacher_logits = of_teacher.logits
        of_student = Wanted.together([bound.of_student for bound in self._bound])
        self._student = Network(student, "student", of_student, student_description.head)
        self._teacher: Teacher | None = None
        try:
            if teacher is not None and teacher_description is not None:
                modes = [bound.method.teacher_mode for bound in self._bound]
                self._teacher = Teacher(teacher, of_teacher, teacher_description.head, self.teacher_images, modes)
            self.set_epoch(0)
            # Gradients are proved wherever it is built.
            with torch.enable_grad(), undisturbed(*(network for network in (student, teacher) if network is not None)):
                images = noise(example)
                self.parts, self._reached = self._probe(images, train_labels)
                if self._teacher is not None:
                    self._teacher.check_noise(student, images)
        except BaseException:
            self.detach()
            raise
        self._trainable = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        self._follow()

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
            labels: class numbers or class probabilities; needed unless `task_weight` is 0 and no method reads them.
            index: place of each image in its data set; needed by some methods.

        Raises:
            ValueError: if labels or index are needed and missing.
        """
        if self._detached:
            raise ValueError("this distiller was detached from its networks: build a new one")
        check_batch(self._bound, images, labels, index, self.task_weight > 0)
        return self._step(images, labels, index)

    def predict(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Logits of the student as it is used after training: by itself, or where a method replaces something in it,
        with what the teacher gives for these images.

        Args:
            images: as the student expects them.
        """
        teacher = self._read_teacher(images, None) if self._replaces else None
        logits = self._student.read(images, None, self._replacements(teacher, self.parts)).reading.logits
        assert logits is not None
        return logits

    def backward(self, out: Output) -> None:
        """Accumulate the gradient of a step; the same as `out.loss.backward()` unless a term limits its gradient."""
        if all(term.limit is None for term in out.terms.values()):
            out.loss.backward()
            return
        named, epochs = {n: p for n, p in self.named_parameters() if p.requires_grad}, self._epoch - self._phase_start
        gradients = limited_gradients(out.terms, TASK, named, self._reached.get(TASK, frozenset[str]()), epochs)
        for parameter, gradient in zip(named.values(), gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def remember_teacher(self, memory: TeacherMemory) -> None:
        """Ask a memory for what the teacher gives in training steps that know their images' places, see
        `attention_transfer.training.cache`. The images of a place and an epoch must be the same each time.

        Raises:
            ValueError: if what the teacher gives depends on more than its images, or nothing is read of it.
        """
        if self._teacher is None:
            raise ValueError("there is no teacher")
        self._teacher.remember(memory)

    # ------------------------------------------------------------------ what is trained

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the optimiser should have: the student's and those of the methods, as the phase says."""
        for module in self.trained_modules().values():
            yield from (p for p in module.parameters() if p.requires_grad)

    def trained_modules(self) -> dict[str, nn.Module]:
        """The modules that the phase trains, by name."""
        modules: dict[str, nn.Module] = {"student": self.student, "parts": self.parts}
        return modules if self.phase.trains == "both" else {self.phase.trains: modules[self.phase.trains]}

    def unused_parameters(self) -> tuple[str, ...]:
        """Names of trained parameters that no term of the phase reaches, for DistributedDataParallel."""
        reached = self._reached_in_phase()
        return tuple(name for name, p in self.named_parameters() if p.requires_grad and name not in reached)

    def set_epoch(self, epoch: int) -> None:
        """Move the schedules of the weights to an epoch of the whole training, counted from 0."""
        self._epoch = epoch
        of_phase = max(0, epoch - self._phase_start)
        for bound in self._bound:
            bound.set_epoch(of_phase)

    def set_phase(self, phase: Phase, first_epoch: int = 0) -> None:
        """Enter a phase of training: which parameters move, and which terms count.

        What rests is in evaluation mode and needs no gradient.

        Args:
            phase: to enter.
            first_epoch: epoch in which it begins.
        """
        self.phase, self._phase_start = phase, first_epoch
        self.set_epoch(max(self._epoch, first_epoch))
        moving, reached = self.trained_modules(), self._reached_in_phase()
        for name, parameter in self._trainable:
            module = name.partition(".")[0]
            parameter.requires_grad_(module in moving and (module == "student" or name in reached))
        self.train(self.training)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that the methods ask for, in order; one that trains everything if they ask for none."""
        return tuple(phase for bound in self._bound for phase in bound.phases) or (Phase("all"),)

    @property
    def methods(self) -> tuple[Method, ...]:
        """What is transferred, with every setting that depended on the two networks decided."""
        return tuple(bound.method for bound in self._bound)

    @property
    def reads(self) -> tuple[Reads, ...]:
        """What each of the methods reads."""
        return tuple(bound.reads for bound in self._bound)

    @property
    def replaces(self) -> bool:
        """Whether a method replaces something in the student, which then needs its teacher for ever."""
        return self._replaces

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher."""
        return None if self._teacher is None else self._teacher.model

    @property
    def deployed(self) -> nn.Module:
        """The network as it is used after training: the student itself, or where a method replaces something in it,
        one module that runs student and teacher. Good for measuring only; it gives logits and no terms."""
        return Deployed(self, self.predict) if self._replaces else self.student

    def detach(self) -> None:
        """Leave both networks without a hook, and the teacher's parameters as trainable as they came."""
        self._student.close()
        self._detached = True
        if self._teacher is not None:
            self._teacher.release()

    # ------------------------------------------------------------------ nn.Module

    def train(self, mode: bool = True) -> "Distiller":
        """Switch the student (and learned parts) to training or evaluation; the teacher as the methods want it."""
        super().train(mode)
        for name in {"student", "parts"} - self.trained_modules().keys():
            self.get_submodule(name).eval()
        self._follow()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        self.student._apply(fn, recurse)
        self.parts._apply(partial(never_halved, fn), recurse)
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)
        return self

    # ------------------------------------------------------------------ inside

    def _step(self, images: Tensor, labels: Tensor | None, index: Tensor | None) -> Output:
        teacher = self._read_teacher(images, labels, index)
        student, logits = None, images.new_zeros(len(images), 0)
        if self.phase.runs_student:
            student = self._student.read(images, labels, self._replacements(teacher, self.parts))
            assert student.reading.logits is not None
            logits = student.reading.logits
        terms = self._terms(Batch(images, labels, index), teacher, student, self.parts)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._check_gradients(terms)
        teacher_logits = teacher.reading.logits if teacher is not None and self.reads_teacher_logits else None
        loss = sum_of([term.weighted for term in terms.values()])
        return Output(loss, terms, logits, teacher_logits)

    def _check_gradients(self, terms: Mapping[str, Term]) -> None:
        trained = {name for name, p in self._trainable if p.requires_grad}
        for name, term in terms.items():
            if not term.value.requires_grad and self._reached[name] & trained:
                raise CaptureError(
                    f"the term {name!r} had a gradient when the distiller was built and has none now: the student is "
                    "checkpointed with use_reentrant=True (use False), or was changed after it was built"
                )

    def _read_teacher(self, images: Tensor, labels: Tensor | None, index: Tensor | None = None) -> Seen | None:
        if self._teacher is None:
            return None
        return self._teacher.read(images, labels, None if index is None else (self._epoch, index))

    def _follow(self) -> None:
        if self._teacher is not None:
            self._teacher.follow(self.training)

    def _replacements(self, teacher: Seen | None, parts: nn.ModuleDict) -> dict[Tap, Replacement]:
        replaced: dict[Tap, Replacement] = {}
        for bound in self._bound:
            given = bound.method.replace(self._of_teacher(teacher, bound), bound.reads, part(parts, bound.name))
            twice = sorted(str(tap) for tap in given.keys() & replaced.keys())
            if twice:
                raise ValueError(f"two methods replace {', '.join(twice)} of the student: leave one of them out")
            replaced |= given
        return replaced

    def _of_teacher(self, seen: Seen | None, bound: Bound) -> Observed:
        return Observed(None) if self._teacher is None else self._teacher.observed(seen, bound.of_teacher)

    def _terms(self, batch: Batch, teacher: Seen | None, student: Seen | None, parts: nn.ModuleDict) -> dict[str, Term]:
        terms: dict[str, Term] = {}
        # Losses are float32 whatever the networks computed in.
        with torch.autocast(batch.image.device.type, enabled=False):
            if self.task_weight and student is not None:
                assert batch.label is not None
                logits = task_logits(self._bound, student.reading)
                value = functional.cross_entropy(at_least_float32(logits), batch.label)
                terms[TASK] = Term(value, self.task_weight)
            for bound in filter(lambda bound: bound.counts(self.phase.counts), self._bound):
                ours = Observed(None) if student is None else self._student.observed(student, bound.of_student)
                found = bound.terms(batch, self._of_teacher(teacher, bound), ours, part(parts, bound.name))
                for name in found.keys() & terms.keys():
                    raise ValueError(f"two terms are called {name!r}: a method's terms begin with its key")
                terms |= found
        return {name: term for name, term in terms.items() if self.phase.counts(name)}

    def _reached_in_phase(self) -> frozenset[str]:
        """Names of the parameters that some term of the phase has a gradient for."""
        return frozenset[str]().union(*(names for term, names in self._reached.items() if self.phase.counts(term)))

    def _probe(self, image: Tensor, train_labels: Tensor | None) -> tuple[nn.ModuleDict, dict[str, frozenset[str]]]:
        """Run everything once on noise: parts, their sizes, and the parameters that each term reaches."""
        self._follow()
        count = image.shape[0]
        # Every network has the class 0, whatever the classes of the other.
        label = torch.zeros(count, dtype=torch.int64, device=image.device)
        teacher = None if self._teacher is None else self._teacher.probe(image, label)
        # As it will be trained: some layers are computed otherwise then, such as those that are checkpointed.
        self.student.train()
        student = self._student.probe(image, label)
        parts = nn.ModuleDict()
        for bound in self._bound:
            observed = self._of_teacher(teacher, bound), self._student.observed(student, bound.of_student)
            module = bound.parts(*observed, train_labels, image)
            if module is not None:
                parts[bound.name] = module
        # What they remember of noise is forgotten again, and what waits for training waits.
        with undisturbed(parts):
            parts.eval()
            places = torch.arange(count, device=image.device) % (count if train_labels is None else len(train_labels))
            return parts, self._prove(parts, Batch(image, label, places), teacher, student)

    def _prove(
        self, parts: nn.ModuleDict, batch: Batch, teacher: Seen | None, student: Seen
    ) -> dict[str, frozenset[str]]:
        """Compute every term once: the parameters that each of them reaches."""
        replaced = self._replacements(teacher, parts)
        self._replaces = bool(replaced)
        if replaced:
            student = self._student.probe(batch.image, batch.label, replaced)
        assert student.reading.logits is not None
        labels = torch.arange(len(batch.image), device=batch.image.device) % student.reading.logits.shape[1]
        terms = self._terms(Batch(batch.image, labels, batch.index), teacher, student, parts)
        if not terms:
            raise ValueError(
                "nothing to learn from: these methods add no term to the loss; give a task_weight above 0, or a method "
                "that does"
            )
        named = {f"student.{name}": p for name, p in self.student.named_parameters() if p.requires_grad}
        named |= {f"parts.{name}": p for name, p in parts.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("nothing to train: every parameter of the student is frozen")
        check_finite(terms)
        check_phases(self.phases, terms)
        return parameters_reached(terms, named)
