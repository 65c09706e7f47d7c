"""The machine: how JAX is set up on it, what it is, and who may use a run folder.

JAX is imported only inside functions, since `configure` has to act before JAX starts.
"""

import datetime
import hashlib
import os
import platform
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

from planprior import host
from planprior.host import Memory

try:
    import fcntl
except ImportError:  # Windows: run folders are not locked there
    fcntl = None

PRECISIONS = {
    "float32": "float32",
    "tensorfloat32": "tensorfloat32",
    "tensorfloat32_x3": "TF32_TF32_F32_X3",
    "bfloat16": "bfloat16",
}
"""Precisions of matrix products, and what JAX calls them."""

PACKAGES = (
    *("planprior", "jax", "jaxlib", "numpy", "optax", "equinox", "ml-dtypes"),
    *("dm-control", "mujoco", "gymnasium"),
)


def configure(
    *,
    precision: str = "float32",
    memory_fraction: float | None = None,
    compilation_cache: bool | str | Path = True,
) -> None:
    """Sets up JAX. Call it before anything is computed: the memory settings need it.

    What the user has set through JAX's own environment variables for memory, threads
    and the compilation cache is left as it is.

    Args:
        precision: Of matrix products of float32 arrays. `float32` is exact; the others
            allow faster, coarser ones where the device has them. JAX's own default is
            the coarsest: TF32 on NVIDIA cards, which therefore do the same for
            `tensorfloat32` and `bfloat16`. `tensorfloat32_x3` adds three products in
            TF32, as exact as float32 and, where products are large, twice as fast on an
            H100; elsewhere than on a GPU it is float32.
        memory_fraction: The most of a card that JAX may take; JAX's default is 0.75.
            Memory is taken as it is needed (`planprior/__init__.py`), so that others
            can use the rest.
        compilation_cache: Whether to keep compiled programs for the next run, or the
            folder to keep them in.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}"
        )
    if memory_fraction is not None and not 0 < memory_fraction <= 1:
        raise ValueError(f"memory_fraction is {memory_fraction}; it must be in (0, 1]")
    if (
        memory_fraction is not None
        and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ
    ):
        # JAX refuses to start where both this variable and its old name are set.
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", str(memory_fraction))
    _keep_to_quota()
    import jax

    jax.config.update("jax_default_matmul_precision", _precision(precision))
    jax.config.update("jax_enable_compilation_cache", compilation_cache is not False)
    if compilation_cache is True:
        compilation_cache = _cache_folder()
    if compilation_cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache))


def _keep_to_quota() -> None:
    # XLA starts a thread for every core that this process may run on. Where a container
    # has the time of fewer, all of them stand still for the rest of each period.
    held = host.cores() < host.allowed_cores()
    if held and not {"PJRT_NPROC", "NPROC"} & os.environ.keys():
        os.environ["PJRT_NPROC"] = str(host.cores())


def _precision(name: str) -> str:
    import jax

    # Other devices do not know that sum of products, and refuse it.
    if name == "tensorfloat32_x3" and jax.default_backend() != "gpu":
        name = "float32"
    return PRECISIONS[name]


def _cache_folder() -> Path:
    """Returns a folder of its own per kind of CPU and number of cores.

    Home folders are shared between machines, and a program that was compiled for
    another CPU may stop with an illegal instruction. One for another number of cores
    runs, but is cut into so many parts: on more cores it leaves them idle, and sums are
    rounded in another order than where it was compiled. JAX does not tell either apart.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    # By these two variables XLA can be told of another number.
    cores = [host.cores(), *map(os.environ.get, ("PJRT_NPROC", "NPROC"))]
    kind = f"{cpu_model()} {_cpu_info('flags')} {cores}"
    return cache / "planprior" / f"jax-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"


# What the machine is.


def describe() -> dict[str, Any]:
    """Returns what a result depends on beside the configuration, as JSON can hold it.

    This starts JAX's devices: `configure` comes first.
    """
    import jax

    devices = jax.devices()
    memory = {"host": host.memory(), "device": device_memory()}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), **versions()},
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cpu_cores": host.cores(),
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "device_count": len(devices),
        "memory": {k: v and v._asdict() for k, v in memory.items()},
        "matmul_precision": _matmul_precision(),
    }


