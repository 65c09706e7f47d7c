"""A population on four devices beside one; `test_placement.py` runs this.

    python spread.py FOLDER

In a process of its own, as the number of devices is fixed when JAX starts. Prints what
it found as JSON.
"""

import json
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4"]
).lstrip()
import conftest  # noqa: F401, I001
import jax
import jax.numpy as jnp
import numpy as np

from planprior.device_loop import Given, Loop, Place, timetable
from planprior.envs.device import DevicePool
from planprior.placement import Placement
from planprior.saving import Saving
from planprior.schedule import Counters, Schedule
from test_population import ENVS, build, collect
from toys_device import Aim, Brittle

MEMBERS = [0, 1, 2, 3]
SEEDS, WEIGHTS = (3, 4, 5, 6), (0.2, 0.7, 0.5, 0.9)


def build_on(num_devices):
    return build(SEEDS, WEIGHTS, "boom", num_devices=num_devices)


def learn(pop):
    """Collect and learn; agents and replays."""
    replay, agents = collect(pop, MEMBERS), pop.init()
    agents, _ = pop.update(agents, replay, 0, num_updates=1)
    return agents, replay


def go_on(pop, agents, replay):
    """Learn once more and act; everything there is afterwards."""
    agents, metrics = pop.update(agents, replay, 1, num_updates=1)
    seen = np.stack([np.full((ENVS, 3), 0.3 * m, np.float32) for m in MEMBERS])
    reset = np.tile(np.array([True, False]), (len(MEMBERS), 1))
    decision, told = pop.act(agents, seen, pop.cold_start() + 0.1, reset, 5)
    return agents, replay, metrics, decision, told


def devices(tree):
    """Numbers of devices that the arrays of a tree lie on, each in equal parts."""
    found = set()
    for leaf in jax.tree.leaves(tree):
        shards = leaf.addressable_shards
        assert len({shard.device for shard in shards}) == len(shards)
        assert {len(shard.data) * len(shards) for shard in shards} == {len(MEMBERS)}
        found.add(len(shards))
    return sorted(found)


def difference(ours, theirs):
    """The largest, in parts of 1 + the number."""

    def one(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        there = np.isfinite(a)
        gaps = np.abs(a - b)[there] / (1 + np.abs(b[there]))
        return float(np.max(gaps, initial=0.0))

    return max(jax.tree.leaves(jax.tree.map(one, ours, theirs)))


def store(folder, agents, replay):
    counters = vars(Counters(decisions=20, updates=1))
    Saving(folder, {}, warn=print).save(40, agents, replay, counters)


def restore(folder, pop):
    saving = Saving(folder, {}, warn=print)
    start = saving.latest()
    assert start is not None
    empty = lambda room: pop.init_replay(room * ENVS)  # noqa: E731
    return saving.load_agents(start, pop.init()), saving.load_replay(start, 50, empty)


def broken():
    """Decisions and rows of each member when an environment of the third has broken."""
    pop = build(SEEDS, WEIGHTS, "tdmpc2", spec=Aim.spec)
    pool = DevicePool(Brittle(), ENVS * len(MEMBERS), 0)
    first = pool.reset().reshape(len(MEMBERS), ENVS, -1)
    draw = jnp.where(jnp.arange(len(first) * ENVS)[:, None] == 5, 1.0, 0.0)
    envs = pool.envs
    assert envs is not None
    state = envs.state | {"draw": jnp.broadcast_to(draw, (len(draw), 2))}
    envs = envs._replace(state=state)
    start, fault = jnp.ones(first.shape[:2], bool), jnp.zeros(len(MEMBERS), jnp.int32)
    place = Place(envs, pop.cold_start(), start, fault)
    counters = Counters()
    table = timetable(Schedule(ENVS, 2, 1000, 1.0, 0), counters, 9)
    _, replay, _, record = Loop(pool.env, pop.programs, 1, False).run(
        pop.init(), pop.begin(pop.init_replay(), first), place,
        Given(pop.hypers, pop.keys, pool.keys), table, 9, counters,
    )  # fmt: skip
    return [np.asarray(x).ravel().tolist() for x in (record.made, replay.total)]


def main(folder: Path) -> None:
    one, two, four = build_on(1), build_on(2), build_on(None)
    spread = learn(four)
    store(folder, *spread)
    on_one, on_two = restore(folder, one), restore(folder, two)
    found = {
        "devices": [devices(x) for x in (spread, on_one, on_two)],
        "lost": max(difference(spread, x) for x in (on_one, on_two)),
        "learned": difference(spread, learn(one)),
    }
    gone_on = go_on(four, *spread)
    found["still_on"] = devices(gone_on)
    found["gone_on"] = difference(gone_on, go_on(one, *on_one))
    run = four.programs
    found["programs"] = [p._cache_size() for p in (run.update, run.act, run.add)]
    found["broken"] = broken()
    found["said"] = [Placement(n).describe() for n in (1, 6, 8)]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
