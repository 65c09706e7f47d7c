"""A package that behaves as EnvPool does, without simulating anything.

It has EnvPool's habits: observations filled up with other tasks' entries, in another
order than dm_control's; an episode that has ended begins with the next action, which
does nothing and gives the last reward again.
"""

from typing import Any

import numpy as np
from gymnasium.spaces import Box

SIZES = {
    "origin": (3,),
    "egocentric_state": (44,),
    "torso_upright": (),
    "torso_velocity": (3,),
    "imu": (6,),
    "force_torque": (24,),
    "ball_state": (9,),
}
"""Those of EnvPool's quadrupeds, but in another order."""

HIGH = np.tile([1.0, 1.1, 0.8], 4)
LOW = np.tile([-1.0, -1.0, -0.8], 4)

made: list["Envs"] = []
"""Everything that was built, in order."""


def make(task_id: str, **options: Any) -> "Envs":
    made.append(Envs(task_id, **options))
    return made[-1]


class Envs:
    """N environments; each observes how far it is, from its seed on.

    Attributes:
        ends: At which step of an episode an environment terminates, by its number.
        actions: All that were carried out, with the environment's number.
    """

    def __init__(
        self, task_id: str, *, env_type: str, num_envs: int, num_threads: int,
        env_seed: list[int], max_episode_steps: int,
    ) -> None:  # fmt: skip
        assert env_type == "gymnasium" and len(env_seed) == num_envs
        assert all(0 <= seed < 2**31 for seed in env_seed)
        self.task_id, self.threads, self.seeds = task_id, num_threads, env_seed
        self.action_space = Box(LOW, HIGH, dtype=np.float64)
        self.limit = max_episode_steps
        self.ends: dict[int, int] = {}
        self.actions: list[tuple[int, np.ndarray]] = []
        self.closed = False
        self._elapsed = np.zeros(num_envs, int)
        self._episode = np.zeros(num_envs, int)
        self._reward = np.zeros(num_envs, np.float32)
        self._done = np.ones(num_envs, bool)
        self._due: np.ndarray | None = None

    def reset(self, env_id: np.ndarray | None = None) -> tuple[dict, dict]:
        which = np.arange(len(self.seeds)) if env_id is None else env_id
        assert self._due is None
        for i in which.tolist():
            self._begin(i)
        return self._observe(which), {}

    def send(self, action: np.ndarray, env_id: np.ndarray | None = None) -> None:
        which = np.arange(len(self.seeds)) if env_id is None else env_id
        assert self._due is None and action.dtype == np.float64
        assert action.shape == (len(which), 12)
        for i, one in zip(which.tolist(), action, strict=True):
            if self._done[i]:
                self._begin(i)  # the action is lost, the reward stays
                continue
            self.actions.append((i, one))
            self._elapsed[i] += 1
            self._reward[i] = self._elapsed[i]
            self._done[i] = self._elapsed[i] in (self.limit, self.ends.get(i))
        self._due = which

    def recv(self) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray, dict]:
        which, self._due = self._due, None
        assert which is not None
        done = self._done[which]
        truncated = done & (self._elapsed[which] >= self.limit)
        observation = self._observe(which)
        return observation, self._reward[which], done & ~truncated, truncated, {}

    def close(self) -> None:
        self.closed = True

    def _begin(self, i: int) -> None:
        self._elapsed[i], self._done[i] = 0, False
        self._episode[i] += 1

    def _observe(self, which: np.ndarray) -> dict[str, np.ndarray]:
        """Entry k of the list is 100 k + what the environment is at."""
        at = self._elapsed[which] + 0.25 * self._episode[which]
        return {
            name: np.zeros((len(which), *shape)) + 100 * k + _column(at, shape)
            for k, (name, shape) in enumerate(SIZES.items())
        }


def _column(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return values.reshape(-1, *[1] * len(shape))
