"""Environments that go on with an episode by doing its actions again.

Most simulators do not tell their state. But a running episode follows from a seed, the
random numbers that it began with and its actions, so those are its state here: to go on
from it, the same episode is begun and its actions are done. What is seen and earned
then must be what was, bit for bit. It is not where an environment carries more than
that from one episode to the next; then the episode is given up, with a sentence.
"""

from abc import abstractmethod

import numpy as np

from planprior.envs.base import Env, EnvState, Outcome, StateError
from planprior.envs.generator import generator_state, set_generator_state
from planprior.spec import EnvSpec


class RetracedEnv(Env):
    """An environment whose subclass says how to begin an episode and do an action."""

    def __init__(self, spec: EnvSpec, seed: int, *, simulated: bool) -> None:
        """Keep sizes and seed.

        Args:
            spec: Sizes and lengths.
            seed: Everything random follows from it, until `reset` gets another one.
            simulated: Whether nothing but a simulation moves.
        """
        self.spec = spec
        self._seed, self._simulated = seed, simulated
        # Which episode of the seed it is, as far as that matters: none, first, later.
        self._episode = 0
        self._drawn_from: np.ndarray | None = None
        self._actions: list[np.ndarray] = []
        self._seen, self._earned = np.zeros(spec.observation_dim, np.float32), 0.0

    @abstractmethod
    def _begin(self, seed: int | None) -> np.ndarray:
        """Begin an episode, with a seed one of new random numbers; return what is seen.

        The observation is float32 [O].
        """

    @abstractmethod
    def _act(self, action: np.ndarray) -> Outcome:
        """Do `action` as `step` shall."""

    @abstractmethod
    def _generator(self) -> object:
        """What the environment draws random numbers from, or None if it has nothing."""

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode; the first one follows from the seed it was built with."""
        if seed is None and self._episode:
            generator = _known(self._generator())
            return self._begin_later(generator_state(generator) if generator else None)
        self._seed = self._seed if seed is None else seed
        return self._begin_first()

    def _begin_first(self) -> np.ndarray:
        self._episode, self._drawn_from = 1, np.zeros(6, np.uint64)
        return self._note(self._begin(self._seed))

    def _begin_later(self, drawn_from: np.ndarray | None) -> np.ndarray:
        self._episode, self._drawn_from = 2, drawn_from
        return self._note(self._begin(None))

    def _note(self, first: np.ndarray) -> np.ndarray:
        self._actions.clear()
        self._seen, self._earned = np.array(first), 0.0
        return first

    def step(self, action: np.ndarray) -> Outcome:
        """Do the action, with its repeats, until the episode ends."""
        outcome = self._act(action)
        self._actions.append(np.array(action, np.float32))
        self._seen = np.array(outcome.observation)
        self._earned += outcome.reward
        return outcome

    def state(self) -> EnvState | None:
        """Return what the episode was begun from, its actions, and what came of them.

        None where it may be no simulator, or draws from another generator than
        Gymnasium's.
        """
        if not self._simulated or self._drawn_from is None:
            return None
        actions = np.zeros((self.spec.episode_length, self.spec.action_dim), np.float32)
        actions[: len(self._actions)] = self._actions or 0
        return {
            "seed": np.array(self._seed),
            "episode": np.array(self._episode),
            "drawn_from": self._drawn_from,
            "actions": actions,
            "steps": np.array(len(self._actions)),
            "seen": self._seen,
            "earned": np.array(self._earned),
        }

    def set_state(self, state: EnvState) -> None:
        """Begin the same episode and do its actions again.

        Raises:
            StateError: Something else came of them, or it may be no simulator.
        """
        if not self._simulated:
            raise StateError(f"nothing says that {self.spec.name} is a simulator")
        self._begin_as(state)
        for action in state["actions"][: int(state["steps"])]:
            outcome = self.step(action)
            if outcome.terminated or outcome.truncated:
                break
        done = len(self._actions) == int(state["steps"])
        same = np.array_equal(self._seen, state["seen"])
        if not (done and same and self._earned == float(state["earned"])):
            raise StateError(
                f"with the same seed and actions {self.spec.name} is not where it was "
                f"after {int(state['steps'])} steps of the episode"
            )

    def _begin_as(self, state: EnvState) -> None:
        self._seed = int(state["seed"])
        self._begin_first()
        if int(state["episode"]) == 1:
            return
        generator = _known(self._generator())
        if generator is None:
            raise StateError(
                f"{self.spec.name} draws random numbers otherwise than it did"
            )
        set_generator_state(generator, state["drawn_from"])
        self._begin_later(state["drawn_from"])


def _known(generator: object) -> np.random.Generator | None:
    """The generator, if it is one as Gymnasium makes them: others have other states."""
    if isinstance(generator, np.random.Generator):
        if isinstance(generator.bit_generator, np.random.PCG64):
            return generator
    return None
