"""Photographs in class folders: a start for a user's own images."""

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionTransfer


def photographs() -> Experiment:
    """A timm ResNet-18 on photographs, taught by a timm ResNet-50 with its published weights; give --data."""
    return Experiment(
        recipe="photographs",
        student="timm:resnet18",
        teacher="timm:resnet50@pretrained",
        methods=(AttentionTransfer(weight=1000.0),),
        data=Data("folder:images", image_size=224, augment="random-resized-crop"),
        optimisation=Optimisation(
            optimizer="nesterov", learning_rate=0.1, weight_decay=1e-4, schedule="cosine", warmup_epochs=5
        ),
        training=Training(epochs=100, batch_size=64),
    )
