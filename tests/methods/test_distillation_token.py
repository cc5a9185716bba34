"""The distillation token against the authors' values, a slow loop, its place beside the labels, and its refusals."""

import math

import pytest
import timm
import torch
from tests.closeness import assert_near
from tests.trained import as_trained
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import (
    AttentionDistillation,
    AttentionTransfer,
    DistillationToken,
    Distiller,
    SoftTargets,
    build,
)
from attention_transfer.capture import Tap
from attention_transfer.methods import Observed, Reads
from attention_transfer.methods.distillation_token import hard_target_loss
from attention_transfer.models import describe
from attention_transfer.models.introspection.description import Description
from attention_transfer.models.meta_networks import outline

SIZES = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 6}
EXAMPLE = torch.empty(2, 3, 16, 16)


def student() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("deit_tiny_distilled_patch16_224", **SIZES)


def teacher(classes: int = 6) -> nn.Module:
    torch.manual_seed(1)
    return as_trained(build("resnet8", classes))


def batch(count: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(2)), torch.arange(count) % 6


def two_heads(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """What both heads give, as timm hands it over where its own switch is on."""
    network.set_distilled_training(True)
    of_class, of_distillation = network.train()(images)
    network.set_distilled_training(False)
    return of_class, of_distillation


def term(method: DistillationToken, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    seen = Observed(student_logits, (torch.zeros_like(student_logits), student_logits))
    (value,) = method.terms(None, Observed(teacher_logits), seen, None).values()  # pyright: ignore[reportArgumentType]
    return value.value


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("deit_hard_a05", DistillationToken(kind="hard")),
        ("deit_soft_a05_t3", DistillationToken(kind="soft", temperature=3.0)),
    ],
)
def test_value_and_gradient_are_those_of_the_authors(golden: dict[str, Tensor], key: str, method: DistillationToken):
    of_class = golden["student_logits"].clone().requires_grad_()
    of_distillation = golden["distillation_token_logits"].clone().requires_grad_()
    labels = functional.cross_entropy(of_class, golden["labels"].long())
    value = 0.5 * labels + method.weight * term(method, of_distillation, golden["teacher_logits"])
    value.backward()
    assert_near(value, golden[key])
    for name, logits in (("student_logits", of_class), ("distillation_token_logits", of_distillation)):
        wanted = golden[f"{key}.grad.{name}"]
        assert_near(logits.grad, wanted)


def test_values_equal_loops_written_from_the_paper() -> None:
    generator = torch.Generator().manual_seed(3)
    ours, theirs = (torch.randn(4, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    hard = soft = 0.0
    for z, t in zip(ours.tolist(), theirs.tolist(), strict=True):
        hard -= math.log(math.exp(z[t.index(max(t))]) / sum(math.exp(x) for x in z)) / 4
        p, q = ([math.exp(x / 2) for x in row] for row in (t, z))
        soft += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True)) * 4 / 4
    assert float(hard_target_loss(ours, theirs)) == pytest.approx(hard, rel=1e-12)
    assert float(term(DistillationToken(kind="soft", temperature=2.0, form="paper"), ours, theirs)) == pytest.approx(
        soft, rel=1e-12
    )
    assert float(term(DistillationToken(kind="soft", temperature=2.0), ours, theirs)) == pytest.approx(soft / 5)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_gradient_is_right_in_double_precision_and_stops_at_the_teacher(kind: str) -> None:
    ours, theirs = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    method = DistillationToken(kind=kind)  # pyright: ignore[reportArgumentType]
    assert torch.autograd.gradcheck(lambda z: term(method, z, theirs.detach()), (ours,))
    term(method, ours, theirs).backward()
    assert theirs.grad is None


