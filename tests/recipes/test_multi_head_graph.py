"""The recipes of multi-head graph distillation say what its authors' code says, and controls differ in nothing else."""

from dataclasses import replace

import pytest

from attention_transfer.experiment import Experiment
from attention_transfer.methods import MultiHeadGraph
from attention_transfer.recipes import RECIPES
from attention_transfer.recipes.tables import TABLES


def method_of(experiment: Experiment) -> MultiHeadGraph:
    (method,) = experiment.methods
    assert isinstance(method, MultiHeadGraph)
    return method


def test_the_authors_settings_are_kept() -> None:
    experiment = RECIPES["mhgd-cifar100-resnet32x4-resnet8x4"]()
    method, optimisation = method_of(experiment), experiment.optimisation
    assert (method.weight, method.heads, method.student_vectors, method.graph_epochs) == (1.0, 8, 4, 40)
    assert (method.graph_learning_rate, method.direction, method.reduction) == (0.1, "student-first", "sum")
    assert (experiment.training.epochs, experiment.training.batch_size, experiment.epochs) == (100, 128, 140)
    assert (optimisation.optimizer, optimisation.momentum, optimisation.weight_decay) == ("nesterov", 0.9, 5e-4)
    assert (optimisation.learning_rate, optimisation.steps, optimisation.step_factor) == (0.1, (0.3, 0.6, 0.8), 0.1)
    assert experiment.data.augment == "reflect-crop-flip"


def test_heads_and_layers_are_varied_and_nothing_else() -> None:
    base = RECIPES["mhgd-heads-8"]()
    assert method_of(base).heads == 8
    for heads in (1, 16):
        varied = RECIPES[f"mhgd-heads-{heads}"]()
        assert replace(varied, recipe=base.recipe, methods=(replace(method_of(varied), heads=8),)) == base
    for layers in (2, 3, 4):
        assert len(method_of(RECIPES[f"mhgd-layers-{layers}"]()).stages or ()) == layers


@pytest.mark.parametrize(
    ("learned", "prefix"),
    [("cifar100-resnet56-resnet20-mhgd", "cifar100-resnet56-resnet20-mhgd"), ("digits-mhgd", "mhgd-digits")],
)
def test_controls_differ_in_their_graph_alone(learned: str, prefix: str) -> None:
    base = RECIPES[learned]()
    for graph in ("random", "constant", "identity", "similarity"):
        control = RECIPES[f"{prefix}-{graph}"]()
        assert method_of(control).graph == graph
        assert replace(control, recipe=base.recipe, methods=(replace(method_of(control), graph="learned"),)) == base


@pytest.mark.parametrize("table", ["mhgd-controls", "mhgd-digits"])
def test_every_student_of_a_table_sees_equally_many_images(table: str) -> None:
    experiments = [RECIPES[cell.recipe]() for cell in TABLES[table].cells]
    assert len(experiments) == 7
    assert (
        len({(each.data, each.optimisation, replace(each.training, snapshot_epochs=None)) for each in experiments}) == 1
    )


def test_the_comparison_is_under_one_protocol_and_has_its_published_numbers() -> None:
    table = TABLES["mhgd-comparison"]
    experiments = [RECIPES[cell.recipe]() for cell in table.cells]
    assert len({(each.data, each.optimisation, each.training, each.student) for each in experiments}) == 1
    assert {cell.row for cell in table.cells} == {row for row, _ in table.numbers} - {"teacher"}


@pytest.mark.parametrize(
    ("table", "setting", "rows"),
    [("mhgd-heads", "heads", ("ce", "1", "8", "16")), ("mhgd-layers", "stages", ("ce", "2", "3", "4"))],
)
def test_one_setting_varies_and_nothing_else(table: str, setting: str, rows: tuple[str, ...]) -> None:
    assert TABLES[table].rows == rows
    alone, *varied = (RECIPES[cell.recipe]() for cell in TABLES[table].cells)
    assert len({(each.data, each.optimisation, each.training, each.student) for each in (alone, *varied)}) == 1
    assert len({replace(each, recipe="", methods=()) for each in varied}) == 1
    assert len({method_of(each) for each in varied}) == 3
    usual = getattr(MultiHeadGraph(), setting)
    assert {replace(method_of(each), **{setting: usual}) for each in varied} == {MultiHeadGraph()}


def test_published_numbers_of_heads_stand_in_their_rows() -> None:
    table = TABLES["mhgd-heads"]
    assert {cell.row for cell in table.cells} == {row for row, _ in table.numbers}
    assert {column for _, column in table.numbers} == set(table.columns)
