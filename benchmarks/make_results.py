"""Write results/README.md: our runs beside the published ones, with figures.

    python benchmarks/make_results.py

It reads the `results/*.csv` that `benchmarks/collect.py` makes, and nothing else.
"""

import argparse
import csv
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from planprior import comparison, figures, intervals, plots, results
from planprior.results import Run

HEAD = """# Results

Made by `python benchmarks/make_results.py` from the tables in this folder, which
`python benchmarks/collect.py RUNS --table results/NAME.csv` makes of run folders: one
row per evaluation, with how it was made (hardware, versions, commit, command).

Steps are environment steps. `n` is the number of seeds; intervals are 95 % (Student's t
over seeds; Welch's for differences). A verdict is about one budget and says no more
than its interval: *no difference shown* does not mean equal. Published curves are those
of `planprior.results.published`; see [docs/results.md](../docs/results.md).
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def task_section(task: str, groups: dict[str, list[Run]], folder: Path) -> str:
    """One task: figure, where our runs ended, and verdicts."""
    parts = [f"## {task}\n"]
    known = results.published(task)
    rivals = []
    verdicts: list[list[str]] = []
    for label, runs in groups.items():
        chosen = comparison.choose(known, (), runs[0].method)
        rivals += [c for c in chosen if c not in rivals]
        for one in comparison.compare(runs, chosen, label):
            last = one.rows[-1:]
            name = [label, one.theirs.label]
            verdicts += [[*name, *comparison.cells(row, one.digits)] for row in last]
    figure = plots.learning_curves({task: comparison.panel(groups, rivals)})
    path = figures.save(figure, folder / "figures" / f"{task}.svg")
    parts.append(f"![{task}]({path.relative_to(folder).as_posix()})\n")
    ends = [end_of(label, of) for label, of in groups.items()]
    head = ("method", "env steps", "planner", "policy", "success", "hours", "device")
    kept = [
        i
        for i, name in enumerate(head)
        if name != "success" or any(row[i] != "–" for row in ends)
    ]
    parts.append(table([head[i] for i in kept], [[r[i] for i in kept] for r in ends]))
    if verdicts:
        head = ("ours", "published", "env steps", "ours", "published", "difference")
        parts.append(table([*head, "verdict"], verdicts))
    return "\n".join(parts)


OURS = {"tdmpc2": "TD-MPC2", "bmpc": "BMPC"}
"""Our name of a method of which enough runs are published, and theirs."""

SPREAD = """## Published methods: are our runs like theirs?

