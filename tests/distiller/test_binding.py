"""A method of somebody's own is held to what the functions of a method return."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from attention_transfer import CaptureError, Distiller, InputError, Method, Reads, Request, Tap, Term
from attention_transfer.batch import Batch
from attention_transfer.methods import Observed
from attention_transfer.models import Description

IMAGES, LABELS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
FIRST, LAST = Tap("0"), Tap("4", layout="raw")


def scalar(student: Observed) -> dict[str, Any]:
    assert student.logits is not None
    return {"own": Term(student.logits.square().mean())}


@dataclass(frozen=True)
class Own(Method):
    """Returns what it is made with."""

    key: ClassVar[str] = "own"

    returned: Any = field(default_factory=lambda: Reads(student=Request((FIRST,))))
    of: Callable[[Observed], dict[str, Any]] = scalar
    task: Tap | None = None
    replaced: Tap | None = None

    def reads(self, teacher: Description | None, student: Description) -> Reads:
        return self.returned

    def task_tap(self, reads: Reads) -> Tap | None:
        return self.task

    def replace(self, teacher: Observed, reads: Reads, parts: nn.Module | None) -> Mapping[Tap, Tensor]:
        return {} if self.replaced is None else {self.replaced: torch.zeros(4, 5, 8, 8)}

    def terms(self, batch: Batch, teacher: Observed, student: Observed, parts: nn.Module | None) -> dict[str, Term]:
        return self.of(student)


def distiller(**settings: Any) -> Distiller:
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    )
    return Distiller(network, None, [Own(**settings)], example=IMAGES)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, r"must return a Reads\(teacher, student, batch\), not None"),
        (Reads((FIRST,), (FIRST,)), r"teacher must be a Request, as in Request\(\(tap,\)\)"),
        (Reads(student=FIRST), "student must be a Request"),
        (Reads(student=Request(FIRST)), "taps of the student's Request must be a tuple of objects of the class Tap"),
        (Reads(student=Request(("0",))), r"of the class Tap, not \('0',\)"),
        (Reads(student=Request([FIRST])), "must be a tuple"),
        (Reads(student=Request(attention=("0",))), "attention of the student's Request"),
        (Reads(student=Request(provide=(FIRST,))), "objects of the class Provider"),
    ],
)
def test_what_is_no_description_of_reading_is_refused(returned: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        distiller(returned=returned)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (lambda student: {"own": student.logits.mean()}, r"must be a Term\(value\), not a value of type Tensor"),
        (lambda student: {"own": 1.0}, "not a value of type float"),
        (lambda student: {"own": Term(student.logits.mean(1))}, r"must be a scalar, not of shape \(4,\)"),
        (lambda student: {"own": Term(student.logits.mean()[None])}, r"not of shape \(1,\)"),
    ],
)
def test_terms_that_cannot_be_summed_are_refused(of: Callable[[Observed], dict[str, Any]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        distiller(of=of)


def test_the_task_of_a_value_that_is_not_read_is_refused() -> None:
    with pytest.raises(InputError, match="task_tap gives 4, which is none of the student's taps in reads"):
        distiller(task=LAST)
    read = distiller(task=LAST, returned=Reads(student=Request((LAST,))), of=lambda _: {})
    out = read(IMAGES, LABELS)
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(out.student_logits, LABELS))


def test_nothing_is_replaced_in_silence_where_nothing_is_read() -> None:
    with pytest.raises(CaptureError, match="0 of the student shall be replaced, and nothing is read there"):
        distiller(replaced=FIRST, returned=Reads(student=Request((LAST,))))
    assert distiller(replaced=FIRST).predict(IMAGES).var(0).max() == 0
