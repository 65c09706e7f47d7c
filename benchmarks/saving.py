"""How long a training of full size stands still to save itself, and what it takes.

    python benchmarks/saving.py --folder /tmp/saving

The agent of `dog-run` (223 observations, 38 actions) at size 5 with its optimisers, and
its replay of a million rows. All is saved once, and then again after as many new rows
and re-planned rows as come between two saves: those of a training of a million env
steps, which is saved at each of its 20 evaluations and every ten minutes. The share of
time is that of one save in the time between two, evaluations not counted.
"""

import argparse
import dataclasses
import datetime
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from planprior import methods, runtime, state
from planprior import replay as rows
from planprior.experiment import TrainConfig
from planprior.replay import Replay
from planprior.replay_store import num_bytes
from planprior.saving import Saving
from planprior.spec import EnvSpec
from planprior.state import AgentState
from planprior.types import Gaussian

OBSERVATIONS, ACTIONS, HORIZON = 223, 38, 3
SPEC = EnvSpec("dm_control:dog-run", OBSERVATIONS, ACTIONS, 500, 2)
RATE = "decisions a second; 92 are those of one agent on an H100 (results/speed.md)"


def full_replay(capacity: int, seed: int) -> Replay:
    """A replay [1, 1] whose ring is full, of episodes of 1001 rows."""
    size = (1, capacity, OBSERVATIONS, ACTIONS, HORIZON)
    empty = jax.eval_shape(lambda: rows.init(*size))
    key = jax.random.key(seed)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        shape = (1, *leaf.shape)
        if leaf.dtype == jnp.float32:
            return jax.random.normal(jax.random.fold_in(key, leaf.size), shape)
        return jnp.zeros(shape, leaf.dtype)

    filled = jax.tree.map(fill, empty)
    serial = jnp.arange(capacity, dtype=jnp.int32)
    starts = serial[(serial % 1001) <= 1000 - HORIZON]
    starts = starts[starts < capacity - HORIZON]
    queue = jnp.zeros((1, 1, capacity), jnp.int32).at[0, 0, : len(starts)].set(starts)
    changed = {
        "first": (serial % 1001 == 0)[None, None],
        "has_plan": jnp.ones((1, 1, capacity), bool),
    }
    return Replay(
        rows=dataclasses.replace(filled.rows, **changed),
        total=jnp.full((1, 1), capacity, jnp.int32),
        rows_in_episode=jnp.full((1, 1), (capacity - 1) % 1001 + 1, jnp.int32),
        starts=queue,
        starts_added=jnp.full((1, 1), len(starts), jnp.int32),
        starts_removed=jnp.zeros((1, 1), jnp.int32),
        horizon=HORIZON,
    )


def live(replay: Replay, decisions: int, renewed: int, updates: int) -> Replay:
    """New rows, and new plans for so many slices, as between two saves."""

    def add(replay: Replay, number: jax.Array) -> tuple[Replay, None]:
        row = jax.tree.map(lambda ring: ring[0, 0, number], replay.rows)
        row = dataclasses.replace(row, planned_at=jnp.int32(updates))
        one = jax.tree.map(lambda x: x[None], row)
        put = jax.vmap(lambda r: rows.add(r, one, jnp.ones(1, bool)))
        return put(replay), None

    def renew(replay: Replay, number: jax.Array) -> tuple[Replay, None]:
        key = jax.random.fold_in(jax.random.key(1), number)

        def one(replay: Replay) -> Replay:
            count = jnp.int32(updates)
            batch, slices = rows.sample(replay, 20, update_count=count, key=key)
            plan = Gaussian(batch.plan.mean + 1.0, batch.plan.std)
            return rows.write_plans(replay, slices, plan, update_count=count)

        return jax.vmap(one)(replay), None

    def program(replay: Replay) -> Replay:
        replay, _ = jax.lax.scan(add, replay, jnp.arange(decisions, dtype=jnp.int32))
        return jax.lax.scan(renew, replay, jnp.arange(renewed, dtype=jnp.int32))[0]

    return jax.block_until_ready(jax.jit(program, donate_argnums=0)(replay))


