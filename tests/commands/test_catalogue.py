"""`list` shows what there is, in an order in which it can be found."""

import pytest

from attention_transfer.commands.list_ import command, grouped, lines
from attention_transfer.methods import METHODS
from attention_transfer.recipes import RECIPES


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
