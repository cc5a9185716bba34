"""The runs that the pages of results rest on still group, and come to what the pages say."""

import re
import subprocess
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from attention_transfer.commands import reproduce
from attention_transfer.report.compare import compare
from attention_transfer.report.reproduction import to_markdown as reproduced_markdown
from attention_transfer.report.table import to_markdown
from attention_transfer.runs import RecordedRun, find_runs

RESULTS = Path(__file__).parents[2] / "docs" / "results"
MOST_FILES = 100

# Pages, and the runs of their first tables, of one or of several; one pattern after the other where the order matters.
PAGES: dict[str, str | tuple[str, ...]] = {
    "attention-links.md": (
        "links-cub200#alone-* links-cub200#full-* links-cub200#extracted-*",
        *(
            " ".join(f"links-cifar100#{percent}-percent-{row}-seed*" for row in ("alone", "hard", "full", "extracted"))
            for percent in (5, 10)
        ),
    ),
    "attention-on-objects.md": "attending#cub200-*",
    "cifar100-resnet56-resnet20.md": " ".join(
        f"cifar100-methods#{name}_seed*"
        for name in (
            "cifar100-resnet20",
            "cifar100-resnet56-resnet20-at",
            "cat-table6-resnet56-resnet20",
            "kd+at",
            "cifar100-resnet56-resnet20-kd",
        )
    ),
    "cluttered-digits.md": "cluttered-digits#a*",
    "cluttered-digits-methods.md": "digits-strong#*-seed*",
    "open-questions.md": "digits-short#weights/*",
    "tiny-imagenet.md": "tiny-imagenet",
    "vit-cifar100.md": (
        " ".join(
            f"vit-cifar100-small#{row}-seed*" for row in ("scratch", "fine-tune", "copy", "distil", "copy-[fhklqv]*")
        ),
        "vit-cifar100#scratch-seed* vit-cifar100#*-seed*",
    ),
}


# Pages of whole tables: table, folder of its runs, flags of `reproduce`, flags of `train`.
BF16 = ["--precision", "bfloat16", "--threads", "1"]
SHORT_CIFAR: dict[str, Any] = {
    "columns": ("resnet56-resnet20",),
    "epochs": 3,
    "teachers": ("resnet56=resnet56@$WEIGHTS/cifar100_resnet56_chenyaofo.pt",),
}
ON_CIFAR = [*BF16, "--data", "npz:$DATA/cifar100"]
REPRODUCED: dict[str, tuple[str, str, dict[str, Any], list[str]]] = {
    "batch-graphs-on-cifar100.md": ("mhgd-controls", "cifar100-methods", SHORT_CIFAR, ON_CIFAR),
    "batch-graphs.md": ("mhgd-digits", "digits", {}, BF16),
    "methods-on-cifar100.md": ("cat-table6", "cifar100-methods", SHORT_CIFAR, [*ON_CIFAR, "--cat.normalise", "auto"]),
    "methods-on-digits.md": ("digits", "digits", {}, BF16),
}


