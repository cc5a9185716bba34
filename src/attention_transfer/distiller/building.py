"""What happens when a distiller is built: all networks are hooked, run on noise, and everything read is proved."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attention_transfer.batch import Batch
from attention_transfer.capture import CaptureError, Images, LogitsAt, Reading, noise, set_mode, undisturbed
from attention_transfer.capture.opaque_modules import apart, closed_in, uncompiled
from attention_transfer.capture.outputs import first_image, for_each, tensors_of
from attention_transfer.distiller.batch_checks import BatchChecks
from attention_transfer.distiller.binding import Bound, bind, described, part, task_logits
from attention_transfer.distiller.error_context import explained
from attention_transfer.distiller.image_checks import Kind
from attention_transfer.distiller.label_checks import check_classes
from attention_transfer.distiller.network_pair import Both, Readings
from attention_transfer.distiller.observed_network import STUDENT, Network
from attention_transfer.distiller.output_checks import check_logits, readers_of_logits
from attention_transfer.distiller.proofs import check_finite, check_phases, parameters_reached, reached_by
from attention_transfer.distiller.received_images import cast_for
from attention_transfer.distiller.setup import Setup, Teaching, role_of
from attention_transfer.distiller.summary import Shapes
from attention_transfer.distiller.task_loss import CrossEntropy, OwnLoss, TaskLoss
from attention_transfer.distiller.teacher import Teacher
from attention_transfer.distiller.teacher_dropping import Dropped
from attention_transfer.errors import InputError
from attention_transfer.methods import Phase, Term
from attention_transfer.models import Description


@dataclass(frozen=True)
class Proved:
    """What running everything once on noise has shown.

    Args:
        parts: what the methods learn, sized by what they saw.
        reached: names of the parameters that each term has a gradient for.
        reached_by_output: names of those that the student's output has a gradient for.
        replaces: whether a method replaces something in the student.
        outputs: shape of the student's logits of one image; None where it has none.
        shapes: of everything that was read.
    """

    parts: nn.ModuleDict
    reached: dict[str, frozenset[str]]
    reached_by_output: frozenset[str]
    replaces: bool
    outputs: tuple[int, ...] | None
    shapes: Shapes


@contextmanager
def _made_on_the_cpu() -> Generator[None]:
    """Inside, tensors without a device are made on the CPU, whatever default device the user has set.

    They go from there to the device of the images.
    """
    with nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"):
        yield


@_made_on_the_cpu()
def hooked(setup: Setup) -> Both:
    """All networks with the hooks that the methods need. If it fails, no hook is left.

    Args:
        setup: what the distiller is built from.

    Raises:
        ValueError: for methods that do not fit the networks.
        CaptureError: for a place that does not exist.
    """
    example, methods = setup.example, setup.methods
    student = described(setup.student, example, methods, STUDENT)
    teachers = {name: replace(said, model=_alone(said.model)) for name, said in setup.teachers.items()}
    described_teachers: dict[str, Description] = {}
    for name, said in teachers.items():
        received = for_each(example, partial(_received, said, setup.student))
        described_teachers[name] = described(said.model, received, methods, role_of(name))
    bound = _bound(setup, teachers, described_teachers, student)
    for each in bound:
        each.check_data(example, None if setup.task is None else setup.task.loss)
    _check_read(bound, teachers)
    opened: list[Network | Teacher] = []
    try:
        network = _student(setup, bound, student)
        opened.append(network)
        frozen: dict[str, Teacher] = {}
        for name, said in teachers.items():
            readers = [each for each in bound if name in each.teachers]
            requests, modes = [each.of_teacher for each in readers], [each.method.teacher_mode for each in readers]
            wanted_by = [each.name for each in readers if "teacher" in each.reads_logits]
            head = described_teachers[name].head
            frozen[name] = Teacher(said, requests, head, modes, setup.student, name, wanted_by)
            opened.append(frozen[name])
    except BaseException:
        for each in opened:
            each.close() if isinstance(each, Network) else each.release()
        raise
    return Both(network, frozen, bound, setup.task, setup.dropping)


def _alone(teacher: nn.Module) -> nn.Module:
    """A teacher out of its wrapper for many processes, whose gradients it has not."""
    return cast(nn.Module, teacher.module) if isinstance(teacher, DistributedDataParallel) else teacher


def _received(teacher: Teaching, student: nn.Module, images: Tensor) -> Tensor:
    received = cast_for(teacher.model, teacher.images(images), student)
    return received if teacher.device is None else received.to(teacher.device)


def _student(setup: Setup, bound: Sequence[Bound], description: Description) -> Network:
    """The student with its hooks."""
    readers = [each.name for each in bound if "student" in each.reads_logits]
    if setup.task is not None and isinstance(setup.task.loss, TaskLoss):
        readers.append(f"the task's loss, {setup.task.loss.name}")
    return Network(
        setup.student,
        STUDENT,
        [each.of_student for each in bound],
        description.head,
        LogitsAt.of(setup.student, STUDENT, setup.student_logits, readers),
        takes_labels=setup.takes_labels,
    )


def _check_read(bound: Sequence[Bound], teachers: Collection[str]) -> None:
    """Refuse teachers that nobody learns from, where there are several: of one it is only warned."""
    read = {name for each in bound for name in each.teachers}
    unread = [name for name in teachers if name not in read]
    if len(teachers) > 1 and unread:
        raise InputError(
            f"nothing is read of the teacher {unread[0]!r}, so that nothing is learned from it: name it in a method, "
            f"teacher={unread[0]!r}, or leave it out"
        )


@_made_on_the_cpu()
def prove(both: Both, setup: Setup, phases: Sequence[Phase]) -> Proved:
    """Run everything once on noise, which leaves parameters, buffers, modes and random generators as they were.

    Args:
        both: networks with their hooks.
        setup: what the distiller is built from; its example gives shape, dtype and device of the noise.
        phases: of the training.

    Raises:
        ValueError: if nothing can be learned, or shapes do not match.
        CaptureError: for a tap that never fires, is overwritten or carries no gradient.
    """
    # Gradients are proved wherever it is built.
    networks = both.models.values()
    with torch.enable_grad(), undisturbed(*networks), uncompiled(*networks), apart(*networks):
        images = noise(setup.example)
        try:
            proved = _probe(both, images, setup, phases)
        except CaptureError as error:
            refused = explained(error.__cause__, {"example": setup.example}, both.models)
            if refused is None:
                raise
            raise refused from error
        for teacher in both.teachers.values():
            teacher.check_noise(both.student.model, images)
    return proved


def checks_of(both: Both, setup: Setup, outputs: Sequence[int] | None) -> BatchChecks:
    """What is refused of the batches of a distiller.

    Args:
        both: networks and methods.
        setup: what the distiller is built from.
        outputs: shape of the student's logits of one image; None where it has none.
    """
    return BatchChecks(
        {bound.name: bound.reads for bound in both.bound},
        None if setup.task is None else setup.task.loss,
        Kind.of(setup.example),
        outputs or (),
        None if setup.train_labels is None else len(setup.train_labels),
        dropping=bool(setup.dropping),
    )


def _bound(
    setup: Setup, teachers: Mapping[str, Teaching], descriptions: Mapping[str, Description], student: Description
) -> list[Bound]:
    activation = None if setup.task is None else setup.task.loss.activation
    shares = {name: said.weight for name, said in teachers.items()}
    try:
        return bind(setup.methods, descriptions, student, shares, activation)
    except InputError as error:
        named = [*((role_of(name), said.model) for name, said in teachers.items()), (STUDENT, setup.student)]
        for role, network in named:
            path, why = closed_in(network)
            if why is not None and f"the {role}" in str(error):
                where = f"the {role}" if not path else f"the module {path!r} of the {role}"
                raise CaptureError(f"nothing can be read inside of {where}: it {why}") from error
        raise


def _probe(both: Both, image: Images, setup: Setup, phases: Sequence[Phase]) -> Proved:
    for teacher in both.teachers.values():
        teacher.follow(training=True)
    count, device = len(image), first_image(image).device
    # Every network has the class 0, whatever the classes of the other.
    label = (
        repeated(setup.labels, count) if setup.takes_labels else torch.zeros(count, dtype=torch.int64, device=device)
    )
    teachers = {name: teacher.probe(image, label) for name, teacher in both.teachers.items()}
    # As it will be trained: some layers are computed otherwise then, such as those that are checkpointed.
    set_mode(both.student.model, True)
    student = both.student.probe(image, label)
    _check_outputs(both, image, teachers, student)
    if setup.train_labels is not None and both.task is not None and isinstance(both.task.loss, CrossEntropy):
        check_classes(setup.train_labels, task_logits(both.bound, student).shape[1])
    parts = nn.ModuleDict()
    for bound in both.bound:
        observed = both.observed_teacher(teachers, bound), both.observed_student(student, bound)
        module = bound.parts(*observed, setup.train_labels, image)
        if module is not None:
            parts[bound.name] = module
    # What they remember of noise is forgotten again, and what waits for training waits.
    with undisturbed(parts):
        parts.eval()
        known = count if setup.train_labels is None else len(setup.train_labels)
        batch = Batch(cast(Tensor, image), label, torch.arange(count, device=device) % known)
        return _terms_proved(both, parts, batch, teachers, student, setup, phases)


def _check_outputs(both: Both, image: Images, teachers: Readings, student: Reading) -> None:
    """Refuse outputs that are read as logits and are none."""
    readers = readers_of_logits(both)
    for name, teacher in both.teachers.items():
        seen = teachers[name]
        if seen is not None and seen.logits is not None and teacher.role in readers:
            run = partial(_logits, partial(teacher.read, image, None))
            check_logits(teacher.role, seen.logits, teacher.model, run, readers[teacher.role])
    if STUDENT in readers:
        run = partial(_logits, partial(both.student.read, image, None))
        check_logits(STUDENT, _known(student.logits), both.student.model, run, readers[STUDENT])


def _logits(read: Callable[[], Reading | None]) -> Tensor:
    seen = read()
    assert seen is not None
    return _known(seen.logits)


def _known(logits: Tensor | None) -> Tensor:
    assert logits is not None
    return logits


def _terms_proved(
    both: Both,
    parts: nn.ModuleDict,
    batch: Batch,
    teachers: Readings,
    student: Reading,
    setup: Setup,
    phases: Sequence[Phase],
) -> Proved:
    """Compute every term once: the parameters that each of them reaches."""
    replaced = both.replacements(teachers, parts)
    if replaced:
        student = both.student.probe(batch.image, batch.label, replaced)
    terms = _terms(both, parts, batch, teachers, student, setup)
    for bound in both.bound:
        given = bound.method.replace(both.observed_teacher(teachers, bound), bound.reads, part(parts, bound.name))
        if not bound.term_names and not given and bound.task_tap is None:
            raise InputError(
                f"{bound.name} changes nothing: {type(bound.method).__name__} has no term and replaces nothing in the "
                "student; let its terms return one, or its replace a value"
            )
    named = {f"student.{name}": p for name, p in both.student.model.named_parameters() if p.requires_grad}
    named |= {f"parts.{name}": p for name, p in parts.named_parameters() if p.requires_grad}
    if not named:
        raise InputError("nothing to train: every parameter of the student is frozen")
    check_finite(terms)
    reached = parameters_reached(terms, named)
    of_output = reached_by(total, named) if (total := sum_of_outputs(student)) is not None else frozenset[str]()
    # A loss of the user's own that could not be tried depends on what the output does, as far as is known.
    untried = {} if both.task is None or both.task.loss.key in terms else {both.task.loss.key: of_output}
    check_phases(phases, [*terms, *untried])
    reached |= untried
    outputs = None if student.logits is None else tuple(student.logits.shape[1:])
    return Proved(parts, reached, of_output, bool(replaced), outputs, Shapes.of(teachers, student))


def _terms(
    both: Both, parts: nn.ModuleDict, batch: Batch, teachers: Readings, student: Reading, setup: Setup
) -> dict[str, Term]:
    task, labels = both.task, batch.label
    own = task is not None and isinstance(task.loss, OwnLoss)
    if own and setup.labels is None:
        task = None
    if task is not None and isinstance(task.loss, OwnLoss):
        labels = repeated(setup.labels, len(batch.image))
    elif task is not None and isinstance(task.loss, TaskLoss):
        labels = task.loss.example(task_logits(both.bound, student))
    elif student.logits is not None and student.logits.ndim > 1 and not setup.takes_labels:
        labels = CrossEntropy().example(student.logits)
    batch = Batch(batch.image, labels, batch.index)
    dropped = Dropped(both.dropping, 0) if both.dropping else None
    terms = replace(both, task=task).terms(batch, teachers, student, parts, lambda term: True, dropped)
    if not terms and not own:
        raise InputError(
            "nothing to learn from: these methods add no term to the loss; give a task_weight above 0, or a method "
            "that does"
        )
    return terms


def repeated(labels: Any, count: int) -> Any:
    """Labels of an example for at least so many images, in the form in which they were given."""
    if isinstance(labels, Tensor) and labels.ndim and len(labels) < count:
        return labels.repeat(-(-count // len(labels)), *[1] * (labels.ndim - 1))[:count]
    if isinstance(labels, list) and len(cast("list[Any]", labels)) < count:
        given = cast("list[Any]", labels)
        return [given[place % len(given)] for place in range(count)]
    return labels


def sum_of_outputs(reading: Reading) -> Tensor | None:
    """A number that depends on everything that may be learned by of a network's output; None where that is nothing."""
    found = [*tensors_of(reading.output), *([] if reading.logits is None else [reading.logits])]
    sums = [each.sum().float() for each in {id(each): each for each in found if each.requires_grad}.values()]
    return torch.stack(sums).sum() if sums else None
