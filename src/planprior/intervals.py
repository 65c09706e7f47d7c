"""Statistics of few runs: intervals of means and differences, and over several tasks.

Runs of one task are few, so means get Student's t interval: the percentile bootstrap of
three runs covers far less than it says. Over several tasks runs are resampled task by
task (stratified bootstrap), as Agarwal et al. propose (2021, arXiv 2108.13264), from
which the interquartile mean and the probability of improvement come as well.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

Points = Float[np.ndarray, "points"]
Scores = Float[np.ndarray, "*batch n"]
Weights = Float[np.ndarray, "n"]
Value = Float[np.ndarray, "*batch"] | np.floating
Groups = Sequence[Float[np.ndarray, "_"]]
"""Scores of each task, one per run."""

DRAWS = 2000


class Estimate(NamedTuple):
    """A mean and its interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval; NaN where there is none.
        high: Upper end.
        seeds: Runs behind it; 0 where the source does not say.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


@functools.lru_cache(maxsize=1024)
def t_quantile(probability: float, dof: float) -> float:
    """Quantile of Student's t distribution, for a probability of at least one half.

    With t = √ν cot φ the density is sin^(ν − 1) φ, up to a factor, and with φ = s² it
    is smooth for every ν, so that adding it up on a grid is exact to six digits.

    Args:
        probability: In [0.5, 1).
        dof: Degrees of freedom ν, at least 1. Beyond 10,000 it is the normal one.
    """
    dof = min(dof, 1e4)
    s = np.linspace(0.0, np.sqrt(np.pi / 2), 40_001)
    density = np.sin(s**2) ** (dof - 1) * s
    tail = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    reached = np.interp(2 * (1 - probability), tail / tail[-1], s)
    return float(np.sqrt(dof) / np.tan(reached**2))


def mean_intervals(
    values: ArrayLike, confidence: float = 0.95
) -> tuple[Points, Points, Points, Int[np.ndarray, "points"]]:
    """Mean over runs and Student's t interval, for every column.

    Args:
        values: [runs, points]; NaN where a run has no value.
        confidence: Probability that the interval is to cover.

    Returns:
        Mean, low, high and number of runs, [points] each. One run has no interval, and
        no run has no mean: NaN.
    """
    values = np.asarray(values, float)
    there = np.isfinite(values)
    n = there.sum(axis=0)
    total = np.where(there, values, 0.0).sum(axis=0)
    mean = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    square = np.where(there, (values - mean) ** 2, 0.0).sum(axis=0)
    error = np.sqrt(square / np.maximum(n - 1, 1) / np.maximum(n, 1))
    factor = [
        t_quantile((1 + confidence) / 2, k - 1.0) if k > 1 else np.nan
        for k in n.tolist()
    ]
    half = error * np.asarray(factor)
    return mean, mean - half, mean + half, n


def difference(a: Estimate, b: Estimate, confidence: float = 0.95) -> Estimate:
    """Difference a − b of two independent means with Welch's interval.

    Each interval is taken for Student's t interval of the same confidence, which gives
    the standard error back. Two runs may lie close together by chance, so where either
    side has no more, there is one degree of freedom: Welch's number, which follows
    from the very spreads, claims too much (false verdicts in up to 12 of 100).

    Returns:
        The difference; without an interval where either has none, or none has a spread.
        `seeds` is the lesser number of both.
    """
    gap, seeds = a.mean - b.mean, min(a.seeds, b.seeds)
    if not (a.has_interval and b.has_interval and seeds > 1):
        return Estimate(gap, np.nan, np.nan, seeds)
    tail = (1 + confidence) / 2
    parts = [
        ((x.high - x.low) / 2 / t_quantile(tail, x.seeds - 1.0)) ** 2 for x in (a, b)
    ]
    variance = sum(parts)
    if np.sqrt(variance) <= 1e-9 * max(abs(a.mean), abs(b.mean)):
        return Estimate(gap, np.nan, np.nan, seeds)
    welch = variance**2 / sum(
        p**2 / (x.seeds - 1) for p, x in zip(parts, (a, b), strict=True)
    )
    dof = max(welch, 1.0) if seeds > 2 else 1.0
    half = t_quantile(tail, dof) * float(np.sqrt(variance))
    return Estimate(gap, gap - half, gap + half, seeds)


