"""Training with multi-head graphs: phases that resume, heads that serve other runs, and several processes."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import safetensors.torch
import torch
from rich.console import Console
from tests.trained import as_trained
from tests.training.conftest import Make
from tests.training.test_distributed import data, gradients
from tests.training.test_fit import KilledError, Killer, rows, silent
from tests.two_processes import TwoProcesses
from torch import Tensor, distributed

from attention_transfer import Distiller, Experiment, MultiHeadGraph, build
from attention_transfer.analysis.term_sizes import measurable, term_sizes
from attention_transfer.experiment import from_json, to_json
from attention_transfer.models import open_model
from attention_transfer.runs import PARTS_WEIGHTS, RunFolder
from attention_transfer.training.distributed import Process, wrap
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import prepare
from attention_transfer.training.progress import Reporter

METHOD = MultiHeadGraph(graph_epochs=2, graph_learning_rate=0.05)


@pytest.fixture
def experiment(make: Make) -> Experiment:
    """Two epochs of three steps for the heads, two for the student."""
    return make(methods=(METHOD,), training={"epochs": 2, "checkpoint_every_steps": 1})


def test_a_run_killed_in_either_phase_ends_with_the_same_student_and_heads(
    experiment: Experiment, tmp_path: Path
) -> None:
    fit_experiment(experiment, tmp_path / "whole", silent())
    for killed_after in (2, 4, 6, 8):
        broken = tmp_path / f"broken-{killed_after}"
        with pytest.raises(KilledError):
            fit_experiment(experiment, broken, Killer(killed_after))
        fit_experiment(experiment, broken, silent())
        for name in ("student.safetensors", PARTS_WEIGHTS):
            assert (tmp_path / "whole" / name).read_bytes() == (broken / name).read_bytes()
        assert rows(tmp_path / "whole") == rows(broken)


def test_the_student_waits_for_the_heads_and_these_rest_thereafter(experiment: Experiment, tmp_path: Path) -> None:
    snapshots = replace(experiment.training, snapshot_epochs=(0, 2, 3))
    fit_experiment(replace(experiment, training=snapshots), tmp_path / "run", silent())
    run = RunFolder(tmp_path / "run")
    metrics = run.read_metrics()
    assert [row["phase"] for row in metrics] == ["graph", "graph", "transfer", "transfer"]
    assert [set(row["terms"]) for row in metrics] == 2 * [{"mhgd-heads"}] + 2 * [{"ce", "mhgd"}]
    assert [row["learning_rate"] for row in metrics[:2]] == [0.05, 0.05]
    # Neither trained nor measured.
    assert [("test" in row, "top1" in row["train"]) for row in metrics] == 2 * [(False, False)] + 2 * [(True, True)]
    weights = {epoch: (path / "student.safetensors").read_bytes() for epoch, path in run.snapshots.items()}
    assert weights[0] == weights[2] != weights[3]
    assert run.summary is not None
    assert run.summary["samples_seen"] == 4 * 48
    open_model(str(run.path))


def test_heads_of_a_run_serve_other_students_of_its_teacher(make: Make, experiment: Experiment, tmp_path: Path) -> None:
    teacher = build("resnet14", 3)
    safetensors.torch.save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    taught = replace(experiment, teacher=f"resnet14@{tmp_path / 'teacher.safetensors'}", untrained_teacher=False)
    fit_experiment(taught, tmp_path / "first", silent())
    parts = RunFolder(tmp_path / "first").parts
    assert parts is not None
    second = replace(taught, methods=(replace(METHOD, graph_from=tmp_path / "first"),), seed=1, student="resnet14")
    assert from_json(json.loads(json.dumps(to_json(second)))) == second
    fit_experiment(second, tmp_path / "second", silent())
    assert [row["phase"] for row in rows(tmp_path / "second")] == 2 * ["all"]
    kept = [safetensors.torch.load_file(tmp_path / name / PARTS_WEIGHTS) for name in ("first", "second")]
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())
    # Of the same kind, but not the same.
    safetensors.torch.save_file(build("resnet14", 3).state_dict(), tmp_path / "other.safetensors")
    other = replace(second, teacher=f"resnet14@{tmp_path / 'other.safetensors'}")
    with pytest.raises(ValueError, match="trained on another teacher"):
        fit_experiment(other, tmp_path / "third", silent())
    unfinished = make(methods=(replace(METHOD, graph_from=tmp_path / "broken"),))
    with pytest.raises(KilledError):
        fit_experiment(experiment, tmp_path / "broken", Killer(1))
    with pytest.raises(ValueError, match="kept no parts: it is not finished"):
        fit_experiment(unfinished, tmp_path / "fourth", silent())


def test_the_epochs_of_all_phases_are_said_before_they_begin(experiment: Experiment, tmp_path: Path) -> None:
    output = io.StringIO()
    short = replace(experiment, training=replace(experiment.training, epochs=1))
    fit_experiment(short, tmp_path / "run", Reporter(Console(file=output, width=200)))
    lines = output.getvalue().splitlines()
    said = lines.index("2 epochs of graph heads, then 1")
    assert said < next(i for i, line in enumerate(lines) if line.startswith("epoch 1/3"))


def test_a_weight_is_suggested_for_the_transfer_alone(experiment: Experiment) -> None:
    sizes = term_sizes(prepare(measurable(experiment)), seed=0, steps=0, batches=1)
    assert set(sizes) == {"ce", "mhgd"}
    assert all(size.gradient_norm > 0 for size in sizes.values())


def graph_distiller(phase: int, graph: Literal["learned", "random"], rank: int) -> Distiller:
    torch.manual_seed(0)
    method, student = MultiHeadGraph(graph=graph), "resnet8"
    if graph == "random":
        # Whatever else may go wrong between processes: another width than the teacher's, the other options.
        method, student = replace(method, direction="teacher-first", reduction="mean", scaled=True), "wrn_16_2"
    distiller = Distiller(
        build(student, 5), as_trained(build("resnet14", 5)), [method], example=torch.empty(2, 3, 16, 16)
    )
    distiller.set_phase(distiller.phases[phase])
    # Every process draws something else.
    torch.manual_seed(rank)
    # In the second phase batch statistics of the student differ between halves of a batch.
    return distiller.train(phase == 0)


def found_by(distiller: Distiller, module: torch.nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    found = gradients(module, distiller, images, labels)
    return found | {name: value for name, value in distiller.parts.state_dict().items() if "running" in name}


def run(rank: int, folder: str, phase: int, graph: Literal["learned", "random"]) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    images, labels = data()
    distiller = graph_distiller(phase, graph, rank)
    # Unequal shares, as the last batch of an epoch has them.
    share = slice(0, 3) if rank == 0 else slice(3, 8)
    if phase == 1:
        share = slice(4 * rank, 4 * rank + 4)
    torch.save(
        found_by(distiller, wrap(distiller, Process(rank, 2)), images[share], labels[share]), f"{folder}/{rank}.pt"
    )


@pytest.mark.filterwarnings("ignore:the student")
@pytest.mark.parametrize(
    ("phase", "graph"), [(0, "learned"), (1, "learned"), (1, "random")], ids=["heads", "student", "random"]
)
def test_the_graph_of_two_processes_is_that_of_one(
    two_processes: TwoProcesses, tmp_path: Path, phase: int, graph: Literal["learned", "random"]
) -> None:
    """Batch norm of the heads sees the images of all, the limit of the gradient goes by averages over all, and what is
    drawn, dropped heads and random graphs, is drawn once for all."""
    two_processes.run(run, str(tmp_path), phase, graph)
    distiller = graph_distiller(phase, graph, 0)
    wanted = found_by(distiller, distiller, *data())
    assert any(name.startswith(("parts.", "student.")[phase]) for name in wanted)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
