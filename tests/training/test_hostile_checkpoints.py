"""A checkpoint that somebody else may have written: refused in a sentence before anything is taken from it."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_transfer.cli import main
from attention_transfer.errors import InputError
from attention_transfer.runs import RunFolder
from attention_transfer.training.checkpoint import CheckpointError, load_optimizer
from attention_transfer.training.fit import fit
from attention_transfer.training.progress import Reporter
from tests.commands.hostile import images as four_classes

NAN, INF = float("nan"), float("inf")
WEIGHT = "student.fc.weight"


class _Killer(Reporter):
    """Ends a training after three steps of its second epoch."""

    def steps(self, items: Iterable[Any], total: int, done: int, title: str) -> Iterator[Any]:
        del total, done
        for count, item in enumerate(items):
            if title.startswith("epoch 2") and count == 3:
                raise KeyboardInterrupt
            yield item


def command(folder: Path) -> list[str]:
    """A training of a second, with two checkpoints in each epoch of four steps."""
    words = "train digits --student resnet8 --methods --epochs 2 --batch-size 4 --threads 1 --device cpu"
    words += " --ema-decay 0.5 --checkpoint-every-steps 2 --data"
    return [*words.split(), f"npz:{four_classes(folder / 'images')}", "--run-folder", str(folder / "run")]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted inside its second epoch."""
    from attention_transfer.commands.train import parse
    from attention_transfer.recipes import RECIPES

    folder = tmp_path_factory.mktemp("broken")
    experiment, place = parse(RECIPES["digits"](), command(folder)[2:])
    with pytest.raises(KeyboardInterrupt):
        fit(experiment, place, _Killer(silent=True))
    assert not RunFolder(place).finished
    return folder


@pytest.fixture
def again(broken: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Callable[[Any], Any]], str]:
    """Goes on with a copy of the run whose checkpoint was changed, and gives what is said."""

    def resume(change: Callable[[dict[str, Any]], Any]) -> str:
        run = broken / "run"
        file = RunFolder(run).checkpoint
        kept, rows = file.read_bytes(), (run / "metrics.jsonl").read_bytes()
        try:
            state = torch.load(file, weights_only=True)
            changed = change(state)
            torch.save(state if changed is None else changed, file)
            code = main(command(broken))
        finally:
            file.write_bytes(kept)
            assert (run / "metrics.jsonl").read_bytes() == rows
        said = capsys.readouterr().err.strip()
        assert code == 2, said
        assert len(said.splitlines()) == 1
        assert str(file) in said
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
    ("field", "value"),
    [
        *[("epoch", value) for value in ("1", None, True, 1.5, NAN, INF, -1, 3, 10**30, [1], torch.tensor(1))],
        *[("first_batch", value) for value in ("0", None, -1, 4, 10**30, NAN, {})],
        *[("seconds", value) for value in ("long", None, NAN, INF, -1.0, [])],
        *[("total_seconds", value) for value in ("long", None, NAN, -INF, torch.zeros(()))],
        *[("distiller", value) for value in (None, [], "weights", torch.zeros(3), {})],
        *[("optimizer", value) for value in (None, [], "adam", 5)],
        *[("average", value) for value in (None, [], {}, {"x": torch.zeros(())})],
        *[("means", value) for value in (None, [], {}, {"sums": {}, "weights": {}, "count": "1"})],
        ("means", {"sums": {"loss": "high"}, "weights": {}, "count": 1}),
        ("means", {"sums": {"loss": torch.tensor(NAN)}, "weights": {}, "count": 1}),
        ("means", {"sums": {"loss": torch.zeros(7)}, "weights": {}, "count": 1}),
        ("means", {"sums": {}, "weights": {"ce": INF}, "count": 1}),
    ],
    ids=repr,
)
def test_a_field_of_another_kind_is_refused(again: Callable[[Any], str], field: str, value: Any) -> None:
    assert f"'{field}'" in again(changed(field, to=value))


@pytest.mark.parametrize("field", ["epoch", "first_batch", "seconds", "distiller", "optimizer", "average", "means"])
def test_a_missing_field_is_refused(again: Callable[[Any], str], field: str) -> None:
    def forget(state: dict[str, Any]) -> None:
        del state[field]

    assert f"'{field}'" in again(forget)
    assert "is missing" in again(forget)


