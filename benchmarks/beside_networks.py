"""A step of a distiller beside the bare work of its two networks: what `step.py` and `links_step.py` measure alike."""

import statistics
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer.analysis.step_cost import Clock, seconds_in_turns
from attention_transfer.distiller import Distiller
from attention_transfer.training.device import Arithmetic

Precision = Literal["float32", "bfloat16"]


def seconds_beside_networks(
    distiller: Distiller,
    teacher: Callable[[Tensor], object],
    student: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    *,
    precision: Precision,
    rounds: int,
    clock: Clock = "wall",
    attention: bool = False,
) -> dict[str, list[float]]:
    """Seconds in each round: of `teacher`, a forward pass; `student`, a bare step; `distiller`, a step with all.

    Args:
        distiller: in the phase that is measured.
        teacher: forward pass of a copy of its teacher, or of as much of it as the methods need.
        student: a copy of its student.
        images: of every step.
        labels: class numbers.
        optimizer: makes one for some parameters.
        precision: of the networks.
        rounds: that count.
        clock: that is read.
        attention: whether a network has some, which is then computed as a training does it.
    """
    device = images.device
    place = Arithmetic(device, precision)
    kernel = place.attention_kernel if attention else nullcontext
    ours, bare = optimizer(distiller.trainable_parameters()), optimizer(student.parameters())

    def teacher_forward() -> None:
        with torch.no_grad(), place.autocast():
            teacher(images)

    def student_step() -> None:
        with kernel():
            with place.autocast():
                logits = student(images)
            loss = functional.cross_entropy(logits.float(), labels)
            bare.zero_grad()
            loss.backward()
        bare.step()

    def distiller_step() -> None:
        with kernel():
            with place.autocast():
                out = distiller(images, labels)
            ours.zero_grad()
            distiller.backward(out)
        ours.step()

    works = {"teacher": teacher_forward, "student": student_step, "distiller": distiller_step}
    return seconds_in_turns(works, rounds, device, warm_ups=3, clock=clock)


def print_times(title: str, seconds: dict[str, list[float]], clock: Clock = "wall") -> None:
    """Print medians, their ratio, and the median of the ratios of each round: distiller to teacher and student.

    Args:
        title: what was measured.
        seconds: from `seconds_beside_networks`.
        clock: that was read.
    """
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rounds = list(zip(seconds["teacher"], seconds["student"], seconds["distiller"], strict=True))
    print(title)
    for name, value in medians.items():
        print(f"  {name:<10}{1000 * value:8.2f} ms ({clock})")
    print(f"  ratio     {medians['distiller'] / (medians['teacher'] + medians['student']):8.3f}   of medians")
    print(f"  ratio     {statistics.median(d / (t + s) for t, s, d in rounds):8.3f}   median over {len(rounds)} rounds")
