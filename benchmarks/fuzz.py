"""Load files that were changed at random: an agent, one sentence, and nothing else.

    python benchmarks/fuzz.py --seconds 900

Real files of every kind that planprior loads are mutated, as bytes and by meaning (JSON
values, tensor headers, members of archives), mostly with their checksums made right
again, and loaded. What is refused must be refused in one sentence by planprior itself.
Counted as failures are any other exception, a load of more than `PATIENCE` seconds of
processor time, more than `MOST_BYTES` of memory, and the end of the interpreter: the
loads are made in a process of their own, which is started again.
"""

import argparse
import collections
import dataclasses
import datetime
import functools
import hashlib
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import planprior
from planprior import (
    checkpoint,
    experiment,
    replay,
    results,
    runtime,
    settings,
    state,
    tensorfile,
)
from planprior.acting import Agent, load_population
from planprior.config import Config
from planprior.hypers import Hypers
from planprior.importers import published
from planprior.log import RunFolder
from planprior.saving import Saving
from planprior.spec import EnvSpec
from planprior.types import Gaussian, Transition

PATIENCE = 10.0
"""Seconds of processor time that one load may take, and 30 times as many in all."""
MOST_BYTES = 256 << 20
"""Memory that one load may take; the files have less than a megabyte."""

TESTS = Path(__file__).parents[1] / "tests"
PACKAGE = Path(planprior.__file__).parent


class Target(NamedTuple):
    """A kind of file.

    Attributes:
        name: What it is called.
        make: Writes good files into an empty folder.
        spoil: Changes something in such a folder.
        load: Loads what is there.
    """

    name: str
    make: Callable[[Path], None]
    spoil: Callable[[Path, random.Random], None]
    load: Callable[[Path], object]


class FoundError(Exception):
    """A load that ended otherwise than it must."""


# --- Mutations ------------------------------------------------------------------------


def spoil_bytes(data: bytes, chance: random.Random) -> bytes:
    """A few changes anywhere."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at, size = chance.randrange(len(out) + 1), chance.choice((1, 1, 2, 8, 64, 4096))
        kind = chance.randrange(6)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del out[at : at + size]
        elif kind == 2:
            out[at:at] = chance.randbytes(size)
        elif kind == 3:
            out[at:at] = out[at : at + size]
        elif kind == 4:
            out[at : at + 8] = chance.choice(LENGTHS).to_bytes(8, "little")
        else:
            del out[at:]
    return bytes(out)


LENGTHS = (0, 1, 7, 255, 2**16, 2**31 - 1, 2**32, 2**53, 2**63 - 1, 2**64 - 1)

DEPTHS = (3, 90, 20_000)
"""Of lists within lists; Python's own limit is 1000."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**53 + 1, 2**63, 10**30),
    *(0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "0", "F64", "I8", "../../x", "/etc/passwd", "\x00", "a\nb", "ü" * 3),
    *([], {}, [0], [[]], [1, 2], {"a": 1}, [2**40] * 3, [-1, 4]),
)


def spoil_json(document: Any, chance: random.Random) -> Any:
    """A few changes of values, names and structure."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            return chance.choice(VALUES)
        owner, key = chance.choice(places)
        kind = chance.randrange(6)
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, dict):
            owner[f"{key}{chance.choice(('x', '/0', '.', ' '))}"] = owner[key]
        elif kind == 2:
            other, place = chance.choice(places)
            if place in other if isinstance(other, dict) else place < len(other):
                owner[key] = json.loads(json.dumps(other[place]))
        elif kind == 3 and isinstance(owner[key], int):
            owner[key] = owner[key] * chance.choice((-1, 2, 1000, 10**9)) + 1
        elif kind == 4:
            owner[key] = f"@@{chance.choice(DEPTHS)}"
        else:
            owner[key] = chance.choice(VALUES)
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every owner and key, or index, of a document."""
    waiting = [document]
    while waiting:
        owner = waiting.pop()
        keys = owner if isinstance(owner, dict) else range(len(owner))
        for key in keys:
            yield owner, key
            if isinstance(owner[key], dict | list):
                waiting.append(owner[key])


def as_json(document: Any) -> bytes:
    """JSON, in which `@@N` becomes N lists within each other."""
    text = json.dumps(document)
    for depth in DEPTHS:
        text = text.replace(f'"@@{depth}"', "[" * depth + "]" * depth)
    return text.encode()


