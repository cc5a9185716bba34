"""Whatever networks return and labels are: learned from as they are meant, or refused in words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from tests.conftest import SmallNet
from tests.trained import as_trained
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import (
    AttentionTransfer,
    DecoupledSoftTargets,
    Distiller,
    InputError,
    Method,
    Relational,
    SoftTargets,
    build,
)
from attention_transfer.methods.soft_targets import soft_binary_divergence, soft_target_divergence

EXAMPLE = torch.empty(2, 3, 16, 16)
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(4) % 5
LAYER = AttentionTransfer(student_layers=("layer1",), teacher_layers=("layer1",))
INSIDE = AttentionTransfer(student_layers=("network.layer1",), teacher_layers=("network.layer1",))


class Returning(nn.Module):
    """A network whose output is made of its logits."""

    def __init__(self, network: nn.Module, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.make = network, make

    def forward(self, images: Tensor) -> Any:
        return self.make(self.network(images))


class Segmenting(nn.Module):
    """Classes of every pixel, in a dict as torchvision's networks have it."""

    def __init__(self, width: int, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Conv2d(width, classes, 1)
        as_trained(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": functional.interpolate(self.head(self.layer1(images)), scale_factor=2.0)}


@dataclass
class Answer:
    scores: Tensor
    extra: list[str]


def pair(classes: int = 5) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return SmallNet(4, classes), SmallNet(6, classes)


def taught(make: Callable[[Tensor], Any], *methods: Method, **settings: Any) -> Distiller:
    student, teacher = pair()
    return Distiller(Returning(student, make), Returning(teacher, make), methods, example=EXAMPLE, **settings)


# ---------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    "make",
    [
        lambda logits: {"logits": logits, "hidden": [logits]},
        lambda logits: {"out": logits, "aux": logits},
        lambda logits: type("Output", (), {"logits": logits})(),
    ],
)
def test_usual_outputs_are_known(make: Callable[[Tensor], Any]) -> None:
    student, teacher = pair()
    plain = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE)(IMAGES, LABELS)
    found = taught(make, SoftTargets())(IMAGES, LABELS)
    assert_near(found.loss, plain.loss)
    assert not isinstance(found.student_output, Tensor)


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda logits: (logits[:, :2], logits), 1),
        (lambda logits: {"heads": [logits[:, :2], {"fine": logits}]}, "heads.1.fine"),
        (lambda logits: Answer(logits, ["said"]), "scores"),
        (lambda logits: [logits - 1], lambda output: output[0] + 1),
    ],
)
def test_logits_are_where_they_are_said_to_be(make: Callable[[Tensor], Any], where: Any) -> None:
    student, teacher = pair()
    plain = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE)(IMAGES, LABELS)
    found = taught(make, SoftTargets(), student_logits=where, teacher_logits=where)(IMAGES, LABELS)
    assert_near(found.loss, plain.loss)


@pytest.mark.parametrize(
    ("make", "where", "words"),
    [
        (lambda logits: (logits, {}), None, r"returns a tuple of 0: \(\d, 5\), 1: dict, and .* reads its logits: .*="),
        (lambda logits: {"x": logits}, "y", r"student_logits='y' is not in .*there is no 'y' in a dict of 'x'"),
        (lambda logits: {"x": [logits]}, "x.3", r"there is no '3' in a list"),
        (lambda logits: {"x": logits}, lambda output: output, "student_logits= gives a dict"),
        (lambda logits: logits, True, "student_logits must be a key, an index"),
    ],
)
def test_logits_that_are_not_there_are_refused_with_what_is(
    make: Callable[[Tensor], Any], where: Any, words: str
) -> None:
    student, teacher = pair()
    with pytest.raises(InputError, match=words):
        Distiller(Returning(student, make), teacher, [SoftTargets()], example=EXAMPLE, student_logits=where)


@pytest.mark.parametrize(
    "make",
    [lambda logits: [], lambda logits: None, lambda logits: {"boxes": [logits]}, lambda logits: logits.argmax(1)],
)
def test_outputs_pass_through_where_no_logits_are_read(make: Callable[[Tensor], Any]) -> None:
    out = taught(make, INSIDE, task_weight=0)(IMAGES)
    out.loss.backward()
    assert out.student_logits is None or not out.student_logits.is_floating_point()
    assert type(out.student_output) is type(make(torch.zeros(4, 5)))


def test_a_loss_of_ones_own_reaches_the_network_by_its_output() -> None:
    distiller = taught(lambda logits: {"scores": logits}, INSIDE, task_loss=None)
    out = distiller(IMAGES)
    (out.loss + out.student_output["scores"].square().mean()).backward()
    head = distiller.student.get_parameter("network.fc.weight")
    assert head.grad is not None
    assert bool(head.grad.any())


