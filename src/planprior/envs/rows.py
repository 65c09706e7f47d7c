"""Environments stepped one after the other, their answers written into shared rows.

Axes: N environments, O observation, A action. A process's own environments and those of
a worker process are stepped by these functions alike.
"""

import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from planprior.envs.base import (
    Env,
    EnvError,
    EnvMaker,
    EnvState,
    Outcome,
    StateError,
    failure,
    spec_of,
)
from planprior.spec import EnvSpec

_LOG = logging.getLogger(__name__)


class Rows(NamedTuple):
    """Actions and answers of N environments, written in place at every step.

    The fields mean what they mean in `Step`.
    """

    action: np.ndarray
    observation: np.ndarray
    reset_observation: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    success: np.ndarray

    def part(self, start: int, stop: int) -> "Rows":
        """Return views of the rows of environments `start` to `stop` − 1."""
        return Rows(*(field[start:stop] for field in self))


def row_layout(spec: EnvSpec, num_envs: int) -> list[tuple[tuple[int, ...], type]]:
    """Return shape and dtype of each field of `Rows`."""
    observation = ((num_envs, spec.observation_dim), np.float32)
    flag = ((num_envs,), np.bool_)
    return [
        ((num_envs, spec.action_dim), np.float32),
        observation,
        observation,
        ((num_envs,), np.float32),
        *(flag, flag, flag),
    ]


def env_seeds(seed: int | Sequence[int], num_envs: int) -> list[int]:
    """Return a seed per environment; that of the i-th is the same for any number.

    Args:
        seed: What they follow from. Several share the environments equally, in order,
            and each of them sees what it would see alone.
        num_envs: How many environments there are.
    """
    seeds = [*seed] if isinstance(seed, Sequence) else [seed]
    if not seeds or num_envs % len(seeds):
        raise ValueError(
            f"{num_envs} environments cannot be shared equally by {len(seeds)} seeds"
        )
    share = num_envs // len(seeds)
    return [child for one in seeds for child in _children(one, share)]


def _children(seed: int, count: int) -> list[int]:
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must be at least 0")
    children = np.random.SeedSequence(seed).spawn(count)
    return [int(child.generate_state(1)[0]) for child in children]


def build_envs(make: EnvMaker, seeds: Sequence[int]) -> list[Env]:
    """Build one environment per seed and check that they are of one kind."""
    envs = [_build(make, seed) for seed in seeds]
    spec = spec_of(envs[0])
    for env in envs:
        if spec_of(env) != spec:
            raise EnvError(f"environments of one pool differ: {env.spec} and {spec}")
    return envs


def _build(make: EnvMaker, seed: int) -> Env:
    try:
        return make(seed)
    except (EnvError, ImportError, ValueError):
        raise
    except Exception as error:
        raise failure("building an environment", error) from error


def close_all(held: Sequence[Any], name: str) -> None:
    """Close each, whatever becomes of the others; what goes wrong is only told.

    Nothing depends on them any more, and it may be an error that led here, which must
    not be hidden by another.

    Args:
        held: What to close.
        name: Of which task it is.
    """
    for one in held:
        try:
            one.close()
        except Exception as error:
            _LOG.warning("%s", failure(f"closing an environment of {name}", error))


def reset_rows(
    envs: Sequence[Env], rows: Rows, seeds: Sequence[int] | None, first: int = 0
) -> None:
    """Start an episode everywhere; `first` is the pool's index of `envs[0]`."""
    for i, env in enumerate(envs):
        with _Naming(env, first + i):
            observation = env.reset(None if seeds is None else seeds[i])
            _store(rows.observation[i], observation)
    rows.reset_observation[:] = rows.observation


def step_rows(envs: Sequence[Env], rows: Rows, first: int = 0) -> None:
    """Do `rows.action`; start the next episode where one ended."""
    for i, env in enumerate(envs):
        with _Naming(env, first + i):
            outcome = env.step(rows.action[i])
            _store(rows.observation[i], outcome.observation)
            rows.reward[i] = outcome.reward
            rows.terminated[i] = outcome.terminated
            rows.truncated[i] = outcome.truncated
            rows.success[i] = _success(env.spec, outcome)
            ended = outcome.terminated or outcome.truncated
            following = env.reset() if ended else rows.observation[i]
            _store(rows.reset_observation[i], following)


def _success(spec: EnvSpec, outcome: Outcome) -> bool:
    if spec.has_success != (outcome.success is not None):
        raise EnvError(
            f"a step's success is {outcome.success}, but the EnvSpec says "
            f"has_success={spec.has_success}"
        )
    return bool(outcome.success)


def read_states(envs: Sequence[Env], first: int = 0) -> list[EnvState | None]:
    """Ask every environment for its state."""
    states = []
    for i, env in enumerate(envs):
        with _Naming(env, first + i):
            state = env.state()
        if state is not None:
            state = {name: np.asarray(value) for name, value in state.items()}
        states.append(state)
    return states


def write_states(
    envs: Sequence[Env], states: Sequence[EnvState], first: int = 0
) -> str:
    """Let every environment go on from its state.

    Returns:
        Why one did not come to it, in a sentence; empty where all did.
    """
    for i, env in enumerate(envs):
        with _Naming(env, first + i):
            try:
                env.set_state(states[i])
            except StateError as error:
                # Not raised in a worker, which ends at the first error.
                return f"environment {first + i}: {error}"
    return ""


class _Naming:
    """Turn an error into one sentence that says which environment it came from.

    Not a generator with `contextmanager`, which costs more than the rest of a row.
    """

    __slots__ = ("env", "index")

    def __init__(self, env: Env, index: int) -> None:
        self.env = env
        self.index = index

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception):
            return
        which = f"environment {self.index} of {self.env.spec.name}"
        if isinstance(error, EnvError):
            raise EnvError(f"{which}: {error}", self.index) from error
        raise failure(which, error, self.index) from error


def _store(row: np.ndarray, value: np.ndarray) -> None:
    # Assigning alone would broadcast an observation of length 1 without a word.
    if np.shape(value) != row.shape:
        raise EnvError(
            f"an observation has shape {np.shape(value)}; EnvSpec says {row.shape}"
        )
    row[:] = value
