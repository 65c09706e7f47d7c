"""Environments with one fault each, for `planprior check-env`."""

import numpy as np

from planprior.envs.base import Env, EnvState, Outcome
from planprior.envs.generator import generator_state, set_generator_state
from planprior.spec import EnvSpec


class Fine(Env):
    """A point that is pushed about for 50 steps."""

    spec = EnvSpec("env_toys:fine", 2, 1, 50, can_terminate=True)
    scale, reward_scale = 1.0, 1.0

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def reset(self, seed: int | None = None) -> np.ndarray:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.steps, self.position = 0, self.random.uniform(-1, 1, 2)
        return self.see()

    def see(self) -> np.ndarray:
        return (self.scale * self.position).astype(np.float32)

    def step(self, action: np.ndarray) -> Outcome:
        self.steps += 1
        self.position = 0.9 * self.position + 0.1 * float(action[0])
        reward = self.reward_scale * (1 - abs(float(self.position[0])))
        over = self.steps >= 50
        return Outcome(self.see(), reward, False, over)


class Deaf(Fine):
    def step(self, action: np.ndarray) -> Outcome:
        return super().step(np.zeros(1))


class Thrifty(Fine):
    """Both greatest actions cost the same and move nothing."""

    def step(self, action: np.ndarray) -> Outcome:
        outcome = super().step(np.zeros(1))
        return outcome._replace(reward=outcome.reward - float(action[0]) ** 2)


class Noisy(Fine):
    """Its error looks like a markup's."""

    def step(self, action: np.ndarray) -> Outcome:
        raise RuntimeError("pip install 'planprior[gym]' [/dev/ttyUSB0] timed out")


class Unspecified(Env):
    spec = None  # pyright: ignore

    def __init__(self, seed: int) -> None:
        del seed

    def reset(self, seed: int | None = None) -> np.ndarray:
        raise NotImplementedError

    def step(self, action: np.ndarray) -> Outcome:
        raise NotImplementedError


class Rich(Fine):
    reward_scale = 1e6


class Poor(Fine):
    reward_scale = 1e-4


class Flat(Fine):
    reward_scale = 0.0


class Huge(Fine):
    scale = 5000.0


class Frozen(Fine):
    def see(self) -> np.ndarray:
        return np.ones(2, np.float32)


class Moody(Fine):
    """Draws from a stream that no seed reaches."""

    hidden = np.random.default_rng(0)

    def step(self, action: np.ndarray) -> Outcome:
        self.position = self.position + 0.01 * self.hidden.uniform(-1, 1, 2)
        return super().step(action)


class Timeless(Fine):
    """Does not tell how far its episode is."""

    def state(self) -> EnvState:
        return {
            "position": self.position.copy(),
            "random": generator_state(self.random),
        }

    def set_state(self, state: EnvState) -> None:
        self.position = state["position"].copy()
        set_generator_state(self.random, state["random"])


class Amnesic(Fine):
    """Does not tell what it draws next."""

    def state(self) -> EnvState:
        return {"position": self.position.copy(), "steps": np.array(self.steps)}

    def set_state(self, state: EnvState) -> None:
        self.position, self.steps = state["position"].copy(), int(state["steps"])


class Confused(Fine):
    """Says that its time limit is a termination."""

    def step(self, action: np.ndarray) -> Outcome:
        outcome = super().step(action)
        return outcome._replace(terminated=outcome.truncated, truncated=False)


class Hasty(Fine):
    """Ends after one step."""

    def step(self, action: np.ndarray) -> Outcome:
        return super().step(action)._replace(terminated=True)


class Blind(Fine):
    def see(self) -> np.ndarray:
        return super().see() * (np.nan if self.steps > 20 else 1)


class Slow(Fine):
    def step(self, action: np.ndarray) -> Outcome:
        import time

        time.sleep(0.03)
        return super().step(action)


class Long(Fine):
    spec = EnvSpec("env_toys:long", 2, 1, 100_000)
