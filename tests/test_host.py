"""What control groups leave to a process, in folders as kernels show them."""

import os
from pathlib import Path

import pytest

from planprior import host
from planprior.host import Memory

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 64 GiB, 40 of them free, and 8 cores; no control groups yet."""
    meminfo = f"MemTotal: {64 * 2**20} kB\nMemAvailable: {40 * 2**20} kB\n"
    (tmp_path / "meminfo").write_text(meminfo)
    monkeypatch.setattr(host, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(host, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(host, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


def write(folder: Path, **files: str | int) -> None:
    """Write files of a control group; a dot is spelled `__`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def unified(folder: Path, limit: str | int, used: int = 0, cache: int = 0) -> None:
    stat = f"anon 5\nfile {cache + 1}\ninactive_file {cache}\nactive_file 1"
    write(folder, memory__max=limit, memory__current=used, memory__stat=stat)


def test_here() -> None:
    memory = host.memory()
    assert memory is None or 0 <= memory.free <= memory.total
    assert 1 <= host.cores() <= host.allowed_cores()


def test_without_control_groups_it_is_the_machine(system: Path) -> None:
    assert host.memory() == Memory(40 * GIB, 64 * GIB)
    assert host.core_quota() is None and host.cores() == 8
    (system / "meminfo").unlink()
    assert host.memory() is None


def test_a_container_is_its_own_root(system: Path) -> None:
    """Version 2, with a namespace: the group is called `/`, its files are at the root.

    Its cache of files counts as free, which the system gives back.
    """
    (system / "own").write_text("0::/\n")
    unified(system / "groups", 8 * GIB, used=6 * GIB, cache=3 * GIB)
    write(system / "groups", cpu__max="250000 100000")
    assert host.memory() == Memory(5 * GIB, 8 * GIB)
    assert host.core_quota() == 2 and host.cores() == 2


def test_the_tightest_group_above_counts(system: Path) -> None:
    """As a batch system nests them: job, step, task."""
    (system / "own").write_text("0::/slurm/job_7/step_0/task_0\n")
    step = system / "groups/slurm/job_7/step_0"
    unified(step / "task_0", "max", used=GIB)
    unified(step, 20 * GIB, used=2 * GIB)
    unified(step.parent, 16 * GIB, used=10 * GIB)
    write(step, cpu__max="max 100000")
    write(step.parent, cpu__max="50000 100000")
    assert host.memory() == Memory(6 * GIB, 16 * GIB)
    assert host.core_quota() == 1


@pytest.mark.parametrize("name", ["/docker/5e1f", "/"])
def test_version_1_with_a_name_from_outside(system: Path, name: str) -> None:
    own = f"4:memory:{name}\n3:cpu,cpuacct:{name}\n2:pids:{name}\n0::/\n"
    (system / "own").write_text(own)
    stat = "cache 9\ninactive_file 7\ntotal_inactive_file 0"
    write(
        system / "groups/memory", memory__limit_in_bytes=4 * GIB,
        memory__usage_in_bytes=GIB, memory__stat=stat,
    )  # fmt: skip
    quota = {"cpu__cfs_quota_us": 400_000, "cpu__cfs_period_us": 100_000}
    write(system / "groups/cpu", **quota)
    assert host.memory() == Memory(3 * GIB, 4 * GIB)
    assert host.core_quota() == 4


def test_no_limits_are_no_limits(system: Path) -> None:
    """Version 1 has a number for none that exceeds every machine, and -1."""
    (system / "own").write_text("4:memory:/\n3:cpu:/\n0::/../other\n")
    write(
        system / "groups/memory", memory__limit_in_bytes=2**63 - 4096,
        memory__usage_in_bytes=GIB, memory__stat="total_inactive_file 0",
    )  # fmt: skip
    write(system / "groups/cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)
    write(system / "groups", cpu__max="max 100000")
    assert host.memory() == Memory(40 * GIB, 64 * GIB)
    assert host.core_quota() is None


def test_a_quota_beyond_the_cores_changes_nothing(system: Path) -> None:
    (system / "own").write_text("0::/\n")
    write(system / "groups", cpu__max="1600000 100000")
    assert host.core_quota() == 16 and host.cores() == 8


def test_more_than_the_limit_may_be_in_use(system: Path) -> None:
    (system / "own").write_text("0::/\n")
    unified(system / "groups", GIB, used=2 * GIB)
    assert host.memory() == Memory(0, GIB)
