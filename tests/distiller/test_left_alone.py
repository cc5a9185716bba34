"""What a network changes by running reaches nobody else, and teachers, buffers and modes are left alone."""

import copy
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pytest
import timm
import torch
from tests.conftest import SmallNet
from tests.known import embedded
from tests.trained import as_trained
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from attention_transfer import (
    AttentionCopy,
    AttentionDistillation,
    AttentionTransfer,
    Distiller,
    GradientAttention,
    Method,
    Overhaul,
    SoftTargets,
    build,
)
from attention_transfer.batch import Batch
from attention_transfer.capture import CaptureError
from attention_transfer.methods import Observed, Term

EXAMPLE = torch.empty(2, 3, 16, 16)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4)


def small(width: int = 6, seed: int = 1) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet(width)


def double(x: Tensor) -> Tensor:
    return x.mul_(2)


def hidden(x: Tensor) -> Tensor:
    x.data.mul_(2)
    return x


def rectify(x: Tensor) -> Tensor:
    return functional.relu(x, inplace=True)


def blank(x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


class Writes(SmallNet):
    """Changes its images before it looks at them."""

    def __init__(self, width: int, change: Callable[[Tensor], Tensor], least: int = 0) -> None:
        super().__init__(width)
        self.change, self.least = change, least

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.change(x) if len(x) > self.least else x)


@pytest.mark.parametrize("change", [double, hidden, rectify, blank])
@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("method", [SoftTargets(), AttentionTransfer(), GradientAttention()], ids=lambda m: m.key)
def test_what_a_network_writes_into_its_images_reaches_nobody(
    change: Callable[[Tensor], Tensor], role: str, method: Method
) -> None:
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {"student": SmallNet(4), "teacher": SmallNet(6)}
    networks[role] = Writes(4 if role == "student" else 6, change)
    wanted = copy.deepcopy(networks["teacher"]).eval()(IMAGES.clone())
    distiller = Distiller(networks["student"], networks["teacher"], [method], example=EXAMPLE)
    images = IMAGES.clone()
    for _ in range(2):
        out = distiller(images, LABELS)
        out.loss.backward()
        assert torch.equal(images, IMAGES)
    if out.teacher_logits is not None:
        torch.testing.assert_close(out.teacher_logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_writing_that_begins_later_is_refused(role: str) -> None:
    networks: dict[str, nn.Module] = {"student": small(4, 0), "teacher": small()}
    networks[role] = Writes(4, double, least=3)
    distiller = Distiller(networks["student"], networks["teacher"], [SoftTargets()], example=EXAMPLE)
    with pytest.raises(ValueError, match=f"the {role} wrote into its images"):
        distiller(IMAGES.clone(), LABELS)


def owned(teacher: nn.Module) -> None:
    teacher.train()


def partly(teacher: nn.Module) -> None:
    teacher.get_submodule("layer1.0.1").train()


class Holder(nn.Module):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.modules_held = nn.ModuleList(modules)


def held(teacher: nn.Module) -> None:
    Holder(teacher).train()


@pytest.mark.parametrize("change", [owned, partly, held])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_frozen_teacher_stays_in_its_mode_whoever_changes_it(
    change: Callable[[nn.Module], None], compiled: bool
) -> None:
    student, teacher = small(4, 0), small()
    wanted, before = copy.deepcopy(teacher).eval()(IMAGES), copy.deepcopy(teacher.state_dict())
    distiller = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE).train()
    torch.compiler.reset()
    step = torch.compile(distiller, backend="eager") if compiled else distiller
    for _ in range(3):
        out = step(IMAGES, LABELS)
        torch.testing.assert_close(out.teacher_logits, wanted, rtol=1e-4, atol=1e-5)
        change(teacher)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert student.training


def test_a_teacher_of_batch_statistics_keeps_its_own_and_may_be_copied() -> None:
    teacher = small()
    before = copy.deepcopy(teacher.state_dict())
    distiller = Distiller(small(4, 0), teacher, [Overhaul()], example=EXAMPLE).train()
    distiller(IMAGES, LABELS)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    twin = copy.deepcopy(teacher).train()
    twin(IMAGES)
    assert not torch.equal(twin.get_buffer("layer1.0.1.running_mean"), before["layer1.0.1.running_mean"])


