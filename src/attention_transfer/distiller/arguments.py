"""What is refused of the arguments that a distiller is built from."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from attention_transfer.distiller.image_checks import check_floating, require_dense
from attention_transfer.distiller.label_checks import training_labels
from attention_transfer.distiller.proofs import check_phases
from attention_transfer.distiller.setup import ONLY, Setup, Task, role_of
from attention_transfer.distiller.task_loss import task_loss
from attention_transfer.distiller.teacher_arguments import TeacherArguments, checked_where
from attention_transfer.errors import InputError
from attention_transfer.methods import METHODS, Method, Phase, SettingError
from attention_transfer.models import check_pair
from attention_transfer.settings import fit

# Images, and volumes: those of videos and scans.
_DIMENSIONS = (4, 5)
_METHODS = "methods must be a list of methods such as [AttentionTransfer(weight=1000.0)]"


def checked(
    student: Any,
    teachers: TeacherArguments,
    methods: Any,
    example: Any,
    task: Task | None,
    *,
    student_logits: Any,
    takes_labels: Any,
    train_labels: Any,
) -> Setup:
    """What a distiller is built from.

    Args:
        student: of the distiller, as all others.
        teachers: all that is said of them.
        methods: what is transferred.
        example: images, or images and their labels.
        task: what the labels ask; None where nothing is learned from them by the distiller's own loss.
        student_logits: where they are in its output.
        takes_labels: whether the student is called with the labels.
        train_labels: class indices of all training images.

    Raises:
        InputError: for what is not of its kind, and where nothing is learned.
    """
    named = teachers.named
    check_networks(student, named)
    for each in named.values() or (None,):
        check_pair(student, each)
    methods = checked_methods(methods, named)
    images, labels = split_example(example)
    check_example(images)
    if takes_labels and labels is None:
        raise InputError(
            "student_takes_labels wants an example with labels to run the student on: give example=(images, labels)"
        )
    teaching, dropping = teachers.checked(images), teachers.checked_dropping()
    if not methods and task is None:
        raise InputError("nothing to learn from: give at least one method, or a task_weight above 0")
    return Setup(
        student,
        teaching,
        methods,
        task,
        images,
        labels,
        checked_where("student_logits", student_logits),
        bool(takes_labels),
        None if train_labels is None else training_labels(train_labels),
        dropping,
    )


def task_of(loss: Any, weight: Any) -> Task | None:
    """What the labels ask of the student; None where nothing is learned from them by the distiller's own loss.

    Args:
        loss: a name, a function or None.
        weight: of its term.
    """
    found, number = task_loss(loss), checked_weight(weight)
    return Task(found, number) if found is not None and number else None


def check_networks(student: Any, teachers: Mapping[str, Any]) -> None:
    """Refuse what is no network, and one network for two.

    Raises:
        SettingError: says what it is, and what to give.
    """
    for role, network in (("student", student), *((role_of(name), each) for name, each in teachers.items())):
        if isinstance(network, nn.Module):
            continue
        how = ""
        if isinstance(network, str):
            how = f": give the network itself, such as attention_transfer.build({network!r}, 10)"
        elif isinstance(network, type):
            how = f": give {network.__name__}(...), an instance of it"
        elif isinstance(getattr(network, "module", None), nn.Module):
            how = f": give its network, {role}.module"
        elif isinstance(network, Method) or _are_methods(network):
            how = ": methods are the third argument, and stand after teacher=None where there is no teacher"
        elif isinstance(network, list | tuple):
            how = ": a distiller has one, so give one of them"
        raise SettingError(f"the {role} must be a torch.nn.Module, not a value of type {type(network).__name__}{how}")
    for name, network in teachers.items():
        same = next((other for other in teachers if other != name and teachers[other] is network), None)
        if same is not None:
            raise InputError(
                f"the teachers {name!r} and {same!r} are one network, which runs once for all: give it once, and "
                "name it in each of them"
            )


def checked_weight(task_weight: Any) -> float:
    """The weight of the task as a number.

    Raises:
        InputError: for anything but a finite number of at least 0.
    """
    weight = fit("Distiller", "task_weight", float, task_weight)
    if not 0 <= weight < float("inf"):
        raise InputError(f"task_weight must be a finite number of at least 0, not {weight}")
    return weight


def split_example(example: Any) -> tuple[Any, Any]:
    """The images of an example and their labels; None where it has no labels."""
    if isinstance(example, tuple) and len(cast("tuple[Any, ...]", example)) == 2:
        images, labels = cast("tuple[Any, Any]", example)
        if isinstance(images, list) or (isinstance(images, Tensor) and images.ndim in _DIMENSIONS):
            return images, labels
    return example, None


def check_example(example: Any) -> None:
    """Refuse an example that has not the kind and shape of images.

    Raises:
        InputError: says what it is, and what to give.
    """
    if isinstance(example, list) and _are_images(example):
        for each in cast("list[Tensor]", example):
            check_floating("example", each)
        return
    if not isinstance(example, Tensor):
        how = "torch.empty(2, 3, 32, 32), with the size of your images"
        if isinstance(example, list | tuple):
            items = cast("Sequence[Any]", example)
            if len(items) == 4 and all(isinstance(item, int) for item in items):
                how = f"torch.empty{tuple(items)}"
            elif items and isinstance(items[0], Tensor):
                how = "images and labels, example[:2]" if items[0].ndim == 4 else "torch.stack(example)"
        elif type(example).__module__ == "numpy":
            how = "torch.from_numpy(example)"
        raise InputError(
            "example must be a tensor of images (batch, channels, height, width), not a value of type "
            f"{type(example).__name__}: give {how}"
        )
    require_dense("example", example, "of images (batch, channels, height, width)", "")
    check_floating("example", example)
    shape = tuple(example.shape)
    if example.ndim not in _DIMENSIONS:
        how = ": give example[None]" if example.ndim == 3 else ""
        raise InputError(f"example must be images of shape (batch, channels, height, width), not {shape}{how}")
    if not example.numel():
        raise InputError(f"example must have at least one image of at least one pixel, not the shape {shape}")


def checked_methods(methods: Any, teachers: Collection[str] = ()) -> tuple[Method, ...]:
    """What is transferred, as a tuple of methods that can be trained together, each of one teacher.

    Args:
        methods: as they were given; one of several teachers is used once for each, unless it averages their logits.
        teachers: their names.

    Raises:
        SettingError: for anything else than methods in an order.
        InputError: for one of them twice, or several of which each wants what remains of the training for a phase of
            its own.
    """
    if isinstance(methods, Method | str | dict | set | frozenset) or not isinstance(methods, Iterable):
        how = f": give [{type(methods).__name__}(...)], in brackets" if isinstance(methods, Method) else _named(methods)
        raise SettingError(f"{_METHODS}, not {methods!r:.200}{how}")
    found = tuple(cast("Iterable[Any]", methods))
    for place, method in enumerate(found):
        if not isinstance(method, Method):
            raise SettingError(f"{_METHODS}, and number {place} of these is {method!r:.200}{_named(method)}")
        if any(_same(method, other) for other in found[:place]):
            raise InputError(
                f"{method.key} stands twice in methods with the same settings, which only doubles its weight: give it "
                "once, with the weight that it shall have"
            )
    found = tuple(each for method in found for each in _by_teacher(method, teachers))
    phased = [method.key for method in found if any(phase.epochs is None for phase in method.phases)]
    if len(phased) > 1:
        raise InputError(
            f"{' and '.join(phased)} each divide the training into phases of their own: leave one out, or have it "
            "learn in one stage if it can (fitnet without hint_epochs)"
        )
    return found


def _by_teacher(method: Method, teachers: Collection[str]) -> list[Method]:
    """A method once for each of the teachers that it names."""
    if method.teacher is None:
        return [method]
    names = (method.teacher,) if isinstance(method.teacher, str) else method.teacher
    strange = next((name for name in names if name not in teachers or name == ONLY), None)
    if strange is not None:
        there = f"there is {', '.join(map(repr, teachers))}" if teachers else "there is none"
        if ONLY in teachers:
            there = "the only one was given without a name"
        raise InputError(
            f"{method.key} learns from the teacher {strange!r}, and {there}: give teacher={{{strange!r}: network}}, or "
            "another name to the method"
        )
    if len(set(names)) != len(names):
        raise InputError(f"{method.key} names the teacher {max(names, key=names.count)!r} twice: name it once")
    if method.averages_teachers or isinstance(method.teacher, str):
        return [method]
    if method.term is not None:
        raise InputError(
            f"{method.key} is used once for each of {', '.join(map(repr, names))}, and has one term={method.term!r}: "
            "give one method for each teacher, with a name of its own"
        )
    return [replace(method, teacher=name) for name in names]


def check_phase(phase: Any, terms: Collection[str]) -> None:
    """Refuse what is no phase of a training, or none in which anything is learned.

    Args:
        phase: to enter.
        terms: names of all terms.

    Raises:
        SettingError: says what it is, and what to give.
        InputError: for a phase that counts no term.
    """
    if not isinstance(phase, Phase):
        raise SettingError(
            f"phase must be a Phase, not {phase!r:.200}: give one of distiller.phases, or call "
            "distiller.set_epoch(epoch), which enters the phase of an epoch"
        )
    check_phases([phase], terms)


def _are_images(value: Sequence[Any]) -> bool:
    return bool(value) and all(isinstance(each, Tensor) and each.ndim == 3 and each.numel() for each in value)


def _are_methods(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(item, Method) for item in cast("Sequence[Any]", value))


def _same(first: Method, second: Method) -> bool:
    """Whether both do the same; methods of others may have settings that cannot be compared."""
    return first is second or (type(first) is type(second) and type(first) in METHODS.values() and first == second)


def _named(value: Any) -> str:
    """How a method is given of which there is only its name or its class."""
    if isinstance(value, str) and value in METHODS:
        return f": write {METHODS[value].__name__}()"
    if isinstance(value, type) and issubclass(value, Method):
        return f": that is a class, write {value.__name__}()"
    return ""
