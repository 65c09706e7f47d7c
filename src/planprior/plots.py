"""Figures of curves and runs: against steps and hours, over tasks and prior weights.

Every function returns a matplotlib figure, which `figures.save` writes.
"""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np

from planprior import intervals, results
from planprior.curves import near
from planprior.figures import (
    PANEL,
    Look,
    legend,
    literal,
    looks,
    panels_of,
    short,
    step_axis,
    styled,
)
from planprior.intervals import Estimate
from planprior.results import Curve, Run


def _names(curves: Iterable[Curve]) -> dict[str, str]:
    """What the legend says of every label: with its seeds, in whichever panel."""
    seeds: dict[str, list[int]] = {}
    for curve in curves:
        seeds.setdefault(curve.label, []).extend(curve.seeds.tolist())
    return {label: f"{label}, {_count(counts)}" for label, counts in seeds.items()}


def _count(seeds: Sequence[int]) -> str:
    least, most = min(seeds, default=0), max(seeds, default=0)
    if most == 0:
        return "seeds not stated"
    many = f"{most}" if most == least else f"{least} to {most}"
    return f"{many} seed{'s' if most > 1 else ''}"


def _told(x: np.ndarray, curve: Curve) -> np.ndarray:
    """X, mean and ends of a curve, [4, points], with NaN where a line must not lead.

    That is between evaluations that are `near` at no step between them: a line from the
    first step to a score published at 100,000 would look like slow learning.
    """
    steps = curve.env_steps
    apart = 1 + np.flatnonzero(~near(steps[:-1], steps[1:], steps[1:]))
    return np.insert([x, curve.mean, curve.low, curve.high], apart, np.nan, axis=1)


