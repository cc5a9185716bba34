"""What looking at every batch costs: the checks of a distiller beside the step that they belong to.

python benchmarks/batch_checks.py [--student resnet20] [--teacher resnet56] [--batch-size 64] [--mixed]
"""

import statistics
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor

from attention_transfer.analysis.step_cost import Clock, seconds_in_turns
from attention_transfer.distiller import Distiller
from attention_transfer.distiller.batch_checks import BatchChecks
from attention_transfer.distiller.image_checks import Kind
from attention_transfer.distiller.notes import unwarned
from attention_transfer.distiller.task_loss import TASK_LOSSES
from attention_transfer.methods import SoftTargets
from attention_transfer.models import build


@dataclass(frozen=True)
class Flags:
    """Measure the cost of the checks.

    Args:
        student: as on the command line.
        teacher: likewise; empty for a student alone, whose step is the shortest.
        batch_size: images.
        classes: of both networks.
        mixed: labels are class probabilities, not class indices.
        rounds: interleaved measurements; medians are reported.
        clock: `wall` is the time that passes, `cpu` the time that cores work, for a machine that is busy otherwise.
        device: where.
    """

    student: str = "resnet20"
    teacher: str = "resnet56"
    batch_size: int = 64
    classes: int = 100
    mixed: bool = False
    rounds: int = 40
    clock: Clock = "wall"
    device: str = "cpu"


def main(flags: Flags) -> None:
    """Measure and print."""
    device = torch.device(flags.device)
    torch.manual_seed(0)
    networks = [build(name, flags.classes).to(device) for name in (flags.student, flags.teacher) if name]
    images = torch.randn(flags.batch_size, 3, 32, 32, device=device)
    labels = torch.randint(0, flags.classes, (flags.batch_size,), device=device)
    if flags.mixed:
        labels = torch.randn(flags.batch_size, flags.classes, device=device).softmax(1)
    methods = [SoftTargets()] if flags.teacher else []
    # The networks are not trained.
    with unwarned():
        distiller = Distiller(*networks, methods=methods, example=images)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=1e-3, momentum=0.9)
    reads = {method.key: reads for method, reads in zip(distiller.methods, distiller.reads, strict=True)}
    checks = BatchChecks(reads, TASK_LOSSES["cross-entropy"], Kind(channels=3), (flags.classes,))

    def step() -> None:
        optimizer.zero_grad()
        distiller(images, labels).loss.backward()
        optimizer.step()

    def look() -> tuple[Any, Tensor | None]:
        return checks(images, labels, None)

    seconds = seconds_in_turns({"step": step, "checks": look}, flags.rounds, device, clock=flags.clock)
    whole, part = (statistics.median(seconds[name]) for name in ("step", "checks"))
    labelled = "class probabilities" if flags.mixed else "class indices"
    print(f"{flags.teacher or 'no teacher'} → {flags.student}, batch {flags.batch_size}, {labelled}, {device}")
    print(f"  step      {1000 * whole:8.2f} ms ({flags.clock}), its checks among it")
    print(f"  checks    {1000 * part:8.3f} ms, {part / whole:.2%} of the step")


if __name__ == "__main__":
    main(tyro.cli(Flags))
