"""The cross-entropy of two attentions: authors' value, a slow loop, and the same from every form."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.closeness import assert_near
from tests.known import compiled_whole
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attention_transfer.capture import Attention
from attention_transfer.methods.attention_maps import chunks
from attention_transfer.methods.attention_maps.chunks import Softmax, chunked_cross_entropy
from attention_transfer.methods.attention_maps.cross_entropy import attention_cross_entropy

FORMS = ["auto", "explicit", "chunked", "fused"]


def attentions(
    tokens: int = 9, *, heads: int = 3, size: int = 8, teacher_size: int = 8, kind: torch.dtype = torch.float64
) -> tuple[Attention, Attention]:
    """Two seeded calls, laid out as a fused qkv layer lays them out."""
    generator = torch.Generator().manual_seed(0)

    def one(width: int) -> Attention:
        both = torch.randn(2, tokens, 2, heads, width, dtype=torch.float64, generator=generator).to(kind)
        query, key = both.permute(2, 0, 3, 1, 4).unbind(0)
        return Attention(query, key, scale=width**-0.5)

    student, teacher = one(size), one(teacher_size)
    return replace(student, query=student.query.requires_grad_(), key=student.key.requires_grad_()), teacher


def value_and_gradients(student: Attention, teacher: Attention, **settings: Any) -> list[Tensor]:
    value = attention_cross_entropy(student, teacher, **settings)
    learned = [each for each in (student.query, student.key, student.bias) if each is not None and each.requires_grad]
    # Times three: the gradient that arrives is not one.
    return [value.detach(), *torch.autograd.grad(3 * value, learned)]


def close(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("form", FORMS)
def test_value_is_that_of_the_authors_and_gradients_agree(form: str, golden: dict[str, Tensor]) -> None:
    scale = float(golden["vit_scale"])
    total, gradients, wanted = 0.0, [], []
    for i in range(3):
        student, teacher = (
            Attention(golden[f"vit_{role}_q{i}"].clone(), golden[f"vit_{role}_k{i}"].clone(), scale=scale)
            for role in ("student", "teacher")
        )
        student.query.requires_grad_()
        student.key.requires_grad_()
        value, *slopes = value_and_gradients(student, teacher, form=form)
        wanted += value_and_gradients(student, teacher, form="explicit")[1:]
        total, gradients = total + value, [*gradients, *slopes]
    assert_near(total, golden["vit_attention_distill_first3of4"])
    close(gradients, wanted, 1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("form", FORMS)
def test_value_equals_a_loop_written_from_the_paper(form: str, temperature: float) -> None:
    student, teacher = attentions(5, heads=2)
    total = 0.0
    for b in range(2):
        for h in range(2):
            for i in range(5):
                maps = []
                for one in (teacher, student.detach()):
                    logits = [float(one.query[b, h, i] @ one.key[b, h, j]) * one.scale / temperature for j in range(5)]
                    normaliser = sum(math.exp(logit) for logit in logits)
                    maps.append([math.exp(logit) / normaliser for logit in logits])
                total -= sum(p * math.log(q) for p, q in zip(*maps, strict=True))
    value = attention_cross_entropy(student, teacher, temperature=temperature, form=form)
    assert value.item() == pytest.approx(total / 20, rel=1e-12)


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("sizes", [(8, 8), (8, 12), (20, 6)])
@pytest.mark.parametrize("form", ["chunked", "fused"])
def test_forms_agree_with_the_explicit_one(
    form: str, sizes: tuple[int, int], kind: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = attentions(37, size=sizes[0], teacher_size=sizes[1], kind=kind)
    wanted = value_and_gradients(student, teacher, form="explicit", temperature=0.7)
    # One piece; some heads; some queries; a single row.
    for size in (10**6, 3000, 400, 10):
        monkeypatch.setattr(chunks, "_CPU_PIECE", size)
        close(value_and_gradients(student, teacher, form=form, temperature=0.7), wanted, tolerance)


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_the_same_whenever_they_are_computed(recompute: bool) -> None:
    student, teacher = attentions(37)
    bias = torch.randn(3, 37, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ours = Softmax(student.query, student.key, bias[None], None, student.scale)
    value = chunked_cross_entropy(ours, Softmax(teacher.query, teacher.key, scale=teacher.scale), recompute=recompute)
    found = [value.detach(), *torch.autograd.grad(3 * value, (student.query, student.key, bias))]
    close(found, value_and_gradients(replace(student, bias=bias), teacher, form="explicit"), 1e-10)


def test_many_tokens_agree_too() -> None:
    student, teacher = attentions(600, heads=1, kind=torch.float32)
    wanted = value_and_gradients(student, teacher, form="explicit")
    for form in ("auto", "fused"):
        close(value_and_gradients(student, teacher, form=form), wanted, 1e-5)


@pytest.mark.parametrize("shape", [(9, 9), (3, 9, 9), (1, 3, 9, 9), (2, 1, 9, 9), (2, 3, 9, 9), (1, 1, 1, 9)])
def test_biases_count_and_are_learned(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_CPU_PIECE", 30)
    student, teacher = attentions()
    generator = torch.Generator().manual_seed(1)
    ours = torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
    theirs = torch.randn(shape, dtype=torch.float64, generator=generator)
    student, biased = replace(student, bias=ours), replace(teacher, bias=theirs)
    wanted = value_and_gradients(student, biased, form="explicit", temperature=1.5)
    assert len(wanted) == 4
    close(value_and_gradients(student, biased, form="auto", temperature=1.5), wanted, 1e-10)
    student = replace(student, bias=None)
    wanted = value_and_gradients(student, biased, form="explicit", temperature=1.5)
    close(value_and_gradients(student, biased, form="fused", temperature=1.5), wanted, 1e-10)


@pytest.mark.parametrize("form", ["explicit", "chunked"])
def test_what_neither_may_see_is_no_difference(form: str) -> None:
    student, teacher = attentions()
    hidden = torch.zeros(9, 9, dtype=torch.float64)
    hidden[:, 6:] = -math.inf
    masked = value_and_gradients(replace(student, bias=hidden), replace(teacher, bias=hidden), form=form)
    cut = [replace(each, key=each.key[:, :, :6]) for each in (student, teacher)]
    value = attention_cross_entropy(cut[0], cut[1])
    wanted = [value.detach(), *torch.autograd.grad(3 * value, (student.query, student.key))]
    close(masked, wanted, 1e-10)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_teacher_of_which_only_the_map_is_known_counts_the_same(temperature: float) -> None:
    student, teacher = attentions()
    known = Attention(weights=teacher.map())
    wanted = value_and_gradients(student, teacher, form="explicit", temperature=temperature)
    for form in ("auto", "explicit", "chunked"):
        close(value_and_gradients(student, known, form=form, temperature=temperature), wanted, 1e-10)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_map_may_stand_for_all_examples_heads_or_queries(axes: tuple[int, ...]) -> None:
    student, teacher = attentions()
    mean = teacher.map().mean(axes, keepdim=True)
    wanted = value_and_gradients(student, Attention(weights=mean.expand(2, 3, 9, 9)), form="explicit")
    for form in ("auto", "explicit"):
        close(value_and_gradients(student, Attention(weights=mean), form=form), wanted, 1e-10)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_student_of_which_only_the_map_is_known_learns_by_it(temperature: float) -> None:
    student, teacher = attentions()
    known = Attention(weights=student.map())
    value = attention_cross_entropy(known, teacher, temperature=temperature)
    found = [value.detach(), *torch.autograd.grad(3 * value, (student.query, student.key))]
    close(found, value_and_gradients(student, teacher, temperature=temperature), 1e-10)


def test_a_map_of_exact_zeros_gives_finite_gradients() -> None:
    weights = torch.eye(4).expand(1, 1, 4, 4).clone().requires_grad_()
    value = attention_cross_entropy(Attention(weights=weights), Attention(weights=torch.full((1, 1, 4, 4), 0.25)))
    value.backward()
    assert value.isfinite()
    assert weights.grad.isfinite().all()


def test_teacher_that_is_learned_receives_a_gradient() -> None:
    student, teacher = attentions()
    weights = teacher.map().requires_grad_()
    value = attention_cross_entropy(student, Attention(weights=weights))
    (found,) = torch.autograd.grad(value, weights)
    torch.testing.assert_close(found, -torch.log_softmax(student.logits(), -1).detach() / (2 * 3 * 9))


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation gave."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.untyped_storage().nbytes() // value.element_size())
        return result


def largest(student: Attention, teacher: Attention, form: str) -> int:
    with Largest() as found:
        attention_cross_entropy(student, teacher, form=form).backward()
    return found.elements


@pytest.mark.parametrize("tokens", [300, 600])
def test_no_map_is_ever_made(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = tokens * tokens // 3
    monkeypatch.setattr(chunks, "_CPU_PIECE", bound)
    student, teacher = attentions(tokens, kind=torch.float32)
    # Query and key of all heads, as their layer gave them.
    inputs = 2 * student.query.numel()
    assert inputs < bound
    assert largest(student, teacher, "explicit") >= 2 * 3 * tokens * tokens
    assert largest(student, teacher, "chunked") <= bound
    monkeypatch.setattr(chunks, "_CPU_PIECE", tokens)
    assert largest(student, teacher, "fused") <= inputs


@pytest.mark.parametrize("tokens", [9, 600])
@pytest.mark.parametrize("form", ["chunked", "fused"])
def test_a_second_derivative_is_refused(form: str, tokens: int) -> None:
    student, teacher = attentions(tokens, heads=1)
    value = attention_cross_entropy(student, teacher, form=form)
    (gradient,) = torch.autograd.grad(value, student.query, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative only in the form"):
        gradient.square().sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second derivative only in the form"):
        torch.autograd.grad(gradient.sum() + student.query.sum(), student.query)
    value = attention_cross_entropy(replace(student, query=student.query.detach()), teacher, form=form)
    (gradient,) = torch.autograd.grad(value, student.key, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative only in the form"):
        gradient.sum().backward()


def test_the_explicit_form_has_a_second_derivative() -> None:
    student, teacher = attentions(4, heads=1, size=2)

    def loss(query: Tensor) -> Tensor:
        return attention_cross_entropy(replace(student, query=query), teacher, form="explicit")

    assert torch.autograd.gradgradcheck(loss, (student.query.detach().requires_grad_(),))


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_computed_in_float32(form: str) -> None:
    student, teacher = attentions(kind=torch.bfloat16)
    wide = [
        replace(each, query=each.query.detach().float(), key=each.key.detach().float()) for each in (student, teacher)
    ]
    wanted = attention_cross_entropy(wide[0], wide[1], form="explicit")
    with torch.autocast("cpu", torch.bfloat16):
        value, *gradients = value_and_gradients(student, teacher, form=form)
        narrow = attention_cross_entropy(wide[0], wide[1], form=form)
    assert value.dtype == torch.float32
    assert {each.dtype for each in gradients} == {torch.bfloat16}
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(narrow, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("tokens", [65, 600])
@pytest.mark.parametrize("form", ["chunked", "fused"])
def test_a_scaled_loss_gives_half_precision_its_gradients(form: str, tokens: int) -> None:
    student, teacher = attentions(tokens, kind=torch.float16)
    bias = torch.zeros(tokens, tokens, dtype=torch.float16, requires_grad=True) if form == "chunked" else None
    student = replace(student, bias=bias)
    learned = [each for each in (student.query, student.key, bias) if each is not None]
    explicit, found = (
        torch.autograd.grad(65536 * attention_cross_entropy(student, teacher, form=each), learned)
        for each in ("explicit", form)
    )
    close(list(found), list(explicit), 2e-3)
    # As near to their teacher as training brings them, where gradients are smallest.
    close_by = replace(teacher, query=teacher.query * 1.01)
    student = replace(close_by, query=close_by.query.requires_grad_(), key=close_by.key.detach().requires_grad_())
    learned = [student.query, student.key]
    explicit, found = (
        torch.autograd.grad(65536 * attention_cross_entropy(student, teacher, form=each), learned)
        for each in ("explicit", form)
    )
    assert all(each.abs().max() > 0 for each in explicit)
    close(list(found), list(explicit), 2e-2)


@compiled_whole
@pytest.mark.parametrize("form", FORMS)
def test_compiled_it_is_one_graph_of_the_same_result(form: str) -> None:
    student, teacher = attentions(kind=torch.float32)

    def loss(query: Tensor, key: Tensor) -> Tensor:
        return attention_cross_entropy(replace(student, query=query, key=key), teacher, form=form)

    value = torch.compile(loss, backend="aot_eager", fullgraph=True)(student.query, student.key)
    found = [value.detach(), *torch.autograd.grad(3 * value, (student.query, student.key))]
    close(found, value_and_gradients(student, teacher, form="explicit"), 1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_kept_where_nothing_is_learned(form: str) -> None:
    student, teacher = attentions()
    with torch.no_grad():
        value = attention_cross_entropy(student, teacher, form=form)
    assert not value.requires_grad
    constant = attention_cross_entropy(student.detach(), teacher, form=form)
    assert not constant.requires_grad
    torch.testing.assert_close(constant, value)


def test_shapes_that_do_not_fit_are_refused() -> None:
    student, teacher = attentions()
    for name, change in {
        "batch": lambda x: x[:1],
        "heads": lambda x: x[:, :2],
        "queries": lambda x: x[:, :, :4],
    }.items():
        with pytest.raises(ValueError, match=f"the same {name}"):
            attention_cross_entropy(student, replace(teacher, query=change(teacher.query), key=teacher.key))
    with pytest.raises(ValueError, match="the same keys: the student has 9, the teacher 4"):
        attention_cross_entropy(student, replace(teacher, key=teacher.key[:, :, :4]))


def test_forms_that_cannot_be_are_refused() -> None:
    student, teacher = attentions()
    bias = torch.zeros(9, 9, dtype=torch.float64)
    with pytest.raises(ValueError, match='"fused" cannot take a bias of the student'):
        attention_cross_entropy(replace(student, bias=bias), teacher, form="fused")
    with pytest.raises(ValueError, match='"fused" cannot take a teacher of which only the map'):
        attention_cross_entropy(student, Attention(weights=teacher.map()), form="fused")
    for form in ("chunked", "fused"):
        with pytest.raises(ValueError, match="needs query and key of the student"):
            attention_cross_entropy(Attention(weights=student.map()), teacher, form=form)
        with pytest.raises(ValueError, match="gives the teacher no gradient"):
            attention_cross_entropy(student, replace(teacher, bias=bias.requires_grad_()), form=form)
    with pytest.raises(ValueError, match="temperature must be"):
        attention_cross_entropy(student, teacher, temperature=0.0)
