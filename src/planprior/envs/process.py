"""Environments in worker processes, each of which owns several.

Observations, rewards, flags and actions lie in memory that all processes share; a
step costs one short message to each worker and one back.
"""

import atexit
import contextlib
import itertools
import math
import mmap
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
import types
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

import numpy as np

from planprior import host
from planprior.envs import worker
from planprior.envs.base import Env, EnvError, EnvMaker, EnvState
from planprior.envs.pool import Pool
from planprior.envs.rows import (
    Rows,
    build_envs,
    close_all,
    env_seeds,
    read_states,
    reset_rows,
    row_layout,
    step_rows,
    write_states,
)
from planprior.spec import EnvSpec

_START_TIMEOUT = 300.0


class WorkerError(RuntimeError):
    """A worker process failed, died or does not answer."""


# The choice ---------------------------------------------------------------------------


def choose_workers(
    num_envs: int, workers: int | str = "auto", cores: int | None = None
) -> tuple[int, str]:
    """Choose how many worker processes step `num_envs` environments.

    Args:
        num_envs: How many environments there are.
        workers: A number, which is respected (0 is this process), or "auto".
        cores: Processor cores at hand; counted where not given.

    Returns:
        The number of workers, 0 for this process, and a sentence that says why.
    """
    if workers != "auto":
        return _given_workers(num_envs, workers)
    cores = host.cores() if cores is None else cores
    # Measured on 2 cores with dm_control: workers gain nothing, and cost the learner.
    if cores < 4:
        return 0, f"in this process: on {cores} cores workers gain nothing"
    if num_envs == 1:
        return 0, "in this process: a single environment"
    # One core is left to the learner. Then no more workers than the slowest needs: 8
    # environments on 7 cores take as long in 4 workers of 2 as in 7.
    share = math.ceil(num_envs / min(num_envs, cores - 1))
    count = math.ceil(num_envs / share)
    return count, f"in {count} workers of up to {share}: {cores} cores are available"


def _given_workers(num_envs: int, workers: int | str) -> tuple[int, str]:
    if not isinstance(workers, int) or workers < 0:
        raise ValueError(
            f"workers is {workers!r}; it must be 'auto' or a number of at least 0"
        )
    if workers == 0:
        return 0, "in this process: as asked"
    count = min(workers, num_envs)
    return count, f"in {count} workers: {workers} asked for, {num_envs} environments"


# The parent's side --------------------------------------------------------------------


class ProcessPool(Pool):
    """Environments in worker processes. Equal to a `LocalPool` of the same seed.

    Closed at exit and when it is no longer used, but better by `close` or `with`.
    """

    def __init__(
        self,
        make: EnvMaker,
        num_envs: int,
        seed: int | Sequence[int],
        workers: int,
        timeout: float = 60.0,
    ) -> None:
        """Start the workers and wait until their environments are built.

        Args:
            make: Builds an environment from its seed. It must be importable by name
                from a module other than the script that is running.
            num_envs: How many environments there are.
            seed: What their randomness follows from, as `env_seeds` says.
            workers: How many processes share the environments.
            timeout: Seconds that one step may take before the workers are given up.
        """
        self._timeout = timeout
        self._crew = _Crew(num_envs, workers)
        # The crew knows nothing of the pool, so that it can outlive it by a moment.
        self._finalizer = weakref.finalize(self, self._crew.close)
        # Left to `weakref`, it might run after `multiprocessing` has begun to wait for
        # workers that nobody has told to stop.
        self._finalizer.atexit = False
        atexit.register(self._finalizer)
        with self._closing_on_error():
            spec = self._crew.build(make, env_seeds(seed, num_envs))
        super().__init__(spec, num_envs)

    @property
    def _rows(self) -> Rows:
        return self._crew.rows

    def _reset(self, seeds: Sequence[int] | None) -> None:
        with self._closing_on_error():
            self._crew.ask("reset", seeds)
            self._crew.gather(self._timeout)

    def _send(self) -> None:
        with self._closing_on_error():
            self._crew.ask("step")

    def _recv(self) -> None:
        with self._closing_on_error():
            self._crew.gather(self._timeout)

    def _read_states(self) -> Sequence[EnvState | None]:
        with self._closing_on_error():
            self._crew.ask("state")
            parts = self._crew.gather(self._timeout)
        return list(itertools.chain.from_iterable(parts))

    def _write_states(self, states: Sequence[EnvState]) -> str:
        with self._closing_on_error():
            self._crew.ask("set_state", states)
            # Whole episodes may have to be done again, see `retraced.py`, each step of
            # which may take as long as any.
            steps = self._crew.most_environments * self.spec.episode_length
            lost = self._crew.gather(_START_TIMEOUT + steps * self._timeout)
        return next(filter(None, lost), "")

    def _close(self) -> None:
        self._finalizer()
        atexit.unregister(self._finalizer)

    @contextmanager
    def _closing_on_error(self) -> Iterator[None]:
        # Also on Ctrl-C: an answer that nobody has read would be taken for the next.
        try:
            yield
        except BaseException:
            self.close()
            raise


