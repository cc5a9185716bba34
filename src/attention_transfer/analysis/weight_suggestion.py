"""Suggested weights of distillation losses, from the size of each term after some training.

>>> suggest_weights(Experiment("mine", student="resnet8"))
Traceback (most recent call last):
    ...
attention_transfer.errors.InputError: there is nothing to weigh: the experiment has no methods (--methods)
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch

from attention_transfer.analysis.term_sizes import Size, measurable, term_sizes, train_for
from attention_transfer.distiller import TASK, Distiller
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment
from attention_transfer.methods import Method
from attention_transfer.training.metrics import likeliest
from attention_transfer.training.prepare import Prepared, prepare
from attention_transfer.training.progress import Reporter

LOWEST, HIGHEST = 1.0, 50.0
"""Between these a weighted term should lie after the first epoch, say CAT-KD's authors (README of their code)."""

# Appendix A.2 of Guo et al. (CVPR 2023): the best weight rises with the teacher's capacity, falls with the student's.
# In their Table 12 (student ShuffleNetV1) teachers with 0.9, 2.4 and 7.8 times its parameters do best with weights of
# 50, 100 and 600. So a teacher of the student's size aims at 50^0.2 = 2.2, one eight times as large at 50^0.8 = 23.
# Positions in the range are on its logarithmic scale, 0…1.
_POSITION_OF_EQUALS, _POSITION_OF_EIGHTFOLD = 0.2, 0.8
_POSITIONS = (0.1, 0.9)
_POSITION_WITHOUT_TEACHER = 0.5
_FAR = 5.0  # ratio of suggested to configured weight that a note is worth
_NEAR_CHANCE = 0.05  # of the way from chance to 100 %


@dataclass(frozen=True)
class TermWeight:
    """Configured and suggested weight of one term. All weights are values for the flag, without the schedule.

    Args:
        term: name of the term in the metrics.
        flag: flag of `train` that sets the weight.
        weight: configured weight.
        factor: factor of its schedule in the epoch reached; 1 without a schedule.
        start: size before the first step.
        after: size after the training.
        lowest: weight at which the value after training counts 1 in that epoch; None where value or factor is 0.
        highest: weight at which it counts 50.
        balanced: weight at which its gradient is as long as the task's with the configured task weight; None where
            either vanishes, or the factor is 0.
        suggested: suggested weight, between lowest and highest, rounded to two digits.
        scheduled: whether there is a schedule, so that other epochs may have other factors.
    """

    term: str
    flag: str
    weight: float
    factor: float
    start: Size
    after: Size
    lowest: float | None
    highest: float | None
    balanced: float | None
    suggested: float | None
    scheduled: bool


@dataclass(frozen=True)
class Guide:
    """Sizes of all terms and weights to start from.

    Args:
        student: name of the student in the experiment.
        teacher: name of the teacher in the experiment; None without one.
        epochs: epochs of training between the two measurements; a whole number or not.
        steps: steps of training between the two measurements.
        batches: number of batches that each mean is over.
        batch_size: images in each batch.
        task_weight: configured weight of the cross-entropy.
        task_start: size of the cross-entropy before the first step.
        task_after: size of the cross-entropy after the training.
        parameter_ratio: parameters of the teacher over those of the student; None without a teacher.
        teacher_top1: share of the measured training images, augmented, that the teacher gets right, in percent; None
            without a teacher, or with one of other classes.
        place: position of the suggestions in the range, from 0 (1) to 1 (50) on a logarithmic scale.
        terms: weights of the methods' terms.
        notes: what to know when reading the numbers.
    """

    student: str
    teacher: str | None
    epochs: float
    steps: int
    batches: int
    batch_size: int
    task_weight: float
    task_start: Size
    task_after: Size
    parameter_ratio: float | None
    teacher_top1: float | None
    place: float
    terms: tuple[TermWeight, ...]
    notes: tuple[str, ...]


