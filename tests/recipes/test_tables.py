"""Recipes that tables make, and the page that has every recipe."""

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
from attention_transfer.commands.flags.parsing import parsed
from attention_transfer.experiment import Experiment
from attention_transfer.methods import METHODS, DecoupledSoftTargets, SoftTargets
from attention_transfer.recipes import RECIPES, baselines
from attention_transfer.recipes.baselines import BASELINES, ON_IMAGENET, PAIRS
from attention_transfer.recipes.described import by_name
from attention_transfer.recipes.published import TABLE4, TABLE5, TABLE6, TABLE13, TABLE14
from attention_transfer.recipes.tables import TABLES

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
        parsed(OTHERS[command], command, arguments)


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


# ---------------------------------------------------------------- the methods of the comparison

# Weight of the method, and of the cross-entropy beside it, where they are the same for all pairs.
WEIGHTS = {
    "kd": (0.9, 0.1),
    "fitnet": (100.0, 1.0),
    "rkd": (1.0, 1.0),
    "sp": (3000.0, 1.0),
    "pkt": (30000.0, 1.0),
    "crd": (0.8, 1.0),
    "ofd": (0.001, 1.0),
    "mhgd": (1.0, 1.0),
    "at": (1000.0, 1.0),
}
# β of DKD, and the weight of ReviewKD where its authors publish one.
BY_PAIR = {
    "resnet56-resnet20": (2.0, 0.6),
    "resnet110-resnet32": (2.0, 1.0),
    "resnet32x4-resnet8x4": (8.0, 5.0),
    "wrn_40_2-wrn_16_2": (6.0, 5.0),
    "wrn_40_2-wrn_40_1": (6.0, 5.0),
    "vgg13-vgg8": (6.0, None),
    "resnet32x4-shufflenetv1": (8.0, 5.0),
    "wrn_40_2-shufflenetv1": (8.0, 5.0),
    "resnet32x4-shufflenetv2": (8.0, 8.0),
    "resnet50_cifar-mobilenetv2_half": (8.0, None),
    "vgg13-mobilenetv2_half": (6.0, None),
}


def test_every_method_runs_between_all_eleven_pairs() -> None:
    assert {f"{teacher}-{student}" for teacher, student in PAIRS} == set(BY_PAIR)
    for pair in BY_PAIR:
        for key in BASELINES:
            experiment = RECIPES[f"cifar100-{pair}-{key}"]()
            assert f"{experiment.teacher}-{experiment.student}" == pair
            assert [method.key for method in experiment.methods] == [key]
    # Those that want transformers, and those that have recipes of their own, are not among them.
    others = {"cat", "gradient", "attention-copy", "attention-distillation", "feature-distillation"}
    assert set(BASELINES) == set(METHODS) - others - {"distillation-token", "attention-links"}


@pytest.mark.parametrize("key", WEIGHTS)
def test_weights_are_those_of_the_benchmark(key: str) -> None:
    for pair in BY_PAIR:
        experiment = RECIPES[f"cifar100-{pair}-{key}"]()
        assert (experiment.methods[0].weight, experiment.task_weight) == WEIGHTS[key]


def test_weights_that_depend_on_the_pair_are_those_of_the_authors() -> None:
    for pair, (other_weight, review) in BY_PAIR.items():
        (method,) = RECIPES[f"cifar100-{pair}-dkd"]().methods
        assert isinstance(method, DecoupledSoftTargets)
        assert (method.target_weight, method.other_weight, method.temperature) == (1.0, other_weight, 4.0)
        assert method.schedule.warmup_epochs == 20
        (method,) = RECIPES[f"cifar100-{pair}-reviewkd"]().methods
        assert method.schedule.warmup_epochs == 20
        assert review in (None, method.weight)


def test_the_protocol_is_the_same_for_every_method() -> None:
    for pair in BY_PAIR:
        theirs = RECIPES[f"cifar100-{pair}-kd"]()
        for key in BASELINES:
            ours = RECIPES[f"cifar100-{pair}-{key}"]()
            assert (ours.data, ours.optimisation, ours.training) == (theirs.data, theirs.optimisation, theirs.training)
        assert (theirs.training.epochs, theirs.training.batch_size) == (240, 64)
        assert [round(240 * step) for step in theirs.optimisation.steps] == [150, 180, 210]
        fragile = theirs.student.startswith(("mobile", "shuffle"))
        assert theirs.optimisation.learning_rate == (0.01 if fragile else 0.05)


def test_imagenet_follows_the_class_attention_paper() -> None:
    found = [experiment for experiment, _ in baselines.recipes() if experiment.recipe.startswith("imagenet-")]
    assert len(found) == 2 * (1 + len(ON_IMAGENET))
    for experiment in found:
        assert (experiment.training.epochs, experiment.training.batch_size) == (100, 512)
        assert experiment.optimisation.learning_rate == 0.2
        # Warm-ups over 20 epochs are CIFAR's.
        assert all(method.schedule.constant for method in experiment.methods)
    (kd,) = RECIPES["imagenet-resnet34-resnet18-kd"]().methods
    assert isinstance(kd, SoftTargets)
    assert (kd.temperature, kd.weight) == (1.0, 0.5)
    by_student = [
        [RECIPES[f"imagenet-{pair}-{key}"]().methods[0] for pair in ("resnet34-resnet18", "resnet50-mobilenetv1")]
        for key in ("dkd", "reviewkd", "ofd")
    ]
    assert [method.other_weight for method in by_student[0]] == [0.5, 2.0]  # pyright: ignore
    assert [[method.weight for method in pair] for pair in by_student[1:]] == [[1.0, 8.0], [1e-3, 1e-4]]


