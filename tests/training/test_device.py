"""How a run computes: attention in bfloat16 is written out on a CPU, forwards and backwards, and nowhere else."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import pytest
import torch
from tests.trained import as_trained
from tests.training.conftest import Make
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from attention_transfer import AttentionCopy, Data, Distiller, Experiment, Method, SoftTargets, Training
from attention_transfer.experiment import Optimisation
from attention_transfer.models import build
from attention_transfer.training.device import Arithmetic
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import prepare
from attention_transfer.training.progress import Reporter

VIT = "timm:vit_tiny_patch16_224(img_size=32, patch_size=8, depth=2, embed_dim=12, num_heads=1)"
SMALL = VIT.replace("32", "16")


class Fused(TorchFunctionMode):
    """Counts calls that reach torch's own kernel."""

    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += func is functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fused() -> Iterator[Fused]:
    with Fused() as counting:
        yield counting


def heads(kind: torch.dtype = torch.bfloat16, tokens: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, tokens, 8, generator=generator).to(kind).requires_grad_() for _ in range(3)]


BF16 = Arithmetic(torch.device("cpu"), "bfloat16")


@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_written_out_attention_computes_what_the_kernel_does(
    scale: float | None, masked: bool, named: bool, fused: Fused
) -> None:
    exact, rounded = heads(torch.float32), heads()
    with torch.no_grad():
        for full, half in zip(exact, rounded, strict=True):
            full.copy_(half)
    mask = torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(1)) if masked else None
    expected = functional.scaled_dot_product_attention(*exact, attn_mask=mask, scale=scale)
    with BF16.attention_kernel(), BF16.autocast():
        if named:
            query, key, value = rounded
            found = functional.scaled_dot_product_attention(
                query=query, key=key, value=value, attn_mask=mask, scale=scale
            )
        else:
            found = functional.scaled_dot_product_attention(*rounded, mask, scale=scale)
    assert fused.calls == 1  # the exact one's
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    expected.backward(upstream)
    found.backward(upstream.bfloat16())
    for full, half in zip(exact, rounded, strict=True):
        assert full.grad is not None
        assert half.grad is not None
        torch.testing.assert_close(half.grad.float(), full.grad, atol=0.03, rtol=0.03)


def test_what_comes_in_float32_is_rounded_as_autocast_would(fused: Fused) -> None:
    with BF16.attention_kernel(), BF16.autocast():
        assert functional.scaled_dot_product_attention(*heads(torch.float32)).dtype == torch.bfloat16
    assert fused.calls == 0


@pytest.mark.parametrize(
    "others",
    [
        {"dropout_p": 0.1},
        {"is_causal": True},
        {"attn_mask": torch.ones(9, 9, dtype=torch.bool)},
        {"enable_gqa": True},
    ],
)
def test_other_calls_go_to_torch(others: dict[str, object], fused: Fused) -> None:
    with BF16.attention_kernel(), BF16.autocast():
        functional.scaled_dot_product_attention(*heads(), **others)
    assert fused.calls == 1


def test_other_arithmetic_goes_to_torch(fused: Fused) -> None:
    with Arithmetic(torch.device("cpu")).attention_kernel():
        functional.scaled_dot_product_attention(*heads(torch.float32))
    with BF16.attention_kernel():  # a loss in float32, outside of autocast
        assert functional.scaled_dot_product_attention(*heads(torch.float32)).dtype == torch.float32
    assert fused.calls == 2


def test_maps_that_are_too_large_go_to_torch(fused: Fused) -> None:
    long = [torch.zeros(1, 1, 6000, 1, dtype=torch.bfloat16) for _ in range(3)]
    with BF16.attention_kernel(), BF16.autocast():
        functional.scaled_dot_product_attention(*long)
    assert fused.calls == 1


def test_attention_of_torchs_own_module_is_written_out(fused: Fused) -> None:
    torch.manual_seed(0)
    module, tokens = torch.nn.MultiheadAttention(12, 3, batch_first=True), torch.randn(2, 5, 12)
    exact = module(tokens, tokens, tokens, need_weights=False)[0]
    before = fused.calls
    with BF16.attention_kernel(), BF16.autocast():
        found = module(tokens, tokens, tokens, need_weights=False)[0]
    assert fused.calls == before
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("methods", [[], [AttentionCopy()]])
def test_checkpointed_layers_run_again_by_the_same_kernel(methods: list[Method]) -> None:
    gradients: list[torch.Tensor] = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        student, teacher = build(VIT, 5), as_trained(build(VIT, 5)) if methods else None
        student.set_grad_checkpointing(checkpointed)
        distiller = Distiller(student, teacher, methods, example=torch.empty(2, 3, 32, 32))
        images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        with BF16.attention_kernel():
            with BF16.autocast():
                out = distiller(images, torch.arange(4))
            distiller.backward(out)
        gradients.append(student.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("precision", "calls"), [("bfloat16", 0), ("float32", 2)])
def test_a_step_of_a_run_is_computed_so(
    precision: Literal["float32", "bfloat16"],
    calls: int,
    fused: Fused,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    forward = Distiller.forward

    def watched(self: Distiller, *args):
        before = fused.calls
        out = forward(self, *args)
        seen.append(fused.calls - before)
        return out

    monkeypatch.setattr(Distiller, "forward", watched)
    experiment = Experiment(
        "test",
        VIT,
        data=Data(train_limit=8, test_limit=8),
        optimisation=Optimisation(optimizer="adamw", learning_rate=1e-3),
        training=Training(epochs=1, batch_size=8, precision=precision),
    )
    fit_experiment(experiment, tmp_path / "run", Reporter(silent=True))
    assert seen == [calls]


@pytest.mark.parametrize(
    ("student", "teacher", "last"),
    [
        (SMALL, "resnet8", True),
        ("resnet8", SMALL, True),
        ("resnet8", None, True),
        (SMALL, SMALL, False),
        (SMALL, None, False),
    ],
)
def test_channels_come_last_where_either_network_is_made_of_convolutions(
    make: Make, student: str, teacher: str | None, last: bool
) -> None:
    """A SqueezeNet took four times as long beside a transformer as it needs."""
    prepared = prepare(make(student=student, teacher=teacher, methods=(SoftTargets(),) if teacher else ()))
    layout = torch.channels_last if last else torch.contiguous_format
    assert prepared.place.memory_format == layout
    assert next(iter(prepared.train.epoch(0))).image.is_contiguous(memory_format=layout)
    assert isinstance(prepared.distiller, Distiller)
    for module in prepared.distiller.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=layout)


def test_channels_come_last_only_where_asked(make: Make) -> None:
    given = {"channels_last": False}
    prepared = prepare(make(student=SMALL, teacher="resnet8", methods=(SoftTargets(),), training=given))
    assert prepared.place.memory_format == torch.contiguous_format


@pytest.mark.parametrize("flushes", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_training_gives_threads_and_denormals_back(make: Make, tmp_path: Path, flushes: bool, fails: bool) -> None:
    threads = torch.get_num_threads()
    device = "nowhere" if fails else "cpu"
    experiment = make(training={"epochs": 1, "threads": 1, "device": device}, methods=(), teacher=None)
    try:
        torch.set_num_threads(2)
        torch.set_flush_denormal(flushes)
        with pytest.raises(ValueError, match="cannot be used here") if fails else nullcontext():
            fit_experiment(experiment, tmp_path / "run", Reporter(silent=True))
        assert torch.get_num_threads() == 2
        assert bool(torch.full((1,), 1e-40) * 1) is not flushes
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
