"""`planprior plot`: figures of runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from planprior.commands import printing

if TYPE_CHECKING:
    from planprior.results import Curve, Run

Kind = Literal["curves", "time", "aggregate", "efficiency", "sweep", "diagnostics"]


@dataclass(frozen=True)
class Plot:
    """Draw figures of runs: PNG, SVG or PDF.

    Kinds: curves (return against env steps), time (against hours), aggregate
    (interquartile means over tasks, probabilities of improvement), efficiency (those
    means against env steps), sweep (return against the prior weight), diagnostics (what
    went on inside one run: KL, entropies, effective λ, planner against policy, values).

    Attributes:
        runs: Run folders, folders of them, or CSV tables.
        kind: What to draw.
        output: Where to; ends in .png, .svg or .pdf. By default named after the kind.
        against: Published methods to draw as well, of curves; of aggregate and
            efficiency where --published names full curves.
        task: Task of tables that do not say; of others only these runs are drawn.
        method: Only this method.
        budgets: Environment steps of aggregate (one) and sweep; by default the last
            that all runs reach.
        interval: Of curves: Student's t, or the percentile bootstrap, which is too
            narrow for few seeds.
        scale: Returns are divided by this before they are averaged over tasks.
        seed: Of the bootstrap.
        published: Folder with full published curves, instead of the package's table.
        singles: Draw every seed as a hairline too, of curves.
        member: Which run to look into, of diagnostics.
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="[PATH [PATH ...]]")]
    kind: Kind = "curves"
    output: Path | None = None
    against: tuple[str, ...] = ()
    task: str = ""
    method: str = ""
    budgets: tuple[int, ...] = ()
    interval: Literal["t", "bootstrap"] = "t"
    scale: float = 1000.0
    seed: int = 0
    published: Path | None = None
    singles: bool = False
    member: int = 0


def run(options: Plot) -> int:
    """Draw one figure."""
    from planprior import figures, results
    from planprior.checked import require_seed

    output = options.output or Path(f"{options.kind}.png")
    figures.check(output)
    if not 0 < options.scale < np.inf:
        raise ValueError(f"scale is {options.scale}; it must be above 0 and finite")
    require_seed(options.seed)
    if any(budget < 1 for budget in options.budgets):
        raise ValueError(f"budgets is {options.budgets}; each must be at least 1")
    runs = results.read(options.runs, task=options.task)
    if options.method:
        runs = _of_method(runs, options.method)
    figure = KINDS[options.kind](runs, options)
    figures.save(figure, output)
    printing.console().print(f"figure: {output}", soft_wrap=True)
    return 0


def _of_method(runs: "list[Run]", method: str) -> "list[Run]":
    known = sorted({run.method for run in runs})
    if method not in known:
        raise ValueError(f"method is {method!r}; the runs are of {', '.join(known)}")
    return [run for run in runs if run.method == method]


def _curves(runs: "list[Run]", options: Plot) -> Any:
    from planprior import comparison, plots, results

    rng = np.random.default_rng(options.seed)
    panels: dict[str, list[results.Curve]] = {}
    singles: dict[str, list[Run]] = {}
    for task, own, shown in _scored_alike(runs, options):
        for label, of in own.items():
            if cut := comparison.cut_short(of, "the curve ends"):
                _tell(f"{label} on {task}: {cut}")
            curve = results.summarise(of, method=label)
            if options.interval == "bootstrap":
                curve = results.bootstrapped(curve, of, rng=rng)
            panels.setdefault(task, []).append(curve)
            singles.setdefault(task, []).extend(of)
        panels[task] += shown
    return plots.learning_curves(panels, singles if options.singles else {})


def _scored_alike(
    runs: "list[Run]", options: Plot
) -> "Iterator[tuple[str, dict[str, list[Run]], list[Curve]]]":
    """Each task with its runs by label and the published curves asked for.

    Whoever has no measure in common with the others is left out, and said to be.
    """
    from planprior import comparison, results

    by_task = _by_task(runs)
    known: dict[str, list[Curve]] = {task: [] for task in by_task}
    if options.against:
        known = {task: results.published(task, options.published) for task in by_task}
        for sentence in comparison.require_published(options.against, known):
            _tell(sentence)
    for task, groups in by_task.items():
        rivals = comparison.choose(known[task], options.against)
        own, shown = comparison.on_one_axis(groups, rivals)
        left_out = [c.label for c in rivals if c not in shown]
        left_out += [label for label in groups if label not in own]
        if left_out:
            _tell(
                f"left out of {task}, since returns and success rates share no axis: "
                f"{', '.join(left_out)}"
            )
        yield task, own, shown


def _by_task(runs: "list[Run]") -> "dict[str, dict[str, list[Run]]]":
    """Runs by task, then by label."""
    from planprior import results

    found: dict[str, dict[str, list[Run]]] = {}
    for (task, label), of in results.groups(runs).items():
        found.setdefault(task, {})[label] = of
    return found


def _tell(sentence: str) -> None:
    printing.console(stderr=True).print(sentence, soft_wrap=True)


def _time(runs: "list[Run]", options: Plot) -> Any:
    from planprior import comparison, plots

    timed = [run for run in runs if run.seconds is not None]
    if not timed:
        raise ValueError("the runs have no wall time: no column seconds")
    if left := dict.fromkeys(run.method for run in runs if run.seconds is None):
        _tell(f"left out, since they have no wall time: runs of {', '.join(left)}")
    panels = _by_task(timed)
    for task, groups in panels.items():
        for label, of in groups.items():
            if cut := comparison.cut_short(of, "the curve ends"):
                _tell(f"{label} on {task}: {cut}")
    return plots.wall_clock(panels)


