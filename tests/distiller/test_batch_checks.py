"""Batches that nothing can be learned from are refused by their argument, before either network sees them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from tests.known import compiled_whole
from torch import Tensor, nn
from torch.nn import functional

from attention_transfer import Distiller, InputError, Method, SoftTargets, Term
from attention_transfer.batch import Batch
from attention_transfer.distiller import batch_checks
from attention_transfer.methods import Needs, Observed, Reads

Pair = tuple[nn.Module, nn.Module]
EXAMPLE = torch.empty(2, 3, 16, 16)
LABELS = torch.arange(4)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def distiller(small_pair: Pair) -> Distiller:
    return Distiller(*small_pair, [SoftTargets()], example=EXAMPLE).eval()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: x.to(torch.uint8), "images must be floating point, not torch.uint8"),
        (lambda x: x > 0, "images must be floating point, not torch.bool"),
        (lambda x: x.to(torch.int32), "images must be floating point, not torch.int32"),
        (lambda x: x.to(torch.complex64), "images must be floating point, not torch.complex64"),
        (lambda x: x.to(torch.float8_e5m2), "images must be floating point, not torch.float8_e5m2"),
        (
            lambda x: x.double(),
            r"images must be torch.float32, .*, not torch.float64: give images.to\(torch.f",
        ),
        (lambda x: x.bfloat16(), "images must be torch.float32, .*, not torch.bfloat16"),
        (
            lambda x: x.to("meta"),
            r"on the device of the student, cpu, not on meta: give images.to\('cpu'\)",
        ),
        (lambda x: x.permute(0, 2, 3, 1), r"channels come last here, so give images.permute\(0, 3, 1, 2\)"),
        (lambda x: x[0], r"not \(3, 16, 16\): give images\[None\], a batch of one"),
        (lambda x: x[0].permute(1, 2, 0), r"give images.permute\(2, 0, 1\)\[None\]"),
        (lambda x: x[:, :1], "images must have 3 channels, .*, not 1 in"),
        (lambda x: torch.cat((x, x), 1), "images must have 3 channels, .*, not 6 in"),
        (lambda x: x.flatten(1), r"images must be of shape \(batch, 3, height, width\), not \(4, 768\)"),
        (lambda x: x[None], "images must be of shape .*, not "),
        (lambda x: x[:0], "images must be at least one"),
        (lambda x: x.to_sparse(), "images must be a dense tensor .* sparse_coo one"),
        (lambda x: x.to_mkldnn(), "images must be a dense tensor .* mkldnn one"),
        (lambda x: list(x), r"images must be a tensor .* list: give torch.stack\(images\)"),
        (lambda x: (x, LABELS), r"images must be a tensor .* tuple: give images\[0\]"),
        (lambda x: {"pixel_values": x}, "images must be a tensor .* dict: give the tensor itself"),
        (lambda x: x.numpy(), r"images must be a tensor .* ndarray: give torch.from_numpy\(images\)"),
    ],
)
def test_images_of_another_kind_are_refused_with_what_to_make_of_them(
    distiller: Distiller, images: Tensor, make: Callable[[Tensor], Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        distiller(make(images), LABELS)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "labels are needed"),
        ([0, 1, 2, 3], r"labels must be a tensor .* list: give torch.tensor\(labels\)"),
        (LABELS.numpy(), r"ndarray: give torch.from_numpy\(labels\)"),
        ((LABELS, LABELS.flip(0), 0.3), r"labels must be a tensor .* tuple: give labels\[0\]"),
        ({"label": LABELS}, "labels must be a tensor .* dict: give the tensor itself"),
        (LABELS[:3], "labels must be one for each of the 4 images, not 3"),
        (torch.tensor(3), "labels must be one for each of the 4 images, not a single number"),
        (LABELS[:, None], r"labels must have the shape \(4,\), not \(4, 1\): give labels\[:, 0\]"),
        (LABELS.float(), r"whole numbers, the class indices, not torch.float32: give labels.long\(\)"),
        (LABELS > 0, "whole numbers, the class indices, not torch.bool"),
        (functional.one_hot(LABELS, 5), r"must be floating point.* torch.int64: give labels.float\(\)"),
        (torch.full((4, 7), 1 / 7), r"each of the student's 5 classes, \(4, 5\), not the shape \(4, 7\)"),
        (torch.full((4, 5, 1), 0.2), r"not the shape \(4, 5, 1\)"),
        (torch.full((4, 5), 0.2).to_sparse(), "labels must be a dense tensor"),
        (LABELS.to("meta"), "labels must be on the device of the images, cpu, not on meta"),
        (torch.tensor([0, 1, 2, 9]), "class indices from 0 to 4, or -100 .*, not 9: the student has 5 classes"),
        (torch.tensor([1, 2, 3, 5]), "not 5: class indices count from 0, so give labels - 1"),
        (torch.tensor([0, 1, 2, -1]), "not -1: where no label is meant, give -100"),
        (torch.tensor([0, -1, -100, -100]), "not -1"),
        (torch.tensor([0, 1, 2, -100]).to(torch.uint8), "not 156"),
        (torch.full((4,), -100), "labels are all -100, which means that no image of the batch has a label"),
        (-torch.ones(4, 5), "class probabilities, none negative, not -1"),
        (torch.full((4, 5), torch.nan), "class probabilities, none negative, not nan"),
        (torch.full((4, 5), torch.inf), "sum to 1, and a row sums to inf"),
        (torch.tensor([[1.0, 0, 1, 1, 0]] * 4), "sum to 1, and a row sums to 3: of images with several classes"),
        (torch.eye(5)[[0, 1, 2, 3]] * torch.tensor([1.0, 1, 1, 0])[:, None], "sum to 1, and a row sums to 0"),
        (torch.full((4, 5), 0.205), "sum to 1, and a row sums to 1.025"),
    ],
)
def test_labels_of_another_kind_are_refused_with_what_to_make_of_them(
    distiller: Distiller, images: Tensor, labels: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        distiller(images, labels)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8])
def test_class_indices_of_any_whole_number_type_are_the_same(
    distiller: Distiller, images: Tensor, dtype: torch.dtype
) -> None:
    assert torch.equal(distiller(images, LABELS.to(dtype)).loss, distiller(images, LABELS).loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_mixed_labels_of_any_precision_are_taken(distiller: Distiller, images: Tensor, dtype: torch.dtype) -> None:
    mixed = 0.3 * functional.one_hot(LABELS, 5) + 0.7 * functional.one_hot(LABELS.flip(0), 5)
    found, wanted = (distiller(images, labels).loss for labels in (mixed.to(dtype), mixed))
    torch.testing.assert_close(found.float(), wanted, rtol=1e-2, atol=1e-2)


def test_labels_that_nobody_reads_are_not_looked_at(small_pair: Pair, images: Tensor) -> None:
    distiller = Distiller(*small_pair, [SoftTargets()], task_weight=0, example=EXAMPLE).eval()
    assert torch.equal(distiller(images, [0, 1, 2, 3]).loss, distiller(images).loss)


def test_images_without_a_label_are_left_out_of_the_task(distiller: Distiller, images: Tensor) -> None:
    out = distiller(images, torch.tensor([0, -100, 2, -100]))
    wanted = functional.cross_entropy(out.student_logits[[0, 2]], torch.tensor([0, 2]))
    torch.testing.assert_close(out.terms["ce"].value, wanted)
    assert torch.equal(out.terms["kd"].value, distiller(images, LABELS).terms["kd"].value)


@dataclass(frozen=True)
class Labelled(Method):
    """Reads the label of every image."""

    key: ClassVar[str] = "labelled"
    indices: bool = False

    def reads(self, teacher: object, student: object) -> Reads:
        return Reads(batch=Needs(labels=True, class_indices=self.indices))

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        return {"labelled": Term(student.logits.gather(1, batch.label[:, None]).mean())}


@pytest.mark.parametrize("indices", [False, True])
def test_a_method_that_needs_every_label_is_named_where_one_is_missing(
    small_pair: Pair, images: Tensor, indices: bool
) -> None:
    distiller = Distiller(*small_pair, [SoftTargets(), Labelled(indices=indices)], task_weight=0, example=EXAMPLE)
    distiller(images, LABELS)
    with pytest.raises(InputError, match=r"^labelled reads the label of every image, and 1 of 4 have none \(-100\)"):
        distiller(images, torch.tensor([0, 1, -100, 2]))


def test_batches_are_checked_in_evaluation_too_and_by_predict(distiller: Distiller, images: Tensor) -> None:
    with torch.no_grad(), pytest.raises(InputError, match="not 9"):
        distiller(images, torch.tensor([0, 1, 2, 9]))
    with pytest.raises(InputError, match="images must have 3 channels"):
        distiller.predict(images.permute(0, 2, 3, 1))
    with torch.inference_mode():
        assert distiller(images, LABELS).loss.isfinite()


def test_half_images_are_taken_under_autocast(distiller: Distiller, images: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert distiller(images.bfloat16(), LABELS).loss.isfinite()


def test_one_image_is_too_few_for_batch_norms_in_training(images: Tensor) -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 16), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))
    distiller = Distiller(student, example=EXAMPLE)
    with pytest.raises(InputError, match=r"one image is too few for batch norms in training.*drop_last=True"):
        distiller(images[:1], LABELS[:1])
    assert distiller.eval()(images[:1], LABELS[:1]).loss.isfinite()


class Failing(nn.Module):
    """Fails when it is told to, for a reason of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.fails = nn.Linear(3, 5), False

    def forward(self, x: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("this type of device is on strike")
        return self.fc(x.mean((2, 3)))


def test_a_networks_own_errors_stay_what_they_are(images: Tensor) -> None:
    student = Failing()
    distiller = Distiller(student, example=EXAMPLE)
    student.fails = True
    with pytest.raises(RuntimeError, match=r"^this type of device is on strike$"):
        distiller(images, LABELS)


class Casting(nn.Module):
    """Brings its images to its own type."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)).to(self.fc.weight.dtype))


def test_a_network_may_cast_its_images_itself(images: Tensor) -> None:
    distiller = Distiller(Casting(), example=EXAMPLE)
    torch.testing.assert_close(distiller(images.double(), LABELS).loss, distiller(images, LABELS).loss)


@dataclass(frozen=True)
class Indexed(Method):
    """Goes by the dataset index of every image."""

    key: ClassVar[str] = "indexed"

    def reads(self, teacher: object, student: object) -> Reads:
        return Reads(batch=Needs(index=True))

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> Mapping[str, Term]:
        return {"indexed": Term((student.logits.mean(1) * batch.index).mean())}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (None, "index is needed by indexed"),
        ([0, 1, 2, 3], r"index must be a tensor .* list: give torch.tensor\(index\)"),
        (LABELS.float(), r"index must have one whole number \(int64\) for each of the 4 images, not torch.float32"),
        (LABELS.int(), "index must have one whole number"),
        (LABELS[:3], r"for each of the 4 images, not torch.int64 of shape \(3,\)"),
        (LABELS[:, None], "index must have one whole number"),
        (torch.tensor([0, 1, 2, -1]), "index has dataset indices from -1 to 2, and train_labels are those of 6 images"),
        (torch.tensor([0, 1, 2, 6]), "index has dataset indices from 0 to 6"),
    ],
)
def test_an_index_of_another_kind_or_beyond_the_training_images_is_refused(
    small_pair: Pair, images: Tensor, index: Any, words: str
) -> None:
    labels = torch.arange(6) % 5
    distiller = Distiller(small_pair[0], None, [Indexed()], example=EXAMPLE, train_labels=labels)
    distiller(images, LABELS, LABELS + 2)
    with pytest.raises(InputError, match=words):
        distiller(images, LABELS, index)


# ---------------------------------------------------------------- one step late


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device is one that must be waited for."""
    monkeypatch.setattr(batch_checks, "_waits", lambda device: True)


WRONG = torch.tensor([0, 1, 2, 9])


@pytest.mark.usefixtures("late")
def test_an_accelerator_is_asked_at_once_in_the_first_step(distiller: Distiller, images: Tensor) -> None:
    with pytest.raises(InputError, match="not 9"):
        distiller(images, WRONG)
    # Nothing of it is left.
    assert distiller(images, LABELS).loss.isfinite()


@pytest.mark.usefixtures("late")
def test_then_one_step_late_and_meanwhile_a_wrong_label_is_none(distiller: Distiller, images: Tensor) -> None:
    first = distiller(images, LABELS)
    wanted = distiller(images, torch.tensor([0, 1, 2, -100])).loss
    assert torch.equal(distiller(images, WRONG).loss, wanted)
    with pytest.raises(InputError, match="not 9"):
        distiller(images, LABELS)
    assert torch.equal(distiller(images, LABELS).loss, first.loss)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("labels", [WRONG, -torch.ones(4, 5), torch.ones(4, 5)])
def test_the_last_step_of_an_epoch_is_looked_at_when_the_next_begins(
    distiller: Distiller, images: Tensor, labels: Tensor
) -> None:
    distiller(images, LABELS)
    distiller(images, labels)
    with pytest.raises(InputError, match="labels"):
        distiller.set_epoch(1)
    distiller.set_epoch(1)


@pytest.mark.usefixtures("late")
def test_a_late_batch_without_any_label_moves_no_weight(small_pair: Pair, images: Tensor) -> None:
    distiller = Distiller(small_pair[0], example=EXAMPLE)
    distiller(images, LABELS)
    out = distiller(images, torch.full((4,), -100))
    out.loss.backward()
    assert out.loss == 0
    assert not any(p.grad.any() for p in distiller.parameters())
    with pytest.raises(InputError, match="labels are all -100"):
        distiller(images, LABELS)


@pytest.mark.usefixtures("late")
def test_a_late_index_stays_within_the_training_images(small_pair: Pair, images: Tensor) -> None:
    distiller = Distiller(small_pair[0], None, [Indexed()], example=EXAMPLE, train_labels=torch.arange(6) % 5).eval()
    wanted = distiller(images, LABELS, torch.tensor([0, 1, 2, 5])).loss
    assert torch.equal(distiller(images, LABELS, torch.tensor([0, 1, 2, 99])).loss, wanted)
    with pytest.raises(InputError, match="index has dataset indices from 0 to 99"):
        distiller(images, LABELS, LABELS)


# ---------------------------------------------------------------- compiled


@compiled_whole
def test_compiled_whole_kinds_are_checked_and_values_are_not(images: Tensor) -> None:
    distiller = Distiller(Casting(), example=EXAMPLE)
    torch.compiler.reset()
    compiled = torch.compile(distiller, fullgraph=True, backend="eager")
    for labels in (LABELS, LABELS.int(), torch.tensor([0, -100, 2, 3]), torch.full((4, 5), 0.2)):
        torch.testing.assert_close(compiled(images, labels).loss, distiller(images, labels).loss)
    assert compiled(images, torch.full((4, 5), 0.5)).loss.isfinite()
