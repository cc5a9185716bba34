"""Published numbers of papers, as they are printed, with where and how they were measured.

>>> TABLE6["kd", "resnet56-resnet20"]
Published(top1=70.66, epoch='unsaid', origin='copied or rerun', top5=None)

A number that is not known to us is not there. `epoch` and `origin` are said where a paper or its authors' code says
them; the class attention paper takes earlier methods partly from other papers and partly from runs of its own, without
saying which.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Epoch = Literal["last", "best", "unsaid"]
Origin = Literal["own", "copied", "copied or rerun"]


@dataclass(frozen=True)
class Published:
    """One printed number.

    Args:
        top1: accuracy on the test images (on ImageNet: the validation images), in percent.
        epoch: which epoch it is of: the last one, or the best on these same images.
        origin: whether the paper measured it itself.
        top5: top-5 accuracy on the same images, in percent, where it is printed.
    """

    top1: float
    epoch: Epoch
    origin: Origin
    top5: float | None = None


Numbers = Mapping[tuple[str, str], Published]
"""Published numbers by row and column of a table."""

CAT = "Guo et al., CVPR 2023, arXiv:2304.12777"
CAT_CIFAR = f"{CAT}: mean of five runs of 240 epochs; its code reports the best epoch on the test images"
CAT_IMAGENET = f"{CAT}: mean of three runs of 100 epochs"
CAT_ALONE = f"{CAT}: 240 epochs of batch 128; its code reports the best epoch on the test images"
MHGD = (
    "Lee & Song, BMVC 2019, arXiv:1907.02226, as their code reports: mean of five runs of 100 epochs, last epoch; the "
    "best epoch of MHGD on the test images is 74.30"
)
MHGD_VGG = (
    "Lee & Song, BMVC 2019, arXiv:1907.02226: a VGG of theirs that is not in their code, in whose place other networks "
    "stand here; known to us from a summary of the paper"
)
VIT = "Li et al., NeurIPS 2024, arXiv:2411.09702: ImageNet, ViT-L of MAE"

_RERUN, _ALONE = ("teacher", "ce"), ("cat",)


def _numbers(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> Numbers:
    """Rows of the comparison with other methods; teachers and baselines are RepDistiller's, of the last epoch."""

    def found() -> Iterator[tuple[tuple[str, str], Published]]:
        for row, values in rows.items():
            epoch: Epoch = "last" if row in _RERUN else "best" if row in _ALONE else "unsaid"
            origin: Origin = "copied" if row in _RERUN else "own" if row in _ALONE else "copied or rerun"
            for column, value in zip(columns, values, strict=True):
                yield (row, column), Published(value, epoch, origin)

    return dict(found())


def _own(columns: Sequence[str], rows: Mapping[str, Sequence[float]], epoch: Epoch = "best") -> Numbers:
    """Rows that the authors measured themselves."""
    return {
        (row, column): Published(value, epoch, "own")
        for row, values in rows.items()
        for column, value in zip(columns, values, strict=True)
    }


TABLE5 = _numbers(
    (
        "resnet32x4-shufflenetv1",
        "wrn_40_2-shufflenetv1",
        "resnet32x4-shufflenetv2",
        "resnet50_cifar-mobilenetv2_half",
        "vgg13-mobilenetv2_half",
    ),
    {
        "teacher": (79.42, 75.61, 79.42, 79.34, 74.64),
        "ce": (70.5, 70.5, 71.82, 64.6, 64.6),
        "kd": (74.07, 74.83, 74.45, 67.35, 67.37),
        "dkd": (76.45, 76.7, 77.07, 70.35, 69.71),
        "crd": (75.11, 76.05, 75.65, 69.11, 69.73),
        "ofd": (75.98, 75.85, 76.82, 69.04, 69.48),
        "fitnet": (73.59, 73.73, 73.54, 63.16, 64.14),
        "rkd": (72.28, 72.21, 73.21, 64.43, 64.52),
        "reviewkd": (77.45, 77.14, 77.78, 69.89, 70.37),
        "at": (71.73, 73.32, 72.73, 58.58, 59.4),
        "cat": (78.26, 77.35, 78.41, 71.36, 69.13),
    },
)
TABLE6 = _numbers(
    (
        "resnet56-resnet20",
        "resnet110-resnet32",
        "resnet32x4-resnet8x4",
        "wrn_40_2-wrn_16_2",
        "wrn_40_2-wrn_40_1",
        "vgg13-vgg8",
    ),
    {
        "teacher": (72.34, 74.31, 79.42, 75.61, 75.61, 74.64),
        "ce": (69.06, 71.14, 72.5, 73.26, 71.98, 70.36),
        "kd": (70.66, 73.08, 73.33, 74.92, 73.54, 72.98),
        "dkd": (71.97, 74.11, 76.32, 76.24, 74.81, 74.68),
        "crd": (71.16, 73.48, 75.51, 75.48, 74.14, 73.94),
        "ofd": (70.98, 73.23, 74.95, 75.24, 74.33, 73.95),
        "fitnet": (69.21, 71.06, 73.5, 73.58, 72.24, 71.02),
        "rkd": (69.61, 71.82, 71.9, 73.35, 72.22, 71.48),
        "reviewkd": (71.89, 73.89, 75.63, 76.12, 75.09, 74.84),
        "at": (70.55, 72.31, 73.44, 74.08, 72.77, 71.43),
        "cat": (71.62, 73.62, 76.91, 75.6, 74.82, 74.65),
    },
)


