"""What the terminal shows while a run grows."""

import contextlib
import errno
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple, SupportsFloat, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from planprior.tables import Row


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


class _Output:
    """Standard output, to which a terminal that has closed is a broken pipe."""

    def __init__(self) -> None:
        self._stream = sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _closed_terminals():
            return self._stream.write(text)

    def flush(self) -> None:
        with _closed_terminals():
            self._stream.flush()


@contextlib.contextmanager
def _closed_terminals() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise BrokenPipeError(errno.EPIPE, "the terminal has closed") from error


class Screen(Console):
    """Standard output, whose end (that of `| head`, say) is not that of a training."""

    def __init__(self) -> None:
        """Writes without colouring numbers."""
        super().__init__(highlight=False, file=cast("IO[str]", _Output()))

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
        learns_from: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        every: float = 10.0,
        window: float = 60.0,
    ):
        """Prepares the display; nothing is shown before the first update.

        Args:
            total: Environment steps at the end.
            start: Environment steps made before, by the run that is resumed.
            learns_from: Environment steps of random actions: so much faster than all
                that follow that they tell nothing of how long these take.
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
        self._begun, self._learns_from = False, learns_from
        self._learns = start > learns_from
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
        learns = step > self._learns_from
        if (not self._begun and step > self._past[0][1]) or learns != self._learns:
            # The first step compiles, which tells nothing of speed.
            self._begun, self._learns = True, learns
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
        if speed > 0 and self._learns:
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
