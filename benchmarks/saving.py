"""How long a training stands still to save a replay of full size, and how large it is.

    python benchmarks/saving.py --folder /tmp/saving

Fills the replay of `dog-run` (223 observations, 38 actions), saves it whole, and then
saves again after as many new rows and re-planned rows as come between two saves. The
share of time is that of one save in the default interval between saves.
"""

import argparse
import dataclasses
import datetime
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from planprior import replay as rows
from planprior import runtime
from planprior.experiment import TrainConfig
from planprior.replay import Replay
from planprior.replay_store import ReplayStore, num_bytes
from planprior.types import Gaussian

OBSERVATIONS, ACTIONS, HORIZON = 223, 38, 3


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


def timed_save(store: ReplayStore, step: int, replay: Replay, updates: int) -> tuple:
    """Seconds, bytes written, and what `save` returned."""
    start = time.perf_counter()
    state = store.save(step, replay, updates)
    store.prune()
    seconds = time.perf_counter() - start
    written = state["segments"][-1]["bytes"]
    return seconds, written, state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=50.0, help="decisions a second")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    runtime.configure()
    minutes = TrainConfig(task="dog-run").save_minutes
    decisions = int(60 * minutes * options.rate)
    machine = runtime.describe()
    print(f"{datetime.date.today()}, {machine['device']}, {machine['cpu']}")
    replay = full_replay(options.capacity, 0)
    jax.block_until_ready(replay)
    shutil.rmtree(options.folder, ignore_errors=True)
    store = ReplayStore(options.folder)
    seconds, written, state = timed_save(store, 0, replay, 0)
    print(f"whole: {seconds:.2f} s for {runtime.format_bytes(written)}")
    for renewed, name in ((0, "new rows"), (decisions // 10, "and new plans")):
        times = []
        for repeat in range(options.repeats):
            updates = int(state["updates"]) + decisions
            replay = live(replay, decisions, renewed, updates)
            seconds, written, state = timed_save(store, 1 + repeat, replay, updates)
            times.append(seconds)
        share = np.median(times) / (60 * minutes + np.median(times))
        print(
            f"{name}: median {np.median(times):.2f} s, worst {max(times):.2f} s for "
            f"{runtime.format_bytes(written)} ({decisions} decisions, {renewed} "
            f"reanalyses of 20 slices in {minutes:g} minutes): {share:.2%} of the time"
        )
    print(f"files of the last save: {runtime.format_bytes(num_bytes(state))}")
    start = time.perf_counter()
    empty = jax.tree.map(jnp.zeros_like, replay)
    del replay
    loaded = ReplayStore(options.folder).load(9, state, empty)
    jax.block_until_ready(loaded)
    print(f"loading, checksums included: {time.perf_counter() - start:.2f} s")
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