def _matmul_precision() -> str | None:
    import jax

    return jax.config.jax_default_matmul_precision  # pyright: ignore


def versions() -> dict[str, str | None]:
    """Returns the versions of the packages that matter, without importing any."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit(folder: str | Path = ".") -> str | None:
    """Returns the commit of a checkout, `-dirty` if it was edited, None elsewhere."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def cpu_model() -> str:
    """Returns the name of the CPU, as far as the system tells it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((text.strip() for name, _, text in pairs if name.strip() == field), "")


def device_memory(device: Any = None) -> Memory | None:
    """Returns what JAX may take of a device (the first); None where it cannot tell.

    CPUs do not tell; their memory is `host.memory`.
    """
    import jax

    stats = (device or jax.local_devices()[0]).memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    total = int(stats["bytes_limit"])
    return Memory(total - int(stats.get("bytes_in_use", 0)), total)


def format_bytes(count: int | float) -> str:
    """Returns a size for people: `1536` is `1.5 KiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


class OutOfMemoryError(RuntimeError):
    """Host or device have too little memory; the message is a sentence."""


@contextmanager
def explaining_memory() -> Iterator[None]:
    """Turns what JAX and NumPy raise when memory is short into one sentence."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemoryError(_advice("the host", error)) from error
    except RuntimeError as error:
        # Told by its name, as JAX need not be imported for this.
        jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
        if not jax or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemoryError(_advice("the device", error)) from error


def _advice(where: str, error: Exception) -> str:
    what = str(error).strip().partition("\n")[0].removeprefix("RESOURCE_EXHAUSTED: ")
    return (
        f"{where} has too little memory ({what.rstrip('.') or 'out of memory'}); lower "
        "--buffer-size, --batch-size, --size or the number of members, or free memory "
        "that others use"
    )


# Stopping.


class GracefulStop:
    """Turns Ctrl-C, SIGTERM and hangups into a flag, for a loop that ends and saves.

    A second Ctrl-C raises `KeyboardInterrupt`, for whoever cannot wait; the first says
    so. A hangup that is ignored already, by `nohup`, stays so. Outside the main thread,
    where Python allows no signal handlers, the flag is never set.

    Example:
        with GracefulStop() as stop:
            while not stop.requested:
                ...
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._at_once = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether to stop; `signal` says what asked for it."""
        return self.signal is not None

    def __enter__(self) -> "GracefulStop":
        if threading.current_thread() is threading.main_thread():
            for number in host.stopping_signals():
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            # None stands for a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal ends what runs: it takes long, and has nothing to save.

        Raises:
            KeyboardInterrupt: At Ctrl-C.
            SystemExit: At SIGTERM; the status is 143.
        """
        self._leave_if_requested()
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False
        # Within a callback of JAX's an exception is swallowed.
        self._leave_if_requested()

    def _leave_if_requested(self) -> None:
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if self._at_once:
            self._leave_if_requested()
        if number == signal.SIGINT:
            # Not by a stream, which the handler may have interrupted amid writing.
            with suppress(OSError):
                os.write(2, b"\nstopping and saving; Ctrl-C again leaves at once\n")


# One process per run folder.


class RunFolderError(RuntimeError):
    """A run folder that cannot be used now, in one sentence."""


class RunLock:
    """Keeps a run folder to one process; the system frees it however that ends.

    The file stays: removing it would let two processes lock two files of one name.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self._descriptor: int | None = None

    def __enter__(self) -> "RunLock":
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(
                self._folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644
            )
        except OSError as error:
            raise RunFolderError(
                f"run folder {self._folder} cannot be written: {error.strerror}"
            ) from None
        self._lock(self._descriptor)
        # Who holds it is told to others; where the disk is full they do not learn it.
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            holder = f"{os.getpid()} {platform.node()}\n"
            os.pwrite(self._descriptor, holder.encode(), 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lock(self, descriptor: int) -> None:
        try:
            if fcntl:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 100, 0).decode(errors="replace").split()
            self.__exit__()
            raise RunFolderError(
                f"run folder {self._folder} is in use by process "
                f"{' on '.join(holder) or 'unknown'}; wait for it or use another folder"
            ) from None
        except OSError:
            pass  # a file system without locks: better unguarded than not at all
