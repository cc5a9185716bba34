"""Which stages of a network a method reads, and where; and the one vector that it makes of an image.

>>> from attention_transfer import build, describe
>>> [str(tap) for tap in stage_taps(describe(build("resnet8", 4)), "student", "post", None)]
['layer1', 'layer2', 'layer3']
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from jaxtyping import Float
from torch import Tensor

from attention_transfer.capture import Tap
from attention_transfer.errors import InputError
from attention_transfer.methods.layers.maps import at_least_float32
from attention_transfer.methods.method import spread
from attention_transfer.models.introspection.description import Description
from attention_transfer.models.introspection.layouts import such_as

Activation = Literal["post", "pre"]
_SITE: dict[Activation, Literal["output", "input"]] = {"post": "output", "pre": "input"}


class ChoosesStages(Protocol):
    """The fields of a method by which a user chooses layers.

    Args:
        stages: which top-level stages, counted from 0 (negative from the end), the same in both networks; None takes
            all, and where one network has more, as many of them as the other has, spread evenly over depth.
        student_layers: module paths in the student, instead of stages.
        teacher_layers: module paths in the teacher, one for each of `student_layers`.
    """

    @property
    def stages(self) -> tuple[int, ...] | None:
        """Numbers of top-level stages, or None for all."""
        ...

    @property
    def student_layers(self) -> tuple[str, ...]:
        """Module paths in the student."""
        ...

    @property
    def teacher_layers(self) -> tuple[str, ...]:
        """Module paths in the teacher."""
        ...


def check_stages(stages: Sequence[int] | None, student_layers: Sequence[str], teacher_layers: Sequence[str]) -> None:
    """Refuse settings that do not say which layers belong together.

    Args:
        stages: chosen by number, or None.
        student_layers: chosen by name; may be empty.
        teacher_layers: same as for `student_layers`.

    Raises:
        ValueError: for names that do not pair up, no stages, or both ways of choosing at once.
    """
    if len(student_layers) != len(teacher_layers):
        raise InputError(
            f"student_layers and teacher_layers must pair up, not {len(student_layers)} with {len(teacher_layers)}"
        )
    if stages is not None and (student_layers or not stages):
        raise InputError("give either stages (at least one) or student_layers with teacher_layers")


def paired_layers(
    teacher: Description,
    student: Description,
    layers: ChoosesStages,
    teacher_activation: Activation,
    student_activation: Activation,
    most: int | None = None,
) -> tuple[tuple[Tap, ...], tuple[Tap, ...]]:
    """Which layers of teacher and student belong together, first those of the teacher.

    Args:
        teacher: what it has.
        student: what it has.
        layers: as the user chose them.
        teacher_activation: `post` reads stages as the next one receives them, `pre` before their last activation; of
            a module that the user names, `post` is the output and `pre` the input.
        student_activation: same as for `teacher_activation`.
        most: how many stages to take at most where the user chose none; None takes all.

    Raises:
        ValueError: for a network without known stages, a stage that it has not, or an activation that could not be
            found.
    """
    if layers.student_layers:
        return (
            tuple(teacher.tap(name, _SITE[teacher_activation]) for name in layers.teacher_layers),
            tuple(student.tap(name, _SITE[student_activation]) for name in layers.student_layers),
        )
    theirs = stage_taps(teacher, "teacher", teacher_activation, layers.stages)
    ours = stage_taps(student, "student", student_activation, layers.stages)
    return (theirs, ours) if layers.stages is not None else spread(theirs, ours, most)


def stage_taps(
    network: Description, role: str, activation: Activation, chosen: Sequence[int] | None
) -> tuple[Tap, ...]:
    """Where the stages of a network are read.

    Args:
        network: teacher or student.
        role: which, for messages.
        activation: `post` reads stages as the next one receives them, `pre` before their last activation.
        chosen: which stages, counted from 0 (negative from the end); None takes all.

    Raises:
        ValueError: for a network without known stages, a stage that it has not, or an activation that could not be
            found.
    """
    stages = list(network.stages)
    if not stages:
        raise InputError(
            f"no stages were found in the {role}: name module paths with student_layers= and teacher_layers="
            f"{such_as(network.suggested)}"
        )
    if chosen is not None:
        for i in chosen:
            if not -len(stages) <= i < len(stages):
                raise InputError(f"the {role} has {len(stages)} stages, counted from 0; there is no stage {i}")
        stages = [stages[i] for i in chosen]
    if activation == "post":
        return tuple(stage.output for stage in stages)
    taps = [stage.pre_activation for stage in stages]
    unknown = [stage.output.module for stage, tap in zip(stages, taps, strict=True) if tap is None]
    if unknown:
        raise InputError(
            f"where the {role}'s stages {', '.join(unknown)} end in an activation is not known: name the "
            "activation modules with student_layers= and teacher_layers= (their input is read)"
        )
    return tuple(tap for tap in taps if tap is not None)


def embedding_tap(network: Description, role: str, layer: str | None = None) -> Tap:
    """Where that vector is read.

    Args:
        network: teacher or student.
        role: which, for messages.
        layer: a module path given by the user, in place of what the head takes; its output, averaged over positions.

    Raises:
        ValueError: for a network of which neither the linear head nor any stage is known.
    """
    if layer is not None:
        return network.tap(layer)
    if network.head is not None:
        return Tap(network.head, "input", "raw")
    if network.stages:
        return network.stages[-1].output
    raise InputError(
        f"neither a linear head nor stages were found in the {role}: name the module whose output, averaged over "
        f"positions, is to be compared with {role}_layer="
    )


def embedding(value: Tensor, role: str) -> Float[Tensor, "b c"]:
    """What was read there as one vector per image, in float32 or better; averaged over positions where it has any.

    Args:
        value: (batch, channels), or (batch, channels, height, width), or of volumes with time before height.
        role: of the network, for messages.

    Raises:
        ValueError: for any other shape.
    """
    if value.ndim not in (2, 4, 5):
        raise InputError(
            f"the {role}'s head takes a value of shape {tuple(value.shape)}, not one vector per image: name another "
            f"module with {role}_layer="
        )
    vectors = at_least_float32(value)
    return vectors if vectors.ndim == 2 else vectors.mean(tuple(range(2, vectors.ndim)))
