"""Where the time of a run goes."""

import time
from collections.abc import Callable


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

    def __exit__(self, *_: object) -> None:
        self._shares._leave()
