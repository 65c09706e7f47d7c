"""The tables of a run folder, and what the terminal shows while it grows.

`train.jsonl` has one JSON object per line, `eval.csv` one row per evaluation and agent.
Both count in environment steps. Lines are only ever appended, whole; a run that resumes
first drops the lines beyond the step where it goes on, so that none is there twice.

A `train.jsonl` that has grown beyond `PART_BYTES` becomes `train.1.jsonl`, the next one
`train.2.jsonl` and so on, and begins anew. No row is ever thrown away.
"""

import contextlib
import csv
import hashlib
import io
import itertools
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, SupportsFloat, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

MEMBER_COLUMNS = ("seed", "prior_weight")
PART_BYTES = 64 << 20
"""Size at which `train.jsonl` begins anew."""

_LOG = logging.getLogger(__name__)


@runtime_checkable
class Sink(Protocol):
    """Another place that rows are shown in; nothing is ever read back from it."""

    def write(self, kind: str, row: Row) -> None:
        """Takes one row of `train` or `eval`."""
        ...

    def close(self) -> None:
        """Sends what is still held back."""
        ...


class RunFolder:
    """Writes the tables of one run, and passes each row on to the sinks.

    Every row has a `step`; all other columns are free, but `eval.csv` keeps those of
    its first row. Several agents may log at the same step: `seed` and `prior_weight`
    tell them apart.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        resumed_at: int | None = None,
        evaluated_at: int | None = None,
        sinks: Sequence[Sink] = (),
        warn: Callable[[str], object] = _LOG.warning,
    ):
        """Opens the tables for appending.

        Args:
            folder: The run folder.
            resumed_at: The step of the checkpoint that the run goes on from; rows of
                later steps are dropped. None for a new run: tables that are there
                are renamed to `*.old`.
            evaluated_at: The step of the last evaluation before that checkpoint: later
                ones are dropped, since they will be made again. None: `resumed_at`.
            sinks: Where else to send the rows. One that fails is left out from then on.
            warn: Called with one sentence when that happens.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kept = None
        if resumed_at is not None:
            last = resumed_at if evaluated_at is None else evaluated_at
            kept = Kept(resumed_at, last)
        self._train = JsonLines(folder / "train.jsonl", kept)
        self._eval = CsvTable(folder / "eval.csv", kept)
        self._sinks = list(sinks)
        self._warn = warn

    def train(self, row: Row) -> None:
        """Appends a row to `train.jsonl`; it is on disk for good after `sync`."""
        self._train.append(row)
        self._send("train", row)

    def evaluation(self, row: Row) -> None:
        """Appends a row to `eval.csv`; it is on disk when this returns."""
        self._eval.append(row)
        self._send("eval", row)

    def sync(self) -> None:
        """Makes all rows last. Call it before a checkpoint that comes after them."""
        self._train.sync()
        self._eval.sync()

    def close(self) -> None:
        """Closes the tables and the sinks."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._close_sinks)
            stack.callback(self._eval.close)
            stack.callback(self._train.close)

    def _close_sinks(self) -> None:
        for sink in list(self._sinks):
            self._guarded(sink, sink.close)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What went wrong first says more than that the tables cannot be closed either.
        with contextlib.suppress(*(() if error is None else (OSError,))):
            self.close()

    def _send(self, kind: str, row: Row) -> None:
        for sink in list(self._sinks):
            self._guarded(sink, lambda sink=sink: sink.write(kind, row))

    def _guarded(self, sink: Sink, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever it is, the run is worth more than a curve
            self._sinks.remove(sink)
            self._warn(f"{type(sink).__name__} failed and is left out: {error}")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Says in one sentence which table could not be written, and why."""
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
    """

    step: int
    evaluated_at: int


class _Table:
    """A text file to which whole lines are appended."""

    def __init__(self, path: Path, kept: Kept | None):
        self._path = path
        with _writing(path):
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
        with _writing(self._path):
            self._file.write(line)
            self._file.flush()

    def sync(self) -> None:
        """Waits until everything is on disk."""
        with _writing(self._path):
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
        evaluation = row.get("event") == "evaluation"
        return row["step"] <= (kept.evaluated_at if evaluation else kept.step)

    def _parts(self) -> list[Path]:
        return jsonl_parts(self._path)

    def append(self, row: Row) -> None:
        """Appends a row, to a new file if this one has grown too large."""
        if self._file.tell() >= PART_BYTES:
            self._begin_anew()
        row = {"step": _step_of(row), **row}
        self._append(json.dumps(_plain(row, finite=True), allow_nan=False) + "\n")

    def _begin_anew(self) -> None:
        self.close()
        number = len(self._parts())
        with _writing(self._path):
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
        row = _plain({"step": _step_of(row), **row}, finite=False)
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


def _step_of(row: Row) -> int:
    if "step" not in row:
        raise ValueError(f"a row has no step; it has {', '.join(row) or 'no columns'}")
    return int(row["step"])


def _plain(value: Any, *, finite: bool) -> Any:
    """Turns numbers of NumPy and JAX into Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(item, finite=finite) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, finite=finite) for item in value]
    if finite and isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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