# ---------------- tables name recipes and teachers that there are, and printed numbers are in their places


@pytest.mark.parametrize("name", TABLES)
def test_every_cell_has_a_recipe_and_the_teacher_that_it_wants(name: str) -> None:
    table = TABLES[name]
    assert len({(cell.row, cell.column) for cell in table.cells}) == len(table.cells)
    for cell in table.cells:
        experiment = RECIPES[cell.recipe]()
        published = experiment.teacher is None or experiment.teacher.endswith("@pretrained")
        assert (cell.teacher is None) == (published or experiment.teacher == cell.teacher)
        if cell.teacher is not None:
            teacher = RECIPES[cell.teacher]()
            assert teacher.student.partition("(")[0] == str(experiment.teacher).partition("(")[0]
            assert not teacher.methods
    assert table.alone is None or not any(
        RECIPES[cell.recipe]().methods for cell in table.cells if cell.row == table.alone
    )


@pytest.mark.parametrize("name", TABLES)
def test_every_published_number_has_a_cell_and_a_source(name: str) -> None:
    table = TABLES[name]
    cells = {(cell.row, cell.column) for cell in table.cells}
    for (row, column), number in table.numbers.items():
        # Table 4 has two other methods, which have no recipes under teachers of other strength.
        assert (
            (row, column) in cells
            or row == "teacher"
            or (name, row) in {("cat-table4", m) for m in ("reviewkd", "dkd")}
        )
        assert column in table.columns
        assert 50 < number.top1 < 95
        assert number.top5 is None or number.top1 < number.top5 < 95
    assert bool(table.source) == bool(table.numbers)


def test_numbers_that_papers_print_twice_are_the_same() -> None:
    assert TABLE4["cat", "normal"] == TABLE5["cat", "resnet32x4-shufflenetv1"]
    assert TABLE4["reviewkd", "normal"] == TABLE5["reviewkd", "resnet32x4-shufflenetv1"]
    assert TABLE4["dkd", "normal"] == TABLE5["dkd", "resnet32x4-shufflenetv1"]
    for pair in ("resnet110-resnet32", "wrn_40_2-wrn_16_2", "resnet32x4-resnet8x4"):
        assert TABLE13["none", pair] == TABLE6["cat", pair]
    for pair in ("resnet50_cifar-mobilenetv2_half", "wrn_40_2-shufflenetv1", "resnet32x4-shufflenetv1"):
        assert TABLE14["l2", pair] == TABLE5["cat", pair]
    # The paper prints by how much CAT-KD is ahead of AT.
    gains = {"resnet56-resnet20": 1.07, "wrn_40_2-wrn_16_2": 1.52, "vgg13-vgg8": 3.22, "resnet110-resnet32": 1.31}
    for pair, gain in gains.items():
        assert TABLE6["cat", pair].top1 - TABLE6["at", pair].top1 == pytest.approx(gain)
    gains = {"resnet50_cifar-mobilenetv2_half": 12.78, "vgg13-mobilenetv2_half": 9.73, "wrn_40_2-shufflenetv1": 4.03}
    for pair, gain in gains.items():
        assert TABLE5["cat", pair].top1 - TABLE5["at", pair].top1 == pytest.approx(gain)


def test_only_numbers_of_their_own_code_claim_the_best_epoch() -> None:
    for table in (TABLE4, TABLE5, TABLE6):
        for (row, _), number in table.items():
            assert (number.epoch == "best") == (row == "cat") == (number.origin == "own")


def test_comparisons_have_every_method_that_networks_of_convolutions_can_use() -> None:
    rows = {"ce", "cat", *BASELINES}
    assert set(TABLES["cat-table5"].rows) == set(TABLES["cat-table6"].rows) == rows
    digits = {method.key for cell in TABLES["digits"].cells for method in RECIPES[cell.recipe]().methods}
    for_transformers = {key for key in METHODS if key.startswith("attention-")} | {
        "feature-distillation",
        "distillation-token",
    }
    assert digits == set(METHODS) - for_transformers
    assert len(TABLES["cat-table5"].columns) + len(TABLES["cat-table6"].columns) == 11


# ---------------------------------------------------------------- recipes that tables make


def test_a_recipe_gives_its_experiment_and_says_what_it_is():
    experiment = Experiment("one", "resnet8")
    recipes = by_name([(experiment, "the first"), (Experiment("two", "resnet14"), "the second")])
    assert list(recipes) == ["one", "two"]
    assert recipes["one"]() == experiment
    assert [recipe.__doc__ for recipe in recipes.values()] == ["the first", "the second"]


def test_two_recipes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two recipes are called one"):
        by_name([(Experiment("one", "resnet8"), "a"), (Experiment("one", "resnet14"), "b")])
