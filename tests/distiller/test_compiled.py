"""Compiled distillers, teachers in a precision of their own, and what a distiller says about itself."""

import copy
import pickle
import re
from typing import Any

import pytest
import torch
from tests.conftest import SmallNet
from tests.known import compiled_whole
from tests.pairs import EXAMPLE, TRAIN_LABELS, pair
from torch import Tensor, nn

from attention_transfer import (
    METHODS,
    AttentionTransfer,
    ClassAttention,
    DistillationWarning,
    Distiller,
    FitNet,
    GradientAttention,
    Method,
    MultiHeadGraph,
    Schedule,
    SoftTargets,
    build,
)
from attention_transfer.capture import opaque_modules
from attention_transfer.methods import (
    Correlation,
    DecoupledSoftTargets,
    Overhaul,
    Relational,
    Review,
    SimilarityPreserving,
)

Pair = tuple[nn.Module, nn.Module]
SMALL = torch.empty(2, 3, 16, 16)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(4) % 5


def test_pairs_of_layers_stand_beside_each_other_with_their_shapes(small_pair: Pair) -> None:
    methods = [AttentionTransfer(weight=1000.0), SoftTargets(weight=0.9, schedule=Schedule(warmup_epochs=2))]
    distiller = Distiller(*small_pair, methods, task_weight=0.1, example=SMALL)
    lines = [re.split(r"\s{2,}", line) for line in distiller.summary().splitlines()]
    assert ["method", "weight", "of the teacher", "of the student"] in lines
    assert ["at", "1000", "layer1 (2, 6, 16, 16)", "layer1 (2, 4, 16, 16)"] in lines
    assert ["", "layer2 (2, 12, 8, 8)", "layer2 (2, 8, 8, 8)"] in lines
    assert ["kd", "0.45 (by epoch)", "logits (2, 5)", "logits (2, 5)"] in lines
    assert ["ce", "0.1", "logits (2, 5)"] in lines
    distiller.set_epoch(1)
    assert "0.9 (by epoch)" in distiller.summary()


def test_networks_are_counted_with_their_modes(small_pair: Pair) -> None:
    student, teacher = small_pair
    student.layer1.requires_grad_(False)
    distiller = Distiller(student, teacher, [SoftTargets()], example=SMALL)
    counts = [sum(p.numel() for p in network.parameters()) for network in (student, teacher)]
    moving = sum(p.numel() for p in student.parameters() if p.requires_grad)
    first, second, *_ = distiller.summary().splitlines()
    assert first == f"student  SmallNet, {counts[0]:,} parameters ({moving:,} trained), in training mode"
    assert second == f"teacher  SmallNet, {counts[1]:,} parameters (frozen), in evaluation mode"
    student.layer2.eval()
    assert "partly in training mode" in distiller.summary()
    assert "teacher" not in Distiller(student, None, [], example=SMALL).summary().splitlines()[1]


def test_phases_parts_and_notes_are_told(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [FitNet(hint_epochs=2, hint_learning_rate=0.01)], example=SMALL)
    text = distiller.summary()
    parts = sum(p.numel() for p in distiller.parts.parameters())
    assert f"learned by fitnet beside the student: {parts:,} parameters" in text
    assert "  hint: 2 epochs, student and parts move, by fitnet, at a rate of 0.01" in text
    assert "  task: the epochs of the training, student and parts move, by all terms but fitnet" in text
    graphs = Distiller(*small_pair, [MultiHeadGraph()], example=SMALL).summary()
    assert "  graph: 40 epochs, parts move, by mhgd-heads, at a rate of 0.1" in graphs
    with pytest.warns(DistillationWarning):
        swapped = Distiller(SmallNet(6), SmallNet(4), [AttentionTransfer()], example=SMALL)
    assert swapped.summary().splitlines()[-1] == f"note: {swapped.notes[0]}"
    assert "phases" not in swapped.summary()


@pytest.mark.parametrize("key", METHODS)
def test_every_method_has_rows_with_the_shape_of_all_that_it_reads(key: str) -> None:
    distiller = Distiller(*pair(key), [METHODS[key]()], example=EXAMPLE, train_labels=TRAIN_LABELS)
    text = distiller.summary()
    (reads,) = distiller.reads
    for tap in (*reads.teacher.taps, *reads.student.taps, *reads.teacher.attention, *reads.student.attention):
        assert re.search(rf"{re.escape(str(tap))} \(\d+(, \d+)+\)", text), tap
    assert text.count("\n") < 40
    assert re.search(rf"^{key} ", text, re.MULTILINE)
    assert repr(distiller).count("\n") == 0


def test_a_distiller_and_its_output_are_shown_in_a_line_without_tensors(small_pair: Pair) -> None:
    methods = [AttentionTransfer(weight=1000.0), SoftTargets(weight=0.9)]
    distiller = Distiller(*small_pair, methods, task_weight=0.1, example=SMALL)
    assert repr(distiller) == "Distiller(SmallNet learns from SmallNet by 0.1 ce + 1000 at + 0.9 kd)"
    assert repr(Distiller(small_pair[0], None, [], example=SMALL)) == "Distiller(SmallNet learns by 1 ce)"
    out = distiller(*batch())
    ce, at, kd = (float(term.value.detach()) for term in out.terms.values())
    shown = f"ce {ce:.4g} × 0.1, at {at:.4g} × 1000, kd {kd:.4g} × 0.9"
    assert repr(out) == f"Output(loss {float(out.loss.detach()):.4g} = {shown})"
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert repr(distiller(*batch())).startswith("Output(loss ")


def test_a_phase_is_part_of_what_is_shown(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [FitNet(hint_epochs=2)], example=SMALL)
    distiller.set_epoch(0)
    assert repr(distiller) == "Distiller(SmallNet learns from SmallNet by 1 ce + 100 fitnet, in phase hint)"