def _band(ax: Any, x: np.ndarray, curve: Curve, look: Look, name: str) -> None:
    own = not curve.source
    x, mean, low, high = _told(x, curve)
    ax.plot(
        x,
        mean,
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=3.5 if own else 2.5,
        markevery=max(1, len(x) // 20),
        linewidth=2.2 if own else 1.3,
        label=literal(name),
        zorder=3 if own else 2,
    )
    ax.fill_between(x, low, high, color=look.color, alpha=0.18, linewidth=0)


def _return_axis(ax: Any, curves: Sequence[Curve], runs: Sequence[Run] = ()) -> None:
    """Label and limits: of what was reached, seeds drawn alone included."""
    success = all(c.metric == "success" for c in curves)
    ax.set_ylabel("success rate" if success else "episode return")
    means = np.concatenate([c.mean for c in curves] + [r.returns for r in runs])
    lows = np.concatenate([c.low[np.isfinite(c.low)] for c in curves])
    if means.min() >= 0:
        # Student's intervals may reach below what a return can be.
        ax.set_ylim(bottom=0)
    elif len(lows):
        ax.set_ylim(bottom=1.1 * min(means.min(), max(lows.min(), 3 * means.min())))
    tops = np.concatenate([c.high[np.isfinite(c.high)] for c in curves])
    if success:
        ax.set_ylim(top=1.05)
    elif len(tops) and means.max() > 0:
        # Intervals of two or three seeds are far wider than what returns can be.
        top = max(means.max(), min(tops.max(), 1.25 * means.max()))
        ax.set_ylim(top=1.05 * top)


def learning_curves(
    panels: Mapping[str, Sequence[Curve]], runs: Mapping[str, Sequence[Run]] = {}
) -> Any:
    """Return against environment steps, with intervals over seeds: a panel per task.

    Args:
        panels: Curves of each task. Those with a source are published ones, and drawn
            thinner.
        runs: Single seeds to draw as hairlines, of each task.
    """
    with styled():
        figure, axes = panels_of(
            len(panels), size=(4.6, 3.2) if len(panels) == 1 else PANEL
        )
        every = [c for curves in panels.values() for c in curves]
        every.sort(key=lambda c: bool(c.source))
        look, names = looks(c.label for c in every), _names(every)
        for ax, (task, curves) in zip(axes, panels.items(), strict=True):
            alone = runs.get(task, ())
            for run in alone:
                ax.plot(run.env_steps, run.returns, color="#777777", lw=0.4, zorder=1)
            own = [c for c in curves if not c.source]
            for curve in curves:
                label = curve.label
                _band(ax, curve.env_steps, curve, look[label], names[label])
            _return_axis(ax, curves, alone)
            step_axis(ax, [c.env_steps[-1] for c in own or curves])
            ax.set_title(literal(task))
        _outer_labels(axes)
        legend(figure, axes)
        return figure


def _outer_labels(axes: Sequence[Any]) -> None:
    """Drop the y labels that repeat the one at the left of their row."""
    for ax in axes:
        if not ax.get_subplotspec().is_first_col():
            ax.set_ylabel("")


def wall_clock(panels: Mapping[str, Mapping[str, Sequence[Run]]]) -> Any:
    """Return against hours, mean over seeds of both: a panel per task.

    Args:
        panels: Runs of each method, of each task; those without times are left out.
    """
    timed = {
        (task, label): [run for run in runs if run.seconds is not None]
        for task, groups in panels.items()
        for label, runs in groups.items()
    }
    curves = {
        key: results.summarise(runs, method=key[1])
        for key, runs in timed.items()
        if runs
    }
    with styled():
        figure, axes = panels_of(len(panels))
        look = looks(curve.label for curve in curves.values())
        names = _names(curves.values())
        for ax, task in zip(axes, panels, strict=True):
            shown = {key: c for key, c in curves.items() if key[0] == task}
            for key, curve in shown.items():
                times = results.values_at(timed[key], curve.env_steps, "seconds")
                hours = np.nanmean(times, axis=0) / 3600
                _band(ax, hours, curve, look[curve.label], names[curve.label])
            if shown:
                _return_axis(ax, list(shown.values()))
            ax.set_xlim(left=0)
            ax.set_xlabel("wall time in hours")
            ax.set_title(literal(task))
        _outer_labels(axes)
        legend(figure, axes)
        return figure


# --- Several tasks --------------------------------------------------------------------

Scores = Mapping[str, Mapping[str, np.ndarray]]
"""Scores of each run, by method and task."""


def of_every_task(
    groups: Mapping[tuple[str, str], Sequence[Run]],
) -> dict[tuple[str, str], Sequence[Run]]:
    """Runs by task and method, of the methods that have all tasks.

    One that ended early on one task is then no reason to cut off the others.
    """
    tasks = {task for task, _ in groups}
    held: dict[str, set[str]] = {}
    for task, label in groups:
        held.setdefault(label, set()).add(task)
    return {key: of for key, of in groups.items() if held[key[1]] == tasks}


def final_scores(
    groups: Mapping[tuple[str, str], Sequence[Run]], budget: float, scale: float
) -> dict[str, dict[str, np.ndarray]]:
    """Scores at a budget by method and task, for methods that have every task.

    Args:
        groups: Runs by task and method.
        budget: Environment steps.
        scale: What returns are divided by; success rates are left as they are.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for (task, label), runs in groups.items():
        values = results.scores_at(runs, budget)
        if len(values):
            success = runs[0].details.get("metric") == "success"
            found.setdefault(label, {})[task] = values / (1.0 if success else scale)
    tasks = {task for task, _ in groups}
    return {label: scores for label, scores in found.items() if set(scores) == tasks}


def aggregates(
    scores: Scores, *, budget: float, unit: str, rng: np.random.Generator
) -> Any:
    """Interquartile means, and probabilities of improvement over the first method.

    Args:
        scores: Scores by method and task.
        budget: Environment steps they were taken at, for the title.
        unit: What the scores are.
        rng: Source of the bootstrap.
    """
    with styled():
        pairs = len(scores) > 1
        figure, axes = panels_of(1 + pairs, size=_forest_size(scores))
        look = looks(scores)
        tasks = list(next(iter(scores.values())))
        means = {
            label: intervals.aggregate([of[t] for t in tasks], rng=rng)
            for label, of in scores.items()
        }
        _forest(axes[0], means, look)
        axes[0].set_xlabel(f"IQM of {unit}, {len(tasks)} tasks")
        axes[0].set_title(f"at {short(budget)} env steps")
        if pairs:
            _improvements(axes[1], scores, tasks, look, rng)
        return figure


def _improvements(
    ax: Any,
    scores: Scores,
    tasks: Sequence[str],
    look: Mapping[str, Look],
    rng: np.random.Generator,
) -> None:
    first, *others = scores
    base = [scores[first][t] for t in tasks]
    found = {
        other: intervals.probability_of_improvement(
            [scores[other][t] for t in tasks], base, rng=rng
        )
        for other in others
    }
    _forest(ax, found, look)
    ax.axvline(0.5, color="#555555", lw=1, ls=":")
    ax.set_xlim(0, 1)
    ax.set_xlabel(_folded(f"P(better than {first})"))
    ax.set_title("probability of improvement")


LINE = 28
"""Letters after which names beside an axis go on in a line below."""


def _folded(name: str) -> str:
    return literal(fill(name, LINE))


def _forest_size(names: Iterable[str]) -> tuple[float, float]:
    """Inches of a panel of estimates: with room for names, of whatever length."""
    lines = [fill(name, LINE).splitlines() for name in names]
    longest = max(len(line) for of in lines for line in of)
    rows = sum(0.32 + 0.14 * (len(of) - 1) for of in lines)
    return 3.0 + 0.07 * longest, 1.4 + rows + 0.14 * (len(lines[0]) - 1)


def _forest(ax: Any, found: Mapping[str, Estimate], look: Mapping[str, Look]) -> None:
    """Estimates with their intervals, one below the other."""
    for y, (label, x) in enumerate(found.items()):
        color, _, marker = look[label]
        ax.plot([x.low, x.high], [y, y], color=color, lw=5, alpha=0.35)
        ax.plot([x.mean], [y], color=color, marker=marker, ms=7, ls="")
    ax.set_yticks(range(len(found)), [_folded(name) for name in found])
    ax.set_ylim(len(found) - 0.5, -0.5)
    # Of a narrow interval the usual ticks are so long that they overlap.
    ax.locator_params(axis="x", nbins=4)
    ax.grid(False, axis="y")


def sample_efficiency(
    groups: Mapping[tuple[str, str], Sequence[Run]],
    *,
    scale: float,
    unit: str,
    rng: np.random.Generator,
) -> Any:
    """Interquartile mean over tasks against environment steps.

    Args:
        groups: Runs by task and method.
        scale: What returns are divided by.
        unit: What the scores are.
        rng: Source of the bootstrap.
    """
    every = [run for runs in groups.values() for run in runs]
    grid = results.common_grid(every)
    if len(grid) > 40:
        grid = grid[np.unique(np.linspace(0, len(grid) - 1, 40).astype(int))]
    points: dict[str, list[tuple[float, Estimate]]] = {}
    for step in grid.tolist():
        for label, of in final_scores(groups, step, scale).items():
            value = intervals.aggregate(list(of.values()), rng=rng)
            points.setdefault(label, []).append((step, value))
    with styled():
        figure, (ax,) = panels_of(1, size=(5.2, 3.4))
        look = looks(label for _, label in groups)
        for label, series in points.items():
            steps = np.array([step for step, _ in series])
            mean, low, high, _ = np.array([value for _, value in series]).T
            seeds = [value.seeds for _, value in series]
            curve = Curve(label, "", steps, mean, low, high, np.array(seeds))
            _band(ax, steps, curve, look[label], f"{label}, {_count(seeds)} per task")
        tasks = len({task for task, _ in groups})
        ax.set_ylabel(f"IQM of {unit}, {tasks} tasks")
        step_axis(ax, [grid[-1]])
        legend(figure, [ax])
        return figure


# --- Sweeps over the prior weight -----------------------------------------------------


def sweep(runs: Sequence[Run], budgets: Sequence[float | int]) -> Any:
    """Return against the prior weight: a panel per task.

    There is one line per budget, of all runs that differ in weight and seed alone;
    other settings have lines of their own.

    Args:
        runs: Runs at several weights, as `results.sweeps` finds them.
        budgets: Environment steps.
    """
    groups = results.sweeps(runs)
    tasks = list(dict.fromkeys(task for task, _ in groups))
    names = _sweep_names([label for _, label in groups], budgets)
    with styled():
        figure, axes = panels_of(len(tasks), size=(3.6, 3.0))
        look = looks(names.values())
        for ax, task in zip(axes, tasks, strict=True):
            shown = [
                _sweep_line(ax, groups[task, label], float(budget), name, look[name])
                for (label, budget), name in names.items()
                if (task, label) in groups
            ]
            _sweep_axes(ax)
            _around(ax, [y for line in shown for y in line])
            ax.set_title(literal(task))
        _outer_labels(axes)
        legend(figure, axes)
        return figure


def _sweep_names(
    labels: Iterable[str], budgets: Sequence[float | int]
) -> dict[tuple[str, float | int], str]:
    """What the legend calls each line: by its budget, and by its label if need be."""
    labels = list(dict.fromkeys(labels))
    return {
        (label, budget): f"{label}, " * (len(labels) > 1)
        + f"at {short(budget)} env steps"
        for label in labels
        for budget in budgets
    }


def _around(ax: Any, returns: Sequence[float]) -> None:
    """Show what was returned; intervals of two or three seeds are far wider."""
    if returns:
        low, high = min(0.0, *returns), max(0.0, *returns)
        ax.set_ylim(low - 0.02 * (high - low), high + 0.15 * (high - low) or 1.0)


def _sweep_line(
    ax: Any, runs: Sequence[Run], budget: float, label: str, look: Look
) -> list[float]:
    """Draw the line of one budget, its seeds as dots; return what these reached."""
    weights = sorted({run.prior_weight for run in runs if run.prior_weight is not None})
    found: dict[float, Estimate] = {}
    seeds: list[tuple[float, float]] = []
    for w in weights:
        same = [run for run in runs if run.prior_weight == w]
        at = results.summarise(same, np.array([float(budget)])).at(budget)
        if at:
            found[w] = at
        alone = [results.summarise([r], np.array([float(budget)])) for r in same]
        seeds += [(w, one.mean) for c in alone if (one := c.at(budget))]
    if not found:
        return []
    ax.plot(*zip(*seeds, strict=True), ".", ms=4, alpha=0.6, color=look.color)
    mean, low, high, _ = np.array(list(found.values())).T
    ends = np.nan_to_num(np.array([mean - low, high - mean]))
    style = {"color": look.color, "linestyle": look.linestyle, "marker": look.marker}
    ax.errorbar(
        list(found), mean, ends, ms=5, capsize=3, lw=1.6, elinewidth=1,
        label=literal(label), **style,
    )  # fmt: skip
    return [reached for _, reached in seeds]


def _sweep_axes(ax: Any) -> None:
    """W below, λ above."""
    ax.set_xlim(-0.05, 1.05)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_xlabel("prior weight w = λ / (1 + λ)")
    ax.set_ylabel("episode return")
    top = ax.secondary_xaxis("top")
    top.set_xticks([0, 0.25, 0.5, 0.75, 1], ["λ = 0", "⅓", "1", "3", "∞"])
    top.tick_params(labelsize=8)
