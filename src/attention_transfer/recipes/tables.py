"""Tables of papers and of this project: the recipe of each cell, and the published number.

>>> TABLES["mhgd-digits"].rows[:3]
('ce', 'kd', 'mhgd')
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain

from attention_transfer.recipes import published
from attention_transfer.recipes.baselines import ALONE, BASELINES, CLASS_ATTENTION, ON_IMAGENET
from attention_transfer.recipes.class_attention_distillation import (
    IMAGENET_PAIRS,
    STRENGTHS,
    TABLE5,
    TABLE6,
    TABLE13,
    TABLE14,
    Pair,
)
from attention_transfer.recipes.digits import STUDENTS
from attention_transfer.recipes.multi_head_graph import (
    COMPARED,
    COMPARISON,
    CONTROLS,
    NUMBERS_OF_HEADS,
    NUMBERS_OF_LAYERS,
    VGG,
)


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Args:
        row: name of the row, mostly a method.
        column: name of the column, mostly a pair of networks.
        recipe: name of its recipe.
        teacher: name of the recipe whose run is its teacher; None where the recipe needs none, or names one with its
            weights.
    """

    row: str
    column: str
    recipe: str
    teacher: str | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        title: title of the table, in one line.
        source: source of the published numbers, and how they were measured; empty where there are none.
        cells: cells in the order in which they run.
        numbers: published numbers, by row and column.
        seeds: default seeds.
        alone: row of the baseline (the student without teacher), which the others are compared with.
    """

    title: str
    source: str
    cells: tuple[Cell, ...]
    numbers: published.Numbers = field(default_factory=dict[tuple[str, str], published.Published])
    seeds: tuple[int, ...] = (0, 1, 2)
    alone: str | None = None

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows, in order."""
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(dict.fromkeys(cell.column for cell in self.cells))


def _pairs(table: str, pairs: Iterable[Pair], title: str, numbers: published.Numbers) -> Table:
    """Every method between some pairs on CIFAR-100."""

    def cells(pair: Pair) -> Iterable[Cell]:
        column, teacher = f"{pair.teacher}-{pair.student}", f"cifar100-{pair.teacher}"
        yield Cell(ALONE, column, f"cifar100-{pair.student}")
        for key in BASELINES:
            yield Cell(key, column, f"cifar100-{column}-{key}", teacher)
        yield Cell(CLASS_ATTENTION, column, f"cat-{table}-{column}", teacher)

    every = tuple(chain.from_iterable(map(cells, pairs)))
    return Table(title, published.CAT_CIFAR, every, numbers, (0, 1, 2, 3, 4), ALONE)


def _imagenet(table: str, numbers: published.Numbers) -> Table:
    name = next(name for name in IMAGENET_PAIRS if name.startswith(f"{table}-"))
    column = name.partition("-")[2]
    cells = (
        Cell(ALONE, column, f"imagenet-{column.rpartition('-')[2]}"),
        *(Cell(key, column, f"imagenet-{column}-{key}") for key in ON_IMAGENET),
        Cell(CLASS_ATTENTION, column, f"cat-{name}"),
    )
    return Table(f"Methods on ImageNet, {column}", published.CAT_IMAGENET, cells, numbers, alone=ALONE)


def _alone(
    table: str, title: str, cells: Mapping[tuple[str, str], tuple[str, str]], numbers: published.Numbers
) -> Table:
    """CAT and its settings.

    Args:
        table: name of the table in the recipes' names.
        title: title of the table.
        cells: by row and column, the recipe's name after the table's, and its teacher's network.
        numbers: published numbers.
    """
    every = tuple(
        Cell(row, column, f"cat-{table}-{recipe}", f"cifar100-{teacher}")
        for (row, column), (recipe, teacher) in cells.items()
    )
    return Table(title, published.CAT_ALONE, every, numbers)


