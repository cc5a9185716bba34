import numpy as np
import pytest
import torch

from tests.closeness import assert_near


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_values_are_as_near_as_their_type_is_fine(kind: torch.dtype) -> None:
    wanted = torch.tensor([1e-9, 3.0, -4.0], dtype=kind)
    step = 5 * torch.finfo(kind).eps
    for difference in ((100 * step, 0.0, 0.0), (0.0, -100 * step, 0.0)):
        assert_near(wanted + torch.tensor(difference, dtype=kind), wanted)
    with pytest.raises(AssertionError, match=f"the maps differs by .* is allowed in {kind}"):
        assert_near(wanted + torch.tensor([200 * step, 0, 0], dtype=kind), wanted, msg="the maps")


def test_what_is_nothing_beside_its_terms_is_measured_by_them() -> None:
    with pytest.raises(AssertionError, match="differs by"):
        assert_near(torch.tensor(1e-6), 0.0)
    assert_near(torch.tensor(1e-6), 0.0, scale=1.0)
    with pytest.raises(AssertionError, match="differs by"):
        assert_near(torch.tensor(1e-4), 0.0, scale=1.0)


def test_numbers_and_arrays_are_taken_and_other_sizes_are_not() -> None:
    assert_near(np.float32(0.1), 0.1)
    assert_near(0.1 + 1e-7, 0.1, kind=torch.float32)
    with pytest.raises(AssertionError, match="float64"):
        assert_near(0.1 + 1e-7, 0.1, kind=torch.float64)
    assert_near(torch.tensor([3, 4]), torch.tensor([3, 4]))
    with pytest.raises(AssertionError, match="differs by 1"):
        assert_near(torch.tensor([3, 4]), torch.tensor([3, 5]))
    with pytest.raises(AssertionError, match="beside"):
        assert_near(torch.ones(2), torch.ones(3))
    with pytest.raises(AssertionError, match="nan"):
        assert_near(torch.tensor([1.0, float("nan")]), torch.ones(2))
