"""What attention distillation costs, in memory and in time, against feature distillation of the same pair.

    python benchmarks/attention_cost.py --what memory --image-size 448 --rounds 1
    python benchmarks/attention_cost.py --what time
    python benchmarks/attention_cost.py --what forms

`memory`: the most bytes of tensors that are alive at once in one training step, AdamW included; counted by a dispatch
mode on a CPU, by the allocator on CUDA. `time`: one training step, interleaved in one process. `forms`: value and
gradient of the loss of one layer, by number of tokens, in each form.
"""

import statistics
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import timm
import torch
import tyro
from torch import nn

from attention_transfer.analysis.peak_memory import peak_bytes
from attention_transfer.analysis.step_cost import Clock, seconds_in_turns
from attention_transfer.capture import Attention
from attention_transfer.distiller import Distiller
from attention_transfer.distiller.notes import unwarned
from attention_transfer.methods import AttentionDistillation, FeatureDistillation, Method
from attention_transfer.methods.attention_maps.cross_entropy import Form, attention_cross_entropy
from attention_transfer.methods.layers.layer_selection import Layers

FORMS: tuple[Form, ...] = ("chunked", "fused", "explicit")


@dataclass(frozen=True)
class Flags:
    """Measure the cost of attention distillation.

    Args:
        what: is measured.
        model: of timm; teacher and student.
        image_size: side in pixels.
        patch_size: side in pixels.
        batch_size: images.
        layers: the first so many are distilled.
        forms: of attention distillation.
        tokens: for `forms`.
        heads: for `forms`, of 64 channels; the batch is chosen so that maps have about 2 million elements.
        rounds: interleaved measurements of time.
        clock: `cpu` is the time that cores work, for a machine that is busy otherwise.
        threads: of torch; None leaves its choice.
        device: where.
    """

    what: Literal["memory", "time", "forms"] = "time"
    model: str = "vit_small_patch16_224"
    image_size: int = 224
    patch_size: int = 16
    batch_size: int = 8
    layers: int = 9
    forms: tuple[Form, ...] = ("auto",)
    tokens: tuple[int, ...] = (17, 65, 197, 401, 785, 1370)
    heads: int = 6
    rounds: int = 15
    clock: Clock = "wall"
    threads: int | None = None
    device: str = "cpu"


def main(flags: Flags) -> None:
    """Measure and print."""
    torch.set_flush_denormal(True)
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    {"memory": measure_memory, "time": measure_time, "forms": measure_forms}[flags.what](flags)


class Step:
    """One training step of a distiller."""

    def __init__(self, method: Method, teacher: nn.Module, student: nn.Module, flags: Flags) -> None:
        shape = flags.batch_size, 3, flags.image_size, flags.image_size
        self.images = torch.randn(shape, device=flags.device)
        self.labels = torch.arange(flags.batch_size, device=flags.device)
        # The networks are not trained.
        with unwarned():
            self.distiller = Distiller(student, teacher, [method], example=self.images)
        self.optimizer = torch.optim.AdamW(self.distiller.trainable_parameters(), lr=1e-4)
        self.tensors = [self.images, self.labels, *teacher.parameters(), *student.parameters()]

    def __call__(self) -> None:
        out = self.distiller(self.images, self.labels)
        self.optimizer.zero_grad()
        self.distiller.backward(out)
        self.optimizer.step()


def steps(flags: Flags) -> dict[str, Callable[[], Step]]:
    """How to make each step that is compared, feature distillation first."""
    settings = {"img_size": flags.image_size, "patch_size": flags.patch_size}
    teacher, student = (timm.create_model(flags.model, **settings).to(flags.device) for _ in range(2))
    layers = Layers(first=flags.layers)
    methods: dict[str, Method] = {"feature distillation": FeatureDistillation(layers=layers)}
    methods |= {f"attention, {form}": AttentionDistillation(layers=layers, form=form) for form in flags.forms}

    def make(method: Method) -> Callable[[], Step]:
        return lambda: Step(method, deepcopy(teacher), deepcopy(student), flags)

    return {name: make(method) for name, method in methods.items()}


def measure_memory(flags: Flags) -> None:
    """Peak of one step, after one that has made gradients and the optimiser's state."""
    tokens = (flags.image_size // flags.patch_size) ** 2 + 1
    print(f"{flags.model}, {tokens} tokens, batch {flags.batch_size}, first {flags.layers} layers, {flags.device}")
    first = 0.0
    for name, make in steps(flags).items():
        step = make()
        peak = peak_bytes(step.tensors, torch.device(flags.device), step, step) / 2**20
        first = first or peak
        print(f"  {name:<24}{peak:9.0f} MiB   {peak / first:.3f}", flush=True)
        del step


def measure_time(flags: Flags) -> None:
    """Medians of interleaved steps, and of the ratios of each round."""
    work = {name: make() for name, make in steps(flags).items()}
    seconds = interleaved(work, flags)
    first = next(iter(seconds.values()))
    tokens = (flags.image_size // flags.patch_size) ** 2 + 1
    print(f"{flags.model}, {tokens} tokens, batch {flags.batch_size}, first {flags.layers} layers, {flags.device}")
    for name, values in seconds.items():
        ratio = statistics.median(value / base for value, base in zip(values, first, strict=True))
        of_medians = statistics.median(values) / statistics.median(first)
        print(
            f"  {name:<24}{1000 * statistics.median(values):9.1f} ms   {of_medians:.3f} of medians, {ratio:.3f} median"
        )


def measure_forms(flags: Flags) -> None:
    """Medians for one layer, by number of tokens."""
    print(f"{'tokens':>8}{'batch':>7}" + "".join(f"{form:>12}" for form in FORMS) + "   ms for value and gradient")
    for tokens in flags.tokens:
        batch = max(1, round(2e6 / (flags.heads * tokens**2)))
        both = torch.randn(2, batch, tokens, 3, flags.heads, 64, device=flags.device).permute(0, 3, 1, 4, 2, 5)
        teacher = Attention(both[0, 0], both[0, 1], scale=1 / 8)
        query, key = both[1, 0].requires_grad_(), both[1, 1].requires_grad_()
        student = Attention(query, key, scale=1 / 8)

        def work(form: Form, student: Attention = student, teacher: Attention = teacher) -> Callable[[], None]:
            def run() -> None:
                attention_cross_entropy(student, teacher, form=form).backward()
                assert student.query is not None
                assert student.key is not None
                student.query.grad = student.key.grad = None

            return run

        seconds = interleaved({form: work(form) for form in FORMS}, flags)
        medians = [1000 * statistics.median(values) for values in seconds.values()]
        print(f"{tokens:>8}{batch:>7}" + "".join(f"{value:>12.1f}" for value in medians), flush=True)


def interleaved(work: dict[str, Callable[[], None]], flags: Flags) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round, after two rounds that do not count."""
    return seconds_in_turns(work, flags.rounds, torch.device(flags.device), clock=flags.clock)


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
