"""CIFAR: the protocol under which distillation methods are compared."""

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionTransfer, SoftTargets

# 240 epochs, batch 64, SGD with momentum 0.9, weight decay 5e-4 on everything, learning rate 0.05 (0.01 for MobileNetV2
# and ShuffleNets) divided by 10 after 150, 180 and 210 epochs: the settings that RepDistiller and mdistiller share.
PROTOCOL = Optimisation(learning_rate=0.05, steps=(150 / 240, 180 / 240, 210 / 240))
EPOCHS, BATCH = 240, 64


def cifar100_resnet56_resnet20() -> Experiment:
    """ResNet-56 teaches ResNet-20 on CIFAR-100, by soft targets and attention; give the teacher as resnet56@FILE."""
    return Experiment(
        recipe="cifar100-resnet56-resnet20",
        student="resnet20",
        teacher="resnet56",
        methods=(AttentionTransfer(weight=1000.0), SoftTargets(weight=0.9, temperature=4.0)),
        task_weight=0.1,
        data=Data("cifar100"),
        optimisation=PROTOCOL,
        training=Training(epochs=EPOCHS, batch_size=BATCH),
    )
