"""Li et al. (NeurIPS 2024, arXiv:2411.09702): attention of pre-trained vision transformers, copied and distilled.

>>> len({experiment.recipe for experiment, _ in recipes()}) == len(list(recipes()))
True
"""

from collections.abc import Iterator
from dataclasses import replace

from attention_transfer.experiment import Data
from attention_transfer.methods import AttentionCopy, AttentionDistillation, FeatureDistillation
from attention_transfer.methods.layers.layer_selection import Layers
from attention_transfer.recipes.described import Described
from attention_transfer.recipes.vision_transformer_training import (
    BASE,
    HUGE,
    IMAGES,
    LARGE,
    Size,
    Transformer,
    copying,
    distilling,
    fine_tuning,
    from_scratch,
)

MAE = {
    "base": Transformer("vit_base_patch16_224.mae", BASE),
    "large": Transformer("vit_large_patch16_224.mae", LARGE),
    "huge": Transformer("vit_huge_patch14_224.mae", HUGE),
}
MAE_LARGE = MAE["large"]
# Not among timm's weights; found elsewhere, see `WEIGHTS_ELSEWHERE`.
MOCO = Transformer("vit_large_patch16_224.moco_v3", LARGE)
# FLIP's weights are published for JAX only; CLIP, trained on the same images and captions, has them for timm.
FLIP = Transformer("vit_large_patch16_224", LARGE, published=False)
CLIP = Transformer("vit_large_patch14_clip_224.laion2b", LARGE)
DINO = Transformer("vit_base_patch16_224.dino", BASE)
UNTRAINED = Transformer("vit_large_patch16_224", LARGE, published=False)
METHODS_OF_PRE_TRAINING = {
    "mocov3-large": (MOCO, "MoCo-v3's ViT-L"),
    "clip-large": (CLIP, "CLIP's ViT-L/14 of LAION-2B"),
    "dino-base": (DINO, "DINO's ViT-B"),
}

COPY = AttentionCopy()
# The paper has λ = 3 in its main result, and 1 for simplicity everywhere else.
MAIN_WEIGHT, WEIGHT = 3.0, 1.0
# β₂ where only some layers are copied, which is unstable otherwise.
PARTIAL_BETA2 = 0.95

INATURALIST = ("2017", "2018", "2019")
VECTORS = ("query", "key", "value")
AXES = ("examples", "layers", "heads", "queries")


def recipes() -> Iterator[Described]:
    """Every table and figure that is made by training."""
    yield from _sizes()
    yield from _parts_of_attention()
    yield from _parts_of_the_network()
    yield from _pre_training()
    yield from _inaturalist()
    yield from _mix_and_match()


def distillation(size: Size, weight: float = WEIGHT) -> AttentionDistillation:
    """Attention distillation as the authors run it between two networks of one size.

    Args:
        size: of both.
        weight: λ.
    """
    return AttentionDistillation(weight=weight, layers=Layers(first=size.distilled_layers), same_drop_path=True)


def _sizes() -> Iterator[Described]:
    for size, network in MAE.items():
        title = f"ViT-{size[0].upper()}"
        weight = MAIN_WEIGHT if network is MAE_LARGE else WEIGHT
        yield from_scratch(f"vit-{size}-scratch", network), f"{title} alone on ImageNet, from scratch"
        yield fine_tuning(f"vit-mae-{size}-fine-tune", network), f"MAE's {title} fine-tuned on ImageNet"
        yield copying(f"vit-mae-{size}-copy", network, COPY), f"attention copied from MAE's {title}, ImageNet"
        yield (
            distilling(f"vit-mae-{size}-distil", network, distillation(network.size, weight)),
            f"attention distilled from MAE's {title}, λ = {weight:g}, ImageNet",
        )
    yield (
        copying("vit-mae-large-copy-fine-tuned", MAE_LARGE, COPY, fine_tuned=True),
        "attention copied from a fine-tuned ViT-L; give the run of vit-mae-large-fine-tune",
    )


