"""The two processes and the comparison that tests share, and rows gathered over both."""

import os
from collections.abc import Generator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from attention_transfer.parallel import gathered
from tests.closeness import assert_near
from tests.two_processes import TwoProcesses

# Rows of the first process; the second has the rest.
SHARES = (3, 5)
ROWS = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).double()


def term(values: Tensor) -> Tensor:
    """Depends on every pair of rows, and on how many there are."""
    return (values @ values.T).square().mean()


def run(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for first in SHARES:
        rows = ROWS[:first] if rank == 0 else ROWS[first:]
        model = network()
        wrapped = DistributedDataParallel(model)
        all_rows = gathered(wrapped(rows))
        value = term(all_rows)
        value.backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        places = gathered(torch.arange(len(rows)) + 10 * rank)
        found |= {"rows": all_rows.detach(), "value": value.detach(), "places": places}
        torch.save(found, f"{folder}/{first}-{rank}.pt")


def test_a_term_of_all_rows_has_the_gradient_of_one_process_with_the_whole_batch(
    two_processes: TwoProcesses, tmp_path: Path
) -> None:
    two_processes.run(run, str(tmp_path))
    model = network()
    rows = model(ROWS)
    value = term(rows)
    value.backward()
    for first, rank in product(SHARES, range(2)):
        found = torch.load(tmp_path / f"{first}-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["rows"], rows.detach())
        torch.testing.assert_close(found["value"], value.detach())
        assert found["places"].tolist() == [*range(first), *range(10, 17 - first)]
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name], parameter.grad)


def test_one_process_gets_its_own_values_back() -> None:
    values = torch.randn(3, 2)
    assert gathered(values) is values


# ---------------------------------------------------------------- the two processes that tests share


@pytest.fixture(scope="module")
def both() -> Generator[TwoProcesses]:
    """Of their own: others need not import everything again after the failure."""
    made = TwoProcesses()
    yield made
    made.stop()


def meet(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    distributed.barrier()
    Path(folder, f"{rank}-{os.getpid()}").touch()
    os.environ["LEFT_BEHIND"] = "1"


def look_for_what_is_left_behind(rank: int) -> None:
    assert "LEFT_BEHIND" not in os.environ
    assert not distributed.is_initialized()


def fail_in_one(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    if rank == 1:
        raise ValueError("this one fails while the other waits")
    distributed.barrier()


def test_both_are_used_again_and_nothing_is_left_behind(both: TwoProcesses, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        both.run(meet, str(tmp_path / name))
        both.run(look_for_what_is_left_behind)
    first, second = (sorted(path.name for path in (tmp_path / name).glob("*-*")) for name in ("first", "second"))
    assert first == second
    assert [name[0] for name in first] == ["0", "1"]


def test_a_failure_in_one_ends_the_test_and_the_next_one_runs(both: TwoProcesses, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)rank 1: .*this one fails while the other waits"):
        both.run(fail_in_one, str(tmp_path))
    both.run(look_for_what_is_left_behind)


# ---------------------------------------------------------------- closeness


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