def _imagenet(column: str, rows: Mapping[str, tuple[float, float]]) -> Numbers:
    return {
        (row, column): Published(top1, "unsaid", "own" if row == "cat" else "copied or rerun", top5)
        for row, (top1, top5) in rows.items()
    }


TABLE7 = _imagenet(
    "resnet34-resnet18",
    {
        "teacher": (73.31, 91.41),
        "ce": (69.75, 89.07),
        "ofd": (70.81, 89.98),
        "crd": (71.17, 90.13),
        "reviewkd": (71.61, 90.51),
        "kd": (70.66, 89.88),
        "dkd": (71.7, 90.41),
        "at": (70.69, 90.01),
        "cat": (71.26, 90.45),
    },
)
TABLE8 = _imagenet(
    "resnet50-mobilenetv1",
    {
        "teacher": (76.16, 92.86),
        "ce": (68.87, 88.76),
        "ofd": (71.25, 90.34),
        "crd": (71.37, 90.41),
        "reviewkd": (72.56, 91.0),
        "kd": (68.58, 88.98),
        "dkd": (72.05, 91.05),
        "at": (69.56, 89.33),
        "cat": (72.24, 91.13),
    },
)

# CAT without labels.
TABLE1 = _own(("resnet56", "resnet110", "resnet50_cifar"), {"cat": (72.47, 74.42, 76.17)})
TABLE2 = _own(
    ("resnet32x4", "resnet8x4", "resnet20"),
    {"8x8": (79.65, 67.92, 66.21), "4x4": (79.84, 71.61, 66.43), "2x2": (79.71, 72.45, 66.84)},
)
TABLE3 = _own(("resnet32x4", "resnet50_cifar"), {"maps": (79.71, 80.45), "binarised": (79.35, 79.65)})
_STRENGTHS = ("weak", "normal", "strong")
TABLE4: Numbers = {
    **_numbers(_STRENGTHS, {"reviewkd": (76.42, 77.45, 77.91), "dkd": (76.58, 76.45, 77.29)}),
    **_own(_STRENGTHS, {"cat": (76.36, 78.26, 78.84)}),
}
TABLE10 = _own(("resnet56", "resnet110", "resnet32x4"), {"cat": (71.86, 74.54, 78.13)})
TABLE11 = _own(("resnet56", "resnet50_cifar", "resnet32x4"), {"cat": (72.56, 78.96, 79.65)})
# The captions call rows (a) normalised and (b) not; the text and the rows that repeat tables 5 and 6 say otherwise.
TABLE13 = _own(
    ("resnet110-resnet32", "wrn_40_2-wrn_16_2", "resnet32x4-resnet8x4"),
    {"none": (73.62, 75.6, 76.91), "l2": (73.45, 75.46, 76.29)},
)
TABLE14 = _own(
    ("resnet50_cifar-mobilenetv2_half", "wrn_40_2-shufflenetv1", "resnet32x4-shufflenetv1"),
    {"none": (70.86, 77.24, 77.78), "l2": (71.36, 77.35, 78.26)},
)

MHGD_COMPARISON = _own(
    ("resnet32x4-resnet8x4",),
    {"teacher": (78.96,), "ce": (71.76,), "at": (72.31,), "rkd": (73.4,), "mhgd": (73.98,)},
    epoch="last",
)

MHGD_HEADS = _own(("vgg13-vgg8",), {"ce": (59.97,), "1": (65.71,), "8": (67.02,), "16": (66.7,)}, epoch="unsaid")

VIT_LARGE = _own(
    ("mae",),
    {
        "scratch": (83.0,),
        "fine-tune": (85.7,),
        "copy": (85.1,),
        "copy-fine-tuned": (85.6,),
        "distil": (85.7,),
        "copy-query": (85.6,),
        "copy-key": (84.4,),
        "copy-value": (84.4,),
        "distil-query": (81.3,),
        "distil-features": (81.3,),
    },
    epoch="unsaid",
)
