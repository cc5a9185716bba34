"""`fit` with modules and loaders of anybody's own: the loop written by hand, and what a run folder adds to it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from attention_transfer import AttentionTransfer, Distiller, InputError, SoftTargets, fit
from attention_transfer.batch import Batch
from attention_transfer.cli import main
from attention_transfer.experiment import read_experiment
from attention_transfer.report.compare import compare
from attention_transfer.runs import RunFolder
from attention_transfer.training.progress import Reporter

SILENT = Reporter(silent=True)


def network(width: int, norm: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1),
        nn.BatchNorm2d(width) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(width, 3),
    )


def make(**settings: Any) -> Distiller:
    """A distiller of small networks, the same each time."""
    torch.manual_seed(0)
    student, teacher = network(4), network(6, norm=False)
    methods = [AttentionTransfer(weight=1.0, student_layers=("4",), teacher_layers=("4",)), SoftTargets()]
    return Distiller(student, teacher, methods, example=torch.empty(2, 3, 8, 8), **settings)


def batches(count: int = 5, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, 8, 8, generator=draws), torch.randint(0, 3, (size,), generator=draws))
        for _ in range(count)
    ]


def sgd(distiller: Distiller, rate: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(distiller.trainable_parameters(), lr=rate, momentum=0.9)


def same(first: nn.Module, second: nn.Module) -> bool:
    others = second.state_dict()
    return all(torch.equal(value, others[name]) for name, value in first.state_dict().items())


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Images with noise from the global generator, as augmentation draws it."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        image = torch.full((3, 8, 8), float(place) / 24)
        return image + torch.randn(3, 8, 8), torch.tensor(place % 3)


class StoppedError(Exception):
    """Stands for a killed process."""


class Stopper(Reporter):
    """Ends a training before its step of that number."""

    def __init__(self, step: int) -> None:
        super().__init__(silent=True)
        self.left = step

    def steps(self, items: Any, total: int | None, done: int, title: str) -> Iterator[Any]:
        for item in items:
            if not self.left:
                raise StoppedError
            self.left -= 1
            yield item


# ---------------------------------------------------------------- the loop by hand


def test_it_is_the_loop_written_by_hand() -> None:
    ours, theirs = make(), make()
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fitted = fit(ours, batches(), epochs=2, optimizer=sgd(ours), evaluate=batches(2), reporter=SILENT)
    optimizer = sgd(theirs)
    for epoch in range(2):
        theirs.set_epoch(epoch)
        theirs.train()
        for images, labels in batches():
            out = theirs(images, labels)
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
    assert same(ours, theirs)
    assert [row["epoch"] for row in fitted.rows] == [1, 2]
    assert fitted.folder is None
    assert fitted.summary["samples_seen"] == 60
    theirs.student.eval()
    right = sum(int((theirs.student(images).argmax(1) == labels).sum()) for images, labels in batches(2))
    assert fitted.rows[-1]["test"]["top1"] == pytest.approx(100 * right / 12)
    assert fitted.summary["student"]["test"] == fitted.rows[-1]["test"]


def test_accumulated_batches_are_the_mean_of_their_gradients() -> None:
    """Five batches by two: the last step of the epoch has one."""
    ours, theirs = make(), make()
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fitted = fit(ours, batches(), epochs=1, optimizer=sgd(ours), accumulate_steps=2, reporter=SILENT)
    optimizer = sgd(theirs)
    theirs.train()
    given = batches()
    for group in (given[:2], given[2:4], given[4:]):
        optimizer.zero_grad()
        for images, labels in group:
            (theirs(images, labels).loss / len(group)).backward()
        optimizer.step()
    assert same(ours, theirs)
    assert fitted.summary["steps"] == 3


def test_the_average_is_given_back_and_measured() -> None:
    ours = make()
    start = {name: value.clone() for name, value in ours.student.state_dict().items()}
    fitted = fit(ours, batches(1), epochs=1, optimizer=sgd(ours), ema_decay=0.75, evaluate=batches(1), reporter=SILENT)
    assert fitted.averaged is not None
    for name, value in ours.student.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(fitted.averaged[name], 0.75 * start[name] + 0.25 * value)
    assert fitted.rows[0]["unaveraged"]["test"]["loss"] != fitted.rows[0]["test"]["loss"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns(precision: Any) -> None:
    ours = make()
    fitted = fit(ours, batches(), epochs=6, optimizer=sgd(ours), precision=precision, reporter=SILENT)
    assert fitted.rows[-1]["terms"]["ce"]["raw"] < fitted.rows[0]["terms"]["ce"]["raw"]
    assert all(parameter.dtype == torch.float32 for parameter in ours.student.parameters())


def test_generators_rates_and_everything_global_are_given_back() -> None:
    ours = make()
    optimizer = sgd(ours)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fit(ours, batches(), epochs=1, optimizer=optimizer, schedule="cosine", reporter=SILENT)
    assert torch.equal(torch.get_rng_state(), before)
    assert optimizer.param_groups[0]["lr"] == 0.05


# ---------------------------------------------------------------- rates


def test_schedules_set_the_rates_that_they_say() -> None:
    def rates(**how: Any) -> list[float]:
        ours = make()
        seen: list[float] = []
        optimizer = sgd(ours, 1e-3)
        optimizer.register_step_post_hook(lambda *_: seen.append(optimizer.param_groups[0]["lr"]))
        schedule = how.pop("schedule")
        schedule = schedule(optimizer) if how.pop("scheduler", False) else schedule
        fit(ours, batches(2), epochs=2, optimizer=optimizer, schedule=schedule, reporter=SILENT, **how)
        return seen

    step = torch.optim.lr_scheduler.ExponentialLR
    assert rates(schedule=None) == rates(schedule="constant") == [1e-3] * 4
    assert rates(schedule=lambda share: 1 - share) == pytest.approx([1e-3, 0.75e-3, 0.5e-3, 0.25e-3])
    assert rates(schedule="cosine")[2] == pytest.approx(0.5e-3)
    assert rates(schedule=lambda o: step(o, 0.5), scheduler=True) == pytest.approx([1e-3, 1e-3, 5e-4, 5e-4])
    halved = rates(schedule=lambda o: step(o, 0.5), scheduler=True, schedule_every="step")
    assert halved == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4])


# ---------------------------------------------------------------- going on


def shuffled(workers: int = 0) -> DataLoader[Any]:
    context = "fork" if workers else None
    order = torch.Generator()
    return DataLoader(Noisy(), 6, shuffle=True, num_workers=workers, generator=order, multiprocessing_context=context)


@pytest.mark.parametrize(
    ("loader", "settings", "steps"),
    [
        (lambda: batches(4), {}, 6),
        (lambda: batches(4), {"accumulate_steps": 2, "ema_decay": 0.5, "clip_gradient_norm": 0.1}, 6),
        (lambda: batches(4), {"precision": "float16"}, 7),
        (lambda: batches(4), {"precision": "bfloat16", "checkpoint_every_steps": None}, 4),
        (shuffled, {"schedule": "cosine"}, 7),
        (lambda: DataLoader(Noisy(), 6, shuffle=True), {}, 6),
        (lambda: shuffled(2), {}, 7),
        (lambda: shuffled(), {"steps_per_epoch": 3}, 5),
    ],
    ids=["list", "accumulated and averaged", "float16", "end of an epoch", "generator", "global", "workers", "cut"],
)
def test_an_interrupted_call_goes_on_to_the_same_bits(
    loader: Callable[[], Any], settings: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    settings = {"checkpoint_every_steps": 1, **settings}

    def run(folder: str, reporter: Reporter) -> Distiller:
        distiller = make()
        fit(
            distiller,
            loader(),
            epochs=3,
            optimizer=sgd(distiller),
            folder=tmp_path / folder,
            reporter=reporter,
            evaluate=batches(1),
            **settings,
        )
        return distiller

    whole = run("whole", SILENT)
    with pytest.raises(StoppedError):
        run("broken", Stopper(steps))
    torch.manual_seed(77)
    assert same(whole, run("broken", SILENT))
    for name in ("student.safetensors", "metrics.jsonl"):
        first, second = (timeless(tmp_path / folder / name) for folder in ("whole", "broken"))
        assert first == second


def timeless(file: Path) -> Any:
    if file.suffix != ".jsonl":
        return file.read_bytes()
    return [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in file.read_text().splitlines()
    ]


@pytest.mark.parametrize("every", ["epoch", "step"])
def test_a_scheduler_of_torch_is_brought_to_where_it_was(every: Any, tmp_path: Path) -> None:
    def run(folder: str, reporter: Reporter, rate: float = 0.9) -> Distiller:
        distiller = make()
        optimizer = sgd(distiller)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, rate)
        settings: dict[str, Any] = {"optimizer": optimizer, "schedule": schedule, "schedule_every": every}
        fit(distiller, batches(3), epochs=3, folder=tmp_path / folder, reporter=reporter, **settings,
            checkpoint_every_steps=1)  # fmt: skip
        return distiller

    whole = run("whole", SILENT)
    with pytest.raises(StoppedError):
        run("broken", Stopper(5))
    with pytest.raises(ValueError, match=r"holds a run of another experiment: .*gamma is 0.9 there, 0.5 now"):
        run("broken", SILENT, 0.5)
    assert same(whole, run("broken", SILENT))


def test_a_finished_call_is_left_alone_and_gives_its_weights_back(tmp_path: Path) -> None:
    first, again = make(), make()
    for distiller in (first, again):
        fitted = fit(
            distiller, batches(2), epochs=1, optimizer=sgd(distiller), folder=tmp_path / "run", reporter=SILENT
        )
    assert same(first, again)
    assert fitted.summary == RunFolder(tmp_path / "run").summary
    assert len(fitted.rows) == 1


def test_another_call_in_the_same_folder_is_refused_by_what_differs(tmp_path: Path) -> None:
    def run(distiller: Distiller, rate: float = 0.05, **settings: Any) -> None:
        optimizer = sgd(distiller, rate)
        fit(distiller, batches(2), epochs=1, optimizer=optimizer, folder=tmp_path, reporter=SILENT, **settings)

    run(make())
    for words, other in (
        ("training.ema_decay", lambda: run(make(), ema_decay=0.5)),
        ("optimisation.groups", lambda: run(make(), rate=0.1)),
        ("task_weight", lambda: run(make(task_weight=0.5))),
        ("seed", lambda: run(make(), seed=1)),
    ):
        with pytest.raises(ValueError, match=rf"of another experiment: .*{words}"):
            other()
    changed = make()
    assert changed.teacher is not None
    with torch.no_grad():
        next(changed.teacher.parameters()).add_(1)
    with pytest.raises(ValueError, match=r"networks\.teacher\.weights"):
        run(changed)


def test_the_folder_is_one_that_compare_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        distiller = make()
        fit(
            distiller,
            batches(2),
            epochs=2,
            seed=seed,
            evaluate={"test": batches(1), "validation": batches(1)},
            folder=tmp_path / str(seed),
            snapshot_epochs=(0, 2),
            reporter=SILENT,
        )
    assert sorted(RunFolder(tmp_path / "0").snapshots) == [0, 2]
    assert main(["compare", str(tmp_path)]) == 0
    assert "0, 1" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"was a call of fit\(\), whose networks were objects"):
        read_experiment(RunFolder(tmp_path / "0"))
    (group,) = compare([RunFolder(tmp_path / seed) for seed in "01"]).groups
    assert group.seeds == (0, 1)
    assert group.samples_seen == (24,)
    assert group.last_epoch is not None
    assert group.best_on_validation is not None


# ---------------------------------------------------------------- what it costs to load

WITHOUT = """
import sys
for name in ("timm", "torchvision", "rich", "tyro", "sklearn", "scipy", "transformers", "matplotlib", "PIL"):
    sys.modules[name] = None
