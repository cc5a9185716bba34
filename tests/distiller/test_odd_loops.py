"""Loops and batches that differ from the example that a distiller was built with: right, or refused in words."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import timm
import torch
from tests.conftest import SmallNet
from tests.trained import as_trained
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from attention_transfer import (
    AttentionTransfer,
    CaptureError,
    Distiller,
    FitNet,
    InputError,
    Method,
    MultiHeadGraph,
    SoftTargets,
)
from attention_transfer.methods import Phase

Pair = tuple[nn.Module, nn.Module]
EXAMPLE = torch.empty(2, 3, 16, 16)


def batch(count: int = 4, side: int = 16) -> tuple[Tensor, Tensor]:
    images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(count) % 5


def distilled(pair: Pair, *methods: Method, **settings: Any) -> Distiller:
    return Distiller(*pair, methods or [AttentionTransfer(), SoftTargets()], example=EXAMPLE, **settings)


# ---------------------------------------------------------------- refused


def transformer() -> nn.Module:
    return as_trained(timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=1, num_classes=5))


@pytest.mark.parametrize("call", [lambda d, x: d(x, torch.arange(len(x))), lambda d, x: d.predict(x)])
def test_images_of_a_size_that_a_network_cannot_take_are_refused_with_both_sizes(
    call: Callable[[Distiller, Tensor], object],
) -> None:
    distiller = Distiller(transformer(), transformer(), [SoftTargets()], example=EXAMPLE)
    with pytest.raises(InputError, match=r"images of 24×24 pixels cannot be used here .*in the 16×16 of the example"):
        call(distiller, batch(side=24)[0])


@pytest.mark.parametrize("phase", ["all", None, 0])
def test_what_is_no_phase_is_refused(small_pair: Pair, phase: Any) -> None:
    with pytest.raises(InputError, match="phase must be a Phase, not"):
        distilled(small_pair).set_phase(phase)


def test_a_phase_in_which_nothing_is_learned_is_refused(small_pair: Pair) -> None:
    with pytest.raises(InputError, match="nothing is learned in the phase 'rest'"):
        distilled(small_pair).set_phase(Phase("rest", terms=()))


class Halved(SmallNet):
    """Looks at one half of its batch after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(Halved, self).forward(half) for half in x.chunk(2)])


