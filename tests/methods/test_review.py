"""Knowledge review against the authors' values, a slow loop, and its levels."""

import pytest
import timm
import torch
from tests.closeness import assert_near
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import Description, Distiller, Review, Stage, Tap, build
from attention_transfer.methods import Observed
from attention_transfer.methods.review import Fusion, hierarchical_context_loss

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
