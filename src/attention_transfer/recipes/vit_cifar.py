"""Vision transformers on a part of CIFAR-100 under a teacher that was pre-trained without labels.

A small form of the tables of Li et al. (NeurIPS 2024, arXiv:2411.09702).

>>> {experiment.data.name for experiment, _ in recipes()}
{'cifar100'}
"""

from collections.abc import Iterator
from dataclasses import replace

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionCopy, AttentionDistillation, Method
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.recipes.described import Described

# 0.47 million parameters, 64 patches; the mean of the patches is classified, as the paper does it.
ENCODER = "timm:vit_tiny_patch16_224(img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3)"
STUDENT = ENCODER.replace(")", ", global_pool='avg')")

# One budget for all: 100,000 samples seen. Short trainings leave no room for strong augmentation.
DATA = Data("cifar100", train_limit=10_000, label_smoothing=0.1)
TRAINING = Training(epochs=10, batch_size=64, evaluate_every_epochs=5)
OPTIMISATION = Optimisation(
    optimizer="adamw",
    learning_rate=1e-3,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    decay_norm_and_bias=False,
    schedule="cosine",
    warmup_epochs=1,
    cosine_after_warmup=True,
)
# As the paper fine-tunes; everything else of a fine-tuning is that of the others.
LAYER_DECAY = 0.75

VECTORS = ("query", "key", "value")
SOME_LAYERS = (1, 2, 3)
SOME_HEADS = (1, 2)

# Students that are not built like their teacher.
TWO_HEADS = STUDENT.replace("num_heads=3", "num_heads=2")
TWO_LAYERS = STUDENT.replace("depth=4", "depth=2")
LARGE_PATCHES = STUDENT.replace("patch_size=4", "patch_size=8")
NO_CLASS_TOKEN = STUDENT.replace(")", ", class_token=False)")


def recipes() -> Iterator[Described]:
    """Scratch, fine-tuning, and attention copied and distilled, whole and in parts."""
    yield _run("scratch"), "a small ViT on 10,000 images of CIFAR-100, from scratch"
    yield _run("fine-tune", layer_decay=LAYER_DECAY), "the same from the teacher's weights: give them as --student"
    yield _run("copy", AttentionCopy()), "the same computing with its teacher's attention"
    yield _run("distil", AttentionDistillation()), "the same learning its teacher's attention"
    for target in VECTORS:
        yield _run(f"copy-{target}", AttentionCopy(target=target)), f"copying only the {target} of each layer"
    for count in SOME_LAYERS:
        for end in ("first", "last"):
            layers = Layers(first=count) if end == "first" else Layers(last=count)
            yield _run(f"copy-{end}-{count}", AttentionCopy(layers=layers)), f"copying the {end} {count} of 4 layers"
    for count in SOME_HEADS:
        yield _run(f"copy-heads-{count}", AttentionCopy(first_heads=count)), f"copying the first {count} of 3 heads"

    yield from _other_students()


def _other_students() -> Iterator[Described]:
    """Students of another shape than their teacher, which the paper leaves to future work, and the same alone."""
    for name, student, what in (
        ("2-heads", TWO_HEADS, "two heads in place of three"),
        ("2-layers", TWO_LAYERS, "two layers in place of four"),
        ("patch-8", LARGE_PATCHES, "16 patches in place of 64"),
        ("no-class-token", NO_CLASS_TOKEN, "no class token"),
    ):
        yield _run(f"scratch-{name}", student=student), f"the ViT with {what}, from scratch"

    spread = Layers(match="spread")
    cells: list[tuple[str, str, Method, str]] = [
        ("copy-2-heads-mean", TWO_HEADS, AttentionCopy(head_match="mean"), "two heads, the mean of three"),
        ("copy-2-heads-mixed", TWO_HEADS, AttentionCopy(head_match="mixed"), "two heads, mixed of three"),
        ("distil-2-heads-mean", TWO_HEADS, AttentionDistillation(head_match="mean"), "means of two and three heads"),
        ("distil-2-heads-matched", TWO_HEADS, AttentionDistillation(head_match="matched"), "two of three heads"),
        ("distil-2-heads-mixed", TWO_HEADS, AttentionDistillation(head_match="mixed"), "two heads from mixed ones"),
        ("copy-2-layers", TWO_LAYERS, AttentionCopy(layers=spread), "two layers, every other of four"),
        ("distil-2-layers", TWO_LAYERS, AttentionDistillation(layers=spread), "two layers, every other of four"),
        (
            "distil-2-layers-mixed",
            TWO_LAYERS,
            AttentionDistillation(layers=spread, mix_layers=True),
            "two layers from mixed ones",
        ),
        ("copy-patch-8", LARGE_PATCHES, AttentionCopy(resample=True), "16 patches, maps of 64"),
        ("distil-patch-8", LARGE_PATCHES, AttentionDistillation(resample=True), "16 patches, maps of 64"),
        ("copy-no-class-token", NO_CLASS_TOKEN, AttentionCopy(resample=True), "no class token"),
        ("distil-no-class-token", NO_CLASS_TOKEN, AttentionDistillation(resample=True), "no class token"),
    ]
    for name, student, method, what in cells:
        yield _run(name, method, student=student), f"a student unlike its teacher: {what}"


def _run(name: str, *methods: Method, student: str = STUDENT, layer_decay: float | None = None) -> Experiment:
    return Experiment(
        recipe=f"vit-cifar100-{name}",
        student=student,
        teacher=ENCODER if methods else None,
        methods=methods,
        data=DATA,
        optimisation=replace(OPTIMISATION, layer_decay=layer_decay),
        training=TRAINING,
    )
