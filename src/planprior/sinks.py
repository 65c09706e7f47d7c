"""Other places for the rows of a run: TensorBoard, Weights & Biases, your own."""

import hashlib
from collections.abc import Sequence
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
        self._module: Any = _optional("tensorboardX", "TensorBoard")
        self._folder = Path(folder)
        # A run that was killed before its first checkpoint begins anew.
        self._purge_step = 0 if resumed_at is None else resumed_at + 1
        self._writers: dict[str, Any] = {}

    def write(self, kind: str, row: Row) -> None:
        """Adds the numbers of a row as scalars."""
        member = _member(row, self._members)
        if member not in self._writers:
            self._writers[member] = self._module.SummaryWriter(
                str(self._folder / member), purge_step=self._purge_step
            )
        for name, value in _numbers(row, self._members).items():
            self._writers[member].add_scalar(f"{kind}/{name}", value, step_of(row))

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
        self._run = module.init(
            project=project,
            name=folder.name,
            id=hashlib.sha256(f"{folder} {began}".encode()).hexdigest()[:16],
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
        self._run.log({"step": step_of(row), **values})

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
    return ",".join(f"{name}={plain(row[name], finite=False)}" for name in names)


def _numbers(row: Row, columns: Sequence[str]) -> dict[str, float]:
    values = plain(row, finite=False)
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and name not in ("step", *columns)
    }
