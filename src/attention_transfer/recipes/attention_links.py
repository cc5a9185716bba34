"""Jin & Choi (arXiv:2211.13852): attention links from convolutional networks to vision transformers.

>>> {experiment.recipe: text for experiment, text in recipes()}["links-table2-5-links"]
'α links, EfficientNet-B3 → DeiT-S, 5 % of ImageNet'
"""

from collections.abc import Iterator
from dataclasses import replace

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionLinks, Method, Schedule
from attention_transfer.recipes import distillation_token
from attention_transfer.recipes.described import Described
from attention_transfer.recipes.vision_transformer_training import IMAGES

# Everything that the paper does not say of its training is DeiT's.
_DROP_PATH = "(drop_path_rate=0.1)"
DEIT = f"timm:deit_small_patch16_224{_DROP_PATH}"
DISTILLED = f"timm:deit_small_distilled_patch16_224{_DROP_PATH}"
DISTILLED_BASE = f"timm:deit_base_distilled_patch16_224{_DROP_PATH}"
DEIT_BASE = f"timm:deit_base_patch16_224{_DROP_PATH}"
CONVIT = f"timm:convit_small{_DROP_PATH}"
PIT = f"timm:pit_s_224{_DROP_PATH}"
TEACHER, TEACHER_34 = "timm:efficientnet_b3@pretrained", "timm:resnet34.tv_in1k@pretrained"

FULL, ALPHA, BETA = AttentionLinks(), AttentionLinks(links="alpha"), AttentionLinks(links="beta")
FIXED_DECAY = Schedule(decay=((0, 0.99),))

# Percent of ImageNet, class by class, and the batch of the main results; ablations have 1024 throughout.
SHARES = {5: 512, 10: 512, 30: 1024, 50: 1024, 100: 1024}
BATCH = 1024
SNAPSHOTS = (0, 1, 10, 50, 100, 200, 300)

SMALL_IMAGES = replace(IMAGES, name="cifar10", num_workers=0)
STRONG = SMALL_IMAGES
# «Random crops and horizontal flips».
WEAK = replace(SMALL_IMAGES, augment="crop-flip", auto_augment=None, random_erasing=None, mixup=None, cutmix=None)
CUB200, FLOWERS = replace(IMAGES, name="cub200"), replace(IMAGES, name="flowers102")
HARD, SOFT = distillation_token.KINDS["hard"], distillation_token.KINDS["soft"]


def recipes() -> Iterator[Described]:
    """Every table and figure that is made by training."""
    yield from _shares_of_imagenet()
    yield from _choices_of_links()
    yield from _other_networks()
    yield from _augmentation_and_distillation()
    yield from _small_sets()
    yield from _ablations()


def training(
    recipe: str,
    student: str,
    *methods: Method,
    data: Data,
    teacher: str = TEACHER,
    batch_size: int = BATCH,
    epochs: int = 300,
    snapshots: bool = False,
) -> Experiment:
    """A run under DeiT's protocol; labels share their weight with a distillation token.

    Args:
        recipe: name of the recipe.
        student: student to train.
        methods: distillation methods; none for the baseline.
        data: data set and augmentation.
        teacher: teacher, where there are methods.
        batch_size: images per step, which the learning rate is scaled by.
        epochs: epochs of the whole training.
        snapshots: whether the links are saved along training.
    """
    protocol, token = distillation_token.PROTOCOL, bool({HARD, SOFT} & set(methods))
    return Experiment(
        recipe,
        student,
        teacher if methods else None,
        methods,
        distillation_token.TASK_WEIGHT if token else 1.0,
        data=data,
        optimisation=_for_batch(protocol, batch_size),
        training=Training(epochs=epochs, batch_size=batch_size, snapshot_epochs=SNAPSHOTS if snapshots else None),
    )


def _for_batch(protocol: Optimisation, batch_size: int) -> Optimisation:
    return replace(protocol, learning_rate=protocol.learning_rate * batch_size / BATCH)


def _share(percent: int) -> Data:
    return IMAGES if percent == 100 else replace(IMAGES, train_fraction=percent / 100)


def _shares_of_imagenet() -> Iterator[Described]:
    for percent, batch in SHARES.items():
        data, title = _share(percent), f"{percent} % of ImageNet"
        # The full link is the better one on all of it.
        method, which = (FULL, "full") if percent == 100 else (ALPHA, "α")
        for name, student, methods, text in (
            ("deit", DEIT, (), "DeiT-S alone"),
            ("convit", CONVIT, (), "ConViT-S alone"),
            ("links", DISTILLED, (method,), f"{which} links, EfficientNet-B3 → DeiT-S"),
        ):
            recipe = f"links-table2-{percent}-{name}"
            yield training(recipe, student, *methods, data=data, batch_size=batch), f"{text}, {title}"


