"""Linear probes: the right features, left alone, and the same optimum as scikit-learn's."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from torch import Tensor, nn

from attention_transfer.analysis import linear_probe
from attention_transfer.analysis.linear_probe import (
    ProbeSettings,
    features_tap,
    frozen_features,
    measure_linear,
    probe,
    train_linear,
)
from attention_transfer.analysis.subject import Subject
from attention_transfer.data import DataSet
from attention_transfer.training.metrics import NonFiniteLossError
from tests.analysis.conftest import as_subject
from tests.closeness import assert_near
from tests.conftest import SmallNet

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
