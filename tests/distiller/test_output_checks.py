"""Outputs of which the loss says nothing are refused, missing labels are asked for, and steps show themselves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests.trained import as_trained
from torch import Tensor, nn

from attention_transfer import (
    AttentionTransfer,
    ClassAttention,
    DecoupledSoftTargets,
    Distiller,
    GradientAttention,
    InputError,
    Method,
    SoftTargets,
    Term,
    build,
)
from attention_transfer.batch import Batch
from attention_transfer.distiller import Output
from attention_transfer.methods import Needs, Observed, Reads

EXAMPLE = torch.empty(2, 3, 16, 16)
LABELS = torch.arange(4)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Ending(nn.Module):
    """A small network with something after its logits."""

    def __init__(self, end: Callable[[Tensor], Any] = torch.Tensor.clone, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(classes)
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
        self.fc = nn.Linear(6, classes)
        self.end = end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.fc(self.layer2(self.layer1(x)).mean((2, 3))))


def softmax_written_out(x: Tensor) -> Tensor:
    powers = (x - x.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


PROBABILITIES = {
    "softmax": nn.Softmax(1),
    "certain": lambda x: (1000 * x).softmax(1),
    "written out": softmax_written_out,
    "of half precision": lambda x: x.softmax(1).half(),
    "of bfloat16": lambda x: x.softmax(1).bfloat16(),
    "of log-probabilities": lambda x: x.log_softmax(1).exp(),
    "kept off zero": lambda x: x.softmax(1).clamp(1e-6, 1 - 1e-6),
}
SIGMOIDS = {
    "sigmoid": nn.Sigmoid(),
    "method": lambda x: x.sigmoid(),
    "in place": lambda x: x.sigmoid_(),
    "expit": torch.special.expit,
    "softmax over the batch": nn.Softmax(0),
}


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("end", PROBABILITIES.values(), ids=PROBABILITIES)
def test_probabilities_in_place_of_logits_are_refused(role: str, end: Callable[[Tensor], Tensor]) -> None:
    networks = {"student": Ending(), "teacher": Ending()} | {role: Ending(end)}
    with pytest.raises(InputError, match=f"the {role} returns probabilities, where logits are wanted"):
        Distiller(**networks, methods=[SoftTargets()], example=EXAMPLE)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("end", SIGMOIDS.values(), ids=SIGMOIDS)
def test_a_probability_of_each_class_by_itself_is_refused(role: str, end: Callable[[Tensor], Tensor]) -> None:
    networks = {"student": Ending(), "teacher": Ending()} | {role: Ending(end)}
    with pytest.raises(InputError, match=f"the {role} ends in a s.*logits are wanted"):
        Distiller(**networks, methods=[SoftTargets()], example=EXAMPLE)


def test_a_sigmoid_that_is_written_out_is_known_by_its_values_where_there_are_many_classes() -> None:
    teacher = Ending(lambda x: 1 / (1 + (-x).exp()), classes=40)
    with pytest.raises(InputError, match="the teacher ends in a sigmoid"):
        Distiller(Ending(classes=40), teacher, [SoftTargets()], example=EXAMPLE)


@pytest.mark.parametrize(
    "end",
    [
        nn.LogSoftmax(1),
        nn.ReLU(),
        nn.Tanh(),
        lambda x: x.abs() / 10,
        lambda x: x.softmax(1).log(),
        lambda x: x.bfloat16(),
        lambda x: x.half(),
        lambda x: x.double(),
        lambda x: 30 * x,
    ],
    ids=["log-softmax", "relu", "tanh", "absolute", "log of softmax", "bfloat16", "float16", "float64", "large"],
)
def test_all_other_outputs_are_logits(images: Tensor, end: Callable[[Tensor], Tensor]) -> None:
    assert Distiller(Ending(end), Ending(end), [SoftTargets()], example=EXAMPLE)(images, LABELS).loss.isfinite()


def test_log_probabilities_teach_what_their_logits_teach(images: Tensor) -> None:
    losses = [
        Distiller(Ending(), Ending(end, classes=5), [SoftTargets()], example=EXAMPLE)(images, LABELS).loss
        for end in (nn.Identity(), nn.LogSoftmax(1))
    ]
    torch.testing.assert_close(*losses)


def test_an_untrained_network_of_any_number_of_classes_is_taken() -> None:
    for classes in (2, 3, 1000):
        Distiller(build("resnet8", classes), as_trained(build("resnet8", classes)), [SoftTargets()], example=EXAMPLE)


def test_outputs_of_whole_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"the teacher returns torch.int64, where logits are wanted"):
        Distiller(Ending(), Ending(lambda x: (100 * x).long()), [SoftTargets()], example=EXAMPLE)


# ---------------------------------------------------------------- one output


@pytest.mark.parametrize("methods", [[], [SoftTargets()], [GradientAttention()], [AttentionTransfer()]])
def test_one_logit_is_refused_wherever_a_softmax_is_taken_of_it(methods: list[Method]) -> None:
    with pytest.raises(InputError, match=r"one output for each image.* give it two outputs, one for each class"):
        Distiller(Ending(classes=1), Ending(classes=1), methods, example=EXAMPLE)


def test_one_output_that_no_loss_reads_may_be(images: Tensor) -> None:
    distiller = Distiller(
        Ending(classes=1), Ending(classes=1), [AttentionTransfer(student_layers=["layer1"], teacher_layers=["layer1"])],
        task_weight=0, example=EXAMPLE,
    )  # fmt: skip
    assert distiller(images).loss.isfinite()


def test_outputs_that_nobody_reads_may_be_probabilities_or_of_other_classes(images: Tensor) -> None:
    distiller = Distiller(Ending(), Ending(nn.Softmax(1), classes=7), [AttentionTransfer()], example=EXAMPLE)
    assert distiller(images, LABELS).loss.isfinite()


@pytest.mark.parametrize("method", [SoftTargets(), DecoupledSoftTargets(), GradientAttention(), ClassAttention()])
def test_networks_of_other_classes_are_refused(method: Method) -> None:
    with pytest.raises(InputError, match="the teacher has 7, the student 5"):
        Distiller(build("resnet8", 5), as_trained(build("resnet8", 7)), [method], example=EXAMPLE)


# ---------------------------------------------------------------- the same for every image


class Deaf(nn.Module):
    """Gives what it likes, whatever its images are."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs = nn.Parameter(torch.arange(5.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs.expand(len(x), 5)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_outputs_that_do_not_depend_on_the_image_are_refused(role: str) -> None:
    networks = {"student": Ending(), "teacher": Ending()} | {role: Deaf()}
    with pytest.raises(InputError, match=f"the outputs of the {role} are the same for all of noise"):
        Distiller(**networks, methods=[SoftTargets()], example=EXAMPLE)


