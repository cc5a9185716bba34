"""Rows of the whole batch, gathered over two processes."""

from itertools import product
from pathlib import Path

import torch
from tests.two_processes import TwoProcesses
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from attention_transfer.parallel import gathered

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
