"""A pool: N environments of one task that are stepped together.

Axes: N environments, O observation, A action.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from planprior.envs.base import EnvError, EnvMaker, EnvState, StateError
from planprior.envs.rows import (
    Rows,
    build_envs,
    close_all,
    env_seeds,
    read_states,
    reset_rows,
    row_layout,
    step_rows,
    write_states,
)
from planprior.spec import EnvSpec


class Step(NamedTuple):
    """One step of N environments.

    Environments whose episode ended have begun the next one in the same step, and
    both sides of that border are here: the last observation of the old episode and
    the first of the new one. Ready-made vector environments may begin it in the next
    step instead, whose action then does nothing: `begun` says where, `acted` that the
    step is no transition.

    Attributes:
        observation: What is seen after the action, [N, O]; the true last observation
            where the episode ended.
        reward: Rewards, [N].
        terminated: Which episodes ended by the task's own rule, [N].
        truncated: Which episodes ended at the time limit, [N].
        reset_observation: What the next action is chosen from, [N, O]: the first
            observation of the next episode where one has begun, else `observation`.
        begun: Which environments began an episode in this step, [N].
        episode_return: Sum of the episode's rewards up to this step, [N].
        episode_length: Steps of the episode up to this one, [N].
        success: Where the task's goal is met after the action, [N]; at the end of an
            episode this is its success. All False where `EnvSpec.has_success` is.
    """

    observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    reset_observation: np.ndarray
    begun: np.ndarray
    episode_return: np.ndarray
    episode_length: np.ndarray
    success: np.ndarray

    @property
    def ended(self) -> np.ndarray:
        """Which episodes ended, for whatever reason, [N]."""
        return self.terminated | self.truncated

    @property
    def acted(self) -> np.ndarray:
        """Where the action was carried out: not where the step only began an episode.

        [N].
        """
        return self.ended | ~self.begun


class Pool(ABC):
    """N environments of one task that are stepped together.

    `send` starts a step and `recv` waits for it, so that other work fits between
    them; `step` does both. Arrays that are handed out are never written again.

    Attributes:
        spec: Sizes and lengths of every environment.
        num_envs: How many there are.
        on_device: Whether they are JAX programs; see `device.py`.
        where: Where they are stepped, in words, if not here or in worker processes.
    """

    spec: EnvSpec
    num_envs: int
    on_device = False
    where = ""

    def __init__(self, spec: EnvSpec, num_envs: int) -> None:
        self.spec = spec
        self.num_envs = num_envs
        self._due = "reset"
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)

    def reset(self, seed: int | Sequence[int] | None = None) -> np.ndarray:
        """Start an episode in every environment; return what is seen, [N, O].

        Args:
            seed: Where given, all environments are seeded anew, each differently, as
                if the pool had just been built with this seed (or these: `env_seeds`).
        """
        if self._due != "reset":
            self._expect("send", "reset")
        self._reset(None if seed is None else env_seeds(seed, self.num_envs))
        self._returns[:] = 0
        self._lengths[:] = 0
        self._due = "send"
        self._check_finite("observation", self._rows.observation)
        return self._rows.observation.copy()

    def send(self, actions: ArrayLike) -> None:
        """Start a step with `actions`, [N, A]; clip them to [−1, 1]."""
        self._expect("send", "send")
        actions = np.asarray(actions, np.float32)
        self._check_actions(actions)
        np.clip(actions, -1.0, 1.0, out=self._rows.action)
        self._send()
        self._due = "recv"

    def recv(self) -> Step:
        """Wait for the step that `send` started."""
        self._expect("recv", "recv")
        self._recv()
        self._due = "send"
        return self._collect()

    def step(self, actions: ArrayLike) -> Step:
        """Do `actions` and wait for the answers."""
        self.send(actions)
        return self.recv()

    def state(self) -> dict[str, Any] | None:
        """Return what the coming steps depend on, a tree of arrays.

        None unless every environment can tell. Between steps, not within one.
        """
        self._expect("send", "state")
        states = self._read_states()
        known = {f"{i:06d}": state for i, state in enumerate(states) if state}
        if len(known) < self.num_envs:
            return None
        return {
            "environments": known,
            "observation": self._rows.reset_observation.copy(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
        }

    def set_state(self, state: Mapping[str, Any]) -> np.ndarray:
        """Go on from what `state` returned; return what is seen there, [N, O].

        Raises:
            StateError: An environment did not come to its state. `reset` is due then.
        """
        environments = state["environments"]
        lost = self._write_states([environments[name] for name in sorted(environments)])
        if lost:
            self._due = "reset"
            raise StateError(lost)
        self._rows.reset_observation[:] = state["observation"]
        self._returns[:], self._lengths[:] = state["returns"], state["lengths"]
        self._due = "send"
        return self._rows.reset_observation.copy()

    def bytes_on_device(self) -> int:
        """Return what each environment takes of the memory of JAX's device."""
        return 0

    def close(self) -> None:
        """Close every environment; the pool cannot be used afterwards."""
        self._due = "nothing: it is closed"
        self._close()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abstractmethod
    def _rows(self) -> Rows: ...

    @abstractmethod
    def _reset(self, seeds: Sequence[int] | None) -> None: ...

    @abstractmethod
    def _send(self) -> None: ...

    @abstractmethod
    def _recv(self) -> None: ...

    def _read_states(self) -> Sequence[EnvState | None]:
        return [None] * self.num_envs

    def _write_states(self, states: Sequence[EnvState]) -> str:
        """Return why an environment did not come to its state, if one did not."""
        raise EnvError(f"a pool of {self.spec.name} cannot go on from a state")

    @abstractmethod
    def _close(self) -> None: ...

    def _begun(self) -> np.ndarray:
        """Where the step just made began an episode: by rule, where one ended."""
        return self._rows.terminated | self._rows.truncated

    def _expect(self, call: str, called: str) -> None:
        if self._due != call:
            raise RuntimeError(
                f"{called}() was called on a pool of {self.spec.name} whose next call "
                f"is {self._due}"
            )

    def _collect(self) -> Step:
        rows = self._rows
        for field in ("observation", "reward", "reset_observation"):
            self._check_finite(field, getattr(rows, field))
        begun = self._begun()
        acted = rows.terminated | rows.truncated | ~begun
        self._returns += rows.reward * acted
        self._lengths += acted
        self._check_ends()
        step = Step(
            observation=rows.observation.copy(),
            reward=rows.reward.copy(),
            terminated=rows.terminated.copy(),
            truncated=rows.truncated.copy(),
            reset_observation=rows.reset_observation.copy(),
            begun=begun,
            episode_return=self._returns.copy(),
            episode_length=self._lengths.copy(),
            success=rows.success.copy(),
        )
        self._returns[step.ended] = 0
        self._lengths[step.ended] = 0
        return step

    def _check_actions(self, actions: np.ndarray) -> None:
        wanted = (self.num_envs, self.spec.action_dim)
        if actions.shape != wanted:
            raise ValueError(
                f"actions have shape {actions.shape}; {self.num_envs} environments of "
                f"{self.spec.name} need {wanted}"
            )
        if not np.isfinite(actions).all():
            env, entry = np.argwhere(~np.isfinite(actions))[0]
            raise ValueError(
                f"the action for environment {env} of {self.spec.name} is "
                f"{actions[env, entry]} at entry {entry}; actions must be finite "
                "numbers in [−1, 1]"
            )

    def _check_ends(self) -> None:
        """Check what the replay and the wait for an episode's end rely on."""
        rows, spec = self._rows, self.spec
        if rows.terminated.any() and not spec.can_terminate:
            which = int(rows.terminated.argmax())
            raise EnvError(
                f"environment {which} of {spec.name} terminated, but "
                f"{_promise(spec.name)}",
                which,
            )
        late = ~rows.terminated & ~rows.truncated
        late &= self._lengths >= spec.episode_length
        if late.any():
            which = int(late.argmax())
            raise EnvError(
                f"environment {which} of {spec.name} goes on after "
                f"{spec.episode_length} steps, which {_teller(spec.name)} says is the "
                "limit",
                which,
            )

    def _check_finite(self, field: str, values: np.ndarray) -> None:
        if np.isfinite(values).all():
            return
        env, *entry = np.argwhere(~np.isfinite(values))[0]
        where = f" at entry {entry[0]}" if entry else ""
        raise EnvError(
            f"environment {env} of {self.spec.name} returned {values[env, *entry]} in "
            f"its {field}{where}; the simulation has diverged",
            int(env),
        )