import torch
from torch import nn
from attention_transfer import Distiller, SoftTargets, fit
student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)) for _ in range(2))
distiller = Distiller(student, teacher, [SoftTargets()], example=torch.empty(2, 3, 8, 8))
loader = [(torch.randn(4, 3, 8, 8), torch.arange(4) % 3)] * 2
fit(distiller, loader, epochs=1, evaluate=loader, ema_decay=0.5, folder=sys.argv[1])
"""


def test_it_runs_where_only_torch_is_installed(tmp_path: Path) -> None:
    code = [sys.executable, "-W", "ignore", "-c", WITHOUT, str(tmp_path / "run")]
    found = subprocess.run(code, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert "epoch 1/1" in found.stdout
    assert RunFolder(tmp_path / "run").finished


def test_batches_of_every_form_are_taken() -> None:
    (images, labels), *_ = batches(1)
    index = torch.arange(6)
    forms: list[Any] = [(images, labels), [images, labels.int()], (images, labels, index), Batch(images, labels, index)]
    found = []
    for form in forms:
        distiller = make()
        fit(distiller, [form], epochs=1, optimizer=sgd(distiller), reporter=SILENT)
        found.append(distiller)
    assert all(same(found[0], each) for each in found[1:])
    distiller = make()
    loader = DataLoader(TensorDataset(images, labels), 6)
    fit(distiller, loader, epochs=1, optimizer=sgd(distiller), reporter=SILENT)
    assert same(found[0], distiller)