def _groups(
    runs: "list[Run]", options: Plot
) -> "Mapping[tuple[str, str], Sequence[Run]]":
    """Runs by task and label, with published ones where full curves are at hand.

    All of a task are scored alike.
    """
    from planprior import results

    if options.against and options.published is None:
        raise ValueError(
            "against needs --published for this kind: means alone cannot be resampled"
        )
    groups: dict[tuple[str, str], list[Run]] = {}
    for task, own, shown in _scored_alike(runs, options):
        groups |= {(task, label): same for label, same in own.items()}
        wanted = {c.label for c in shown}
        folder = options.published
        for run in results.published_runs(folder, task) if folder and wanted else ():
            label = results.sourced(run.method, run.details.get("source", ""))
            if label in wanted:
                groups.setdefault((task, label), []).append(run)
    return groups


def _unit(options: Plot, groups: "Mapping[tuple[str, str], Sequence[Run]]") -> str:
    scored = {of[0].details.get("metric", "return") for of in groups.values()}
    if scored == {"success"}:
        return "success rate"
    unit = "return" if options.scale == 1 else f"return / {options.scale:g}"
    return f"{unit} or success rate" if "success" in scored else unit


def _aggregate(runs: "list[Run]", options: Plot) -> Any:
    from planprior import plots

    groups = _of_every_task(_groups(runs, options))
    if len(options.budgets) > 1:
        raise ValueError(f"budgets is {options.budgets}; aggregate takes one")
    own = {run.path for run in runs}
    ends = [run for of in groups.values() for run in of if run.path in own] or runs
    budget = float((options.budgets or _last_budget(ends))[0])
    scores = plots.final_scores(groups, budget, options.scale)
    if not scores:
        raise ValueError(f"no method has every task at {budget:,.0f} env steps")
    there = {
        (task, label): len(x) for label, of in scores.items() for task, x in of.items()
    }
    _tell_missing(groups, there, budget)
    rng = np.random.default_rng(options.seed)
    unit = _unit(options, groups)
    return plots.aggregates(scores, budget=budget, unit=unit, rng=rng)


def _of_every_task(
    groups: "Mapping[tuple[str, str], Sequence[Run]]",
) -> "Mapping[tuple[str, str], Sequence[Run]]":
    """Runs of the methods that have all tasks; which have not, is said."""
    from planprior import plots

    whole = plots.of_every_task(groups)
    left = dict.fromkeys(label for task, label in groups if (task, label) not in whole)
    if left:
        _tell(f"left out, since they have no runs of some tasks: {', '.join(left)}")
    if not whole:
        raise ValueError("no method has runs of every task")
    return whole


def _tell_missing(
    groups: "Mapping[tuple[str, str], Sequence[Run]]",
    there: Mapping[tuple[str, str], int],
    budget: float,
) -> None:
    """Say of how many runs the figure has no score at a budget."""
    for (task, label), of in groups.items():
        many = there.get((task, label), 0)
        if many < len(of):
            _tell(
                f"{label} on {task}: {many} of {len(of)} runs have a score at "
                f"{budget:,.0f} env steps that is shown"
            )


def _last_budget(runs: "list[Run]") -> tuple[int, ...]:
    """The last step that all runs reach; where others go on, that is said."""
    from planprior import comparison

    if cut := comparison.cut_short(runs, "scores are taken"):
        _tell(f"{cut} (--budgets asks for another)")
    return (int(min(run.env_steps[-1] for run in runs)),)


def _efficiency(runs: "list[Run]", options: Plot) -> Any:
    from planprior import comparison, plots

    groups = _of_every_task(_groups(runs, options))
    every = [run for of in groups.values() for run in of]
    if cut := comparison.cut_short(every, "curves end"):
        _tell(cut)
    return plots.sample_efficiency(
        groups,
        scale=options.scale,
        unit=_unit(options, groups),
        rng=np.random.default_rng(options.seed),
    )


def _sweep(runs: "list[Run]", options: Plot) -> Any:
    from planprior import comparison, plots, results

    methods = sorted({run.method for run in runs})
    if len(methods) > 1:
        raise ValueError(
            f"the runs are of {', '.join(methods)}; choose one by --method"
        )
    groups = results.sweeps(runs)
    if not groups:
        raise ValueError(
            "a sweep needs runs of two prior weights or more that differ in nothing "
            "else but the seed"
        )
    shown = [run for of in groups.values() for run in of]
    budgets = options.budgets or _last_budget(shown)
    for budget in budgets:
        there = {key: len(results.scores_at(of, budget)) for key, of in groups.items()}
        if not any(there.values()):
            raise ValueError(
                f"budgets is {options.budgets}; each must be among the evaluations, "
                f"{comparison.span(shown)}: no run of the sweep has a score at "
                f"{budget:,} env steps"
            )
        _tell_missing(groups, there, float(budget))
    return plots.sweep(shown, budgets)


def _diagnostics(runs: "list[Run]", options: Plot) -> Any:
    from planprior import results, run_plots

    if not 0 <= options.member < len(runs):
        raise ValueError(
            f"member is {options.member}; there are {len(runs)} runs, so it must be in "
            f"[0, {len(runs) - 1}]"
        )
    chosen = runs[options.member]
    return run_plots.diagnostics(
        chosen, results.read_log(chosen), results.read_values(chosen)
    )


KINDS: Mapping[str, Callable[["list[Run]", Plot], Any]] = {
    "curves": _curves,
    "time": _time,
    "aggregate": _aggregate,
    "efficiency": _efficiency,
    "sweep": _sweep,
    "diagnostics": _diagnostics,
}
