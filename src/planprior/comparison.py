"""Runs beside published curves: at common budgets, with verdicts that hold.

A verdict is about one budget and says no more than the 95 % interval of the difference
does. That the interval contains zero is no proof of equality, and is not called one.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from planprior import results
from planprior.intervals import Estimate, difference
from planprior.results import Curve, ResultsError, Run

DEFAULT_RIVALS = ("TD-MPC2", "BMPC")
ROUND = np.array([m * 10**k for k in range(2, 9) for m in (1, 2, 5)], float)
MOST_BUDGETS = 5


HIGHER, LOWER = "higher", "lower"
UNCLEAR = "no difference shown"
TOO_FEW = "none: too few seeds"
NO_SPREAD = "none: all seeds alike"
UNPUBLISHED = "not published here"
VERDICTS = (HIGHER, LOWER, UNCLEAR, TOO_FEW, NO_SPREAD, UNPUBLISHED)


class Row(NamedTuple):
    """Two methods at one budget.

    Attributes:
        env_steps: The budget.
        ours: What the runs at hand came to.
        theirs: What was published; None where nothing was for this budget.
        gap: ours − theirs.
    """

    env_steps: float
    ours: Estimate
    theirs: Estimate | None
    gap: Estimate | None

    @property
    def verdict(self) -> str:
        """What the interval of the difference allows to say."""
        if self.gap is None:
            return UNPUBLISHED
        if not self.gap.has_interval:
            alike = self.theirs and self.theirs.has_interval and self.ours.has_interval
            return NO_SPREAD if alike and self.gap.seeds > 1 else TOO_FEW
        if self.gap.low > 0:
            return HIGHER
        if self.gap.high < 0:
            return LOWER
        return UNCLEAR


class Comparison(NamedTuple):
    """One method at hand against one published curve.

    Attributes:
        ours: The curve of the runs at hand.
        theirs: The published one.
        rows: One per budget.
    """

    ours: Curve
    theirs: Curve
    rows: tuple[Row, ...]

    @property
    def digits(self) -> int:
        """Decimals that tables show."""
        return 3 if self.theirs.metric == "success" else 1


def choose(curves: Sequence[Curve], names: Sequence[str], own: str = "") -> list[Curve]:
    """Choose published curves by name.

    `SimbaV2` stands for all its variants, `TD-MPC2@bmpc` for one source of several;
    case does not matter.

    Args:
        curves: Those of a task.
        names: What is asked for; if empty, the method's own published curve and a few
            that most people know. `require_published` looks for those that fit none.
        own: Name of the method at hand.
    """
    if not names:
        wanted = {_plain(name) for name in (*DEFAULT_RIVALS, own)}
        return [c for c in curves if _plain(c.method) in wanted]
    fitting = [c for name in names for c in curves if _fits(c, name)]
    return list(dict.fromkeys(fitting))


def require_published(
    names: Sequence[str], known: Mapping[str, Sequence[Curve]]
) -> list[str]:
    """Check that something is published of every name, on one of the tasks at least.

    Args:
        names: What is asked for.
        known: Published curves of every task.

    Returns:
        A sentence for every name of which some tasks have nothing.

    Raises:
        ResultsError: A name fits no curve of any task.
    """
    told = []
    for name in names:
        without = [
            task
            for task, curves in known.items()
            if not any(_fits(curve, name) for curve in curves)
        ]
        if len(without) == len(known):
            every = [curve for curves in known.values() for curve in curves]
            raise ResultsError(_unknown(name, every, ", ".join(known)))
        if without:
            told.append(f"nothing of {name!r} is published for {', '.join(without)}")
    return told


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _fits(curve: Curve, name: str) -> bool:
    method, _, source = name.partition("@")
    variant = curve.method.lower().partition(" (")[0]
    named = method.lower() in (curve.method.lower(), variant)
    return named and source.lower() in ("", curve.source)


def told_published(curves: Sequence[Curve]) -> str:
    """What is published of a task, where none of it was chosen."""
    there = ", ".join(sorted({c.method for c in curves}))
    if not there:
        return "nothing is published here for this task"
    return f"published for this task: {there}; choose by --against"


def _unknown(name: str, curves: Sequence[Curve], tasks: str) -> str:
    known = sorted({c.method for c in curves})
    if not known:
        return f"nothing is published here for {tasks}; give a CSV file to compare with"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    listed = ", ".join(known)
    return f"nothing of {name!r} is published for {tasks}{guess}; there are {listed}"


def on_one_axis(
    groups: Mapping[str, Sequence[Run]], rivals: Sequence[Curve]
) -> tuple[dict[str, list[Run]], list[Curve]]:
    """Runs of a task and published curves that can be drawn on one axis.

    That is in the rivals' measure where all runs know it, since a task is published in
    one; else in that of the first run, without whoever has another.

    Args:
        groups: Runs at hand, by label.
        rivals: Published curves.
    """
    every = [run for runs in groups.values() for run in runs]
    own = every[0].details.get("metric", "return")
    wanted = dict.fromkeys([own, *(rival.metric for rival in rivals)])
    known = [m for m in wanted if len(results.as_metric(every, m)) == len(every)]
    metric = max(known, key=lambda m: sum(r.metric == m for r in rivals), default=own)
    told = {label: results.as_metric(runs, metric) for label, runs in groups.items()}
    return (
        {label: runs for label, runs in told.items() if runs},
        [rival for rival in rivals if rival.metric == metric],
    )


def panel(groups: Mapping[str, Sequence[Run]], rivals: Sequence[Curve]) -> list[Curve]:
    """The curves of one task: of the runs at hand, then published ones, on one axis.

    Args:
        groups: Runs at hand, by label.
        rivals: Published curves.
    """
    own, others = on_one_axis(groups, rivals)
    return [results.summarise(of, method=label) for label, of in own.items()] + others


def panels(
    groups: Mapping[tuple[str, str], Sequence[Run]],
    compared: Mapping[tuple[str, str], Sequence[Comparison]],
) -> dict[str, list[Curve]]:
    """The curves of every task: `panel` of its runs and of all they are compared with.

    Args:
        groups: Runs at hand, by task and label.
        compared: Their comparisons, by the same.
    """
    own: dict[str, dict[str, Sequence[Run]]] = {}
    rivals: dict[str, list[Curve]] = {}
    for (task, label), runs in groups.items():
        own.setdefault(task, {})[label] = runs
        others = rivals.setdefault(task, [])
        found = [one.theirs for one in compared[task, label]]
        others += [curve for curve in found if curve not in others]
    return {task: panel(of, rivals[task]) for task, of in own.items()}


def compare(
    runs: Sequence[Run],
    rivals: Sequence[Curve],
    label: str,
    budgets: Sequence[float | int] = (),
) -> list[Comparison]:
    """Compare the runs of one method on one task with published curves.

    Args:
        runs: Its seeds.
        rivals: Published curves of the task.
        label: Name of the method.
        budgets: Environment steps to compare at; a few round ones if empty.

    Raises:
        ResultsError: No seed has a value at a budget.
    """
    found = []
    for rival in rivals:
        same = results.as_metric(runs, rival.metric)
        if not same:
            # Success cannot be told from returns, nor returns from success.
            found.append(Comparison(results.summarise(runs, method=label), rival, ()))
            continue
        curve = results.summarise(same, method=label)
        steps = [float(x) for x in budgets] or common_budgets(curve, rival)
        rows = tuple(_row(same, rival, step) for step in steps)
        found.append(Comparison(curve, rival, rows))
    return found


def _row(runs: Sequence[Run], rival: Curve, step: float) -> Row:
    at = results.summarise(runs, np.array([float(step)])).at(step)
    if at is None:
        raise ResultsError(
            f"budget is {step:,.0f} env steps; {runs[0].method} on {runs[0].task} has "
            f"evaluations {span(runs)}"
        )
    theirs = rival.at(step)
    return Row(step, at, theirs, None if theirs is None else difference(at, theirs))


def span(runs: Sequence[Run]) -> str:
    """From where to where runs were evaluated, in words."""
    steps = [run.env_steps for run in runs]
    first, last = min(x[0] for x in steps), max(x[-1] for x in steps)
    return f"from {first:,.0f} to {last:,.0f}"


def cells(row: Row, digits: int) -> list[str]:
    """A row as tables show it: budget, both estimates, difference, verdict."""
    gap = row.gap
    return [
        f"{row.env_steps:,.0f}",
        text(row.ours, digits),
        "–" if row.theirs is None else text(row.theirs, digits),
        "–" if gap is None else f"{gap.mean:+.{digits}f}{_interval(gap, digits)}",
        row.verdict,
    ]


def text(x: Estimate, digits: int) -> str:
    """An estimate as tables show it: mean, interval, seeds."""
    seeds = f"n={x.seeds}" if x.seeds else "n=?"
    return f"{x.mean:.{digits}f}{_interval(x, digits)} {seeds}"


def _interval(x: Estimate, digits: int) -> str:
    return f" ({x.low:.{digits}f} to {x.high:.{digits}f})" if x.has_interval else ""


def common_budgets(ours: Curve, theirs: Curve) -> list[float]:
    """Round budgets at which both are known, the last ones, and the very last."""
    last = min(ours.env_steps[-1], theirs.env_steps[-1])
    asked = [float(x) for x in np.unique([*ROUND[ROUND <= last], last])]
    known = [x for x in asked if ours.at(x) and theirs.at(x)]
    return known[-MOST_BUDGETS:]


def cut_short(runs: Sequence[Run], what: str = "budgets end") -> str:
    """A sentence where a seed ends before others, and with it the curve; or nothing.

    Args:
        runs: The seeds, of one method and task or of several.
        what: What ends there, with its verb.
    """
    by_end = sorted(runs, key=lambda run: run.env_steps[-1])
    first = by_end[0]
    end, most = (float(run.env_steps[-1]) for run in (first, by_end[-1]))
    if end == most:
        return ""
    several = len({(run.task, run.method) for run in runs}) > 1
    whose = f" of {first.method} on {first.task}" if several else ""
    return (
        f"{what} at {end:,.0f} env steps, where seed {first.seed}{whose} ends; others "
        f"go on to {most:,.0f}"
    )


def protocol(run: Run) -> str:
    """How the evaluations of a run at hand were made, as far as its folder says."""
    config = results.read_config(Path(run.path).parent)
    if not config:
        return "not said in the table: compare its action repeat and episodes by hand"
    train, spec = config["train"], config["spec"]
    facts = [
        f"action repeat {spec.get('action_repeat', '?')}",
        f"size {config.get('size', '?')}",
        f"{train.get('num_envs', '?')} environments at once",
        f"{train.get('updates_per_step', '?')} updates per decision",
        f"{train.get('eval_episodes', '?')} episodes per evaluation",
    ]
    changed = results.settings_text(train)
    return ", ".join([*facts, *([changed] if changed else [])])