def _normalisation(table: str, pairs: Iterable[Pair], title: str, numbers: published.Numbers) -> Table:
    cells = tuple(
        Cell(
            kind,
            f"{pair.teacher}-{pair.student}",
            f"cat-{table}-{pair.teacher}-{pair.student}-{kind}",
            f"cifar100-{pair.teacher}",
        )
        for pair in pairs
        for kind in ("none", "l2")
    )
    return Table(title, published.CAT_CIFAR, cells, numbers, (0, 1, 2, 3, 4))


_STRENGTHS = {"weak": "cat-table4-weak-teacher", "normal": "cifar100-resnet32x4", "strong": "cat-table4-strong-teacher"}
_VIT = {
    "scratch": "vit-large-scratch",
    "fine-tune": "vit-mae-large-fine-tune",
    "copy": "vit-mae-large-copy",
    "copy-fine-tuned": "vit-mae-large-copy-fine-tuned",
    "distil": "vit-mae-large-distil",
    "copy-query": "vit-mae-large-copy-query",
    "copy-key": "vit-mae-large-copy-key",
    "copy-value": "vit-mae-large-copy-value",
    "distil-query": "vit-mae-large-distil-query",
    "distil-features": "vit-mae-large-distil-features",
}


def _comparison(pair: tuple[str, str]) -> tuple[Cell, ...]:
    """MHGD and what its authors compare it with."""
    teacher, student = pair
    column, taught_by = f"{teacher}-{student}", f"mhgd-cifar100-{teacher}"
    return (
        Cell(ALONE, column, f"mhgd-cifar100-{student}"),
        *(Cell(key, column, f"mhgd-cifar100-{column}-{key}", taught_by) for key in COMPARISON),
        Cell("mhgd", column, f"mhgd-cifar100-{column}", taught_by),
    )


def _varied(setting: str, values: Iterable[int]) -> tuple[Cell, ...]:
    """MHGD with one setting varied, beside the baseline."""
    teacher, student = VGG
    column = f"{teacher}-{student}"
    return (
        Cell(ALONE, column, f"mhgd-cifar100-{student}"),
        *(Cell(str(value), column, f"mhgd-{setting}-{value}", f"mhgd-cifar100-{teacher}") for value in values),
    )


def _controls(column: str, teacher: str, named: Mapping[str, str], recipe: str) -> tuple[Cell, ...]:
    """The baseline, KD, MHGD, and MHGD with graphs that are independent of the images.

    Args:
        column: names of the networks.
        teacher: recipe of the teacher.
        named: recipes of the first three.
        recipe: how those of the others begin.
    """
    return (
        Cell(ALONE, column, named["alone"]),
        Cell("kd", column, named["kd"], teacher),
        Cell("mhgd", column, named["mhgd"], teacher),
        *(Cell(f"mhgd {graph}", column, f"{recipe}-{graph}", teacher) for graph in CONTROLS),
    )


_DIGITS_ROWS = {"alone": ALONE}
_DIGITS_COLUMN, _DIGITS_TEACHER = "resnet20-resnet8", "digits-strong-teacher"

