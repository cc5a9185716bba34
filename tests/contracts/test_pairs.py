"""Every method runs between every pair of the CIFAR benchmark, and between unlike networks of other libraries."""

import copy
import re
from functools import cache
from typing import NamedTuple

import pytest
import torch
from tests.trained import as_trained
from torch import nn

from attention_transfer import METHODS, AttentionTransfer, Distiller, SoftTargets, build
from attention_transfer.methods import Phase
from attention_transfer.models.untrained import settle_norms
from attention_transfer.recipes.class_attention_distillation import TABLE5, TABLE6

# Their own tests pair transformers of every shape, and have them refuse networks of convolutions.
OF_TRANSFORMERS = {"attention-copy", "attention-distillation", "feature-distillation", "attention-links"}
KEYS = [key for key in METHODS if key not in OF_TRANSFORMERS]
CLASSES = 6


class Pair(NamedTuple):
    teacher: str
    student: str
    image_size: int


def transformer(name: str, width: int, depth: int, rest: str = "") -> str:
    return f"timm:{name}(img_size=64, patch_size=16, embed_dim={width}, depth={depth}, num_heads=2{rest})"


VIT = transformer("vit_tiny_patch16_224", 32, 4)
DISTILLED = transformer("deit_tiny_distilled_patch16_224", 24, 3)
WITHOUT_CLASS_TOKEN = transformer("vit_tiny_patch16_224", 24, 3, ', class_token=False, global_pool="avg"')
# MobileNetV2 leaves one position of 16 pixels, of which nothing has a map.
CIFAR = [
    Pair(pair.teacher, pair.student, 32 if pair.student.startswith("mobilenet") else 16) for pair in (*TABLE5, *TABLE6)
]
TIMM = [
    Pair("timm:resnet14t", "timm:resnet10t", 64),
    Pair("timm:regnetx_002", "timm:mobilenetv3_small_050", 64),
    Pair(VIT, WITHOUT_CLASS_TOKEN, 64),
    Pair(VIT, DISTILLED, 64),
    Pair("timm:resnet10t", DISTILLED, 64),
    Pair(VIT, "timm:resnet10t", 64),
]
WITHOUT_CLASS_MAPS = {
    VIT: "could not locate global average pooling before the head",
    DISTILLED: "the student has no class maps: no single linear layer is known that makes its logits",
    "timm:mobilenetv3_small_050": r"has no class maps at input of global_pool: .* between them lie conv_head",
}


@cache
def networks(pair: Pair) -> tuple[nn.Module, nn.Module]:
    """The student and a teacher whose values have a size as after training."""
    torch.manual_seed(0)
    student, teacher = build(pair.student, CLASSES), as_trained(build(pair.teacher, CLASSES))
    settle_norms(teacher, (pair.image_size, pair.image_size))
    return student, teacher


def refusal(key: str, pair: Pair) -> str | None:
    """What the probe says where a method cannot run between two networks; None where it can."""
    if key == "distillation-token" and pair.student != DISTILLED:
        return "the student has no head of a distillation token: take a distilled network"
    if key == "cat":
        return next((why for name, why in WITHOUT_CLASS_MAPS.items() if name in pair), None)
    return None


def distiller(key: str, pair: Pair) -> Distiller:
    student, teacher = networks(pair)
    return Distiller(
        copy.deepcopy(student),
        teacher,
        # Eight heads over 2,048 channels are 50 million weights.
        [METHODS[key](heads=1) if key == "mhgd" else METHODS[key]()],
        task_weight=0,
        example=torch.empty(2, 3, pair.image_size, pair.image_size),
        train_labels=torch.arange(4 * CLASSES) % CLASSES,
    )


@pytest.mark.filterwarnings("ignore:the student is larger")
@pytest.mark.parametrize(
    "pair", [*CIFAR, *TIMM], ids=lambda pair: re.sub(r"\(.*?\)", "", f"{pair.teacher}->{pair.student}")
)
@pytest.mark.parametrize("key", KEYS)
def test_a_step_is_finite_and_teaches_the_student(key: str, pair: Pair) -> None:
    reason = refusal(key, pair)
    if reason is not None:
        with pytest.raises(ValueError, match=reason):
            distiller(key, pair)
        return
    built = distiller(key, pair)
    # All terms at once, whatever phases a training would have.
    built.set_phase(Phase("all"))
    images = torch.randn(4, 3, pair.image_size, pair.image_size, generator=torch.Generator().manual_seed(1))
    batch = images, torch.arange(4), torch.arange(4)
    out = built(*batch)
    assert out.terms
    assert all(term.value.isfinite() for term in out.terms.values())
    built.backward(out)
    gradients = [p.grad for p in built.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(p.grad.any() for p in built.student.parameters() if p.grad is not None)
    torch.optim.SGD(built.trainable_parameters(), lr=1e-4).step()
    assert built(*batch).loss.isfinite()
    built.detach()


def test_methods_of_all_kinds_teach_together() -> None:
    torch.manual_seed(0)
    teacher = as_trained(build("resnet14", CLASSES))
    # Class maps and activation maps of one stage would be two wishes for the same place.
    methods = [METHODS[key]() for key in ("cat", "dkd", "crd", "fitnet", "ofd", "reviewkd", "rkd", "sp", "pkt", "kd")]
    built = Distiller(
        build("resnet8", CLASSES),
        teacher,
        methods,
        example=torch.empty(2, 3, 32, 32),
        train_labels=torch.arange(24) % CLASSES,
    ).train()
    batch = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(4), torch.arange(4)
    out = built(*batch)
    assert {name.partition("-")[0] for name in out.terms} == {"ce", *(method.key for method in methods)}
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.trainable_parameters())


# ---------------------------------------------------------------- both methods between networks of other libraries

PAIRS = [
    ("timm:resnet18", "timm:resnet26"),
    ("timm:mobilenetv3_small_050", "timm:efficientnet_lite0"),
    ("torchvision:resnet18", "timm:convnext_atto"),
    ("timm:resnet10t", "timm:swin_s3_tiny_224"),
    ("timm:deit_tiny_distilled_patch16_224", "torchvision:squeezenet1_0"),
    ("resnet8", "timm:vit_tiny_patch16_224"),
]


@pytest.mark.filterwarnings("ignore:the student is larger")
@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_a_step_between_foreign_networks_is_finite_and_teaches_the_student(student: str, teacher: str) -> None:
    torch.manual_seed(0)
    size = 224 if "224" in student + teacher else 64
    networks = [as_trained(build(name, 5)) for name in (student, teacher)]
    distiller = Distiller(
        networks[0], networks[1], [AttentionTransfer(), SoftTargets()], example=torch.empty(2, 3, size, size)
    )
    out = distiller(torch.randn(2, 3, size, size), torch.tensor([0, 3]))
    assert set(out.terms) == {"ce", "at", "kd"}
    assert out.loss.isfinite()
    out.loss.backward()
    reached = [p for p in networks[0].parameters() if p.grad is not None]
    assert reached
    assert all(p.grad.isfinite().all() for p in reached if p.grad is not None)
    assert all(p.grad is None for p in networks[1].parameters())
    distiller.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for network in networks for m in network.modules())
