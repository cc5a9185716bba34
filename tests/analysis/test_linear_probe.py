"""Linear probes, networks together, and what a step with methods costs."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from tests.analysis.conftest import as_subject
from tests.closeness import assert_near
from tests.conftest import SmallNet
from tests.training.conftest import Make
from tests.training.test_fit import silent
from torch import Tensor, nn

from attention_transfer import AttentionTransfer, Data, Experiment, FitNet, SoftTargets
from attention_transfer.analysis import linear_probe
from attention_transfer.analysis.ensemble import measure_together
from attention_transfer.analysis.linear_probe import (
    ProbeSettings,
    features_tap,
    frozen_features,
    measure_linear,
    probe,
    train_linear,
)
from attention_transfer.analysis.measure import measure
from attention_transfer.analysis.step_cost import measure_step_cost
from attention_transfer.analysis.subject import Subject, open_subjects
from attention_transfer.commands.evaluate import command
from attention_transfer.data import DataSet
from attention_transfer.pretraining import MaskedAutoencoding
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment
from attention_transfer.training.metrics import NonFiniteLossError
from attention_transfer.training.prepare import load_data

SHORT = ProbeSettings(epochs=3, batch_size=16, step_epochs=(2,))


class WithoutLinearHead(nn.Module):
    """Logits are the mean of a convolution's output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)).mean((2, 3))


class HeadOverPositions(SmallNet):
    """Applies its head before pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(x)).flatten(2).mT).mean(1)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scans of digits as features: 1,200 to train on, 597 to test with."""
    pixels, labels = load_digits(return_X_y=True)
    features, truth = torch.from_numpy(pixels / 16), torch.from_numpy(labels)
    return features[:1200], truth[:1200], features[1200:], truth[1200:]


