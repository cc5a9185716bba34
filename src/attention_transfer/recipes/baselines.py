"""The methods that papers compare with, under the protocol and between the pairs of Guo et al. (CVPR 2023).

Tables 5 and 6 on CIFAR-100, 7 and 8 on ImageNet. Their rows of the student alone and of CAT-KD are recipes of
`cifar` and `class_attention_distillation`; here is what stands between. Weights are those of the public benchmark
(RepDistiller's and mdistiller's settings) and of ReviewKD's authors.

>>> BASELINES["dkd"].method("vgg13", "vgg8").other_weight
6.0
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from attention_transfer.experiment import Experiment
from attention_transfer.methods import (
    Contrastive,
    Correlation,
    DecoupledSoftTargets,
    FitNet,
    Method,
    MultiHeadGraph,
    Overhaul,
    Relational,
    Review,
    Schedule,
    SimilarityPreserving,
)
from attention_transfer.recipes.cifar import AT, KD, KD_TASK_WEIGHT, cifar100
from attention_transfer.recipes.class_attention_distillation import IMAGENET_PAIRS, TABLE5, TABLE6
from attention_transfer.recipes.described import Described
from attention_transfer.recipes.photographs import imagenet

PAIRS = tuple((pair.teacher, pair.student) for pair in (*TABLE5, *TABLE6))
ALONE, CLASS_ATTENTION = "ce", "cat"
# As in CAT's tables on ImageNet.
IMAGENET_BATCH, IMAGENET_LEARNING_RATE = 512, 0.2


@dataclass(frozen=True)
class Baseline:
    """One method of the comparison.

    Args:
        title: what it is, in a few words.
        method: with the weights that go with a pair, given as teacher and student; on CIFAR-100.
        task_weight: of the cross-entropy beside it.
    """

    title: str
    method: Callable[[str, str], Method]
    task_weight: float = 1.0


def _always(method: Method) -> Callable[[str, str], Method]:
    return lambda teacher, student: method


# β of DKD, 8 for all other pairs; as its authors have it.
DKD_OTHER_WEIGHT = {
    ("resnet56", "resnet20"): 2.0,
    ("resnet110", "resnet32"): 2.0,
    ("wrn_40_2", "wrn_16_2"): 6.0,
    ("wrn_40_2", "wrn_40_1"): 6.0,
    ("vgg13", "vgg8"): 6.0,
    ("vgg13", "mobilenetv2_half"): 6.0,
}
# Of ReviewKD, 5 for all other pairs. Its authors publish nothing for the pairs with VGG-13 and ResNet-50.
REVIEW_WEIGHT = {
    ("resnet56", "resnet20"): 0.6,
    ("resnet110", "resnet32"): 1.0,
    ("resnet32x4", "shufflenetv2"): 8.0,
}


def _decoupled(teacher: str, student: str) -> Method:
    return DecoupledSoftTargets(other_weight=DKD_OTHER_WEIGHT.get((teacher, student), 8.0))


def _review(teacher: str, student: str) -> Method:
    return Review(weight=REVIEW_WEIGHT.get((teacher, student), 5.0))


# A method joins the tables by its line here, in the order of the rows.
BASELINES: dict[str, Baseline] = {
    "kd": Baseline("KD, T = 4", _always(KD), KD_TASK_WEIGHT),
    "dkd": Baseline("DKD, T = 4", _decoupled),
    "fitnet": Baseline("FitNet, one hint in the middle, one stage", _always(FitNet(weight=100.0))),
    "rkd": Baseline("RKD, distances and angles", _always(Relational())),
    "sp": Baseline("SP, similarities within a batch", _always(SimilarityPreserving(weight=3000.0))),
    "pkt": Baseline("PKT, similarities as probabilities", _always(Correlation(weight=30000.0))),
    "crd": Baseline("CRD, 16,384 negatives of a memory", _always(Contrastive(weight=0.8))),
    "ofd": Baseline("OFD, features before activations", _always(Overhaul(weight=1e-3))),
    "reviewkd": Baseline("ReviewKD", _review),
    "mhgd": Baseline("MHGD, 40 epochs for its graph before", _always(MultiHeadGraph())),
    "at": Baseline("AT, Σ|A|² at the ends of the stages", _always(AT)),
}
# On ImageNet, by student: method and weight of the cross-entropy; only what is published for it. Without the warm-up
# of the first epoch that some have, which a schedule by epochs does not show.
ON_IMAGENET: dict[str, Callable[[str], tuple[Method, float]]] = {
    "kd": lambda student: (replace(KD, temperature=1.0, weight=0.5), 0.5),
    "dkd": lambda student: (
        DecoupledSoftTargets(temperature=1.0, other_weight=0.5 if student == "resnet18" else 2.0, schedule=Schedule()),
        1.0,
    ),
    "crd": lambda student: (Contrastive(weight=0.8), 1.0),
    "ofd": lambda student: (Overhaul(weight=1e-3 if student == "resnet18" else 1e-4), 1.0),
    "reviewkd": lambda student: (Review(weight=1.0 if student == "resnet18" else 8.0, schedule=Schedule()), 1.0),
    "at": lambda student: (AT, 1.0),
}


def recipes() -> Iterator[Described]:
    """Every method between every pair."""
    for teacher, student in PAIRS:
        for key, baseline in BASELINES.items():
            method = baseline.method(teacher, student)
            yield (
                cifar100(
                    f"cifar100-{teacher}-{student}-{key}",
                    student,
                    teacher,
                    (method,),
                    task_weight=baseline.task_weight,
                ),
                f"{baseline.title}; {teacher} → {student}, CIFAR-100",
            )
    for table, (teacher, student, _) in IMAGENET_PAIRS.items():
        pair = table.partition("-")[2]
        short = pair.rpartition("-")[2]
        yield _on_imagenet(f"imagenet-{short}", student), f"{short} alone on ImageNet"
        for key, settings in ON_IMAGENET.items():
            method, task_weight = settings(short)
            yield (
                _on_imagenet(f"imagenet-{pair}-{key}", student, teacher, (method,), task_weight),
                f"{BASELINES[key].title.partition(',')[0]}; {pair.replace('-', ' → ')}, ImageNet",
            )


def _on_imagenet(
    name: str, student: str, teacher: str | None = None, methods: tuple[Method, ...] = (), task_weight: float = 1.0
) -> Experiment:
    return imagenet(
        name,
        student,
        teacher,
        methods,
        batch_size=IMAGENET_BATCH,
        learning_rate=IMAGENET_LEARNING_RATE,
        task_weight=task_weight,
    )
