"""What happens when a distiller is built: both networks are hooked, run on noise, and everything read is proved."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attention_transfer.batch import Batch
from attention_transfer.capture import CaptureError, Reading, noise, set_mode, undisturbed
from attention_transfer.capture.opaque_modules import apart, closed_in, uncompiled
from attention_transfer.distiller.binding import Bound, bind, described, task_logits
from attention_transfer.distiller.error_context import explained
from attention_transfer.distiller.label_checks import check_classes
from attention_transfer.distiller.network_pair import Both
from attention_transfer.distiller.observed_network import Network
from attention_transfer.distiller.output_checks import check_logits, readers_of_logits
from attention_transfer.distiller.proofs import check_finite, check_phases, parameters_reached, reached_by
from attention_transfer.distiller.received_images import cast_for
from attention_transfer.distiller.summary import Shapes
from attention_transfer.distiller.teacher import Teacher
from attention_transfer.errors import InputError
from attention_transfer.methods import Method, Phase
from attention_transfer.models import Description, Renormalise


@dataclass(frozen=True)
class Proved:
    """What running everything once on noise has shown.

    Args:
        parts: what the methods learn, sized by what they saw.
        reached: names of the parameters that each term has a gradient for.
        reached_by_logits: names of those that the student's logits have a gradient for.
        replaces: whether a method replaces something in the student.
        classes: that labels may be of.
        shapes: of everything that was read.
    """

    parts: nn.ModuleDict
    reached: dict[str, frozenset[str]]
    reached_by_logits: frozenset[str]
    replaces: bool
    classes: int
    shapes: Shapes


@contextmanager
def _made_on_the_cpu() -> Generator[None]:
    """Inside, tensors without a device are made on the CPU, whatever default device the user has set.

    They go from there to the device of the images.
    """
    with nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"):
        yield


@_made_on_the_cpu()
def hooked(
    student: nn.Module,
    teacher: nn.Module | None,
    methods: Sequence[Method],
    example: Float[Tensor, "b c h w"],
    teacher_images: Renormalise,
    task_weight: float,
) -> Both:
    """Both networks with the hooks that the methods need. If it fails, no hook is left.

    Raises:
        ValueError: for methods that do not fit the networks.
        CaptureError: for a place that does not exist.
    """
    student_description = described(student, example, methods, "student")
    teacher_description = None
    if isinstance(teacher, DistributedDataParallel):
        # It learns nothing, so that there is nothing for other processes to hear of.
        teacher = cast(nn.Module, teacher.module)
    if teacher is not None:
        received = cast_for(teacher, teacher_images(example), student)
        teacher_description = described(teacher, received, methods, "teacher")
    bound = _bound(methods, teacher, teacher_description, student, student_description)
    network = Network(student, "student", [each.of_student for each in bound], student_description.head)
    if teacher is None or teacher_description is None:
        return Both(network, None, bound, task_weight)
    try:
        modes = [each.method.teacher_mode for each in bound]
        requests = [each.of_teacher for each in bound]
        frozen = Teacher(teacher, requests, teacher_description.head, teacher_images, modes, student)
    except BaseException:
        network.close()
        raise
    return Both(network, frozen, bound, task_weight)


@_made_on_the_cpu()
def prove(
    both: Both, example: Float[Tensor, "b c h w"], train_labels: Tensor | None, phases: Sequence[Phase]
) -> Proved:
    """Run everything once on noise, which leaves parameters, buffers, modes and random generators as they were.

    Args:
        both: networks with their hooks.
        example: gives shape, dtype and device of the noise.
        train_labels: class indices of all training images, where they are known.
        phases: of the training.

    Raises:
        ValueError: if nothing can be learned, or shapes do not match.
        CaptureError: for a tap that never fires, is overwritten or carries no gradient.
    """
    # Gradients are proved wherever it is built.
    networks = both.models.values()
    with torch.enable_grad(), undisturbed(*networks), uncompiled(*networks), apart(*networks):
        images = noise(example)
        try:
            proved = _probe(both, images, train_labels, phases)
        except CaptureError as error:
            refused = explained(error.__cause__, {"example": example}, both.models)
            if refused is None:
                raise
            raise refused from error
        if both.teacher is not None:
            both.teacher.check_noise(both.student.model, images)
    return proved


def _bound(
    methods: Sequence[Method],
    teacher: nn.Module | None,
    teacher_description: Description | None,
    student: nn.Module,
    student_description: Description,
) -> list[Bound]:
    try:
        return bind(methods, teacher_description, student_description)
    except InputError as error:
        for network, role in ((teacher, "teacher"), (student, "student")):
            path, why = (None, None) if network is None else closed_in(network)
            if why is not None and f"the {role}" in str(error):
                where = f"the {role}" if not path else f"the module {path!r} of the {role}"
                raise CaptureError(f"nothing can be read inside of {where}: it {why}") from error
        raise


def _probe(both: Both, image: Tensor, train_labels: Tensor | None, phases: Sequence[Phase]) -> Proved:
    if both.teacher is not None:
        both.teacher.follow(training=True)
    count = image.shape[0]
    # Every network has the class 0, whatever the classes of the other.
    label = torch.zeros(count, dtype=torch.int64, device=image.device)
    teacher = None if both.teacher is None else both.teacher.probe(image, label)
    # As it will be trained: some layers are computed otherwise then, such as those that are checkpointed.
    set_mode(both.student.model, True)
    student = both.student.probe(image, label)
    _check_outputs(both, image, teacher, student)
    if train_labels is not None and both.task_weight:
        check_classes(train_labels, task_logits(both.bound, student).shape[1])
    parts = nn.ModuleDict()
    for bound in both.bound:
        observed = both.observed_teacher(teacher, bound), both.observed_student(student, bound)
        module = bound.parts(*observed, train_labels, image)
        if module is not None:
            parts[bound.name] = module
    # What they remember of noise is forgotten again, and what waits for training waits.
    with undisturbed(parts):
        parts.eval()
        places = torch.arange(count, device=image.device) % (count if train_labels is None else len(train_labels))
        return _terms_proved(both, parts, Batch(image, label, places), teacher, student, phases)


def _check_outputs(both: Both, image: Tensor, teacher: Reading | None, student: Reading) -> None:
    """Refuse outputs that are read as logits and are none."""
    roles = readers_of_logits(both.bound, both.task_weight)
    frozen = both.teacher
    if frozen is not None and teacher is not None and teacher.logits is not None and "teacher" in roles:
        check_logits("teacher", teacher.logits, frozen.model, lambda: _logits(frozen.read(image, None)))
    if "student" in roles:
        check_logits("student", _logits(student), both.student.model, lambda: _logits(both.student.read(image, None)))


def _logits(seen: Reading | None) -> Tensor:
    assert seen is not None
    assert seen.logits is not None
    return seen.logits


def _terms_proved(
    both: Both, parts: nn.ModuleDict, batch: Batch, teacher: Reading | None, student: Reading, phases: Sequence[Phase]
) -> Proved:
    """Compute every term once: the parameters that each of them reaches."""
    replaced = both.replacements(teacher, parts)
    if replaced:
        student = both.student.probe(batch.image, batch.label, replaced)
    assert student.logits is not None
    labels = torch.arange(len(batch.image), device=batch.image.device) % student.logits.shape[1]
    terms = both.terms(Batch(batch.image, labels, batch.index), teacher, student, parts, lambda term: True)
    if not terms:
        raise InputError(
            "nothing to learn from: these methods add no term to the loss; give a task_weight above 0, or a method "
            "that does"
        )
    named = {f"student.{name}": p for name, p in both.student.model.named_parameters() if p.requires_grad}
    named |= {f"parts.{name}": p for name, p in parts.named_parameters() if p.requires_grad}
    if not named:
        raise InputError("nothing to train: every parameter of the student is frozen")
    check_finite(terms)
    check_phases(phases, terms)
    classes = task_logits(both.bound, student).shape[1]
    reached = parameters_reached(terms, named)
    by_logits = reached_by(student.logits, named)
    return Proved(parts, reached, by_logits, bool(replaced), classes, Shapes.of(teacher, student))
