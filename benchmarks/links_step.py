"""What attention links cost beyond the two networks.

Compares one training step of a distiller with attention links (optimiser included) with a forward pass of the teacher
up to its last linked stage, its norms folded as the distiller has them, plus a bare step of the student, interleaved in
one process. The ratio of the default pair, the paper's, should stay below 1.10.

    python benchmarks/links_step.py [--student NAME] [--teacher NAME] [--image-size 224] [--rounds 5] [--clock cpu]
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
import tyro

from attention_transfer.analysis.step_cost import Clock
from attention_transfer.capture import Capture, Folding
from attention_transfer.distiller import Distiller
from attention_transfer.distiller.notes import unwarned
from attention_transfer.methods import AttentionLinks
from attention_transfer.models import build
from beside_networks import Precision, print_times, seconds_beside_networks


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
    precision: Precision = "float32"
    threads: int | None = None
    rounds: int = 5
    clock: Clock = "wall"
    device: str = "cpu"


def main(flags: Flags) -> None:
    """Measure and print."""
    torch.set_flush_denormal(True)
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    device, classes = torch.device(flags.device), 100
    torch.manual_seed(0)
    # As a training has them under a teacher of convolutions.
    layout = torch.channels_last
    student, teacher = (
        build(name, classes).to(device, memory_format=layout) for name in (flags.student, flags.teacher)
    )
    images = torch.randn(flags.batch_size, 3, flags.image_size, flags.image_size, device=device)
    images = images.contiguous(memory_format=layout)
    labels = torch.randint(0, classes, (flags.batch_size,), device=device)
    bare_student, bare_teacher = deepcopy(student), deepcopy(teacher).eval().requires_grad_(False)
    # The networks are not trained.
    with unwarned():
        distiller = Distiller(student, teacher, [AttentionLinks(links=flags.links)], example=images[:2])
    trunk = Capture(bare_teacher, distiller.reads[0].teacher.taps[-1:], "teacher")
    with torch.no_grad():
        trunk.probe(images[:2], gradient=False)
    run = partial(trunk.run, until_last_tap=True)
    folding = Folding() if device.type != "cpu" else Folding.found(bare_teacher, partial(run, images), len(images))

    def teacher_forward(batch: torch.Tensor) -> None:
        with folding(len(batch)):
            run(batch)

    seconds = seconds_beside_networks(
        distiller,
        teacher_forward,
        bare_student,
        images,
        labels,
        partial(torch.optim.AdamW, lr=1e-4),
        precision=flags.precision,
        rounds=flags.rounds,
        clock=flags.clock,
        attention=True,
    )
    settings = f"batch {flags.batch_size}, {flags.image_size} px, {flags.precision}, {device}"
    print_times(f"{flags.links} links, {flags.teacher} → {flags.student}, {settings}", seconds, flags.clock)


if __name__ == "__main__":
    main(tyro.cli(Flags))
