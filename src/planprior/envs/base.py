"""The contract between simulators and the rest: one environment.

Axes: O observation, A action. Nothing here imports JAX, because worker processes import
this file.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from planprior.spec import EnvSpec


class EnvError(RuntimeError):
    """An environment failed or broke its contract, in one sentence.

    Attributes:
        environment: Its place in the pool, where it is that of one.
    """

    def __init__(self, sentence: str, environment: int | None = None) -> None:
        super().__init__(sentence)
        self.environment = environment


class StateError(EnvError):
    """An environment is whole, but did not come to the state to go on from."""


def failure(
    what: str, error: BaseException, environment: int | None = None
) -> EnvError:
    """Return the sentence for an error in somebody's environment, with its place.

    Args:
        what: What failed.
        error: Why; its traceback becomes a note.
        environment: Place of the environment in the pool, if it is in one.
    """
    reason = " ".join(str(error).split()) or "no message"
    place = ""
    frames = traceback.extract_tb(error.__traceback__)
    # Where their own code is, rather than the library that it called.
    theirs = [frame for frame in frames if not _is_library(frame.filename)]
    if frames:
        last = (theirs or frames)[-1]
        place = f" ({last.filename}, line {last.lineno})"
    sentence = f"{what} failed: {type(error).__name__}: {reason}{place}"
    told = EnvError(sentence, environment)
    told.add_note("".join(traceback.format_exception(error)))
    return told


def _is_library(file: str) -> bool:
    ours = Path(__file__).parents[1]
    return "site-packages" in file or file.startswith("<") or ours in Path(file).parents


EnvState = Mapping[str, np.ndarray]
"""Plain arrays by name: all that the future of an environment depends on."""


class Outcome(NamedTuple):
    """What one environment answers to one action.

    Attributes:
        observation: What is seen after the action, float32 [O].
        reward: Reward of the action, summed over its repeats.
        terminated: Whether the episode ended by the task's own rule.
        truncated: Whether it ended at the time limit.
        success: Whether the task's goal is met after the action; None where the task
            defines no goal, as `EnvSpec.has_success` says.
    """

    observation: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    success: bool | None = None


class Env(ABC):
    """One environment whose actions fill the box [−1, 1].

    It need not reset itself: a pool calls `reset` after an episode has ended.

    Attributes:
        spec: Its sizes and lengths.
        step_seconds: Simulated time of one step, at which a film of it is shown.
    """

    spec: EnvSpec
    step_seconds: float = 1 / 30

    @abstractmethod
    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode; return its first observation, float32 [O].

        Args:
            seed: Where given, everything random from now on follows from it.
                Otherwise the stream of the last seed goes on.
        """

    @abstractmethod
    def step(self, action: np.ndarray) -> Outcome:
        """Do `action`, float32 [A] in [−1, 1], with all its repeats."""

    def render(self, height: int = 240, width: int = 320) -> np.ndarray:
        """Return a picture of the present state, uint8 [height, width, 3].

        Raises:
            EnvError: It cannot be drawn, or not here.
        """
        raise EnvError(f"{self.spec.name} has no render() to draw a picture with")

    def state(self) -> EnvState | None:
        """Return all that the coming steps depend on, or None if that cannot be told.

        With this and `set_state` a training that resumes goes on in the middle of its
        episodes. The names, shapes and dtypes must always be the same, those right
        after a `reset` included; random generators count, time limits too.
        """
        return None

    def set_state(self, state: EnvState) -> None:
        """Go on from what `state` returned, in this or another process.

        Raises:
            EnvError: The environment cannot do that.
            StateError: It did not come to that state; new episodes can be begun.
        """
        raise EnvError(f"{self.spec.name} has no set_state() to go on with")

    def close(self) -> None:
        """Free what the environment holds."""
        return


def spec_of(env: object) -> EnvSpec:
    """Return the `spec` of an environment.

    Raises:
        EnvError: It has none.
    """
    spec = getattr(env, "spec", None)
    if not isinstance(spec, EnvSpec):
        raise EnvError(
            f"{type(env).__name__} has {spec!r} as its spec; it must be a "
            "planprior.EnvSpec, of its sizes and lengths"
        )
    return spec


EnvMaker = Callable[[int], Env]
"""What builds an environment from its seed; workers must be able to import it."""