class _Crew:
    """The workers of a pool and the memory they share."""

    def __init__(self, num_envs: int, workers: int) -> None:
        if not 1 <= workers <= num_envs:
            raise ValueError(
                f"workers is {workers}; {num_envs} environments allow 1 to {num_envs}"
            )
        self.rows: Rows
        self._members: list[_Member] = []
        bounds = [num_envs * k // workers for k in range(workers + 1)]
        try:
            for start, stop in itertools.pairwise(bounds):
                self._members.append(_Member(start, stop))
        except BaseException:
            self.close()
            raise

    def build(self, make: EnvMaker, seeds: Sequence[int]) -> EnvSpec:
        for member in self._members:
            part = seeds[member.start : member.stop]
            member.send((make, part, member.start))
        spec, *others = self.gather(_START_TIMEOUT)
        for other in others:
            if other != spec:
                raise WorkerError(f"environments of one pool differ: {other}, {spec}")
        self._share_rows(spec, len(seeds))
        return spec

    def _share_rows(self, spec: EnvSpec, num_envs: int) -> None:
        # Memory is shared as a file that is deleted once all have mapped it: it then
        # lives as long as the mappings, and nothing can be left behind.
        with tempfile.NamedTemporaryFile(dir=_memory_folder()) as file:
            file.truncate(sum(_field_sizes(spec, num_envs)))
            self.rows = _map_rows(file.name, spec, num_envs)
            for member in self._members:
                member.task = spec.name
                member.send((file.name, num_envs, member.stop))
            self.gather(_START_TIMEOUT)

    def ask(self, command: str, values: Sequence[Any] | None = None) -> None:
        """Send a command, and to each worker its environments' part of the values."""
        for member in self._members:
            part = values[member.start : member.stop] if values else None
            member.send((command, part))

    def gather(self, timeout: float) -> list:
        patience = _Patience(timeout)
        return [member.answer(patience) for member in self._members]

    @property
    def most_environments(self) -> int:
        """How many the worker has that has most of them."""
        return max(member.stop - member.start for member in self._members)

    def close(self) -> None:
        for member in self._members:
            member.dismiss()
        deadline = time.monotonic() + 2.0
        for member in self._members:
            member.bury(deadline)
        self._members.clear()


class _Patience:
    """Seconds that may still be waited.

    Not those for which this process stood still (Ctrl-Z, a job that was suspended): its
    workers did as well, and have yet to answer when all go on.
    """

    SLICE = 1.0
    """The most seconds that count of one wait, however long the clock says it was."""

    def __init__(self, seconds: float) -> None:
        self.seconds = self._left = seconds

    def wait(self, sources: Sequence[Any]) -> bool:
        """Wait until one of the sources is ready; return whether one is."""
        while True:
            part, began = min(self.SLICE, self._left), time.monotonic()
            if wait(sources, part):
                return True
            self._left -= min(part, time.monotonic() - began)
            if self._left <= 0.0:
                return False


class _Member:
    """One worker process, seen from the parent. It owns the rows start to stop − 1."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self.task = "the pool"
        context = _context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=worker.start,
            args=(theirs, dict(os.environ)),
            name=f"environments {start} to {stop - 1}",
            daemon=True,
        )
        try:
            with _no_main_module(), _signals_blocked():
                self._process.start()
        except (ConnectionError, EOFError) as error:
            raise WorkerError(f"{self._label()} could not be started") from error
        theirs.close()

    def send(self, message: tuple) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            # A worker that failed has left its reason in the pipe before it went.
            self.answer(_Patience(1.0))
            raise self._died() from error

    def answer(self, patience: _Patience) -> object:
        if not patience.wait([self._connection, self._process.sentinel]):
            raise WorkerError(
                f"{self._label()} did not answer within {patience.seconds:g} s; it "
                "hangs or is far too slow"
            )
        try:
            # A process that has ended may have left a last message.
            if not self._connection.poll():
                raise self._died()
            failure, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if failure:
            raise self._failed(*failure)
        return answer

    def _failed(self, sentence: str, which: int | None, trace: str) -> Exception:
        """A worker's error: in one sentence where it was an environment's."""
        if not sentence:
            return WorkerError(f"{self._label()} failed:\n{trace}")
        error = EnvError(sentence, which)
        error.add_note(trace)
        return error

    def dismiss(self) -> None:
        # Closing the pipe is the message: it also ends a worker whose parent is gone.
        self._connection.close()

    def bury(self, deadline: float) -> None:
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def _label(self) -> str:
        return f"the worker of environments {self._range()} of {self.task}"

    def _range(self) -> str:
        last = self.stop - 1
        return str(last) if last == self.start else f"{self.start} to {last}"

    def _died(self) -> WorkerError:
        self._process.join(timeout=1.0)
        code = self._process.exitcode
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            hint = "; is memory short?" if code == -signal.SIGKILL else ""
            return WorkerError(f"{self._label()} {how}{hint}")
        return WorkerError(f"{self._label()} ended with exit code {code}")


def _context() -> ForkServerContext | SpawnContext:
    # Never fork: the parent runs JAX, whose threads a forked child lacks.
    if "forkserver" in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Start processes without running the caller's script in them again.

    `multiprocessing` would import it to find functions defined there. That loads JAX
    into every worker, and trains recursively where the script has no main guard.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start processes that leave `host.STOPPING` to this one, from the first moment.

    The fork server, too: clusters signal the whole group, and as it ends the system
    says of all its workers that they have ended. Both inherit what is blocked.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, host.STOPPING)
    try:
        # It ignores the first two, and unblocks them here as it starts.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, host.STOPPING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# The memory between them --------------------------------------------------------------


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _field_sizes(spec: EnvSpec, num_envs: int) -> list[int]:
    """Return the bytes of each field, filled up so that none shares a cache line."""
    return [
        -(-math.prod(shape) * np.dtype(dtype).itemsize // 64) * 64
        for shape, dtype in row_layout(spec, num_envs)
    ]


def _map_rows(path: str, spec: EnvSpec, num_envs: int) -> Rows:
    with open(path, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    offsets = itertools.accumulate(_field_sizes(spec, num_envs), initial=0)
    layout = row_layout(spec, num_envs)
    return Rows(
        *(
            np.ndarray(shape, dtype, memory, offset)
            for (shape, dtype), offset in zip(layout, offsets, strict=False)
        )
    )


# The worker's side --------------------------------------------------------------------


def serve(connection: Connection) -> None:
    """Build environments and step them until the parent closes the pipe."""
    envs = []
    with _reporting(connection):
        make, seeds, first = connection.recv()
        try:
            envs += build_envs(make, seeds)
        except (ImportError, ValueError) as error:
            # What is missing or wrong is told in a sentence by whoever noticed.
            raise EnvError(str(error)) from error
        spec = envs[0].spec
        connection.send((None, spec))
        path, num_envs, last = connection.recv()
        rows = _map_rows(path, spec, num_envs).part(first, last)
        connection.send((None, None))
        while True:
            connection.send((None, _obey(connection.recv(), envs, rows, first)))
    if envs:
        close_all(envs, envs[0].spec.name)


def _obey(order: tuple, envs: Sequence[Env], rows: Rows, first: int) -> Any:
    """Carry out a command; return the answer."""
    command, values = order
    if command == "step":
        return step_rows(envs, rows, first)
    if command == "reset":
        return reset_rows(envs, rows, values, first)
    if command == "state":
        return read_states(envs, first)
    return write_states(envs, values, first)


@contextmanager
def _reporting(connection: Connection) -> Iterator[None]:
    """End the work at the first error and tell the parent.

    The usual end is an error too: the parent has closed the pipe, and nobody is told.
    """
    try:
        yield
    except Exception as error:
        known = isinstance(error, EnvError)
        told = (str(error), error.environment) if known else ("", None)
        with contextlib.suppress(OSError):
            connection.send(((*told, traceback.format_exc()), None))
