"""A compiled distiller gives what it gives otherwise."""

import pytest
import torch
from tests.compiling import compiled_whole
from torch import Tensor, nn

from attention_transfer import AttentionTransfer, Distiller, Schedule, SoftTargets
from attention_transfer.methods import (
    Correlation,
    DecoupledSoftTargets,
    FitNet,
    Method,
    Overhaul,
    Relational,
    Review,
    SimilarityPreserving,
)

Pair = tuple[nn.Module, nn.Module]
EXAMPLE = torch.empty(2, 3, 16, 16)


def batch(count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) % 5


BASELINES = (
    DecoupledSoftTargets(),
    FitNet(),
    Relational(),
    SimilarityPreserving(),
    Correlation(),
    Overhaul(),
    Review(),
)


@compiled_whole
@pytest.mark.parametrize("methods", [(), (AttentionTransfer(),), (AttentionTransfer(), SoftTargets()), BASELINES])
def test_compiled_whole_it_gives_the_same(small_pair: Pair, methods: tuple[Method, ...]) -> None:
    student, teacher = small_pair
    distiller = Distiller(student, teacher if methods else None, methods, example=EXAMPLE)
    images, labels = batch()

    def gradients(step: nn.Module) -> tuple[Tensor, list[Tensor | None]]:
        loss = step(images, labels).loss
        return loss, list(torch.autograd.grad(loss, list(distiller.parameters())))

    plain = gradients(distiller)
    torch.compiler.reset()
    compiled = gradients(torch.compile(distiller, fullgraph=True, backend="aot_eager"))
    torch.testing.assert_close(compiled, plain)


@compiled_whole
def test_compiled_code_survives_a_schedule(small_pair: Pair) -> None:
    student, teacher = small_pair
    method = AttentionTransfer(schedule=Schedule(warmup_epochs=20))
    distiller = Distiller(student, teacher, [method], example=EXAMPLE)
    torch.compiler.reset()
    compiled = torch.compile(distiller, fullgraph=True, backend="aot_eager")
    for epoch in range(12):
        distiller.set_epoch(epoch)
        assert float(compiled(*batch()).terms["at"].weight) == pytest.approx(50.0 * (epoch + 1))