def test_networks_without_a_head_are_teachers() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = SmallNet(6)

        def forward(self, images: Tensor) -> Tensor:
            return self.inner.layer2(self.inner.layer1(images))

    out = Distiller(SmallNet(4), Features(), [Relational(teacher_layer="inner.layer2")], example=EXAMPLE)(
        IMAGES, LABELS
    )
    assert out.teacher_logits is None
    assert torch.isfinite(out.loss)


def test_a_pair_of_logits_counts_as_its_mean_only_where_a_network_says_so() -> None:
    network = Returning(SmallNet(4), lambda logits: (logits, logits + 2))
    network.distilled_training = True  # as timm's distilled transformers
    out = Distiller(network, example=EXAMPLE)(IMAGES, LABELS)
    assert out.student_logits is not None
    assert_near(out.student_logits, out.student_output[0] + 1)


# ---------------------------------------------------------------- tasks


def test_segmentation_is_learned_position_by_position() -> None:
    torch.manual_seed(0)
    student, teacher = Segmenting(4), Segmenting(8)
    labels = torch.randint(0, 5, (4, 16, 16))
    labels[0] = -100
    out = Distiller(student, teacher, [LAYER, SoftTargets(temperature=2.0)], example=EXAMPLE)(IMAGES, labels)
    with torch.no_grad():
        teacher.eval()
        theirs = teacher(IMAGES)["out"]
    ours = out.student_output["out"]
    assert_near(out.terms["ce"].value, functional.cross_entropy(ours[1:], labels[1:]))
    rows = [each.movedim(1, -1).flatten(0, 2) for each in (ours, theirs)]
    assert_near(out.terms["kd"].value, soft_target_divergence(rows[0], rows[1], 2.0))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.full((4, 16, 16), 255), r"not 255: where no label is meant, give -100, as in labels.masked_fill"),
        (torch.full((4, 16, 16), 5), "class indices from 0 to 4, .*, not 5: the student has 5 classes"),
        (torch.full((4, 16, 16), -1), r"not -1: where no label is meant, give -100"),
        (torch.full((4, 16, 16), -100), "no position of the batch has a label"),
        (torch.zeros(4, 8, 8, dtype=torch.int64), r"in shape \(4, 16, 16\), not \(4, 8, 8\)"),
        (LABELS, r"a class index for each position of the 4 images, \(batch, height, width\)"),
        (torch.zeros(4, 1, 16, 16), r"give labels\[:, 0\]"),
        (torch.zeros(4, 16, 16), "labels must be whole numbers"),
        (torch.ones(4, 5, 16, 16), "sum to 1"),
    ],
)
def test_maps_of_labels_that_cannot_be_learned_are_refused(labels: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Distiller(Segmenting(4), Segmenting(8), [LAYER], example=EXAMPLE)(IMAGES, labels)


def test_probabilities_at_positions_are_learned() -> None:
    labels = torch.randn(4, 5, 16, 16).softmax(1)
    out = Distiller(Segmenting(4), example=EXAMPLE)(IMAGES, labels)
    assert_near(out.terms["ce"].value, functional.cross_entropy(out.student_output["out"], labels))


@pytest.mark.parametrize(
    ("classes", "kind"), [(5, torch.float32), (1, torch.float32), (5, torch.int64), (5, torch.bool)]
)
def test_several_hot_labels_are_learned_class_by_class(classes: int, kind: torch.dtype) -> None:
    student, teacher = pair(classes)
    distiller = Distiller(student, teacher, [SoftTargets()], example=EXAMPLE, task_loss="binary-cross-entropy")
    labels = (torch.arange(4 * classes).reshape(4, classes) % 3 == 0).to(kind)
    out = distiller(IMAGES, labels)
    assert isinstance(out.student_logits, Tensor)
    assert isinstance(out.teacher_logits, Tensor)
    expected = functional.binary_cross_entropy_with_logits(out.student_logits, labels.float())
    assert_near(out.terms["bce"].value, expected)
    assert_near(out.terms["kd"].value, soft_binary_divergence(out.student_logits, out.teacher_logits, 4.0))
    assert distiller.task_term == "bce"


def test_binary_soft_targets_are_divergences_of_two_outcomes() -> None:
    student, teacher = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    total = 0.0
    for ours, theirs in zip(student.flatten() / 2, teacher.flatten() / 2, strict=True):
        p, q = theirs.sigmoid(), ours.sigmoid()
        total += float(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    assert_near(soft_binary_divergence(student, teacher, 2.0), torch.tensor(4 * total / 12, dtype=torch.float64))


@pytest.mark.parametrize(("name", "loss"), [("mse", functional.mse_loss), ("smooth-l1", functional.smooth_l1_loss)])
def test_numbers_are_learned(name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = pair(2)
    labels = torch.randn(4, 2)
    out = Distiller(student, teacher, [Relational()], example=EXAMPLE, task_loss=name)(IMAGES, labels)
    assert_near(out.terms[name].value, loss(out.student_output, labels))


def test_a_function_is_given_the_output_as_it_came() -> None:
    def own(output: dict[str, Tensor], labels: list[dict[str, Tensor]]) -> Tensor:
        return sum((output["x"][i].sum() - each["y"]).square() for i, each in enumerate(labels)) / len(labels)

    labels = [{"y": torch.tensor(float(i))} for i in range(4)]
    distiller = taught(lambda logits: {"x": logits}, INSIDE, task_loss=own, task_weight=0.5)
    out = distiller(IMAGES, labels)
    assert out.terms["task"].weight == 0.5
    assert_near(out.terms["task"].value, own(out.student_output, labels))
    out.loss.backward()
    assert distiller.unused_parameters() == ()


@pytest.mark.parametrize(
    ("settings", "labels", "words"),
    [
        ({"task_loss": "nll"}, None, "task_loss must be 'cross-entropy', .* not 'nll'"),
        ({"task_loss": nn.CrossEntropyLoss}, None, "task_loss must be"),
        ({"task_loss": "binary-cross-entropy"}, LABELS, r"one_hot\(labels, 5\)"),
        ({"task_loss": "binary-cross-entropy"}, torch.full((4, 5), 2.0), "must be 0, 1 or a probability .* not 2"),
        ({"task_loss": "binary-cross-entropy"}, torch.full((4, 5), -1), "must be 0, 1 or a probability .* not -1"),
        ({"task_loss": "binary-cross-entropy"}, torch.full((4, 5), torch.nan), "must be 0, 1 or a probability"),
        ({"task_loss": "mse"}, LABELS, "a number for each output"),
        ({"task_loss": "mse"}, torch.zeros(4, 5, dtype=torch.int64), r"give labels.float\(\)"),
        ({"task_loss": "mse"}, torch.full((4, 5), torch.inf), "labels must be finite numbers, and one is inf"),
        ({"task_loss": lambda output, labels: output}, LABELS, r"must return a scalar tensor, .* of shape \(4, 5\)"),
        ({"task_loss": lambda output, labels: {"x": 1}}, LABELS, "must return a scalar tensor, .* of type dict"),
        ({"task_loss": "mse"}, None, "labels are needed"),
    ],
)
def test_losses_and_labels_that_do_not_fit_are_refused(settings: dict[str, Any], labels: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Distiller(*pair(), [LAYER], example=EXAMPLE, **settings)(IMAGES, labels)


def test_a_function_is_tried_where_labels_come_with_the_example() -> None:
    example = EXAMPLE, torch.zeros(2, dtype=torch.int64)
    with pytest.raises(InputError, match="must return a scalar tensor"):
        Distiller(*pair(), [LAYER], example=example, task_loss=lambda output, labels: output)


def test_methods_that_read_classes_are_refused_beside_other_labels() -> None:
    with pytest.raises(InputError, match=r"dkd: DecoupledSoftTargets reads labels, .* task_loss='mse' are others"):
        Distiller(*pair(), [DecoupledSoftTargets()], example=EXAMPLE, task_loss="mse")


def test_methods_of_one_row_per_image_refuse_maps_of_logits() -> None:
    with pytest.raises(InputError, match=r"dkd: DecoupledSoftTargets is for logits of one row per image, .*: take kd"):
        Distiller(Segmenting(4), Segmenting(8), [DecoupledSoftTargets()], example=EXAMPLE, task_loss=None)


def test_logits_at_other_positions_are_refused() -> None:
    half = Returning(Segmenting(8), lambda output: output["out"][:, :, ::2, ::2])
    with pytest.raises(InputError, match=r"at the same positions: the teacher has \(8, 8\), the student \(16, 16\)"):
        Distiller(Segmenting(4), half, [SoftTargets()], example=EXAMPLE)


def test_a_method_that_does_nothing_is_refused() -> None:
    @dataclass(frozen=True)
    class Idle(AttentionTransfer):
        key = "idle"

        def terms(self, *observed: object) -> dict[str, Any]:
            return {}

    with pytest.raises(InputError, match="idle changes nothing: Idle has no term and replaces nothing"):
        Distiller(build("resnet8", 4), as_trained(build("resnet14", 4)), [Idle()], example=EXAMPLE)