def test_a_last_layer_that_starts_at_zero_may_learn(images: Tensor) -> None:
    student, teacher = Ending(), Ending()
    for network in (student, teacher):
        nn.init.zeros_(network.fc.weight)
    assert Distiller(student, teacher, [SoftTargets()], example=EXAMPLE)(images, LABELS).loss.isfinite()


def test_a_teacher_that_sees_real_images_all_alike_is_refused(images: Tensor) -> None:
    # As of images that still are 0…255 where others were wanted.
    teacher = nn.Sequential(nn.Flatten(), nn.Hardtanh(), nn.Linear(768, 5))
    distiller = Distiller(Ending(), teacher, [SoftTargets()], example=EXAMPLE)
    with pytest.raises(InputError, match="the outputs of the teacher are the same for all of the images of this batch"):
        distiller(images.abs() * 100 + 1, LABELS)
    # Where all images are the same, the teacher says so rightly.
    distiller = Distiller(Ending(), teacher, [SoftTargets()], example=EXAMPLE)
    assert distiller(torch.ones(4, 3, 16, 16), LABELS).loss.isfinite()


# ---------------------------------------------------------------- the first batch


class OnlyInEvaluation(Ending):
    """Gives probabilities when it is used."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits if self.training else logits.softmax(1)


def test_probabilities_in_evaluation_alone_are_refused_there(images: Tensor) -> None:
    distiller = Distiller(OnlyInEvaluation(), Ending(), [SoftTargets()], example=EXAMPLE)
    assert distiller(images, LABELS).loss.isfinite()
    with torch.no_grad(), pytest.raises(InputError, match="the student returns probabilities"):
        distiller.eval()(images, LABELS)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_images_that_are_not_finite_are_refused(images: Tensor, value: float) -> None:
    images[1, 0, 3, 3] = value
    with pytest.raises(InputError, match="images hold values that are infinite or not a number"):
        Distiller(Ending(), Ending(), [SoftTargets()], example=EXAMPLE)(images, LABELS)


class Overflowing(Ending):
    """In half precision, large values are infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) * 1e3).half()


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_outputs_that_are_not_finite_are_refused_before_anything_is_learned(images: Tensor, role: str) -> None:
    networks = {"student": Ending(), "teacher": Ending()} | {role: Overflowing()}
    distiller = Distiller(**networks, methods=[SoftTargets()], example=EXAMPLE)
    with pytest.raises(InputError, match=f"outputs of the {role} are infinite .* larger range than float16"):
        distiller(images * 1e4, LABELS)


def test_a_teacher_with_weights_that_are_not_finite_is_refused_when_built() -> None:
    teacher = Ending()
    nn.init.constant_(teacher.fc.bias, torch.nan)
    with pytest.raises(InputError, match="kd is nan on noise"):
        Distiller(Ending(), teacher, [SoftTargets()], example=EXAMPLE)


