"""Vision transformers on a part of CIFAR-100 under a teacher that was pre-trained without labels: a small form of the
tables of Li et al. (NeurIPS 2024, arXiv:2411.09702)."""

from collections.abc import Iterator
from dataclasses import replace

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionCopy, AttentionDistillation, Method
from attention_transfer.methods.layer_choice import Layers
from attention_transfer.recipes.described import Described

# 1.2 million parameters, 64 patches; the mean of the patches is classified, as the paper does it.
ENCODER = "timm:vit_tiny_patch16_224(img_size=32, patch_size=4, embed_dim=128, depth=6, num_heads=4)"
STUDENT = ENCODER.replace(")", ", global_pool='avg')")

# One budget for all: 100,000 sample passes. Short trainings leave no room for strong augmentation.
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
SOME_LAYERS = (2, 4)
SOME_HEADS = (1, 2, 3)


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
            yield _run(f"copy-{end}-{count}", AttentionCopy(layers=layers)), f"copying the {end} {count} of 6 layers"
    for count in SOME_HEADS:
        yield _run(f"copy-heads-{count}", AttentionCopy(first_heads=count)), f"copying the first {count} of 4 heads"


def _run(name: str, *methods: Method, layer_decay: float | None = None) -> Experiment:
    return Experiment(
        recipe=f"vit-cifar100-{name}",
        student=STUDENT,
        teacher=ENCODER if methods else None,
        methods=methods,
        data=DATA,
        optimisation=replace(OPTIMISATION, layer_decay=layer_decay),
        training=TRAINING,
    )
