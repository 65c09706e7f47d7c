"""EnvPool: tasks of the DeepMind Control Suite, in C++ threads (`--pool envpool`).

A task is let in where EnvPool's observations, rewards and ends were dm_control's, row
by row; `benchmarks/fast_pool.py` compares them and writes `data/envpool.json`. What
EnvPool does otherwise than a pool must, and what becomes of it here:

1. It observes what any task of a domain does, filled up with zeros. What the task
   itself observes is picked, in dm_control's order.
2. It begins an episode in the step after the last of the one before; the action of that
   step does nothing, and its reward is the last one again. Here it is told to begin at
   once, and no such step is taken.
3. Its `frame_skip` is how many steps of physics make a control step, and sums no
   rewards. An action is repeated by sending it again.
4. Seeds are given when it is built, so that seeding anew builds it anew. Its generator
   draws other first states than dm_control's, of the same distribution.
5. It does not tell its state: a training that goes on begins new episodes.
6. Where a simulation diverges, MuJoCo puts it back into the model's own pose, and
   EnvPool goes on; dm_control raises an error. Nothing here can notice.
"""

import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from planprior import host
from planprior.envs import dmc
from planprior.envs.base import EnvError
from planprior.envs.pool import Pool
from planprior.envs.process import choose_workers
from planprior.envs.rows import Rows, env_seeds, row_layout
from planprior.envs.spaces import Actions

PACKAGE = "envpool"

_DOG = (
    "joint_angles joint_velocites torso_pelvis_height z_projection torso_com_velocity "
    "inertial_sensors foot_forces touch_sensors actuator_state"
)
_HUMANOID = "joint_angles head_height extremities torso_vertical com_velocity velocity"
_QUADRUPED = "egocentric_state torso_velocity torso_upright imu force_torque"

# Entries of the observation in dm_control's order: of a domain, or of a task that
# differs from the rest of it.
_OBSERVED = {
    "acrobot": "orientations velocity",
    "ball_in_cup": "position velocity",
    "cartpole": "position velocity",
    "cheetah": "position velocity",
    "dog": _DOG,
    "dog-fetch": f"{_DOG} ball_state target_position",
    "finger": "position velocity touch target_position dist_to_target",
    "finger-spin": "position velocity touch",
    "fish-swim": "joint_angles upright target velocity",
    "fish-upright": "joint_angles upright velocity",
    "hopper": "position velocity touch",
    "humanoid": _HUMANOID,
    "humanoid-run_pure_state": "position velocity",
    "humanoid_CMU": _HUMANOID,
    "lqr": "position velocity",
    "manipulator": "arm_pos arm_vel touch hand_pos object_pos object_vel target_pos",
    "pendulum": "orientation velocity",
    "point_mass": "position velocity",
    "quadruped": _QUADRUPED,
    "quadruped-escape": f"{_QUADRUPED} origin rangefinder",
    "quadruped-fetch": f"{_QUADRUPED} ball_state target_position",
    "reacher": "position to_target velocity",
    "stacker": "arm_pos arm_vel touch hand_pos box_pos box_vel target_pos",
    "swimmer": "joints to_target body_velocities",
    "walker": "orientations height velocity",
}


class Comparison(NamedTuple):
    """What is known of EnvPool beside dm_control.

    Attributes:
        version: The version of EnvPool that was compared.
        equal: Full names of the tasks in which both are equal.
        refused: Why others are refused, by full name.
    """

    version: str
    equal: tuple[str, ...]
    refused: Mapping[str, str]


@cache
def comparison() -> Comparison:
    """Read the table in the package."""
    text = files("planprior").joinpath("data/envpool.json").read_text("utf-8")
    table = json.loads(text)
    return Comparison(table["envpool"], tuple(table["equal"]), table["refused"])


def make_pool(
    task: str, num_envs: int, seed: int | Sequence[int], workers: int | str = "auto"
) -> "EnvPool":
    """Build environments of one task.

    Args:
        task: Its full name.
        num_envs: How many environments.
        seed: What their randomness follows from, as `env_seeds` says.
        workers: How many threads; "auto" is one per core, or per environment if these
            are fewer.

    Raises:
        ValueError, ModuleNotFoundError, EnvError: As `check` does.
    """
    check(task)
    name = task.removeprefix(f"{dmc.PREFIX}:")
    threads = _threads(num_envs, workers)
    return EnvPool(name, num_envs, env_seeds(seed, num_envs), threads)


def check(task: str) -> None:
    """Refuse a task in which EnvPool was not shown to equal dm_control.

    Args:
        task: Its full name.

    Raises:
        ValueError: EnvPool does not have the task, or not as dm_control has it.
        ModuleNotFoundError: EnvPool is not installed.
        EnvError: Its version is not the one that was compared.
    """
    _check_task(task)
    _check_package()


