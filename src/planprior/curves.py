"""Learning curves: of one seed, and mean and interval of several.

Everything here counts environment steps.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from jaxtyping import Bool, Float

from planprior.intervals import Estimate, bootstrap_intervals, mean_intervals


def same_task(a: str, b: str) -> bool:
    """Whether two names are of one task: `ball_in_cup-catch` is `cup-catch`."""
    return canonical_task(a) == canonical_task(b)


@cache
def canonical_task(task: str) -> str:
    """The short name of a task, written as its authors' own programs do."""
    short = task.replace("ball_in_cup", "cup").replace("point_mass", "pointmass")
    return short.replace("_", "-")


@dataclass(frozen=True, eq=False)
class Run:
    """The learning curve of one seed.

    Attributes:
        task: Task, without the name of its suite.
        method: Method.
        seed: Seed, as its source numbers it.
        env_steps: Environment steps of the evaluations, rising.
        returns: Mean episode return (or success rate) at each.
        policy_returns: The same of the bare policy, if known.
        seconds: Wall time at each, if known.
        successes: Success rate at each, beside the return, if the task has a goal.
        prior_weight: w, if the method has one.
        details: Whatever else tells runs apart: size, settings, source, benchmark.
        path: Where it was read.
    """

    task: str
    method: str
    seed: str
    env_steps: np.ndarray
    returns: np.ndarray
    policy_returns: np.ndarray | None = None
    seconds: np.ndarray | None = None
    successes: np.ndarray | None = None
    prior_weight: float | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    path: str = ""


@dataclass(frozen=True, eq=False)
class Curve:
    """Mean and interval over the seeds of one method on one task.

    Attributes:
        method: Method; a label for figures and tables.
        task: Task.
        env_steps: Environment steps of the points, rising.
        mean: Mean over seeds, at each.
        low: Lower end of the 95 % interval; NaN where there is none.
        high: Upper end.
        seeds: Seeds behind each point; 0 where the source does not say.
        source: Who published it; empty for runs at hand.
        benchmark: Benchmark, as the published table names it.
        metric: `return` or `success`.
    """

    method: str
    task: str
    env_steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: np.ndarray
    source: str = ""
    benchmark: str = ""
    metric: str = "return"

    @property
    def label(self) -> str:
        """Name with its source, as figures and tables show it."""
        return sourced(self.method, self.source)

    def at(self, env_steps: float | int) -> Estimate | None:
        """The estimate at a number of environment steps; None where it is not known."""
        steps = float(env_steps)
        if not covers(self.env_steps, np.array([steps]))[0]:
            return None
        values = (np.interp(steps, self.env_steps, x) for x in self._ends())
        index = np.searchsorted(self.env_steps, steps)
        around = self.seeds[
            max(index - (self.env_steps[index] != steps), 0) : index + 1
        ]
        return Estimate(*map(float, values), seeds=int(min(around)))

    def _ends(self) -> tuple[np.ndarray, ...]:
        return self.mean, self.low, self.high


