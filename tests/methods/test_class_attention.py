"""Class attention against the authors' values, a slow loop, and its refusals."""

import math
from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from tests.trained import as_trained
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import AttentionTransfer, Distiller, GradientAttention, SoftTargets, build
from attention_transfer.batch import Batch
from attention_transfer.methods import ClassAttention, Observed
from attention_transfer.methods.class_attention import class_map_distance
from attention_transfer.methods.layers.maps import binarised, class_maps
from attention_transfer.models.introspection.class_maps import ClassMapHead, Head


def loss(method: ClassAttention, student: Observed, teacher: Observed) -> Tensor:
    method.check(teacher, student)
    return method.terms(Batch(torch.zeros(1, 3, 1, 1)), teacher, student, None)["cat"].value


def seen(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Observed:
    return Observed(None, (features,), provided={ClassMapHead(): Head(weight, bias)})


def random_pair(classes: int = 5, size: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Observed, Observed]:
    """Student (3 channels) and teacher (6 channels) with heads, seeded."""
    generator = torch.Generator().manual_seed(3)

    def network(channels: int) -> Observed:
        features = torch.randn(4, channels, size, size, generator=generator, dtype=dtype)
        weight = torch.randn(classes, channels, generator=generator, dtype=dtype)
        return seen(features.requires_grad_(), weight, torch.randn(classes, generator=generator, dtype=dtype))

    return network(3), network(6)


@pytest.mark.parametrize("resolution", [2, 4])
@pytest.mark.parametrize(("normalise", "suffix"), [("l2", "norm"), ("none", "raw")])
def test_value_and_gradient_are_those_of_the_authors(
    resolution: int, normalise: str, suffix: str, golden: dict[str, Tensor]
) -> None:
    key = f"cat_r{resolution}_{suffix}"
    student = golden["student_class_maps"].clone().requires_grad_()
    # A head that hands on its features makes the given maps the networks' own.
    identity = torch.eye(student.shape[1])
    method = ClassAttention(resolution=resolution, normalise=normalise)
    value = loss(method, seen(student, identity), seen(golden["teacher_class_maps"], identity))
    value.backward()
    assert_near(value, golden[key])
    wanted = golden[f"{key}.grad.student_class_maps"]
    assert_near(student.grad, wanted)


def slow_distance(ours: Tensor, theirs: Tensor, normalise: str, form: str) -> float:
    """Eq. 5 for maps that are pooled already, averaged over images; position by position."""
    images, classes, height, width = ours.shape
    total = 0.0
    for b in range(images):
        for k in range(classes):
            maps = [[float(v) for v in m[b, k].reshape(-1)] for m in (ours, theirs)]
            if normalise == "l2":
                maps = [[v / math.sqrt(sum(u * u for u in m)) for v in m] for m in maps]
            elif normalise == "l1":
                maps = [[v / sum(abs(u) for u in m) for v in m] for m in maps]
            total += sum((s - t) ** 2 for s, t in zip(*maps, strict=True)) / classes / images
    return total / (height * width) if form == "code" else total


@pytest.mark.parametrize("normalise", ["l2", "l1", "none"])
@pytest.mark.parametrize("form", ["code", "paper"])
def test_distance_equals_a_loop_written_from_the_paper(normalise: str, form: str) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(3, 4, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    value = class_map_distance(ours, theirs, normalise=normalise, form=form)
    assert value.item() == pytest.approx(slow_distance(ours, theirs, normalise, form), rel=1e-12)


@pytest.mark.parametrize("binarise", ["none", "mean"])
@pytest.mark.parametrize("normalise", ["l2", "l1", "none"])
def test_gradient_is_that_of_finite_differences(normalise: str, binarise: str) -> None:
    student, teacher = random_pair()
    method = ClassAttention(normalise=normalise, binarise=binarise, bias=True)

    def value(features: Tensor, weight: Tensor) -> Tensor:
        return loss(method, seen(features, weight, torch.ones(5, dtype=torch.float64)), teacher)

    assert torch.autograd.gradcheck(
        value, (student.features[0], student[ClassMapHead()].weight.clone().requires_grad_())
    )


def test_target_is_a_constant() -> None:
    student, teacher = random_pair()
    loss(ClassAttention(normalise="l2"), student, teacher).backward()
    assert student.features[0].grad is not None
    assert teacher.features[0].grad is None


@pytest.mark.parametrize("bias", [True, False])
def test_pooling_before_the_head_gives_the_maps_of_the_whole(bias: bool) -> None:
    student, teacher = random_pair(size=6)
    found = loss(ClassAttention(normalise="l2", bias=bias), student, teacher)
    whole: list[Tensor] = []
    for network in (student, teacher):
        maps = class_maps(
            network.features[0], network[ClassMapHead()].weight, network[ClassMapHead()].bias if bias else None
        )
        whole.append(functional.adaptive_avg_pool2d(maps, 2))
    assert_near(found, class_map_distance(whole[0], whole[1]))


def test_forms_differ_by_the_number_of_positions() -> None:
    student, teacher = random_pair()
    code, paper = (
        loss(ClassAttention(normalise="l2", resolution=4, form=f), student, teacher) for f in ("code", "paper")
    )
    torch.testing.assert_close(paper, 16 * code)


def test_maps_of_different_size_meet_at_the_smaller() -> None:
    student, _ = random_pair(size=3)
    _, teacher = random_pair(size=7)
    method = ClassAttention(normalise="none", resolution=None)
    theirs = functional.adaptive_avg_pool2d(teacher.features[0], 3)
    wanted = class_map_distance(
        class_maps(student.features[0], student[ClassMapHead()].weight),
        class_maps(theirs, teacher[ClassMapHead()].weight),
        normalise="none",
    )
    torch.testing.assert_close(loss(method, student, teacher), wanted)


def scores_of(network: Observed) -> Tensor:
    return network.features[0].mean((2, 3)) @ network[ClassMapHead()].weight.T


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("side", ["top", "lowest"])
def test_exactly_the_asked_number_of_classes_is_compared(side: str, count: int) -> None:
    student, teacher = random_pair()
    order = scores_of(teacher).argsort(dim=1, descending=side == "top")[:, :count]
    maps: list[Tensor] = []
    for network in (student, teacher):
        every = functional.adaptive_avg_pool2d(class_maps(network.features[0], network[ClassMapHead()].weight), 2)
        maps.append(torch.stack([every[b, order[b]] for b in range(len(every))]))
    found = loss(ClassAttention(normalise="l2", **{side: count}), student, teacher)
    torch.testing.assert_close(found, class_map_distance(maps[0], maps[1]))


def test_all_classes_by_number_are_all_classes() -> None:
    student, teacher = random_pair()
    everything = loss(ClassAttention(normalise="l2"), student, teacher)
    for chosen in ({"top": 5}, {"lowest": 5}):
        torch.testing.assert_close(loss(ClassAttention(normalise="l2", **chosen), student, teacher), everything)


def test_score_weights_favour_probable_classes_and_average_to_one() -> None:
    student, teacher = random_pair()
    maps: list[Tensor] = []
    for network in (student, teacher):
        maps.append(functional.adaptive_avg_pool2d(class_maps(network.features[0], network[ClassMapHead()].weight), 2))
    difference = (
        functional.normalize(maps[0].flatten(2), dim=2) - functional.normalize(maps[1].flatten(2), dim=2)
    ) ** 2
    assert teacher[ClassMapHead()].bias is not None
    probabilities = (scores_of(teacher) + teacher[ClassMapHead()].bias).softmax(1)
    wanted = (probabilities * difference.mean(2)).sum(1).mean()
    found = loss(ClassAttention(normalise="l2", score_weights=True), student, teacher)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("normalise", ["l2", "l1"])
def test_a_head_that_starts_at_zero_is_left_to_the_labels_and_not_thrown_out_of_range(normalise: str) -> None:
    student = build("resnet8", 4)
    nn.init.zeros_(student.get_parameter("fc.weight"))
    nn.init.zeros_(student.get_parameter("fc.bias"))
    method = ClassAttention(normalise=normalise)
    distiller = Distiller(student, as_trained(build("resnet14", 4)), [method], example=torch.empty(2, 3, 32, 32))
    distiller(torch.randn(4, 3, 32, 32), torch.arange(4)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() < 1e3 for p in student.parameters())


def test_grad_cam_knows_no_bias() -> None:
    student, teacher = random_pair()
    values = [
        loss(ClassAttention(normalise="l2", producer="grad-cam", bias=bias), student, teacher) for bias in (False, True)
    ]
    head = student[ClassMapHead()]
    without = seen(student.features[0], head.weight)
    torch.testing.assert_close(values[0], loss(ClassAttention(normalise="l2", producer="grad-cam"), without, teacher))
    added = class_map_distance(
        functional.adaptive_avg_pool2d(class_maps(student.features[0], head.weight, head.bias), 2),
        functional.adaptive_avg_pool2d(grad_cam_of(teacher), 2),
    )
    torch.testing.assert_close(values[1], added)


def grad_cam_of(network: Observed) -> Tensor:
    return class_maps(network.features[0], network[ClassMapHead()].weight).relu().detach()


@pytest.mark.parametrize("threshold", ["mean", "median"])
def test_binarised_targets_are_fractions_of_their_areas(threshold: str) -> None:
    """4×4 maps pooled to 2×2: each target value is a number of quarters."""
    student, teacher = random_pair(classes=20)
    maps = class_maps(teacher.features[0], teacher[ClassMapHead()].weight).detach()
    ones = torch.zeros_like(maps)
    for b in range(maps.shape[0]):
        for k in range(maps.shape[1]):
            flat = maps[b, k].flatten()
            level = flat.abs().mean() if threshold == "mean" else flat.sort().values[(len(flat) - 1) // 2]
            ones[b, k] = (maps[b, k] > level).double()
    torch.testing.assert_close(binarised(maps, threshold), ones)
    targets = functional.adaptive_avg_pool2d(ones, 2)
    assert set((4 * targets).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    ours = functional.adaptive_avg_pool2d(class_maps(student.features[0], student[ClassMapHead()].weight), 2)
    found = loss(ClassAttention(normalise="l2", binarise=threshold), student, teacher)
    torch.testing.assert_close(found, class_map_distance(ours, targets))


class Pooled(nn.Module):
    """Features, global average pooling, linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh())
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def test_grad_cam_targets_are_those_of_the_chain_rule() -> None:
    """Grad-CAM of every class, by differentiating its logit; the norm takes its factor 1/positions out."""
    torch.manual_seed(0)
    teacher, image = Pooled(5).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    features = teacher.features(image).detach().requires_grad_()
    logits = teacher.fc(features.mean((2, 3)))
    maps: list[Tensor] = []
    for k in range(5):
        (gradient,) = torch.autograd.grad(logits[:, k].sum(), features, retain_graph=True)
        maps.append((gradient.mean((2, 3), keepdim=True) * features).sum(1).relu())
    targets = functional.adaptive_avg_pool2d(torch.stack(maps, 1), 2).detach()
    generator = torch.Generator().manual_seed(1)
    student = seen(
        torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator),
        torch.randn(5, 3, dtype=torch.float64, generator=generator),
    )
    ours = functional.adaptive_avg_pool2d(class_maps(student.features[0], student[ClassMapHead()].weight), 2)
    found = loss(
        ClassAttention(normalise="l2", producer="grad-cam"),
        student,
        seen(features.detach(), teacher.fc.weight, teacher.fc.bias),
    )
    torch.testing.assert_close(found, class_map_distance(ours, targets))


@pytest.mark.parametrize(
    ("networks", "wanted"), [(("resnet8", "resnet14"), "none"), (("resnet8", "timm:resnet10t"), "l2")]
)
def test_normalisation_is_decided_by_the_architectures(networks: tuple[str, str], wanted: str) -> None:
    student, teacher = (as_trained(build(name, 4)) for name in networks)
    distiller = Distiller(student, teacher, [ClassAttention()], example=torch.empty(2, 3, 64, 64))
    (method,) = distiller.methods
    assert isinstance(method, ClassAttention)
    assert method.normalise == wanted
    said = Distiller(student, teacher, [ClassAttention(normalise="l1")], example=torch.empty(2, 3, 64, 64)).methods[0]
    assert isinstance(said, ClassAttention)
    assert said.normalise == "l1"


def test_alone_it_needs_neither_labels_nor_the_end_of_the_teacher() -> None:
    student, teacher = build("resnet8", 4), as_trained(build("resnet14", 4))
    distiller = Distiller(student, teacher, [ClassAttention()], task_weight=0, example=torch.empty(2, 3, 32, 32))
    calls: list[int] = []
    teacher.get_submodule("fc").register_forward_hook(lambda *_: calls.append(1))
    out = distiller(torch.randn(4, 3, 32, 32))
    assert list(out.terms) == ["cat"]
    assert not calls
    out.loss.backward()
    head = student.get_submodule("fc")
    assert head.weight.grad is not None
    assert head.weight.grad.abs().max() > 0


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the shapes of everything that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self.shapes.add(tuple(value.shape))
        return out


@pytest.mark.parametrize("top", [None, 7])
def test_no_map_of_full_size_is_made(top: int | None) -> None:
    student, teacher = build("resnet8", 50), as_trained(build("resnet14", 50))
    distiller = Distiller(student, teacher, [ClassAttention(top=top)], example=torch.empty(2, 3, 32, 32))
    with Largest() as recorded:
        distiller(torch.randn(4, 3, 32, 32), torch.arange(4)).loss.backward()
    assert any(shape[1:] == (64, 8, 8) for shape in recorded.shapes)
    with_classes = [shape for shape in recorded.shapes if 50 in shape]
    # Weights of the head, their 1×1 form, and pooled maps; nothing of 50 × 8 × 8.
    assert with_classes
    assert max(math.prod(shape) for shape in with_classes) <= 4 * 50 * 2 * 2 + 50 * 64
    assert not any(shape[-2:] == (8, 8) for shape in with_classes)


def test_targets_made_before_pooling_are_made_for_a_few_classes_at_a_time() -> None:
    student, teacher = random_pair(classes=50, size=8, dtype=torch.float32)
    with Largest() as recorded:
        loss(ClassAttention(normalise="l2", binarise="mean"), student, teacher)
    assert not any(shape[-2:] == (8, 8) and shape[1] > 16 for shape in recorded.shapes if len(shape) == 4)


def test_it_goes_along_with_methods_that_read_other_layers() -> None:
    torch.manual_seed(0)
    methods = [AttentionTransfer(), ClassAttention(), GradientAttention(), SoftTargets()]
    distiller = Distiller(
        build("resnet8", 4), as_trained(build("resnet14", 4)), methods, example=torch.empty(2, 3, 32, 32)
    ).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    together = distiller(images, labels)
    assert list(together.terms) == ["ce", "at", "cat", "gradient", "kd"]
    for method in methods:
        alone = Distiller(distiller.student, distiller.teacher, [method], example=torch.empty(2, 3, 32, 32)).eval()
        value = alone(images, labels).terms[method.key].value
        torch.testing.assert_close(together.terms[method.key].value, value)
