"""What `fit` refuses before anything is learned or written, and what it says that it cannot promise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.test_fit import TwoPhases
from tests.training.test_fit_own_loader import SILENT, Noisy, batches, make, network, same, sgd
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Sampler, TensorDataset

from attention_transfer import (
    Contrastive,
    DecoupledSoftTargets,
    Distiller,
    InputError,
    Relational,
    SoftTargets,
    build,
    fit,
)
from attention_transfer.training.metrics import NonFiniteLossError
from attention_transfer.training.positioning import LoadedBatches, refuse_shared

schedulers = torch.optim.lr_scheduler


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((torch.ones(3, 8, 8) * i, torch.tensor(i % 3)) for i in range(12))


class Backwards(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(23, -1, -1))

    def __len__(self) -> int:
        return 24


def refused(words: str, loader: Any = None, distiller: Distiller | None = None, **settings: Any) -> None:
    distiller = distiller or make()
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    with pytest.raises(InputError, match=words):
        fit(distiller, batches(2) if loader is None else loader, **({"epochs": 1, "reporter": SILENT} | settings))
    assert all(torch.equal(value, before[name]) for name, value in distiller.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs must be (a whole number of )?at least 1"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"accumulate_steps": 0}, "accumulate_steps must be a whole number of at least 1, not 0"),
        ({"clip_gradient_norm": 0.0}, "clip_gradient_norm must be a number above 0"),
        ({"clip_gradient_norm": float("nan")}, "clip_gradient_norm must be a number above 0"),
        ({"ema_decay": 1.0}, "ema_decay must be a number 0 < d < 1"),
        ({"seed": "0"}, "seed must be a whole number"),
        ({"precision": "float64"}, "precision must be float32, bfloat16 or float16, not 'float64'"),
        ({"snapshot_epochs": (1,)}, "write files: give folder="),
        ({"snapshot_epochs": (2,), "folder": "x"}, "within the 1 epochs of the training"),
        ({"checkpoint_every_steps": 1}, "write files: give folder="),
        ({"folder": 5}, "folder must be a path"),
        ({"steps_per_epoch": 3}, "steps_per_epoch is 3, and train_loader has 2 batches"),
        ({"optimizer": "adamw"}, "an optimiser of torch or a function that makes one of parameters, not 'adamw'"),
        ({"optimizer": list}, "optimizer gave list for parameters, where an optimiser"),
        ({"schedule": "linear"}, "schedule must be 'cosine', 'constant', a scheduler"),
        ({"schedule": lambda share: -share}, "must give a factor of the learning rate"),
        ({"schedule": lambda share: None}, "must give a factor of the learning rate"),
        ({"schedule_every": "batch"}, "schedule_every must be 'epoch' or 'step'"),
        ({"evaluate": {"train": []}}, "evaluate has a loader under 'train'"),
        ({"evaluate": [(torch.zeros(2, 3, 8, 8),)]}, "one class index each, to be measured on"),
        ({"evaluate": [(torch.zeros(2, 3, 8, 8), torch.tensor([0, 9]))]}, r"evaluate\['test'\] cannot be measured on"),
        ({"evaluate": [(torch.zeros(2, 5, 8, 8), torch.tensor([0, 1]))]}, r"evaluate\['test'\] cannot be measured on"),
        ({"evaluate": [(torch.zeros(2, 3, 8, 8), torch.tensor([0, -100]))]}, "one class index each"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS computes the loss several times"),
        ({"schedule": lambda optimizer: schedulers.ExponentialLR(optimizer, 0.5)}, "schedule failed for 0.0"),
        ({"evaluate": iter([])}, "can be gone through once"),
        ({"evaluate": 5}, r"evaluate\['test'\] must be an iterable of batches"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_are_refused_by_name(settings: dict[str, Any], words: str) -> None:
    refused(words, **settings)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (5, "must be an iterable of batches .* not of type int"),
        ("images", "not of type str"),
        (torch.zeros(4, 3, 8, 8), "not of type Tensor"),
        (TensorDataset(torch.zeros(4, 3, 8, 8)), r"a data set goes into torch\.utils\.data\.DataLoader"),
        ([], "has no batch: its length is 0"),
        (iter(batches(2)), "an iterator, .* or steps_per_epoch="),
        ((each for each in batches(2)), "an iterator, .* or steps_per_epoch="),
        (cycle(batches(2)), "may never end: .* or steps_per_epoch="),
        ([{"pixel_values": 1, "labels": 2}], r"batches of type dict with pixel_values, labels: they must be"),
        ([("images", "labels")], r"batches of type tuple of 2: they must be"),
        ([(torch.zeros(2, 3, 8, 8), [0, 1])], r"the labels of train_loader's batches must be a tensor"),
        ([(torch.zeros(2, 3, 8, 8),)], "labels are needed"),
        ([(torch.zeros(2, 3, 8, 8), torch.tensor([0, 3]))], "0…2|from 0 to 2|classes"),
        ([(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))], "channels"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_loaders_are_refused_before_anything_is_written(loader: Any, words: str, tmp_path: Path) -> None:
    refused(words, loader, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_methods_need_of_a_batch_is_asked_for() -> None:
    torch.manual_seed(0)
    teacher, example = network(6, norm=False), torch.empty(2, 3, 8, 8)
    labels = torch.arange(30) % 3
    crd = Contrastive(num_negatives=4, student_layer="4", teacher_layer="4")
    remembering = Distiller(network(4), teacher, [crd], example=example, train_labels=labels)
    refused("index is needed by crd", distiller=remembering)
    pairs = Distiller(network(4), teacher, [Relational(student_layer="4", teacher_layer="4")], example=example)
    refused("compares the images of a batch with each other", [(torch.zeros(1, 3, 8, 8), labels[:1])], pairs)
    one_class = Distiller(network(4), teacher, [DecoupledSoftTargets()], example=example)
    soft = [(torch.zeros(6, 3, 8, 8), torch.full((6, 3), 1 / 3))]
    refused("dkd", soft, one_class)


def test_a_distiller_that_was_detached_or_halved_is_refused(tmp_path: Path) -> None:
    detached, halved = make(), make()
    detached.detach()
    refused("was detached from its networks", None, detached, folder=tmp_path / "run")
    halved.student.half()
    refused("wants weights in float32, and 'student.0.weight' is in float16", None, halved, precision="float16")
    assert not (tmp_path / "run").exists()


def test_only_a_distiller_is_trained() -> None:
    with pytest.raises(InputError, match="trains a Distiller, not Linear: build one"):
        fit(nn.Linear(2, 2), batches(), epochs=1)  # pyright: ignore[reportArgumentType]
    wrapped: Any = object.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = make()
    with pytest.raises(InputError, match="give the distiller itself, which fit"):
        fit(wrapped, batches(), epochs=1)


# ---------------------------------------------------------------- optimisers


def test_an_optimiser_of_other_parameters_is_refused_by_the_first() -> None:
    distiller = make()
    assert distiller.teacher is not None
    fewer = torch.optim.SGD(list(distiller.student.parameters())[2:], lr=0.1)
    refused(r"lacks 2 of the \d+ parameters that learn, such as 'student\.0\.bias'", None, distiller, optimizer=fewer)
    more = torch.optim.SGD([*distiller.trainable_parameters(), *distiller.teacher.parameters()], lr=0.1)
    refused(r"has \d+ parameters that do not learn here", None, distiller, optimizer=more)
    refused("other parameters than it was given", None, distiller, optimizer=lambda p: torch.optim.SGD(p[:1], lr=0.1))


def test_schedulers_of_other_kinds_are_refused() -> None:
    distiller = make()
    optimizer = sgd(distiller)
    other = schedulers.ExponentialLR(sgd(make()), 0.5)
    refused("must be one of the optimiser that is given", None, distiller, optimizer=optimizer, schedule=other)
    plateau = schedulers.ReduceLROnPlateau(optimizer)
    refused("goes by what is measured", None, distiller, optimizer=optimizer, schedule=plateau)
    one = schedulers.OneCycleLR(optimizer, 0.1, total_steps=2)
    refused("counts steps, and schedule_every is 'epoch'", None, distiller, optimizer=optimizer, schedule=one)


@pytest.mark.filterwarnings("ignore:the teacher was never")
def test_phases_want_a_function_and_use_their_own_rates() -> None:
    torch.manual_seed(0)
    example = torch.empty(2, 3, 16, 16)
    teacher = build("resnet14", 3)
    distiller = Distiller(build("resnet8", 3), teacher, [TwoPhases()], example=example)
    loader = [(torch.randn(4, 3, 16, 16), torch.arange(4) % 3)]
    refused("has 2 phases, first and second", loader, distiller, optimizer=sgd(distiller))
    made: list[int] = []

    def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made.append(len(parameters))
        return torch.optim.SGD(parameters, lr=0.5)

    fitted = fit(distiller, loader, epochs=1, optimizer=optimizer, clip_gradient_norm=0.1, reporter=SILENT)
    assert [row["phase"] for row in fitted.rows] == ["first", "first", "second"]
    assert [row["learning_rate"] for row in fitted.rows] == [0.01, 0.01, 0.5]
    # Once to look at, then in each phase with what moves there.
    assert len(made) == 3
    assert made[1] < made[0]


# ---------------------------------------------------------------- what is said


def notes(loader: Any, **settings: Any) -> tuple[str, ...]:
    return LoadedBatches(loader, seed=0, rank=0, device=torch.device("cpu"), **settings).notes


def test_what_is_not_promised_of_a_loader_is_said() -> None:
    class Custom:
        def __iter__(self) -> Iterator[Any]:
            return iter(batches(2))

    assert notes(batches(2)) == ()
    assert notes(DataLoader(Noisy(), 4, shuffle=True)) == ()
    assert notes(DataLoader(Noisy(), 4, sampler=DistributedSampler(Noisy(), 2, 0))) == ()
    assert "whenever the global random generators are the same" in notes(Custom())[0]
    assert "cannot be gone through again" in notes(iter(batches(2)), steps_per_epoch=2)[0]
    assert "the stream behind train_loader" in notes(DataLoader(Stream(), 4))[0]
    assert "the order of Backwards" in notes(DataLoader(Noisy(), 4, sampler=Backwards()))[0]
    kept = DataLoader(Noisy(), 4, num_workers=1, persistent_workers=True)
    assert "which persistent_workers keeps" in notes(kept)[0]


@pytest.mark.parametrize(
    "loader", [lambda: DataLoader(Stream(), 4), lambda: iter(batches(6)), lambda: cycle(batches(3))]
)
def test_loaders_without_a_length_are_trained_on(loader: Callable[[], Any], tmp_path: Path) -> None:
    given = loader()
    steps = None if isinstance(given, DataLoader) else 3
    distiller = make()
    fitted = fit(distiller, given, epochs=2, steps_per_epoch=steps, accumulate_steps=2, schedule="cosine",
                 folder=tmp_path / "run", reporter=SILENT)  # fmt: skip
    assert [row["step"] for row in fitted.rows] == [2, 4]
    assert len(fitted.notes) == 1


def test_processes_that_all_get_everything_are_refused() -> None:
    with pytest.raises(InputError, match="gives each of the 2 processes all images"):
        refuse_shared(DataLoader(Noisy(), 4), 2)
    refuse_shared(DataLoader(Noisy(), 4, sampler=DistributedSampler(Noisy(), 2, 0)), 2)
    refuse_shared(batches(2), 2)


def test_a_loss_that_is_not_finite_stops_and_leaves_the_weights() -> None:
    distiller = make()
    images, labels = batches(1)[0]
    optimizer = sgd(distiller, 1e30)
    with pytest.raises(NonFiniteLossError, match="diverged"):
        fit(distiller, [(images, labels)] * 6, epochs=3, optimizer=optimizer, reporter=SILENT)


def test_a_function_measures_and_what_it_gives_must_be_numbers() -> None:
    def measured(value: Any) -> Any:
        seen: list[bool] = []

        def evaluate(student: nn.Module) -> Any:
            seen.append(student.training)
            return value

        distiller = make()
        fitted = fit(distiller, batches(1), epochs=1, evaluate=evaluate, reporter=SILENT)
        assert not any(seen)
        return fitted.rows[0]["test"]

    assert measured({"top1": torch.tensor(5.0), "count": 3}) == {"top1": 5.0, "count": 3.0}
    for wrong, words in (([1], "evaluate gave list"), ({"a": "b"}, "gave str for 'a'")):
        with pytest.raises(InputError, match=words):
            measured(wrong)


def test_without_labels_nothing_is_measured_by_them() -> None:
    torch.manual_seed(0)
    student, teacher = network(4), network(6, norm=False)
    distiller = Distiller(student, teacher, [SoftTargets()], task_weight=0.0, example=torch.empty(2, 3, 8, 8))
    images = batches(1)[0][0]
    for loader in ([images], [(images,)], [(images, torch.randn(6))]):
        fitted = fit(distiller, loader, epochs=1, reporter=SILENT)
        assert "kd" in fitted.rows[0]["terms"]
        assert "top1" not in fitted.rows[0]["train"]


@dataclass
class Own:
    """Batches by epoch, as our own loaders give them."""

    num_batches: int = 3

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        return iter(batches(3)[start:])


def test_loaders_that_know_their_epochs_are_positioned() -> None:
    first, second = make(), make()
    fit(first, Own(), epochs=1, optimizer=sgd(first), reporter=SILENT)
    fit(second, batches(3), epochs=1, optimizer=sgd(second), reporter=SILENT)
    assert same(first, second)
    loaded = LoadedBatches(Own(), seed=0, rank=0, device=torch.device("cpu"), steps_per_epoch=2)
    assert [len(list(loaded.epoch(0, start))) for start in (0, 1, 2)] == [2, 1, 0]


@dataclass
class Sized:
    """Batches under a length that somebody wrote."""

    length: int
    given: list[tuple[Tensor, Tensor]]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.given)


@pytest.mark.parametrize(
    ("loader", "steps", "words"),
    [
        (lambda: Sized(30, batches(5)), None, "gave 5 batches in epoch 1, and its length .* says 30"),
        (lambda: Sized(3, batches(5)), None, "gave more than 3 batches in epoch 1"),
        (lambda: DataLoader(Stream(), 4), 5, "gave 3 batches in epoch 1, and its length .* says 5"),
        (lambda: iter(batches(4)), 3, "gave 1 batches in epoch 2, and its length .* says 3"),
    ],
)
def test_an_epoch_of_another_length_than_schedules_go_by_is_refused(
    loader: Callable[[], Any], steps: int | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        fit(make(), loader(), epochs=2, schedule="cosine", steps_per_epoch=steps, reporter=SILENT)


def test_a_measured_number_that_is_not_finite_is_refused_by_its_name() -> None:
    for value in (float("nan"), float("inf")):
        measure = lambda student, value=value: {"auc": value}  # noqa: E731
        with pytest.raises(InputError, match=r"evaluate gave \w+ for 'auc', where a finite number is wanted"):
            fit(make(), batches(1), epochs=1, evaluate=measure, reporter=SILENT)
    with pytest.raises(NonFiniteLossError, match="diverged"):
        fit(make(), batches(1), epochs=1, evaluate=lambda student: {"loss": float("nan")}, reporter=SILENT)


def test_a_chained_scheduler_is_refused_only_if_it_has_made_steps() -> None:
    def scheduled(steps: int) -> list[float]:
        distiller = make()
        optimizer = sgd(distiller, 0.1)
        chained = schedulers.ChainedScheduler([
            schedulers.ConstantLR(optimizer, 0.5, 1), schedulers.ExponentialLR(optimizer, 0.5)
        ])  # fmt: skip
        optimizer.step()
        for _ in range(steps):
            chained.step()
        fitted = fit(distiller, batches(1), epochs=3, optimizer=optimizer, schedule=chained, reporter=SILENT)
        return [row["learning_rate"] for row in fitted.rows]

    assert scheduled(0) == pytest.approx([0.05, 0.05, 0.025])
    with pytest.raises(InputError, match="ChainedScheduler has made 2 steps already"):
        scheduled(2)
