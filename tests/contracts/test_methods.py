"""What every method keeps, whatever it computes; a new line in METHODS is enrolled by itself."""

import copy
import json
from pathlib import Path

import pytest
import torch
from tests.pairs import pair, taught
from torch import Tensor

from attention_transfer import METHODS, Experiment, Schedule
from attention_transfer.experiment import from_json, to_json

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.parametrize("key", METHODS)


def batch(count: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(count) % 6, torch.arange(count)


def test_key_names_the_method(key: str) -> None:
    assert METHODS[key].key == key


def test_terms_are_finite_scalars_in_float32_and_reach_the_student(key: str) -> None:
    student, teacher = pair(key)
    distiller = taught(key, student, teacher)
    out = distiller(*batch())
    assert out.terms
    for term in out.terms.values():
        assert term.value.shape == ()
        assert term.value.dtype == torch.float32
        assert term.value.isfinite()
    out.loss.backward()
    reached = [p.grad for p in student.parameters() if p.grad is not None]
    assert reached
    assert all(gradient.isfinite().all() for gradient in reached)
    assert any(gradient.abs().max() > 0 for gradient in reached)


def test_terms_stay_close_under_half_precision_networks(key: str) -> None:
    student, teacher = pair(key)
    distiller = taught(key, student, teacher).eval()
    exact = distiller(*batch()).terms
    with torch.autocast("cpu", torch.bfloat16):
        half = distiller(*batch()).terms
    for name, term in half.items():
        assert term.value.dtype == torch.float32
        torch.testing.assert_close(term.value, exact[name].value, rtol=0.15, atol=1e-3)


def test_networks_in_another_precision_are_compared_in_float32_or_better(key: str) -> None:
    student, teacher = pair(key)
    distiller = taught(key, student, teacher)
    learned = {name: value.clone() for name, value in distiller.parts.state_dict().items()}
    images, *places = batch()
    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        out = distiller.to(dtype)(images.to(dtype), *places)
        distiller.backward(out)
        distiller.zero_grad()
        assert {term.value.dtype for name, term in out.terms.items() if name.startswith(key)} <= {wanted}
        # What was learned is not rounded on the way.
        if dtype == torch.bfloat16:
            kept = dict(distiller.parts.named_parameters())
            assert all(torch.equal(value, learned[name]) for name, value in kept.items())


def test_networks_in_double_precision_bring_parts_of_their_own(key: str) -> None:
    student, teacher = (network.double() for network in pair(key))
    distiller = taught(key, student, teacher, torch.float64)
    out = distiller(batch()[0].double(), *batch()[1:])
    distiller.backward(out)
    assert {term.value.dtype for term in out.terms.values()} == {torch.float64}


def test_teacher_is_byte_equal_after_a_step_that_lowers_the_objective(key: str) -> None:
    student, teacher = pair(key)
    before = copy.deepcopy(teacher.state_dict())
    distiller = taught(key, student, teacher)
    first = distiller(*batch())
    distiller.backward(first)
    parameters = [p for p in distiller.trainable_parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    with torch.no_grad():
        for parameter in parameters:
            parameter -= 1e-3 * parameter.grad / norm
    assert distiller(*batch()).loss < first.loss
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_settings_survive_json(key: str) -> None:
    # A method without a term has no weight to set.
    settings = {} if key == "attention-copy" else {"weight": 3.5, "schedule": Schedule(warmup_epochs=2.0)}
    experiment = Experiment("test", "resnet8", "resnet14", methods=(METHODS[key](**settings),))
    assert from_json(json.loads(json.dumps(to_json(experiment)))) == experiment


def test_a_weight_that_is_no_weight_is_refused(key: str) -> None:
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"the weight of {key}"):
            METHODS[key](weight=weight)


def test_documentation_has_a_page_and_a_line(key: str) -> None:
    method = METHODS[key]
    room = method.__module__.split(".")[2]
    page = (ROOT / "docs" / "methods" / f"{room}.md").read_text()
    assert f"`{method.__name__}`" in page
    assert f"| `{key}` | `{method.__name__}` |" in (ROOT / "README.md").read_text()
    assert "Departs from the paper" in (method.__doc__ or "")
