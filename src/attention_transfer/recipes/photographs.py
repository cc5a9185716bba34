"""Recipes for photographs: ImageNet-sized training, and a folder of the user.

>>> photographs().student
'timm:resnet18'
"""

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionTransfer, Method

# `$IMAGENET` holds train/CLASS/… and val/CLASS/…; the variable is filled in when a run starts. As the papers' loaders,
# which do not turn images upright.
IMAGENET = Data("folder:$IMAGENET", image_size=224, augment="random-resized-crop", decoding="as-stored", num_workers=8)
EPOCHS = 100
STEPS = (0.3, 0.6, 0.9)
WEIGHT_DECAY = 1e-4

# The published weights that both papers start from: torchvision's first ones (73.31 and 76.13 % top-1). torchvision
# itself hands out later ones for ResNet-50, timm keeps the first.
RESNET34 = "torchvision:resnet34@pretrained"
RESNET50 = "timm:resnet50.tv_in1k@pretrained"


def imagenet(
    recipe: str,
    student: str,
    teacher: str | None = None,
    methods: tuple[Method, ...] = (),
    *,
    batch_size: int,
    learning_rate: float,
    task_weight: float = 1.0,
    snapshot_epochs: tuple[int, ...] | None = None,
) -> Experiment:
    """100 epochs of SGD with momentum 0.9, the learning rate divided by 10 after 30, 60 and 90.

    Args:
        recipe: name of the recipe.
        student: network of torchvision or timm, from random weights.
        teacher: network of torchvision or timm, with published weights.
        methods: distillation methods.
        batch_size: images per step and process; the papers' are those of all their processes together.
        learning_rate: learning rate for that batch size.
        task_weight: weight of the cross-entropy.
        snapshot_epochs: as in `Training`.
    """
    return Experiment(
        recipe=recipe,
        student=student,
        teacher=teacher,
        methods=methods,
        task_weight=task_weight,
        data=IMAGENET,
        optimisation=Optimisation(learning_rate=learning_rate, weight_decay=WEIGHT_DECAY, steps=STEPS),
        training=Training(epochs=EPOCHS, batch_size=batch_size, snapshot_epochs=snapshot_epochs),
    )


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