def test_features_are_what_the_network_gives_without_its_head(subject: Subject, dataset: DataSet) -> None:
    found = frozen_features(subject, dataset.test, features_tap(subject))
    pixels = torch.from_numpy(dataset.test.images).permute(0, 3, 1, 2) / 255
    given = (pixels - torch.tensor([0.3, 0.4, 0.5])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    subject.module.fc = nn.Identity()
    with torch.no_grad():
        expected = subject.module(given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.shape == (24, 64)


def test_another_module_is_averaged_over_positions(subject: Subject, dataset: DataSet) -> None:
    found = frozen_features(subject, dataset.test, features_tap(subject, "layer3"))
    torch.testing.assert_close(found, frozen_features(subject, dataset.test, features_tap(subject)))
    early = frozen_features(subject, dataset.test, features_tap(subject, "layer1"))
    assert early.shape == (24, 16)


def test_the_network_is_left_as_it_was(subject: Subject) -> None:
    network = subject.module
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.layer2.train()
    modes = [module.training for module in network.modules()]
    generator = torch.get_rng_state()
    probe(subject, SHORT, [0])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_trained_long_it_reaches_the_optimum_of_scikit_learn(digits: tuple[Tensor, ...]) -> None:
    features, labels = digits[0][:300], digits[1][:300]
    decay = 1e-2
    settings = ProbeSettings(
        epochs=1500, batch_size=300, learning_rate=0.5, step_epochs=(), momentum=0.9, weight_decay=decay
    )
    layer = train_linear(features, labels, 10, settings, seed=1)
    # The bias is decayed too: for scikit-learn it is the weight of a feature that is always 1.
    with_ones = np.hstack([features.numpy(), np.ones((300, 1))])
    oracle = LogisticRegression(C=1 / (300 * decay), fit_intercept=False, tol=1e-8, max_iter=5000)
    oracle.fit(with_ones, labels.numpy())
    ours = torch.cat([layer.weight, layer.bias[:, None]], dim=1).numpy()
    np.testing.assert_allclose(ours, oracle.coef_, atol=2e-4)
    assert np.abs(oracle.coef_).max() > 0.3


def test_with_enough_steps_it_is_as_good_on_new_images_as_scikit_learn(digits: tuple[Tensor, ...]) -> None:
    features, labels, new, truth = digits
    # 40 epochs in batches of 16 are 3,000 steps, in which this layer comes close to its optimum.
    settings = ProbeSettings(batch_size=16, weight_decay=1e-3)
    score = measure_linear(train_linear(features, labels, 10, settings, seed=0), new, truth)
    oracle = LogisticRegression(C=1 / (1200 * 1e-3), max_iter=5000).fit(features, labels)
    assert score.top1 == pytest.approx(100 * oracle.score(new, truth), abs=0.7)
    assert score.loss == pytest.approx(log_loss(truth, oracle.predict_proba(new)), rel=0.05)
    assert score.count == 597


def test_one_part_of_a_thousand_rows_is_measured_like_the_rest(digits: tuple[Tensor, ...]) -> None:
    layer = nn.Linear(64, 10, dtype=torch.float64).requires_grad_(False)
    many = digits[0].repeat(8, 1)
    labels = digits[1].repeat(8)
    score = measure_linear(layer, many, labels)
    assert score.top1 == pytest.approx(100 * float((layer(many).argmax(1) == labels).double().mean()))
    assert score.loss == pytest.approx(float(nn.functional.cross_entropy(layer(many), labels)), rel=1e-5)


def test_the_learning_rate_falls_after_the_epochs_that_are_named(digits: tuple[Tensor, ...]) -> None:
    def weights(epochs: int, steps: tuple[int, ...]) -> Tensor:
        settings = ProbeSettings(epochs=epochs, step_epochs=steps, step_factor=1e-9)
        return train_linear(digits[0], digits[1], 10, settings, seed=0).weight

    # The third epoch moves them by a billionth.
    assert_near(weights(3, (2,)), weights(2, ()), steps=2**24)
    assert (weights(3, ()) - weights(2, ())).abs().max() > 1e-3


def test_a_seed_decides_everything_that_is_random(subject: Subject) -> None:
    twice = probe(subject, SHORT, [5, 5, 6])
    assert twice.test[0] == twice.test[1]
    assert twice.test[0].loss != twice.test[2].loss
    assert (twice.channels, twice.features, twice.seeds) == (64, "input of fc", (5, 5, 6))


def test_the_time_of_a_layer_is_that_of_its_training_alone(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def lasting(seconds: float, name: str) -> None:
        real = getattr(linear_probe, name)

        def slow(*arguments: object) -> object:
            clock[0] += seconds
            return real(*arguments)

        monkeypatch.setattr(linear_probe, name, slow)

    lasting(2.0, "train_linear")
    lasting(100.0, "measure_linear")
    lasting(1000.0, "frozen_features")
    monkeypatch.setattr(linear_probe, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    found = probe(subject, SHORT, [0, 1])
    assert (found.layer_seconds, found.feature_seconds) == (2.0, 2000.0)


def test_a_learning_rate_that_is_too_high_is_an_error(digits: tuple[Tensor, ...]) -> None:
    with pytest.raises(NonFiniteLossError, match="lower the learning rate"):
        train_linear(digits[0].float(), digits[1], 10, ProbeSettings(learning_rate=1e30, weight_decay=1.0), seed=0)


def test_a_network_without_a_linear_head_is_refused_unless_a_module_is_named(dataset: DataSet) -> None:
    subject = as_subject(WithoutLinearHead(), dataset)
    with pytest.raises(ValueError, match=r"no single linear layer .*\(--features MODULE\)"):
        probe(subject, SHORT, [0])
    assert probe(subject, SHORT, [0], module="first").channels == 6


def test_a_head_that_takes_positions_is_refused(dataset: DataSet) -> None:
    subject = as_subject(HeadOverPositions(4, 3), dataset)
    with pytest.raises(ValueError, match=r"takes values of shape \(24, 64, 8\)"):
        frozen_features(subject, dataset.test, features_tap(subject))


def test_a_module_that_does_not_exist_is_refused(subject: Subject) -> None:
    with pytest.raises(ValueError, match="has no module 'layer9'"):
        probe(subject, SHORT, [0], module="layer9")
    with pytest.raises(ValueError, match="at least one seed"):
        probe(subject, SHORT, [])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"epochs": 0}, "epochs of the probe must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"step_epochs": (20, 10)}, "step_epochs of the probe must be at least 1 each and ascending"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"step_factor": 0.0}, "step_factor"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ProbeSettings(**fields)


# ---------------------------------------------------------------- networks together


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


# ---------------- what a step with methods costs beyond the student's own


def test_what_is_learned_beside_the_student_and_the_teacher_are_counted(make: Make) -> None:
    costs = [measure_step_cost(make(methods=(method,)), rounds=1) for method in (SoftTargets(), FitNet())]
    teacher_bytes = 4 * 175_000  # ResNet-14 of three classes has some 175,258 parameters
    for cost in costs:
        assert cost.extra_bytes > teacher_bytes
        assert min(cost.seconds, cost.alone_seconds, cost.time_ratio) > 0
        assert cost.batch_size == 16
    # A 1×1 convolution between the 32 channels of both, with its bias, and a batch norm.
    assert [cost.extra_parameters for cost in costs] == [0, 32 * 32 + 32 + 2 * 32]
    assert costs[1].extra_bytes > costs[0].extra_bytes
    assert costs[0].row()["extra_parameters"] == 0


def test_a_student_alone_costs_nothing_beyond_itself(make: Make) -> None:
    cost = measure_step_cost(make(methods=(), teacher=None, untrained_teacher=False), rounds=2)
    assert (cost.extra_parameters, cost.extra_bytes) == (0, 0)


def test_the_last_phase_is_measured(make: Make) -> None:
    cost = measure_step_cost(make(methods=(FitNet(hint_epochs=1), AttentionTransfer())), rounds=1)
    assert cost.extra_parameters > 0


def test_bad_input_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        measure_step_cost(make(), rounds=0)
    with pytest.raises(ValueError, match="no methods whose cost"):
        measure_step_cost(Experiment("p", "resnet8", pretraining=MaskedAutoencoding()))
