import json
from collections.abc import Mapping
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from attention_transfer.report.compare import Comparison, compare
from attention_transfer.report.table import duration, to_json, to_markdown
from attention_transfer.runs import RunFolder, find_runs

AT = {"name": "at", "weight": 1000.0}
KD = {"name": "kd", "weight": 0.9}


def write_run(
    path: Path,
    seed: int,
    top1: list[float],
    *,
    methods: tuple[Mapping[str, Any], ...] = (),
    validation: list[float] | None = None,
    unseen: list[float] | None = None,
    finished: bool = True,
    samples_seen: int = 300,
    processor: str = "Some CPU",
    task_weight: float = 1.0,
    **changes: object,
) -> None:
    experiment = {
        "recipe": "small",
        "student": "resnet8",
        "teacher": "resnet14" if methods else None,
        "methods": list(methods),
        "task_weight": task_weight,
        "seed": seed,
        "data": {"name": "cluttered-digits", "root": None, "num_workers": 0},
        "optimisation": {"learning_rate": 0.05},
        "training": {"epochs": len(top1), "device": "cpu"},
    }
    with RunFolder.create_or_resume(path, experiment | changes) as run:
        run.write_environment({"hardware": {"processor": processor, "threads": 1, "device": "cpu"}, "command": "x"})
        for epoch, value in enumerate(top1, start=1):
            row: dict[str, Any] = {"epoch": epoch, "test": {"loss": 1.0, "top1": value, "count": 500}}
            if validation:
                row["validation"] = {"loss": 1.0, "top1": validation[epoch - 1], "count": 100}
            if unseen:
                row["unseen"] = {"loss": 1.0, "top1": unseen[epoch - 1], "count": 50}
            run.append_metrics(row)
        if finished:
            teacher = {"test": {"top1": 90.0, "loss": 0.3}} if methods else None
            run.write_summary({
                "epochs": len(top1),
                "samples_seen": samples_seen,
                "wall_seconds": 60.0 + seed,
                "teacher": teacher,
                "student_parameters": 78_042,
            })


def compared(path: Path) -> Comparison:
    return compare(find_runs([path]))


def test_groups_differ_in_more_than_the_seed_and_lone_students_come_first(tmp_path: Path):
    for seed in (0, 1):
        write_run(tmp_path / f"a-{seed}", seed, [50, 60], methods=(AT,))
        write_run(tmp_path / f"b-{seed}", seed, [50, 60], methods=(AT, KD))
        write_run(tmp_path / f"c-{seed}", seed, [50, 60])
        write_run(tmp_path / f"d-{seed}", seed, [50, 60], methods=(KD,), task_weight=0.1)
    groups = compared(tmp_path).groups
    assert [group.name for group in groups] == ["CE", "AT", "KD+AT", "KD"]
    assert {group.seeds for group in groups} == {(0, 1)}


def test_the_three_measures_are_last_epoch_best_on_validation_and_best_on_test(tmp_path: Path):
    write_run(tmp_path / "0", 0, [50.0, 58.0, 70.0, 60.0], validation=[40.0, 55.0, 54.0, 55.0])
    write_run(tmp_path / "1", 1, [50.0, 60.0, 74.0, 63.0], validation=[40.0, 44.0, 45.0, 56.0])
    write_run(tmp_path / "2", 2, [80.0, 61.0, 73.0, 69.0], validation=[70.0, 55.0, 54.0, 56.0])
    (group,) = compared(tmp_path).groups
    for measure, expected in (
        (group.last_epoch, [60.0, 63.0, 69.0]),
        (group.best_on_validation, [58.0, 63.0, 80.0]),
        (group.best_on_test, [70.0, 74.0, 80.0]),
    ):
        assert measure is not None
        assert measure.count == 3
        assert measure.mean == pytest.approx(sum(expected) / 3)
        assert measure.std == pytest.approx(stdev(expected))