def spoil_tensors(data: bytes, chance: random.Random) -> bytes:
    """A tensor file whose header says something else, or whose bytes are changed."""
    if chance.random() < 0.5:
        return spoil_bytes(data, chance)
    start = 8 + int.from_bytes(data[:8], "little")
    header = as_json(spoil_json(json.loads(data[8:start]), chance))
    return len(header).to_bytes(8, "little") + header + data[start:]


def spoil_file(path: Path, chance: random.Random) -> None:
    """Change one file by what it is."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        data = spoil_tensors(data, chance)
    elif path.suffix == ".json" and chance.random() < 0.7:
        data = as_json(spoil_json(json.loads(data), chance))
    else:
        data = spoil_bytes(data, chance)
    path.write_bytes(data)


def spoil_any(folder: Path, chance: random.Random) -> None:
    """Change one of a folder's files, and mostly make its checksums right."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    spoil_file(chance.choice(files), chance)
    if chance.random() < 0.6:
        reseal(folder)


def spoil_archive(folder: Path, chance: random.Random) -> None:
    """Change a zip file, or one of its members without breaking its checksum."""
    path = next(path for path in folder.iterdir() if path.suffix == ".pt")
    if chance.random() < 0.3:
        path.write_bytes(spoil_bytes(path.read_bytes(), chance))
        return
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in members if name.endswith(".pkl")]
    spoilt = chance.choice([*pickles, chance.choice(list(members))])
    members[spoilt] = spoil_bytes(members[spoilt], chance)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def reseal(folder: Path) -> None:
    """Make the checksums right again, as whoever forges a file would."""
    for path in folder.rglob("meta.json"):
        try:
            document = json.loads(path.read_bytes())
            for name in document["files"]:
                document["files"][name] = _sha256(path.parent / name)
            for entry in document["meta"].get("replay", {}).get("segments", ()):
                entry["sha256"] = _sha256(folder / "replay" / entry["name"])
            document.pop("sha256", None)
            path.write_text(json.dumps(document | {"sha256": _digest(document)}))
        except (
            AttributeError,
            KeyError,
            OSError,
            RecursionError,
            TypeError,
            ValueError,
        ):
            continue


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


# --- What is loaded -------------------------------------------------------------------

TREE = {"w": np.arange(3, dtype=np.float32), "b": np.ones((2, 2), bool)}
ENVS, ROWS, SIZE, HORIZON = 2, 8, 3, 2
META = {
    **{"format": 1, "task": "t", "method": "bmpc", "size": "tiny", "members": []},
    **{"spec": {"observation_dim": SIZE}, "agent": {"horizon": HORIZON}},
}
COUNTERS = {
    **{"decisions": 6, "updates": 3, "episodes": 1, "evaluated_at": 4},
    **{"seconds": 1.5, "frozen": {}},
}


def make_tensors(folder: Path) -> None:
    tensorfile.write(folder / "x.safetensors", TREE)


def load_tensors(folder: Path) -> object:
    path = folder / "x.safetensors"
    header = tensorfile.read_header(path)
    with path.open("rb") as file:
        return [
            tensorfile.read_array(file, header[name], leaf.dtype, leaf.shape)
            for name, leaf in TREE.items()
            if name in header
        ]


def _empty(room: int) -> replay.Replay:
    one = replay.init(ENVS, ENVS * room, SIZE, SIZE, HORIZON)
    return jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), one)


def _rows(number: int) -> Transition:
    """One row of each environment."""
    some = jnp.full((1, ENVS, SIZE), float(number))
    yes = jnp.ones((1, ENVS), bool)
    return Transition(
        observation=some,
        action=some,
        reward=some[..., 0],
        terminated=~yes,
        plan=Gaussian(some, some),
        has_plan=yes,
        planned_at=jnp.full((1, ENVS), number, jnp.int32),
        first=yes if number == 0 else ~yes,
    )


