"""Tiny environments for the tests of pools; apart so that workers can import them."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from planprior.envs.base import Env, EnvState, Outcome
from planprior.envs.generator import generator_state, set_generator_state
from planprior.spec import EnvSpec


class Counter(Env):
    """Sees its own step counter, the number of its episode and its latest draw.

    Episodes last 3 to 6 steps, depending on the seed. Those of odd seeds terminate.
    """

    def __init__(self, seed: int) -> None:
        self.spec = EnvSpec("toy:counter", 3, 2, 6, can_terminate=True)
        self.length = counter_length(seed)
        self.odd = bool(seed % 2)
        self.random = np.random.default_rng(seed)
        self.count, self.episode = 0, -1

    def reset(self, seed: int | None = None) -> np.ndarray:
        if seed is not None:
            self.random, self.episode = np.random.default_rng(seed), -1
        self.count = 0
        self.episode += 1
        return self.see()

    def see(self) -> np.ndarray:
        draw = self.random.uniform()
        return np.array([self.count, self.episode, draw], np.float32)

    def step(self, action: np.ndarray) -> Outcome:
        self.count += 1
        over = self.count >= self.length
        reward = self.count + float(action[0])
        return Outcome(self.see(), reward, over and self.odd, over and not self.odd)


def counter_length(seed: int) -> int:
    return 3 + seed % 4


class Steady(Counter):
    """Its state can be saved."""

    def state(self) -> EnvState:
        numbers = [self.count, self.episode, self.length, self.odd]
        return {
            "numbers": np.array(numbers),
            "random": generator_state(self.random),
        }

    def set_state(self, state: EnvState) -> None:
        self.count, self.episode, self.length, odd = map(int, state["numbers"])
        self.odd = bool(odd)
        set_generator_state(self.random, state["random"])


class Faulty(Counter):
    """Does `fault` at its second step."""

    def step(self, action: np.ndarray) -> Outcome:
        outcome = super().step(action)
        return self.fault(outcome) if self.count == 2 else outcome

    def fault(self, outcome: Outcome) -> Outcome:
        raise NotImplementedError


class Raising(Faulty):
    def fault(self, outcome: Outcome) -> Outcome:
        raise ZeroDivisionError("the toy broke")


class Hanging(Faulty):
    def fault(self, outcome: Outcome) -> Outcome:
        time.sleep(600)
        return outcome


class Dying(Faulty):
    def fault(self, outcome: Outcome) -> Outcome:
        os.kill(os.getpid(), signal.SIGKILL)
        return outcome


class Leaving(Faulty):
    def fault(self, outcome: Outcome) -> Outcome:
        os._exit(3)


class BlindReward(Faulty):
    def fault(self, outcome: Outcome) -> Outcome:
        return outcome._replace(reward=float("nan"))


class BlindObservation(Faulty):
    def fault(self, outcome: Outcome) -> Outcome:
        return outcome._replace(observation=np.array([1, np.inf, 0], np.float32))


class Shapeless(Faulty):
    def fault(self, outcome: Outcome) -> Outcome:
        return outcome._replace(observation=np.zeros(1, np.float32))


class Unbuildable(Counter):
    def __init__(self, seed: int) -> None:
        raise LookupError("no parts")


class Mixed(Counter):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.spec = EnvSpec("toy:mixed", 3, 2, 6 + seed % 1000)


class Patient(Counter):
    """Says that a step has begun and ends it when told to, both by files."""

    def step(self, action: np.ndarray) -> Outcome:
        folder = Path(os.environ["PATIENT_FOLDER"])
        (folder / "begun").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        return super().step(action)


class Goal(Counter):
    """Meets its goal at every third step."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.spec = EnvSpec("toy:goal", 3, 2, 6, can_terminate=True, has_success=True)

    def step(self, action: np.ndarray) -> Outcome:
        outcome = super().step(action)
        return outcome._replace(success=self.count % 3 == 0)


class Silent(Goal):
    """Does not say what its specification promises."""

    def step(self, action: np.ndarray) -> Outcome:
        return super().step(action)._replace(success=None)


class Liar(Counter):
    """Terminates although its specification says that it cannot."""

    def __init__(self, seed: int) -> None:
        super().__init__(1)
        self.spec = EnvSpec("toy:liar", 3, 2, 6)


class Endless(Counter):
    """Goes on after the limit of its specification."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.spec = EnvSpec("toy:endless", 3, 2, 2)


class Witness(Counter):
    """Sees whether JAX is loaded, the number of BLAS threads and its process."""

    def see(self) -> np.ndarray:
        threads = os.environ.get("OMP_NUM_THREADS", "0")
        seen = ["jax" in sys.modules, threads, os.getpid()]
        return np.array(seen, np.float32)