def full_agents() -> AgentState:
    """One agent [1] of size 5, with all that is trained and kept beside."""
    config, hypers = methods.make("bmpc", SPEC, "5")
    arrays, key = hypers.arrays(), jax.random.key(0)
    shapes = jax.eval_shape(lambda: state.init(SPEC, config, arrays, key=key))
    return jax.tree.map(lambda x: jnp.zeros((1, *x.shape), x.dtype), shapes)


class Timed(NamedTuple):
    """A save.

    Attributes:
        seconds: Until it had returned.
        worked: Processor time of it; far less where others had the machine.
        written: Bytes.
    """

    seconds: float
    worked: float
    written: int


def timed_save(
    saving: Saving, step: int, agents: AgentState, replay: Replay, updates: int
) -> Timed:
    """Save, and take the time."""
    counters = {"decisions": step, "updates": updates}
    start, worked = time.perf_counter(), time.process_time()
    saving.save(step, agents, replay, counters)
    took = time.perf_counter() - start, time.process_time() - worked
    files = saving.checkpoints.path(step).iterdir()
    segment = max(saving.replays.folder.iterdir())
    return Timed(*took, sum(path.stat().st_size for path in (*files, segment)))


def told(saves: list[Timed]) -> str:
    """Median and worst time of saves, and what the last one wrote."""
    median, worked, _ = np.median(np.array(saves), axis=0)
    worst = max(saved.seconds for saved in saves)
    return (
        f"median {median:.2f} s ({worked:.2f} s of processor time), worst {worst:.2f} "
        f"s for {runtime.format_bytes(saves[-1].written)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=92.0, help=RATE)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    runtime.configure()
    decisions, seconds = between_saves(options.rate)
    machine = runtime.describe()
    print(f"{datetime.date.today()}, {machine['device']}, {machine['cpu']}")
    agents, replay = full_agents(), full_replay(options.capacity, 0)
    jax.block_until_ready((agents, replay))
    folder = options.folder / "saving"  # what else is there stays
    shutil.rmtree(folder, ignore_errors=True)
    saving = Saving(folder, {}, warn=print)
    saves, updates, step = [timed_save(saving, 0, agents, replay, 0)], 0, 0
    print(f"whole: {told(saves)}", flush=True)
    for renewed, name in ((0, "new rows"), (decisions // 10, "and new plans")):
        saves = []
        for _ in range(options.repeats):
            updates, step = updates + decisions, step + 1
            replay = live(replay, decisions, renewed, updates)
            saves.append(timed_save(saving, step, agents, replay, updates))
        median = float(np.median([saved.seconds for saved in saves]))
        print(
            f"{name}: {told(saves)}: {median / (seconds + median):.2%} of the time "
            f"({decisions} decisions, {renewed} reanalyses of 20 slices, in "
            f"{seconds:.0f} s)",
            flush=True,
        )
    begin = time.perf_counter()
    start = saving.latest()
    assert start is not None
    files = num_bytes(start.meta["replay"])
    print(f"replay's files of the last save: {runtime.format_bytes(files)}")
    empty = jax.tree.map(jnp.zeros_like, replay)
    del replay
    loaded = saving.load_replay(start, options.capacity, lambda room: empty)
    jax.block_until_ready((saving.load_agents(start, agents), loaded))
    print(f"loading, checksums included: {time.perf_counter() - begin:.2f} s")
    shutil.rmtree(folder)


def between_saves(rate: float) -> tuple[int, float]:
    """Decisions and seconds between two saves, at so many decisions a second."""
    train = TrainConfig(task="dog-run", steps=1_000_000)
    every = train.steps // 20 // SPEC.action_repeat
    seconds = min(60 * train.save_minutes, every / rate)
    return int(seconds * rate), seconds


if __name__ == "__main__":
    main()
