"""Train a set of runs, one after the other; stop and go on whenever you like.

    python benchmarks/suite.py cpu                   # a night on two cores
    python benchmarks/suite.py gpu --minutes 24      # again and again, on one card

The same command goes on where it stopped: finished runs are skipped, and stopped ones
go on from their checkpoint, since `planprior train` does. When the time is up the runs
that are training are told to save and exit. Each run is `planprior train` in a process
of its own, whose output goes to `FOLDER/NAME.log`. On a CPU there are as many at a time
as cores, each held to its own. What comes after `--` is passed on.
"""

import argparse
import csv
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from planprior import host

STOPPED = tuple(128 + s for s in host.STOPPING)
"""Exit statuses of a training that was told to stop, and saved."""


class Entry(NamedTuple):
    """One call of `planprior train`.

    Attributes:
        task: Task.
        method: Method.
        seeds: One seed, or a range of them, which is trained as a population.
        size: Size of the model.
        steps: Environment steps.
    """

    task: str
    method: str
    seeds: str
    size: str
    steps: int

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return f"{self.task}-{self.method}-{self.size}-seed{self.seeds}"

    def arguments(self, folder: Path) -> list[str]:
        """What `planprior` is called with."""
        several = not self.seeds.isdecimal()
        options = {
            "--method": self.method,
            "--seeds" if several else "--seed": self.seeds,
            "--size": self.size,
            "--steps": str(self.steps),
            "--run-dir": str(folder / self.name),
        }
        return ["train", self.task, *(x for pair in options.items() for x in pair)]


class Suite(NamedTuple):
    """Runs to make: all combinations, the first task first.

    Attributes:
        tasks: Tasks.
        methods: Methods.
        seeds: Seeds; a range of them is one run.
        size: Size of the models.
        steps: Environment steps.
        per_core: Whether every core trains a run of its own at the same time.
    """

    tasks: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[str]
    size: str
    steps: int
    per_core: bool

    def entries(self) -> list[Entry]:
        """Every seed of everything before the next seed: a stop leaves whole tables."""
        return [
            Entry(task, method, seeds, self.size, self.steps)
            for seeds in self.seeds
            for task in self.tasks
            for method in self.methods
        ]


SUITES = {
    # Quick to learn, and published at 100,000 steps. These took 12 to 96 minutes of a
    # core, 26 on average (results/dmcontrol.csv): all of them 16 hours of two cores.
    "cpu": Suite(
        tasks=(
            *("cartpole-swingup", "pendulum-swingup", "reacher-easy", "cup-catch"),
            *("finger-spin", "walker-stand", "walker-walk", "cheetah-run"),
        ),
        methods=("tdmpc2", "bmpc", "pompc"),
        seeds=("0", "1", "2"),
        size="tiny",
        steps=100_000,
        per_core=True,
    ),
    "gpu": Suite(
        tasks=("dog-run", "dog-trot", "humanoid-walk", "humanoid-run", "dog-walk"),
        methods=(
            *("tdmpc2", "bmpc", "pompc", "pompc_reverse", "pompc_planner"),
            "pompc_adaptive",
        ),
        seeds=("0-2",),
        size="5",
        steps=1_000_000,
        per_core=False,
    ),
}


def steps_made(folder: Path) -> int:
    """Environment steps at the last evaluation of a run folder."""
    try:
        with (folder / "eval.csv").open(encoding="utf-8", newline="") as file:
            return max((int(row["step"]) for row in csv.DictReader(file)), default=0)
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def shares(jobs: int) -> list[set[int]]:
    """The cores of this process, dealt out to so many runs at a time.

    All have all where there is one run, or where a process cannot be held to cores.
    """
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        return jobs * [set()]
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[i::jobs] or cores) for i in range(jobs)]


