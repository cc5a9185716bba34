"""docs/recipes.md: every recipe is on it, and every command on it can be typed."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro

from attention_transfer.commands import (
    attention_maps,
    batch_graph,
    class_maps,
    compare,
    cost,
    evaluate,
    links,
    localise,
    pretrain,
    probe,
    reproduce,
    sweep,
    train,
)
from attention_transfer.recipes import RECIPES

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:] for line in PAGE.splitlines() if line.startswith("attention-transfer ")
]
SCRIPTS = [shlex.split(line, comments=True)[1:] for line in PAGE.splitlines() if line.startswith("python benchmarks/")]
OTHERS = {
    "attention-maps": attention_maps.Flags,
    "batch-graph": batch_graph.Flags,
    "class-maps": class_maps.Flags,
    "compare": compare.Flags,
    "cost": cost.Flags,
    "evaluate": evaluate.Flags,
    "links": links.Flags,
    "localise": localise.Flags,
    "probe": probe.Flags,
}


def patterns() -> list[re.Pattern[str]]:
    """Names in code spans, in which words in capitals stand for anything."""
    spans = re.findall(r"`((?:at|cat|cifar100|deit|digits|imagenet|links|mhgd|photographs|vit)(?:-[^` ]+)?)`", PAGE)
    return [re.compile(re.sub(r"[A-Z]+", "[a-z0-9_]+", span)) for span in spans]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_on_the_page(name: str):
    assert any(pattern.fullmatch(name) for pattern in patterns())


def test_the_page_names_no_recipe_that_is_not_there():
    strangers = [each.pattern for each in patterns() if not any(each.fullmatch(name) for name in RECIPES)]
    # Those are a data set and methods, written the same way.
    assert strangers == ["cifar100", "mhgd", "at"]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:90])
def test_every_command_can_be_typed(words: list[str]):
    command, *arguments = words
    if command == "train":
        train.parse(RECIPES[arguments[0]](), arguments[1:])
    elif command == "pretrain":
        pretrain.parse(arguments)
    elif command == "sweep":
        flags, fixed = tyro.cli(sweep.Flags, args=arguments[1:], return_unknown_args=True)
        planned, _ = sweep.plan(RECIPES[arguments[0]](), flags, fixed)
        assert len(planned.cells) > 1
    elif command == "reproduce":
        flags, fixed = tyro.cli(reproduce.Flags, args=arguments[1:], return_unknown_args=True)
        assert reproduce.plan(arguments[0], flags, fixed).runs
    else:
        tyro.cli(OTHERS[command], args=arguments, config=(tyro.conf.AvoidSubcommands,))


@pytest.mark.parametrize("words", SCRIPTS, ids=lambda words: " ".join(words)[:90])
def test_every_benchmark_can_be_typed(words: list[str], script: Callable[[str], Any]):
    path, *arguments = words
    flags = tyro.cli(script(Path(path).stem).Flags, args=arguments)
    assert flags.device == "cuda"


def test_commands_name_runs_that_recipes_leave():
    given = [words[words.index("--run-folder") + 1] for words in COMMANDS if "--run-folder" in words]
    for words in COMMANDS:
        for run in (word for word in words if word.startswith("runs/")):
            assert run.split("/")[1] in RECIPES or run in given, run


def test_published_settings_on_the_page_are_those_of_the_recipes():
    rows = re.findall(r"^\| `(cat-table[5678]-\S+)` \| (\S+) \| (\d) \| (yes|no) \|", PAGE, re.MULTILINE)
    assert len(rows) == 13
    for name, weight, resolution, normalised in rows:
        (method,) = RECIPES[name]().methods
        found = (method.weight, method.resolution, method.normalise)  # pyright: ignore[reportAttributeAccessIssue]
        assert found == (float(weight), int(resolution), "l2" if normalised == "yes" else "none"), name
