"""What is unusual is said once, in words that stay."""

import warnings
from collections.abc import Callable

import pytest
import timm
import torch
from tests.conftest import SmallNet
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import (
    AttentionTransfer,
    DistillationWarning,
    Distiller,
    GradientAttention,
    MultiHeadGraph,
    SoftTargets,
    build,
)

Pair = tuple[nn.Module, nn.Module]
EXAMPLE = torch.empty(2, 3, 16, 16)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(4) % 5


def test_nothing_is_said_of_what_is_usual(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [SoftTargets()], example=EXAMPLE)
    distiller(*batch()).loss.backward()
    assert distiller.notes == ()
    assert Distiller(small_pair[0], None, [], example=EXAMPLE).notes == ()


def test_a_distiller_that_was_left_in_evaluation_mode_is_said(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [SoftTargets()], example=EXAMPLE).eval()
    with pytest.warns(DistillationWarning, match="the student learns in evaluation mode"):
        distiller(*batch()).backward()


@pytest.mark.parametrize("built", [True, False], ids=["when it was built", "later"])
def test_a_student_that_learns_in_evaluation_mode_is_said_once(small_pair: Pair, built: bool) -> None:
    student, teacher = small_pair
    if built:
        student.eval()
    distiller = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE)
    student.eval()
    before = student.layer1[0][1].running_mean.clone()
    out = distiller(*batch())
    with pytest.warns(DistillationWarning, match=r"learns in evaluation mode: .* call distiller.train\(\)"):
        out.loss.backward()
    assert torch.equal(student.layer1[0][1].running_mean, before)
    assert distiller.notes == (distiller.notes[0],)
    distiller(*batch()).loss.backward()
    distiller.train()(*batch()).loss.backward()
    assert len(distiller.notes) == 1


def test_it_is_said_of_limited_and_of_scaled_gradients_too(small_pair: Pair) -> None:
    distiller = Distiller(*small_pair, [MultiHeadGraph()], example=EXAMPLE)
    # In the first phase it rests in this mode.
    distiller.set_epoch(0)
    distiller(*batch()).loss.backward()
    assert distiller.notes == ()
    distiller.set_epoch(40)
    distiller.student.eval()
    with pytest.warns(DistillationWarning, match="evaluation mode"):
        (distiller(*batch()).loss / 2).backward()


def test_measuring_and_partly_frozen_norms_are_nothing_unusual(small_pair: Pair) -> None:
    student = small_pair[0]
    distiller = Distiller(*small_pair, [SoftTargets()], example=EXAMPLE)
    student.layer1.eval()
    distiller(*batch()).loss.backward()
    student.eval()
    with torch.no_grad():
        float(distiller(*batch()).loss)
    float(distiller(*batch()).loss.detach())
    distiller.train()
    assert distiller.notes == ()


@pytest.mark.parametrize("methods", [[], [GradientAttention(target="flip")]], ids=["none", "symmetry"])
def test_a_teacher_that_nothing_is_read_of_is_said(small_pair: Pair, methods: list[GradientAttention]) -> None:
    with pytest.warns(DistillationWarning, match="a teacher was given, and nothing is read of it") as said:
        distiller = Distiller(*small_pair, methods, example=EXAMPLE)
    assert [warning.filename for warning in said] == [__file__]
    assert distiller.notes[0].endswith("leave it out, or give methods that learn from it.")


def test_exchanged_networks_are_said(small_pair: Pair) -> None:
    student, teacher = small_pair
    with pytest.warns(DistillationWarning, match="the student is larger than its teacher .* exchanged"):
        distiller = Distiller(teacher, student, [AttentionTransfer()], example=EXAMPLE)
    assert len(distiller.notes) == 1
    # A network that is built alike, also for other classes.
    assert Distiller(SmallNet(4), SmallNet(4), [SoftTargets()], example=EXAMPLE).notes == ()
    assert Distiller(SmallNet(4, classes=50), SmallNet(4), [AttentionTransfer()], example=EXAMPLE).notes == ()


FRESH: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: build("resnet8", 5),
    "without its own weights": lambda: timm.create_model("resnet10t", num_classes=5),
    "in half precision": lambda: timm.create_model("convnext_atto", num_classes=5).bfloat16(),
    "transformer": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=5),
    "groups": lambda: timm.create_model("resnet10t", num_classes=5, norm_layer=lambda c, **_: nn.GroupNorm(4, c)),
}


@pytest.mark.filterwarnings("ignore:the student is larger")
@pytest.mark.parametrize("name", FRESH)
def test_a_teacher_that_was_never_trained_is_said(name: str) -> None:
    teacher = FRESH[name]()
    example = torch.empty(2, 3, 32, 32)
    with pytest.warns(DistillationWarning, match="the teacher was never trained, as far as can be told: all its norm"):
        distiller = Distiller(SmallNet(4), teacher, [SoftTargets()], example=example)
    assert "load its weights" in distiller.notes[0]
    distiller.detach()
    assert Distiller(SmallNet(4), as_trained(teacher), [SoftTargets()], example=example).notes == ()


def test_of_a_teacher_without_norms_nothing_can_be_told() -> None:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))
    assert Distiller(SmallNet(4), teacher, [SoftTargets()], example=EXAMPLE).notes == ()
    batch_norm = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64, affine=False), *teacher[1:])
    with pytest.warns(DistillationWarning, match="never trained"):
        Distiller(SmallNet(4), batch_norm, [SoftTargets()], example=EXAMPLE).detach()
    batch_norm(torch.randn(4, 3, 8, 8))
    assert Distiller(SmallNet(4), batch_norm, [SoftTargets()], example=EXAMPLE).notes == ()


def test_a_warning_can_be_told_from_others() -> None:
    assert issubclass(DistillationWarning, UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DistillationWarning)
        assert len(Distiller(SmallNet(4), SmallNet(4), [], example=EXAMPLE).notes) == 1
