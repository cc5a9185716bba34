"""Leading singular vectors, against torch's decomposition, the authors' values, and where these have no gradient."""

import pytest
import torch
from tests.closeness import assert_near
from torch import Tensor

from attention_transfer.methods.multi_head_graph.singular_vectors import aligned, oriented, singular_vectors

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