def prediction(of: Estimate, runs: int) -> Estimate:
    """Where the mean of some further runs falls that are no different.

    Student's prediction interval: the mean's own, wider by √(1 + n/m) for n runs known
    and m to come. For one run it tells whether it is one of theirs, which the interval
    of their mean does not.

    Args:
        of: A mean with Student's t interval.
        runs: Number of runs to come, m.

    Returns:
        The mean with that interval, of the same confidence; without one where `of` has
        none or does not say of how many runs it is.
    """
    if not (of.has_interval and of.seeds):
        return of._replace(low=np.nan, high=np.nan)
    wider = np.sqrt(1 + of.seeds / runs)
    low, high = (of.mean + (end - of.mean) * wider for end in (of.low, of.high))
    return Estimate(of.mean, float(low), float(high), of.seeds)


# Over several tasks.


def iqm(scores: Scores, weights: Weights) -> Value:
    """Interquartile mean: the mean of the middle half of the scores.

    Scores at the edge of the middle half count in part. Where their number divides by
    four and the weights are equal this is the usual trimmed mean.

    Args:
        scores: [..., n].
        weights: Of the n scores.

    Returns:
        [...].
    """
    order = np.argsort(scores, axis=-1)
    ordered = np.take_along_axis(scores, order, axis=-1)
    share = weights[order] / np.sum(weights)
    end = np.cumsum(share, axis=-1)
    inside = np.clip(end, 0.25, 0.75) - np.clip(end - share, 0.25, 0.75)
    return np.sum(ordered * inside, axis=-1) / 0.5


def mean(scores: Scores, weights: Weights) -> Value:
    """Weighted mean, [...] of scores [..., n]."""
    return np.sum(scores * weights, axis=-1) / np.sum(weights)


Statistic = Callable[[Scores, Weights], Value]


def aggregate(
    groups: Groups,
    statistic: Statistic = iqm,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    draws: int = DRAWS,
) -> Estimate:
    """A statistic over tasks of equal weight, with its stratified bootstrap interval.

    Where a task has one run there is none: resampling tells nothing of it.

    Args:
        groups: Scores of each task, one per run; tasks may differ in runs.
        statistic: `iqm` or `mean`.
        rng: Source of the resampling.
        confidence: Probability that the interval is to cover.
        draws: Resamples.
    """
    weights = np.concatenate([np.full(len(g), 1 / len(g)) for g in groups])
    value = statistic(np.concatenate(groups), weights)
    resampled = np.concatenate([_resample(g, rng, draws) for g in groups], axis=1)
    return _estimate(value, statistic(resampled, weights), groups, confidence)


def probability_of_improvement(
    a: Groups,
    b: Groups,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    draws: int = DRAWS,
) -> Estimate:
    """Probability that a run of `a` beats one of `b` on the same task, over all tasks.

    A tie counts as half. One half means that neither is better. The interval is the
    stratified bootstrap's, as in `aggregate`.

    Args:
        a: Scores of each task, one per run.
        b: The same of the other method, tasks in the same order.
        rng: Source of the resampling.
        confidence: Probability that the interval is to cover.
        draws: Resamples.
    """
    value = np.mean([_wins(x, y) for x, y in zip(a, b, strict=True)])
    resampled = np.mean(
        [
            _wins(_resample(x, rng, draws), _resample(y, rng, draws))
            for x, y in zip(a, b, strict=True)
        ],
        axis=0,
    )
    return _estimate(value, resampled, [*a, *b], confidence)


def bootstrap_intervals(
    values: Float[np.ndarray, "runs points"],
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    draws: int = DRAWS,
) -> tuple[Points, Points]:
    """Percentile bootstrap interval of the mean over runs, for every column.

    Args:
        values: [runs, points]; NaN where a run has no value.
        rng: Source of the resampling.
        confidence: Probability that the interval is to cover.
        draws: Resamples.

    Returns:
        Low and high, [points]; NaN where fewer than two runs have a value.
    """
    ends = np.full((2, values.shape[1]), np.nan)
    for i, column in enumerate(values.T):
        column = column[np.isfinite(column)]
        if len(column) > 1:
            means = np.mean(_resample(column, rng, draws), axis=1)
            ends[:, i] = _percentiles(means, confidence)
    return ends[0], ends[1]


def _resample(
    scores: Float[np.ndarray, "n"], rng: np.random.Generator, draws: int
) -> Float[np.ndarray, "draws n"]:
    return scores[rng.integers(len(scores), size=(draws, len(scores)))]


def _wins(a: Float[np.ndarray, "*batch n"], b: Float[np.ndarray, "*batch m"]) -> Value:
    gap = a[..., :, None] - b[..., None, :]
    return np.mean((gap > 0) + 0.5 * (gap == 0), axis=(-2, -1))


def _estimate(
    value: Value, resampled: Value, groups: Groups, confidence: float
) -> Estimate:
    runs = min(map(len, groups))
    ends = _percentiles(resampled, confidence) if runs > 1 else (np.nan, np.nan)
    return Estimate(float(value), *ends, runs)


def _percentiles(values: Value, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
