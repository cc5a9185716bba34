"""CIFAR-100: the protocol under which distillation methods are compared, and every network of ours trained alone.

>>> cifar100("mine", "mobilenetv2_half").optimisation.learning_rate
0.01
>>> cifar100("mine", "resnet20").optimisation.learning_rate
0.05
"""

from collections.abc import Iterator

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionTransfer, Method, SoftTargets
from attention_transfer.models import MODELS
from attention_transfer.recipes.described import Described

# 240 epochs, batch 64, SGD with momentum 0.9, weight decay 5e-4 on everything, learning rate 0.05 (0.01 for MobileNetV2
# and ShuffleNets) divided by 10 after 150, 180 and 210 epochs: the settings that RepDistiller and mdistiller share.
PROTOCOL = Optimisation(learning_rate=0.05, steps=(150 / 240, 180 / 240, 210 / 240))
CAREFUL_PROTOCOL = Optimisation(learning_rate=0.01, steps=PROTOCOL.steps)
CAREFUL = ("mobilenetv2_half", "shufflenetv1", "shufflenetv2")
EPOCHS, BATCH = 240, 64
CIFAR100 = Data("cifar100")

# The weights that go with the protocol: 0.1·CE + 0.9·KD at T = 4, and CE + 1000·AT.
KD, KD_TASK_WEIGHT = SoftTargets(weight=0.9, temperature=4.0), 0.1
AT = AttentionTransfer(weight=1000.0)


def cifar100_resnet56_resnet20() -> Experiment:
    """ResNet-56 teaches ResNet-20 on CIFAR-100, by soft targets and attention; give the teacher as resnet56@FILE."""
    return cifar100("cifar100-resnet56-resnet20", "resnet20", "resnet56", (AT, KD), task_weight=KD_TASK_WEIGHT)


def cifar100(
    recipe: str,
    student: str,
    teacher: str | None = None,
    methods: tuple[Method, ...] = (),
    *,
    task_weight: float = 1.0,
    data: Data = CIFAR100,
    training: Training | None = None,
) -> Experiment:
    """A run under the protocol, with the student's learning rate.

    Args:
        recipe: name of the recipe.
        student: name of a network of this package.
        teacher: name of a network of this package.
        methods: distillation methods.
        task_weight: weight of the cross-entropy.
        data: data set and augmentation.
        training: epochs and batch size; None takes those of the protocol.
    """
    return Experiment(
        recipe=recipe,
        student=student,
        teacher=teacher,
        methods=methods,
        task_weight=task_weight,
        data=data,
        optimisation=CAREFUL_PROTOCOL if student in CAREFUL else PROTOCOL,
        training=training or Training(epochs=EPOCHS, batch_size=BATCH),
    )


def alone() -> Iterator[Described]:
    """Every network of ours, trained alone: teachers, and what students are compared with."""
    for name in MODELS:
        yield cifar100(f"cifar100-{name}", name), f"{name} alone on CIFAR-100: a teacher, or a student's baseline"
