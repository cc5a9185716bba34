"""Parts of graphs: leading singular vectors, the first eigenvector, and heads that another run has learned."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import safetensors.torch
import torch
from tests.closeness import assert_near
from tests.methods.test_multi_head_graph import EXAMPLE, batch, parts_of, trained
from torch import Tensor, nn

from attention_transfer import Distiller, FitNet, MultiHeadGraph, build
from attention_transfer.methods.multi_head_graph.singular_vectors import (
    aligned,
    first_eigenvector,
    oriented,
    singular_vectors,
)
from attention_transfer.models import Input

SHAPES = [(3, 5, 4, 3), (3, 12, 2, 3), (2, 6, 2, 3)]
"""More positions than channels, fewer, and as many."""


def features(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shift", [0, 1])
def test_they_are_those_of_the_decomposition_up_to_sign(shape: tuple[int, ...], count: int, shift: int) -> None:
    """With and without a first value far above the others."""
    values = features(*shape) + shift
    found = singular_vectors(values, count)
    assert found.shape[2] == count
    for image, vectors in zip(values, found, strict=True):
        _, _, right = torch.linalg.svd(image.flatten(1).T, full_matrices=False)
        for k in range(count):
            assert_near((right[k] @ vectors[:, k]).abs(), 1.0, steps=2**22)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("layer", range(3))
def test_they_are_those_of_the_authors_up_to_sign(golden: dict[str, Tensor], role: str, layer: int) -> None:
    values = golden[f"mhgd.{role}_feature_nhwc{layer}"].permute(0, 3, 1, 2)
    wanted = golden[f"mhgd.{role}_vector{layer}"][:, :, None]
    if role == "student":
        wanted = golden[f"mhgd.student_top4_vectors{layer}"]
    found = singular_vectors(values, wanted.shape[2])
    torch.testing.assert_close((found * wanted).sum(1).abs(), torch.ones_like(wanted[:, 0]), rtol=0, atol=1e-5)


def test_the_best_match_is_that_of_the_authors(golden: dict[str, Tensor]) -> None:
    for layer in range(3):
        values = golden[f"mhgd.student_feature_nhwc{layer}"].permute(0, 3, 1, 2)
        found = aligned(singular_vectors(values, 4), golden[f"mhgd.teacher_vector{layer}"])
        torch.testing.assert_close(found, golden[f"mhgd.student_vector{layer}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
def test_the_gradient_is_exact_for_distinct_singular_values(shape: tuple[int, ...], count: int) -> None:
    values = features(*shape).requires_grad_()
    target = features(shape[0], shape[1], 2)[:, :, 0]

    def vectors(x: Tensor) -> Tensor:
        # Aligned, so that a sign that jumps cannot be taken for a wrong gradient.
        return aligned(singular_vectors(x, count), target)

    assert torch.autograd.gradcheck(vectors, (values,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["zero", "constant", "equal", "one zero image"])
def test_the_gradient_is_finite_for_equal_and_zero_singular_values(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    values = torch.zeros(shape, dtype=dtype)
    if kind == "constant":
        values += 3
    elif kind == "equal":
        size = min(shape[1], shape[2] * shape[3])
        values.flatten(2)[:, range(size), range(size)] = 1
    elif kind == "one zero image":
        values[1:] = features(*shape, dtype=dtype)[1:]
    values.requires_grad_()
    found = singular_vectors(values, 4)
    (found * features(*found.shape, dtype=dtype)).sum().backward()
    assert found.isfinite().all()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert values.grad.abs().max() < 1e4
    lengths = torch.linalg.vector_norm(found, dim=1)
    assert torch.logical_or((lengths - 1).abs() < 1e-4, lengths == 0).all()
    alive = {"zero": 0, "constant": 1, "equal": 4, "one zero image": 0}[kind]
    assert ((lengths[0] > 0).sum()) == min(alive, found.shape[2])


def test_equal_singular_values_leave_the_rest_of_the_gradient() -> None:
    """Of diag(2, 1, 1) the first vector turns as if the others were told apart."""
    values = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)).reshape(1, 3, 3, 1).requires_grad_()
    singular_vectors(values, 3)[0, 1, 0].backward()
    apart = torch.diag(torch.tensor([2.0, 1.0, 1.0 + 1e-7], dtype=torch.float64)).reshape(1, 3, 3, 1).requires_grad_()
    singular_vectors(apart, 3)[0, 1, 0].backward()
    assert values.grad is not None
    assert apart.grad is not None
    assert values.grad.abs().max() > 0.1
    assert_near(values.grad, apart.grad, steps=2**34)


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_size_of_features_does_not_matter(factor: float) -> None:
    values = features(3, 5, 4, 3, dtype=torch.float32)
    torch.testing.assert_close(
        oriented(singular_vectors(values * factor, 1)[:, :, 0]), oriented(singular_vectors(values, 1)[:, :, 0])
    )


def test_values_below_any_normal_number_count_as_none() -> None:
    values = features(3, 5, 4, 3, dtype=torch.float32) * 1e-40
    for count in (1, 2):
        assert not singular_vectors(values, count).any()


def test_half_precision_is_computed_in_float32_and_memory_layout_does_not_matter() -> None:
    values = features(3, 8, 4, 4, dtype=torch.float32).bfloat16()
    found = singular_vectors(values, 2)
    assert found.dtype == torch.float32
    again = singular_vectors(values.float().to(memory_format=torch.channels_last), 2)
    torch.testing.assert_close(found.abs(), again.abs(), rtol=0, atol=1e-4)


def test_a_layer_with_fewer_positions_gives_all_that_it_has() -> None:
    assert singular_vectors(features(2, 6, 1, 2), 4).shape == (2, 6, 2)
    pooled = features(2, 6, 1, 1)
    torch.testing.assert_close(
        singular_vectors(pooled, 4)[:, :, 0].abs(), torch.nn.functional.normalize(pooled[:, :, 0, 0]).abs()
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_not_hidden_and_spares_the_others(bad: float) -> None:
    values = features(3, 5, 4, 3)
    values[1, 2, 0, 0] = bad
    found = singular_vectors(values, 2)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]].abs(), singular_vectors(features(3, 5, 4, 3), 2)[[0, 2]].abs())


def test_signs_of_features_without_negative_values_are_natural() -> None:
    values = features(4, 5, 4, 3).relu()
    assert (oriented(singular_vectors(values, 1)[:, :, 0]) >= -1e-12).all()


def test_alignment_takes_the_best_and_its_sign() -> None:
    candidates = torch.eye(3)[None].repeat(2, 1, 1)
    target = torch.tensor([[0.1, -0.9, 0.2], [0.0, 0.0, 0.0]])
    found = aligned(candidates, target)
    assert found.tolist() == [[0, -1, 0], [1, 0, 0]]


# ---------------------------------------------------------------- the first eigenvector


def matrix(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """One matrix with these eigenvalues, turned at random."""
    generator = torch.Generator().manual_seed(len(values))
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    return (basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T).to(dtype)[None]


def check(gram: Tensor) -> None:
    """As good as the decomposition: as large an eigenvalue, and as far from turning."""
    value, vector = first_eigenvector(gram)
    largest = torch.linalg.eigvalsh(gram)[:, -1:]
    tolerance = 30 * torch.finfo(gram.dtype).eps * float(largest.max())
    torch.testing.assert_close(value, largest, rtol=0, atol=tolerance)
    torch.testing.assert_close(gram @ vector, value[:, None] * vector, rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.linalg.vector_norm(vector, dim=1), torch.ones(len(gram), 1, dtype=gram.dtype))


def refuse(*_: object) -> None:
    pytest.fail("decomposed")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_powers_are_enough_where_one_value_leads(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gram = scale * torch.cat([matrix(9, 3, 1, 0), matrix(5, 0, 0, 0), matrix(4, 2.4, 2.4, 2.4)])
    with monkeypatch.context() as patched:
        patched.setattr(torch.linalg, "eigh", refuse)
        first_eigenvector(gram)
    check(gram)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("second", [4.0, 4 - 1e-6, 3.99, 3.9, 3.5, 3.0])
def test_values_close_to_the_first_do_not_spoil_it(second: float, dtype: torch.dtype) -> None:
    check(torch.cat([matrix(4, second, 1, 1, dtype=dtype), matrix(4, 2, 1, 0, dtype=dtype)]))


def test_a_vector_of_another_value_is_not_taken_for_the_first() -> None:
    """The longest column has nothing of the first vector here, and is an eigenvector: it never turns."""
    gram = torch.zeros(1, 65, 65)
    gram[0, :64, :64] = 1 / 64
    gram[0, 64, 64] = 0.99
    value, vector = first_eigenvector(gram)
    assert float(value) == pytest.approx(1)
    torch.testing.assert_close(vector[0, :64, 0].abs(), torch.full((64,), 1 / 8))
    assert float(vector[0, 64]) == pytest.approx(0, abs=1e-5)


def test_a_matrix_of_zeros_has_the_value_zero_and_spares_the_others() -> None:
    value, vector = first_eigenvector(torch.cat([torch.zeros(1, 4, 4), matrix(2, 1, 0, 0)]))
    assert float(value[0]) == 0
    assert float(value[1]) == pytest.approx(2)
    assert vector.isfinite().all()


# ---------------------------------------------------------------- attention heads that another run has learned


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Distiller, Path]:
    distiller = trained()
    file = tmp_path / "parts.safetensors"
    safetensors.torch.save_file(distiller.parts.state_dict(), file)
    return distiller, file


@pytest.mark.filterwarnings("ignore:the student is larger")
def test_trained_heads_serve_other_students_of_their_teacher(kept: tuple[Distiller, Path]) -> None:
    first, file = kept
    torch.manual_seed(9)
    second = Distiller(build("resnet20", 3), first.teacher, [MultiHeadGraph(graph_from=file)], example=EXAMPLE)
    assert [phase.name for phase in second.phases] == ["all"]
    wanted = parts_of(first).heads.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in parts_of(second).heads.state_dict().items())
    assert not any(p.requires_grad for p in parts_of(second).parameters())
    # Also where nobody sets a phase: what was given is not learned any further.
    assert set(second(*batch()).terms) == {"ce", "mhgd"}


def test_heads_serve_every_control(kept: tuple[Distiller, Path]) -> None:
    first, file = kept
    for graph in ("random", "constant", "identity"):
        method = MultiHeadGraph(graph=graph, graph_from=file)
        assert set(Distiller(build("resnet8", 3), first.teacher, [method], example=EXAMPLE)(*batch()).terms) == {
            "ce",
            "mhgd",
        }


def test_heads_of_another_teacher_or_reading_are_refused(kept: tuple[Distiller, Path], tmp_path: Path) -> None:
    first, file = kept
    assert first.teacher is not None
    other = copy.deepcopy(first.teacher)
    with torch.no_grad():
        cast(nn.Linear, other.get_submodule("layer1.0.conv1")).weight[0, 0, 0, 0] += 1e-3
    safetensors.torch.save_file({"at.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    method = MultiHeadGraph(graph_from=file)
    for teacher, chosen, words in (
        (other, method, "trained on another teacher"),
        (first.teacher, replace(method, stages=(0, 2)), "read this teacher otherwise"),
        (first.teacher, replace(method, scaled=True), "read this teacher otherwise"),
        (first.teacher, replace(method, heads=4), "of another number, or for layers of other widths"),
        (first.teacher, replace(method, graph_from=tmp_path / "other.safetensors"), "holds no attention heads of mhgd"),
        (first.teacher, replace(method, graph_from=tmp_path / "broken.safetensors"), "cannot be read"),
        (first.teacher, replace(method, graph_from=tmp_path / "gone"), "there is no run and no file"),
    ):
        with pytest.raises(ValueError, match=words):
            Distiller(build("resnet8", 3), teacher, [chosen], example=EXAMPLE)


def test_heads_are_known_by_where_the_teacher_is_read_not_by_the_words_for_it(kept: tuple[Distiller, Path]) -> None:
    first, file = kept
    assert first.teacher is not None
    names = ("layer1", "layer2", "layer3")
    for fields in (
        {"stages": (0, 1, 2)},
        {"stages": (-3, -2, -1)},
        {"student_layers": names, "teacher_layers": names},
    ):
        Distiller(build("resnet8", 3), first.teacher, [MultiHeadGraph(graph_from=file, **fields)], example=EXAMPLE)
    method, normalised = MultiHeadGraph(graph_from=file), Input(mean=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="the teacher's normalisation"):
        Distiller(
            build("resnet8", 3),
            first.teacher,
            [method],
            example=EXAMPLE,
            student_input=Input(),
            teacher_input=normalised,
        )
    twice = Distiller(build("resnet8", 3).double(), first.teacher.double(), [method], example=EXAMPLE.double())
    assert not parts_of(twice).learning


def test_heads_that_are_given_leave_the_phases_to_others(kept: tuple[Distiller, Path]) -> None:
    first, file = kept
    given = [MultiHeadGraph(graph_from=file), FitNet(hint_epochs=2)]
    built = Distiller(build("resnet8", 3), first.teacher, given, example=EXAMPLE)
    assert [phase.epochs for phase in built.phases] == [2, None]
    alike = [MultiHeadGraph(graph="similarity"), MultiHeadGraph(graph="similarity", stages=(0, 1))]
    assert set(Distiller(build("resnet8", 3), first.teacher, alike, example=EXAMPLE)(*batch()).terms) == {
        "ce",
        "mhgd",
        "mhgd2",
    }