def tables(text: str) -> list[dict[str, list[str]]]:
    """Cells of each table by the first one of their row, the header's among them."""
    found: list[dict[str, list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append({})
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            if not re.fullmatch(r":?-+:?", name):
                # A second row of one name is none that runs could come to.
                found[-1][name if name not in found[-1] else f"{name}, again"] = cells
        before = line
    return found


def first_table(text: str) -> dict[str, list[str]]:
    return tables(text)[0]


def runs_of(words: str) -> list[RecordedRun]:
    """Committed runs, as the command line names them."""
    return find_runs([RESULTS / "runs" / word for word in words.split()])


def patterns(page: str) -> tuple[str, ...]:
    runs = PAGES[page]
    return (runs,) if isinstance(runs, str) else runs


@pytest.mark.parametrize("page", PAGES)
def test_every_row_of_a_page_is_what_its_runs_come_to(page: str):
    # Beside those of runs there may be others, such as of localisation.
    every = [table for table in tables((RESULTS / page).read_text(encoding="utf-8")) if "seeds" in table.get("", [])]
    assert len(every) >= len(patterns(page))
    for written, runs in zip(every, patterns(page), strict=False):
        computed = first_table(to_markdown(compare(runs_of(runs))))
        assert len(written) >= 3
        assert {name: computed.get(name) for name in written} == written


# Rows of the table of ensembles: the run beside the fine-tuned one.
BESIDE_FINE_TUNED = {
    "from scratch": "scratch",
    "maps copied": "copy",
    "queries copied": "copy-query",
    "keys copied": "copy-key",
    "values copied": "copy-value",
    "maps distilled": "distil",
    "fine-tuned with another seed": "fine-tune",
}


def test_every_ensemble_of_a_page_is_what_was_found_beside_its_runs():
    shown = next(
        table
        for table in tables((RESULTS / "vit-cifar100.md").read_text(encoding="utf-8"))
        if "with the fine-tuned network" in table
    )
    found: dict[str, list[tuple[float, ...]]] = {}
    for run in runs_of("vit-cifar100-small#fine-tune-seed*"):
        for finding in run.read_findings().values():
            alone, other = finding["members"]
            assert alone["model"] == run.path.name
            together = finding["together"]["top1"]
            row = (other["top1"], finding["agreement"][0]["percent"], together, together - alone["top1"])
            found.setdefault(other["model"].rpartition("-")[0], []).append(row)
    assert {len(rows) for rows in found.values()} == {3}
    assert len(found) == len(BESIDE_FINE_TUNED) == len(shown) - 1  # beside the header
    written = {
        name: [
            f"{mean(column):{sign}.2f} ± {stdev(column):.2f}"
            for sign, column in zip(["", "", "", "+"], zip(*found[row], strict=True), strict=True)
        ]
        for name, row in BESIDE_FINE_TUNED.items()
    }
    assert {name: shown[name] for name in BESIDE_FINE_TUNED} == written


def last_epoch(run: RecordedRun) -> float:
    """Test top-1 in percent after the last epoch."""
    return run.read_metrics()[-1]["test"]["top1"]


def test_students_of_another_shape_and_untrained_teachers_are_quoted_as_their_runs_ended():
    page = (RESULTS / "vit-cifar100.md").read_text(encoding="utf-8")
    section = page.partition("## Students of another shape")[2].partition("## ")[0]
    shapes = ("2-heads", "2-layers", "patch-8", "no-class-token")
    runs = [run for shape in shapes for run in runs_of(f"vit-cifar100-small#*-{shape}*-seed0")]
    ends = [f"{last_epoch(run):.2f}" for run in runs]
    assert len(ends) == 16
    assert sorted(ends) == sorted(re.findall(r"\d+\.\d\d", section))
    control = [last_epoch(run) for run in runs_of("vit-cifar100-small#copy-untrained-seed*")]
    assert f"{mean(control):.2f} ± {stdev(control):.2f}" in page


@pytest.mark.parametrize("page", REPRODUCED)
def test_every_row_of_a_reproduced_table_is_what_its_runs_come_to(page: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(RESULTS.parents[1])
    for place in ("DATA", "WEIGHTS"):
        # Nothing of them is looked at.
        monkeypatch.setenv(place, "elsewhere")
    table, runs, options, words = REPRODUCED[page]
    written = first_table((RESULTS / page).read_text(encoding="utf-8"))
    rows = tuple(name for name in written if name not in ("", "teacher"))
    flags = reproduce.Flags(folder=Path("docs", "results", "runs", runs), rows=rows, only_table=True, **options)
    assert len(rows) >= 2
    assert first_table(reproduced_markdown(reproduce.table_of(reproduce.plan(table, flags, words)))) == written


def test_a_row_that_is_off_by_the_last_digit_or_split_would_be_seen():
    text = to_markdown(compare(runs_of("cifar100-methods#cifar100-resnet20_*")))
    rows = first_table(text)
    assert rows["CE"][0] == "0, 1, 2"
    cell = rows["CE"][1]
    assert first_table(text.replace(cell, f"{cell[:-1]}{(int(cell[-1]) + 1) % 10}")) != rows


def test_every_page_of_runs_is_looked_at():
    folders = {path.name for path in (RESULTS / "runs").iterdir() if path.is_dir()}
    pages = {runs.partition("#")[0] for page in PAGES for runs in patterns(page)} | {
        runs for _, runs, *_ in REPRODUCED.values()
    }
    assert folders == pages


def kept_files() -> list[Path]:
    """Files of docs/ that are kept under version control; all of them where it cannot be asked."""
    root = RESULTS.parents[1]
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z", "docs"], capture_output=True, text=True, check=True
        )
        names = [name for name in answer.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        names = []
    # Unpacked from an archive, nothing is under version control.
    return [Path(name) for name in names] or [each for each in (root / "docs").rglob("*") if each.is_file()]


def test_pages_and_their_results_are_few_files():
    """A thousand run folders once hid the pages; a table of runs is one file."""
    kept = kept_files()
    assert 50 < len(kept) <= MOST_FILES
    assert not [path for path in kept if path.name in ("experiment.json", "metrics.jsonl", "summary.json")]
    tables = sorted(path.parent.name for path in kept if path.name == "runs.jsonl")
    assert tables == sorted(path.name for path in (RESULTS / "runs").iterdir() if path.is_dir())
