"""An environment that a tiny agent learns in seconds, for tests of the whole."""

import dataclasses
from typing import Any

import numpy as np

from planprior.envs.base import Env, EnvState, Outcome
from planprior.envs.generator import generator_state, set_generator_state
from planprior.spec import EnvSpec

LENGTH = 10
BEST = 0.5


class Aim(Env):
    """Reward is 1 − |a − 0.5|; the observation tells the time and some noise."""

    spec = EnvSpec("toys:aim", 3, 1, LENGTH, action_repeat=2)

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.steps = 0

    def reset(self, seed: int | None = None) -> np.ndarray:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.steps = 0
        return self._observe()

    def step(self, action: np.ndarray) -> Outcome:
        self.steps += 1
        reward = 1.0 - abs(float(action[0]) - BEST)
        return Outcome(self._observe(), reward, False, self.steps >= LENGTH)

    def _observe(self) -> np.ndarray:
        noise = self.rng.uniform(-0.1, 0.1, 2)
        return np.array([self.steps / LENGTH, *noise], np.float32)


class Wide(Aim):
    """One number more to see, which is always 0, and one action more, of no effect."""

    spec = EnvSpec("toys:wide", 4, 2, LENGTH, action_repeat=2)

    def _observe(self) -> np.ndarray:
        return np.append(super()._observe(), np.float32(0))


class Uneven(Aim):
    """Episodes that terminate at different times; the goal is to end before half."""

    spec = EnvSpec("toys:uneven", 3, 1, LENGTH, 2, can_terminate=True, has_success=True)

    def step(self, action: np.ndarray) -> Outcome:
        outcome = super().step(action)
        ends = self.steps >= 4 and bool(self.rng.uniform() < 0.3)
        early = ends and self.steps <= LENGTH / 2
        return outcome._replace(terminated=ends, success=early)


class Steady(Uneven):
    """The same, and its state can be saved."""

    spec = dataclasses.replace(Uneven.spec, name="toys:steady")

    def state(self) -> EnvState:
        return {"steps": np.array(self.steps), "rng": generator_state(self.rng)}

    def set_state(self, state: EnvState) -> None:
        self.steps = int(state["steps"])
        set_generator_state(self.rng, state["rng"])


class Doomed(Steady):
    """Returns NaN in step 41, whatever is done; so does whoever goes on from there."""

    spec = dataclasses.replace(Uneven.spec, name="toys:doomed")
    made = 0

    def reset(self, seed: int | None = None) -> np.ndarray:
        if seed is not None:
            self.made = 0
        return super().reset(seed)

    def step(self, action: np.ndarray) -> Outcome:
        self.made += 1
        outcome = super().step(action)
        return outcome._replace(reward=np.nan) if self.made == 41 else outcome

    def state(self) -> EnvState:
        return {**super().state(), "made": np.array(self.made)}

    def set_state(self, state: EnvState) -> None:
        super().set_state(state)
        self.made = int(state["made"])


class Broken(Aim):
    """Returns NaN from step `lasts` on, counting those of all environments."""

    spec = EnvSpec("toys:broken", 3, 1, LENGTH, action_repeat=2)
    made, lasts = 0, 30

    def step(self, action: np.ndarray) -> Outcome:
        Broken.made += 1
        outcome = super().step(action)
        return outcome._replace(reward=np.nan) if Broken.made > self.lasts else outcome


class Brief(Aim):
    """Episodes of two steps, shorter than the horizon."""

    spec = EnvSpec("toys:brief", 3, 1, LENGTH, action_repeat=2, can_terminate=True)

    def step(self, action: np.ndarray) -> Outcome:
        return super().step(action)._replace(terminated=self.steps >= 2)


class Ladder(Env):
    """Pays more from step to step; the k-th one built lasts 4 + k, then terminates.

    The observation tells all: which one, the step, what is left; faintly the episode.
    """

    spec = EnvSpec("toys:ladder", 4, 1, LENGTH, can_terminate=True)
    built = 0

    def __init__(self, seed: int) -> None:
        self.which = Ladder.built
        Ladder.built += 1
        self.steps, self.episode = 0, -1

    @property
    def length(self) -> int:
        return 4 + self.which

    def reset(self, seed: int | None = None) -> np.ndarray:
        self.episode = 0 if seed is not None else self.episode + 1
        self.steps = 0
        return self._observe()

    def step(self, action: np.ndarray) -> Outcome:
        self.steps += 1
        return Outcome(self._observe(), self.steps, self.steps >= self.length, False)

    def _observe(self) -> np.ndarray:
        return ladder_state(self.which, self.steps, self.length, self.episode)


def ladder_state(which: int, steps: int, length: int, episode: int = 0) -> np.ndarray:
    left = length - steps
    return np.array([which / 2, steps / 2, left / 2, episode / 2**12], np.float32)


class Snake(Ladder):
    """Its lengths change from episode to episode; every other one is truncated.

    It pays what it shows and is told.
    """

    spec = EnvSpec("toys:snake", 4, 1, LENGTH, can_terminate=True)

    @property
    def length(self) -> int:
        return 4 + (3 * self.episode + self.which) % 5

    def step(self, action: np.ndarray) -> Outcome:
        outcome = super().step(action)
        cut = outcome.terminated and self.episode % 2 == 1
        reward = 100 * self.which + 10 * self.steps + float(action[0])
        return Outcome(outcome.observation, reward, outcome.terminated and not cut, cut)


ladder, snake = Ladder, Snake
aim, uneven, broken, brief = Aim, Uneven, Broken, Brief
steady, doomed, wide = Steady, Doomed, Wide

TINY = {
    "network.encoder_dim": 16,
    "network.mlp_dim": 16,
    "network.latent_dim": 16,
    "horizon": 2,
    "batch_size": 16,
    "planner.num_samples": 16,
    "planner.num_elites": 4,
    "planner.num_policy_trajectories": 2,
    "planner.iterations": 2,
    "reanalysis.num_slices": 2,
}
"""Settings with which the programs compile and run in seconds."""

UNEVEN: dict[str, Any] = {
    "method": "bmpc",
    "num_envs": 2,
    "buffer_size": 60,
    "settings": TINY
    | {
        "reanalysis.interval": 3,
        "policy.imitation_only": False,
        "policy.learn_in_pretraining": True,
    },
}
"""Options of trainings on `toys:uneven`: equal ones share what is compiled.

As `bmpc` does, but for a policy that learns from returns too and from the first update
on: any prior weight, and one program for all updates.
"""