@functools.cache
def _agents() -> Any:
    """An agent of zeros."""
    config, hypers = Config(), Hypers().arrays()
    small = dataclasses.replace(
        config.network, encoder_dim=2, mlp_dim=2, latent_dim=2, simnorm_dim=2
    )
    config = dataclasses.replace(config, network=small)
    spec, key = EnvSpec("t", SIZE, SIZE, 10), jax.random.key(0)
    shapes = jax.eval_shape(lambda: state.init(spec, config, hypers, key=key))
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def make_run(folder: Path) -> None:
    """A run folder with two checkpoints."""
    saving, rows = Saving(folder, META, warn=print), _empty(ROWS)
    add = jax.jit(jax.vmap(replay.add))
    everywhere = jnp.ones((1, ENVS), bool)
    for number in range(6):
        rows = add(rows, _rows(number), everywhere)
        if number in (2, 5):
            saving.save(number, _agents(), rows, COUNTERS, episodes=TREE)


def load_run(folder: Path) -> object:
    """Go on with a run, up to where it would train."""
    saving = Saving(folder, META, warn=_must_be_a_sentence)
    start = saving.latest()
    if start is None:
        return None
    loaded = saving.load_agents(start, _agents()), start.counters
    rows = saving.load_replay(start, ROWS, _empty)
    return (*loaded, rows, saving.load_episodes(start, TREE))


def _must_be_a_sentence(text: str) -> None:
    if not text.isprintable():
        raise FoundError(f"a warning is no sentence: {text!r}")


def make_config(folder: Path) -> None:
    config = {
        "format": experiment.FORMAT,
        "train": {"task": "t", "steps": 100, "settings": {"horizon": 3}},
        "size": "tiny",
        "spec": META["spec"],
        "agent": settings.config_to_json(Config()),
        "members": [{"seed": 0, "prior_weight": 0.5}],
    }
    checkpoint.write_json_atomic(folder / "config.json", config)


def load_config(folder: Path) -> object:
    stored = experiment.read(folder)
    return experiment.differences(stored, {"train": {"steps": 3}, "size": "5"})


def make_agent(folder: Path) -> None:
    shutil.copytree(TESTS / "agents/format-1/agent", folder, dirs_exist_ok=True)


def make_checkpoint(folder: Path) -> None:
    """One checkpoint of a run, to act with."""
    source = checkpoint.read_meta(TESTS / "agents/format-1/agent")
    kept = {name: source[name] for name in ("spec", "agent", "hypers")}
    meta = {"format": experiment.FORMAT, "members": [{"seed": 0, "prior_weight": 0.5}]}
    agents, *_ = load_population(TESTS / "agents/format-1/agent")
    checkpoint.save(folder, {"agents": agents}, meta | kept)


def make_published(folder: Path) -> None:
    shutil.copy(TESTS / "golden/tdmpc2.pt", folder)


def load_published(folder: Path) -> object:
    return published.read(folder / "tdmpc2.pt", "tdmpc2")


def make_tables(folder: Path) -> None:
    with RunFolder(folder) as run:
        for step in (1, 2, 3):
            run.train({"step": step, "event": "episode", "loss": 0.5})
            run.evaluation({"step": step, "episode_reward": 1.0})


def load_tables(folder: Path) -> object:
    """Go on with the tables of a run."""
    with RunFolder(folder, resumed_at=2) as run:
        run.train({"step": 3, "event": "episode"})
    return None


def make_results(folder: Path) -> None:
    """What `planprior compare` and `plot` read of a run folder."""
    config = {
        "format": experiment.FORMAT,
        "train": {"task": "t", "method": "bmpc", "settings": {"horizon": 3}},
        "spec": {"name": "dm_control:dog-run"},
        "size": "tiny",
    }
    checkpoint.write_json_atomic(folder / "config.json", config)
    member = {"seed": 0, "prior_weight": 0.5, "entropy_coef": 1e-4}
    with RunFolder(folder) as run:
        for step in (1, 2, 3):
            run.train({"step": step, "event": "update", **member, "loss": 0.5})
            run.evaluation({"step": step, "episode_reward": 1.0 * step, **member})


def load_results(folder: Path) -> object:
    return [results.read_log(run) for run in results.read([folder])]


TARGETS = (
    Target("tensor file", make_tensors, spoil_any, load_tensors),
    Target("run folder", make_run, spoil_any, load_run),
    Target("config.json", make_config, spoil_any, load_config),
    Target("agent folder", make_agent, spoil_any, Agent.load),
    Target("checkpoint to act with", make_checkpoint, spoil_any, Agent.load),
    Target("published agent", make_published, spoil_archive, load_published),
    Target("tables to go on with", make_tables, spoil_any, load_tables),
    Target("results", make_results, spoil_any, load_results),
)


