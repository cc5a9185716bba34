"""Attention links in small: a vision transformer of half a million parameters, for one CPU core.

>>> sorted({experiment.data.name for experiment, _ in recipes()})
['cifar100', 'cub200']
"""

from collections.abc import Iterator
from dataclasses import replace

from attention_transfer.experiment import Data, Experiment, Training
from attention_transfer.methods import AttentionLinks, Method
from attention_transfer.recipes import distillation_token, vit_cifar
from attention_transfer.recipes.described import Described

OPTIMISATION = replace(vit_cifar.OPTIMISATION, warmup_epochs=2)

# 64 patches: of 4 pixels on CIFAR-100, of 8 on birds.
SMALL = "timm:deit_tiny_patch16_224(img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3)"
BIRDS = SMALL.replace("img_size=32, patch_size=4", "img_size=64, patch_size=8")
BIRDS_DATA = Data("cub200", image_size=64, label_smoothing=0.1)
BIRDS_TRAINING = Training(epochs=60, batch_size=64, evaluate_every_epochs=10, snapshot_epochs=(0, 6, 30, 60))
CIFAR_DATA = Data("cifar100", label_smoothing=0.1)
# Epochs by percent of CIFAR-100: 100,000 samples seen each.
CIFAR_TRAINING = {
    percent: Training(epochs=epochs, batch_size=64, evaluate_every_epochs=5) for percent, epochs in ((5, 40), (10, 20))
}
# Of weights for 196 patches, over which the term is a mean: as much for 64.
WEIGHT = 2000.0 * 64 / 196


def recipes() -> Iterator[Described]:
    """Birds under a teacher of ImageNet, and parts of CIFAR-100 under one of its own classes."""
    for name, methods, text in (
        ("alone", (), "a small DeiT on CUB-200, from scratch"),
        ("full", (_links(BIRDS_TRAINING),), "the same with full links from SqueezeNet of ImageNet"),
    ):
        teacher = "torchvision:squeezenet1_0@pretrained" if methods else None
        yield _run(f"cub200-{name}", BIRDS, teacher, methods, BIRDS_DATA, BIRDS_TRAINING), text
    for percent, training in CIFAR_TRAINING.items():
        data = replace(CIFAR_DATA, train_fraction=percent / 100)
        hard = distillation_token.KINDS["hard"]
        for name, methods, text in (
            ("alone", (), f"a small DeiT on {percent} % of CIFAR-100, from scratch"),
            ("hard", (hard,), "the same with a token that learns resnet56's classes"),
            ("full", (_links(training),), "the same with full links from resnet56"),
        ):
            student = SMALL.replace(")", ", distillation_token=True)") if hard in methods else SMALL
            recipe = f"cifar100-{percent}-percent-{name}"
            yield _run(recipe, student, "resnet56" if methods else None, methods, data, training), text


def _links(training: Training) -> AttentionLinks:
    """Full links whose weight decays by as much in all as the paper's in its 300 epochs."""
    method = AttentionLinks(weight=WEIGHT)
    return replace(method, schedule=method.schedule.stretched(training.epochs / 300))


def _run(
    name: str, student: str, teacher: str | None, methods: tuple[Method, ...], data: Data, training: Training
) -> Experiment:
    token = any(isinstance(method, distillation_token.DistillationToken) for method in methods)
    return Experiment(
        f"links-{name}",
        student,
        teacher,
        methods,
        distillation_token.TASK_WEIGHT if token else 1.0,
        data=data,
        optimisation=OPTIMISATION,
        training=training,
    )