def test_a_single_seed_has_no_spread_and_no_validation_has_no_best(tmp_path: Path):
    write_run(tmp_path, 0, [50.0, 60.0])
    (group,) = compared(tmp_path).groups
    assert group.last_epoch is not None
    assert group.last_epoch.std is None
    assert group.best_on_validation is None
    row = to_markdown(compared(tmp_path)).splitlines()[2]
    assert [cell.strip() for cell in row.split("|")[2:8]] == ["0", "60.00 ± –", "–", "60.00 ± –", "–", "60 s"]


def test_differences_are_paired_by_seed(tmp_path: Path):
    for seed, alone, transferred in ((0, 50.0, 51.0), (1, 60.0, 62.0), (2, 70.0, 73.0)):
        write_run(tmp_path / f"ce-{seed}", seed, [alone])
        write_run(tmp_path / f"at-{seed}", seed, [transferred], methods=(AT,))
    write_run(tmp_path / "at-3", 3, [99.0], methods=(AT,))
    comparison = compared(tmp_path)
    first, second = comparison.groups
    assert first.difference is None
    assert second.difference is not None
    assert (second.difference.mean, second.difference.std, second.difference.count) == (2.0, 1.0, 3)
    assert "+2.00 ± 1.00" in to_markdown(comparison)
    assert any("different seeds (CE: 0, 1, 2; AT: 0, 1, 2, 3)" in warning for warning in comparison.warnings)


def test_unfinished_runs_are_listed_and_left_out_of_means(tmp_path: Path):
    write_run(tmp_path / "0", 0, [50.0])
    write_run(tmp_path / "1", 1, [90.0], finished=False)
    write_run(tmp_path / "2", 0, [90.0], methods=(KD,), finished=False)
    comparison = compared(tmp_path)
    (group,) = comparison.groups
    assert group.seeds == (0,)
    assert [(run.name, run.seed, run.epochs) for run in comparison.unfinished] == [("CE", 1, 1), ("KD", 0, 1)]
    assert f"Unfinished, left out: {tmp_path / '1'} (CE, seed 1, 1 of 1 epochs)." in to_markdown(comparison)


def test_fields_that_cannot_change_the_result_do_not_split_a_group_and_the_device_does(tmp_path: Path):
    data = {"name": "cluttered-digits", "root": "/elsewhere", "num_workers": 4}
    write_run(tmp_path / "0", 0, [50.0])
    write_run(tmp_path / "1", 1, [52.0], data=data, recipe="other")
    assert len(compared(tmp_path).groups) == 1
    write_run(tmp_path / "2", 2, [52.0], training={"epochs": 1, "device": "cuda"})
    assert [group.name for group in compared(tmp_path).groups] == ["CE, device=cpu", "CE, device=cuda"]


def test_names_add_what_differs_among_all_or_among_the_same_methods(tmp_path: Path):
    write_run(tmp_path / "a", 0, [50.0])
    write_run(tmp_path / "b", 0, [50.0], student="resnet20")
    write_run(tmp_path / "c", 0, [50.0], methods=(AT,))
    write_run(tmp_path / "d", 0, [50.0], methods=(AT | {"weight": 10.0},))
    write_run(tmp_path / "e", 0, [50.0], methods=(KD,), task_weight=0.0)
    assert [group.name for group in compared(tmp_path).groups] == [
        "CE, student=resnet8",
        "CE, student=resnet20",
        "AT, student=resnet8, weight=1000.0",
        "AT, student=resnet8, weight=10.0",
        "KD without labels, student=resnet8",
    ]


def test_long_names_that_begin_alike_are_shown_by_their_ends(tmp_path: Path):
    network = "timm:vit_tiny_patch16_224(img_size=32)"
    write_run(tmp_path / "a", 0, [50.0], student=network)
    write_run(tmp_path / "b", 0, [50.0], student=f"{network}@$MAE/student.safetensors")
    write_run(tmp_path / "c", 0, [50.0], student=network, methods=({"name": "attention-copy", "weight": 1.0},))
    assert [group.name for group in compared(tmp_path).groups] == [
        "CE",
        "CE, student=…@$MAE/student.safetensors",
        "attention-copy",
    ]


def test_the_order_of_methods_makes_no_group(tmp_path: Path):
    write_run(tmp_path / "0", 0, [50.0], methods=(AT, KD))
    write_run(tmp_path / "1", 1, [50.0], methods=(KD, AT))
    assert [group.name for group in compared(tmp_path).groups] == ["KD+AT"]