def _parts_of_attention() -> Iterator[Described]:
    for target in VECTORS:
        name = f"vit-mae-large-copy-{target}"
        yield copying(name, MAE_LARGE, AttentionCopy(target=target)), f"only the {target} copied from MAE's ViT-L"
        method = replace(distillation(LARGE), target=target)
        name = f"vit-mae-large-distil-{target}"
        yield distilling(name, MAE_LARGE, method), f"only the {target} distilled from MAE's ViT-L"
    for axis in AXES:
        name = f"vit-mae-large-copy-mean-{axis}"
        yield copying(name, MAE_LARGE, AttentionCopy(average=(axis,))), f"attention copied, averaged over {axis}"
    yield (
        distilling("vit-mae-large-distil-features", MAE_LARGE, FeatureDistillation(weight=WEIGHT)),
        "the tokens after each block distilled from MAE's ViT-L",
    )


def _parts_of_the_network() -> Iterator[Described]:
    for end, layers in (("first", Layers(first=12)), ("last", Layers(last=12))):
        yield (
            copying(f"vit-mae-large-copy-{end}", MAE_LARGE, AttentionCopy(layers=layers), beta2=PARTIAL_BETA2),
            f"attention of the {end} 12 of 24 layers copied; sweep attention-copy.layers.{end}",
        )
    yield (
        copying("vit-mae-large-copy-heads", MAE_LARGE, AttentionCopy(first_heads=12)),
        "attention of the first 12 of 16 heads copied; sweep attention-copy.first-heads",
    )
    yield (
        distilling("vit-mae-large-distil-layers", MAE_LARGE, distillation(LARGE)),
        "attention of the first 18 of 24 layers distilled, λ = 1; sweep attention-distillation.layers.first",
    )


def _pre_training() -> Iterator[Described]:
    for key, (network, title) in METHODS_OF_PRE_TRAINING.items():
        yield fine_tuning(f"vit-{key}-fine-tune", network), f"{title} fine-tuned on ImageNet"
        yield copying(f"vit-{key}-copy", network, COPY), f"attention copied from {title}, ImageNet"
        yield (
            distilling(f"vit-{key}-distil", network, distillation(network.size)),
            f"attention distilled from {title}, ImageNet",
        )
    for key, network, title in (
        ("flip", FLIP, "FLIP's ViT-L, whose weights you give"),
        ("untrained", UNTRAINED, "a ViT-L of random weights"),
    ):
        random = network is UNTRAINED
        yield (
            copying(f"vit-{key}-large-copy", network, COPY, untrained_teacher=random),
            f"attention copied from {title}, ImageNet",
        )
        yield (
            distilling(f"vit-{key}-large-distil", network, distillation(LARGE), untrained_teacher=random),
            f"attention distilled from {title}, ImageNet",
        )


def _inaturalist() -> Iterator[Described]:
    for year in INATURALIST:
        data: Data = replace(IMAGES, name=f"inaturalist-{year}")
        title = f"iNaturalist {year}"
        ending = f"inat{year}"
        yield from_scratch(f"vit-large-scratch-{ending}", MAE_LARGE, data), f"ViT-L alone on {title}, from scratch"
        yield (
            fine_tuning(f"vit-mae-large-fine-tune-{ending}", MAE_LARGE, data),
            f"MAE's ViT-L fine-tuned on {title}",
        )
        yield (
            copying(f"vit-mae-large-copy-{ending}", MAE_LARGE, COPY, data=data),
            f"attention copied from MAE's ViT-L, {title}",
        )
        yield (
            distilling(f"vit-mae-large-distil-{ending}", MAE_LARGE, distillation(LARGE), data=data),
            f"attention distilled from MAE's ViT-L, {title}",
        )


def _mix_and_match() -> Iterator[Described]:
    # CLIP's patches are of 14 pixels, those of the others of 16.
    plain, resampled = distillation(LARGE), replace(distillation(LARGE), resample=True)
    for teacher, student, method, title in (
        ("mae", "mae", plain, "MAE's attention distilled into MAE's ViT-L"),
        ("mocov3", "mae", plain, "MoCo-v3's attention distilled into MAE's ViT-L"),
        ("clip", "mae", resampled, "CLIP's attention distilled into MAE's ViT-L, over other patches"),
        ("mae", "clip", resampled, "MAE's attention distilled into CLIP's ViT-L, over other patches"),
    ):
        networks = {"mae": MAE_LARGE, "mocov3": MOCO, "clip": CLIP}
        name = f"vit-mix-{teacher}-{student}"
        yield distilling(name, networks[teacher], method, student=networks[student]), title
