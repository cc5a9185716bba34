"""A checkpoint whose content somebody else may have written: refused in a sentence before anything is taken from it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.interrupted import NAMES, command, interrupted, resealed

from attention_transfer.cli import main
from attention_transfer.errors import InputError
from attention_transfer.training.checkpoint_checks import (
    CheckpointError,
    Expected,
    check_checkpoint,
    load_optimizer,
)
from attention_transfer.training.checkpoint_files import (
    checkpoints,
    read_checkpoint,
    write_checkpoint,
)

NAN, INF = float("nan"), float("inf")
WEIGHT = "student.fc.weight"


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted inside its second epoch, after two steps of it."""
    return interrupted(tmp_path_factory.mktemp("broken"))


Again = Callable[[Callable[[Any], Any]], str]


@pytest.fixture
def again(broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Again:
    """Goes on with a copy of the run whose only checkpoint was changed, checksum included, and gives what is said."""

    def resume(change: Callable[[dict[str, Any]], Any]) -> str:
        run = tmp_path / "run"
        if not run.exists():
            shutil.copytree(broken / "run", run)
        rows = (run / "metrics.jsonl").read_bytes()
        file, *others = checkpoints(broken / "run" / "checkpoints")
        assert len(others) == 1
        state = read_checkpoint(file)
        changed = change(state)
        for path in checkpoints(run / "checkpoints"):
            shutil.rmtree(path)
        written = write_checkpoint(tmp_path / "written", NAMES)
        resealed(written, state if changed is None else changed)
        shutil.move(written, run / "checkpoints" / file.name)
        assert main([*command(broken)[:-1], str(run)]) == 2
        assert (run / "metrics.jsonl").read_bytes() == rows
        said = capsys.readouterr().err.strip()
        assert len(said.splitlines()) == 1
        assert str(run / "checkpoints" / file.name) in said
        assert "delete it to start this run anew" in said
        return said

    return resume


def changed(*path: Any, to: Any) -> Callable[[Any], None]:
    """Puts a value into the tree of a checkpoint."""

    def change(state: Any) -> None:
        for name in path[:-1]:
            state = state[name]
        state[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("epoch", ("1", None, True, 1.5, NAN, -1, 3, 10**30, [1], torch.tensor(1))),
        ("first_batch", ("0", None, -1, 4, NAN, {})),
        ("updates", ("0", None, -1, 10**30)),
        ("seconds", ("long", None, INF, -1.0)),
        ("total_seconds", (None, NAN, torch.zeros(()))),
        ("world_size", (None, 0, "1", 1.0)),
        ("distiller", (None, [], "weights", torch.zeros(3), {})),
        ("optimizer", (None, [], "adam", 5)),
        ("average", (None, [], {}, {"x": torch.zeros(())})),
        ("rows", (None, {}, [5], [{"epoch": "1"}], [{"epoch": 2}], [{"epoch": 1}, {"epoch": 1}])),
        (
            "means",
            (
                None,
                [],
                [{}],
                [{"sums": {}, "weights": {}, "count": "1"}],
                [{"sums": {"loss": "high"}, "weights": {}, "count": 1}],
                [{"sums": {"loss": torch.tensor(NAN)}, "weights": {}, "count": 1}],
                [{"sums": {"loss": torch.zeros(7)}, "weights": {}, "count": 1}],
                [{"sums": {}, "weights": {"ce": INF}, "count": 1}],
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_field_of_another_kind_or_none_is_refused(again: Again, field: str, values: tuple[Any, ...]) -> None:
    def forget(state: dict[str, Any]) -> None:
        del state[field]

    said = again(forget)
    assert f"'{field}'" in said
    assert "is missing" in said
    for value in values:
        with pytest.raises(CheckpointError, match=f"'{field}'|'x'"):
            check(field, value)


def check(field: str, value: Any) -> None:
    """Holds a state that is right, but for a field, to what a run expects."""
    weights = {"w": torch.zeros(2)}
    state: dict[str, Any] = {
        "epoch": 1,
        "first_batch": 2,
        "updates": 6,
        "phase_updates": 6,
        "seconds": 0.5,
        "total_seconds": 1.5,
        "world_size": 1,
        "distiller": weights,
        "optimizer": {},
        "average": weights,
        "means": [{"sums": {"loss": torch.zeros(())}, "weights": {"ce": 1.0}, "count": 2}],
        "rows": [{"epoch": 1}],
    }
    expected = Expected(2, 4, weights, weights)
    check_checkpoint(state, expected, Path("here"))
    check_checkpoint(state | {field: value}, expected, Path("here"))


def test_another_number_of_processes_is_said(again: Again) -> None:
    said = again(changed("world_size", to=2))
    assert "is of 2 processes, each with batches of its own, and now there is 1" in said


@pytest.mark.parametrize("whole", [[], "a text", 5], ids=repr)
def test_what_holds_no_fields_is_refused(again: Again, whole: Any) -> None:
    assert "holds no fields by name" in again(lambda _: whole)


@pytest.mark.parametrize(
    ("weight", "value"),
    [
        (WEIGHT, torch.full((4, 64), NAN)),
        (WEIGHT, torch.zeros(4, 63)),
        (WEIGHT, torch.zeros(4, 64, dtype=torch.int64)),
        (WEIGHT, [[0.0] * 64] * 4),
        ("more", torch.zeros(1)),
    ],
    ids=["not finite", "shape", "whole numbers", "list", "another name"],
)
def test_weights_of_another_kind_are_refused(again: Again, weight: str, value: Any) -> None:
    said = again(changed("distiller", weight, to=value))
    wanted = "of other networks or methods (more)" if weight == "more" else f"'{WEIGHT}' in 'distiller'"
    assert wanted in said


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("param_groups",), []),
        (("param_groups", 0), "group"),
        (("param_groups", 0, "lr"), NAN),
        (("param_groups", 0, "nesterov"), "yes"),
        (("param_groups", 0, "params"), [0]),
        (("state",), []),
        (("state", 0, "momentum_buffer"), torch.full((16, 3, 3, 3), NAN)),
        (("state", 0, "momentum_buffer"), torch.zeros(5)),
        (("state", 10**6), {"momentum_buffer": torch.zeros(5)}),
        (("state", "first"), {}),
    ],
    ids=["groups", "group", "rate", "flag", "parameters", "states", "not finite", "shape", "number", "name"],
)
def test_another_optimiser_is_refused(again: Again, path: tuple[Any, ...], value: Any) -> None:
    assert "'optimizer' of the checkpoint" in again(changed("optimizer", *path, to=value))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_the_state_of_other_optimisers_is_taken_and_held_to_finite_numbers(
    kind: type[torch.optim.Optimizer], tmp_path: Path
) -> None:
    def stepped() -> torch.optim.Optimizer:
        weight = torch.nn.Parameter(torch.ones(3, 2))
        optimizer = kind([weight], lr=0.1)
        weight.sum().backward()
        optimizer.step()
        return optimizer

    state = stepped().state_dict()
    load_optimizer(stepped(), state, tmp_path)
    for name, value in state["state"][0].items():
        if isinstance(value, torch.Tensor):
            bad = state | {"state": {0: state["state"][0] | {name: torch.full_like(value, NAN)}}}
            with pytest.raises(CheckpointError, match=f"'{name}' of parameter 0"):
                load_optimizer(stepped(), bad, tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("experiment.json", {"seed": "0"}),
        ("experiment.json", {"training": {"epochs": "2"}}),
        ("experiment.json", {"training": {"epochs": 10**30}}),
        ("experiment.json", {"data": {"name": "npz:x", "image_size": 1e30}}),
        ("experiment.json", {"optimisation": {"learning_rate": "fast"}}),
        ("experiment.json", {"methods": [{"name": "at", "weight": []}]}),
        ("experiment.json", {"student": ["resnet8"]}),
        ("environment.json", {"earlier": "never"}),
        ("environment.json", {"hardware": []}),
        ("metrics.jsonl", {"epoch": "1"}),
        ("metrics.jsonl", {"epoch": 1, "seconds": "long"}),
        ("metrics.jsonl", {"epoch": 1, "terms": {"ce": 5}}),
    ],
    ids=repr,
)
def test_a_run_with_a_file_of_another_kind_is_not_gone_on_with(
    name: str, content: dict[str, Any], broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(broken / "run", tmp_path / "run")
    file = tmp_path / "run" / name
    before = json.loads(file.read_text().splitlines()[0]) if name == "metrics.jsonl" else json.loads(file.read_text())
    file.write_text(json.dumps(before | content) + "\n")
    assert main([*command(broken)[:-1], str(tmp_path / "run")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_checkpoint_error_is_an_input_error() -> None:
    assert issubclass(CheckpointError, InputError)