class Driver:
    """Runs entries until all are done, or the time is up.

    Attributes:
        failed: Names of runs that ended with an error.
    """

    def __init__(
        self,
        folder: Path,
        *,
        deadline: float,
        jobs: int = 1,
        grace: float = 120.0,
        command: Sequence[str] = (sys.executable, "-m", "planprior"),
        more: Sequence[str] = (),
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Prepare; nothing runs before `run`.

        Args:
            folder: Where the run folders are.
            deadline: When to stop, by `time.monotonic`.
            jobs: Runs at a time.
            grace: Seconds a training has for saving; after them it is killed.
            command: The program.
            more: Options that every run gets as well.
            environ: Environment variables, where they are not set.
        """
        self.folder, self.deadline, self.grace = folder, deadline, grace
        self.command, self.more, self.jobs = list(command), list(more), jobs
        self.environ = {**environ, **os.environ}
        self.failed: list[str] = []
        self._stop = False
        self._shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
        for share in shares(jobs):
            self._shares.put(share)

    def stop(self, *_: object) -> None:
        """End after the trainings at hand have saved; may be a signal handler."""
        self._stop = True

    def run(self, entries: Sequence[Entry]) -> bool:
        """Run what is not finished.

        Returns:
            Whether all is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [
            f"[{i}/{len(entries)}] {entry.name}"
            for i, entry in enumerate(entries, start=1)
        ]
        with ThreadPoolExecutor(self.jobs) as threads:
            ended = list(threads.map(self._run, names, entries))
        return all(ended) and not self.failed

    def _run(self, say: str, entry: Entry) -> bool:
        """Run an entry unless it is finished; return whether it came to its end."""
        made = steps_made(self.folder / entry.name)
        if made >= entry.steps:
            print(f"{say}: done", flush=True)
            return True
        if self._over():
            return False
        print(f"{say}: from {made:,} of {entry.steps:,} env steps", flush=True)
        cores = self._shares.get()
        status = self._train(entry, cores)
        self._shares.put(cores)
        if status in STOPPED or self._over():
            return False
        if status:
            self.failed.append(entry.name)
            log = self.folder / f"{entry.name}.log"
            print(f"{say}: failed with status {status}; see {log}", flush=True)
        return True

    def _over(self) -> bool:
        return self._stop or time.monotonic() >= self.deadline

    def _train(self, entry: Entry, cores: set[int]) -> int:
        """Train until it ends, or the time is up; return the exit status."""
        arguments = [*self.command, *entry.arguments(self.folder), *self.more]
        with (self.folder / f"{entry.name}.log").open("a") as log:
            # A group of its own: Ctrl-C reaches this process, which passes it on once.
            process = subprocess.Popen(
                arguments, stdout=log, stderr=log, start_new_session=True,
                env=self.environ,
            )  # fmt: skip
            if cores:
                os.sched_setaffinity(process.pid, cores)
            while process.poll() is None and not self._over():
                time.sleep(0.2)
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(self.grace)
                except subprocess.TimeoutExpired:
                    process.kill()
            return process.wait()


def main() -> None:
    own, more = _split(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--seeds", nargs="+", help="such as 0 1 2, or 0-2")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--size")
    parser.add_argument("--jobs", type=int, help="runs at a time")
    parser.add_argument("--list", action="store_true", help="say what is done")
    options = parser.parse_args(own)
    names = ("tasks", "methods", "seeds", "steps", "size")
    given = {n: x for n in names if (x := getattr(options, n)) is not None}
    chosen = SUITES[options.suite]._replace(**given)
    entries = chosen.entries()
    jobs = options.jobs or (host.cores() if chosen.per_core else 1)
    if options.list:
        for entry in entries:
            made = steps_made(options.folder / entry.name)
            print(f"{entry.name}: {made:,} of {entry.steps:,} env steps")
        return
    deadline = time.monotonic() + 60 * options.minutes
    # One core each: not all of them on the one card that there may be.
    environ = {"JAX_PLATFORMS": "cpu"} if chosen.per_core else {}
    driver = Driver(
        options.folder, deadline=deadline, jobs=jobs, more=more, environ=environ
    )
    for number in host.stopping_signals():
        signal.signal(number, driver.stop)
    finished = driver.run(entries)
    print("all done" if finished else "not all done; the same command goes on")
    sys.exit(1 if driver.failed else 0)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What comes before and after `--`."""
    i = arguments.index("--") if "--" in arguments else len(arguments)
    return [*arguments[:i]], [*arguments[i + 1 :]]


if __name__ == "__main__":
    main()
