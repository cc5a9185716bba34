"""Cluttered digits: settings that run on two CPU cores, from half a minute to minutes, and need no download.

>>> digits().student, digits_teacher().teacher
('resnet8', None)
"""

from collections.abc import Iterator
from dataclasses import replace

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import (
    AttentionTransfer,
    ClassAttention,
    Contrastive,
    Correlation,
    DecoupledSoftTargets,
    FitNet,
    GradientAttention,
    Method,
    MultiHeadGraph,
    Overhaul,
    Relational,
    Review,
    Schedule,
    SimilarityPreserving,
    SoftTargets,
)
from attention_transfer.recipes.described import Described

# Found with teacher and student alone: ResNet-8 hardly moves in its first 500 steps, which small batches make short.
OPTIMISATION = Optimisation(
    optimizer="nesterov", learning_rate=0.05, weight_decay=5e-4, schedule="cosine", warmup_epochs=1
)
# The teacher learns from all 6,000 images, its students, taught or alone, from 4,000.
TEACHER_DATA = Data("cluttered-digits", test_limit=1000)
DATA = Data("cluttered-digits", train_limit=4000, test_limit=1000)
TRAINING = Training(epochs=4, batch_size=32)

# Long enough that a student learns alone what it can, and all 2,000 test images.
LONG_TEST_LIMIT = 2000
LONG_TRAINING = Training(epochs=25, batch_size=64)
LONG_TEACHER_TRAINING = Training(epochs=20, batch_size=64)
SNAPSHOTS = (0, 1, 2, 5, 10, 25)

AT = AttentionTransfer(weight=1000.0)
# Within the ranges that `suggest-weight` gave for this pair: 0.03…1.6 for class maps as they are, 3…145 for normalised
# ones. For gradients it gave 7…360, with which the student does not leave chance; see docs/results.
GRADIENT = GradientAttention(weight=0.1)
CAT = ClassAttention(weight=1.0, normalise="none")
NORMALISED_CAT = ClassAttention(weight=50.0, normalise="l2")
WARMUP = Schedule(warmup_epochs=2)
# What stands behind `digits-`, of one student under the strong teacher: methods, weight of the cross-entropy, meaning.
STUDENTS: dict[str, tuple[tuple[Method, ...], float, str]] = {
    "alone": ((), 1.0, "alone"),
    "kd": ((SoftTargets(weight=0.9, temperature=4.0),), 0.1, "KD"),
    # With weights of the benchmark on CIFAR-100 (recipes/baselines.py), not tuned here; warm-ups and phases take the
    # share of the training that they have there.
    "dkd": ((DecoupledSoftTargets(schedule=WARMUP),), 1.0, "DKD"),
    "fitnet": ((FitNet(),), 1.0, "FitNet"),
    "rkd": ((Relational(),), 1.0, "RKD"),
    "sp": ((SimilarityPreserving(),), 1.0, "SP"),
    "pkt": ((Correlation(),), 1.0, "PKT"),
    "crd": ((Contrastive(),), 1.0, "CRD"),
    "ofd": ((Overhaul(),), 1.0, "OFD"),
    "reviewkd": ((Review(weight=1.0, schedule=WARMUP),), 1.0, "ReviewKD"),
    "mhgd": ((MultiHeadGraph(graph_epochs=4),), 1.0, "MHGD"),
    "at": ((AT,), 1.0, "AT with the map Σ|A|²"),
    "at-p1": ((replace(AT, power=1.0),), 1.0, "AT with the map Σ|A|"),
    "at-p4": ((replace(AT, power=4.0),), 1.0, "AT with the map Σ|A|⁴"),
    "at-max": ((replace(AT, kind="max"),), 1.0, "AT with the map max|A|²"),
    "gradient": ((GRADIENT,), 1.0, "gradient-based AT"),
    "flip": ((replace(GRADIENT, target="flip"),), 1.0, "symmetry of the gradient under mirroring, no teacher"),
    "cat": ((CAT,), 1.0, "CAT-KD"),
    "cat-l2": ((NORMALISED_CAT,), 1.0, "CAT-KD with normalised maps"),
    "cat-alone": ((NORMALISED_CAT,), 0.0, "CAT alone, without labels; keeps snapshots for class-maps"),
}


def digits_teacher() -> Experiment:
    """A ResNet-14 trained alone on cluttered digits, to teach others."""
    return Experiment(
        recipe="digits-teacher", student="resnet14", data=TEACHER_DATA, optimisation=OPTIMISATION, training=TRAINING
    )


def digits() -> Experiment:
    """ResNet-8 learns where a ResNet-14 looks; give the run folder of `digits-teacher` as teacher."""
    return Experiment(
        recipe="digits",
        student="resnet8",
        teacher="resnet14",
        methods=(AT,),
        data=DATA,
        optimisation=OPTIMISATION,
        training=TRAINING,
    )


def strong() -> Iterator[Described]:
    """A strong teacher, one student under every method, and a student of the student's own kind."""
    teacher = Experiment(
        "digits-strong-teacher",
        "resnet20",
        data=replace(TEACHER_DATA, test_limit=LONG_TEST_LIMIT),
        optimisation=OPTIMISATION,
        training=LONG_TEACHER_TRAINING,
    )
    yield teacher, "resnet20 alone on cluttered digits, 20 epochs: the teacher of those below"
    for suffix, (methods, task_weight, text) in STUDENTS.items():
        needed = bool(methods) and suffix != "flip"
        student = _student(f"digits-{suffix}", "resnet20" if needed else None, methods, task_weight)
        if suffix == "cat-alone":
            student = replace(student, training=replace(LONG_TRAINING, snapshot_epochs=SNAPSHOTS))
        yield student, f"{text}; {'resnet20 → ' if needed else ''}resnet8, 25 epochs"
    yield _student("digits-self", "resnet8", (AT,)), "AT from a network of its own kind; give the run of digits-alone"


def _student(name: str, teacher: str | None, methods: tuple[Method, ...], task_weight: float = 1.0) -> Experiment:
    return Experiment(
        name,
        "resnet8",
        teacher,
        methods,
        task_weight,
        data=replace(DATA, test_limit=LONG_TEST_LIMIT),
        optimisation=OPTIMISATION,
        training=LONG_TRAINING,
    )