def _promise(name: str) -> str:
    """What said that no episode terminates: an option in the name, or the spec."""
    if ",terminates=no" in name:
        return "the option terminates=no promises that it never does; leave it out"
    return "its EnvSpec says can_terminate=False"


def _teller(name: str) -> str:
    """What said when an episode is cut off: an option in the name, or the spec."""
    return "the option episode_length" if ",episode_length=" in name else "its EnvSpec"


class LocalPool(Pool):
    """Environments in this process, stepped one after the other by `recv`.

    Attributes:
        envs: The environments, e.g. to render one.
    """

    def __init__(
        self, make: EnvMaker, num_envs: int, seed: int | Sequence[int]
    ) -> None:
        self.envs = build_envs(make, env_seeds(seed, num_envs))
        super().__init__(self.envs[0].spec, num_envs)
        layout = row_layout(self.spec, num_envs)
        self._arrays = Rows(*(np.zeros(shape, dtype) for shape, dtype in layout))

    @property
    def _rows(self) -> Rows:
        return self._arrays

    def _reset(self, seeds: Sequence[int] | None) -> None:
        reset_rows(self.envs, self._arrays, seeds)

    def _send(self) -> None:
        # The work is done in `recv`: the caller has dispatched the learner by then.
        return

    def _recv(self) -> None:
        step_rows(self.envs, self._arrays)

    def _read_states(self) -> Sequence[EnvState | None]:
        return read_states(self.envs)

    def _write_states(self, states: Sequence[EnvState]) -> str:
        return write_states(self.envs, states)

    def _close(self) -> None:
        close_all(self.envs, self.spec.name)