# Other places for the same rows.


class TensorBoard:
    """Event files for TensorBoard; every agent of a population is a run of its own."""

    def __init__(
        self,
        folder: str | Path,
        *,
        resumed_at: int | None = None,
        members: Sequence[str] = MEMBER_COLUMNS,
    ):
        """Prepares to write under `folder`, and hides what lies after `resumed_at`.

        Args:
            folder: Where the event files go.
            resumed_at: The step that a run goes on from, if it does.
            members: Columns that tell the agents apart.
        """
        self._members = tuple(members)
        self._module: Any = _optional("tensorboardX", "TensorBoard")
        self._folder = Path(folder)
        self._purge_step = None if resumed_at is None else resumed_at + 1
        self._writers: dict[str, Any] = {}

    def write(self, kind: str, row: Row) -> None:
        """Adds the numbers of a row as scalars."""
        member = _member(row, self._members)
        if member not in self._writers:
            self._writers[member] = self._module.SummaryWriter(
                str(self._folder / member), purge_step=self._purge_step
            )
        for name, value in _numbers(row, self._members).items():
            self._writers[member].add_scalar(f"{kind}/{name}", value, _step_of(row))

    def close(self) -> None:
        """Writes what is still held back."""
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """One W&B run, the same again when a run folder is resumed."""

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str,
        config: Row,
        members: Sequence[str] = MEMBER_COLUMNS,
    ):
        """Starts or resumes the W&B run that belongs to a run folder.

        Args:
            folder: The run folder.
            project: Where W&B keeps it.
            config: What W&B shows as its configuration.
            members: Columns that tell the agents apart.
        """
        self._members = tuple(members)
        module: Any = _optional("wandb", "Weights & Biases")
        folder = Path(folder).resolve()
        self._run = module.init(
            project=project,
            name=folder.name,
            id=hashlib.sha256(str(folder).encode()).hexdigest()[:16],
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )
        # W&B drops rows whose step is behind its own counter, as ours is on resuming.
        self._run.define_metric("*", step_metric="step")

    def write(self, kind: str, row: Row) -> None:
        """Sends the numbers of a row."""
        member = _member(row, self._members)
        prefix = "/".join(part for part in (kind, member) if part)
        numbers = _numbers(row, self._members).items()
        values = {f"{prefix}/{name}": value for name, value in numbers}
        self._run.log({"step": _step_of(row), **values})

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()


def _optional(package: str, what: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise ImportError(
            f"{what} needs the package {package}, which is not installed; "
            f"pip install {package}"
        ) from None


def _member(row: Row, columns: Sequence[str]) -> str:
    names = [name for name in columns if name in row]
    return ",".join(f"{name}={_plain(row[name], finite=False)}" for name in names)


def _numbers(row: Row, columns: Sequence[str]) -> dict[str, float]:
    values = _plain(row, finite=False)
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and name not in ("step", *columns)
    }


# Where the time goes.


class Shares:
    """Adds up the wall time of named sections; nested time counts for the inner one.

    What JAX computes in the background counts where its result is waited for.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        """Starts at zero."""
        self._clock = clock
        self._names = ["other"]
        self.reset()

    def section(self, name: str) -> "_Section":
        """Returns a context manager; the time inside counts for `name`."""
        return _Section(self, name)

    def seconds(self) -> dict[str, float]:
        """Returns the time of each section since the last reset."""
        self._charge()
        return dict(self._seconds)

    def shares(self) -> dict[str, float]:
        """Returns the share of each section; with `other` they sum to one."""
        seconds = self.seconds()
        total = sum(seconds.values())
        return {name: part / total if total else 0.0 for name, part in seconds.items()}

    def reset(self) -> None:
        """Starts again at zero, also within a section."""
        self._seconds = dict.fromkeys(("other", *self._names), 0.0)
        self._since = self._clock()

    def _charge(self) -> None:
        now = self._clock()
        name = self._names[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now

    def _enter(self, name: str) -> None:
        self._charge()
        self._names.append(name)

    def _leave(self) -> None:
        self._charge()
        self._names.pop()


class _Section:
    """A plain class: `contextlib.contextmanager` costs several times as much."""

    __slots__ = ("_name", "_shares")

    def __init__(self, shares: Shares, name: str):
        self._shares = shares
        self._name = name

    def __enter__(self) -> None:
        self._shares._enter(self._name)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shares._leave()


# The terminal.


class Spread(NamedTuple):
    """A number of each agent of a population: shown as mean and range."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[SupportsFloat]) -> "Spread":
        """Sums up values; NaN where there are none."""
        numbers = [float(x) for x in values] or [math.nan]
        return cls(sum(numbers) / len(numbers), min(numbers), max(numbers))

    def __format__(self, form: str) -> str:
        mean, low, high = (format(x, form) for x in self)
        return mean if low == high else f"{mean} ({low} to {high})"


