"""Learning curves from files: runs of planprior, tables of others, published curves.

Everything here counts environment steps. A table is a CSV file with one row per
evaluation; run folders, `results/*.csv`, published data and logs of other programs are
read alike, by the names that their columns have.
"""

import contextlib
import csv
import gzip
import itertools
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from planprior.intervals import Estimate, bootstrap_intervals, mean_intervals

COLUMNS = {
    "env_steps": ("env_steps", "step", "steps"),
    "returns": ("episode_reward", "plan_return", "return", "reward"),
    "policy_returns": ("policy_reward", "policy_return"),
    "seconds": ("seconds", "wall_seconds"),
    "successes": ("success",),
    "seed": ("seed",),
    "task": ("task",),
    "method": ("method", "algorithm"),
    "prior_weight": ("prior_weight",),
    "size": ("size",),
    "settings": ("settings",),
    "swept": ("swept",),
    "num_envs": ("num_envs",),
    "source": ("source",),
    "benchmark": ("benchmark",),
    "metric": ("metric",),
}
"""What a column may be called."""

TOLD = (
    *("episode_reward_std", "policy_reward_std", "episode_length", "episodes"),
    *("updates",),
)
"""Further columns of a run folder's `eval.csv`; any others tell its members apart."""

SERIES = ("env_steps", "returns", "policy_returns", "seconds", "successes")
REQUIRED = ("env_steps", "returns")
PIXELS = "dmcontrol_pixels"

LARGEST = 1e30
"""Magnitude beyond which a number is no return; sums and axes overflow far beyond."""

_LOG = logging.getLogger(__name__)


class ResultsError(ValueError):
    """A file of results that cannot be used, in one sentence."""


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
        return f"{self.method} [{self.source}]" if self.source else self.method

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


def covers(
    env_steps: Float[np.ndarray, "points"], grid: Float[np.ndarray, "grid"]
) -> Bool[np.ndarray, "grid"]:
    """Whether a curve tells its value at steps: there, or by near neighbours.

    Between two evaluations the value is interpolated, but only where they are no
    further apart than half of the step: nothing is made up early in training, where
    curves are steep.
    """
    if not len(env_steps):
        return np.zeros(len(grid), bool)
    after = np.searchsorted(env_steps, grid)
    inside = after < len(env_steps)
    after = np.where(inside, after, 0)
    right, left = env_steps[after], env_steps[np.maximum(after - 1, 0)]
    near = (after > 0) & (right - left <= grid / 2)
    return inside & ((right == grid) | near)


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


def union_grid(runs: Sequence[Run]) -> Float[np.ndarray, "points"]:
    """All steps at which any of the runs was evaluated, up to where the first ends."""
    steps = np.unique(np.concatenate([run.env_steps for run in runs]))
    return steps[steps <= min(run.env_steps[-1] for run in runs)]


def summarise(
    runs: Sequence[Run],
    grid: Float[np.ndarray, "points"] | None = None,
    *,
    method: str = "",
) -> Curve:
    """The curve of several seeds of one method on one task.

    Args:
        runs: Its runs.
        grid: Environment steps; all at which a run was evaluated if None. Steps at
            which no run has a value are left out.
        method: Label; the method's name if empty.
    """
    grid = union_grid(runs) if grid is None else grid
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


# --- Reading --------------------------------------------------------------------------


def plain_task(task: str) -> str:
    """A task's name without its suite: `dm_control:dog-run` is `dog-run`."""
    return task.rpartition(":")[2]


def read(
    paths: Iterable[str | Path],
    *,
    task: str = "",
    method: str = "",
    warn: Callable[[str], object] = _LOG.warning,
) -> list[Run]:
    """Read runs from run folders, folders of run folders, and CSV tables.

    Args:
        paths: Where.
        task: Task of the tables that do not say; of others only these runs are kept.
        method: Name of the method of tables that do not say; their file name if empty.
        warn: Called with one sentence per run that is left out: it has only begun.

    Raises:
        ResultsError: A path holds no results, or the same seed is there twice.
    """
    paths = list(paths)
    tables = _all_tables(paths)
    begun = [table for table in tables if _has_only_begun(table)]
    runs = [
        run
        for table in tables
        if table not in begun
        for run in read_table(table, task=task, method=method)
    ]
    runs = [r for r in runs if not task or plain_task(r.task) == plain_task(task)]
    if not runs:
        where = ", ".join(map(str, paths))
        only = " yet" if len(begun) == len(tables) else f" of {task}" * bool(task)
        raise ResultsError(f"{where} has no evaluations{only}")
    for table in begun:
        warn(f"{table.parent} has no evaluations yet and is left out")
    _refuse_twins(runs)
    return runs