class Views(SmallNet):
    """Adds views of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x, x.flip(3)]))


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_network_that_adds_views_is_refused_with_the_counts(role: str) -> None:
    networks = {"student": SmallNet(4), "teacher": SmallNet(6)} | {role: Views(6 if role == "teacher" else 4)}
    with pytest.raises(CaptureError, match=rf"of the {role} is of 4 images where 2 were given: it takes batches apart"):
        Distiller(**networks, methods=[SoftTargets()], example=EXAMPLE)


def test_a_network_that_takes_batches_apart_is_refused() -> None:
    with pytest.raises(CaptureError, match="layer1 of the teacher runs 2 times"):
        Distiller(SmallNet(4), Halved(6), [AttentionTransfer()], example=EXAMPLE)


class Percent(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return 100 * super().forward(x).softmax(1)


def test_a_teacher_that_gives_percentages_is_refused() -> None:
    with pytest.raises(InputError, match="teacher"):
        Distiller(SmallNet(4), Percent(6), [SoftTargets()], example=EXAMPLE)(*batch())


def test_images_of_inference_mode_are_refused_with_what_to_give(small_pair: Pair) -> None:
    with torch.inference_mode():
        images, labels = batch()
    with pytest.raises(
        InputError, match=r"made in torch.inference_mode\(\) cannot be learned from: .*images.clone\(\)"
    ):
        distilled(small_pair)(images, labels.clone()).loss.backward()


def test_a_student_that_was_frozen_is_refused(small_pair: Pair) -> None:
    distiller = distilled(small_pair)
    distiller.student.requires_grad_(False)
    with pytest.raises(InputError, match="nothing is trained in this step: all parameters of student were frozen"):
        distiller(*batch())


def test_images_in_double_precision_are_refused_by_predict(small_pair: Pair) -> None:
    with pytest.raises(InputError, match=r"images must be torch.float32, .*images.to\(torch.float32\)"):
        distilled(small_pair).predict(batch()[0].double())


def test_the_students_first_batch_is_looked_at_after_a_phase_without_it(small_pair: Pair) -> None:
    distiller = distilled(small_pair, MultiHeadGraph(graph_epochs=1))
    distiller.set_epoch(0)
    distiller(*batch()).loss.backward()
    distiller.set_epoch(1)
    with torch.no_grad():
        distiller.student.fc.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="student"):
        distiller(*batch())


# ---------------------------------------------------------------- right


def test_a_teacher_of_inference_mode_teaches_and_is_given_back(small_pair: Pair) -> None:
    with torch.inference_mode():
        teacher = SmallNet(6)
    distiller = Distiller(small_pair[0], teacher, [SoftTargets()], example=EXAMPLE)
    distiller(*batch()).loss.backward()
    distiller.detach()
    assert all(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("side", [8, 24])
def test_images_of_another_size_are_compared_at_theirs(small_pair: Pair, side: int) -> None:
    for methods in ([AttentionTransfer()], [FitNet(hint_epochs=1)]):
        distiller = distilled(small_pair, *methods)
        distiller.set_epoch(0)
        out = distiller(*batch(side=side))
        out.loss.backward()
        assert bool(out.loss.isfinite())


def gradients(distiller: Distiller) -> list[Tensor]:
    return [p.grad.clone() for p in distiller.student.parameters() if p.grad is not None]


def test_batches_may_be_accumulated_and_summed_with_a_loss_of_the_users(small_pair: Pair) -> None:
    distiller = distilled(small_pair)
    images, labels = batch()
    (distiller(images, labels).loss + 0.5 * distiller.student.fc.weight.square().sum()).backward()
    own = gradients(distiller)
    distiller.zero_grad()
    distiller(images, labels).loss.backward()
    torch.testing.assert_close(own[-2] - distiller.student.fc.weight, gradients(distiller)[-2])
    distiller(images, labels).loss.backward()
    torch.testing.assert_close(
        gradients(distiller)[-2], 2 * (own[-2] - distiller.student.fc.weight), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("count", [1, 3])
def test_batches_of_another_number_are_learned_from(small_pair: Pair, count: int) -> None:
    assert bool(distilled(small_pair)(*batch(count)).loss.isfinite())


def test_the_order_in_memory_changes_nothing(small_pair: Pair) -> None:
    images, labels = batch()
    distiller = distilled(small_pair)
    plain = distiller(images, labels).loss
    torch.testing.assert_close(distiller(images.to(memory_format=torch.channels_last), labels).loss, plain)


def test_copies_learn_apart(small_pair: Pair) -> None:
    distiller = distilled(small_pair)
    average = AveragedModel(distiller.student)
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
    before = copy.deepcopy(distiller.student).state_dict()
    distiller(*batch()).loss.backward()
    optimizer.step()
    average.update_parameters(distiller.student)
    assert not torch.equal(before["fc.weight"], distiller.student.state_dict()["fc.weight"])
    images = batch()[0]
    torch.testing.assert_close(average.eval()(images), distiller.student.eval()(images))


def test_one_teacher_serves_two_distillers_in_turns(small_pair: Pair) -> None:
    other = Distiller(SmallNet(4), small_pair[1], [SoftTargets()], example=EXAMPLE)
    distiller = distilled(small_pair, SoftTargets())
    wanted = distiller(*batch()).teacher_logits
    assert torch.equal(other(*batch()).teacher_logits, wanted)
    other.detach()
    assert torch.equal(distiller(*batch()).teacher_logits, wanted)
    assert not any(parameter.requires_grad for parameter in small_pair[1].parameters())


def test_a_step_in_half_precision_is_learned_from(small_pair: Pair) -> None:
    distiller = distilled(small_pair)
    with torch.autocast("cpu", torch.bfloat16):
        out = distiller(*batch())
    out.loss.backward()
    assert out.loss.dtype is torch.float32
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(distiller))


class Answer(NamedTuple):
    logits: Tensor
    features: Tensor


class Answering(SmallNet):
    def forward(self, x: Tensor) -> Any:
        return Answer(super().forward(x), x)


def test_a_named_output_is_read_for_its_logits() -> None:
    distiller = Distiller(SmallNet(4), Answering(6), [SoftTargets()], example=EXAMPLE)
    assert distiller(*batch()).teacher_logits.shape == (4, 5)