def near(left: np.ndarray, right: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Whether evaluations are close enough to tell the value at steps between them.

    No further apart than half of the steps: nothing is made up early in training, where
    curves are steep.
    """
    return right - left <= steps / 2


def covers(
    env_steps: Float[np.ndarray, "points"], grid: Float[np.ndarray, "grid"]
) -> Bool[np.ndarray, "grid"]:
    """Whether a curve tells its value at steps: there, or interpolated if `near`."""
    if not len(env_steps):
        return np.zeros(len(grid), bool)
    after = np.searchsorted(env_steps, grid)
    inside = after < len(env_steps)
    after = np.where(inside, after, 0)
    right, left = env_steps[after], env_steps[np.maximum(after - 1, 0)]
    between = (after > 0) & near(left, right, grid)
    return inside & ((right == grid) | between)


def values_at(
    runs: Sequence[Run], grid: Float[np.ndarray, "points"], what: str = "returns"
) -> Float[np.ndarray, "runs points"]:
    """Values of runs at steps of a grid, [runs, points]; NaN where not known.

    Args:
        runs: Runs.
        grid: Environment steps.
        what: `returns`, `policy_returns`, `successes` or `seconds`.
    """
    table = np.full((len(runs), len(grid)), np.nan)
    for row, run in zip(table, runs, strict=True):
        values = getattr(run, what)
        if values is not None:
            known = covers(run.env_steps, grid)
            row[known] = np.interp(grid[known], run.env_steps, values)
    return table


def scores_at(runs: Sequence[Run], budget: float | int) -> Float[np.ndarray, "scored"]:
    """Returns at a number of environment steps, of the runs that have one there."""
    values = values_at(runs, np.array([float(budget)]))[:, 0]
    return values[np.isfinite(values)]


def as_metric(runs: Sequence[Run], metric: str) -> list[Run]:
    """Runs scored as a published curve is, by `return` or `success`.

    Returns:
        The runs; without those that do not say.
    """
    found = []
    for run in runs:
        if run.details.get("metric", "return") == metric:
            found.append(run)
        elif metric == "success" and run.successes is not None:
            details = {**run.details, "metric": metric}
            rates = run.successes
            found.append(
                replace(run, returns=rates, policy_returns=None, details=details)
            )
    return found


def common_grid(runs: Sequence[Run]) -> Float[np.ndarray, "points"]:
    """Steps at which a run was evaluated and all tell their value, up to the first end.

    A mean over some seeds here and others there would zigzag. Where there are no such
    steps, those at which any run was evaluated.
    """
    steps = np.unique(np.concatenate([run.env_steps for run in runs]))
    steps = steps[steps <= min(run.env_steps[-1] for run in runs)]
    known = np.all([covers(run.env_steps, steps) for run in runs], axis=0)
    return steps[known] if known.any() else steps


def summarise(
    runs: Sequence[Run],
    grid: Float[np.ndarray, "points"] | None = None,
    *,
    method: str = "",
) -> Curve:
    """The curve of several seeds of one method on one task.

    Args:
        runs: Its runs.
        grid: Environment steps; `common_grid` if None. Steps at which no run has a
            value are left out.
        method: Label; the method's name if empty.
    """
    grid = common_grid(runs) if grid is None else grid
    mean, low, high, seeds = mean_intervals(values_at(runs, grid))
    known, first = seeds > 0, runs[0]
    return Curve(
        method=method or first.method,
        task=first.task,
        env_steps=grid[known],
        mean=mean[known],
        low=low[known],
        high=high[known],
        seeds=seeds[known],
        source=first.details.get("source", ""),
        benchmark=first.details.get("benchmark", ""),
        metric=first.details.get("metric", "return"),
    )


def bootstrapped(
    curve: Curve, runs: Sequence[Run], *, rng: np.random.Generator
) -> Curve:
    """A curve of runs with percentile bootstrap intervals instead of Student's.

    Args:
        curve: Their curve.
        runs: The runs.
        rng: Source of the resampling.
    """
    low, high = bootstrap_intervals(values_at(runs, curve.env_steps), rng=rng)
    return replace(curve, low=low, high=high)


def group_key(run: Run) -> tuple:
    """What the seeds of one curve have in common."""
    weight = None if run.prior_weight is None else round(run.prior_weight, 6)
    return (run.task, run.method, weight, tuple(sorted(run.details.items())))


def labels(runs: Sequence[Run]) -> dict[tuple, str]:
    """A name for every group of runs: the method, and what tells it from the others.

    A prior weight does where a task has runs of several. Methods whose λ follows from
    the actions have another weight on every task, and are one method all the same.

    Returns:
        Names by `group_key`.
    """
    methods: dict[str, list[Run]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    return {
        group_key(run): " ".join([method, *_telling(run, same)])
        for method, same in methods.items()
        for run in same
    }


SHOWN_AS = {
    "size": "size {}",
    "num_envs": "num_envs={}",
    "source": "[{}]",
    "benchmark": "({})",
    "metric": "({})",
}
"""How a label says what tells its runs from others."""


def sourced(method: str, source: str) -> str:
    """A method's name with its source, as figures and tables show it, each once."""
    told = SHOWN_AS["source"].format(source)
    return f"{method} {told}" if source and told not in method else method


def _telling(run: Run, same: Sequence[Run]) -> list[str]:
    parts = []
    weights = {(r.task, r.prior_weight) for r in same}
    several = len(weights) > len({task for task, _ in weights})
    if run.prior_weight is not None and several:
        parts.append(f"w={_short(run.prior_weight, {w for _, w in weights})}")
    for name in ("swept", "settings", *SHOWN_AS):
        values = {r.details.get(name, "") for r in same}
        own = run.details.get(name, "")
        if len(values) > 1 and own:
            parts.append(SHOWN_AS.get(name, "{}").format(own))
    return parts


def _short(weight: float, weights: Set[float | None]) -> str:
    """A prior weight in three digits, if that tells it from the others."""
    known = [w for w in weights if w is not None]
    told_apart = len({f"{w:.3g}" for w in known}) == len(known)
    return f"{weight:.3g}" if told_apart else f"{weight:g}"


def groups(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs by task and label, in order of appearance."""
    names = labels(runs)
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.task, names[group_key(run)]), []).append(run)
    return found


def sweeps(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs that differ in prior weight and seed alone, by task and label.

    Returns:
        Runs, of two weights or more each; without those that have no fellow at another
        weight. Labels say nothing of the weight.
    """
    weighed = [run for run in runs if run.prior_weight is not None]
    bare = [replace(run, prior_weight=None) for run in weighed]
    names = labels(bare)
    found: dict[tuple[str, str], list[Run]] = {}
    for run, one in zip(weighed, bare, strict=True):
        found.setdefault((run.task, names[group_key(one)]), []).append(run)
    return {
        key: of
        for key, of in found.items()
        if len({run.prior_weight for run in of}) > 1
    }