TABLES: dict[str, Table] = {
    "digits": Table(
        "Every method under a strong teacher on cluttered digits",
        "",
        tuple(
            Cell(
                _DIGITS_ROWS.get(suffix, suffix),
                _DIGITS_COLUMN,
                f"digits-{suffix}",
                _DIGITS_TEACHER if methods and suffix != "flip" else None,
            )
            for suffix, (methods, _, _) in STUDENTS.items()
        ),
        alone=ALONE,
    ),
    "mhgd-digits": Table(
        "MHGD and graphs that know nothing of the images, cluttered digits",
        "",
        _controls(
            _DIGITS_COLUMN,
            _DIGITS_TEACHER,
            {"alone": "digits-alone", "kd": "digits-kd", "mhgd": "digits-mhgd"},
            "mhgd-digits",
        ),
        alone=ALONE,
    ),
    "mhgd-controls": Table(
        "MHGD and graphs that know nothing of the images, CIFAR-100",
        "",
        _controls(
            "resnet56-resnet20",
            "cifar100-resnet56",
            {
                "alone": "cifar100-resnet20",
                "kd": "cifar100-resnet56-resnet20-kd",
                "mhgd": "cifar100-resnet56-resnet20-mhgd",
            },
            "cifar100-resnet56-resnet20-mhgd",
        ),
        alone=ALONE,
    ),
    "mhgd-comparison": Table(
        "MHGD and what its authors compare it with, CIFAR-100",
        published.MHGD,
        _comparison(COMPARED),
        published.MHGD_COMPARISON,
        (0, 1, 2, 3, 4),
        ALONE,
    ),
    "mhgd-heads": Table(
        "MHGD: number of attention heads, CIFAR-100",
        published.MHGD_VGG,
        _varied("heads", NUMBERS_OF_HEADS),
        published.MHGD_HEADS,
        alone=ALONE,
    ),
    "mhgd-layers": Table(
        "MHGD: number of stages between which graphs lie, CIFAR-100",
        "",
        _varied("layers", NUMBERS_OF_LAYERS),
        alone=ALONE,
    ),
    "cat-table1": _alone(
        "table1",
        "CAT: producers of different strength, student shufflenetv1",
        {("cat", name): (f"{name}-shufflenetv1", name) for name in ("resnet56", "resnet110", "resnet50_cifar")},
        published.TABLE1,
    ),
    "cat-table2": _alone(
        "table2",
        "CAT: sizes of maps, producer resnet32x4",
        {
            (size, name): (f"resnet32x4-{name}-{size}", "resnet32x4")
            for name in ("resnet32x4", "resnet8x4", "resnet20")
            for size in ("8x8", "4x4", "2x2")
        },
        published.TABLE2,
    ),
    "cat-table3": _alone(
        "table3",
        "CAT: binarised maps, producer resnet32x4",
        {
            (row, name): (f"resnet32x4-{name}{suffix}", "resnet32x4")
            for name in ("resnet32x4", "resnet50_cifar")
            for row, suffix in (("maps", ""), ("binarised", "-binarised"))
        },
        published.TABLE3,
    ),
    "cat-table4": Table(
        "CAT-KD: teachers of different strength, resnet32x4 → shufflenetv1",
        published.CAT_CIFAR,
        tuple(
            Cell("cat", strength, f"cat-table4-resnet32x4-shufflenetv1-{strength}", _STRENGTHS[strength])
            for strength in STRENGTHS
        ),
        published.TABLE4,
        (0, 1, 2, 3, 4),
    ),
    "cat-table5": _pairs("table5", TABLE5, "Methods on CIFAR-100, networks of different kinds", published.TABLE5),
    "cat-table6": _pairs("table6", TABLE6, "Methods on CIFAR-100, networks of one kind", published.TABLE6),
    "cat-table7": _imagenet("table7", published.TABLE7),
    "cat-table8": _imagenet("table8", published.TABLE8),
    "cat-table10": _alone(
        "table10",
        "CAT against cross-entropy, student resnet110",
        {("cat", name): (f"{name}-resnet110", name) for name in ("resnet56", "resnet110", "resnet32x4")},
        published.TABLE10,
    ),
    "cat-table11": _alone(
        "table11",
        "CAT against cross-entropy, student resnet32x4",
        {("cat", name): (f"{name}-resnet32x4", name) for name in ("resnet56", "resnet50_cifar", "resnet32x4")},
        published.TABLE11,
    ),
    "cat-table13": _normalisation(
        "table13", TABLE13, "CAT-KD: maps normalised or not, networks of one kind", published.TABLE13
    ),
    "cat-table14": _normalisation(
        "table14", TABLE14, "CAT-KD: maps normalised or not, networks of different kinds", published.TABLE14
    ),
    "vit-large": Table(
        "Attention of MAE's ViT-L on ImageNet: copied, distilled",
        published.VIT,
        tuple(
            Cell(row, "mae", recipe, "vit-mae-large-fine-tune" if row == "copy-fine-tuned" else None)
            for row, recipe in _VIT.items()
        ),
        published.VIT_LARGE,
        (0,),
        "scratch",
    ),
}
