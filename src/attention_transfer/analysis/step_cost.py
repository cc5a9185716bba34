"""Cost of a training step with distillation methods beyond that of the baseline, timed in turns.

>>> seconds = seconds_in_turns({"short": lambda: sum(range(10)), "long": lambda: None}, 3, torch.device("cpu"))
>>> {name: len(measured) for name, measured in seconds.items()}
{'short': 3, 'long': 3}
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from attention_transfer.analysis.peak_memory import peak_bytes
from attention_transfer.distiller import Distiller
from attention_transfer.errors import InputError
from attention_transfer.experiment import Experiment
from attention_transfer.training.device import given_back
from attention_transfer.training.optim import make_optimizer
from attention_transfer.training.prepare import Prepared, prepare

Clock = Literal["wall", "cpu"]
_CLOCKS: Mapping[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds_in_turns(
    works: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: torch.device,
    *,
    warm_ups: int = 2,
    clock: Clock = "wall",
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round.

    In a round each is done once, so that a busy machine slows down all alike.

    Args:
        works: pieces of work by name, in their order.
        rounds: rounds that count, at least 1.
        device: device that they run on; it is synchronised before a clock is read.
        warm_ups: rounds before, which do not count.
        clock: `wall` is the time that passes, `cpu` the time that cores work, for a machine that is busy otherwise.

    Raises:
        ValueError: for less than one round.
    """
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, not {rounds}")
    now, accelerated = _CLOCKS[clock], device.type != "cpu"
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-warm_ups, rounds):
        for name, work in works.items():
            if accelerated:
                torch.accelerator.synchronize(device)
            started = now()
            work()
            if accelerated:
                torch.accelerator.synchronize(device)
            if number >= 0:
                seconds[name].append(now() - started)
    return seconds


@dataclass(frozen=True)
class StepCost:
    """Cost of a training step of one experiment.

    Args:
        seconds: median seconds of a step: teacher, student, losses, gradients, optimiser.
        alone_seconds: median seconds of a step of the baseline (the student without teacher and methods).
        time_ratio: median over rounds of the ratio of both.
        extra_parameters: parameters that are trained beside the student.
        extra_bytes: peak memory in bytes minus that of the baseline; the teacher is in it.
        batch_size: images of a step.
    """

    seconds: float
    alone_seconds: float
    time_ratio: float
    extra_parameters: int
    extra_bytes: int
    batch_size: int

    def row(self) -> dict[str, Any]:
        """The fields, as JSON has them."""
        return asdict(self)


def measure_step_cost(experiment: Experiment, rounds: int = 10) -> StepCost:
    """Measure a step of an experiment against one of its baseline, in turns, on one batch of its own data.

    Of an experiment with phases, the last one is measured: that in which the student learns.

    Args:
        experiment: an experiment with or without methods.
        rounds: rounds of both, at least 1; two more do not count.

    Raises:
        ValueError: for less than one round, for pre-training, or whatever training would refuse.
    """
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, not {rounds}")
    if experiment.pretraining is not None:
        raise InputError("pre-training has no methods whose cost could be measured: give a recipe of train")
    alone = replace(experiment, methods=(), teacher=None, task_weight=1.0, untrained_teacher=False)
    with given_back():
        # Batch norm may leave denormals, which slow a CPU down.
        torch.set_flush_denormal(True)
        works = [_Step(prepare(each), each) for each in (experiment, alone)]
        # In turns on the same batch: both meet the same machine.
        named = {"taught": works[0], "alone": works[1]}
        seconds = list(seconds_in_turns(named, rounds, works[0].place.device).values())
        peaks = [peak_bytes(work.held(), work.place.device, prepare=work, work=work) for work in works]
    return StepCost(
        statistics.median(seconds[0]),
        statistics.median(seconds[1]),
        statistics.median(ours / theirs for ours, theirs in zip(*seconds, strict=True)),
        sum(parameter.numel() for parameter in works[0].distiller.parts.parameters()),
        peaks[0] - peaks[1],
        experiment.training.batch_size,
    )


class _Step:
    """One training step, to be repeated."""

    def __init__(self, prepared: Prepared, experiment: Experiment) -> None:
        distiller = prepared.distiller
        assert isinstance(distiller, Distiller)
        self.distiller, self.place, self.arithmetic = distiller, prepared.place, prepared.arithmetic
        self.batch = next(iter(prepared.train.epoch(0)))
        distiller.set_phase(distiller.phases[-1])
        distiller.train()
        self.optimizer = make_optimizer(distiller.trained_modules(), experiment.optimisation)

    def __call__(self) -> None:
        with self.arithmetic():
            with self.place.autocast():
                out = self.distiller(self.batch.image, self.batch.label, self.batch.index)
            self.optimizer.zero_grad(set_to_none=True)
            self.distiller.backward(out)
        self.optimizer.step()

    def held(self) -> list[Tensor]:
        """Tensors that exist before a step and count as memory."""
        distiller, teacher = self.distiller, self.distiller.teacher
        tensors = [*distiller.parameters(), *distiller.buffers(), self.batch.image]
        tensors += [] if teacher is None else [*teacher.parameters(), *teacher.buffers()]
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*tensors, *(value for value in moments if isinstance(value, Tensor))]