def test_labels_are_learned_by_the_class_head_and_the_teacher_by_the_other() -> None:
    network, images, labels = student(), *batch()
    distiller = Distiller(network, teacher(), [DistillationToken()], task_weight=0.5, example=EXAMPLE)
    out = distiller(images, labels)
    assert out.teacher_logits is not None
    of_class, of_distillation = two_heads(network, images)
    torch.testing.assert_close(out.terms["ce"].value, functional.cross_entropy(of_class, labels))
    wanted = functional.cross_entropy(of_distillation, out.teacher_logits.argmax(1))
    torch.testing.assert_close(out.terms["distillation-token"].value, wanted)
    torch.testing.assert_close(out.loss, 0.5 * out.terms["ce"].value + 0.5 * wanted)
    heads = (network.head.weight, network.head_dist.weight)
    by_labels = torch.autograd.grad(out.terms["ce"].value, heads, retain_graph=True, allow_unused=True)
    by_teacher = torch.autograd.grad(wanted, heads, allow_unused=True)
    assert (by_labels[1], by_teacher[0]) == (None, None)


def test_what_is_measured_is_the_mean_of_both_heads() -> None:
    network, images, labels = student(), *batch()
    distiller = Distiller(network, teacher(), [DistillationToken()], example=EXAMPLE)
    of_class, of_distillation = two_heads(network, images)
    torch.testing.assert_close(distiller(images, labels).student_logits, (of_class + of_distillation) / 2)
    assert distiller.deployed is network
    torch.testing.assert_close(distiller.predict(images), (of_class + of_distillation) / 2)


def test_mixed_labels_are_learned_too() -> None:
    images, labels = batch()
    mixed = 0.3 * functional.one_hot(labels, 6).float() + 0.7 / 6
    network = student()
    out = Distiller(network, teacher(), [DistillationToken()], example=EXAMPLE)(images, mixed)
    torch.testing.assert_close(out.terms["ce"].value, functional.cross_entropy(two_heads(network, images)[0], mixed))


def test_it_goes_with_attention_and_soft_targets() -> None:
    networks = student(), as_trained(timm.create_model("vit_tiny_patch16_224", **SIZES))
    methods = [DistillationToken(), AttentionDistillation(resample=True), AttentionTransfer(), SoftTargets()]
    distiller = Distiller(*networks, methods, example=EXAMPLE)
    out = distiller(*batch())
    assert set(out.terms) == {"ce", "distillation-token", "attention-distillation", "at", "kd"}
    distiller.backward(out)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in networks[0].parameters())


@pytest.mark.parametrize("name", ["pit_ti_distilled_224", "levit_128s", "efficientformer_l1"])
def test_other_distilled_networks_of_timm_have_two_heads_as_well(name: str) -> None:
    heads = describe(outline(lambda: timm.create_model(name, num_classes=3))).token_heads
    assert heads is not None
    assert [path.partition(".")[0] for path in heads] == ["head", "head_dist"]


@pytest.mark.parametrize("name", ["resnet8", "timm:crossvit_tiny_240", "timm:vit_tiny_patch16_224"])
def test_a_student_without_the_token_is_refused_with_a_way_out(name: str) -> None:
    description = describe(outline(lambda: build(name, 3)))
    with pytest.raises(ValueError, match=r"no head of a distillation token: take .*\(distillation_token=True\)"):
        DistillationToken().reads(Description(()), description)


def test_a_teacher_of_other_classes_or_none_is_refused() -> None:
    with pytest.raises(ValueError, match="the teacher has 4, the student 6"):
        Distiller(student(), teacher(4), [DistillationToken()], example=EXAMPLE)
    with pytest.raises(ValueError, match="needs a teacher"):
        Distiller(student(), None, [DistillationToken()], example=EXAMPLE)


class OtherHead(DistillationToken):
    """Wants the labels learned by the other head."""

    def task_tap(self, reads: Reads) -> Tap:
        return reads.student.taps[1]


def test_two_methods_cannot_want_the_labels_learned_at_different_places() -> None:
    with pytest.raises(ValueError, match="two methods want the labels learned at head and head_dist"):
        Distiller(student(), teacher(), [DistillationToken(), OtherHead()], example=EXAMPLE)


def test_heads_of_which_the_logits_are_not_the_mean_are_refused() -> None:
    network = student()
    forward = network.forward_head
    network.forward_head = lambda x: 2 * forward(x)
    with pytest.raises(ValueError, match="not the mean of its two heads"):
        Distiller(network, teacher(), [DistillationToken()], example=EXAMPLE)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        DistillationToken(temperature=temperature)
