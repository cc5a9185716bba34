"""Cluttered digits: settings that run in half a minute on two CPU cores and need no download."""

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionTransfer

# Found with teacher and student alone: ResNet-8 hardly moves in its first 500 steps, which small batches make short.
OPTIMISATION = Optimisation(
    optimizer="nesterov", learning_rate=0.05, weight_decay=5e-4, schedule="cosine", warmup_epochs=1
)
# The teacher learns from all 6,000 images, its students, taught or alone, from 4,000.
TEACHER_DATA = Data("cluttered-digits", test_limit=1000)
DATA = Data("cluttered-digits", train_limit=4000, test_limit=1000)
TRAINING = Training(epochs=4, batch_size=32)


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
        methods=(AttentionTransfer(weight=1000.0),),
        data=DATA,
        optimisation=OPTIMISATION,
        training=TRAINING,
    )