def _refuse_twins(runs: Sequence[Run]) -> None:
    seen: dict[tuple, Run] = {}
    for run in runs:
        key = (group_key(run), run.seed)
        if key in seen:
            raise ResultsError(
                f"seed {_shown(run.seed)} of {_shown(run.method)} on "
                f"{_shown(run.task)} is there twice, in "
                f"{seen[key].path} and {run.path}; leave one out"
            )
        seen[key] = run


def group_key(run: Run) -> tuple:
    """What the seeds of one curve have in common."""
    weight = None if run.prior_weight is None else round(run.prior_weight, 6)
    return (run.task, run.method, weight, tuple(sorted(run.details.items())))


def _all_tables(paths: Sequence[str | Path]) -> list[Path]:
    if not paths:
        raise ResultsError(
            "runs is empty; it must be run folders, folders of them, or CSV tables"
        )
    if "" in paths:
        # As a path it would be the current folder, which an unset variable never means.
        raise ResultsError(
            "runs has ''; each must be a run folder, a folder of them, or a CSV table"
        )
    return [table for path in paths for table in _tables(Path(path))]


def _has_only_begun(table: Path) -> bool:
    """Whether it is of a run before its first evaluation, which writes the columns."""
    return table.name == "eval.csv" and table.stat().st_size == 0


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        raise ResultsError(f"{path} does not exist; it must be a run folder or a table")
    found = sorted(path.rglob("eval.csv"))
    if not found:
        raise ResultsError(
            f"{path} is no run folder, and holds none: no eval.csv in it"
        )
    return found


def read_table(path: str | Path, *, task: str = "", method: str = "") -> list[Run]:
    """Read the runs of one table; that of a run folder has a `config.json` beside it.

    Args:
        path: CSV file, or one compressed by gzip.
        task: Task, where neither table nor `config.json` says.
        method: Method, in the same case.

    Raises:
        ResultsError: A column is missing, or a number is none.
    """
    path = Path(path)
    known = _of_config(path.with_name("config.json")) if path.name == "eval.csv" else {}
    default = {"task": task, "method": method or path.name.partition(".")[0]} | known
    groups: dict[tuple, dict[str, list[float]]] = {}
    for number, row in enumerate(_rows(path), start=2):
        named = default | {k: v for k, v in row.items() if k not in SERIES and v != ""}
        series = groups.setdefault(tuple(sorted(named.items())), {})
        for name in SERIES:
            if name in REQUIRED or row.get(name, "") != "":
                series.setdefault(name, []).append(_number(row, name, path, number))
    return [_run(dict(names), series, path) for names, series in groups.items()]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with _reading(path) as reader:
        columns = reader.fieldnames or ()
        names = _names(columns, path)
        swept = _swept(columns) if path.name == "eval.csv" else ()
        for row in reader:
            told = {name: row[column] or "" for name, column in names.items()}
            if swept:
                told["swept"] = " ".join(f"{name}={row[name]}" for name in swept)
            yield told


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[csv.DictReader]:
    """The rows of a table; what is wrong with its file becomes one sentence."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        # Excel begins its "CSV UTF-8" with a byte-order mark.
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield csv.DictReader(file)
    except (EOFError, OSError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from None


def _names(columns: Sequence[str], path: Path) -> dict[str, str]:
    found = {
        name: next(alias for alias in aliases if alias in columns)
        for name, aliases in COLUMNS.items()
        if any(alias in columns for alias in aliases)
    }
    for name in REQUIRED:
        _require_column(columns, COLUMNS[name], path)
    return found


def _require_column(columns: Sequence[str], aliases: Sequence[str], path: Path) -> None:
    if not any(alias in columns for alias in aliases):
        raise ResultsError(
            f"{path} has the columns {_shown(', '.join(columns))}; one must be "
            f"called {' or '.join(aliases)}"
        )


def _shown(text: str) -> str:
    """A text of a file within a sentence."""
    return (text if text.isprintable() else ascii(text))[:200] or "none"


def _swept(columns: Sequence[str]) -> list[str]:
    known = {alias for aliases in COLUMNS.values() for alias in aliases}
    return [name for name in columns if name not in known.union(TOLD)]


def _number(row: Mapping[str, str | None], name: str, path: Path, line: int) -> float:
    text = row.get(name) or ""  # None where the row is too short
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not abs(value) <= LARGEST:
        allowed = "a finite number" if not np.isfinite(value) else "in [-1e30, 1e30]"
        raise ResultsError(
            f"{path}, line {line}: {name} is {_quoted(text)}; it must be {allowed}"
        )
    return value


def _quoted(text: str) -> str:
    return ascii(text[:100])


def _run(names: dict[str, str], series: Mapping[str, list[float]], path: Path) -> Run:
    task, method = names.pop("task"), names.pop("method")
    if not task:
        raise ResultsError(f"{path} does not say of which task it is; give --task")
    text = names.pop("prior_weight", None)
    weight = None if text is None else _as_number(text, "prior_weight", path)
    seed = names.pop("seed", "0")
    steps = np.asarray(series["env_steps"])
    order = np.argsort(steps, kind="stable")
    if len(np.unique(steps)) != len(steps):
        raise ResultsError(
            f"{path} has several rows of seed {_shown(seed)} of {_shown(method)} on "
            f"{_shown(task)} for the same step; each seed needs a number of its own in "
            "the column seed"
        )
    optional = (_aligned(series.get(x), order) for x in SERIES[2:])
    return Run(
        plain_task(task), method, seed, steps[order],
        np.asarray(series["returns"])[order], *optional,
        prior_weight=weight,
        details=names, path=str(path),
    )  # fmt: skip


def _as_number(text: str, name: str, path: str | Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise ResultsError(
            f"{path}: {_shown(name)} is {_quoted(text)}; it must be a number"
        ) from None


def _aligned(values: list[float] | None, order: np.ndarray) -> np.ndarray | None:
    return np.asarray(values)[order] if values and len(values) == len(order) else None


def read_config(folder: str | Path) -> dict[str, Any]:
    """The `config.json` of a run folder; empty if it has none.

    Raises:
        ResultsError: It is damaged.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        texts = stored["spec"]["name"], stored["train"]["method"]
        named = all(isinstance(text, str) for text in texts)
        named &= isinstance(stored["train"].get("settings", {}), dict)
    except (OSError, RecursionError, ValueError) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from None
    except (AttributeError, KeyError, TypeError):
        named, stored = False, {}
    if not named:
        raise ResultsError(
            f"{path} cannot be used: it does not say of which task and method it is"
        )
    resumed = stored.get("resumed", [])
    if not (isinstance(resumed, list) and all(map(_is_resumption, resumed))):
        raise ResultsError(
            f"resumed in {path} is {resumed!r}; it must be a list of objects that have "
            "a number as their step"
        )
    return stored


