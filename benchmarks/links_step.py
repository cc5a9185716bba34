"""What attention links cost beyond the two networks.

Compares one training step of a distiller with attention links (optimiser included) with a forward pass of the teacher
up to its last stage plus a bare step of the student, interleaved in one process. The ratio should stay below 1.10.

    python benchmarks/links_step.py [--student NAME] [--teacher NAME] [--image-size 224] [--rounds 5] [--clock cpu]
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

from attention_transfer.capture import Capture
from attention_transfer.distiller import Distiller
from attention_transfer.methods import AttentionLinks
from attention_transfer.models import build


@dataclass(frozen=True)
class Flags:
    """Measure the cost of a step.

    Args:
        student: a transformer.
        teacher: a network of convolutions.
        links: as the method takes them.
        batch_size: images.
        image_size: side in pixels.
        precision: of the networks.
        threads: of torch; None leaves its choice.
        rounds: interleaved measurements; medians are reported.
        clock: `wall` is the time that passes, `cpu` the time that cores work, for a machine that is busy otherwise.
        device: where.
    """

    student: str = "timm:deit_small_distilled_patch16_224"
    teacher: str = "timm:efficientnet_b3"
    links: str = "full"
    batch_size: int = 8
    image_size: int = 224
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = None
    rounds: int = 5
    clock: Literal["wall", "cpu"] = "wall"
    device: str = "cpu"


def main(flags: Flags) -> None:
    """Measure and print."""
    torch.set_flush_denormal(True)
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    clock = {"wall": time.perf_counter, "cpu": time.process_time}[flags.clock]
    device, classes = torch.device(flags.device), 100
    torch.manual_seed(0)
    student, teacher = build(flags.student, classes).to(device), build(flags.teacher, classes).to(device)
    images = torch.randn(flags.batch_size, 3, flags.image_size, flags.image_size, device=device)
    labels = torch.randint(0, classes, (flags.batch_size,), device=device)
    bare_student, bare_teacher = deepcopy(student), deepcopy(teacher).eval().requires_grad_(False)
    distiller = Distiller(student, teacher, [AttentionLinks(links=flags.links)], example=images[:2])
    trunk = Capture(bare_teacher, distiller.reads[0].teacher[-1:], "teacher")
    with torch.no_grad():
        trunk.probe(images[:2], gradient=False)
    optimizers = {
        name: torch.optim.AdamW(parameters, lr=1e-4)
        for name, parameters in (("bare", bare_student.parameters()), ("distiller", distiller.trainable_parameters()))
    }

    def autocast() -> torch.autocast | nullcontext[None]:
        return torch.autocast(device.type, torch.bfloat16) if flags.precision == "bfloat16" else nullcontext()

    def teacher_trunk() -> None:
        with torch.no_grad(), autocast():
            trunk.run(images, until_last_tap=True)

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
        "teacher": teacher_trunk,
        "student": student_step,
        "distiller": distiller_step,
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for round_number in range(flags.rounds + 1):
        for name, step in work.items():
            started = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number:
                seconds[name].append(clock() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [d / (t + s) for t, s, d in zip(*(seconds[name] for name in work), strict=True)]
    print(f"{flags.teacher} → {flags.student}, batch {flags.batch_size}, {flags.image_size} px, {flags.precision}")
    for name, value in medians.items():
        print(f"  {name:<10}{1000 * value:8.1f} ms ({flags.clock})")
    print(f"  ratio     {medians['distiller'] / (medians['teacher'] + medians['student']):8.3f}   of medians")
    print(f"  ratio     {statistics.median(ratios):8.3f}   median over {flags.rounds} rounds")


if __name__ == "__main__":
    main(tyro.cli(Flags))
