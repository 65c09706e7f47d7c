"""Figures from curves and runs: colour-blind safe, and readable in black and white.

Every function returns a matplotlib figure, which `save` writes as PNG, SVG or PDF; the
same data make the same file. Nothing here opens a window.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from planprior import intervals, places, results
from planprior.intervals import Estimate
from planprior.results import Curve, Run

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"),
)
"""Okabe and Ito's palette, whose yellow is too pale for lines."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)))
MARKERS = "osD^vPX"
SUFFIXES = (".png", ".svg", ".pdf")
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "planprior",
    "pdf.fonttype": 42,
}
PANEL = (3.4, 2.5)


def check(path: str | Path | None = None) -> None:
    """Check that figures can be made, and written to `path`.

    Raises:
        ValueError: The name has another ending than .png, .svg or .pdf, or nothing can
            be written there.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if path is not None and Path(path).suffix.lower() not in SUFFIXES:
        endings = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise ValueError(f"output is {str(path)!r}; its name must end in {endings}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "figures need the package matplotlib; run: pip install 'planprior[plot]'"
        )
    if path is not None:
        places.require_place("output", path)


def save(figure: Any, path: str | Path) -> Path:
    """Write a figure; a file of this name is replaced once the new one is whole.

    Args:
        figure: What one of the functions here returned.
        path: Where to; ends in .png, .svg or .pdf. Its folder is made if need be.

    Returns:
        The path.
    """
    check(path)
    path = Path(path)
    dated = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
    with places.replacing(path) as aside, _style():
        figure.savefig(
            aside,
            bbox_inches="tight",
            metadata={dated[path.suffix.lower()]: None},
        )
    return path


def write_svg(figure: Any, file: BytesIO) -> None:
    """Write a figure as SVG whose letters are shapes, so that it needs no font."""
    import matplotlib

    with _style(), matplotlib.rc_context({"svg.fonttype": "path"}):
        metadata = {"Date": None}
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=metadata)


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def _panels(count: int, *, columns: int = 3, size: tuple[float, float] = PANEL) -> Any:
    """A figure and its axes, as many as asked for."""
    from matplotlib.figure import Figure

    columns = 2 if count in (2, 4) else min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def _legend(figure: Any, axes: Iterable[Any]) -> None:
    """One legend for all axes, each name once: beside one panel, below several."""
    axes = list(axes)
    found = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    width, height = figure.get_size_inches()
    entry = 0.55 + 0.072 * max(map(len, found))
    columns = 1
    if len(axes) == 1:
        place = "outside right upper"
        figure.set_size_inches(width + entry, height)
    else:
        place = "outside lower center"
        columns = max(1, min(len(found), int(width / entry)))
        rows = -(-len(found) // columns)
        figure.set_size_inches(width, height + 0.19 * rows)
    figure.legend(
        found.values(), found.keys(), loc=place, ncols=columns, handlelength=2.8
    )


def short(number: float | int, _: Any = None) -> str:
    """A number of steps as axes show it: 500k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


