"""DeiT: Touvron et al. (ICML 2021, arXiv:2012.12877), hard and soft distillation by a token.

>>> [experiment.recipe for experiment, _ in recipes()][-2:]
['deit-cifar100-hard', 'deit-cifar100-soft']
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from attention_transfer.experiment import Experiment, Optimisation, Training
from attention_transfer.methods import DistillationToken
from attention_transfer.recipes import vit_cifar
from attention_transfer.recipes.described import Described
from attention_transfer.recipes.vision_transformer_training import IMAGES

Kind = Literal["hard", "soft"]

# The paper's teacher, with the weights that its authors publish.
TEACHER = "timm:regnety_160.deit_in1k@pretrained"
SIZES = ("tiny", "small", "base")
KINDS: dict[Kind, DistillationToken] = {
    "hard": DistillationToken(),
    # As printed: τ = 3, the divergence averaged over the batch alone.
    "soft": DistillationToken(kind="soft", temperature=3.0, form="paper"),
}
# α = 0.5 of the method, and the rest of the labels.
TASK_WEIGHT = 0.5

# Table 9 of the paper: 300 epochs of batch 1024, AdamW with 5e-4 for 512 images, cosine, 5 epochs of warm-up.
PROTOCOL = Optimisation(
    optimizer="adamw",
    learning_rate=1e-3,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    decay_norm_and_bias=False,
    schedule="cosine",
    warmup_epochs=5,
    min_learning_rate=1e-5,
)
TRAINING = Training(epochs=300, batch_size=1024)

# The small form: any vision transformer of timm is given the token by its name.
SMALL = vit_cifar.ENCODER.replace(")", ", distillation_token=True)")


def recipes() -> Iterator[Described]:
    """Hard and soft distillation, on ImageNet and in small."""
    for size in SIZES:
        student = f"timm:deit_{size}_distilled_patch16_224(drop_path_rate=0.1)"
        for kind, method in KINDS.items():
            yield (
                Experiment(
                    f"deit-{size}-{kind}",
                    student,
                    TEACHER,
                    (method,),
                    TASK_WEIGHT,
                    data=IMAGES,
                    optimisation=PROTOCOL,
                    training=TRAINING,
                ),
                f"DeiT, {kind} distillation by its token; RegNetY-16GF → DeiT-{size}, ImageNet",
            )
    plain = SMALL.replace(", distillation_token=True", "")
    alone = Experiment(
        "deit-cifar100-alone",
        plain,
        data=vit_cifar.DATA,
        optimisation=vit_cifar.OPTIMISATION,
        training=vit_cifar.TRAINING,
    )
    yield alone, "a small ViT on 10,000 images of CIFAR-100 by its class token, without teacher"
    for kind, method in KINDS.items():
        taught = replace(alone, student=SMALL, teacher="resnet56", methods=(method,), task_weight=TASK_WEIGHT)
        yield (
            replace(taught, recipe=f"deit-cifar100-{kind}"),
            f"the same with a distillation token, {kind} distillation from resnet56",
        )