class Screen(Console):
    """Standard output, whose end (that of `| head`, say) is not that of a training."""

    def __init__(self) -> None:
        """Writes without colouring numbers."""
        super().__init__(highlight=False)

    def on_broken_pipe(self) -> None:
        """Writes nothing from now on; files are written all the same."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()


class Progress:
    """Shows how far a run is: a live display on a terminal, plain lines elsewhere."""

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        every: float = 10.0,
        window: float = 60.0,
    ):
        """Prepares the display; nothing is shown before the first update.

        Args:
            total: Environment steps at the end.
            start: Environment steps made before, by the run that is resumed.
            console: Where to write; standard output if None.
            clock: Seconds from any start.
            every: Seconds between plain lines.
            window: Seconds over which the speed is measured.
        """
        self._console = console or Screen()
        alive = self._console.is_terminal and not self._console.is_dumb_terminal
        self._live = Live(console=self._console, auto_refresh=False) if alive else None
        self._clock = clock
        self._every = 0.25 if alive else every
        self._window = window
        self._total = total
        self._step = start
        self._past = deque([(clock(), start)])
        self._begun = False
        self._drawn = (clock(), start)
        self._facts: dict[str, str] = {}
        self._pretrained: tuple[float, int] | None = None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn[1] != self._step:
            self._draw()
        if self._live:
            self._live.stop()

    def update(
        self,
        step: int,
        *,
        returns: Row | None = None,
        losses: Row | None = None,
        shares: Row | None = None,
    ) -> None:
        """Takes what is new; call it as often as you like.

        Args:
            step: Environment steps made so far.
            returns: The last evaluation, e.g. of `planner` and of `policy`.
            losses: Any numbers of the last updates.
            shares: The share of time of each part, from `Shares`.
        """
        self._step = step
        now = self._clock()
        if not self._begun and step > self._past[0][1]:
            self._begun = True  # the first step compiles, which tells nothing of speed
            self._past = deque([(now, step)])
        if now - self._past[-1][0] >= 1.0:
            self._past.append((now, step))
        while len(self._past) > 2 and now - self._past[1][0] >= self._window:
            self._past.popleft()
        for title, values, form in (
            ("return", returns, "{:.1f}"),
            ("loss", losses, "{:.3g}"),
            ("time", shares, "{:.0%}"),
        ):
            if values:
                items = (f"{name} {form.format(x)}" for name, x in values.items())
                self._facts[title] = ", ".join(items)
        if returns or now - self._drawn[0] >= self._every:
            self._draw()

    def pretraining(self, done: int, due: int) -> None:
        """Takes how far a training is whose steps stand still meanwhile.

        Args:
            done: Updates made so far.
            due: How many are made before the next step.
        """
        now = self._clock()
        self._past, self._begun = deque([(now, self._step)]), False
        if done >= due:
            self._facts.pop("pretraining", None)
            self._pretrained = None
            return
        begun, first = self._pretrained = self._pretrained or (now, done)
        text = f"{done} of {due} updates ({done / due:.0%})"
        if done > first:
            left = (due - done) / (done - first) * (now - begun)
            text += f", left {_duration(left)}"
        self._facts["pretraining"] = text
        if now - self._drawn[0] >= self._every:
            self._draw()

    def say(self, text: str) -> None:
        """Prints a line of its own, above the live display."""
        self._console.print(Text(text), soft_wrap=True)

    def _draw(self) -> None:
        self._drawn = (self._clock(), self._step)
        facts = {**self._pace(), **self._facts}
        if self._live:
            self._live.update(self._display(facts), refresh=True)
        else:
            texts = (f"{title} {text}" for title, text in facts.items())
            self.say(" | ".join(texts))
            self._console.file.flush()

    def _pace(self) -> dict[str, str]:
        begin, first = self._past[0]
        elapsed = self._clock() - begin
        speed = (self._step - first) / elapsed if elapsed > 0 else 0.0
        share = self._step / self._total if self._total else 1.0
        facts = {"step": f"{self._step} of {self._total} ({share:.0%})"}
        if speed > 0:
            facts["speed"] = f"{speed:.1f} env steps/s"
            facts["left"] = _duration(max(self._total - self._step, 0) / speed)
        return facts

    def _display(self, facts: Mapping[str, str]) -> Group:
        table = Table.grid(padding=(0, 2))
        for title, text in facts.items():
            table.add_row(Text(title, style="bold"), Text(text))
        return Group(
            ProgressBar(total=max(self._total, 1), completed=self._step, width=60),
            table,
        )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
