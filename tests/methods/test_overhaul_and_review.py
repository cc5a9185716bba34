"""The overhaul of feature distillation and knowledge review against the authors' values and slow loops."""

import copy
import math

import pytest
import timm
import torch
from tests.closeness import assert_near
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import Description, Distiller, Overhaul, Review, Stage, Tap, build
from attention_transfer.methods import Observed
from attention_transfer.methods.overhaul import Connector, margin_of_norm, partial_distance
from attention_transfer.methods.review import Fusion, hierarchical_context_loss
from attention_transfer.models.introspection.pre_activations import BatchNorms, Norm

EXAMPLE = torch.empty(2, 3, 16, 16)


def test_value_and_gradients_are_those_of_the_authors(golden: dict[str, Tensor]) -> None:
    student = [golden[f"student_feature{i}"].clone().requires_grad_() for i in range(3)]
    value = sum(hierarchical_context_loss(s, golden[f"teacher_feature{i}"]) for i, s in enumerate(student))
    assert_near(value, golden["hcl"])
    for i, gradient in enumerate(torch.autograd.grad(value, student)):
        wanted = golden[f"hcl.grad.student_feature{i}"]
        assert_near(gradient, wanted)


def slow_context_loss(student: Tensor, teacher: Tensor) -> float:
    """Means of squared differences of averages, area by area; sides divisible by the areas."""
    count, channels, side, _ = student.shape
    total, weights, weight = 0.0, 0.0, 1.0
    for size in (side, 4, 2, 1):
        if weight < 1 and size >= side:
            continue
        step, errors = side // size, []
        for b in range(count):
            for c in range(channels):
                for y in range(0, side, step):
                    for x in range(0, side, step):
                        area = (b, c, slice(y, y + step), slice(x, x + step))
                        errors.append((float(student[area].mean()) - float(teacher[area].mean())) ** 2)
        if not (size >= side and weights):
            total, weights = total + weight * sum(errors) / len(errors), weights + weight
            weight /= 2
    return total / weights


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_context_loss_equals_a_loop_written_from_the_paper(side: int) -> None:
    generator = torch.Generator().manual_seed(side)
    student, teacher = (torch.randn(2, 3, side, side, dtype=torch.float64, generator=generator) for _ in range(2))
    wanted = slow_context_loss(student, teacher)
    assert float(hierarchical_context_loss(student, teacher)) == pytest.approx(wanted, rel=1e-12)


