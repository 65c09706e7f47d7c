"""Learning curves that others published: those in the package, and full ones."""

import csv
import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from planprior.curves import Curve, Run, group_key, same_task, summarise
from planprior.run_files import ResultsError, plain_task, read_table, reading

PIXELS = "dmcontrol_pixels"

INTERVALS = "aggregate_intervals"
"""Name of the table with intervals of curves of which only the mean was published."""


def published(task: str, folder: str | Path | None = None) -> list[Curve]:
    """Published curves of a task: mean, 95 % interval and seeds.

    The table in the package has them on a grid of environment steps; how it was made
    and what to mind is in `sources()`.

    Args:
        task: Task, e.g. `dog-run`; those from pixels are `dmcontrol_pixels:dog-run`.
        folder: Where full curves of every seed are; instead of the package's table.

    Raises:
        ResultsError: The folder has no table.
    """
    curves = packaged() if folder is None else _full(Path(folder))
    name, pixels = _name(task)
    return [
        curve
        for curve in curves
        if same_task(curve.task, name) and (curve.benchmark == PIXELS) == pixels
    ]


def published_runs(folder: str | Path, task: str) -> list[Run]:
    """Published curves of every seed of a task, from a folder of tables.

    Curves of which only the mean was published are left out.

    Raises:
        ResultsError: The folder has no table.
    """
    name, pixels = _name(task)
    return [
        run
        for run in _published_tables(Path(folder))
        if same_task(run.task, name)
        and run.seed != "mean"
        and (run.details.get("benchmark") == PIXELS) == pixels
    ]


def _name(task: str) -> tuple[str, bool]:
    """A task's name in tables, and whether it is seen in pixels.

    One of the user's own modules keeps the module's name, which no table has: whatever
    `my_module:walker_walk` may be, its returns are not those of `walker-walk`.
    """
    suite, _, name = task.partition(":")
    return (name, True) if suite == PIXELS else (plain_task(task), False)


@cache
def sources() -> Mapping[str, Any]:
    """Where published curves come from: repository, licence, conversion, caveats."""
    text = files("planprior").joinpath("data/published.json").read_text("utf-8")
    return json.loads(text)


def caveats(curve: Curve) -> list[str]:
    """What to mind when something is compared with a published curve."""
    source = sources().get(curve.source, {})
    return [
        note["text"]
        for note in source.get("caveats", ())
        if fnmatchcase(curve.method, note["method"])
        and fnmatchcase(curve.benchmark, note["benchmark"])
    ]


@cache
def packaged() -> tuple[Curve, ...]:
    """Returns all curves of the table in the package."""
    data = files("planprior").joinpath("data/published.csv.gz").read_bytes()
    lines = gzip.decompress(data).decode().splitlines()
    return tuple(curves_of_rows(csv.DictReader(lines)))


def curves_of_rows(rows: Iterable[Mapping[str, str]]) -> list[Curve]:
    """Curves of a table with a mean and an interval in each row."""
    found: dict[tuple[str, ...], list[tuple[float, ...]]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("method", "task", "source", "benchmark", "metric"))
        numbers = (row[k] for k in ("env_steps", "mean", "low", "high", "seeds"))
        found.setdefault(key, []).append(tuple(float(x or "nan") for x in numbers))
    curves = []
    for (method, task, source, benchmark, metric), points in found.items():
        steps, mean, low, high, seeds = np.array(points).T
        about = {"source": source, "benchmark": benchmark, "metric": metric}
        numbers = steps, mean, low, high, seeds.astype(int)
        curves.append(Curve(method, task, *numbers, **about))
    return curves


@cache
def _published_tables(folder: Path) -> tuple[Run, ...]:
    tables = [p for p in sorted(folder.glob("*.csv")) if p.stem != INTERVALS]
    if not tables:
        raise ResultsError(f"{folder} has no table (*.csv) of published curves")
    return tuple(run for table in tables for run in read_table(table))


@cache
def _full(folder: Path) -> tuple[Curve, ...]:
    found: dict[tuple, list[Run]] = {}
    for run in _published_tables(folder):
        found.setdefault(group_key(run), []).append(run)
    intervals = published_intervals(folder)
    return tuple(
        _mean_only(summarise(runs), intervals)
        if runs[0].seed == "mean"
        else summarise(runs)
        for runs in found.values()
    )


def _mean_only(
    curve: Curve, intervals: Mapping[tuple[str, str, str, str], Curve]
) -> Curve:
    unknown = replace(curve, seeds=np.zeros(len(curve.seeds), int))
    return intervals.get(published_key(curve), unknown)


def published_key(curve: Curve) -> tuple[str, str, str, str]:
    """What identifies a published curve."""
    return curve.source, curve.method, curve.benchmark, curve.task


def published_intervals(
    folder: Path, seeds: int = 5
) -> dict[tuple[str, str, str, str], Curve]:
    """Curves of which mean and interval were published, but not the seeds.

    Their intervals are Student's with the population's standard deviation, which is
    too small by √((n − 1) / n); here they are widened to the unbiased one.

    Args:
        folder: Where `aggregate_intervals.csv` is; without it there are none.
        seeds: Runs behind them.
    """
    path = folder / f"{INTERVALS}.csv"
    if not path.exists():
        return {}
    wider = np.sqrt(seeds / (seeds - 1))
    found = {}
    with reading(path) as reader:
        rows = [
            row | {"method": row["algorithm"], "metric": "return", "seeds": str(seeds)}
            for row in reader
        ]
    for curve in curves_of_rows(rows):
        half = (curve.high - curve.low) / 2 * wider
        ends = {"low": curve.mean - half, "high": curve.mean + half}
        found[published_key(curve)] = replace(curve, **ends)
    return found