def _is_resumption(start: Any) -> bool:
    return isinstance(start, dict) and isinstance(start.get("step"), int)


def read_log(run: Run) -> dict[str, Any]:
    """Metrics of the updates behind a run, from the `train.jsonl` of its folder.

    Rows that made way for later ones, into `train.1.jsonl` and so on, come first.

    Returns:
        `step` and every metric, [lines] each; NaN where a line lacks it or says null.
        Empty if there is no log. A last line that is being written is left out.
    """
    parts = _log_parts(Path(run.path).with_name("train.jsonl"))
    rows = [row for part in parts for row in _json_lines(part) if _is_of(row, run)]
    names = {name for row in rows for name, x in row.items() if not isinstance(x, str)}
    return {
        name: np.array([_metric(row.get(name)) for row in rows])
        for name in sorted(names)
    }


def _log_parts(path: Path) -> list[Path]:
    """The files of a log, oldest rows first, as `log.jsonl_parts` says too."""
    numbered = (path.with_suffix(f".{i}{path.suffix}") for i in itertools.count(1))
    older = itertools.takewhile(Path.exists, numbered)
    return [part for part in (*older, path) if part.exists()]


def _metric(value: Any) -> float:
    """A number of a log; NaN for what is none."""
    try:
        return float(value) if isinstance(value, int | float) else np.nan
    except OverflowError:  # a whole number of hundreds of digits
        return np.nan


def read_values(run: Run) -> dict[str, np.ndarray]:
    """What the planner predicted and what came, from a `values.csv` beside a run.

    Returns:
        `predicted` and `achieved`, one per state; empty if there is no such file, or it
        is of another member.

    Raises:
        ResultsError: It is damaged.
    """
    path = Path(run.path).with_name("values.csv")
    if not path.exists():
        return {}
    names = ("predicted", "achieved")
    with _reading(path) as reader:
        for name in names:
            _require_column(reader.fieldnames or (), (name,), path)
        rows = [
            [_number(row, name, path, line) for name in names]
            for line, row in enumerate(reader, start=2)
            if _is_member(row, run, path, line)
        ]
    return dict(zip(names, np.array(rows).T, strict=True)) if rows else {}


