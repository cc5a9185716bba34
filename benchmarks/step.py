"""What distillation costs beyond its two networks.

Compares one training step of a distiller (optimiser included) with a bare forward pass of the teacher plus a bare step
of the student, under the same flags, interleaved in one process. Of methods with phases it is the last one, in which
the student learns.

    python benchmarks/step.py [--methods at kd] [--pair resnet56:resnet20] [--precision float32] [--rounds 40]
"""

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch.nn import functional

from attention_transfer.distiller import Distiller
from attention_transfer.methods import METHODS
from attention_transfer.models import build


@dataclass(frozen=True)
class Flags:
    """Measure the cost of a step.

    Args:
        methods: by key, with their default settings.
        pair: teacher:student.
        batch_size: images.
        image_size: side in pixels.
        classes: of both networks.
        precision: of the networks.
        channels_last: memory format.
        compile: compile distiller, teacher and student alike.
        threads: of torch; None leaves its choice.
        rounds: interleaved measurements; medians are reported.
        device: where.
    """

    methods: tuple[str, ...] = ("at", "kd")
    pair: str = "resnet56:resnet20"
    batch_size: int = 64
    image_size: int = 32
    classes: int = 100
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    threads: int | None = None
    rounds: int = 40
    device: str = "cpu"


def main(flags: Flags) -> None:
    """Measure and print."""
    torch.set_flush_denormal(True)
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    device = torch.device(flags.device)
    torch.manual_seed(0)
    teacher, student = (build(name, flags.classes).to(device) for name in flags.pair.split(":"))
    images = torch.randn(flags.batch_size, 3, flags.image_size, flags.image_size, device=device)
    labels = torch.randint(0, flags.classes, (flags.batch_size,), device=device)
    layout = torch.channels_last if flags.channels_last else torch.contiguous_format
    images = images.to(memory_format=layout)
    bare_teacher = deepcopy(teacher).eval().requires_grad_(False).to(memory_format=layout)
    bare_student = deepcopy(student).to(memory_format=layout)
    methods = [METHODS[key]() for key in flags.methods]
    distiller = Distiller(student, teacher, methods, example=images).to(memory_format=layout)
    distiller.set_phase(distiller.phases[-1])
    optimizers = {
        name: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4)
        for name, parameters in (("bare", bare_student.parameters()), ("distiller", distiller.trainable_parameters()))
    }
    if flags.compile:
        for module in (bare_teacher, bare_student, distiller):
            module.compile()

    def autocast() -> torch.autocast | nullcontext[None]:
        return torch.autocast(device.type, torch.bfloat16) if flags.precision == "bfloat16" else nullcontext()

    def teacher_forward() -> None:
        with torch.no_grad(), autocast():
            bare_teacher(images)

    def student_step() -> None:
        with autocast():
            logits = bare_student(images)
        loss = functional.cross_entropy(logits.float(), labels)
        optimizers["bare"].zero_grad()
        loss.backward()
        optimizers["bare"].step()

    def distiller_step() -> None:
        with autocast():
            out = distiller(images, labels)
        optimizers["distiller"].zero_grad()
        distiller.backward(out)
        optimizers["distiller"].step()

    work: dict[str, Callable[[], None]] = {
        "teacher": teacher_forward,
        "student": student_step,
        "distiller": distiller_step,
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for round_number in range(flags.rounds + 3):
        for name, step in work.items():
            started = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number >= 3:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [d / (t + s) for t, s, d in zip(*(seconds[name] for name in work), strict=True)]
    settings = f"batch {flags.batch_size}, {flags.precision}, channels_last={flags.channels_last}, {device}"
    print(f"{' + '.join(flags.methods)}, {flags.pair}, {settings}")
    for name, value in medians.items():
        print(f"  {name:<10}{1000 * value:8.2f} ms")
    print(f"  ratio     {medians['distiller'] / (medians['teacher'] + medians['student']):8.3f}   of medians")
    print(f"  ratio     {statistics.median(ratios):8.3f}   median over {flags.rounds} rounds")


if __name__ == "__main__":
    main(tyro.cli(Flags))
