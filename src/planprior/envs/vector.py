"""Vector environments that come ready-made: Gymnasium's `VectorEnv` as a pool.

Gymnasium lets them begin the next episode in one of three ways
(`metadata["autoreset_mode"]`), and all deliver the true last observation here:

- same step: the first observation of the next episode takes its place, and it is in
  `info["final_obs"]`;
- next step: it is returned as it is; the next action does nothing but begin an episode
  (`Step.begun`, and not `Step.acted`);
- disabled: this pool begins the next episode at once, by `reset` with a `reset_mask`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from planprior.envs.base import Env, EnvError, Outcome, failure
from planprior.envs.gym import episode_steps, resized, seconds_a_step, time_limit
from planprior.envs.options import TaskOptions
from planprior.envs.pool import Pool
from planprior.envs.rows import Rows, close_all, row_layout
from planprior.envs.spaces import Actions, Observations
from planprior.spec import EnvSpec

MODES = {"NextStep": "next step", "SameStep": "same step", "Disabled": "disabled"}


def is_vector(made: object) -> bool:
    """Whether something is a Gymnasium `VectorEnv`, without importing that."""
    return any(
        kind.__module__.startswith("gymnasium.vector") and kind.__name__ == "VectorEnv"
        for kind in type(made).__mro__
    )


class VectorPool(Pool):
    """N environments that are one object.

    Attributes:
        env: The vector environment.
        actions: The box of one environment's actions.
        observations: The parts of one environment's observations.
        mode: When it begins the next episode, one of `MODES`.
    """

    where = "in the task's own vector environment, whatever --workers says"

    def __init__(
        self, env: Any, num_envs: int, name: str, seeds: Sequence[int],
        options: TaskOptions,
    ) -> None:  # fmt: skip
        """Wrap a vector environment.

        Args:
            env: The vector environment.
            num_envs: How many environments it must have.
            name: Its task's full name.
            seeds: One per environment, of the first episodes. Gymnasium's own take
                them all; others get the first alone.
            options: Its task's options.

        Raises:
            EnvError: It cannot be trained in, in one sentence.
        """
        self.env = env
        self._seeds: Sequence[int] | None = seeds
        self.actions = Actions(env.single_action_space, name)
        self.observations = Observations(env.single_observation_space, name)
        self.mode = _mode(env, name)
        _check_numbers(env, num_envs, name, options)
        spec = EnvSpec(
            name=name,
            observation_dim=self.observations.size,
            action_dim=self.actions.size,
            episode_length=_episode_steps(env, name, options),
            can_terminate=options.terminates is not False,
        )
        super().__init__(spec, num_envs)
        layout = row_layout(spec, num_envs)
        self._arrays = Rows(*(np.zeros(shape, dtype) for shape, dtype in layout))
        self._due_reset = np.zeros(num_envs, bool)
        self._now_begun = np.zeros(num_envs, bool)

    @property
    def _rows(self) -> Rows:
        return self._arrays

    def _begun(self) -> np.ndarray:
        return self._now_begun.copy()

    def _reset(self, seeds: Sequence[int] | None) -> None:
        seeds, self._seeds = seeds or self._seeds, None
        with _Telling(self.spec.name):
            observation, _ = self.env.reset(seed=self._seed_for(seeds))
            self._arrays.observation[:] = self._flat(observation)
        self._arrays.reset_observation[:] = self._arrays.observation
        self._due_reset &= self._begins_twice

    @property
    def _begins_twice(self) -> bool:
        """Whether an episode that is due begins once more after a reset.

        Gymnasium's workers forget what is due at a reset by shared memory alone
        (1.4.0, `gymnasium/vector/async_vector_env.py`).
        """
        return not getattr(self.env.unwrapped, "shared_memory", True)

    def _seed_for(self, seeds: Sequence[int] | None) -> Any:
        if seeds is None:
            return None
        # The interface promises no more than one number.
        takes_all = type(self.env).__module__.startswith("gymnasium.vector")
        return [int(seed) for seed in seeds] if takes_all else int(seeds[0])

    def _send(self) -> None:
        # Those that have workers of their own start now; the others work in `_recv`.
        if hasattr(self.env, "step_async"):
            with _Telling(self.spec.name):
                self.env.step_async(self._controls())

    def _recv(self) -> None:
        with _Telling(self.spec.name):
            if hasattr(self.env, "step_async"):
                answer = self.env.step_wait()
            else:
                answer = self.env.step(self._controls())
            self._take(*answer)

    def _controls(self) -> np.ndarray:
        return self.actions.scale(self._arrays.action)

    def _take(
        self, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any
    ) -> None:
        rows = self._arrays
        acted = ~self._due_reset
        rows.reward[:] = np.where(acted, reward, 0.0)
        rows.terminated[:] = np.asarray(terminated, bool) & acted
        rows.truncated[:] = np.asarray(truncated, bool) & acted & ~rows.terminated
        ended = rows.terminated | rows.truncated
        flat = self._flat(observation)
        rows.observation[:] = flat
        rows.reset_observation[:] = flat
        if self.mode == "next step":
            self._now_begun, self._due_reset = self._due_reset, ended
            return
        self._now_begun = ended
        if self.mode == "same step":
            for i in map(int, np.flatnonzero(ended)):
                rows.observation[i] = self.observations.flatten(_final(info, i))
        elif ended.any():
            first, _ = self.env.reset(options={"reset_mask": ended})
            rows.reset_observation[ended] = self._flat(first)[ended]

    def _flat(self, observation: Any) -> np.ndarray:
        return self.observations.flatten_all(observation, (self.num_envs,))

    def _close(self) -> None:
        close_all([self.env], self.spec.name)


class Single(Env):
    """One environment of a function that makes several, e.g. to film or control it."""

    def __init__(self, pool: VectorPool) -> None:
        """Take over a pool of one."""
        self._pool, self.spec = pool, pool.spec
        inner = getattr(pool.env.unwrapped, "envs", None) or [pool.env]
        self.step_seconds = seconds_a_step(inner[0])

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode, wherever the last one is."""
        return self._pool.reset(seed)[0]

    def step(self, action: np.ndarray) -> Outcome:
        """Do the action."""
        step = self._pool.step(np.asarray(action)[None])
        flags = (bool(step.terminated[0]), bool(step.truncated[0]))
        return Outcome(step.observation[0], float(step.reward[0]), *flags)

    def render(self, height: int = 240, width: int = 320) -> np.ndarray:
        """Return a picture, as far as the vector environment draws its own."""
        with _Telling(self.spec.name):
            pictures = self._pool.env.render()
        picture = np.asarray(pictures[0] if pictures is not None else None)
        if picture.ndim != 3:
            return super().render(height, width)
        return resized(picture, height, width)

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()


