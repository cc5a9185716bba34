"""A distillation as a table: what is compared with what, what is learned, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from torch import nn

from attention_transfer.capture import Attention, Reading, Tap
from attention_transfer.capture.input_gradients import InputGradient
from attention_transfer.distiller.binding import Bound
from attention_transfer.distiller.network_pair import Both
from attention_transfer.distiller.task_loss import OwnLoss
from attention_transfer.methods import Phase

_Row = tuple[str, str, str, str]
_HEAD: _Row = ("method", "weight", "of the teacher", "of the student")


@dataclass(frozen=True)
class Shapes:
    """Shapes of everything that was read on images of the example's shape, by the words for it.

    Args:
        teachers: of each teacher by name; empty where it is not run.
        student: of the student.
    """

    teachers: Mapping[str, Mapping[str, tuple[int, ...]]]
    student: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, teachers: Mapping[str, Reading | None], student: Reading) -> "Shapes":
        """Those of a run."""
        read = {name: {} if reading is None else _shapes(reading) for name, reading in teachers.items()}
        return cls(read, _shapes(student))


def summary(both: Both, shapes: Shapes, parts: nn.ModuleDict, phases: Sequence[Phase], notes: Sequence[str]) -> str:
    """Networks, then a row for each method and pair of layers, then phases and notes, in plain text.

    Args:
        both: networks and methods.
        shapes: of what they read.
        parts: what the methods learn.
        phases: of the training.
        notes: what is unusual about it.
    """
    lines = [f"student  {_network(both.student.model)}"]
    lines += [f"{teacher.role}  {_network(teacher.model)}" for teacher in both.teachers.values()]
    rows: list[_Row] = [_HEAD]
    if both.task is not None:
        read = next((bound.task_tap for bound in both.bound if bound.task_tap is not None), None)
        logits = "output" if isinstance(both.task.loss, OwnLoss) else "logits" if read is None else str(read)
        rows.append((both.task.loss.key, _number(both.task.weight), "", _shown(logits, shapes.student)))
    for bound in both.bound:
        rows += _rows(bound, shapes)
    lines += ["", *_table(rows), ""]
    for name, part in parts.items():
        lines.append(f"learned by {name} beside the student: {_count(part)} parameters")
    if len(phases) > 1:
        lines += ["phases:", *(f"  {_phase(phase)}" for phase in phases)]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)]).rstrip()


def in_a_line(both: Both, phase: Phase | None) -> str:
    """Who learns from whom, by which terms, as `repr` shows it.

    Args:
        both: networks and methods.
        phase: of the training; None where there is only one.
    """
    terms = [] if both.task is None else [f"{_number(both.task.weight)} {both.task.loss.key}"]
    terms += [f"{_number(float(bound.weight))} {bound.name}" for bound in both.bound]
    teachers = [type(teacher.model).__name__ for teacher in both.teachers.values()]
    teacher = f" from {' and '.join(teachers)}" if teachers else ""
    during = "" if phase is None else f", in phase {phase.name}"
    return f"Distiller({type(both.student.model).__name__} learns{teacher} by {' + '.join(terms)}{during})"


def _rows(bound: Bound, shapes: Shapes) -> list[_Row]:
    """One for each pair of what a method reads, the first with its name and weight."""
    of_teacher = shapes.teachers[bound.teachers[0]] if bound.teachers else {}
    theirs, ours = (
        [_shown(name, read) for name in names]
        for names, read in ((_read_of_teacher(bound), of_teacher), (_read_of_student(bound), shapes.student))
    )
    pairs = list(zip_longest(theirs, ours, fillvalue="")) or [("", "")]
    names = [(bound.name, _weight(bound)), *[("", "")] * (len(pairs) - 1)]
    return [(*name, *pair) for name, pair in zip(names, pairs, strict=True)]


def _read_of_teacher(bound: Bound) -> list[str]:
    request = bound.reads.teacher
    found = [str(tap) for tap in (*request.taps, *request.attention)]
    found += ["logits"] if request.logits else []
    return found + [gradient.title for gradient in request.gradients]


def _read_of_student(bound: Bound) -> list[str]:
    request = bound.reads.student
    found = [str(tap) for tap in (*request.taps, *request.attention)]
    found += ["logits"] if bound.reads.teacher.logits and not request.taps else []
    return found + [gradient.title for gradient in request.gradients]


def _shapes(reading: Reading) -> dict[str, tuple[int, ...]]:
    shapes = {str(tap): tuple(value.shape) for tap, value in reading.values.items()}
    for tap, attention in reading.attention.items():
        shapes[str(tap)] = _attention_shape(tap, attention)
    if reading.logits is not None:
        shapes["logits"] = tuple(reading.logits.shape)
    gradients = {each: value for each, value in reading.computed.items() if isinstance(each, InputGradient)}
    return shapes | {each.title: tuple(value.shape) for each, value in gradients.items()}


def _attention_shape(tap: Tap, attention: Attention) -> tuple[int, ...]:
    """Images, heads, queries, keys: that of the map, whether it was made or not."""
    if attention.weights is not None:
        return tuple(attention.weights.shape)
    assert attention.query is not None, tap
    assert attention.key is not None, tap
    return (*attention.query.shape[:3], attention.key.shape[2])


def _shown(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    shape = shapes.get(name)
    return name if shape is None else f"{name} ({', '.join(map(str, shape))})"


def _weight(bound: Bound) -> str:
    return _number(float(bound.weight)) + ("" if bound.scheduled is None else " (by epoch)")


def _network(model: nn.Module) -> str:
    count = sum(p.numel() for p in model.parameters())
    moving = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kind = "frozen" if not moving else "all trained" if moving == count else f"{moving:,} trained"
    return f"{type(model).__name__}, {count:,} parameters ({kind}), {_mode(model)}"


def _mode(model: nn.Module) -> str:
    modes = {module.training for module in model.modules()}
    if len(modes) == 2:
        return "partly in training mode"
    return "in training mode" if modes == {True} else "in evaluation mode"


def _phase(phase: Phase) -> str:
    length = "the epochs of the training" if phase.epochs is None else f"{phase.epochs} epochs"
    counted = "all terms" if phase.terms is None else ", ".join(phase.terms)
    without = f" but {', '.join(phase.without)}" if phase.without else ""
    rate = "" if phase.learning_rate is None else f", at a rate of {_number(phase.learning_rate)}"
    trained = {"both": "student and parts move", "student": "the student moves", "parts": "parts move"}[phase.trains]
    return f"{phase.name}: {length}, {trained}, by {counted}{without}{rate}"


def _count(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()):,}"


def _number(value: float) -> str:
    return f"{value:g}"


def _table(rows: Sequence[_Row]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
