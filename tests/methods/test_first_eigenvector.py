"""The first eigenvector by powers of a matrix, against the decomposition, and where powers do not find it."""

import pytest
import torch
from torch import Tensor

from attention_transfer.methods.multi_head_graph.singular_vectors import first_eigenvector


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
