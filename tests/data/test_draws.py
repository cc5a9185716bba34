import pytest
import torch

from attention_transfer.counter_rng import hashed, integers, uniform

MASK = 2**64 - 1


def slow_hash(seed: int, *counters: int) -> int:
    """The definition, in Python's unbounded integers."""

    def mixed(x: int) -> int:
        x ^= x >> 30
        x = x * 0xBF58476D1CE4E5B9 & MASK
        x ^= x >> 27
        x = x * 0x94D049BB133111EB & MASK
        return x ^ (x >> 31)

    state = mixed((seed + 0x9E3779B97F4A7C15) & MASK)
    for counter in counters:
        state = mixed((state + 0x9E3779B97F4A7C15 * (counter + 1)) & MASK)
    return state


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, -5, 2**70])
def test_hash_is_the_definition(seed: int):
    last = torch.arange(50)
    expected = [slow_hash(seed, 3, i, 8) for i in range(50)]
    assert [value & MASK for value in hashed(seed, 3, last, 8).tolist()] == expected


def test_counters_broadcast():
    table = hashed(1, torch.arange(4)[:, None], torch.arange(3))
    assert table[2, 1] == hashed(1, torch.tensor(2), 1)
    assert len(table.unique()) == 12


def test_a_hash_without_a_tensor_is_refused():
    with pytest.raises(ValueError, match="at least one counter that is a tensor"):
        hashed(0, 1, 2)


def test_uniform_numbers_fill_the_unit_interval_evenly():
    draws = uniform(0, torch.arange(100_000))
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, bins=20, min=0, max=1)
    assert ((counts - 5000).abs() < 350).all()  # five standard deviations


def test_neighbours_are_uncorrelated():
    draws = torch.stack([uniform(seed, epoch, torch.arange(20_000)) for seed in (0, 1) for epoch in (0, 1)])
    correlations = torch.corrcoef(torch.cat([draws, draws.roll(1, 1)])) - torch.eye(8)
    assert correlations.abs().max() < 0.04


def test_integers_reach_every_value_below_their_bound():
    draws = integers(9, 0, torch.arange(9000))
    assert torch.bincount(draws, minlength=9).tolist() == pytest.approx([1000] * 9, abs=150)
    bounds = torch.tensor([1, 2, 3])
    assert (integers(bounds, 0, torch.arange(300)[:, None]).amax(0) == bounds - 1).all()
