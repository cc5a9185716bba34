"""What a distiller says about itself."""

import re

import pytest
import torch
from tests.conftest import SmallNet
from tests.pairs import EXAMPLE, TRAIN_LABELS, pair
from torch import Tensor, nn

from attention_transfer import (
    METHODS,
    AttentionTransfer,
    DistillationWarning,
    Distiller,
    FitNet,
    MultiHeadGraph,
    Schedule,
    SoftTargets,
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