def test_gradient_is_right_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(2, 2, 6, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    assert torch.autograd.gradcheck(lambda s: hierarchical_context_loss(s, teacher), (student.requires_grad_(),))


def test_fusion_is_the_sum_of_both_levels_with_a_share_for_each_position() -> None:
    torch.manual_seed(0)
    fusion = Fusion(3, 4, 5, deepest=False).double().eval()
    features, below = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 4, 2, 2).double()
    compared, handed_on = fusion(features, below, (8, 8))
    scale = (1 + 1e-5) ** -0.5
    narrow, attention = fusion.narrow[0].weight[:, :, 0, 0], fusion.attention[0]
    for y in range(8):
        for x in range(8):
            own = scale * features[:, :, y // 2, x // 2] @ narrow.T
            deep = below[:, :, y // 4, x // 4]
            shares = torch.cat([own, deep], 1) @ attention.weight[:, :, 0, 0].T + attention.bias
            wanted = own * shares[:, :1].sigmoid() + deep * shares[:, 1:].sigmoid()
            torch.testing.assert_close(handed_on[:, :, y, x], wanted)
    wanted = scale * nn.functional.conv2d(handed_on, fusion.compared[0].weight, padding=1)
    torch.testing.assert_close(compared, wanted)


def test_levels_go_from_deep_to_shallow_and_each_receives_the_one_below() -> None:
    generator = torch.Generator().manual_seed(3)
    ours = (torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, 6, 2, 2, generator=generator))
    theirs = (torch.randn(2, 5, 8, 8, generator=generator), torch.randn(2, 7, generator=generator))
    student, teacher = Observed(None, ours), Observed(None, theirs)
    method = Review()
    parts = method.parts(teacher, student).eval()
    found = method.terms(None, teacher, student, parts)["reviewkd"].value
    last, below = parts[1](ours[1], None, (1, 1))
    first, _ = parts[0](ours[0], below, (8, 8))
    wanted = hierarchical_context_loss(last, theirs[1][:, :, None, None]) + hierarchical_context_loss(first, theirs[0])
    torch.testing.assert_close(found, wanted)
    assert parts[0].narrow[0].out_channels == 6
    assert Review(widest=4).parts(teacher, student)[0].narrow[0].out_channels == 4


def test_weight_rises_over_twenty_epochs() -> None:
    factors = [Review().schedule.factor(epoch) for epoch in (0, 9, 19, 30)]
    assert factors == [1 / 20, 0.5, 1, 1]


def test_blocks_of_transformers_are_four_levels_and_the_vector() -> None:
    networks = [
        as_trained(
            timm.create_model(
                "vit_tiny_patch16_224",
                img_size=16,
                patch_size=4,
                embed_dim=width,
                depth=depth,
                num_heads=2,
                num_classes=5,
            )
        )
        for width, depth in ((16, 6), (24, 9))
    ]
    distiller = Distiller(*networks, [Review()], example=EXAMPLE)
    blocks = ["blocks.1", "blocks.2", "blocks.4", "blocks.5"]
    assert [tap.module for tap in distiller.reads[0].student.taps] == [*blocks, "head"]
    assert [tap.module for tap in distiller.reads[0].teacher.taps][:4] == [
        "blocks.2",
        "blocks.4",
        "blocks.6",
        "blocks.8",
    ]
    assert distiller(torch.randn(2, 3, 16, 16), torch.arange(2)).loss.isfinite()


def test_without_a_head_in_one_network_the_vector_is_no_level() -> None:
    stage = (Stage(Tap("a"), Tap("b", "input")),)
    reads = Review().reads(Description(stage), Description(stage, head="fc"))
    assert (reads.teacher.taps, reads.student.taps) == ((Tap("b", "input"),), (Tap("a"),))
    reads = Review().reads(Description(stage, head="fc"), Description(stage, head="fc"))
    assert reads.student.taps == (Tap("a"), Tap("fc", "input", "raw"))


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="must be at least 1, not 0 and 4"):
        Review(widest=0)
    with pytest.raises(ValueError, match="must be at least 1, not 512 and 0"):
        Review(most_stages=0)
    with pytest.raises(ValueError, match="needs a teacher"):
        Review().reads(None, Description(()))


def test_it_trains_a_student_beside_its_modules() -> None:
    torch.manual_seed(0)
    distiller = Distiller(build("resnet8", 5), as_trained(build("vgg8", 5)), [Review()], example=EXAMPLE, task_weight=0)
    optimizer = torch.optim.Adam(distiller.trainable_parameters(), 0.003)
    images, losses = torch.randn(4, 3, 16, 16), []
    for _ in range(6):
        optimizer.zero_grad()
        loss = distiller(images).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


# ---------------- the overhaul of feature distillation against the authors' values, slow loops, and its margins


def test_value_and_gradient_are_those_of_the_authors(golden: dict[str, Tensor]) -> None:
    student = golden["student_feature2"].clone().requires_grad_()
    value = partial_distance(student, golden["teacher_feature2"], golden["margin"])
    assert_near(value, golden["ofd_last_feature"])
    (gradient,) = torch.autograd.grad(value, student)
    wanted = golden["ofd_last_feature.grad.student_feature2"]
    assert_near(gradient, wanted)


