"""`list` shows what there is, in an order in which it can be found."""

import errno
import sys
from pathlib import Path

import pytest
from rich.console import Console
from tests.commands.hostile import run_folder

from attention_transfer.cli import main
from attention_transfer.commands.list_ import command, grouped, lines
from attention_transfer.data import load
from attention_transfer.errors import InputError, printable
from attention_transfer.methods import METHODS
from attention_transfer.recipes import RECIPES
from attention_transfer.training.progress import Reporter


def test_recipes_of_one_word_stand_together_and_numbers_ascend():
    names = ["cat-table10-a", "digits", "cat-table9", "digits-at", "cat-table10", "cat-a4"]
    groups = grouped([(name, "") for name in names])
    assert [[name for name, _ in group] for group in groups] == [
        ["cat-a4", "cat-table9", "cat-table10", "cat-table10-a"],
        ["digits", "digits-at"],
    ]


def test_texts_stand_in_a_column():
    first, second = lines([("a", "one"), ("a" * 40, "two")])
    assert first.index("one") == second.index("two")


def test_one_room_is_shown_with_every_recipe(capsys: pytest.CaptureFixture[str]):
    command(["recipes"])
    shown = capsys.readouterr().out
    words = {line.split()[0] for line in shown.splitlines() if line.strip()}
    assert words >= set(RECIPES)
    assert "methods:" not in shown
    assert shown.count("\n\n") == len({name.partition("-")[0] for name in RECIPES}) - 1


def test_everything_says_what_it_is(capsys: pytest.CaptureFixture[str]):
    command(["all"])
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert len(rows) > len(RECIPES)
    assert [row for row in rows if len(row) < 2] == []


def test_methods_are_shown_by_their_keys(capsys: pytest.CaptureFixture[str]):
    command(["methods"])
    shown = capsys.readouterr().out
    assert {line.split()[0] for line in shown.splitlines()[1:]} == set(METHODS)


def test_everything_fits_one_screen(capsys: pytest.CaptureFixture[str]):
    command([])
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) <= 60
    assert max(map(len, shown)) <= 120


def test_words_are_looked_for_in_names_and_descriptions(capsys: pytest.CaptureFixture[str]):
    command(["KNOWLEDGE", "softened"])
    kept = capsys.readouterr().out.splitlines()
    assert (kept[0], kept[1].split(maxsplit=1)[0], len(kept)) == ("methods:", "kd", 2)
    command(["recipes", "mhgd", "digits"])
    shown = list(filter(None, capsys.readouterr().out.splitlines()))[1:]
    assert shown
    assert all("mhgd" in line.lower() and "digits" in line.lower() for line in shown)


RED = "\x1b[31m"


def test_everything_but_the_ends_of_lines_is_escaped() -> None:
    assert (
        printable("a\x1b[2Jb\r\x07\x9b\n\u202ec\u2028\udcff\t") == "a\\x1b[2Jb\\r\\x07\\x9b\n\\u202ec\\u2028\\udcff\\t"
    )
    assert printable("Σ|A|², ünï, 日本, 👍🏽 N×H") == "Σ|A|², ünï, 日本, 👍🏽 N×H"


def test_a_refusal_is_printable_whatever_it_quotes() -> None:
    class FoundError(InputError):
        pass

    assert str(FoundError(f"there is no {RED}x")) == "there is no \\x1b[31mx"
    assert FoundError("a", 3).args == ("a", 3)
    assert str(InputError()) == ""


@pytest.mark.parametrize("command", ["compare", "links", "cost", "evaluate", "probe", "localise", "train", "list-it"])
def test_a_name_that_does_not_exist_is_shown_escaped(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tmp_path / f"{RED}none")]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert command == "list-it" or "\\x1b[31mnone" in err


def test_a_data_set_that_does_not_exist_is_shown_escaped() -> None:
    with pytest.raises(InputError, match=r"there is no data set '\\x1b\[31m'"):
        load(RED)


def test_the_folder_of_a_run_is_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(tmp_path / f"run{RED}")
    for arguments in (["evaluate", str(run)], ["cost", str(run), "--device", "cpu", "--repeats", "1"]):
        assert main(arguments) == 0, arguments
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err
        assert "run\\x1b[31m" in out


def test_progress_shows_names_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter(Console(file=sys.stdout, highlight=False), prefix=f"{RED}a  ").line("note: \x1b]0;b\x07")
    assert capsys.readouterr().out == "\\x1b[31ma  note: \\x1b]0;b\\x07\n"


def test_a_file_that_the_machine_refuses_is_shown_escaped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"{RED}file")

    monkeypatch.setattr("attention_transfer.report.compare.compare", fail)
    assert main(["compare", str(run_folder(tmp_path / "run"))]) == 2
    assert capsys.readouterr().err == "attention-transfer compare: \\x1b[31mfile: Permission denied\n"


def test_evaluating_nothing_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) == 2
    assert capsys.readouterr().err.startswith("attention-transfer evaluate: give at least one model: a run folder")