def test_later_batches_are_not_looked_at(images: Tensor) -> None:
    distiller = Distiller(Ending(), Ending(), [SoftTargets()], example=EXAMPLE)
    distiller(images, LABELS)
    assert distiller(images * torch.nan, LABELS).loss.isnan()


# ---------------- methods that need the labels of the training set, or class numbers in a batch

Pair = tuple[nn.Module, nn.Module]


@dataclass(frozen=True)
class Counting(Method):
    """Remembers how many training images there are."""

    key: ClassVar[str] = "counting"

    def reads(self, teacher: object, student: object) -> Reads:
        return Reads(batch=Needs(index=True))

    def parts(self, teacher: Observed, student: Observed) -> nn.Module:
        return nn.Linear(5, 1)

    def given_labels(self, parts: nn.Module | None, labels: Tensor | None) -> None:
        if labels is None:
            raise InputError("counting needs the labels of all training images")
        parts.register_buffer("seen", torch.zeros(len(labels)))

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        # Fails for places that the training set has not.
        parts.seen[batch.index] += 1
        return {"counting": Term(parts(student.logits).mean())}


@dataclass(frozen=True)
class Numbers(Counting):
    """Wants class numbers."""

    def reads(self, teacher: object, student: object) -> Reads:
        return Reads(batch=Needs(class_indices=True))

    def given_labels(self, parts: nn.Module | None, labels: Tensor | None) -> None:
        pass

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        return {"counting": Term(parts(student.logits).mean())}


def test_labels_reach_the_parts_and_the_proof_counts_in_their_places(small_pair: Pair) -> None:
    labels = torch.arange(3)
    distiller = Distiller(small_pair[0], None, [Counting()], example=torch.empty(8, 3, 16, 16), train_labels=labels)
    assert torch.equal(distiller.parts["counting"].seen, torch.zeros(3))
    distiller(torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), torch.tensor([2, 1]))
    assert distiller.parts["counting"].seen.tolist() == [0, 1, 1]


def test_labels_that_are_missing_or_none_are_refused(small_pair: Pair) -> None:
    with pytest.raises(ValueError, match="counting needs the labels of all training images"):
        Distiller(small_pair[0], None, [Counting()], example=EXAMPLE)
    kinds = (torch.zeros(4, 5), torch.zeros(4), torch.zeros(0).long(), torch.zeros(4).bool(), torch.tensor(3))
    for wrong in (*kinds, torch.tensor([-1]), torch.tensor([0, -100]), ["cat", "dog"], [[0], [1, 2]], {0: 1}):
        with pytest.raises(ValueError, match="train_labels must be a list of class indices"):
            Distiller(small_pair[0], None, [Counting()], example=EXAMPLE, train_labels=wrong)


def test_training_labels_of_classes_that_the_student_has_not_are_refused(small_pair: Pair) -> None:
    for labels, words in ((torch.arange(8), "up to 7, and the student has the 5 classes"), ([1, 5], "count from 0")):
        with pytest.raises(ValueError, match=f"train_labels go up to .*{words}|{words}"):
            Distiller(small_pair[0], None, [Counting()], example=EXAMPLE, train_labels=labels)
    # Where no labels are learned, classes are the method's own.
    Distiller(small_pair[0], None, [Counting()], example=EXAMPLE, train_labels=torch.arange(8), task_weight=0)


def test_labels_of_any_whole_number_type_are_taken(small_pair: Pair) -> None:
    for labels in ([0, 1, 2], np.array([0, 1, 2]), torch.tensor([0, 1, 2], dtype=torch.int32)):
        distiller = Distiller(small_pair[0], None, [Counting()], example=EXAMPLE, train_labels=labels)
        assert len(distiller.parts["counting"].seen) == 3


def test_mixed_labels_are_refused_where_class_indices_are_wanted(small_pair: Pair) -> None:
    distiller = Distiller(small_pair[0], None, [Numbers()], example=EXAMPLE, task_weight=0)
    images = torch.randn(2, 3, 16, 16)
    distiller(images, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels are needed"):
        distiller(images)
    with pytest.raises(ValueError, match="counting: labels must be class indices, not probabilities"):
        distiller(images, torch.full((2, 5), 0.2))


# ---------------------------------------------------------------- what a step gives shows itself without its tensors


def test_an_output_shows_loss_and_terms_and_no_tensors() -> None:
    value = torch.tensor(0.25, requires_grad=True)
    out = Output({"ce": Term(value, 0.5), "at": Term(2 * value, torch.tensor(10.0))}, torch.zeros(2, 3))
    # Whoever turns warnings into errors can look at it, too.
    assert repr(out) == "Output(loss 5.125 = ce 0.25 × 0.5, at 0.5 × 10)"
    out.backward()
    assert value.grad is not None
    assert value.grad.item() == 20.5