def suggest_weights(
    experiment: Experiment, batches: int = 8, after_epochs: float = 1.0, reporter: Reporter | None = None
) -> Guide:
    """Measure every term at the start and after some training, and suggest a weight for each.

    «After the first epoch» means: the experiment is trained as `train` would, with its own optimiser, order and
    configured weights (a weight of 0 leaves its term out of training and still measures it), in a throw-away folder;
    then each term is averaged over the training batches that would come next, the student in training mode. What a
    term comes to depends on the weight that it was trained with: after a large change of a weight, measure again.

    The range keeps weight × value between 1 and 50, the rule that the authors of CAT-KD give for their loss; for other
    terms it is an analogy. Where in the range the suggestion lies follows appendix A.2 of their paper: higher for a
    strong teacher, lower for a strong student. Strength is taken to be the number of parameters, since the accuracy
    that the student will reach is unknown. It is a starting point for a sweep, not an optimum.

    Args:
        experiment: an experiment with at least one method.
        batches: number of batches that are averaged, at least 1; at most those of an epoch are used.
        after_epochs: from 0 to the experiment's epochs; fractions are rounded to steps.
        reporter: shows the training's progress; standard output if None.

    Raises:
        ValueError: for an experiment without methods, numbers out of range, whatever `prepare` refuses, and several
            processes.
        NonFiniteLossError: if the training breaks down.
    """
    _check(experiment, batches, after_epochs)
    prepared = prepare(measurable(experiment))
    num_batches = prepared.train.num_batches
    steps = max(1, round(after_epochs * num_batches)) if after_epochs else 0
    batches = min(batches, num_batches)
    start = after = term_sizes(prepared, experiment.seed, 0, batches)
    if steps:
        train_for(experiment, prepared, steps, num_batches, reporter or Reporter())
        after = term_sizes(prepared, experiment.seed, steps, batches)
    ratio = _parameter_ratio(prepared)
    position = _position(ratio)
    epoch = max(0, math.ceil(steps / num_batches) - 1)
    flags = _flags(start, experiment.methods)
    weigh = partial(_term, epoch=epoch, task_weight=experiment.task_weight, start=start, after=after, position=position)
    terms = tuple(weigh(name, flags[name]) for name in start if name != TASK)
    teacher_top1 = _teacher_top1(prepared, batches)
    return Guide(
        student=experiment.student,
        teacher=experiment.teacher,
        epochs=steps / num_batches,
        steps=steps,
        batches=batches,
        batch_size=experiment.training.batch_size,
        task_weight=experiment.task_weight,
        task_start=start[TASK],
        task_after=after[TASK],
        parameter_ratio=ratio,
        teacher_top1=teacher_top1,
        place=position,
        terms=terms,
        notes=(*prepared.notes, *_notes(terms, teacher_top1, prepared.dataset.num_classes, position)),
    )


def _check(experiment: Experiment, batches: int, after_epochs: float) -> None:
    if not experiment.methods:
        raise InputError("there is nothing to weigh: the experiment has no methods (--methods)")
    if batches < 1:
        raise InputError(f"batches must be at least 1, not {batches}")
    if not 0 <= after_epochs <= experiment.training.epochs:
        raise InputError(f"after_epochs must be from 0 to the experiment's {experiment.training.epochs}")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("weights are measured in one process: run this without torchrun")


def _flags(sizes: Mapping[str, Size], methods: tuple[Method, ...]) -> dict[str, Method]:
    """The method of each term: terms begin with its key, the second of a kind with `at2`."""
    named: dict[str, Method] = {}
    for number, method in enumerate(methods, start=1):
        count = sum(other.key == method.key for other in methods[:number])
        named[method.key if count == 1 else f"{method.key}{count}"] = method
    return {
        term: named[max((name for name in named if term.startswith(name)), key=len)] for term in sizes if term != TASK
    }


