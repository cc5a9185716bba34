"""What is refused of the arguments that a distiller is built from."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, cast

from jaxtyping import Int64
from torch import Tensor, nn

from attention_transfer.distiller.image_checks import check_floating, require_dense
from attention_transfer.distiller.label_checks import training_labels
from attention_transfer.distiller.proofs import check_phases
from attention_transfer.errors import InputError
from attention_transfer.methods import METHODS, Method, Phase, SettingError
from attention_transfer.models import Input, check_pair
from attention_transfer.settings import fit

_METHODS = "methods must be a list of methods such as [AttentionTransfer(weight=1000.0)]"


def checked(
    student: Any,
    teacher: Any,
    methods: Any,
    example: Any,
    *,
    task_weight: Any,
    inputs: Mapping[str, Any],
    train_labels: Any,
) -> tuple[tuple[Method, ...], float, Int64[Tensor, " n"] | None]:
    """The methods, the weight of the task, and the labels of all training images where they are given.

    Args:
        student: of the distiller, as all others.
        teacher: None where there is none.
        methods: what is transferred.
        example: images.
        task_weight: of the cross-entropy with the labels.
        inputs: how each network expects its images, by the name of the argument.
        train_labels: None where they are not given.

    Raises:
        InputError: for what is not of its kind, and where nothing is learned.
    """
    check_networks(student, teacher)
    check_pair(student, teacher)
    methods, task_weight = checked_methods(methods), checked_weight(task_weight)
    check_example(example)
    for name, given in inputs.items():
        check_input(name, given, example.shape[1])
    if train_labels is not None:
        train_labels = training_labels(train_labels)
    if not methods and not task_weight:
        raise InputError("nothing to learn from: give at least one method, or a task_weight above 0")
    return methods, task_weight, train_labels


def check_networks(student: Any, teacher: Any) -> None:
    """Refuse what is no network.

    Raises:
        SettingError: says what it is, and what to give.
    """
    for role, network in (("student", student), ("teacher", teacher)):
        if isinstance(network, nn.Module) or (network is None and role == "teacher"):
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


def checked_weight(task_weight: Any) -> float:
    """The weight of the task as a number.

    Raises:
        InputError: for anything but a finite number of at least 0.
    """
    weight = fit("Distiller", "task_weight", float, task_weight)
    if not 0 <= weight < float("inf"):
        raise InputError(f"task_weight must be a finite number of at least 0, not {weight}")
    return weight


def check_example(example: Any) -> None:
    """Refuse an example that has not the kind and shape of images.

    Raises:
        InputError: says what it is, and what to give.
    """
    if not isinstance(example, Tensor):
        how = "torch.empty(2, 3, 32, 32), with the size of your images"
        if isinstance(example, list | tuple):
            items = cast("Sequence[Any]", example)
            if len(items) == 4 and all(isinstance(item, int) for item in items):
                how = f"torch.empty{tuple(items)}"
            elif items and isinstance(items[0], Tensor):
                how = "the images of the batch alone, example[0]" if items[0].ndim == 4 else "torch.stack(example)"
        elif type(example).__module__ == "numpy":
            how = "torch.from_numpy(example)"
        raise InputError(
            "example must be a tensor of images (batch, channels, height, width), not a value of type "
            f"{type(example).__name__}: give {how}"
        )
    require_dense("example", example, "of images (batch, channels, height, width)", "")
    check_floating("example", example)
    shape = tuple(example.shape)
    if example.ndim != 4:
        how = ": give example[None]" if example.ndim == 3 else ""
        raise InputError(f"example must be images of shape (batch, channels, height, width), not {shape}{how}")
    if not example.numel():
        raise InputError(f"example must have at least one image of at least one pixel, not the shape {shape}")


def checked_methods(methods: Any) -> tuple[Method, ...]:
    """What is transferred, as a tuple of methods that can be trained together.

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
    phased = [method.key for method in found if any(phase.epochs is None for phase in method.phases)]
    if len(phased) > 1:
        raise InputError(
            f"{' and '.join(phased)} each divide the training into phases of their own: leave one out, or have it "
            "learn in one stage if it can (fitnet without hint_epochs)"
        )
    return found


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


def check_input(name: str, given: Any, channels: int) -> None:
    """Refuse what does not say how a network expects its images.

    Args:
        name: of the argument.
        given: its value; None says nothing.
        channels: of the images.

    Raises:
        SettingError: for anything but an `Input`.
        InputError: for numbers that cannot be.
    """
    if given is None:
        return
    if not isinstance(given, Input):
        raise SettingError(
            f"{name} must be an Input, not a value of type {type(given).__name__}: give "
            "Input(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size=None) with your numbers"
        )
    for which in ("mean", "std"):
        values = fit(name, which, tuple[float, ...], getattr(given, which))
        if len(values) != channels or not all(map(isfinite, values)) or (which == "std" and not min(values) > 0):
            positive = ", each above 0" if which == "std" else ""
            raise InputError(
                f"{which} of {name} must be {channels} finite numbers, one for each channel of the example{positive}, "
                f"not {values}"
            )
    size = fit(name, "size", tuple[int, int] | None, given.size)
    if size is not None and min(size) < 1:
        raise InputError(f"size of {name} must be a height and a width of at least 1, not {size}")


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
