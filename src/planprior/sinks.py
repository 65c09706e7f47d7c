"""Other places for the rows of a run: TensorBoard, Weights & Biases, your own."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from planprior.tables import Row, plain, step_of

MEMBER_COLUMNS = ("seed", "prior_weight")


@runtime_checkable
class Sink(Protocol):
    """Another place that rows are shown in; nothing is ever read back from it."""

    def write(self, kind: str, row: Row) -> None:
        """Takes one row of `train` or `eval`."""
        ...

    def close(self) -> None:
        """Sends what is still held back."""
        ...


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
        _optional("tensorboardX", "TensorBoard")
        self._folder = Path(folder)
        # A run that was killed before its first checkpoint begins anew.
        self._purge_step = 0 if resumed_at is None else resumed_at + 1
        self._files: dict[str, _EventFile] = {}

    def write(self, kind: str, row: Row) -> None:
        """Adds the numbers of a row as scalars."""
        member = _member(row, self._members)
        if member not in self._files:
            folder = self._folder / member
            self._files[member] = _EventFile(folder, self._purge_step)
        numbers = _numbers(row, self._members).items()
        tagged = {f"{kind}/{name}": value for name, value in numbers}
        self._files[member].write(step_of(row), tagged)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()


class _EventFile:
    """Scalars in TensorBoard's format, written at once.

    `SummaryWriter` leaves that to a thread. After an error there, of a full disk for
    instance, nobody empties its queue, and whoever adds to it waits for ever.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        events = import_module("tensorboardX.event_file_writer")
        self._event = import_module("tensorboardX.proto.event_pb2")
        self._summary = import_module("tensorboardX.proto.summary_pb2").Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = events.EventsWriter(str(folder / "events"))
        # Hides what is there of this step or a later one.
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._append(purge_step, session_log=start)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        value = self._summary.Value
        values = [value(tag=tag, simple_value=x) for tag, x in scalars.items()]
        self._append(step, summary=self._summary(value=values))

    def _append(self, step: int, **what: Any) -> None:
        event = self._event.Event(wall_time=time.time(), step=step, **what)
        self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One W&B run, the same again when a run folder is resumed."""

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str,
        config: Row,
        began: str = "",
        members: Sequence[str] = MEMBER_COLUMNS,
    ):
        """Starts or resumes the W&B run that belongs to a run folder.

        Args:
            folder: The run folder.
            project: Where W&B keeps it.
            config: What W&B shows as its configuration.
            began: When the training did, which tells it from others in folders of the
                same name, on another machine or deleted.
            members: Columns that tell the agents apart.
        """
        self._members = tuple(members)
        module: Any = _optional("wandb", "Weights & Biases")
        folder = Path(folder).resolve()
        try:
            self._run = module.init(
                project=project,
                name=folder.name,
                id=hashlib.sha256(f"{folder} {began}".encode()).hexdigest()[:16],
                dir=str(folder),
                config=dict(config),
                resume="allow",
            )
            # W&B drops rows whose step is behind its own counter, as on resuming.
            self._run.define_metric("*", step_metric="step")
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"wandb is {project!r}, but Weights & Biases does not start: {reason}; "
                "mend it, set WANDB_MODE=offline, or leave --wandb out"
            ) from error

    def write(self, kind: str, row: Row) -> None:
        """Sends the numbers of a row."""
        member = _member(row, self._members)
        prefix = "/".join(part for part in (kind, member) if part)
        numbers = _numbers(row, self._members).items()
        values = {f"{prefix}/{name}": value for name, value in numbers}
        self._run.log({"step": step_of(row), **values})

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()


def _optional(package: str, what: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        missing = "is not installed" if error.name == package else f"fails: {error}"
        raise ImportError(
            f"{what} needs the package {package}, which {missing}; "
            f"pip install {package}"
        ) from None


def _member(row: Row, columns: Sequence[str]) -> str:
    names = [name for name in columns if name in row]
    return ",".join(f"{name}={plain(row[name], finite=False)}" for name in names)


def _numbers(row: Row, columns: Sequence[str]) -> dict[str, float]:
    values = plain(row, finite=False)
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and name not in ("step", *columns)
    }
