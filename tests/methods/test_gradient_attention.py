"""Gradient attention against finite differences and the chain rule, on every kind of network."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from tests.trained import as_trained
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from attention_transfer import AttentionTransfer, Distiller, build
from attention_transfer.capture import CaptureError
from attention_transfer.methods import GradientAttention
from attention_transfer.methods.gradient_attention import gradient_distance

Pair = tuple[nn.Module, nn.Module]


class Smooth(nn.Module):
    """Few parameters and a smooth activation, so that three derivatives exist."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.fc = nn.Linear(width * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(functional.softplus(self.conv(x)).flatten(1))


def smooth_distiller(method: GradientAttention) -> tuple[Distiller, Tensor, Tensor]:
    torch.manual_seed(0)
    student, teacher = Smooth(2).double(), Smooth(3).double() if method.target == "teacher" else None
    example = torch.empty(2, 3, 4, 4, dtype=torch.float64)
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    return Distiller(student, teacher, [method], task_weight=0, example=example), images, torch.tensor([0, 2])


def slow_gradient(model: nn.Module, images: Tensor, labels: Tensor, step: float = 1e-6) -> Tensor:
    """∂(sum of the images' cross-entropies)/∂(pixel), by central differences."""
    found = torch.zeros_like(images)
    with torch.no_grad():
        for place in torch.cartesian_prod(*(torch.arange(n) for n in images.shape)):
            values: list[Tensor] = []
            for sign in (1, -1):
                moved = images.clone()
                moved[tuple(place)] += sign * step
                values.append(functional.cross_entropy(model(moved), labels, reduction="sum"))
            found[tuple(place)] = (values[0] - values[1]) / (2 * step)
    return found


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("distance", ["norm", "square"])
@pytest.mark.parametrize("target", ["teacher", "flip"])
def test_value_is_the_distance_of_finite_differences(target: str, distance: str, normalise: bool) -> None:
    method = GradientAttention(target=target, distance=distance, normalise=normalise)
    distiller, images, labels = smooth_distiller(method)
    ours = slow_gradient(distiller.student, images, labels)
    theirs = (
        slow_gradient(distiller.student, images.flip(3), labels).flip(3)
        if distiller.teacher is None
        else slow_gradient(distiller.teacher, images, labels)
    )
    each: list[Tensor] = []
    for s, t in zip(ours, theirs, strict=True):
        difference = s / s.norm() - t / t.norm() if normalise else s - t
        each.append(difference.norm() if distance == "norm" else difference.norm() ** 2)
    found = distiller(images, labels).terms["gradient"].value
    assert found.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-6)


@pytest.mark.parametrize("target", ["teacher", "flip"])
def test_it_passes_gradcheck_and_gradgradcheck(target: str) -> None:
    distiller, images, labels = smooth_distiller(GradientAttention(target=target, distance="norm"))
    weight = distiller.student.get_parameter("conv.weight").detach().clone().requires_grad_()

    def value(weight: Tensor) -> Tensor:
        return functional_call(distiller, {"student.conv.weight": weight}, (images, labels)).loss

    assert torch.autograd.gradcheck(value, (weight,))
    assert torch.autograd.gradgradcheck(value, (weight,))


def test_distance_of_given_gradients_is_differentiable_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    ours.requires_grad_()
    for normalise in (True, False):
        assert torch.autograd.gradcheck(lambda x, n=normalise: gradient_distance(x, theirs, normalise=n), (ours,))
        assert torch.autograd.gradgradcheck(lambda x, n=normalise: gradient_distance(x, theirs, normalise=n), (ours,))


def test_it_does_not_shrink_with_the_batch() -> None:
    """Networks without batch norm: the same images twice over have the same value."""
    distiller, images, labels = smooth_distiller(GradientAttention())
    once = distiller(images, labels).terms["gradient"].value
    twice = distiller(images.repeat(2, 1, 1, 1), labels.repeat(2)).terms["gradient"].value
    torch.testing.assert_close(once, twice)