class Counts(SmallNet):
    """Changes a buffer of its own whenever it runs, one in place and one by another tensor."""

    def __init__(self) -> None:
        super().__init__(6)
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.largest = torch.maximum(self.largest, x.abs().max())
        return super().forward(x) + self.runs


def test_buffers_that_move_in_evaluation_are_as_before_too() -> None:
    teacher = Counts()
    wanted = copy.deepcopy(teacher).eval()(IMAGES)
    distiller = Distiller(small(4, 0), teacher, [SoftTargets()], example=EXAMPLE)
    for _ in range(2):
        torch.testing.assert_close(distiller(IMAGES, LABELS).teacher_logits, wanted, rtol=1e-4, atol=1e-5)
    assert (teacher.runs.item(), teacher.largest.item()) == (0, 0)


def test_distillers_with_one_teacher_run_it_each_in_its_own_mode() -> None:
    teacher = small()
    resting = Distiller(small(4, 0), teacher, [SoftTargets()], example=EXAMPLE).train()
    wanted = resting(IMAGES, LABELS).teacher_logits
    moving = Distiller(small(4, 0), teacher, [Overhaul()], example=EXAMPLE).train()
    moved = moving(IMAGES, LABELS).loss
    assert torch.equal(resting(IMAGES, LABELS).teacher_logits, wanted)
    torch.testing.assert_close(moving(IMAGES, LABELS).loss, moved)


def test_the_last_of_several_distillers_gives_a_teacher_back() -> None:
    teacher = small()
    first, second = (Distiller(small(4, 0), teacher, [SoftTargets()], example=EXAMPLE) for _ in range(2))
    first.detach()
    assert not any(p.requires_grad for p in teacher.parameters())
    second(IMAGES, LABELS)
    second.detach()
    assert all(p.requires_grad for p in teacher.parameters())
    assert teacher.training


def test_one_student_in_two_distillers_is_read_by_the_one_that_runs() -> None:
    student = small(4, 0)
    distillers = [Distiller(student, small(seed=i), [AttentionTransfer()], example=EXAMPLE) for i in (1, 2)]
    alone = [Distiller(small(4, 0), small(seed=i), [AttentionTransfer()], example=EXAMPLE) for i in (1, 2)]
    for found, wanted in zip(distillers, alone, strict=True):
        torch.testing.assert_close(found(IMAGES, LABELS).loss, wanted(IMAGES, LABELS).loss)


