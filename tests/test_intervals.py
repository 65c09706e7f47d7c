"""Statistics against tables, cases worked by hand, and rliable where installed."""

import numpy as np
import pytest

from planprior import intervals
from planprior.intervals import Estimate


@pytest.mark.parametrize(
    ("dof", "expected"),
    [(1.0, 12.7062), (2.0, 4.30265), (4.0, 2.77645), (9.0, 2.26216), (1e9, 1.95996)],
)
def test_quantiles_of_t_are_those_of_the_printed_table(dof, expected):
    assert intervals.t_quantile(0.975, dof) == pytest.approx(expected, rel=2e-4)
    assert intervals.t_quantile(0.5, dof) == pytest.approx(0)


def test_the_interval_of_a_mean_by_hand():
    # 1, 2, 3: mean 2, variance 1, standard error 1/√3, times 4.30265.
    values = [[1.0, 5.0, np.nan], [2.0, np.nan, np.nan], [3.0, np.nan, np.nan]]
    mean, low, high, seeds = intervals.mean_intervals(values)
    half = 4.30265 / np.sqrt(3)
    np.testing.assert_allclose(mean, [2, 5, np.nan])
    np.testing.assert_allclose(low, [2 - half, np.nan, np.nan], rtol=1e-5)
    np.testing.assert_allclose(high, [2 + half, np.nan, np.nan], rtol=1e-5)
    assert seeds.tolist() == [3, 1, 0]


def estimate(values):
    mean, low, high, n = intervals.mean_intervals(np.array(values, float)[:, None])
    return Estimate(float(mean[0]), float(low[0]), float(high[0]), int(n[0]))


def test_where_further_runs_fall_by_hand():
    # Of 1, 2, 3 the deviation is 1: for one run √(1 + 1/3) of it, for three √(2/3).
    of = estimate([1, 2, 3])
    for runs, error in ((1, np.sqrt(4 / 3)), (3, np.sqrt(2 / 3))):
        found = intervals.prediction(of, runs)
        assert found.mean == 2 and found.seeds == 3
        np.testing.assert_allclose(found.high - 2, 4.30265 * error, rtol=1e-5)
        np.testing.assert_allclose(2 - found.low, found.high - 2)
    assert not intervals.prediction(estimate([1]), 2).has_interval
    assert not intervals.prediction(of._replace(seeds=0), 2).has_interval


def test_further_runs_fall_there_as_often_as_is_said():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        found = intervals.prediction(estimate(rng.normal(size=5)), 2)
        inside.append(found.low < rng.normal(size=2).mean() < found.high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_the_difference_is_welchs():
    # Variances 1 and 100 of three runs each: standard error √(101/3), degrees of
    # freedom (101/3)² / (2 · ((1/3)² + (100/3)²) / 4) = 2 · 101² / 10001 = 2.03999…
    gap = intervals.difference(estimate([1, 2, 3]), estimate([0, 10, 20]))
    dof = 2 * 101**2 / 10_001
    half = intervals.t_quantile(0.975, dof) * np.sqrt(101 / 3)
    assert gap.mean == pytest.approx(-8)
    assert gap.high - gap.mean == pytest.approx(half, rel=1e-6)
    assert gap.mean - gap.low == pytest.approx(half, rel=1e-6)


def test_differences_without_spread_or_without_seeds():
    same = intervals.difference(estimate([5, 5]), estimate([3, 3, 3]))
    assert same.mean == 2 and same.seeds == 2 and not same.has_interval
    # 0.1 is no sum of powers of two, so that means of it are not all equal.
    nearly = intervals.difference(estimate([0.1] * 3), estimate([0.3] * 6))
    assert not nearly.has_interval
    alone = intervals.difference(estimate([5]), estimate([3, 4]))
    assert alone.mean == pytest.approx(1.5) and not alone.has_interval
    unknown = intervals.difference(estimate([5, 6]), Estimate(3, 2, 4, 0))
    assert not unknown.has_interval


def test_the_interval_of_a_difference_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (5, 400)), rng.normal(3, 2, (3, 400))
    pairs = zip(a.T.tolist(), b.T.tolist(), strict=True)
    gaps = [intervals.difference(estimate(x), estimate(y)) for x, y in pairs]
    covered = np.mean([gap.low <= -3 <= gap.high for gap in gaps])
    assert 0.92 < covered < 0.98