class Look(NamedTuple):
    """How the lines of one method look in every panel."""

    color: str
    linestyle: Any
    marker: str


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for every label: colour, dash and marker all differ, for grey prints."""
    return {
        label: Look(
            COLOURS[i % len(COLOURS)],
            DASHES[i % len(DASHES)],
            MARKERS[i % len(MARKERS)],
        )
        for i, label in enumerate(dict.fromkeys(labels))
    }


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


def _band(ax: Any, x: np.ndarray, curve: Curve, look: Look, name: str) -> None:
    own = not curve.source
    ax.plot(
        x,
        curve.mean,
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker,
        markersize=3.5 if own else 2.5,
        markevery=max(1, len(x) // 20),
        linewidth=2.2 if own else 1.3,
        label=name,
        zorder=3 if own else 2,
    )
    ends = curve.low, curve.high
    ax.fill_between(x, *ends, color=look.color, alpha=0.18, linewidth=0)


def _return_axis(ax: Any, curves: Sequence[Curve]) -> None:
    success = all(c.metric == "success" for c in curves)
    ax.set_ylabel("success rate" if success else "episode return")
    means = np.concatenate([c.mean for c in curves])
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
        ax.set_ylim(top=1.05 * min(tops.max(), 1.6 * means.max()))


def learning_curves(
    panels: Mapping[str, Sequence[Curve]], runs: Mapping[str, Sequence[Run]] = {}
) -> Any:
    """Return against environment steps, with intervals over seeds: a panel per task.

    Args:
        panels: Curves of each task. Those with a source are published ones, and drawn
            thinner.
        runs: Single seeds to draw as hairlines, of each task.
    """
    with _style():
        figure, axes = _panels(
            len(panels), size=(4.6, 3.2) if len(panels) == 1 else PANEL
        )
        every = [c for curves in panels.values() for c in curves]
        every.sort(key=lambda c: bool(c.source))
        look, names = looks(c.label for c in every), _names(every)
        for ax, (task, curves) in zip(axes, panels.items(), strict=True):
            for run in runs.get(task, ()):
                ax.plot(run.env_steps, run.returns, color="#777777", lw=0.4, zorder=1)
            own = [c for c in curves if not c.source]
            for curve in curves:
                label = curve.label
                _band(ax, curve.env_steps, curve, look[label], names[label])
            _return_axis(ax, curves)
            _step_axis(ax, [c.env_steps[-1] for c in own or curves])
            ax.set_title(task)
        _outer_labels(axes)
        _legend(figure, axes)
        return figure


def _outer_labels(axes: Sequence[Any]) -> None:
    """Drop the y labels that repeat the one at the left of their row."""
    for ax in axes:
        if not ax.get_subplotspec().is_first_col():
            ax.set_ylabel("")


def _step_axis(ax: Any, ends: Sequence[float]) -> None:
    ax.xaxis.set_major_formatter(short)
    ax.set_xlabel("env steps")
    ax.set_xlim(0, max(ends) * 1.02 or 1)


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
    with _style():
        figure, axes = _panels(len(panels))
        look, names = looks(label for _, label in curves), _names(curves.values())
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
            ax.set_title(task)
        _outer_labels(axes)
        _legend(figure, axes)
        return figure


# --- Several tasks --------------------------------------------------------------------

Scores = Mapping[str, Mapping[str, np.ndarray]]
"""Scores of each run, by method and task."""


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
        values = results.values_at(runs, np.array([float(budget)]))[:, 0]
        values = values[np.isfinite(values)]
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
    with _style():
        height = 1.4 + 0.32 * len(scores)
        pairs = len(scores) > 1
        figure, axes = _panels(1 + pairs, size=(4.2, height))
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
    ax.set_xlabel(f"P(better than {first})")
    ax.set_title("probability of improvement")


def _forest(ax: Any, found: Mapping[str, Estimate], look: Mapping[str, Look]) -> None:
    """Estimates with their intervals, one below the other."""
    for y, (label, x) in enumerate(found.items()):
        color, _, marker = look[label]
        ax.plot([x.low, x.high], [y, y], color=color, lw=5, alpha=0.35)
        ax.plot([x.mean], [y], color=color, marker=marker, ms=7, ls="")
    ax.set_yticks(range(len(found)), list(found))
    ax.set_ylim(len(found) - 0.5, -0.5)
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
    grid = results.union_grid(every)
    if len(grid) > 40:
        grid = grid[np.unique(np.linspace(0, len(grid) - 1, 40).astype(int))]
    points: dict[str, list[tuple[float, Estimate]]] = {}
    for step in grid.tolist():
        for label, of in final_scores(groups, step, scale).items():
            value = intervals.aggregate(list(of.values()), rng=rng)
            points.setdefault(label, []).append((step, value))
    with _style():
        figure, (ax,) = _panels(1, size=(5.2, 3.4))
        look = looks(label for _, label in groups)
        for label, series in points.items():
            steps = np.array([step for step, _ in series])
            mean, low, high, _ = np.array([value for _, value in series]).T
            seeds = [value.seeds for _, value in series]
            curve = Curve(label, "", steps, mean, low, high, np.array(seeds))
            _band(ax, steps, curve, look[label], f"{label}, {_count(seeds)} per task")
        tasks = len({task for task, _ in groups})
        ax.set_ylabel(f"IQM of {unit}, {tasks} tasks")
        _step_axis(ax, [grid[-1]])
        _legend(figure, [ax])
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
    with _style():
        figure, axes = _panels(len(tasks), size=(3.6, 3.0))
        look = looks(names.values())
        for ax, task in zip(axes, tasks, strict=True):
            shown = [
                _sweep_line(ax, groups[task, label], float(budget), name, look[name])
                for (label, budget), name in names.items()
                if (task, label) in groups
            ]
            _sweep_axes(ax)
            _around(ax, [y for line in shown for y in line])
            ax.set_title(task)
        _outer_labels(axes)
        _legend(figure, axes)
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
        list(found), mean, ends, ms=5, capsize=3, lw=1.6, elinewidth=1, label=label,
        **style,
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


# --- What went on inside a run --------------------------------------------------------


class Panel(NamedTuple):
    """A panel of diagnostics.

    Attributes:
        title: Its title.
        names: Names of the metrics, and what the legend calls them.
        log: Whether the axis is logarithmic.
    """

    title: str
    names: Mapping[str, str]
    log: bool = False


PANELS = (
    Panel(
        "KL of the policy, per dimension",
        {"kl_policy_prior": "to the prior", "kl_policy_plan": "to stored plans"},
        log=True,
    ),
    Panel(
        "entropy, per dimension",
        {"policy_entropy": "policy", "prior_entropy": "prior"},
    ),
    Panel(
        "effective λ and prior weight",
        {"effective_lambda": "effective λ", "prior_weight": "w"},
        log=True,
    ),
    Panel(
        "values",
        {
            "value": "of the replay",
            "target": "their targets",
            "plan_value": "the planner's, here and now",
        },
    ),
    Panel(
        "losses",
        {
            "consistency_loss": "consistency",
            "reward_loss": "reward",
            "value_loss": "value",
        },
        log=True,
    ),
    Panel(
        "policy gradient norms",
        {"return_grad_norm": "by value", "penalty_grad_norm": "by prior"},
        log=True,
    ),
    Panel("spread of stored plans", {"plan_std": "standard deviation"}),
    Panel("age of stored plans", {"plan_age": "updates"}),
)


def diagnostics(
    run: Run, log: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray] = {}
) -> Any:
    """Planner against policy, and the metrics of the updates: one member of one run.

    Args:
        run: Its evaluations.
        log: `results.read_log`.
        values: `results.read_values`: what the planner predicted and what came.
    """
    panels = [p for p in PANELS if any(_shown(log, name) for name in p.names)]
    with _style():
        figure, axes = _panels(1 + len(panels) + bool(values), size=(3.4, 2.4))
        _planner_and_policy(axes[0], run)
        for ax, panel in zip(axes[1:], panels, strict=False):
            _metrics(ax, log, panel)
        for ax in axes[: 1 + len(panels)]:
            _step_axis(ax, [run.env_steps[-1]])
            ax.legend(fontsize=7.5, handlelength=2.2)
        if values:
            _calibration(axes[-1], values)
        return figure


def _shown(log: Mapping[str, np.ndarray], name: str) -> bool:
    return name in log and bool(np.isfinite(log[name]).any())


def _planner_and_policy(ax: Any, run: Run) -> None:
    look = looks(("planner", "bare policy"))
    series = {"planner": run.returns, "bare policy": run.policy_returns}
    for label, values in series.items():
        if values is not None:
            ax.plot(run.env_steps, values, label=label, ms=3, **look[label]._asdict())
    ax.set_title("episode return")


def _metrics(ax: Any, log: Mapping[str, np.ndarray], panel: Panel) -> None:
    look = looks(panel.names.values())
    lowest = np.inf
    for name, label in panel.names.items():
        if _shown(log, name):
            color, dash, _ = look[label]
            ax.plot(log["step"], log[name], color=color, ls=dash, lw=1.3, label=label)
            lowest = min(lowest, float(np.nanmin(log[name])))
    if panel.log and lowest > 0:
        ax.set_yscale("log")
    ax.set_title(panel.title)


def _calibration(ax: Any, values: Mapping[str, np.ndarray]) -> None:
    """What the planner predicted against the discounted return that came."""
    x, y = values["achieved"], values["predicted"]
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    ax.plot(ends, ends, color="#555555", lw=1, ls=":", label="exact")
    ax.plot(x, y, ".", ms=3, alpha=0.5, color=COLOURS[0], label="states")
    ax.set_xlabel("discounted return that came")
    ax.set_ylabel("planner's estimate")
    ax.set_title(f"value: {np.mean(y - x):+.3g} on average")
    ax.legend(fontsize=7.5)