def _term(
    name: str,
    method: Method,
    epoch: int,
    task_weight: float,
    start: Mapping[str, Size],
    after: Mapping[str, Size],
    position: float,
) -> TermWeight:
    factor = method.schedule.factor(epoch)
    # Value and gradient at a weight of 1, in the epoch of the measurement.
    size, task = after[name], task_weight * after[TASK].gradient_norm
    value, gradient = factor * size.value, factor * size.gradient_norm
    seen = value > 0 and math.isfinite(value)
    return TermWeight(
        term=name,
        flag=f"{method.key}.weight",
        weight=method.weight,
        factor=factor,
        start=start[name],
        after=size,
        lowest=LOWEST / value if seen else None,
        highest=HIGHEST / value if seen else None,
        balanced=task / gradient if task and gradient else None,
        suggested=_two_digits(LOWEST * (HIGHEST / LOWEST) ** position / value) if seen else None,
        scheduled=not method.schedule.constant,
    )


def _position(ratio: float | None) -> float:
    if ratio is None:
        return _POSITION_WITHOUT_TEACHER
    position = _POSITION_OF_EQUALS + (_POSITION_OF_EIGHTFOLD - _POSITION_OF_EQUALS) * math.log(ratio, 8)
    return min(max(position, _POSITIONS[0]), _POSITIONS[1])


def _parameter_ratio(prepared: Prepared) -> float | None:
    if prepared.teacher is None:
        return None
    theirs, ours = (
        sum(p.numel() for p in network.parameters())
        for network in (prepared.teacher.module, prepared.distiller.student)
    )
    return theirs / ours


@torch.no_grad()
def _teacher_top1(prepared: Prepared, batches: int) -> float | None:
    teacher = prepared.teacher
    if teacher is None or teacher.num_classes != prepared.dataset.num_classes:
        return None
    assert isinstance(prepared.distiller, Distiller)
    teacher.module.eval()
    hits, count = 0, 0
    for batch in islice(prepared.train.epoch(0), batches):
        assert batch.label is not None
        with prepared.place.autocast():
            logits = teacher.module(prepared.distiller.teacher_images(batch.image))
        hits += int((logits.argmax(1) == likeliest(batch.label)).sum())
        count += len(batch.label)
    return 100 * hits / count


def _two_digits(number: float) -> float:
    return float(f"{number:.1e}")


def _notes(terms: tuple[TermWeight, ...], teacher_top1: float | None, classes: int, position: float) -> list[str]:
    aim = LOWEST * (HIGHEST / LOWEST) ** position
    notes = [
        f"Suggested is the weight at which the term counts {aim:.2g} after this training, between 1 and 50: the rule of"
        " CAT-KD's authors for their loss, an analogy for others. Higher in the range the more parameters the teacher"
        " has for each of the student's. A starting point for a sweep."
    ]
    chance = 100 / classes
    if teacher_top1 is not None and teacher_top1 <= chance + _NEAR_CHANCE * (100 - chance):
        notes.append(f"The teacher gets {teacher_top1:.1f} % right, near chance: it has nothing to teach.")
    for term in terms:
        if term.scheduled:
            notes.append(
                f"{term.term} has a schedule, which multiplies --{term.flag}: by {term.factor:.3g} in the epoch of the"
                " second measurement. The weights are those to give the flag so that the term counts that much in this"
                " epoch; it counts more or less where the factor is another."
            )
        if not term.factor:
            notes.append(f"{term.term} is switched off by its schedule in that epoch: measure after another one.")
        elif term.suggested is None:
            notes.append(
                f"{term.term} is {term.after.value:g}: no weight makes it count. Do both networks agree already?"
            )
        elif term.weight and not 1 / _FAR <= term.suggested / term.weight <= _FAR:
            notes.append(
                f"{term.term} was trained with {term.weight:g}, far from {term.suggested:g}: its value belongs to that"
                f" weight. Measure again with --{term.flag} {term.suggested:g}."
            )
    return notes