@pytest.mark.parametrize(("n", "spread"), [(2, 1.0), (2, 3.0), (3, 1.0), (3, 2.0)])
def test_few_seeds_claim_no_more_than_they_can(n, spread):
    """Welch's degrees of freedom alone cover 90 to 94 of 100 with two seeds of five."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, spread, (n, 1500)), rng.normal(0, 1, (5, 1500))
    pairs = zip(a.T.tolist(), b.T.tolist(), strict=True)
    gaps = [intervals.difference(estimate(x), estimate(y)) for x, y in pairs]
    covered = np.mean([gap.low <= 0 <= gap.high for gap in gaps])
    assert covered > (0.99 if n == 2 else 0.925)


def test_the_interquartile_mean_by_hand():
    def iqm(*values, weights=None):
        weights = np.array([1.0] * len(values) if weights is None else weights)
        return intervals.iqm(np.array(values, float), weights)

    assert iqm(100, 1, 2, -50) == pytest.approx(1.5)
    assert iqm(0, 1, 2, 3, 4, 5, 6, 7) == pytest.approx(3.5)
    # Of six the middle half is 1.5 to 4.5: half of the second and fifth count.
    assert iqm(0, 1, 2, 3, 4, 9) == pytest.approx((0.5 * 1 + 2 + 3 + 0.5 * 4) / 3)
    # A score that weighs twice counts like two.
    assert iqm(1, 2, 3, weights=[1.0, 2.0, 1.0]) == pytest.approx(iqm(1, 2, 2, 3))


def test_probability_of_improvement_by_hand():
    rng = np.random.default_rng(0)
    a, b = [np.array([1.0, 3.0]), np.array([5.0])], [np.array([2.0, 3.0]), np.ones(2)]
    # Task 1: 3 > 2, 3 = 3: 1.5 of 4 pairs. Task 2: both of 2.
    found = intervals.probability_of_improvement(a, b, rng=rng)
    assert found.mean == pytest.approx((1.5 / 4 + 1) / 2)
    back = intervals.probability_of_improvement(b, a, rng=rng)
    assert back.mean == pytest.approx(1 - found.mean)
    # Resampling tells nothing of the one run of a's second task.
    assert not found.has_interval and found.seeds == 1
    assert not intervals.aggregate(a, rng=rng).has_interval
    twice = intervals.probability_of_improvement([a[0]] * 2, b, rng=rng)
    assert twice.low <= twice.mean <= twice.high and twice.seeds == 2


def test_seeds_fix_the_bootstrap_and_strata_stay_apart():
    groups = [np.array([0.0, 0.1]), np.array([10.0, 10.1])]

    def draw(seed):
        rng = np.random.default_rng(seed)
        return intervals.aggregate(groups, intervals.mean, rng=rng)

    assert draw(0) == draw(0)
    # Every resample has two runs of each task: the mean moves by 0.05 at most.
    assert draw(0).low == pytest.approx(5.0) and draw(0).high == pytest.approx(5.1)
    values = np.array([[1.0, np.nan], [2.0, 1.0], [4.0, np.nan]])
    low, high = intervals.bootstrap_intervals(values, rng=np.random.default_rng(1))
    assert 1 <= low[0] < 7 / 3 < high[0] <= 4
    assert np.isnan(low[1]) and np.isnan(high[1])


@pytest.mark.filterwarnings("ignore::FutureWarning")  # arch warns of itself
def test_rliable_agrees():
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")
    rng = np.random.default_rng(3)
    a, b = rng.uniform(size=(4, 5)), rng.uniform(size=(4, 5)) ** 2
    ours = intervals.aggregate(list(a.T), rng=rng, draws=20_000)
    assert ours.mean == pytest.approx(metrics.aggregate_iqm(a))
    better = intervals.probability_of_improvement(list(a.T), list(b.T), rng=rng)
    assert better.mean == pytest.approx(metrics.probability_of_improvement(a, b))
    _, ends = library.get_interval_estimates(
        {"a": a},
        lambda x: np.array([metrics.aggregate_iqm(x)]),
        reps=20_000,
        random_state=np.random.RandomState(0),
    )
    assert [ours.low, ours.high] == pytest.approx(ends["a"].ravel(), abs=0.01)