def _check_task(task: str) -> None:
    known = comparison()
    if task in known.equal:
        return
    ours = task.startswith(f"{dmc.PREFIX}:")
    unknown = "it was not compared" if ours else "it is no task of dm_control"
    reason = known.refused.get(task, unknown)
    raise ValueError(
        f"pool envpool cannot take task {task!r}: {reason}; leave --pool out"
    )


def _check_package() -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        raise ModuleNotFoundError(
            f"pool envpool needs the package {PACKAGE}; run: pip install "
            "'planprior[envpool]'"
        )
    version, compared = importlib.metadata.version(PACKAGE), comparison().version
    if version != compared:
        raise EnvError(
            f"envpool is version {version}, which was not compared with dm_control; "
            f"run: pip install 'envpool=={compared}'"
        )


def _threads(num_envs: int, workers: int | str) -> int:
    if workers == "auto":
        return min(num_envs, host.cores())
    asked, _ = choose_workers(num_envs, workers)
    return max(1, asked)


class EnvPool(Pool):
    """N environments of a task of dm_control, as EnvPool simulates it."""

    def __init__(
        self, task: str, num_envs: int, seeds: Sequence[int], threads: int
    ) -> None:
        """Build the environments.

        Args:
            task: One of `dmc.TASKS`, compared or not.
            num_envs: How many environments.
            seeds: One per environment.
            threads: How many threads step them.
        """
        super().__init__(dmc.spec(task), num_envs)
        self.where = f"in EnvPool, threads: {threads}"
        self._task, self._threads = task, threads
        self._entries = observed(task)
        layout = row_layout(self.spec, num_envs)
        self._arrays = Rows(*(np.zeros(shape, dtype) for shape, dtype in layout))
        self._envs: Any = None
        self._build(seeds)
        self._actions = Actions(self._envs.action_space, self.spec.name)

    def _build(self, seeds: Sequence[int]) -> None:
        self._close()
        self._unused_seeds: Sequence[int] | None = list(seeds)
        self._envs = importlib.import_module(PACKAGE).make(
            envpool_id(self._task),
            env_type="gymnasium",
            num_envs=self.num_envs,
            num_threads=self._threads,
            # Seeds are signed in C++.
            env_seed=[seed % 2**31 for seed in seeds],
            max_episode_steps=self.spec.episode_length * self.spec.action_repeat,
        )

    @property
    def _rows(self) -> Rows:
        return self._arrays

    def _reset(self, seeds: Sequence[int] | None) -> None:
        if seeds is not None and list(seeds) != self._unused_seeds:
            self._build(seeds)
        self._unused_seeds = None
        first, _ = self._envs.reset()
        self._arrays.observation[:] = self._flat(first)
        self._arrays.reset_observation[:] = self._arrays.observation

    def _send(self) -> None:
        self._controls = self._actions.scale(self._arrays.action)
        self._envs.send(self._controls)

    def _recv(self) -> None:
        rows = self._arrays
        rows.reward[:] = 0.0
        going = np.arange(self.num_envs)
        for repeat in range(self.spec.action_repeat):
            if repeat:
                self._envs.send(self._controls[going], going)
            seen, reward, terminated, truncated, _ = self._envs.recv()
            rows.observation[going] = self._flat(seen)
            rows.reward[going] += reward
            rows.terminated[going], rows.truncated[going] = terminated, truncated
            # What has ended would begin the next episode and give its reward again.
            going = going[~(terminated | truncated)]
            if not going.size:
                break
        self._begin_episodes()

    def _begin_episodes(self) -> None:
        rows = self._arrays
        rows.reset_observation[:] = rows.observation
        ended = np.flatnonzero(rows.terminated | rows.truncated)
        if ended.size:
            first, _ = self._envs.reset(ended)
            rows.reset_observation[ended] = self._flat(first)

    def _flat(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the task's own entries side by side, [n, O]."""
        entries = [observation[name] for name in self._entries]
        flat = [entry.reshape(len(entry), -1) for entry in entries]
        return np.concatenate(flat, axis=1, dtype=np.float32)

    def _close(self) -> None:
        if self._envs is not None:
            self._envs.close()
        self._envs = None  # its threads end with it


def envpool_id(task: str) -> str:
    """Return EnvPool's name of a task, e.g. `CartpoleSwingupSparse-v1`."""
    words = task.replace("-", "_").split("_")
    return "".join(word[:1].upper() + word[1:] for word in words) + "-v1"


def observed(task: str) -> list[str]:
    """Return the entries that a task observes, in dm_control's order."""
    return (_OBSERVED.get(task) or _OBSERVED[task.partition("-")[0]]).split()
