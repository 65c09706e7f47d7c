"""EnvPool beside dm_control: whether it is equal row by row, and how much faster.

    python benchmarks/fast_pool.py compare    # writes results/envpool.csv
    python benchmarks/fast_pool.py table      # and from it the package's envpool.json
    python benchmarks/fast_pool.py speed --tasks cartpole-swingup walker-walk

`compare` needs both packages. EnvPool does not let its state be set, so dm_control is
brought to EnvPool's: the port draws its first states in dm_control's order, so that
dm_control starts alike where its tasks draw from the same stream of numbers (`Stream`).
Then both do the same actions: 256 episodes of 5 decisions, and 8 whole ones with the
beginning of the next.

Where a body is chaotic, two equal simulators part because they round differently. How
soon they may is measured: dm_control is compared with itself, started 1e-9 aside. An
episode is compared while that difference stays below 1e-5 of each entry's greatest
value. Until then EnvPool must stay within 1e-3 of it, and within 1e-3 of the reward.
Ends must be equal throughout. A task is equal if all that holds, and some of the
compared rows have a reward. The same command beside MuJoCo 3.6.0, which EnvPool brings,
tells a wrong port from another version of the simulator: `pip install
dm-control==1.0.38 mujoco==3.6.0`.
"""

import argparse
import csv
import datetime
import functools
import importlib.metadata
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from planprior.envs import dmc, registry
from planprior.envs.base import EnvError
from planprior.envs.envpool import EnvPool
from planprior.envs.pool import LocalPool, Pool
from planprior.envs.rows import env_seeds

RESULTS = Path("results/envpool.csv")
TABLE = Path("src/planprior/data/envpool.json")

ENVS, SEED = 8, 7
STARTS, FEW = 32, 5
WHOLE = dmc.EPISODE_LENGTH + 20
HOLDS = (1, 1, 2, 4, 8, 16, 25, 50)
ASIDE, CALM, TOLERANCE = 1e-9, 1e-5, 1e-3


# The same first states ----------------------------------------------------------------


class Stream(np.random.RandomState):
    """Draws what C++'s `std::mt19937` and its distributions draw from the same seed.

    As libstdc++ defines them. A new distribution is made for each number there, so that
    the second of two normal ones is never used.
    """

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Numbers of [low, high)."""
        low, high = np.broadcast_arrays(low, high)
        shape = low.shape if size is None else size
        return self._draw(self._canonical, shape) * (high - low) + low

    def rand(self, *size: int) -> Any:
        """Numbers of [0, 1)."""
        return self._draw(self._canonical, size)

    def randn(self, *size: int) -> Any:
        """Standard normal numbers, by the polar method."""
        return self._draw(self._normal, size)

    def _draw(self, one: Callable[[], float], shape: Any) -> Any:
        shape = np.atleast_1d(np.asarray(shape, int))
        values = [one() for _ in range(math.prod(shape))]
        return np.reshape(values, shape) if shape.size else values[0]

    def _canonical(self) -> float:
        low, high = (int.from_bytes(self.bytes(4), "little") for _ in range(2))
        return min((low + high * 2.0**32) / 2.0**64, np.nextafter(1.0, 0.0))

    def _normal(self) -> float:
        square = 0.0
        while not 0.0 < square <= 1.0:
            x, y = (2.0 * self._canonical() - 1.0 for _ in range(2))
            square = x * x + y * y
        return y * math.sqrt(-2.0 * math.log(square) / square)


def reference(task: str, aside: float, seed: int) -> dmc.DMControl:
    """dm_control with EnvPool's random numbers, started `aside`."""
    env = dmc.make(task, seed)
    inner = env._task
    inner._random = Stream(seed % 2**31)
    begin = inner.initialize_episode
    noise = np.random.default_rng(seed)

    def initialize_episode(physics: Any) -> None:
        begin(physics)
        physics.data.qpos[:] += aside * noise.standard_normal(physics.data.qpos.shape)

    inner.initialize_episode = initialize_episode
    return env


# Rows ---------------------------------------------------------------------------------


class Rows(NamedTuple):
    """What a pool answered, T rows of N environments.

    Attributes:
        seen: Both observations of each step, [T, N, 2 O].
        reward: [T, N].
        ends: Terminated and truncated, [T, N, 2].
        fresh: Whether an episode's first row is this one or the next, [T, N].
    """

    seen: np.ndarray
    reward: np.ndarray
    ends: np.ndarray
    fresh: np.ndarray