def test_threads_with_one_teacher_read_what_they_would_alone() -> None:
    teacher = small()
    methods: list[list[Method]] = [[AttentionTransfer()], [SoftTargets()], [Overhaul()]]
    distillers = [Distiller(small(4, 0), teacher, each, example=EXAMPLE).train() for each in methods]
    batches = [torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    labels = torch.arange(16) % 5

    def losses(number: int) -> list[float]:
        return [distillers[number](batches[number], labels).loss.item() for _ in range(8)]

    wanted = [losses(number) for number in range(3)]
    found: dict[int, list[float]] = {}
    threads = [threading.Thread(target=lambda n=number: found.update({n: losses(n)})) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        assert found[number] == pytest.approx(wanted[number], rel=1e-4)


def test_parameters_may_be_swapped_for_a_call() -> None:
    distiller = Distiller(small(4, 0), small(), [AttentionTransfer(), SoftTargets()], example=EXAMPLE)
    named = {name: 0.5 * p.detach() for name, p in distiller.named_parameters()}
    found = torch.func.functional_call(distiller, named, (IMAGES, LABELS)).loss
    other = copy.deepcopy(distiller)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    torch.testing.assert_close(found, other(IMAGES, LABELS).loss)


# ---------------------------------------------------------------- proving a distiller leaves nothing behind


def pair() -> tuple[nn.Module, nn.Module]:
    return build("resnet8", 4), as_trained(build("resnet14", 4))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(4)


@dataclass(frozen=True)
class Remembering(SoftTargets):
    """Soft targets whose part counts the batches that it has seen."""

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        return nn.BatchNorm1d(1, affine=False)

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        assert parts is not None
        parts(batch.image.flatten(1)[:, :1])
        return super().terms(batch, teacher, student, parts)


def test_parts_remember_nothing_of_the_noise_that_they_were_proved_on() -> None:
    student, teacher = pair()
    distiller = Distiller(student, teacher, [Remembering()], example=EXAMPLE)
    part = distiller.parts["kd"]
    assert int(part.num_batches_tracked) == 0
    assert torch.equal(part.running_var, torch.ones(1))
    distiller(*batch())
    assert int(part.num_batches_tracked) == 1


def test_it_can_be_built_where_gradients_are_off() -> None:
    with torch.no_grad():
        distiller = Distiller(*pair(), [AttentionTransfer()], example=EXAMPLE)
    assert distiller(*batch()).loss.requires_grad


class CheckpointedInTraining(nn.Module):
    """A transformer whose blocks are checkpointed the old way, and only while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=4
        )
        self.blocks = self.network.blocks

    def forward(self, image: Tensor) -> Tensor:
        x = embedded(self.network, image)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=True) if self.training else block(x)
        return self.network.head(x[:, 0])


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_student_is_proved_as_it_will_be_trained() -> None:
    student = CheckpointedInTraining().eval()
    with pytest.raises(CaptureError, match=r"carries no gradient.*use_reentrant=True"):
        Distiller(student, CheckpointedInTraining(), [AttentionDistillation()], example=EXAMPLE)
    assert not student.training


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_student_that_is_checkpointed_the_old_way_later_is_refused_in_the_step() -> None:
    student, teacher = (as_trained(CheckpointedInTraining()) for _ in range(2))
    forward = student.forward
    student.forward = lambda image: _without_checkpoints(student, image)
    distiller = Distiller(student, teacher, [AttentionDistillation()], example=EXAMPLE)
    distiller(*batch())
    student.forward = forward
    with pytest.raises(CaptureError, match=r"the term 'attention-distillation' had a gradient .* and has none now"):
        distiller(*batch())


def _without_checkpoints(student: CheckpointedInTraining, image: Tensor) -> Tensor:
    x = embedded(student.network, image)
    for block in student.blocks:
        x = block(x)
    return student.network.head(x[:, 0])


def test_a_detached_distiller_says_so() -> None:
    distiller = Distiller(*pair(), [AttentionTransfer()], example=EXAMPLE)
    distiller.detach()
    with pytest.raises(ValueError, match="this distiller was detached from its networks: build a new one"):
        distiller(*batch())


# ---------------- A teacher that runs in training mode keeps what it learned

Pair = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class InTraining(SoftTargets):
    """Soft targets of a teacher whose batch norm follows the batch."""

    @property
    def teacher_mode(self) -> Literal["eval", "train", "same noise"]:
        return "train"


def test_batch_norm_takes_the_statistics_of_the_batch_and_learns_none(small_pair: Pair) -> None:
    student, teacher = small_pair
    before = copy.deepcopy(teacher.state_dict())
    images = 3 * torch.randn(6, 3, 16, 16) + 1
    wanted = copy.deepcopy(teacher).train()(images)
    distiller = Distiller(student, teacher, [InTraining()], example=EXAMPLE)
    for _ in range(2):
        found = distiller(images, torch.zeros(6, dtype=torch.int64)).teacher_logits
        torch.testing.assert_close(found, wanted)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_what_is_measured_is_of_the_teacher_as_it_is_used(small_pair: Pair) -> None:
    student, teacher = small_pair
    images = 3 * torch.randn(6, 3, 16, 16) + 1
    wanted = copy.deepcopy(teacher).eval()(images)
    distiller = Distiller(student, teacher, [InTraining()], example=EXAMPLE).eval()
    found = distiller(images, torch.zeros(6, dtype=torch.int64)).teacher_logits
    torch.testing.assert_close(found, wanted)


def test_a_student_that_needs_its_teacher_answers_the_same_each_time() -> None:
    settings = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
    torch.manual_seed(0)
    student, teacher = (
        as_trained(timm.create_model("vit_tiny_patch16_224", drop_path_rate=rate, **settings)) for rate in (0.0, 0.9)
    )
    distiller = Distiller(student, teacher, [AttentionCopy(), Overhaul()], example=EXAMPLE)
    assert teacher.training
    images = torch.randn(8, 3, 16, 16)
    deployed = distiller.deployed.eval()
    assert torch.equal(deployed(images), deployed(images))


def test_it_learns_again_once_it_is_let_go(small_pair: Pair) -> None:
    student, teacher = small_pair
    Distiller(student, teacher, [InTraining()], example=EXAMPLE).detach()
    norm = next(module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    teacher.train()(torch.randn(6, 3, 16, 16) + 1)
    assert not torch.equal(norm.running_mean, before)
