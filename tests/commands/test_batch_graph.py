"""`batch-graph`, as a user types it, and what it draws."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.analysis.conftest import CPU, dataset, save_network
from tests.training.conftest import Make, images, make
from tests.training.test_fit import KilledError, Killer, silent
from torch import Tensor

from attention_transfer import Distiller, Experiment, MultiHeadGraph, build
from attention_transfer.analysis.batch_graph import batch_graphs, images_of_classes
from attention_transfer.commands.batch_graph import command
from attention_transfer.data import DataSet
from attention_transfer.methods.multi_head_graph.graphs import squashed_graph
from attention_transfer.models import open_model
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment

__all__ = ["dataset", "images", "make"]


@pytest.fixture
def experiment(make: Make, tmp_path: Path) -> Experiment:
    """One epoch for the heads, one for a narrower student, under a teacher on disk."""
    return make(
        teacher=save_network(tmp_path / "teacher", name="resnet8x4"),
        untrained_teacher=False,
        methods=(MultiHeadGraph(heads=3, graph_epochs=1),),
        training={"epochs": 1},
    )


@pytest.fixture
def run(experiment: Experiment, tmp_path: Path) -> RunFolder:
    fit_experiment(experiment, tmp_path / "run", silent())
    return RunFolder(tmp_path / "run")


def words(picture: Path) -> list[str]:
    return [line.strip()[5:-4] for line in picture.read_text().splitlines() if line.strip().startswith("<!--")]


def test_graphs_are_those_that_the_run_transferred(
    run: RunFolder, experiment: Experiment, dataset: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = np.array([0, 3, 1, 4])
    shown = dataset.test.subset(index)
    found = batch_graphs(run, dataset, shown, CPU)
    assert [graph.shape for graph in (*found.teacher, *found.student)] == [(3, 4, 4)] * 4
    for graph in (*found.teacher, *found.student):
        np.testing.assert_allclose(graph.sum(2), 1, rtol=1e-5)
    # What a distiller of the same networks compares, student and teacher in turns.
    teacher, student = open_model(str(experiment.teacher)), open_model(str(run.path))
    distiller = Distiller(
        student.module,
        teacher.module,
        list(experiment.methods),
        example=torch.empty(2, 3, 16, 16),
        student_input=student.input,
        teacher_input=student.input,
    ).eval()
    assert run.parts is not None
    distiller.parts.load_state_dict(safetensors.torch.load_file(run.parts))
    scores: list[Tensor] = []

    def remembering(each: Tensor) -> Tensor:
        scores.append(each.detach())
        return squashed_graph(each)

    monkeypatch.setattr("attention_transfer.methods.multi_head_graph.method.squashed_graph", remembering)
    pixels = torch.from_numpy(np.asarray(shown.images)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.mean, dataset.std))
    distiller((pixels - mean) / std, torch.from_numpy(shown.labels))
    for graphs, wanted in ((found.student, scores[::2]), (found.teacher, scores[1::2])):
        for graph, each in zip(graphs, wanted, strict=True):
            np.testing.assert_allclose(graph, each.softmax(2).numpy(), rtol=1e-3, atol=1e-5)


def test_the_command_draws_chosen_graphs_and_refuses_another_teacher(
    run: RunFolder, dataset: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command([str(run.path), "--figure", str(tmp_path / "g.svg"), "--index", "0", "3", "1", "4", "--device", "cpu"])
    assert sum("head" in word for word in words(tmp_path / "g.svg")) == 6
    assert "(images 0 3 1 4 of test, graph 2)" in capsys.readouterr().out
    command(f"{run.path} --figure {tmp_path / 'h.svg'} --images 6 --classes 3 --heads 2 --graph 1 --edges 5".split())
    assert [word.partition(":")[0] for word in words(tmp_path / "h.svg") if "head" in word] == ["head 2", "head 2"]
    with pytest.raises(ValueError, match="the run has the graphs 1 to 2"):
        command([str(run.path), "--figure", str(tmp_path / "i.svg"), "--graph", "3", "--images", "6", "--classes", "3"])
    # Another teacher in its place says nothing any more.
    torch.manual_seed(5)
    safetensors.torch.save_file(build("resnet8x4", 3).state_dict(), tmp_path / "teacher" / "student.safetensors")
    with pytest.raises(ValueError, match="have changed since its heads were trained"):
        batch_graphs(run, dataset, dataset.test, CPU)


def test_plain_similarity_is_drawn_once(make: Make, experiment: Experiment, dataset: DataSet, tmp_path: Path) -> None:
    fit_experiment(replace(experiment, methods=(MultiHeadGraph(graph="similarity"),)), tmp_path / "run", silent())
    found = batch_graphs(RunFolder(tmp_path / "run"), dataset, dataset.test.subset(np.arange(5)), CPU)
    assert [graph.shape for graph in found.student] == [(1, 5, 5)] * 2


def test_runs_without_graphs_and_unfinished_ones_are_refused(
    make: Make, experiment: Experiment, dataset: DataSet, tmp_path: Path
) -> None:
    fit_experiment(make(training={"epochs": 1}), tmp_path / "other", silent())
    with pytest.raises(KilledError):
        fit_experiment(experiment, tmp_path / "broken", Killer(4))
    for name, said in (("other", "was trained with at, kd: give a run of mhgd"), ("broken", "is not finished")):
        with pytest.raises(ValueError, match=said):
            batch_graphs(RunFolder(tmp_path / name), dataset, dataset.test, CPU)


def test_images_are_equally_many_of_each_class(dataset: DataSet) -> None:
    few = dataset.test.subset(np.flatnonzero(dataset.test.labels < 3))
    assert np.bincount(few.labels[images_of_classes(few)]).tolist() == [5, 5, 5]
    chosen = images_of_classes(dataset.test, 6, 2)
    assert dataset.test.labels[chosen].tolist() == [0, 0, 0, 2, 2, 2]
    for count, classes, said in (
        (5, 2, "a multiple of classes"),
        (8, 4, "between 1 and 3"),
        (300, 3, "fewer than 100"),
    ):
        with pytest.raises(ValueError, match=said):
            images_of_classes(dataset.test, count, classes)
