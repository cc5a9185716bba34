"""Multi-head graph distillation (Lee & Song, BMVC 2019, arXiv:1907.02226), and its control graphs.

The authors' code: 40 epochs for the heads, then 100 for the student; SGD with Nesterov momentum 0.9, weight decay 5e-4
on everything, batch 128, learning rate 0.1 divided by 10 after 30, 60 and 80 of the 100 epochs; crops of images with
reflected borders, mirrored at random. The VGG, wide ResNet and MobileNet of the paper are not in it: networks of this
library stand in for them.

>>> experiments = {experiment.recipe: experiment for experiment, _ in recipes()}
>>> experiments["mhgd-cifar100-resnet32x4-resnet8x4"].methods[0].key
'mhgd'
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from attention_transfer.experiment import Data, Experiment, Optimisation, Training
from attention_transfer.methods import AttentionTransfer, Method, MultiHeadGraph, Relational
from attention_transfer.recipes.cifar import cifar100
from attention_transfer.recipes.described import Described
from attention_transfer.recipes.digits import DATA as DIGITS
from attention_transfer.recipes.digits import LONG_TEST_LIMIT, LONG_TRAINING
from attention_transfer.recipes.digits import OPTIMISATION as DIGITS_OPTIMISATION

PROTOCOL = Optimisation(optimizer="nesterov", learning_rate=0.1, weight_decay=5e-4, steps=(0.3, 0.6, 0.8))
CIFAR100 = Data("cifar100", augment="reflect-crop-flip")
TINY_IMAGENET = Data("tiny-imagenet", image_size=64, augment="reflect-crop-flip")
TRAINING = Training(epochs=100, batch_size=128)

MHGD = MultiHeadGraph()
# The pair of the published comparison is theirs: ResNet-32 and ResNet-8 with widths of 64, 128 and 256.
COMPARED = ("resnet32x4", "resnet8x4")
VGG = ("vgg13", "vgg8")
PAIRS = (VGG, ("wrn_40_2", "wrn_16_2"), COMPARED, ("resnet56", "resnet20"), ("vgg13", "mobilenetv2_half"))
COMPARISON: dict[str, tuple[tuple[Method, ...], str]] = {
    "at": ((AttentionTransfer(weight=1000.0),), "AT"),
    "rkd": ((Relational(),), "RKD"),
}
NUMBERS_OF_HEADS = (1, 8, 16)
NUMBERS_OF_LAYERS = (2, 3, 4)

CONTROLS: dict[Literal["random", "constant", "identity", "similarity"], str] = {
    "random": "a random graph",
    "constant": "a constant graph",
    "identity": "the identity",
    "similarity": "plain similarity",
}

# As `digits-mhgd`: 25 epochs of 4,000 images, 100,000 samples seen; the heads see 16,000 before.
DIGITS_DATA = replace(DIGITS, test_limit=LONG_TEST_LIMIT)
DIGITS_GRAPH_EPOCHS = 4


def recipes() -> Iterator[Described]:
    """Every recipe of the paper, and ours."""
    yield from _pairs()
    yield from _variations()
    yield from _tiny_imagenet()
    yield from _controls_on_cifar100()
    yield from _digits()


def _pairs() -> Iterator[Described]:
    for network in dict.fromkeys(network for pair in PAIRS for network in pair):
        yield _experiment(f"mhgd-cifar100-{network}", network), f"{network} alone under MHGD's protocol, CIFAR-100"
    for teacher, student in PAIRS:
        name, text = f"mhgd-cifar100-{teacher}-{student}", f"{teacher} → {student}, CIFAR-100"
        yield _experiment(name, student, teacher, (MHGD,)), f"MHGD; {text}"
        for suffix, (methods, title) in COMPARISON.items():
            yield _experiment(f"{name}-{suffix}", student, teacher, methods), f"{title} under MHGD's protocol; {text}"


def _variations() -> Iterator[Described]:
    teacher, student = VGG
    for heads in NUMBERS_OF_HEADS:
        method = replace(MHGD, heads=heads)
        title = f"MHGD with {heads} head{'' if heads == 1 else 's'}"
        yield (
            _experiment(f"mhgd-heads-{heads}", student, teacher, (method,)),
            f"{title}; {teacher} → {student}, CIFAR-100",
        )
    for layers in NUMBERS_OF_LAYERS:
        method = replace(MHGD, stages=tuple(range(-layers, 0)))
        text = f"MHGD over the last {layers} stages: {layers - 1} graph{'' if layers == 2 else 's'}"
        yield (
            _experiment(f"mhgd-layers-{layers}", student, teacher, (method,)),
            f"{text}; {teacher} → {student}, CIFAR-100",
        )


def _tiny_imagenet() -> Iterator[Described]:
    teacher, student = VGG
    for network in VGG:
        name = f"mhgd-tiny-imagenet-{network}"
        yield _experiment(name, network, data=TINY_IMAGENET), f"{network} alone under MHGD's protocol, Tiny-ImageNet"
    name = f"mhgd-tiny-imagenet-{teacher}-{student}"
    yield _experiment(name, student, teacher, (MHGD,), TINY_IMAGENET), f"MHGD; {teacher} → {student}, Tiny-ImageNet"


def _experiment(
    name: str, student: str, teacher: str | None = None, methods: tuple[Method, ...] = (), data: Data = CIFAR100
) -> Experiment:
    return Experiment(name, student, teacher, methods, data=data, optimisation=PROTOCOL, training=TRAINING)


def _controls_on_cifar100() -> Iterator[Described]:
    """Does the relation help, or only the second task? Beside the benchmark's rows, and under its protocol."""
    teacher, student = "resnet56", "resnet20"
    for graph, methods, text in _controls(MHGD):
        yield (
            cifar100(f"cifar100-{teacher}-{student}-mhgd-{graph}", student, teacher, methods),
            f"{text}; {teacher} → {student}, CIFAR-100",
        )


def _digits() -> Iterator[Described]:
    """The same on cluttered digits; the others are `digits-alone`, `digits-kd` and `digits-mhgd`."""
    for graph, methods, text in _controls(replace(MHGD, graph_epochs=DIGITS_GRAPH_EPOCHS)):
        experiment = Experiment(
            f"mhgd-digits-{graph}",
            "resnet8",
            "resnet20",
            methods,
            data=DIGITS_DATA,
            optimisation=DIGITS_OPTIMISATION,
            training=LONG_TRAINING,
        )
        yield experiment, f"{text}; resnet20 → resnet8, 25 epochs of cluttered digits"


def _controls(method: MultiHeadGraph) -> Iterator[tuple[str, tuple[Method, ...], str]]:
    for graph, text in CONTROLS.items():
        yield graph, (replace(method, graph=graph),), f"control of MHGD, {text}"
