"""Whether two numbers of the same things rise together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from scipy import stats

from attention_transfer.errors import InputError

FEWEST = 3
# So many things can still be put into all their orders (8! = 40,320).
_ALL_ORDERS = 8
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RankCorrelation:
    """Rank correlations of two numbers over several things, with the probability of one as strong by chance.

    Args:
        count: number of things.
        spearman: Spearman's ρ, −1…1; None where it is not defined.
        spearman_p: two-sided.
        kendall: Kendall's τ-b, −1…1; None where it is not defined.
        kendall_p: two-sided.
        note: why there are no numbers; empty where there are.
    """

    count: int
    spearman: float | None = None
    spearman_p: float | None = None
    kendall: float | None = None
    kendall_p: float | None = None
    note: str = ""

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> RankCorrelation:
    """Spearman's ρ and Kendall's τ-b between two numbers of the same things.

    Up to 8 things, p is exact: the share of all orders whose correlation is at least as strong, in either direction.
    For more, it is scipy's.

    Args:
        first: one number per thing, finite.
        second: likewise.

    Raises:
        ValueError: the two are not equally long.
    """
    if len(first) != len(second):
        raise InputError(f"{len(first)} numbers cannot be paired with {len(second)}")
    count = len(first)
    if count < FEWEST:
        return RankCorrelation(count, note=f"{count} of the {FEWEST} that a rank correlation needs at least")
    if len(set(first)) == 1 or len(set(second)) == 1:
        return RankCorrelation(count, note="all equal: nothing to rank")
    x, y = (stats.rankdata(values) for values in (first, second))
    if count > _ALL_ORDERS:
        spearman, kendall = cast(Any, stats.spearmanr(x, y)), cast(Any, stats.kendalltau(x, y))
        return RankCorrelation(
            count,
            spearman=float(spearman.statistic),
            spearman_p=float(spearman.pvalue),
            kendall=float(kendall.statistic),
            kendall_p=float(kendall.pvalue),
        )
    orders = y[np.array(list(permutations(range(count))))]
    # Pearson's correlation of ranks is Spearman's; that of the signs of all pairs is Kendall's τ-b.
    spearman, spearman_p = _exact((x - x.mean())[None], orders - orders.mean())
    kendall, kendall_p = _exact(_signs(x[None]), _signs(orders))
    return RankCorrelation(count, spearman, spearman_p, kendall, kendall_p)


def _exact(ours: Float[np.ndarray, "1 k"], theirs: Float[np.ndarray, "m k"]) -> tuple[float, float]:
    """The correlation with the first row, and the share of rows where it is at least as strong."""
    strengths = (ours * theirs).sum(1) / np.sqrt((ours**2).sum(1) * (theirs**2).sum(1))
    return float(strengths[0]), float((abs(strengths) >= abs(strengths[0]) - _ROUNDING).mean())


def _signs(values: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m pairs"]:
    """Which of each pair is larger: 1, −1, or 0 for equals."""
    upper, lower = np.triu_indices(values.shape[1], k=1)
    return np.sign(values[:, upper] - values[:, lower])
