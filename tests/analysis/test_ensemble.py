"""Networks together: the mean of their probabilities, counted by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attention_transfer import Data
from attention_transfer.analysis.ensemble import measure_together
from attention_transfer.analysis.measure import measure
from attention_transfer.analysis.subject import open_subjects
from attention_transfer.commands.evaluate import command
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.prepare import load_data
from tests.training.conftest import Make, images, make
from tests.training.test_fit import silent

__all__ = ["images", "make"]


@pytest.fixture
def runs(make: Make, tmp_path: Path) -> list[str]:
    """Three that disagree: students of different seeds and kinds after one epoch."""
    places: list[str] = []
    for number, student in enumerate(("resnet8", "resnet14", "resnet8")):
        experiment = make(teacher=None, methods=(), student=student, seed=number, training={"epochs": 1})
        fit_experiment(experiment, tmp_path / f"run{number}", silent())
        places.append(str(tmp_path / f"run{number}"))
    return places


def test_an_ensemble_is_the_mean_of_probabilities_and_its_members_are_measured_too(runs: list[str], make: Make) -> None:
    experiment = make()
    found = measure_together(runs, experiment.data, "test", replace(experiment.training, batch_size=7))
    dataset = load_data(experiment.data, 0)
    subjects = open_subjects(runs, dataset, experiment.training)
    labels = dataset.test.labels
    each = []
    for subject in subjects:
        with torch.no_grad():
            parts = [subject.module(image).double().softmax(1) for image, _ in subject.batches(dataset.test, 24)]
        each.append(torch.cat(parts).numpy())
    mean = np.mean(each, axis=0)
    assert found.together.count == 24
    assert found.together.top1 == pytest.approx(100 * (mean.argmax(1) == labels).mean())
    assert found.together.loss == pytest.approx(-np.log(mean[np.arange(24), labels]).mean(), rel=1e-5)
    for name, score in zip(runs, found.members, strict=True):
        alone, _ = measure(name, experiment.data, "test", experiment.training)
        assert score.top1 == alone.top1
        assert score.loss == pytest.approx(alone.loss, rel=1e-5)
    named = [probabilities.argmax(1) for probabilities in each]
    expected = [100 * (named[a] == named[b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.agreement == pytest.approx(expected)
    assert found.mean_agreement == pytest.approx(np.mean(expected))
    assert len(set(found.members)) > 1


def test_the_command_reports_all_and_keeps_a_finding_with_the_first_run(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deeper" / "ensemble.json"
    command([*runs[:2], "--device", "cpu", "--output", str(output)])
    said = capsys.readouterr().out
    assert "mean of their probabilities: top-1" in said
    assert "they name the same class on" in said
    assert all(f"{name}: top-1" in said for name in runs[:2])
    (finding,) = (Path(runs[0]) / "findings").glob("ensemble-of-2-*.json")
    kept = json.loads(finding.read_text())
    assert kept == json.loads(output.read_text())
    assert [member["model"] for member in kept["members"]] == runs[:2]
    assert kept["agreement"][0]["models"] == runs[:2]
    command([*runs, "--device", "cpu", "--json"])
    assert len(json.loads(capsys.readouterr().out)["agreement"]) == 3
    assert len(list((Path(runs[0]) / "findings").glob("ensemble-of-*.json"))) == 2
    assert not (Path(runs[1]) / "findings").exists()


def test_members_of_other_classes_or_data_are_refused(
    runs: list[str], make: Make, images: Path, tmp_path: Path
) -> None:
    for part in ("train", "test"):
        with np.load(images / f"{part}.npz") as file:
            content = dict(file)
        for name, classes, labels in (
            ("named", ["red", "green", "blue"], content["labels"]),
            ("fewer", ["red", "green"], content["labels"] % 2),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            np.savez(tmp_path / name / f"{part}.npz", images=content["images"], labels=labels, classes=classes)
    for name in ("named", "fewer"):
        experiment = make(teacher=None, methods=(), data=Data(f"npz:{tmp_path / name}"), training={"epochs": 1})
        fit_experiment(experiment, tmp_path / f"{name}-run", silent())
    named, fewer = (str(tmp_path / f"{name}-run") for name in ("named", "fewer"))
    with pytest.raises(ValueError, match=r"these runs were trained on different data .*say with --data"):
        command([runs[0], named])
    data = f"npz:{images}"
    with pytest.raises(ValueError, match=r"named-run: 3 of the data's 3 classes .*which has others \('red', "):
        command([runs[0], named, "--data", data, "--device", "cpu"])
    with pytest.raises(ValueError, match=r"fewer-run has 2 classes, npz:.* has 3: the members"):
        command([runs[0], fewer, "--data", data, "--device", "cpu"])
    with pytest.raises(ValueError, match="given twice: an ensemble is of different models"):
        command([runs[0], runs[0], "--device", "cpu"])
    assert not (Path(runs[0]) / "findings").exists()
    assert RunFolder(runs[0]).finished
