"""Pairs of networks that would train the wrong thing without a word."""

import copy
from collections.abc import Callable

import pytest
import torch
from tests.conftest import SmallNet
from torch import Tensor, nn

from attention_transfer import AttentionTransfer, Distiller, SoftTargets
from attention_transfer.models import check_pair

Pair = tuple[nn.Module, nn.Module]


class Host(nn.Module):
    def __init__(self, network: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.network, self.other = network, other

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def inside() -> Pair:
    teacher = SmallNet(6)
    return Host(SmallNet(4), teacher), teacher


def around() -> Pair:
    student = SmallNet(4)
    return student, nn.Sequential(student, nn.Identity())


def same_memory() -> Pair:
    student, teacher = SmallNet(4), SmallNet(4)
    teacher.load_state_dict(student.state_dict(), assign=True)
    return student, teacher


def same_statistics() -> Pair:
    norm = nn.BatchNorm2d(3, affine=False)
    return nn.Sequential(norm, SmallNet(4)), nn.Sequential(norm, SmallNet(6))


def same_dropout() -> Pair:
    dropout = nn.Dropout()
    return nn.Sequential(SmallNet(4), dropout), nn.Sequential(SmallNet(6), dropout)


def lazy() -> Pair:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5)), SmallNet(6)


def lazy_teacher() -> Pair:
    return SmallNet(4), nn.Sequential(nn.LazyBatchNorm2d(), SmallNet(6))


def on_meta() -> Pair:
    with torch.device("meta"):
        return SmallNet(4), SmallNet(6)


def of_inference_mode() -> Pair:
    with torch.inference_mode():
        return SmallNet(4), SmallNet(6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (inside, "share parameters .*copy.deepcopy"),
        (around, "share parameters"),
        (same_memory, "share parameters"),
        (same_statistics, "share running statistics"),
        (same_dropout, r"share the module '1' \(Dropout\), whose mode would follow both"),
        (lazy, r"student has lazy modules .*'1.weight'.*run it once"),
        (lazy_teacher, "teacher has lazy modules"),
        (on_meta, "no weights .*meta device.*load them first"),
        (of_inference_mode, "made in inference mode"),
    ],
)
def test_pairs_that_cannot_be_are_refused(make: Callable[[], Pair], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_pair(*make())


def test_stateless_modules_may_be_shared_and_copies_are_apart() -> None:
    act = nn.ReLU()
    check_pair(nn.Sequential(SmallNet(4), act), nn.Sequential(SmallNet(6), act))
    student = SmallNet(4)
    check_pair(student, copy.deepcopy(student))


def test_weights_tied_within_a_network_are_its_own() -> None:
    student, teacher = SmallNet(4), SmallNet(6)
    student.again = student.fc
    check_pair(student, teacher)


def test_where_and_when_a_distiller_is_built() -> None:
    student, teacher = SmallNet(4), SmallNet(6)
    methods = [AttentionTransfer(), SoftTargets()]
    example, images = torch.empty(2, 3, 16, 16), torch.randn(4, 3, 16, 16)
    labels = torch.arange(4)
    with torch.inference_mode(), pytest.raises(ValueError, match="cannot be built in inference mode"):
        Distiller(student, teacher, methods, example=example)
    wanted = Distiller(student, teacher, methods, example=example)(images, labels).loss
    with torch.no_grad():
        distiller = Distiller(student, teacher, methods, example=example)
    torch.testing.assert_close(distiller(images, labels).loss, wanted)
    with torch.device("meta"):
        distiller = Distiller(student, teacher, methods, example=example)
    torch.testing.assert_close(distiller(images, labels).loss, wanted)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        distiller = Distiller(student, teacher, methods, example=example)
        torch.testing.assert_close(distiller(images, labels).loss, wanted)
    finally:
        torch.set_default_dtype(default)
