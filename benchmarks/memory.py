"""Memory, threads, files and processes of a training over a long time.

    python benchmarks/memory.py --folder /tmp/memory --minutes 120

Trains a population of two tiny agents, with workers, evaluations, checkpoints every
minute and a replay whose ring is full after the first minutes, and looks at it from
outside every ten seconds. `--share 0.25` lets it run a quarter of the time only, for
machines that have something better to do. At the end it is told to stop, and must leave
no process behind. The samples are in FOLDER/samples.csv.
"""

import argparse
import contextlib
import csv
import datetime
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import steady
from planprior import runtime

SLICE = 1.0
"""Seconds in which the training runs for its share and then stands still."""


SEED_STEPS = 200
"""Environment steps of random actions, before learning begins."""


class Sample(NamedTuple):
    """What a training takes at one moment.

    Attributes:
        seconds: Since its start.
        step: Environment steps of the last line of its log.
        mib: Resident memory of the process that trains.
        workers_mib: Of its workers together.
        threads: Of the process that trains.
        files: That it has open.
        processes: With its workers.
        disk_mib: Size of the run folder.
    """

    seconds: float
    step: int
    mib: float
    workers_mib: float
    threads: int
    files: int
    processes: int
    disk_mib: float


def command(folder: Path) -> list[str]:
    """The training: without end, as far as this script is concerned."""
    options = {
        "--run-dir": str(folder),
        "--seeds": "0-1",
        "--method": "bmpc",
        "--steps": str(10**9),
        "--seed-steps": str(SEED_STEPS),
        "--num-envs": "2",
        "--workers": "2",
        "--buffer-size": "2000",
        "--eval-every": "1000",
        "--eval-episodes": "2",
        "--log-every": "100",
        "--save-minutes": "1",
    }
    flat = [x for pair in options.items() for x in pair]
    program = [sys.executable, "-m", "planprior", "train", "steady:make_env"]
    return [*program, *flat, *steady.SETTINGS]


def status(pid: int) -> dict[str, str]:
    """`/proc/PID/status` as a table; empty where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    return int(status(pid).get("VmRSS", "0 kB").split()[0]) / 1024


def family(pid: int) -> list[int]:
    """Processes of the session that `pid` leads, `pid` first."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == pid and not _is_zombie(int(path.name)):
                found.append(int(path.name))
        except OSError:
            continue  # gone meanwhile
    return sorted(found, key=lambda one: one != pid)


def _is_zombie(pid: int) -> bool:
    return status(pid).get("State", "Z").startswith("Z")


def last_step(log: Path) -> int:
    """Environment steps of the last whole line of a `train.jsonl`."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().split(b"\n")
        return int(lines[-2].split(b'"step": ')[1].split(b",")[0])
    except (OSError, IndexError, ValueError):
        return 0


def look(pid: int, folder: Path, start: float) -> Sample:
    """One sample of a training and its workers."""
    processes = family(pid)
    files = sum(path.stat().st_size for path in _files(folder))
    return Sample(
        seconds=round(time.monotonic() - start, 1),
        step=last_step(folder / "train.jsonl"),
        mib=round(resident(pid), 2),
        workers_mib=round(sum(resident(one) for one in processes if one != pid), 2),
        threads=int(status(pid).get("Threads", "0")),
        files=len(os.listdir(f"/proc/{pid}/fd")),
        processes=len(processes),
        disk_mib=round(files / 2**20, 2),
    )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def throttled(process: subprocess.Popen, share: float, seconds: float) -> None:
    """Let a training and its workers run for a share of so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        time.sleep(share * SLICE)
        if share < 1:
            os.killpg(process.pid, signal.SIGSTOP)
            time.sleep((1 - share) * SLICE)
            os.killpg(process.pid, signal.SIGCONT)


def growth(samples: Sequence[Sample], name: str) -> float:
    """Slope of a column per hour, by least squares."""
    hours = np.array([sample.seconds for sample in samples]) / 3600
    values = np.array([getattr(sample, name) for sample in samples], float)
    return float(np.polyfit(hours, values, 1)[0])


def report(samples: Sequence[Sample]) -> str:
    """What the samples say, without the first quarter, in which all is set up."""
    later = [s for s in samples if s.seconds >= samples[-1].seconds / 4]
    first, last = later[0], later[-1]
    lines = [
        f"{last.seconds / 60:.0f} minutes, {last.step:,} env steps; from minute "
        f"{first.seconds / 60:.0f} and {first.step:,} env steps on:",
        "| | lowest | highest | first | last | growth per hour |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in Sample._fields[2:]:
        values = [getattr(sample, name) for sample in later]
        cells = (min(values), max(values), values[0], values[-1], growth(later, name))
        numbers = " | ".join(f"{cell:.2f}" for cell in cells)
        lines.append(f"| {name} | {numbers} |")
    return "\n".join(lines)


def watch(options: argparse.Namespace, process: subprocess.Popen) -> list[Sample]:
    """Samples until the time is up."""
    samples, start = [], time.monotonic()
    run = options.folder / "run"
    with (options.folder / "samples.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(Sample._fields)
        while time.monotonic() - start < 60 * options.minutes:
            learns = last_step(run / "train.jsonl") > SEED_STEPS  # all is compiled
            throttled(process, options.share if learns else 1.0, options.every)
            if process.poll() is not None:
                raise SystemExit(f"the training ended with {process.returncode}")
            samples.append(look(process.pid, run, start))
            table.writerow(samples[-1])
            file.flush()
    return samples


def stop(process: subprocess.Popen) -> list[int]:
    """Tell the training to save and end; return what it leaves behind."""
    process.terminate()
    status = process.wait(300)
    if status != 128 + signal.SIGTERM:
        raise SystemExit(f"told to stop, the training ended with {status}")
    time.sleep(1.0)
    return family(process.pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds")
    parser.add_argument("--share", type=float, default=1.0, help="of one core's time")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    run = options.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    core = min(os.sched_getaffinity(0))
    here = str(Path(__file__).parent)
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    with (options.folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command(run),
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        try:
            samples = watch(options, process)
            left = stop(process)
        finally:
            # Its workers as well, which may stand still (`throttled`).
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    print(f"{datetime.date.today()}, {runtime.cpu_model()}, one core", end="")
    print(f" for {options.share:.0%} of the time; {runtime.versions()}")
    print(report(samples))
    print(f"processes left behind: {len(left)}")


if __name__ == "__main__":
    main()
