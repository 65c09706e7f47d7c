"""Tables to which rows are appended, and their dropping when a run goes on.

`train.jsonl` has one JSON object per line, `eval.csv` one row per evaluation and agent.
Both count in environment steps. Lines are only ever appended, whole; a run that resumes
first drops the lines beyond the step where it goes on, so that none is there twice.

A `train.jsonl` that has grown beyond `PART_BYTES` becomes `train.1.jsonl`, the next one
`train.2.jsonl` and so on, and begins anew. No row is ever thrown away.
"""

import contextlib
import csv
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = Mapping[str, Any]

PART_BYTES = 64 << 20
"""Size at which `train.jsonl` begins anew."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says in one sentence which file could not be written, and why."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"{path} could not be written: {why}") from error


class Kept(NamedTuple):
    """Which rows of a run that is gone on with stay.

    Attributes:
        step: Their last step.
        evaluated_at: That of evaluations.
        frozen: Why members were frozen until then. What was found at that step but
            after it was saved will be found again.
    """

    step: int
    evaluated_at: int
    frozen: Collection[str] = ()


class _Table:
    """A text file to which whole lines are appended."""

    def __init__(self, path: Path, kept: Kept | None):
        self._path = path
        with writing(path):
            if kept is None:
                self._set_aside()
            else:
                self._drop_others(kept)
            self._file = path.open("a", encoding="utf-8", newline="")

    @staticmethod
    def _stays(line: str, kept: Kept) -> bool:
        raise NotImplementedError

    def _parts(self) -> list[Path]:
        """The files of the table, in the order of their rows."""
        return [self._path]

    def _set_aside(self) -> None:
        for path in self._parts():
            if path.exists() and path.stat().st_size:
                os.replace(path, path.with_name(f"{path.name}.old"))

    def _drop_others(self, kept: Kept) -> None:
        for path in reversed(self._parts()):
            if _drop_unless(path, lambda line: self._stays(line, kept)):
                return  # rows of earlier files are of earlier steps
            if path != self._path:
                path.unlink()

    def _append(self, line: str) -> None:
        with writing(self._path):
            self._file.write(line)
            self._file.flush()

    def sync(self) -> None:
        """Waits until everything is on disk."""
        with writing(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; everything is on disk then."""
        try:
            self.sync()
        finally:
            with contextlib.suppress(OSError):
                self._file.close()


class JsonLines(_Table):
    """One JSON object per line; NaN and infinities, which JSON lacks, become null."""

    @staticmethod
    def _stays(line: str, kept: Kept) -> bool:
        row = json.loads(line)
        if row.get("event") == "frozen":
            return row["why"] in kept.frozen
        evaluation = row.get("event") == "evaluation"
        return row["step"] <= (kept.evaluated_at if evaluation else kept.step)

    def _parts(self) -> list[Path]:
        return jsonl_parts(self._path)

    def append(self, row: Row) -> None:
        """Appends a row, to a new file if this one has grown too large."""
        if self._file.tell() >= PART_BYTES:
            self._begin_anew()
        row = {"step": step_of(row), **row}
        self._append(as_json(row) + "\n")

    def _begin_anew(self) -> None:
        self.close()
        number = len(self._parts())
        with writing(self._path):
            os.replace(self._path, _part(self._path, number))
            self._file = self._path.open("a", encoding="utf-8", newline="")


def jsonl_parts(path: Path) -> list[Path]:
    """Returns the files that a growing `train.jsonl` became, oldest rows first."""
    numbers = itertools.takewhile(
        lambda number: _part(path, number).exists(), itertools.count(1)
    )
    return [*(_part(path, number) for number in numbers), path]


def _part(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")


class CsvTable(_Table):
    """Rows of fixed columns, `step` first; each is on disk when `append` returns."""

    def __init__(self, path: Path, kept: Kept | None):
        """Opens the table, and takes the columns from it if it has any."""
        super().__init__(path, kept)
        with path.open(encoding="utf-8", newline="") as file:
            self._columns = next(csv.reader(file), None)

    @staticmethod
    def _stays(line: str, kept: Kept) -> bool:
        first = line.split(",")[0].strip()
        return first == "step" or float(first) <= kept.evaluated_at

    def append(self, row: Row) -> None:
        """Appends a row; raises `ValueError` if its columns are not the table's."""
        row = plain({"step": step_of(row), **row}, finite=False)
        lines = []
        if self._columns is None:
            self._columns = list(row)
            lines.append(self._columns)
        if set(row) != set(self._columns):
            odd = ", ".join(sorted(set(row) ^ set(self._columns)))
            raise ValueError(
                f"a row of {self._file.name} has other columns ({odd}) than the table; "
                f"it must have {', '.join(self._columns)}"
            )
        lines.append([row[column] for column in self._columns])
        self._append(_csv(lines))
        self.sync()


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def step_of(row: Row) -> int:
    """Returns the environment steps of a row; `ValueError` if it has none."""
    if "step" not in row:
        raise ValueError(f"a row has no step; it has {', '.join(row) or 'no columns'}")
    return int(row["step"])


def as_json(value: Any) -> str:
    """Returns values as JSON on one line, which knows no NaN: null in its place."""
    return json.dumps(plain(value, finite=True), allow_nan=False)


def plain(value: Any, *, finite: bool) -> Any:
    """Turns numbers of NumPy and JAX into Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(item, finite=finite) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, finite=finite) for item in value]
    if finite and isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flattened(values: Row, prefix: str = "") -> dict[str, Any]:
    """Returns nested values as one row, whose names are joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _drop_unless(path: Path, stays: Callable[[str], bool]) -> bool:
    """Rewrites a table without the lines that do not stay and those that are no rows.

    Returns whether there is any other.

    A last line without its end is one that was being written: a number in it may be
    cut short and still look like one.
    """
    if not path.exists():
        return False
    temporary = path.with_name(f".{path.name}.tmp")
    with path.open("rb") as source, temporary.open("wb") as kept:
        for line in source:
            try:
                wanted = line.endswith(b"\n") and stays(line.decode())
            except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
                wanted = False
            if wanted:
                kept.write(line)
        kept.flush()
        os.fsync(kept.fileno())
        left = kept.tell() > 0
    os.replace(temporary, path)
    return left
