"""`cost`, as a user types it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.analysis.conftest import save_network
from tests.training.conftest import Make, images, make

from attention_transfer import Data
from attention_transfer.commands.cost import command
from attention_transfer.commands.data_of_runs import own_data
from attention_transfer.experiment import to_json
from attention_transfer.report.cost import cost_markdown
from attention_transfer.runs import RunFolder
from attention_transfer.training.experiment_run import fit_experiment

__all__ = ["images", "make"]

QUICK = ["--batch-size", "2", "--repeats", "1", "--device", "cpu", "--threads", "1"]


def test_models_are_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = save_network(tmp_path / "network", name="resnet8")
    command(["resnet14", saved, "--num-classes", "3", "--image-size", "16", *QUICK])
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows] == ["", rows[1][0], "resnet14", saved, "÷ resnet14", rows[5][0], "resnet14", saved]
    assert rows[6][1:] == ["1"] * 7
    assert rows[2][1] == "16×16"
    assert float(rows[7][1]) == pytest.approx(
        int(rows[3][2].replace(",", "")) / int(rows[2][2].replace(",", "")), abs=1e-3
    )
    assert "FLOPs are twice as many" in text
    assert "medians of 1 rounds" in text
    assert "live tensors" in text


def test_each_model_gets_images_of_its_own_size_or_an_assumption_is_said(
    images: Path, make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit_experiment(
        make(methods=(), teacher=None, data=Data(f"npz:{images}", image_size=24), training={"epochs": 1}), run
    )
    capsys.readouterr()
    command([str(run), "resnet8", "--num-classes", "3", *QUICK, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert [model["image_size"] for model in content["models"]] == [24, 32]
    assert content["notes"] == ["the image size of resnet8 could not be determined: taken to be 32×32 (--image-size)"]
    assert content["hardware"]["device"] == "cpu"
    assert "taken to be 32×32" in cost_markdown(content)


def test_numbers_are_shown_with_three_digits() -> None:
    model = {
        "name": "one",
        "image_size": 32,
        "parameters": 278_324,
        "multiply_adds": 40_816_960,
        "flops": 81_633_920,
        "latency_seconds": 0.00671,
        "images_per_second": 1279.04,
        "inference_bytes": 22_900_000,
        "training_bytes": 1_050_000_000,
        "file_bytes": 950,
    }
    hardware = {"processor": "a", "threads": 2, "device": "cuda name"}
    content = {"models": [model], "batch_size": 64, "repeats": 20, "hardware": hardware, "torch": "2", "notes": []}
    lines = cost_markdown(content).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "one",
        "32×32",
        "278,324",
        "40.8 M",
        "81.6 M",
        "6.71 ms",
        "1,279.0",
        "22.9 MB",
        "1.05 GB",
        "950 B",
    ]
    assert not any(line.startswith("| ÷") for line in lines)
    assert "allocator" in lines[-2]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="image_size must be at least 1, not 0"):
        command(["resnet8", "--num-classes", "3", "--image-size", "0", *QUICK])
    with pytest.raises(ValueError, match="give num_classes"):
        command(["resnet8", *QUICK])
    with pytest.raises(ValueError, match="batch_size must be at least 2"):
        command(["resnet8", "--num-classes", "3", "--batch-size", "1"])


def test_a_run_on_a_set_of_known_size_is_measured_at_that_size(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    data = Data("cluttered-digits", train_limit=16, test_limit=8)
    fit_experiment(make(methods=(), teacher=None, data=data, training={"epochs": 1}), run)
    capsys.readouterr()
    command([str(run), *QUICK, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert [model["image_size"] for model in content["models"]] == [32]
    assert content["notes"] == []


__all___of_own_data = ["images", "make"]


def write_run(path: Path, make: Make, data: Data) -> str:
    """A run that has not begun."""
    RunFolder.create_or_resume(path, to_json(replace(make(), data=data))).close()
    return str(path)


def test_a_run_is_measured_on_what_it_was_trained_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data("cifar100", image_size=40, train_limit=100)
    run = write_run(tmp_path / "run", make, data)
    assert own_data(["resnet8@x.pt", run, "--top", "3"]) == data
    monkeypatch.setenv("RUNS", str(tmp_path))
    assert own_data(["$RUNS/run"]) == data
    assert own_data(["resnet8@x.pt"]) == Data()


def test_runs_of_different_data_need_a_word(make: Make, tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, make, Data(name)) for name in ("cifar10", "cifar100")]
    for order in (runs, runs[::-1]):
        with pytest.raises(ValueError, match=r"\(name is cifar10 or cifar100\): say with --data what"):
            own_data(order)
        assert own_data([*order, "--data", "cifar10"]) == Data("cifar10")
        assert own_data([*order, "--data=cifar10"]) == Data("cifar10")


@pytest.mark.parametrize(
    ("fields", "words", "said"),
    [
        ({"image_size": 40}, r"image_size is 40 or None\): say with --image-size", ["--image-size", "40"]),
        ({"test_limit": 7}, r"test_limit is 7 or None\): say with --test-limit", ["--test_limit=7"]),
        ({"root": Path("/there")}, r"root is /there or None\): say with --data-root", ["--data-root", "/there"]),
        (
            {"image_size": 40, "test_limit": 7},
            r"image_size is 40 or None; test_limit is 7 or None\): say with --image-size, --test-limit",
            ["--image-size", "40", "--test-limit", "7"],
        ),
    ],
)
def test_runs_that_saw_the_same_set_otherwise_need_a_word_in_either_order(
    make: Make, tmp_path: Path, fields: dict[str, Any], words: str, said: list[str]
) -> None:
    runs = [
        write_run(tmp_path / "plain", make, Data("cifar100")),
        write_run(tmp_path / "other", make, Data("cifar100", **fields)),
    ]
    for order in (runs, runs[::-1]):
        for named in ([], ["--data", "cifar100"]):
            with pytest.raises(ValueError, match=words):
                own_data([*order, *named])
        taken = own_data([*order, *said])
        assert replace(taken, **fields) == Data("cifar100", **fields)


def test_what_only_training_images_depend_on_may_differ_while_test_images_are_read(make: Make, tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "all", make, Data("cifar100", num_workers=2)),
        write_run(tmp_path / "few", make, Data("cifar100", train_limit=9, validation_fraction=0.5)),
    ]
    for order in (runs, runs[::-1]):
        assert own_data(order).name == own_data([*order, "--split", "test"]).name == "cifar100"
        for split in (["--split", "validation"], ["--split=train"]):
            with pytest.raises(ValueError, match=r"validation_fraction is 0.0 or 0.5; train_limit is 9 or None\)"):
                own_data([*order, *split])
        own_data([*order, "--split", "train", "--train-limit", "9", "--validation-fraction", "0"])


def test_places_are_the_same_with_variables_or_without(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", "/some/where")
    runs = [
        write_run(tmp_path / "short", make, Data("npz:$HERE/set", root=Path("$HERE"), image_size=40)),
        write_run(tmp_path / "long", make, Data("npz:/some/where/set", root=Path("/some/where"), image_size=40)),
    ]
    assert {own_data(order).image_size for order in (runs, runs[::-1])} == {40}
    assert own_data([*runs, "--data", "npz:$HERE/set"]).image_size == 40


def test_another_set_takes_nothing_of_a_run_but_where_sets_are(make: Make, tmp_path: Path) -> None:
    data = Data("cifar100", Path("/there"), image_size=40, test_limit=7, validation_fraction=0.5, num_workers=3)
    runs = [write_run(tmp_path / "run", make, data), write_run(tmp_path / "other", make, Data("cluttered-digits"))]
    kept = Data("cub200", Path("/there"), num_workers=3)
    assert own_data([runs[0], "--data", "cub200"]) == kept
    for order in (runs, runs[::-1]):
        assert own_data([*order, "--data", "cub200"]) == kept
    third = write_run(tmp_path / "third", make, replace(data, root=Path("/elsewhere")))
    with pytest.raises(ValueError, match=r"root is /elsewhere or /there\): say with --data-root"):
        own_data([runs[0], third, "--data", "cub200"])