The source `tdmpc2` is TD-MPC2's authors, `bmpc` BMPC's, who ran TD-MPC2 too. The
published intervals here are where the mean of as many runs of theirs as we have falls,
with 95 % probability (Student's prediction interval). Size `tiny` is not the
published configuration: networks are 64 wide, there are two value heads and no dropout,
plans take 128 samples in 3 iterations, batches 128 slices, the learning rate is 1e-3
and the target heads' 0.03, for a run to take minutes on a CPU. Objectives, targets and
schedules are the published ones. Size `1` with the settings named is the published
configuration but for its widths: 128, where the published are 512 (encoder 256).
"""


def spread_section(runs: Sequence[Run]) -> str:
    """Whether our runs of published methods are like the published ones."""
    of = {
        (task, name): [run for run in runs if (run.task, run.method) == (task, name)]
        for task in sorted({run.task for run in runs})
        for name in OURS
    }
    rows = [
        row
        for same in of.values()
        for (_, label), seeds in results.groups(same).items()
        for row in spread_rows(label, seeds)
    ]
    head = ("task", "method", "size", "env steps", "ours", "published", "source")
    return f"{SPREAD}\n{table([*head, 'ours is'], rows)}" if rows else ""


def spread_rows(label: str, runs: Sequence[Run]) -> Iterator[list[str]]:
    """One row per source of published runs of the method, at the last common budget.

    Args:
        label: What to call the runs.
        runs: Seeds of one configuration.
    """
    task, size = runs[0].task, runs[0].details.get("size", "?")
    known = [c for c in results.published(task) if c.method == OURS[runs[0].method]]
    for one in comparison.compare(runs, known, label):
        last = one.rows[-1] if one.rows else None
        if last is None or last.theirs is None:
            continue
        about = intervals.prediction(last.theirs, last.ours.seeds)
        place = "inside"
        if not about.low <= last.ours.mean <= about.high:
            place = "below" if last.ours.mean < about.low else "above"
        shown = (comparison.text(x, one.digits) for x in (last.ours, about))
        budget = f"{last.env_steps:,.0f}"
        yield [task, label, size, budget, *shown, one.theirs.source, place]


def end_of(label: str, runs: Sequence[Run]) -> list[str]:
    """Where the runs of a method ended."""
    curve = results.summarise(runs)
    last = float(curve.env_steps[-1])
    at = curve.at(last)
    assert at is not None
    end = np.array([last])

    def mean(name: str, digits: int, unit: float = 1.0) -> str:
        found = results.values_at(runs, end, name) / unit
        return "–" if np.isnan(found).all() else f"{np.nanmean(found):.{digits}f}"

    return [
        label,
        f"{last:,.0f}",
        comparison.text(at, 1),
        mean("policy_returns", 1),
        mean("successes", 2),
        mean("seconds", 2, 3600),
        ", ".join(sorted({d for run in runs for d in devices(run)})) or "?",
    ]


@functools.cache
def _rows(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def tables_of_runs(folder: Path) -> list[Path]:
    """Tables of evaluations; there are tables of other things beside them."""
    tables = sorted(folder.glob("*.csv"))
    return [path for path in tables if any("env_steps" in r for r in _rows(str(path)))]


def rows_of(run: Run) -> list[dict[str, str]]:
    """The rows of a run in the table that it was read from."""
    weight = "" if run.prior_weight is None else f"{run.prior_weight:g}"
    told = {"task": run.task, "method": run.method, "seed": run.seed}
    told |= {"prior_weight": weight, **run.details}
    columns = {"size", "swept", "settings", "num_envs", *told}
    return [
        row
        for row in _rows(run.path)
        if all(row.get(name, "") == told.get(name, "") for name in columns)
    ]


def devices(run: Run) -> set[str]:
    """What a run was made on: the accelerator, or the CPU and its cores."""
    return {
        f"{row['cpu']}, {row['cores']} core{'s' * (row['cores'] != '1')}"
        if row["device"] == "cpu"
        else row["device"]
        for row in rows_of(run)
        if row.get("device")
    }


def sweep_section(runs: Sequence[Run], folder: Path) -> Iterator[str]:
    """Return against w, and whether a finite λ beats both ends."""
    for task in dict.fromkeys(run.task for run in runs):
        of = results.sweeps([run for run in runs if run.task == task])
        for (_, label), same in of.items():
            weights = sorted(
                {r.prior_weight for r in same if r.prior_weight is not None}
            )
            if len(weights) < 3:
                continue
            budget = float(min(run.env_steps[-1] for run in same))
            named = re.sub(r"[^\w.=-]+", "-", f"sweep-{task}-{label}")
            figure = plots.sweep(same, [budget])
            path = figures.save(figure, folder / "figures" / f"{named}.svg")
            yield f"## Prior weight: {label} on {task}\n"
            yield f"![sweep]({path.relative_to(folder).as_posix()})\n"
            yield sweep_verdict(same, weights, budget)


def sweep_verdict(runs: Sequence[Run], weights: Sequence[float], budget: float) -> str:
    """The best weight between the ends against each end.

    The best is chosen by the same seeds that it is tested on, which favours it; that is
    said.
    """
    at = {}
    for weight in weights:
        same = [run for run in runs if run.prior_weight == weight]
        estimate = results.summarise(same, np.array([budget])).at(budget)
        if estimate:
            at[weight] = estimate
    inner = {w: x for w, x in at.items() if 0 < w < 1}
    if not inner:
        return "No weight between the ends was run.\n"
    best = max(inner, key=lambda w: inner[w].mean)
    rows = []
    for end in (0.0, 1.0):
        if end in at:
            gap = intervals.difference(inner[best], at[end])
            row = comparison.Row(budget, inner[best], at[end], gap)
            rows.append([f"w = {best:g}", f"w = {end:g}", *comparison.cells(row, 1)])
    head = (
        "weight",
        "end",
        "env steps",
        "at weight",
        "at end",
        "difference",
        "verdict",
    )
    note = (
        "The weight is the best of those between the ends, chosen on these very seeds, "
        "which favours it.\n"
    )
    return (table(head, rows) + "\n" + note) if rows else "Neither end was run.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results"))
    folder = parser.parse_args().folder
    tables = tables_of_runs(folder)
    # Apart: a sweep repeats seeds that were trained alone, too.
    sweeps = [path for path in tables if path.stem.startswith("sweep")]
    runs = results.read([path for path in tables if path not in sweeps])
    by_task: dict[str, dict[str, list[Run]]] = {}
    for task in sorted({run.task for run in runs}):
        # Each on its own: a label tells what differs between the runs of one task.
        same = [run for run in runs if run.task == task]
        by_task[task] = {label: of for (_, label), of in results.groups(same).items()}
    parts = [HEAD, spread_section(runs)]
    parts += [task_section(task, of, folder) for task, of in by_task.items()]
    for of in (runs, *(results.read([path]) for path in sweeps)):
        parts += sweep_section(of, folder)
    aside = folder / f".README.md.part{os.getpid()}"
    aside.write_text("\n".join(parts), encoding="utf-8")
    os.replace(aside, folder / "README.md")
    print(f"{folder / 'README.md'}: {len(runs)} runs on {len(by_task)} tasks")


if __name__ == "__main__":
    main()
