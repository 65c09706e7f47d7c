"""Kill a training with SIGKILL again and again; in the end nothing must be missing.

    python benchmarks/kill.py --folder /tmp/kill --kills 50

A round trains a tiny agent once undisturbed. Then it makes the same training again, in
another folder, by one command that is killed and repeated until it finishes. The kills
come in turn at any moment, start and end of the process included; when a file is seen
that is not in its place yet; when that is a checkpoint; and while it learns. `check`
follows each of them, and `compare` the last: every array, every row of the replay and
every line of the tables must be those of the undisturbed training. Rounds follow until
there were enough kills. The first difference ends the script with status 1. It may be
stopped itself: the same command goes on, and counts what `FOLDER/kills.csv` lists.
"""

import argparse
import collections
import csv
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

import steady
from planprior import replay, runtime
from planprior.checkpoint import Checkpoints, read_meta
from planprior.replay_store import ReplayStore

STEPS, EVERY, ENVS, ROWS = 3000, 200, 2, 600
"""Env steps, those between evaluations, environments, and rows of the replay."""

FINISHED = "finished"

PATIENCE = 1800.0
"""Seconds without an end after which a training counts as hanging."""


class LostError(Exception):
    """Something is not as it was, in one sentence."""


# --- The training ---------------------------------------------------------------------


def command(folder: Path, seed: int) -> list[str]:
    """What is repeated until it finishes."""
    options = {
        "--run-dir": folder,
        "--method": "bmpc",
        "--seed": seed,
        "--steps": STEPS,
        "--seed-steps": 100,
        "--num-envs": ENVS,
        "--buffer-size": ROWS,
        "--eval-every": EVERY,
        "--eval-episodes": 1,
        "--log-every": 100,
        "--save-minutes": 0.01,
    }
    program = [sys.executable, "-m", "planprior", "train", "steady:make_env"]
    flat = [str(x) for pair in options.items() for x in pair]
    return [*program, *flat, *steady.SETTINGS, "reanalysis.interval=3"]


def start(folder: Path, seed: int) -> subprocess.Popen:
    """Start the training; what it says is added to `FOLDER.log`."""
    here = str(Path(__file__).parent)
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "JAX_PLATFORMS": "cpu",
        # All programs are kept, and compiled quickly: a start takes seconds.
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    with folder.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            command(folder, seed), stdout=log, stderr=log, env=environment
        )


# --- When to kill ---------------------------------------------------------------------

Moment = Callable[[int], bool]
"""Whether it has come for a process. Time is the process's own, which does not pass
while others have the machine."""


def passes(seconds: float) -> Moment:
    """The process has worked for so many seconds."""
    return lambda pid: worked(pid) >= seconds


def learns_for(folder: Path, seconds: float) -> Moment:
    """So many seconds of work after it first wrote to its table of losses."""
    table, since = folder / "train.jsonl", [0.0]
    before = _size(table)

    def asked(pid: int) -> bool:
        if not since[0] and _size(table) != before:
            since[0] = worked(pid)
        return since[0] > 0 and worked(pid) >= since[0] + seconds

    return asked


def writes(folder: Path, number: int, prefix: str = "") -> Moment:
    """Files that are not in their place yet are seen for the `number`-th time.

    Args:
        folder: The run folder.
        number: How often.
        prefix: How their names begin.
    """
    seen, last = 0, ([0], False)

    def asked(pid: int) -> bool:
        nonlocal seen, last
        # Asked hundreds of times a second: to look at the folders' times costs little.
        times = [_changed(folder / part) for part in (".", "checkpoints", "replay")]
        if times != last[0]:
            now = any(name.startswith(prefix) for name in unfinished(folder))
            seen += now and not last[1]
            last = times, now
        return last[1] and seen >= number

    return asked


