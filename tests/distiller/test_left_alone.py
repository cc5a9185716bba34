"""What a network changes by running reaches nobody else, and a frozen teacher keeps its buffers and its mode."""

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from tests.conftest import SmallNet
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import AttentionTransfer, Distiller, GradientAttention, Method, Overhaul, SoftTargets

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
