"""Rank correlations against scipy and against counting."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from attention_transfer.analysis.localisation import rank_correlation


def draws(count: int, seed: int, ties: bool) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    first = generator.integers(0, 4, count) if ties else generator.random(count)
    return first.tolist(), (first + generator.random(count)).tolist()


@pytest.mark.parametrize("count", [3, 5, 8, 9, 15])
@pytest.mark.parametrize("ties", [False, True])
def test_values_are_those_of_scipy(count: int, ties: bool) -> None:
    first, second = draws(count, count, ties)
    found = rank_correlation(first, second)
    assert found.count == count
    assert found.spearman == pytest.approx(stats.spearmanr(first, second).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(first, second).statistic)


@pytest.mark.parametrize("count", [4, 7])
def test_p_is_exact_for_few_things(count: int) -> None:
    first, second = draws(count, 1, ties=False)
    found = rank_correlation(first, second)
    # Without ties scipy counts Kendall's orders too; Spearman's are counted here.
    assert found.kendall_p == pytest.approx(stats.kendalltau(first, second, method="exact").pvalue)
    strengths = [abs(stats.spearmanr(first, order).statistic) for order in permutations(second)]
    assert found.spearman is not None
    assert found.spearman_p == pytest.approx(np.mean([s >= abs(found.spearman) - 1e-9 for s in strengths]))


def test_three_models_in_perfect_order_prove_little() -> None:
    found = rank_correlation([1, 2, 3], [10, 20, 30])
    assert (found.spearman, found.kendall) == pytest.approx((1, 1))
    assert (found.spearman_p, found.kendall_p) == pytest.approx((1 / 3, 1 / 3))


def test_p_of_many_things_is_scipys() -> None:
    first, second = draws(20, 3, ties=False)
    found = rank_correlation(first, second)
    assert found.spearman_p == pytest.approx(stats.spearmanr(first, second).pvalue)
    assert found.kendall_p == pytest.approx(stats.kendalltau(first, second).pvalue)


def test_too_few_or_equal_numbers_get_a_note_and_no_number() -> None:
    few = rank_correlation([1, 2], [1, 2])
    assert few.spearman is few.spearman_p is few.kendall is few.kendall_p is None
    assert few.note == "2 of the 3 that a rank correlation needs at least"
    equal = rank_correlation([1, 1, 1], [1, 2, 3])
    assert equal.spearman is None
    assert "all equal" in equal.note


def test_numbers_without_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="3 numbers cannot be paired with 2"):
        rank_correlation([1, 2, 3], [1, 2])