def worked(pid: int) -> float:
    """Seconds of processor time that a process has had, 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def unfinished(folder: Path) -> list[str]:
    """Names of what is being written: set aside, or not published yet."""
    hidden = [path.name for path in folder.glob(".*.tmp")]
    for part in ("checkpoints", "replay"):
        hidden += [path.name for path in (folder / part).glob(".*")]
    segments = sorted(path.name for path in (folder / "replay").glob("segment_*"))
    if segments and segments[-1] not in _published(folder):
        hidden.append(segments[-1])
    return hidden


_KNOWN: dict[tuple, frozenset[str]] = {}


def _published(folder: Path) -> frozenset[str]:
    """Segments that the newest checkpoint names."""
    paths = sorted((folder / "checkpoints").glob("step_*/meta.json"))
    if not paths:
        return frozenset()
    try:
        key = (str(paths[-1]), paths[-1].stat().st_mtime_ns)
        if key not in _KNOWN:
            meta = json.loads(paths[-1].read_text())["meta"]
            _KNOWN.clear()
            _KNOWN[key] = frozenset(e["name"] for e in meta["replay"]["segments"])
        return _KNOWN[key]
    except (OSError, ValueError):
        return frozenset()


def kill_when(process: subprocess.Popen, asked: Moment) -> bool:
    """Kill a process when its moment has come; return whether it was still alive."""
    end = time.monotonic() + PATIENCE
    try:
        while process.poll() is None and not asked(process.pid):
            if time.monotonic() > end:
                raise LostError(f"the training did not end within {PATIENCE:g} s")
            time.sleep(0.002)
    finally:
        process.kill()  # also where this script is told to stop
    return process.wait() == -signal.SIGKILL


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


# --- What must hold -------------------------------------------------------------------


def check(folder: Path, whole: Path | None = None) -> int:
    """Look at a run folder as a kill left it; return the step of its checkpoint.

    Args:
        folder: The run folder.
        whole: That of the same training undisturbed: rows of the tables must be in it.

    Raises:
        LostError: Something is lost, doubled, damaged or different.
    """
    told: list[str] = []
    latest = Checkpoints(folder / "checkpoints", warn=told.append).latest()
    if told:
        raise LostError(told[0])
    if latest is None:
        return 0
    meta = read_meta(latest)
    ReplayStore(folder / "replay").verify(meta["replay"])
    rows = evaluations(folder)
    steps = [int(row["step"]) for row in rows]
    if steps != sorted(set(steps)):
        raise LostError(f"evaluations are doubled or disordered: {steps}")
    config = json.loads((folder / "config.json").read_text())
    every, known = config["train"]["eval_every"], meta["counters"]["evaluated_at"]
    seeded = config["seed_decisions"] * config["spec"]["action_repeat"]
    # Nothing is evaluated before something was learned.
    begin = every * (1 + seeded // every)
    if missing := {*range(begin, known + 1, every)} - {*steps}:
        raise LostError(f"evaluations are lost: {sorted(missing)}")
    if whole is not None:
        _same_rows(rows, evaluations(whole), "eval.csv", meta["step"])
        _same_rows(lines(folder), lines(whole), "train.jsonl", meta["step"])
    return meta["step"]


def _same_rows(here: list[dict], there: list[dict], name: str, step: int) -> None:
    """Until a step both tables are the same, in the same order."""
    ours, theirs = (
        [row for row in rows if int(row["step"]) <= step] for rows in (here, there)
    )
    if ours != theirs:
        odd = next((r for r in ours if r not in theirs), None)
        odd = odd or next((r for r in theirs if r not in ours), "the number of rows")
        raise LostError(f"{name} differs at {odd}")


def evaluations(folder: Path) -> list[dict[str, str]]:
    """Whole rows of `eval.csv`, without what a clock has measured."""
    return [_without_clocks(row) for row in csv.DictReader(_lines(folder / "eval.csv"))]


def lines(folder: Path) -> list[dict[str, Any]]:
    """Whole rows of `train.jsonl`, without what a clock has measured."""
    found = map(json.loads, _lines(folder / "train.jsonl"))
    return [_without_clocks(row) for row in found]


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends; one that was being written is none."""
    if path.exists():
        yield from (x for x in path.read_text().splitlines(True) if x.endswith("\n"))


def _without_clocks(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in row.items()
        if name != "seconds" and not name.startswith("time_")
    }


def compare(folder: Path, whole: Path) -> None:
    """Two finished run folders hold the same, bit for bit, and nothing is left over."""
    check(folder, whole)
    if left := unfinished(folder):
        raise LostError(f"left over: {', '.join(left)}")
    ours, theirs = final_state(folder), final_state(whole)
    if ours.keys() != theirs.keys():
        raise LostError(f"other arrays: {sorted(ours.keys() ^ theirs.keys())}")
    for name, array in ours.items():
        other = theirs[name]
        if array.dtype != other.dtype or array.tobytes() != other.tobytes():
            raise LostError(f"{name} is not what it is undisturbed")