def random_features() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(3, 2, 2, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    return student, teacher, torch.tensor([-0.4, -0.1], dtype=torch.float64).reshape(1, 2, 1, 1)


def test_distance_equals_a_loop_written_from_the_paper() -> None:
    student, teacher, margin = random_features()
    total = 0.0
    for image in range(3):
        for channel in range(2):
            pairs = zip(student[image, channel].flatten(), teacher[image, channel].flatten(), strict=True)
            for s, t in pairs:
                wanted = float(t) if t > 0 else max(float(t), float(margin[0, channel, 0, 0]))
                if not (wanted <= 0 and float(s) <= wanted):
                    total += (float(s) - wanted) ** 2
    assert float(partial_distance(student, teacher, margin)) == pytest.approx(total / 3, rel=1e-12)


def test_gradient_of_the_overhaul_is_right_in_double_precision() -> None:
    student, teacher, margin = random_features()
    assert torch.autograd.gradcheck(lambda s: partial_distance(s, teacher, margin), (student.requires_grad_(),))


@pytest.mark.parametrize(("scale", "shift"), [(0.7, 0.3), (-1.2, -0.5), (0.5, 1.4)])
def test_margin_is_the_mean_of_what_is_negative_in_a_normal_distribution(scale: float, shift: float) -> None:
    x = torch.linspace(shift - 12 * abs(scale), 0, 200_001, dtype=torch.float64)
    density = (-((x - shift) / scale).square() / 2).exp()
    wanted = float((x * density).sum() / density.sum())
    found = margin_of_norm(torch.tensor([scale]), torch.tensor([shift]))
    assert float(found) == pytest.approx(wanted, rel=1e-3)


def test_margin_of_what_is_hardly_ever_negative_lies_three_deviations_below_zero() -> None:
    found = margin_of_norm(torch.tensor([-0.5, 0.0, 0.0]), torch.tensor([2.0, 1.0, -1.0]))
    torch.testing.assert_close(found, torch.tensor([-1.5, 0.0, -1.0]))


def test_margins_come_from_the_norm_before_the_activation() -> None:
    teacher = as_trained(build("resnet14", 5))
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    distiller = Distiller(build("resnet8", 5), teacher, [Overhaul()], example=EXAMPLE)
    for i, connector in enumerate(distiller.parts["ofd"], start=1):
        norm = teacher.get_submodule(f"layer{i}.1.bn2")
        torch.testing.assert_close(connector.margin, margin_of_norm(norm.weight, norm.bias).detach())
    estimated = Distiller(build("resnet8", 5), teacher, [Overhaul(margins="data")], example=EXAMPLE)
    assert torch.equal(estimated.parts["ofd"][0].margin, torch.zeros(16))


def test_estimated_margins_are_the_mean_of_all_negative_values_seen_in_training() -> None:
    batches = [torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(i)) - i for i in range(3)]
    for batch in batches:
        batch[:, 2] = batch[:, 2].abs()
    connector = Connector(torch.zeros(2, 2, 5, 5), batches[0], None)
    connector.eval()(torch.zeros(4, 2, 5, 5), batches[0])
    assert torch.equal(connector.margin, torch.zeros(3))
    connector.train()
    for batch in batches:
        connector(torch.zeros(4, 2, 5, 5), batch)
    for channel in range(2):
        values = torch.cat([batch[:, channel].flatten() for batch in batches])
        torch.testing.assert_close(connector.margin[channel], values[values < 0].mean())
    assert float(connector.margin[2]) == 0
    assert {"margin", "seen"} <= set(connector.state_dict())


def test_each_stage_weighs_half_as_much_as_the_one_after_it() -> None:
    generator = torch.Generator().manual_seed(2)
    features = [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3)]
    norm = Norm(torch.ones(3), torch.zeros(3))
    teacher, student = (
        Observed(None, tuple(features), provided={BatchNorms(): (norm,) * 3}),
        Observed(None, tuple(-f for f in features)),
    )
    method = Overhaul()
    parts = method.parts(teacher, student)
    distances = [float(c(s, t).detach()) for c, s, t in zip(parts, student.features, teacher.features, strict=True)]
    found = method.terms(None, teacher, student, parts)["ofd"].value.detach()
    assert float(found) == pytest.approx(distances[0] / 4 + distances[1] / 2 + distances[2], rel=1e-5)


def test_larger_features_are_averaged_to_the_smaller_size() -> None:
    connector = Connector(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4, 4), Norm(torch.ones(1), torch.zeros(1)))
    nn.init.ones_(connector.connect[0].weight)
    connector.eval()
    teacher = torch.arange(16.0).reshape(1, 1, 4, 4)
    small = nn.functional.avg_pool2d(teacher, 2)
    wanted = (math.sqrt(1 / (1 + 1e-5)) - 1) ** 2 * float(small.square().sum())
    assert_near(connector(small, teacher), wanted, scale=float(small.square().sum()))


@pytest.mark.parametrize("runs", ["train", "eval"])
def test_teacher_runs_as_asked_and_keeps_its_statistics(runs: str) -> None:
    student, teacher = build("resnet8", 5), as_trained(build("resnet14", 5))
    before = copy.deepcopy(teacher.state_dict())
    distiller = Distiller(student, teacher, [Overhaul(teacher_runs=runs)], example=EXAMPLE)
    distiller(torch.randn(4, 3, 16, 16), torch.arange(4))
    assert teacher.training == (runs == "train")
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_stages_of_unknown_activations_are_refused_with_their_names() -> None:
    known = Description((Stage(Tap("a"), Tap("a")),))
    with pytest.raises(ValueError, match="where the teacher's stages layer1 end in an activation is not known"):
        Overhaul().reads(Description((Stage(Tap("layer1"), None),)), known)
    with pytest.raises(ValueError, match="needs a teacher"):
        Overhaul().reads(None, known)