def vit(classes: int) -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=classes
    )


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "resnet": lambda classes: build("resnet8", classes),
    "wide-resnet": lambda classes: build("wrn_16_1", classes),
    "vgg": lambda classes: build("vgg8", classes),
    "mobilenet": lambda classes: build("mobilenetv2_half", classes),
    "timm-mobilenet": lambda classes: build("timm:mobilenetv3_small_050", classes),
    "timm-vit": vit,
}


@pytest.mark.parametrize("target", ["teacher", "flip"])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_teaches_every_kind_of_network(name: str, target: str) -> None:
    torch.manual_seed(0)
    student, teacher = NETWORKS[name](4), as_trained(build("vgg13", 4)) if target == "teacher" else None
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    distiller = Distiller(
        student, teacher, [GradientAttention(target=target)], task_weight=0, example=torch.empty(2, 3, 32, 32)
    )
    if name == "timm-vit":
        for p in student.get_submodule("head").parameters():
            nn.init.normal_(p)  # it starts at zero, where no pixel matters
    first = distiller(images, labels)
    first.loss.backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert norm > 0
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad / norm
    assert distiller(images, labels).loss < first.loss


def test_attention_falls_back_only_while_a_second_derivative_is_needed() -> None:
    """The fused kernel of the CPU has no second derivative: without the fallback this student cannot learn."""
    student = vit(4)
    image = torch.randn(2, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(student(image).square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative"):
        gradient.sum().backward()
    Distiller(student, None, [GradientAttention(target="flip")], example=torch.empty(2, 3, 32, 32))
    (gradient,) = torch.autograd.grad(student(image).square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative"):
        gradient.sum().backward()


def test_a_mirrored_pass_moves_no_running_statistics() -> None:
    student = build("resnet8", 4)
    once = copy.deepcopy(student).train()
    distiller = Distiller(student, None, [GradientAttention(target="flip")], example=torch.empty(2, 3, 32, 32))
    images = torch.randn(4, 3, 32, 32)
    distiller(images, torch.arange(4)).loss.backward()
    once(images)
    wanted = dict(once.named_buffers())
    assert wanted
    for name, buffer in student.named_buffers():
        torch.testing.assert_close(buffer, wanted[name])


class HardSigmoid(nn.Module):
    """Runs one layer again when it is differentiated, if asked."""

    def __init__(self, checkpointed: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(12, 12), nn.Hardsigmoid())
        self.fc = nn.Linear(12, 4)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.fc(checkpoint(self.inner, x, use_reentrant=False) if self.checkpointed else self.inner(x))


def test_a_checkpointed_student_is_refused_since_it_would_run_again_by_other_kernels() -> None:
    example = torch.empty(2, 3, 2, 2)
    method = GradientAttention(target="flip")
    Distiller(HardSigmoid(False), None, [method], example=example)
    with pytest.raises(CaptureError, match=r"the student is checkpointed.*switch gradient checkpointing off"):
        Distiller(HardSigmoid(True), None, [method], example=example)
    student = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=48, depth=2, num_heads=3, num_classes=4)
    student.set_grad_checkpointing()
    with pytest.raises(CaptureError, match="switch gradient checkpointing off"):
        Distiller(student, None, [method], example=torch.empty(2, 3, 32, 32))


def test_other_methods_still_notice_that_nothing_can_be_learned(small_pair: Pair) -> None:
    student, teacher = small_pair
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name.startswith("fc"))
    methods = [AttentionTransfer(), GradientAttention(target="flip")]
    with pytest.raises(CaptureError, match="'at' does not depend on any trainable parameter"):
        Distiller(student, teacher, methods, example=torch.empty(2, 3, 16, 16))


def test_it_cannot_be_measured_in_inference_mode(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [GradientAttention()], example=torch.empty(2, 3, 16, 16))
    with torch.inference_mode(), pytest.raises(ValueError, match=r"use torch\.no_grad"):
        distiller(torch.randn(4, 3, 16, 16), torch.arange(4))


def test_label_probabilities_and_class_numbers_agree(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [GradientAttention()], example=torch.empty(2, 3, 16, 16)).eval()
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    torch.testing.assert_close(
        distiller(images, functional.one_hot(labels, 5).float()).loss, distiller(images, labels).loss
    )


@pytest.mark.filterwarnings("ignore:the student learns in evaluation mode")
@pytest.mark.parametrize("target", ["teacher", "flip"])
@pytest.mark.parametrize("normalise", [False, True])
def test_images_without_a_label_are_left_out(small_pair: Pair, target: str, normalise: bool) -> None:
    method = GradientAttention(target=target, normalise=normalise)
    student, teacher = small_pair[0], small_pair[1] if target == "teacher" else None
    distiller = Distiller(student, teacher, [method], task_weight=0, example=torch.empty(2, 3, 16, 16)).eval()
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    found = distiller(images, torch.where(labels % 2 == 0, labels, -100)).loss
    torch.testing.assert_close(found, distiller(images[::2], labels[::2]).loss)
    gradients = torch.autograd.grad(found, list(distiller.parameters()), allow_unused=True)
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


def test_a_symmetric_student_has_nothing_to_learn_from_its_mirror_image() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.mean((2, 3)))

    distiller = Distiller(Mean(), None, [GradientAttention(target="flip")], example=torch.empty(2, 3, 8, 8))
    assert distiller(torch.randn(4, 3, 8, 8), torch.arange(4)).terms["gradient"].value.item() < 1e-7