class _Telling:
    """Turn an error of the vector environment into one sentence."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, EnvError):
            raise EnvError(f"{self.name}: {error}") from error
        if isinstance(error, Exception):
            raise failure(self.name, error) from error


def _final(info: dict[str, Any], i: int) -> Any:
    if "final_obs" not in info:
        raise EnvError(
            "an episode ended in a vector environment of autoreset mode 'same step', "
            "but its info has no 'final_obs'"
        )
    return _entry(info["final_obs"], i)


def _entry(batch: Any, i: int) -> Any:
    """Entry i of N observations, whether each of its parts holds N or is one of N."""
    if isinstance(batch, dict):
        return {key: _entry(part, i) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_entry(part, i) for part in batch)
    return batch[i]


def _mode(env: Any, name: str) -> str:
    mode = getattr(env, "metadata", {}).get("autoreset_mode")
    value = getattr(mode, "value", mode)
    if value not in MODES:
        raise EnvError(
            f"{name} does not say when it begins the next episode: its "
            f"metadata['autoreset_mode'] is {mode!r}; it must be a "
            "gymnasium.vector.AutoresetMode"
        )
    return MODES[value]


def _limit(env: Any) -> int | None:
    """The time limit that all environments share, as far as it can be asked for."""
    own = time_limit(env)
    inner = getattr(env.unwrapped, "envs", None)
    if own:
        return own
    if inner:
        limits = {time_limit(one) for one in inner}
    elif hasattr(env, "get_attr"):  # they live in processes of their own
        specs = env.get_attr("spec")
        limits = {getattr(spec, "max_episode_steps", None) for spec in specs}
    else:
        return None
    return limits.pop() if len(limits) == 1 else None


def _episode_steps(env: Any, name: str, options: TaskOptions) -> int:
    """The limit at which it truncates; nothing here could cut an episode off earlier.

    Raises:
        EnvError: None is known, or the option names another.
    """
    own, asked = _limit(env), options.episode_length
    if own and asked and asked != own:
        raise EnvError(
            f"episode_length of {name} is {asked}; it must be {own}, at which the "
            "vector environment truncates episodes itself"
        )
    return episode_steps(own, name, options)


def _check_numbers(env: Any, num_envs: int, name: str, options: TaskOptions) -> None:
    if env.num_envs != num_envs:
        raise EnvError(
            f"{name} made {env.num_envs} environments where {num_envs} were asked for; "
            "its function must use its parameter num_envs"
        )
    if options.success:
        raise EnvError(f"success of {name} is yes; vector environments do not tell it")
    if options.simulated:
        raise EnvError(
            f"simulated of {name} is yes; when a training goes on, vector environments "
            "begin new episodes in any case"
        )
    if options.action_repeat != 1:
        raise EnvError(
            f"action_repeat of {name} is {options.action_repeat}; it must be 1 for a "
            "vector environment, which repeats actions itself if at all"
        )
