"""CAT: class attention alone, without labels (section 4.2 and appendix of Guo et al., CVPR 2023, arXiv:2304.12777).

>>> experiment, _ = next(recipes())
>>> experiment.task_weight, experiment.methods[0].key
(0.0, 'cat')
"""

from collections.abc import Iterator
from dataclasses import replace

from attention_transfer.experiment import Data, Experiment, Training
from attention_transfer.methods import ClassAttention
from attention_transfer.recipes.cifar import CIFAR100, EPOCHS, cifar100
from attention_transfer.recipes.described import Described
from attention_transfer.recipes.photographs import RESNET50, imagenet

# Appendix A.5: batch 128 for everything in section 4.2; the authors' configurations have 64.
TRAINING = Training(epochs=EPOCHS, batch_size=128)

# The authors' β for CAT between two ResNet32x4; the paper gives none, and they say that it was not tuned for CAT.
CAT = ClassAttention(weight=50.0, resolution=2, normalise="l2")
BINARISED = replace(CAT, weight=300.0, binarise="mean")
PARTIAL = replace(CAT, weight=300.0)

TABLE1 = ("resnet56", "resnet110", "resnet50_cifar")
TABLE2 = ("resnet32x4", "resnet8x4", "resnet20")
SIZES = (8, 4, 2)
TABLE3 = ("resnet32x4", "resnet50_cifar")
TABLES_10_AND_11 = {
    "table10": ("resnet110", ("resnet56", "resnet110", "resnet32x4")),
    "table11": ("resnet32x4", ("resnet56", "resnet50_cifar", "resnet32x4")),
}
SNAPSHOTS = (0, 1, 5, 20, 60, 150, 240)
IMAGENET_SNAPSHOTS = (1, 5, 15, 30, 60, 100)


def recipes() -> Iterator[Described]:
    """Every table and figure of CAT without labels."""
    for teacher in TABLE1:
        yield _cat("table1", teacher, "shufflenetv1"), f"CAT: {teacher}'s maps → shufflenetv1"
    for student in TABLE2:
        for size in SIZES:
            # As Eq. 5 is printed, β means the same at every size: 12.5 is the authors' 50 at 2×2.
            sized = replace(CAT, weight=12.5, form="paper", resolution=size)
            yield (
                _cat("table2", "resnet32x4", student, sized, suffix=f"-{size}x{size}"),
                f"CAT with maps of {size}×{size}: resnet32x4 → {student}",
            )
    for student in TABLE3:
        yield _cat("table3", "resnet32x4", student), f"CAT: resnet32x4 → {student}"
        yield (
            _cat("table3", "resnet32x4", student, BINARISED, suffix="-binarised"),
            f"CAT with binarised maps: resnet32x4 → {student}",
        )
    for table, (student, teachers) in TABLES_10_AND_11.items():
        for teacher in teachers:
            yield _cat(table, teacher, student), f"CAT: {teacher}'s maps → {student}"
    yield from _figures()
    yield from _appendix()


def _figures() -> Iterator[Described]:
    pair = ("resnet32x4", "resnet8x4")
    yield (
        _cat("figure4", *pair, replace(PARTIAL, top=75), suffix="-top"),
        "Figure 4 left: CAT of the 75 classes with the highest scores; sweep cat.top",
    )
    yield (
        _cat("figure4", *pair, replace(PARTIAL, lowest=75), suffix="-lowest"),
        "Figure 4 left: CAT of the 75 classes with the lowest scores; sweep cat.lowest",
    )
    yield (
        _cat("figure4", "resnet32x4", "resnet32x4", data=replace(CIFAR100, train_classes=50), suffix="-classes"),
        "Figure 4 right: CAT of all classes, from images of the first 50; sweep train-classes",
    )
    yield (
        imagenet(
            "cat-figure5-resnet50-resnet50",
            "torchvision:resnet50",
            RESNET50,
            (CAT,),
            batch_size=512,
            learning_rate=0.2,
            task_weight=0.0,
            snapshot_epochs=IMAGENET_SNAPSHOTS,
        ),
        "CAT between two ResNet-50, ImageNet; keeps snapshots for class-maps",
    )
    yield (
        cifar100(
            "cat-along-training-resnet32x4-resnet32x4",
            "resnet32x4",
            "resnet32x4",
            (CAT,),
            task_weight=0.0,
            training=replace(TRAINING, snapshot_epochs=SNAPSHOTS),
        ),
        "CAT between two resnet32x4 with snapshots: maps along training, by class-maps",
    )


def _appendix() -> Iterator[Described]:
    cifar10 = Data("cifar10")
    yield cifar100("cat-a4-teacher", "resnet32x4", data=cifar10), "resnet32x4 alone on CIFAR-10: the producer of A.4"
    for producer, method in (("cam", CAT), ("grad-cam", replace(CAT, producer="grad-cam"))):
        yield (
            _cat("a4", "resnet32x4", "resnet32x4", method, data=cifar10, suffix=f"-{producer}"),
            f"A.4: CAT with maps of {producer}, CIFAR-10, resnet32x4 → resnet32x4",
        )
    yield (
        _cat("a4", "resnet32x4", "resnet32x4", replace(CAT, score_weights=True), suffix="-score-weights"),
        "A.4: CAT with classes weighted by the producer's scores, resnet32x4 → resnet32x4",
    )


def _cat(
    table: str, teacher: str, student: str, method: ClassAttention = CAT, *, data: Data = CIFAR100, suffix: str = ""
) -> Experiment:
    """CAT alone: neither labels nor logits."""
    name = f"cat-{table}-{teacher}-{student}{suffix}"
    return cifar100(name, student, teacher, (method,), task_weight=0.0, data=data, training=TRAINING)