# ---------------- A teacher keeps a precision of its own beside a student of another

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4)
TOLERANCES = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float64: 1e-4}


def pair_of(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return SmallNet(4), SmallNet(6).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    "method",
    [SoftTargets(), AttentionTransfer(), ClassAttention(), GradientAttention(), Overhaul(), Relational()],
    ids=lambda method: method.key,
)
def test_losses_are_float32_and_nearly_those_of_equal_precision(method: Method, dtype: torch.dtype) -> None:
    try:
        wanted = Distiller(*pair_of(torch.float32), [method], example=EXAMPLE)(IMAGES, LABELS)
    except ValueError as error:
        pytest.skip(str(error))
    student, teacher = pair_of(dtype)
    out = Distiller(student, teacher, [method], example=EXAMPLE)(IMAGES, LABELS)
    assert out.loss.dtype == torch.float32
    assert out.teacher_logits is None or out.teacher_logits.dtype == torch.float32
    assert all(p.dtype == dtype for p in teacher.parameters())
    torch.testing.assert_close(out.loss, wanted.loss, rtol=TOLERANCES[dtype], atol=0.0)
    out.loss.backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in student.parameters())


def test_its_precision_is_its_own_under_autocast_too() -> None:
    student, teacher = pair_of(torch.float64)
    wanted = copy.deepcopy(teacher).eval()(IMAGES.double()).float()
    distiller = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE)
    with torch.autocast("cpu", torch.bfloat16):
        found = distiller(IMAGES, LABELS).teacher_logits
    torch.testing.assert_close(found, wanted)


def test_a_student_of_half_precision_learns_from_a_teacher_of_float32() -> None:
    student, teacher = pair_of(torch.float32)
    distiller = Distiller(student.bfloat16(), teacher, [SoftTargets()], example=EXAMPLE.bfloat16())
    out = distiller(IMAGES.bfloat16(), LABELS)
    assert out.loss.dtype == torch.float32
    torch.testing.assert_close(out.teacher_logits, teacher(IMAGES.bfloat16().float()))


class Mixed(SmallNet):
    """A head of another precision, that casts for itself."""

    def __init__(self) -> None:
        super().__init__(6)
        self.layer1.bfloat16()
        self.layer2.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)).float())


def test_a_teacher_of_several_precisions_is_given_that_of_its_entry() -> None:
    teacher = Mixed()
    wanted = copy.deepcopy(teacher).eval()(IMAGES.bfloat16())
    distiller = Distiller(pair_of(torch.float32)[0], teacher, [SoftTargets(), AttentionTransfer()], example=EXAMPLE)
    out = distiller(IMAGES, LABELS)
    torch.testing.assert_close(out.teacher_logits, wanted, rtol=0.02, atol=0.02)
    assert out.loss.dtype == torch.float32


def test_both_go_where_the_distiller_goes() -> None:
    student, teacher = pair_of(torch.float64)
    distiller = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE).to(torch.bfloat16)
    assert {p.dtype for p in (*student.parameters(), *teacher.parameters())} == {torch.bfloat16}
    assert torch.isfinite(distiller(IMAGES.bfloat16(), LABELS).loss)


# ---------------------------------------------------------------- A compiled distiller gives what it gives otherwise


def images_and_labels(count: int = 4) -> tuple[Tensor, Tensor]:
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
    images, labels = images_and_labels()

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
        assert float(compiled(*images_and_labels()).terms["at"].weight) == pytest.approx(50.0 * (epoch + 1))


# ---------------- older versions of torch run a compiled distiller as it is


@pytest.mark.parametrize(
    ("version", "able"), [("2.8.0+cu128", False), ("2.9.1", False), ("2.10.0", True), ("2.15.0", True)]
)
def test_versions_are_compared_as_versions(monkeypatch: pytest.MonkeyPatch, version: str, able: bool) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert opaque_modules.compiles() == able


@pytest.mark.parametrize("able", [False, True])
def test_a_step_is_compiled_where_it_can_be(monkeypatch: pytest.MonkeyPatch, able: bool) -> None:
    monkeypatch.setattr(opaque_modules, "compiles", lambda: able)

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            opaque_modules.leave_uncompiled_where_it_must_be(Module)

        def forward(self, x: Tensor) -> tuple[Tensor, bool]:
            return 2 * x, torch.compiler.is_compiling()

    torch.compiler.reset()
    value, compiled = torch.compile(Module(), backend="eager")(torch.ones(2))
    assert value.tolist() == [2, 2]
    assert compiled == able


# ---------------- what a distiller is given, and that it can be handed on


@pytest.mark.parametrize("key", METHODS)
def test_it_can_be_pickled_and_copied(key: str) -> None:
    student, teacher = pair(key)
    distiller = Distiller(student, teacher, [METHODS[key]()], example=EXAMPLE, train_labels=TRAIN_LABELS).eval()
    batch = torch.randn(2, 3, 16, 16), torch.arange(2), torch.arange(2)
    wanted = distiller(*batch).loss
    for other in (pickle.loads(pickle.dumps(distiller)), copy.deepcopy(distiller)):
        torch.testing.assert_close(other(*batch).loss, wanted)
        assert isinstance(other.student, nn.Module)
        assert other.student is not student


@pytest.mark.parametrize("methods", [["at"], AttentionTransfer(), [AttentionTransfer]])
def test_what_is_no_list_of_methods_is_refused_in_words(methods: Any) -> None:
    with pytest.raises(TypeError, match="methods must be a list of methods"):
        Distiller(build("resnet8", 4), build("resnet14", 4), methods, example=torch.empty(2, 3, 32, 32))