@pytest.mark.parametrize("whole", [[], "a text", 5, None, torch.zeros(3), [{"epoch": 1}]], ids=repr)
def test_what_holds_no_fields_is_refused(again: Callable[[Any], str], whole: Any) -> None:
    assert "holds no fields by name" in again(lambda _: [] if whole is None else whole)


@pytest.mark.parametrize(
    "value",
    [
        torch.full((4, 64), NAN),
        torch.full((4, 64), INF),
        torch.zeros(4, 63),
        torch.zeros(4, 64, dtype=torch.int64),
        torch.zeros(4, 64).to_sparse(),
        torch.zeros(()).expand(4, 64),
        torch.zeros(()).expand(10**9, 10**6),
        torch.zeros(4, 64, device="meta"),
        [[0.0] * 64] * 4,
        "weights",
        None,
    ],
    ids=lambda value: str(getattr(value, "shape", value))[:20],
)
def test_weights_of_another_kind_are_refused(again: Callable[[Any], str], value: Any) -> None:
    assert f"'{WEIGHT}' in 'distiller'" in again(changed("distiller", WEIGHT, to=value))


def test_weights_of_other_networks_are_refused(again: Callable[[Any], str]) -> None:
    assert "of other networks or methods (more)" in again(changed("distiller", "more", to=torch.zeros(1)))
    assert "'fc.bias' in 'average'" in again(changed("average", "fc.bias", to=torch.full((4,), NAN)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("param_groups",), None),
        (("param_groups",), []),
        (("param_groups", 0), "group"),
        (("param_groups", 0, "lr"), "high"),
        (("param_groups", 0, "lr"), NAN),
        (("param_groups", 0, "momentum"), [0.9]),
        (("param_groups", 0, "nesterov"), "yes"),
        (("param_groups", 0, "params"), "all"),
        (("param_groups", 0, "params"), [0]),
        (("state",), []),
        (("state", 0), "state"),
        (("state", 0, "momentum_buffer"), torch.full((16, 3, 3, 3), NAN)),
        (("state", 0, "momentum_buffer"), torch.zeros(5)),
        (("state", 0, "momentum_buffer"), torch.zeros((), dtype=torch.float64).expand(10**9, 10**6)),
        (("state", 0, "momentum_buffer"), "momentum"),
        (("state", 10**6), {"momentum_buffer": torch.zeros(5)}),
        (("state", "first"), {}),
    ],
    ids=repr,
)
def test_another_optimiser_is_refused(again: Callable[[Any], str], path: tuple[Any, ...], value: Any) -> None:
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


def test_an_untouched_checkpoint_is_taken(broken: Path, tmp_path: Path) -> None:
    shutil.copytree(broken / "run", tmp_path / "run")
    words = command(broken)
    assert main([*words[:-1], str(tmp_path / "run")]) == 0
    assert RunFolder(tmp_path / "run").finished


# ---------------------------------------------------------------- files


def _bomb(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))


def _hostile(file: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (file.with_name("it-ran"),)

    file.write_bytes(pickle.dumps(Hostile()))


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"PK\x03\x04" + bytes(100)),
        lambda file: file.write_bytes(os.urandom(4096)),
        lambda file: file.write_text(json.dumps({"epoch": 1})),
        lambda file: file.mkdir(),
        lambda file: os.mkfifo(file) if hasattr(os, "mkfifo") else file.mkdir(),
        lambda file: file.symlink_to("/dev/zero" if Path("/dev/zero").exists() else "."),
        _bomb,
        _hostile,
    ],
    ids=["empty", "zip", "noise", "JSON", "folder", "pipe", "device", "bomb", "code"],
)
def test_files_that_are_no_checkpoints_are_refused(
    write: Callable[[Path], Any], broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(broken / "run", tmp_path / "run")
    file = RunFolder(tmp_path / "run").checkpoint
    file.unlink()
    write(file)
    assert main([*command(broken)[:-1], str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert str(file) in said
    assert "weights_only" not in said
    assert not file.with_name("it-ran").exists()


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
