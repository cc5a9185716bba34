"""Cluttered digits: settings that run in about a minute on two CPU cores and need no download."""

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionTransfer

OPTIMISATION = Optimisation(
    optimizer="nesterov", learning_rate=0.1, weight_decay=5e-4, schedule="cosine", warmup_epochs=0.5
)


def digits_teacher() -> Experiment:
    """A ResNet-20 trained alone, to teach others."""
    return Experiment(
        recipe="digits-teacher",
        student="resnet20",
        data=Data("cluttered-digits"),
        optimisation=OPTIMISATION,
        training=Training(epochs=10, batch_size=64),
    )


def digits() -> Experiment:
    """ResNet-8 learns where a ResNet-20 looks; give the run folder of `digits-teacher` as teacher."""
    return Experiment(
        recipe="digits",
        student="resnet8",
        teacher="resnet20",
        methods=(AttentionTransfer(weight=1000.0),),
        data=Data("cluttered-digits"),
        optimisation=OPTIMISATION,
        training=Training(epochs=5, batch_size=64),
    )