# --- One load -------------------------------------------------------------------------


def attempt(target: Target, good: Path, chance: random.Random) -> str:
    """Load a spoilt copy of good files.

    Returns:
        "loaded" or "refused".

    Raises:
        FoundError: It ended otherwise.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name) / "x"
        shutil.copytree(good, folder)
        target.spoil(folder, chance)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with _limited(PATIENCE):
                target.load(folder)
            outcome = "loaded"
        except FoundError:
            raise
        except Exception as error:
            _must_be_ours(error)
            outcome = "refused"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        if grown * 1024 > MOST_BYTES:
            raise FoundError(f"it took {grown >> 10} MiB")
        return outcome


def _must_be_ours(error: Exception) -> None:
    """An error that planprior raised, with a sentence."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    ours = PACKAGE in Path(place.filename).parents
    sentence = isinstance(error, ValueError | OSError) and str(error).isprintable()
    if not (ours and sentence):
        where = f"{Path(place.filename).name}, line {place.lineno}"
        raise FoundError(f"{type(error).__name__}: {error!s:.200} ({where})") from error


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise FoundError(f"it did not end within {seconds:g} s")

    timers = {
        signal.ITIMER_PROF: (signal.SIGPROF, seconds),
        signal.ITIMER_REAL: (signal.SIGALRM, 30 * seconds),  # it may also wait
    }
    before = {number: signal.signal(number, ring) for number, _ in timers.values()}
    for timer, (_, limit) in timers.items():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


# --- Many loads -----------------------------------------------------------------------


def work(seed: int, seconds: float) -> None:
    """Make loads, the targets in turn, and tell of each."""
    end = time.monotonic() + seconds
    _limit_memory()
    with tempfile.TemporaryDirectory(prefix="fuzz-good-") as name:
        good = {target.name: Path(name) / str(i) for i, target in enumerate(TARGETS)}
        for target in TARGETS:
            good[target.name].mkdir()
            target.make(good[target.name])
        while time.monotonic() < end:
            target = TARGETS[seed % len(TARGETS)]
            print(f"try\t{seed}\t{target.name}", flush=True)
            try:
                outcome = attempt(target, good[target.name], random.Random(seed))
            except FoundError as error:
                outcome = f"found\t{error}".replace("\n", " ")
            print(outcome, flush=True)
            seed += 1


def _limit_memory() -> None:
    """Let this process fail where it would take the machine's memory from others."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + (4 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def supervise(seed: int, seconds: float) -> tuple[collections.Counter, list[str]]:
    """Let a process make loads, and start it again where one ends it."""
    counts: collections.Counter = collections.Counter()
    found, end = [], time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        command = [sys.executable, __file__, "--work", "--seed", str(seed)]
        command += ["--seconds", str(left)]
        # A GPU's driver takes more address space than a load may.
        environ = os.environ | {"JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environ
        )
        assert process.stdout
        name, answered = "the start", True
        for line in process.stdout:
            kind, *rest = line.rstrip("\n").split("\t")
            if kind == "try":
                seed, name, answered = int(rest[0]), rest[1], False
                continue
            answered, counts[name, kind] = True, counts[name, kind] + 1
            if kind == "found":
                found.append(f"seed {seed}, {name}: {rest[0]}")
                print(found[-1], flush=True)
        status = process.wait()
        if status or not answered:
            counts[name, "crashed"] += 1
            found.append(f"seed {seed}, {name}: the interpreter ended with {status}")
            print(found[-1], flush=True)
            if name == "the start":
                break
        seed += 1
    return counts, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.seed, options.seconds)
        return 0
    counts, found = supervise(options.seed, options.seconds)
    print(f"{datetime.date.today()}, {runtime.cpu_model()}, {runtime.versions()}")
    print("| files | loads | refused in one sentence | loaded | otherwise |")
    print("| --- | --- | --- | --- | --- |")
    for target in TARGETS:
        of = {kind: n for (name, kind), n in counts.items() if name == target.name}
        total, good = sum(of.values()), of.get("loaded", 0) + of.get("refused", 0)
        cells = (total, of.get("refused", 0), of.get("loaded", 0), total - good)
        print(f"| {target.name} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    print(f"{sum(counts.values()):,} loads in {options.seconds / 60:.0f} minutes")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
