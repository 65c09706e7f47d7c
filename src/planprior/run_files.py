"""Runs from files: run folders of planprior, and tables of any program.

A table is a CSV file with one row per evaluation; run folders, `results/*.csv`, tables
of published curves and logs of other programs are read alike, by the names of columns.
"""

import contextlib
import csv
import gzip
import itertools
import json
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planprior.curves import Run, canonical_task, group_key, same_task
from planprior.tables import jsonl_parts

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

TEACHING: Mapping[str, Any] = {
    "seed_steps": None,
    "updates_per_step": 1.0,
    "buffer_size": 1_000_000,
    "precision": "float32",
    "overlap": True,
    "init_from": None,
}
"""Options of a training that decide what is learned, and what they are if not given."""

LARGEST = 1e30
"""Magnitude beyond which a number is no return; sums and axes overflow far beyond."""

_LOG = logging.getLogger(__name__)


class ResultsError(ValueError):
    """A file of results that cannot be used, in one sentence."""


SUITES = {
    *("dm_control", "gym", "humanoid_bench", "metaworld", "myosuite", "playground"),
}
"""What may stand before a task's name; before others it is a module of the user's."""


def plain_task(task: str) -> str:
    """A task's name without its suite: `dm_control:dog-run` is `dog-run`.

    `my_module:make_env` stays whole: functions of several modules have one name.
    """
    suite, colon, name = task.partition(":")
    return name if suite in SUITES and colon else task


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
    there = sorted({run.task for run in runs})
    runs = [run for run in runs if not task or same_task(run.task, plain_task(task))]
    if not runs:
        where = ", ".join(map(str, paths))
        only = " yet" if len(begun) == len(tables) else f" of {task}" * bool(task)
        others = f"; it has those of {', '.join(there)}" if there else ""
        raise ResultsError(f"{where} has no evaluations{only}{others}")
    for table in begun:
        warn(f"{table.parent} has no evaluations yet and is left out")
    # One name for a task, whatever tables call it: that of the first.
    names: dict[str, str] = {}
    for run in runs:
        names.setdefault(canonical_task(run.task), run.task)
    runs = [replace(run, task=names[canonical_task(run.task)]) for run in runs]
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
    known = _of_config(path.with_name("config.json")) if _is_own(path) else {}
    default = {"task": task, "method": method or path.name.partition(".")[0]} | known
    groups: dict[tuple, dict[str, list[float]]] = {}
    for number, row in _rows(path):
        named = default | {k: v for k, v in row.items() if k not in SERIES and v != ""}
        series = groups.setdefault(tuple(sorted(named.items())), {})
        for name in SERIES:
            if name in REQUIRED or row.get(name, "") != "":
                series.setdefault(name, []).append(_number(row, name, path, number))
    return [_run(dict(names), series, path) for names, series in groups.items()]


def _is_own(table: Path) -> bool:
    """Whether it lies in a run folder of planprior: others call tables eval.csv too."""
    return table.name == "eval.csv" and table.with_name("config.json").exists()


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table, by what columns mean, with the line each ends in."""
    with reading(path) as reader:
        columns = reader.fieldnames or ()
        names = _names(columns, path)
        swept = _swept(columns) if _is_own(path) else ()
        for row in reader:
            _require_whole(row, columns, path, reader.line_num)
            told = {name: row[column] or "" for name, column in names.items()}
            if swept:
                told["swept"] = " ".join(f"{name}={row[name]}" for name in swept)
            yield reader.line_num, told


def _require_whole(
    row: Mapping[str | None, Any], columns: Sequence[str], path: Path, line: int
) -> None:
    """Check that a row of `csv.DictReader` has as many cells as there are columns."""
    more, names = len(row.get(None, ())), set(columns)
    there = more + sum(row[name] is not None for name in names)
    if there == len(names):
        return
    why = "does a number have a comma in it" if more else "is the file cut off"
    raise ResultsError(
        f"{path}, line {line} has {there} of {len(columns)} columns; {why}?"
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[csv.DictReader]:
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
    text = row.get(name) or ""  # None where the row of a values.csv is too short
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if name == "env_steps" and value < 0:
        raise ResultsError(
            f"{path}, line {line}: {name} is {_quoted(text)}; it must be at least 0"
        )
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
    if text and weight is not None and not 0 <= weight <= 1:
        raise ResultsError(
            f"{path}: prior_weight is {_quoted(text)}; it must be in [0, 1], or left "
            "out"
        )
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
    parts = jsonl_parts(Path(run.path).with_name("train.jsonl"))
    lines = itertools.chain.from_iterable(map(_json_lines, filter(Path.exists, parts)))
    rows = [row for row in lines if _is_of(row, run)]
    names = {name for row in rows for name, x in row.items() if not isinstance(x, str)}
    return {
        name: np.array([_metric(row.get(name)) for row in rows])
        for name in sorted(names)
    }


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
    with reading(path) as reader:
        for name in names:
            _require_column(reader.fieldnames or (), (name,), path)
        rows = [
            [_number(row, name, path, line) for name in names]
            for row in reader
            if _is_member(row, run, path, line := reader.line_num)
        ]
    return dict(zip(names, np.array(rows).T, strict=True)) if rows else {}


def _is_member(row: Mapping[str, str], run: Run, path: Path, line: int) -> bool:
    if row.get("seed") != run.seed:
        return False
    for name, value in _swept_by(run).items():
        if not row.get(name) or _as_number(row[name], name, path) != value:
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
    return all(_logged(row, name) == value for name, value in _swept_by(run).items())


def _swept_by(run: Run) -> dict[str, float]:
    """What tells the run of one member from those of others, beside seed and weight."""
    pairs = (x.partition("=") for x in run.details.get("swept", "").split())
    return {name: _as_number(value, name, run.path) for name, _, value in pairs}


def _logged(row: dict[str, Any], name: str) -> Any:
    """A member's number; JSON has null for an infinite one."""
    return math.inf if name in row and row[name] is None else row.get(name)


def settings_text(train: Mapping[str, Any]) -> str:
    """What a training was given that tells it from another of its method and size.

    Of what a population sweeps every member has one value, which a column has.

    Args:
        train: The options of the training, as `config.json` has them.
    """
    options = {name: train.get(name, usual) for name, usual in TEACHING.items()}
    changed = {name: x for name, x in options.items() if x != TEACHING[name]}
    given = {
        name: value
        for name, value in train.get("settings", {}).items()
        if not isinstance(value, list)
    }
    return " ".join(f"{name}={value}" for name, value in (given | changed).items())


def _of_config(path: Path) -> dict[str, str]:
    config = read_config(path.parent)
    if not config:
        return {}
    train = config["train"]
    shown = {"task": config["spec"]["name"], "method": train["method"]}
    shown |= {"size": str(config.get("size", "")), "settings": settings_text(train)}
    shown |= {"num_envs": str(train.get("num_envs", ""))}
    return {name: text for name, text in shown.items() if text}
