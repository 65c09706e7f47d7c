"""The tables of a run folder, whose rows other places may get too."""

import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType

from planprior.sinks import Sink
from planprior.tables import CsvTable, JsonLines, Kept, Row

_LOG = logging.getLogger(__name__)


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
        frozen: Collection[str] = (),
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
            frozen: Why members are frozen according to that checkpoint: other rows that
                say so are dropped.
            sinks: Where else to send the rows. One that fails is left out from then on.
            warn: Called with one sentence when that happens.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kept = None
        if resumed_at is not None:
            last = resumed_at if evaluated_at is None else evaluated_at
            kept = Kept(resumed_at, last, tuple(frozen))
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
