"""Attention heads that another run has learned: for whom they are good, and for whom they are refused."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import safetensors.torch
import torch
from tests.methods.test_multi_head_graph import EXAMPLE, batch, parts_of, trained
from torch import nn

from attention_transfer import Distiller, FitNet, MultiHeadGraph, build
from attention_transfer.models import Input


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Distiller, Path]:
    distiller = trained()
    file = tmp_path / "parts.safetensors"
    safetensors.torch.save_file(distiller.parts.state_dict(), file)
    return distiller, file


@pytest.mark.filterwarnings("ignore:the student is larger")
def test_trained_heads_serve_other_students_of_their_teacher(kept: tuple[Distiller, Path]) -> None:
    first, file = kept
    torch.manual_seed(9)
    second = Distiller(build("resnet20", 3), first.teacher, [MultiHeadGraph(graph_from=file)], example=EXAMPLE)
    assert [phase.name for phase in second.phases] == ["all"]
    wanted = parts_of(first).heads.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in parts_of(second).heads.state_dict().items())
    assert not any(p.requires_grad for p in parts_of(second).parameters())
    # Also where nobody sets a phase: what was given is not learned any further.
    assert set(second(*batch()).terms) == {"ce", "mhgd"}


def test_heads_serve_every_control(kept: tuple[Distiller, Path]) -> None:
    first, file = kept
    for graph in ("random", "constant", "identity"):
        method = MultiHeadGraph(graph=graph, graph_from=file)
        assert set(Distiller(build("resnet8", 3), first.teacher, [method], example=EXAMPLE)(*batch()).terms) == {
            "ce",
            "mhgd",
        }


def test_heads_of_another_teacher_or_reading_are_refused(kept: tuple[Distiller, Path], tmp_path: Path) -> None:
    first, file = kept
    assert first.teacher is not None
    other = copy.deepcopy(first.teacher)
    with torch.no_grad():
        cast(nn.Linear, other.get_submodule("layer1.0.conv1")).weight[0, 0, 0, 0] += 1e-3
    safetensors.torch.save_file({"at.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    method = MultiHeadGraph(graph_from=file)
    for teacher, chosen, words in (
        (other, method, "trained on another teacher"),
        (first.teacher, replace(method, stages=(0, 2)), "read this teacher otherwise"),
        (first.teacher, replace(method, scaled=True), "read this teacher otherwise"),
        (first.teacher, replace(method, heads=4), "of another number, or for layers of other widths"),
        (first.teacher, replace(method, graph_from=tmp_path / "other.safetensors"), "holds no attention heads of mhgd"),
        (first.teacher, replace(method, graph_from=tmp_path / "broken.safetensors"), "cannot be read"),
        (first.teacher, replace(method, graph_from=tmp_path / "gone"), "there is no run and no file"),
    ):
        with pytest.raises(ValueError, match=words):
            Distiller(build("resnet8", 3), teacher, [chosen], example=EXAMPLE)


def test_heads_are_known_by_where_the_teacher_is_read_not_by_the_words_for_it(kept: tuple[Distiller, Path]) -> None:
    first, file = kept
    assert first.teacher is not None
    names = ("layer1", "layer2", "layer3")
    for fields in (
        {"stages": (0, 1, 2)},
        {"stages": (-3, -2, -1)},
        {"student_layers": names, "teacher_layers": names},
    ):
        Distiller(build("resnet8", 3), first.teacher, [MultiHeadGraph(graph_from=file, **fields)], example=EXAMPLE)
    method, normalised = MultiHeadGraph(graph_from=file), Input(mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="the teacher's normalisation"):
        Distiller(
            build("resnet8", 3),
            first.teacher,
            [method],
            example=EXAMPLE,
            student_input=Input(),
            teacher_input=normalised,
        )
    twice = Distiller(build("resnet8", 3).double(), first.teacher.double(), [method], example=EXAMPLE.double())
    assert not parts_of(twice).learning


def test_heads_that_are_given_leave_the_phases_to_others(kept: tuple[Distiller, Path]) -> None:
    first, file = kept
    given = [MultiHeadGraph(graph_from=file), FitNet(hint_epochs=2)]
    built = Distiller(build("resnet8", 3), first.teacher, given, example=EXAMPLE)
    assert [phase.epochs for phase in built.phases] == [2, None]
    alike = [MultiHeadGraph(graph="similarity"), MultiHeadGraph(graph="similarity", stages=(0, 1))]
    assert set(Distiller(build("resnet8", 3), first.teacher, alike, example=EXAMPLE)(*batch()).terms) == {
        "ce",
        "mhgd",
        "mhgd2",
    }