def final_state(folder: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint: agents, episodes, replay."""
    latest = Checkpoints(folder / "checkpoints").latest()
    assert latest is not None
    meta = read_meta(latest)
    arrays: dict[str, np.ndarray] = {}
    for path in sorted(latest.glob("*.safetensors")):
        arrays |= load_file(path)
    spec, horizon = meta["spec"], meta["agent"]["horizon"]
    sizes = (ENVS, ROWS, spec["observation_dim"], spec["action_dim"], horizon)
    one = jax.eval_shape(lambda: replay.init(*sizes))
    empty = jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), one)
    loaded = ReplayStore(folder / "replay").load(meta["step"], meta["replay"], empty)
    for path, leaf in jax.tree_util.tree_leaves_with_path(loaded):
        arrays[f"replay{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    counters = {k: x for k, x in meta["counters"].items() if k != "seconds"}
    text = json.dumps([meta["step"], meta["score"], counters], sort_keys=True)
    return arrays | {"counters": np.frombuffer(text.encode(), np.uint8)}


# --- The loop -------------------------------------------------------------------------


def moments(folder: Path, startup: float, chance: random.Random) -> Iterable[tuple]:
    """Kinds of moments and how to notice them, without end."""
    while True:
        yield "any moment", passes(chance.uniform(0, 1.1 * startup))
        yield "while writing", writes(folder, chance.choice((1, 1, 2, 3)))
        yield "in a checkpoint", writes(folder, chance.choice((1, 2)), ".step_")
        yield "while learning", learns_for(folder, chance.expovariate(1.0))


def run_whole(folder: Path, seed: int) -> float:
    """The training undisturbed; returns the seconds of work until it learned.

    One that an earlier call of this script has finished serves again.
    """
    known, startup = folder / "startup", [0.0]
    if known.exists():
        return float(known.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    learns = learns_for(folder, 0.0)

    def never(pid: int) -> bool:
        if not startup[0] and learns(pid):
            startup[0] = worked(pid)
        return False

    process = start(folder, seed)
    kill_when(process, never)
    if process.returncode:
        raise LostError(f"undisturbed it ended with {process.returncode}")
    known.write_text(str(startup[0]))
    return startup[0]


class Kill(NamedTuple):
    """A line of `kills.csv`.

    Attributes:
        round: Number of the training.
        moment: What was waited for; `finished` where the training came to its end.
        step: Env steps of the last checkpoint afterwards.
        amid: Files that were not in their place.
    """

    round: str
    moment: str
    step: str
    amid: str


def record(folder: Path, kill: Kill) -> None:
    """Write down a kill, and show it."""
    with (folder / "kills.csv").open("a", newline="") as file:
        csv.writer(file).writerow(kill)
    print(", ".join(filter(None, kill)), flush=True)


def known(folder: Path) -> list[Kill]:
    """All kills, those of earlier calls included."""
    path = folder / "kills.csv"
    with path.open("a+", newline="") as file:
        file.seek(0)
        return [Kill(*row) for row in csv.reader(file)]


def run_round(folder: Path, number: int, enough: int, chance: random.Random) -> None:
    """One training, killed until it finishes, or has been killed often enough."""
    whole, killed = folder / f"whole-{number}", folder / f"killed-{number}"
    startup = run_whole(whole, number)
    for kind, asked in moments(killed, startup, chance):
        last = enough == 0
        process = start(killed, number)
        if not kill_when(process, (lambda pid: False) if last else asked):
            break
        amid = " ".join(unfinished(killed))
        record(folder, Kill(str(number), kind, str(check(killed, whole)), amid))
        enough -= 1
    if process.returncode:
        raise LostError(f"repeated, it ended with {process.returncode}")
    compare(killed, whole)
    record(folder, Kill(str(number), FINISHED, str(STEPS), ""))


def summary(kills: Sequence[Kill]) -> str:
    """What was survived."""
    rounds = sum(kill.moment == FINISHED for kill in kills)
    real = [kill for kill in kills if kill.moment != FINISHED]
    counts = collections.Counter(kill.moment for kill in real)
    moments = ", ".join(f"{n} {moment}" for moment, n in sorted(counts.items()))
    amid = sum(bool(kill.amid) for kill in real)
    return (
        f"{len(real)} kills survived ({moments}; {amid} left files that were being "
        f"written); {rounds} trainings ended bit for bit as undisturbed"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(options.seed + len(known(folder)))
    while True:
        kills = known(folder)
        rounds = sum(kill.moment == FINISHED for kill in kills)
        left = max(0, options.kills - (len(kills) - rounds))
        if left == 0 and (not kills or kills[-1].moment == FINISHED):
            break
        try:
            run_round(folder, rounds, left, chance)
        except LostError as error:
            print(f"not survived: {error}")
            return 1
    print(f"{datetime.date.today()}, {runtime.cpu_model()}, {runtime.versions()}")
    print(summary(kills))
    return 0


if __name__ == "__main__":
    sys.exit(main())