def test_the_teacher_is_left_alone_and_without_a_graph(small_pair: Pair) -> None:
    student, teacher = small_pair
    distiller = Distiller(student, teacher, [GradientAttention()], example=torch.empty(2, 3, 16, 16))
    out = distiller(torch.randn(4, 3, 16, 16), torch.arange(4))
    assert out.teacher_logits is not None
    assert not out.teacher_logits.requires_grad
    out.loss.backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_it_can_be_measured_without_a_graph(small_pair: Pair) -> None:
    student, teacher = small_pair
    distiller = Distiller(student, teacher, [GradientAttention()], example=torch.empty(2, 3, 16, 16)).eval()
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    with torch.no_grad():
        without = distiller(images, labels)
    assert not without.loss.requires_grad
    torch.testing.assert_close(without.loss, distiller(images, labels).loss.detach())


def test_labels_are_needed(small_pair: Pair) -> None:
    student, teacher = small_pair
    distiller = Distiller(student, teacher, [GradientAttention()], task_weight=0, example=torch.empty(2, 3, 16, 16))
    with pytest.raises(ValueError, match="labels are needed"):
        distiller(torch.randn(4, 3, 16, 16))


@pytest.mark.parametrize("classes", [3, 7])
def test_other_classes_are_refused(small_pair: Pair, classes: int) -> None:
    with pytest.raises(ValueError, match=f"the teacher has {classes}, the student 5"):
        Distiller(small_pair[0], build("resnet8", classes), [GradientAttention()], example=torch.empty(2, 3, 16, 16))


def test_a_teacher_or_the_flip_is_needed(small_pair: Pair) -> None:
    with pytest.raises(ValueError, match='or target="flip"'):
        Distiller(small_pair[0], None, [GradientAttention()], example=torch.empty(2, 3, 16, 16))


def test_a_network_without_a_second_derivative_is_refused_when_built() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return gradient.clone()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(Once.apply(x.flatten(1)))

    with pytest.raises(CaptureError, match="cannot be computed: it has no second derivative"):
        Distiller(Net(), None, [GradientAttention(target="flip")], example=torch.empty(2, 3, 8, 8))


# Dynamo looks at tensors that it was handed over.
@pytest.mark.filterwarnings("ignore:the student learns in evaluation mode")
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_compiled_distiller_gives_the_same_though_its_networks_run_uncompiled(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [GradientAttention()], example=torch.empty(2, 3, 16, 16)).eval()
    images, labels = torch.randn(4, 3, 16, 16), torch.arange(4)
    eager = distiller(images, labels).loss
    torch.compiler.reset()
    compiled = torch.compile(distiller, backend="aot_eager")(images, labels).loss
    torch.testing.assert_close(compiled, eager)
    compiled.backward()
    assert all(p.grad is not None for p in small_pair[0].parameters())
