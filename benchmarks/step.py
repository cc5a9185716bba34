"""What distillation costs beyond its two networks.

Compares one training step of a distiller (optimiser included) with a bare forward pass of the teacher plus a bare step
of the student, under the same flags, interleaved in one process. Of methods with phases it is the last one, in which
the student learns.

    python benchmarks/step.py [--methods at kd] [--teacher resnet56] [--student resnet20] [--rounds 40]
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import tyro

from attention_transfer.analysis.step_cost import Clock
from attention_transfer.distiller import Distiller
from attention_transfer.distiller.notes import unwarned
from attention_transfer.methods import METHODS
from attention_transfer.models import build, describe
from beside_networks import Precision, print_times, seconds_beside_networks

_OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=1e-3, momentum=0.9, weight_decay=5e-4),
    "adamw": partial(torch.optim.AdamW, lr=1e-4),
}


@dataclass(frozen=True)
class Flags:
    """Measure the cost of a step.

    Args:
        methods: by key, with their default settings.
        teacher: as on the command line, without weights.
        student: likewise.
        batch_size: images.
        image_size: side in pixels.
        classes: of both networks.
        optimizer: of the student.
        precision: of the networks.
        channels_last: memory format.
        compile: compile distiller, teacher and student alike.
        threads: of torch; None leaves its choice.
        rounds: interleaved measurements; medians are reported.
        clock: `wall` is the time that passes, `cpu` the time that cores work, for a machine that is busy otherwise.
        device: where.
    """

    methods: tuple[str, ...] = ("at", "kd")
    teacher: str = "resnet56"
    student: str = "resnet20"
    batch_size: int = 64
    image_size: int = 32
    classes: int = 100
    optimizer: Literal["sgd", "adamw"] = "sgd"
    precision: Precision = "float32"
    channels_last: bool = True
    compile: bool = False
    threads: int | None = None
    rounds: int = 40
    clock: Clock = "wall"
    device: str = "cpu"


def main(flags: Flags) -> None:
    """Measure and print."""
    torch.set_flush_denormal(True)
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    device = torch.device(flags.device)
    torch.manual_seed(0)
    teacher, student = (build(name, flags.classes).to(device) for name in (flags.teacher, flags.student))
    images = torch.randn(flags.batch_size, 3, flags.image_size, flags.image_size, device=device)
    labels = torch.randint(0, flags.classes, (flags.batch_size,), device=device)
    layout = torch.channels_last if flags.channels_last else torch.contiguous_format
    images = images.to(memory_format=layout)
    bare_teacher = deepcopy(teacher).eval().requires_grad_(False).to(memory_format=layout)
    bare_student = deepcopy(student).to(memory_format=layout)
    methods = [METHODS[key]() for key in flags.methods]
    # The networks are not trained.
    with unwarned():
        distiller = Distiller(student, teacher, methods, example=images).to(memory_format=layout)
    distiller.set_phase(distiller.phases[-1])
    if flags.compile:
        for module in (bare_teacher, bare_student, distiller):
            module.compile()

    seconds = seconds_beside_networks(
        distiller,
        bare_teacher,
        bare_student,
        images,
        labels,
        _OPTIMIZERS[flags.optimizer],
        precision=flags.precision,
        rounds=flags.rounds,
        clock=flags.clock,
        attention=not all(describe(network).convolutional for network in (teacher, student)),
    )
    settings = f"batch {flags.batch_size}, {flags.precision}, channels_last={flags.channels_last}, {device}"
    print_times(f"{' + '.join(flags.methods)}, {flags.teacher} → {flags.student}, {settings}", seconds, flags.clock)


if __name__ == "__main__":
    main(tyro.cli(Flags))
