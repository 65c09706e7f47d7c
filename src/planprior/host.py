"""What this process may use of the machine that it runs on, and what ends it.

Containers and batch systems hold a process to less than the machine has, by control
groups (Linux, cgroups(7)), and stop it where it takes more memory. Neither affinity
nor `/proc/meminfo` shows that.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)  # Windows has no hangup
)
"""Signals that ask a process to end: of Ctrl-C, clusters, and terminals that close."""

MEMINFO = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")

# Version 2 of control groups, then version 1: limit, used, and of that the cache of
# files which the system gives back before it stops anything.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class Memory(NamedTuple):
    """Bytes of memory, of the host or of one device."""

    free: int
    total: int


def stopping_signals() -> list[signal.Signals]:
    """Those of `STOPPING` to handle: no hangup that is ignored, as under `nohup`."""
    hangup = getattr(signal, "SIGHUP", None)
    ignored = hangup is not None and signal.getsignal(hangup) == signal.SIG_IGN
    return [number for number in STOPPING if not (ignored and number == hangup)]


def memory() -> Memory | None:
    """The memory that this process may use; None where the system does not tell."""
    found = [*_machine_memory(), *_group_memory()]
    if not found:
        return None
    free, total = map(min, zip(*found, strict=True))
    return Memory(max(0, free), total)


def _machine_memory() -> Iterator[Memory]:
    try:
        lines = MEMINFO.read_text().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        yield Memory(1024 * kib["MemAvailable"], 1024 * kib["MemTotal"])
    except (OSError, IndexError, KeyError, ValueError):
        return


def _group_memory() -> Iterator[Memory]:
    for folder in _groups("memory"):
        for limit_file, used_file, cache in _MEMORY_FILES:
            try:
                limit = int((folder / limit_file).read_text())
                used = int((folder / used_file).read_text())
                stat = (folder / "memory.stat").read_text().split()
                cached = int(stat[stat.index(cache) + 1])
            except (OSError, ValueError):  # another version, or a limit of "max"
                continue
            yield Memory(limit - used + cached, limit)


def cores() -> int:
    """How many cores this process may keep busy, at least 1."""
    return min(allowed_cores(), core_quota() or allowed_cores())


def allowed_cores() -> int:
    """How many cores its threads may run on; a quota may leave it the time of fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def core_quota() -> int | None:
    """The whole cores, at least 1, of whose time it is given; None if no quota is."""
    quotas = [q for folder in _groups("cpu") if (q := _quota(folder))]
    return max(1, int(min(quotas))) if quotas else None


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            time, period = (folder / "cpu.max").read_text().split()
        else:
            time = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        # Without a quota it is "max", or -1 in version 1.
        return int(time) / int(period) if int(time) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, its own first.

    Every group above holds it too. In a container its own may have a name from
    outside: of its folders only the root exists there.
    """
    try:
        lines = OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = GROUPS / controller if controllers else GROUPS
        own = PurePosixPath(os.path.normpath(name).lstrip("/"))
        for group in (own, *own.parents):
            yield root / group