def _choices_of_links() -> Iterator[Described]:
    for percent in SHARES:
        selective, which = (BETA, "β") if percent == 100 else (ALPHA, "α")
        for name, method, text in (("full", FULL, "full"), ("selective", selective, which)):
            experiment = training(
                f"links-table3-{percent}-{name}",
                DISTILLED,
                method,
                data=_share(percent),
                snapshots=name == "full" and percent in (5, 100),
            )
            yield experiment, f"{text} links, EfficientNet-B3 → DeiT-S, {percent} % of ImageNet, batch 1024"


def _other_networks() -> Iterator[Described]:
    yield (
        training("links-table4-resnet34-deit_small", DISTILLED, FULL, data=IMAGES, teacher=TEACHER_34),
        "full links, ResNet-34 → DeiT-S, ImageNet",
    )
    yield (
        training("links-table4-efficientnet_b3-deit_base", DISTILLED_BASE, FULL, data=IMAGES),
        "full links, EfficientNet-B3 → DeiT-B, ImageNet",
    )
    for name, methods, text in (
        ("alone", (), "PiT-S alone"),
        ("links", (FULL,), "full links, EfficientNet-B3 → PiT-S"),
    ):
        experiment = training(f"links-table6-pit_s-{name}", PIT, *methods, data=_share(5), batch_size=SHARES[5])
        yield experiment, f"{text}, 5 % of ImageNet"


def _augmentation_and_distillation() -> Iterator[Described]:
    # A teacher of CIFAR-10, for its logits must be of the same classes; its weights come from this run.
    own = "timm:efficientnet_b3"
    yield training("links-table5-teacher", own, data=STRONG), "EfficientNet-B3 alone on CIFAR-10, to teach others"
    for strength, data in (("strong", STRONG), ("weak", WEAK)):
        for name, methods, text in (
            ("ce", (), "DeiT-S alone"),
            ("links", (FULL,), "full links"),
            ("soft", (SOFT,), "soft distillation by the token"),
            ("hard", (HARD,), "hard distillation by the token"),
            ("links-hard", (FULL, HARD), "full links and hard distillation"),
        ):
            experiment = training(f"links-table5-{strength}-{name}", DISTILLED, *methods, data=data, teacher=own)
            yield experiment, f"{text}, CIFAR-10, {strength} augmentation; teachers are runs of links-table5-teacher"


def _small_sets() -> Iterator[Described]:
    yield (
        training("links-tablea-links", DISTILLED, FULL, data=STRONG, snapshots=True),
        "full links, EfficientNet-B3 of ImageNet → DeiT-S, CIFAR-10",
    )
    yield training("links-tablea-convit", CONVIT, data=STRONG), "ConViT-S alone, CIFAR-10"
    yield training("links-tablea-deit", DEIT_BASE, data=STRONG, epochs=7200), "DeiT-B alone, CIFAR-10, 7200 epochs"
    published = DISTILLED.replace("224(", "224.fb_in1k(") + "@pretrained"
    for name, data, title in (("cub200", CUB200, "CUB-200"), ("flowers102", FLOWERS, "Flowers-102")):
        # With weights of ImageNet, Flowers-102 is too easy, as the paper says.
        starts = {"scratch": DISTILLED} | ({"transfer": published} if name == "cub200" else {})
        for start, student in starts.items():
            for what, methods in (("deit", ()), ("links", (FULL,))):
                text = f"{'full links, EfficientNet-B3 → DeiT-S' if methods else 'DeiT-S alone'}, {title}"
                weights = "from scratch" if start == "scratch" else "from weights of ImageNet"
                yield (
                    training(f"links-tableb-{name}-{start}-{what}", student, *methods, data=data, batch_size=512),
                    f"{text}, {weights}",
                )


def _ablations() -> Iterator[Described]:
    yield (
        training("links-tablee", DISTILLED, FULL, data=_share(5), epochs=240),
        "full links, EfficientNet-B3 → DeiT-S, 5 % of ImageNet, 240 epochs; sweep seed",
    )
    fixed = replace(ALPHA, schedule=FIXED_DECAY)
    yield (
        training("links-decay-fixed", DISTILLED, fixed, data=_share(50)),
        "α links whose weight decays by 0.99 to the end, 50 % of ImageNet",
    )