def _is_member(row: Mapping[str, str], run: Run, path: Path, line: int) -> bool:
    if row.get("seed") != run.seed:
        return False
    if run.prior_weight is None:
        return True
    known = bool(row.get("prior_weight"))
    weight = _number(row, "prior_weight", path, line) if known else np.nan
    return bool(np.isclose(weight, run.prior_weight))


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(RecursionError, ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


def _is_of(row: dict[str, Any], run: Run) -> bool:
    """Whether a row is of an update of this run; its weight becomes that of now."""
    if row.get("event") != "update" or str(row.get("seed", run.seed)) != run.seed:
        return False
    if "prior_weight_now" in row:
        weight = _metric(row.get("prior_weight"))
        row["prior_weight"] = row.pop("prior_weight_now")
        if run.prior_weight is not None and not np.isclose(weight, run.prior_weight):
            return False
    swept = run.details.get("swept", "").split()
    return all(
        _as_number(value, name, run.path) == row.get(name)
        for name, _, value in (x.partition("=") for x in swept)
    )


def _of_config(path: Path) -> dict[str, str]:
    config = read_config(path.parent)
    if not config:
        return {}
    train = config["train"]
    shown = {"task": config["spec"]["name"], "method": train["method"]}
    # Of what a population sweeps, every member has one value: a column has it.
    settings = " ".join(
        f"{name}={value}"
        for name, value in train.get("settings", {}).items()
        if not isinstance(value, list)
    )
    shown |= {"size": str(config.get("size", "")), "settings": settings}
    shown |= {"num_envs": str(train.get("num_envs", ""))}
    return {name: text for name, text in shown.items() if text}


def labels(runs: Sequence[Run]) -> dict[tuple, str]:
    """A name for every group of runs: the method, and what tells it from the others.

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


SHOWN_AS = {"size": "size {}", "num_envs": "{} envs", "source": "[{}]"}
"""How a label says what tells its runs from others."""


def _telling(run: Run, same: Sequence[Run]) -> list[str]:
    parts = []
    weights = {r.prior_weight for r in same}
    if run.prior_weight is not None and len(weights) > 1:
        parts.append(f"w={run.prior_weight:g}")
    for name in ("swept", "size", "num_envs", "settings", "source"):
        values = {r.details.get(name, "") for r in same}
        own = run.details.get(name, "")
        if len(values) > 1 and own:
            parts.append(SHOWN_AS.get(name, "{}").format(own))
    return parts


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


# --- What was published ---------------------------------------------------------------


def _same(a: str, b: str) -> bool:
    """Whether two names are of one task: `ball_in_cup-catch` is `cup-catch`."""
    return _canonical(a) == _canonical(b)


@cache
def _canonical(task: str) -> str:
    short = task.replace("ball_in_cup", "cup").replace("point_mass", "pointmass")
    return short.replace("_", "-")


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
    suite, _, name = task.rpartition(":")
    curves = _packaged() if folder is None else _full(Path(folder))
    pixels = suite == PIXELS
    return [
        curve
        for curve in curves
        if _same(curve.task, name) and (curve.benchmark == PIXELS) == pixels
    ]


def published_runs(folder: str | Path, task: str) -> list[Run]:
    """Published curves of every seed of a task, from a folder of tables.

    Curves of which only the mean was published are left out.

    Raises:
        ResultsError: The folder has no table.
    """
    suite, _, name = task.rpartition(":")
    pixels = suite == PIXELS
    return [
        run
        for run in _published_tables(Path(folder))
        if _same(run.task, name)
        and run.seed != "mean"
        and (run.details.get("benchmark") == PIXELS) == pixels
    ]


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
def _packaged() -> tuple[Curve, ...]:
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


INTERVALS = "aggregate_intervals"
"""Name of the table with intervals of curves of which only the mean was published."""


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
    with _reading(path) as reader:
        rows = [
            row | {"method": row["algorithm"], "metric": "return", "seeds": str(seeds)}
            for row in reader
        ]
    for curve in curves_of_rows(rows):
        half = (curve.high - curve.low) / 2 * wider
        ends = {"low": curve.mean - half, "high": curve.mean + half}
        found[published_key(curve)] = replace(curve, **ends)
    return found
