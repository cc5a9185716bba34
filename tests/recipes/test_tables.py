"""Tables name recipes and teachers that there are, and printed numbers are in their places."""

import pytest

from attention_transfer.methods import METHODS
from attention_transfer.recipes import RECIPES
from attention_transfer.recipes.baselines import BASELINES
from attention_transfer.recipes.published import TABLE4, TABLE5, TABLE6, TABLE13, TABLE14
from attention_transfer.recipes.tables import TABLES


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