def test_a_known_teacher_is_the_first_line_once(tmp_path: Path):
    write_run(tmp_path / "a", 0, [50.0])
    write_run(tmp_path / "b", 0, [50.0], methods=(AT,))
    write_run(tmp_path / "c", 1, [50.0], methods=(AT,))
    lines = to_markdown(compared(tmp_path)).splitlines()
    assert lines[2].startswith("| teacher resnet14 |")
    assert "90.00" in lines[2]
    assert sum("teacher" in line for line in lines) == 1


def test_other_budgets_test_sets_and_hardware_are_warned_of(tmp_path: Path):
    write_run(tmp_path / "a", 0, [50.0])
    write_run(tmp_path / "b", 0, [50.0], methods=(AT,))
    assert compared(tmp_path).warnings == ()
    write_run(tmp_path / "c", 0, [50.0], methods=(KD,), samples_seen=900, processor="Another CPU")
    text = to_markdown(compared(tmp_path))
    assert "Warning: Not comparable: the budgets (epochs or samples seen) differ." in text
    assert "Warning: Wall times are not comparable" in text
    assert "Hardware of KD: Another CPU, 1 thread, cpu." in text


def test_a_repeated_seed_counts_once_and_is_named(tmp_path: Path):
    write_run(tmp_path / "a", 0, [50.0])
    write_run(tmp_path / "b", 0, [70.0])
    comparison = compared(tmp_path)
    assert comparison.groups[0].seeds == (0,)
    assert f"CE has seed 0 twice; {tmp_path / 'b'} is left out" in comparison.warnings[0]


def test_the_table_is_rectangular_and_escapes_bars(tmp_path: Path):
    write_run(tmp_path / "a", 0, [50.0], student="a|b")
    write_run(tmp_path / "b", 0, [50.0])
    table = [line for line in to_markdown(compared(tmp_path)).splitlines() if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    assert "student=a\\|b" in table[2]


def test_json_carries_the_unrounded_numbers(tmp_path: Path):
    write_run(tmp_path, 0, [100 / 3])
    group = json.loads(to_json(compared(tmp_path)))["groups"][0]
    assert group["last_epoch"] == {"mean": 100 / 3, "std": None, "count": 1}
    assert group["student_parameters"] == 78_042


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="no runs to compare"):
        compare([])


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (99, "99 s"), (100, "1.7 min"), (7200, "2.0 h")])
def test_durations_read_well(seconds: float, text: str):
    assert duration(seconds) == text


def test_classes_that_were_not_learned_from_have_a_column_where_a_run_measured_them(tmp_path: Path):
    for seed, (tested, unseen) in enumerate(((50.0, 7.0), (52.0, 9.0))):
        write_run(tmp_path / f"ce-{seed}", seed, [40.0, tested])
        write_run(tmp_path / f"at-{seed}", seed, [40.0, tested], methods=(AT,), unseen=[1.0, unseen])
    first, second = compared(tmp_path).groups
    assert first.unseen is None
    assert second.unseen is not None
    assert (second.unseen.mean, second.unseen.count) == (8.0, 2)
    text = to_markdown(compared(tmp_path))
    header, _, teacher, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[:5])
    place = header.index("unseen")
    assert place == header.index("last epoch") + 1
    assert [row[place] for row in (teacher, *rows)] == ["", "–", "8.00 ± 1.41"]
    assert "«Unseen» is" in text
    alone = to_markdown(compare(find_runs([tmp_path / "ce-0", tmp_path / "ce-1"])))
    assert "nseen" not in alone


def test_snapshots_do_not_split_a_group(tmp_path: Path):
    write_run(tmp_path / "0", 0, [50.0], training={"epochs": 1, "device": "cpu", "snapshot_epochs": [0, 1]})
    write_run(tmp_path / "1", 1, [52.0], training={"epochs": 1, "device": "cpu", "snapshot_epochs": None})
    write_run(tmp_path / "2", 2, [52.0])
    assert [group.seeds for group in compared(tmp_path).groups] == [(0, 1, 2)]
