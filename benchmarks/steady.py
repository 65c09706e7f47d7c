"""An environment that costs nothing and can tell its state: `steady:make_env`.

A point on a line is pushed towards 0. Some episodes terminate early, at random, so that
everything that a training does with ends is done. Used by `kill.py` and `memory.py`.
"""

import numpy as np

from planprior.envs.base import Env, EnvState, Outcome
from planprior.envs.generator import generator_state, set_generator_state
from planprior.spec import EnvSpec

LENGTH = 50


class Point(Env):
    """Reward is 1 − |position|; the observation is position, time and some noise."""

    spec = EnvSpec("steady:make_env", 3, 1, LENGTH, action_repeat=2, can_terminate=True)

    def __init__(self, seed: int) -> None:
        """Everything random follows from `seed`."""
        self.rng = np.random.default_rng(seed)
        self.steps, self.position = 0, 0.0

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start anywhere."""
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.steps, self.position = 0, float(self.rng.uniform(-1, 1))
        return self._observe()

    def step(self, action: np.ndarray) -> Outcome:
        """Move by a fifth of the action."""
        self.steps += 1
        self.position = float(np.clip(self.position + 0.2 * action[0], -1, 1))
        ends = self.steps >= 10 and bool(self.rng.uniform() < 0.02)
        reward = 1.0 - abs(self.position)
        return Outcome(self._observe(), reward, ends, self.steps >= LENGTH)

    def state(self) -> EnvState:
        """All that `set_state` needs."""
        return {
            "steps": np.array(self.steps),
            "position": np.array(self.position),
            "rng": generator_state(self.rng),
        }

    def set_state(self, state: EnvState) -> None:
        """Go on from what `state` returned."""
        self.steps, self.position = int(state["steps"]), float(state["position"])
        set_generator_state(self.rng, state["rng"])

    def _observe(self) -> np.ndarray:
        noise = self.rng.uniform(-0.1, 0.1)
        return np.array([self.position, self.steps / LENGTH, noise], np.float32)


def make_env(seed: int) -> Point:
    """What `planprior train steady:make_env` calls."""
    return Point(seed)


SETTINGS = (
    *("network.encoder_dim=16", "network.mlp_dim=16", "network.latent_dim=16"),
    *("batch_size=16", "planner.num_samples=16", "planner.num_elites=4"),
    *("planner.num_policy_trajectories=2", "planner.iterations=2"),
    *("reanalysis.num_slices=2",),
)
"""Settings with which programs compile and run in seconds."""