def parts(action_dim: int) -> Iterator[np.ndarray]:
    """Actions of each part, [T, N, A]: held for different times, half of them full."""
    random = np.random.default_rng(SEED)
    for steps in (*[FEW] * STARTS, WHOLE):
        drawn = random.uniform(-1, 1, (steps, ENVS, action_dim))
        drawn[:, ENVS // 2 :] = np.sign(drawn[:, ENVS // 2 :])
        for i, hold in enumerate(HOLDS):
            drawn[:, i] = drawn[np.arange(steps) // hold * hold, i]
        yield drawn


def rows_of(pool: Pool) -> Rows:
    """Do all parts, each from a new episode."""
    rows = []
    nothing, no_ends = np.zeros(ENVS), np.zeros((ENVS, 2), bool)
    for actions in parts(pool.spec.action_dim):
        first = pool.reset()
        twice = np.concatenate([first, first], axis=1)
        rows.append((twice, nothing, no_ends, np.ones(ENVS, bool)))
        for action in actions:
            step = pool.step(action)
            seen = np.concatenate([step.observation, step.reset_observation], axis=1)
            ends = np.stack([step.terminated, step.truncated], axis=1)
            rows.append((seen, step.reward, ends, step.begun))
    return Rows(*(np.stack(column) for column in zip(*rows, strict=True)))


def calm_rows(plain: Rows, moved: np.ndarray) -> np.ndarray:
    """Rows that a small difference at the start of an episode does not change, [T, N].

    Args:
        plain: Rows of dm_control.
        moved: How far those that started aside are from them, [T, N].
    """
    calm = np.zeros(moved.shape, bool)
    going = np.zeros(ENVS, bool)
    for t in range(len(moved)):
        starts = plain.fresh[t] & ~plain.ends[t].any(axis=1)
        going = (going | starts) & (moved[t] < CALM)
        calm[t] = going
        going = going | plain.ends[t].any(axis=1)
    return calm


# The verdict --------------------------------------------------------------------------


def compare(task: str) -> dict[str, Any]:
    """Compare a task; return a row of the table."""
    seeds = env_seeds(SEED, ENVS)
    try:
        fast = EnvPool(task, ENVS, seeds, threads=1)
    except EnvError:  # `Actions` takes bounded ones alone
        return {"reason": "its actions have no bounds"}
    pools = [
        LocalPool(functools.partial(reference, task, aside), ENVS, SEED)
        for aside in (0.0, ASIDE)
    ]
    plain, moved, fast = (rows_of(pool) for pool in (*pools, fast))
    # Entries that are always zero have no range.
    scale = np.maximum(np.abs(plain.seen).max(axis=(0, 1)), 1e-6)
    off = [(np.abs(r.seen - plain.seen) / scale).max(axis=2) for r in (moved, fast)]
    calm = calm_rows(plain, off[0])
    reward = np.abs(fast.reward - plain.reward)
    return {
        "rows": calm.size,
        "compared_rows": int(calm.sum()),
        "rewarded_rows": int((calm & (plain.reward != 0)).sum()),
        "observation_difference": f"{off[1][calm].max():.2g}",
        "reward_difference": f"{reward[calm].max():.2g}",
        "reason": _reason(plain, fast, calm, off[1], reward),
    }


def _reason(
    plain: Rows, fast: Rows, calm: np.ndarray, off: np.ndarray, reward: np.ndarray
) -> str:
    """Why both are not equal; empty if they are."""
    first = plain.fresh & ~plain.ends.any(axis=2)
    if off[first].max() > TOLERANCE:
        return "its episodes could not be begun in dm_control's states"
    if (plain.ends != fast.ends).any():
        return "its episodes end otherwise than dm_control's"
    if off[calm].max() > TOLERANCE:
        return "its observations are soon others than dm_control's"
    if reward[calm].max() > TOLERANCE:
        return (
            f"its rewards differ from dm_control's, by up to {reward[calm].max():.1g}"
        )
    if not (plain.reward[calm] != 0).any():
        return "no reward came up that could be compared with dm_control's"
    return ""


def run_compare(options: argparse.Namespace) -> None:
    """Compare tasks; replace their rows in the table, those of this MuJoCo."""
    present = {
        "mujoco": importlib.metadata.version("mujoco"),
        "dm_control": importlib.metadata.version("dm_control"),
        "envpool": importlib.metadata.version("envpool"),
        "date": datetime.date.today().isoformat(),
    }
    rows = {(row["task"], row["mujoco"]): row for row in read(options.results)}
    for task in options.tasks or dmc.TASKS:
        row = {"task": task, **present, **compare(task)}
        row["equal"] = "no" if row["reason"] else "yes"
        rows[task, present["mujoco"]] = row
        print(f"{task}: {row['reason'] or 'equal'}", flush=True)
        write(options.results, [rows[key] for key in sorted(rows)])


COLUMNS = (
    *("task", "mujoco", "equal", "rows", "compared_rows", "rewarded_rows"),
    *("observation_difference", "reward_difference", "reason"),
    *("dm_control", "envpool", "date"),
)


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    aside = path.with_suffix(".new")
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(aside, path)


def run_table(options: argparse.Namespace) -> None:
    """Write what the package knows: by the newest MuJoCo that was compared with."""
    rows = read(options.results)
    newest = max((row["mujoco"] for row in rows), key=_numbers)
    known = [row for row in rows if row["mujoco"] == newest]
    equal_before = {
        row["task"] for row in rows if row["mujoco"] != newest and not row["reason"]
    }
    refused = {row["task"]: row["reason"] for row in known if row["reason"]}
    for task in refused.keys() & equal_before:
        refused[task] += ", because it brings another version of MuJoCo"
    table = {
        "envpool": known[0]["envpool"],
        "equal": [f"{dmc.PREFIX}:{row['task']}" for row in known if not row["reason"]],
        "refused": {f"{dmc.PREFIX}:{task}": why for task, why in refused.items()},
    }
    text = json.dumps(table, indent=2) + "\n"
    options.table.write_text(text, encoding="utf-8")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


# Speed --------------------------------------------------------------------------------


def run_speed(options: argparse.Namespace) -> None:
    """Decisions per second of both, by turns; the median of the rounds."""
    for task in options.tasks:
        pools = {
            "dm_control, in this process": registry.make_pool(
                task, options.envs, 0, workers=0
            )
        } | {
            f"EnvPool, {n} threads": registry.make_pool(
                task, options.envs, 0, workers=n, pool="envpool"
            )
            for n in options.threads
        }
        speeds = _by_turns(pools, options.rounds, options.seconds)
        base = speeds["dm_control, in this process"]
        print(f"{task}, {options.envs} environments")
        for name, (wall, cpu) in speeds.items():
            ratios = f"{wall / base[0]:.2f} and {cpu / base[1]:.2f} times"
            print(f"  {name}: {wall:.0f} decisions/s, {cpu:.0f} per CPU-s: {ratios}")


def _by_turns(
    pools: dict[str, Pool], rounds: int, seconds: float
) -> dict[str, tuple[float, float]]:
    random = np.random.default_rng(0)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in pools}
    for pool in pools.values():
        pool.reset()
        _speed(pool, random, 0.2)  # the first steps fill caches
    for _ in range(rounds):
        for name, pool in pools.items():
            measured[name].append(_speed(pool, random, seconds))
    medians = {name: np.median(both, axis=0) for name, both in measured.items()}
    return {name: (float(wall), float(cpu)) for name, (wall, cpu) in medians.items()}


def _speed(
    pool: Pool, random: np.random.Generator, seconds: float
) -> tuple[float, float]:
    """Decisions of all environments per second, and per second of processor time."""
    actions = random.uniform(-1, 1, (16, pool.num_envs, pool.spec.action_dim))
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        pool.step(actions[count % len(actions)])
        count += 1
    done = count * pool.num_envs
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return done / wall, done / cpu


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("--tasks", nargs="*", choices=dmc.TASKS, metavar="TASK")
    comparing.set_defaults(run=run_compare)
    writing = commands.add_parser("table")
    writing.add_argument("--table", type=Path, default=TABLE)
    writing.set_defaults(run=run_table)
    for command in (comparing, writing):
        command.add_argument("--results", type=Path, default=RESULTS)
    timing = commands.add_parser("speed")
    timing.add_argument("--tasks", nargs="+", required=True, metavar="TASK")
    timing.add_argument("--envs", type=int, default=16)
    timing.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    timing.add_argument("--rounds", type=int, default=5)
    timing.add_argument("--seconds", type=float, default=2.0)
    timing.set_defaults(run=run_speed)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
