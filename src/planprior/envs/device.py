"""Environments that are pure JAX functions, and pools of them on the device.

What an environment of one's own must offer is `DeviceEnv`, written for one
environment; `begin` and `advance` map it over N, count steps and begin the next episode
where one ended. They can be part of a larger compiled program, which is what
`device_loop.py` makes of them; `DevicePool` wraps them for everything that is written
for pools, and keeps them for that program.

Environment i's randomness follows from its key and from the number of its episode, so
it is the same however many there are and however their steps are compiled.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from planprior.envs.base import Env, EnvError, Outcome, failure, spec_of
from planprior.envs.pool import Pool, Step
from planprior.envs.rows import Rows, env_seeds, row_layout
from planprior.spec import EnvSpec

State = Any
"""Whatever an environment remembers between steps: a tree of arrays."""


class Reply(NamedTuple):
    """What one environment answers to one action; see `envs.base.Outcome`.

    Attributes:
        observation: What is seen after the action.
        reward: Reward of the action, summed over its repeats.
        terminated: Whether the episode ended by the task's own rule. The time limit is
            not the environment's business.
        success: Whether the task's goal is met; ignored where the task defines none.
    """

    observation: Float[Array, "O"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]
    success: Bool[Array, ""] | bool = False


class DeviceEnv(ABC):
    """One environment as pure functions, whose actions fill the box [−1, 1].

    Attributes:
        spec: Its sizes and lengths.
        step_seconds: Simulated time of one step, at which a film of it is shown.
    """

    on_device = True
    spec: EnvSpec
    step_seconds: float = 1 / 30

    @abstractmethod
    def reset(self, *, key: Key[Array, ""]) -> tuple[State, Float[Array, "O"]]:
        """Start an episode; return its state and first observation."""

    @abstractmethod
    def step(self, state: State, action: Float[Array, "A"]) -> tuple[State, Reply]:
        """Do `action` with all its repeats."""

    def render(self, state: State, height: int, width: int) -> np.ndarray:
        """Return a picture of a state, uint8 [height, width, 3].

        Raises:
            EnvError: It cannot be drawn.
        """
        raise EnvError(f"{self.spec.name} has no render() to draw a picture with")


def from_brax(
    env: Any,
    *,
    name: str,
    episode_length: int,
    action_repeat: int = 1,
    can_terminate: bool = True,
    step_seconds: float = 1 / 30,
) -> DeviceEnv:
    """Take an environment of Brax or MuJoCo Playground, without their wrappers.

    Args:
        env: What has `reset(rng)` and `step(state, action)`, whose states have `obs`,
            `reward` and `done`, and `action_size`. Observations may be flat arrays or
            dictionaries of them, which are joined in the order of their names.
        name: The task's full name.
        episode_length: Agent steps until the time limit.
        action_repeat: Its steps per agent step; their rewards are summed, and none is
            made after an end.
        can_terminate: Whether `done` may come before the time limit.
        step_seconds: Simulated time of one agent step.
    """
    return _Brax(env, name, episode_length, action_repeat, can_terminate, step_seconds)


class _Brax(DeviceEnv):
    """See `from_brax`."""

    def __init__(
        self,
        env: Any,
        name: str,
        episode_length: int,
        action_repeat: int,
        can_terminate: bool,
        step_seconds: float,
    ) -> None:
        self.env, self.step_seconds = env, step_seconds
        self._repeat = action_repeat
        first = jax.eval_shape(lambda: _flatten(env.reset(jax.random.key(0)).obs))
        self.spec = EnvSpec(
            name=name,
            observation_dim=first.size,
            action_dim=int(env.action_size),
            episode_length=episode_length,
            action_repeat=action_repeat,
            can_terminate=can_terminate,
        )

    def reset(self, *, key: Key[Array, ""]) -> tuple[State, Float[Array, "O"]]:
        """Start an episode."""
        state = self.env.reset(key)
        later = jax.eval_shape(self.env.step, state, jnp.zeros(self.spec.action_dim))
        return _typed(state, later), _flatten(state.obs)

    def step(self, state: State, action: Float[Array, "A"]) -> tuple[State, Reply]:
        """Do the action as often as it is repeated."""

        def again(carry: Any, _: None) -> Any:
            state, reward, done = carry
            after = self.env.step(state, action)
            reward += jnp.where(done, 0.0, after.reward)
            state = jax.tree.map(lambda a, b: jnp.where(done, a, b), state, after)
            return (state, reward, done | after.done.astype(bool)), None

        # A loop, because a simulator takes its time to compile.
        start = (state, jnp.zeros(()), jnp.zeros((), bool))
        (state, reward, done), _ = jax.lax.scan(again, start, length=self._repeat)
        return state, Reply(_flatten(state.obs), reward, done)

    def render(self, state: State, height: int, width: int) -> np.ndarray:
        """Return a picture, as far as the environment can draw itself."""
        try:
            return np.asarray(self.env.render([state], height=height, width=width)[0])
        except Exception as error:
            raise EnvError(
                f"{self.spec.name} cannot be rendered: {error}; on a Linux machine "
                "without a screen, set MUJOCO_GL=egl"
            ) from error


def _flatten(observation: Any) -> Float[Array, "O"]:
    parts = jax.tree.leaves(observation)
    return jnp.concatenate([jnp.ravel(x) for x in parts]).astype(jnp.float32)


class Envs(NamedTuple):
    """N environments in the middle of their episodes.

    Attributes:
        state: Their states, with N as first axis.
        observation: What the next action is chosen from.
        episode_return: Sums of rewards so far.
        episode_length: Steps so far.
        episode: Number of the episode of each, from which its first state follows.
    """

    state: State
    observation: Float[Array, "N O"]
    episode_return: Float[Array, "N"]
    episode_length: Int[Array, "N"]
    episode: Int[Array, "N"]


def env_keys(seeds: Sequence[int]) -> Key[Array, "N"]:
    """One key per environment, from the seeds that `base.env_seeds` gives."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


def begin(env: DeviceEnv, keys: Key[Array, "N"], episode: Int[Array, "N"]) -> Envs:
    """Start an episode in every environment.

    Args:
        env: What to map.
        keys: One per environment.
        episode: Which of its episodes to start.
    """
    state, observation = _reset(env, keys, episode)
    zero = jnp.zeros(len(episode))
    return Envs(state, observation, zero, zero.astype(jnp.int32), episode)


def advance(
    env: DeviceEnv, envs: Envs, action: Float[Array, "N A"], keys: Key[Array, "N"]
) -> tuple[Envs, Step]:
    """Do a step in every environment; start the next episode where one ended.

    Args:
        env: What to map.
        envs: Where the environments are.
        action: Clipped to [−1, 1].
        keys: Those of `begin`.

    Returns:
        Where they are now, and the step, whose arrays are JAX's.
    """
    action = jnp.clip(action, -1.0, 1.0)
    state, reply = jax.vmap(lambda *args: _step(env, *args))(envs.state, action)
    state = _typed(state, state)
    length = envs.episode_length + 1
    returns = envs.episode_return + reply.reward
    truncated = (length >= env.spec.episode_length) & ~reply.terminated
    ended = reply.terminated | truncated
    episode = envs.episode + ended
    state, following = _restart(env, ended, state, reply.observation, keys, episode)
    fields: dict[str, Any] = {
        "observation": reply.observation,
        "reward": reply.reward,
        "terminated": reply.terminated,
        "truncated": truncated,
        "reset_observation": following,
        "episode_return": returns,
        "episode_length": length,
        "begun": ended,
        "success": jnp.broadcast_to(reply.success, ended.shape),
    }
    returns, length = jnp.where(ended, 0.0, returns), jnp.where(ended, 0, length)
    return Envs(state, following, returns, length, episode), Step(**fields)


def _restart(
    env: DeviceEnv,
    ended: Bool[Array, "N"],
    state: State,
    observation: Float[Array, "N O"],
    keys: Key[Array, "N"],
    episode: Int[Array, "N"],
) -> tuple[State, Float[Array, "N O"]]:
    """First states where an episode ended.

    A branch, and not only a selection: computing first states can cost more than a
    step, and no episode ends in most steps.
    """
    seen = (state, observation)

    def fresh() -> tuple[State, Float[Array, "N O"]]:
        def pick(new: Array, old: Array) -> Array:
            mask = ended.reshape(-1, *[1] * (old.ndim - 1))
            return jnp.where(mask, new, old)

        return jax.tree.map(pick, _reset(env, keys, episode), seen)

    return jax.lax.cond(jnp.any(ended), fresh, lambda: seen)


def _reset(
    env: DeviceEnv, keys: Key[Array, "N"], episode: Int[Array, "N"]
) -> tuple[State, Float[Array, "N O"]]:
    """First states, of the very types that a step returns."""

    def one(key: Key[Array, ""], episode: Int[Array, ""]) -> Any:
        key = jax.random.fold_in(key, episode)
        state, observation = _asked(env, "reset", lambda: env.reset(key=key))
        _check_shape(env, "an observation", observation, (env.spec.observation_dim,))
        action = jnp.zeros(env.spec.action_dim)
        later, _ = jax.eval_shape(lambda *args: _step(env, *args), state, action)
        return _typed(state, later), jnp.asarray(observation, jnp.float32)

    return jax.vmap(one)(keys, episode)


def _step(
    env: DeviceEnv, state: State, action: Float[Array, "A"]
) -> tuple[State, Reply]:
    """One environment's step, of the shapes that its spec promises."""
    state, reply = _asked(env, "step", lambda: env.step(state, action))
    size = (env.spec.observation_dim,)
    _check_shape(env, "an observation", reply.observation, size)
    for name in ("reward", "terminated", "success"):
        _check_shape(env, f"a step's {name}", getattr(reply, name), ())
    # Brax writes its `done` as a number.
    ended = jnp.asarray(reply.terminated).astype(bool)
    observation = jnp.asarray(reply.observation, jnp.float32)
    return state, reply._replace(observation=observation, terminated=ended)


def _asked(env: DeviceEnv, method: str, call: Callable[[], Any]) -> tuple[State, Any]:
    """What a method returns while its program is made; errors as one sentence.

    Its matrix products are exact, whatever those of the agent may be: physics are not
    what a coarser `--precision` is for.
    """
    try:
        with jax.default_matmul_precision("float32"):
            first, second = call()
    except EnvError:
        raise
    except Exception as error:
        raise failure(f"{method}() of {env.spec.name}", error) from error
    return first, second


def _check_shape(env: DeviceEnv, what: str, value: Any, shape: tuple[int, ...]) -> None:
    # Assigning to rows alone would broadcast one of length 1 without a word.
    if jnp.shape(value) != shape:
        raise EnvError(
            f"{env.spec.name}: {what} has shape {jnp.shape(value)}; it must be {shape}"
        )


def _typed(state: State, like: State) -> State:
    """A state with the types of another one, none of them weak.

    A simulator may start with a whole number where it goes on with a fraction, which no
    loop could carry; and a program is compiled anew for what is only weakly typed.
    """
    return jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), state, like)


class DevicePool(Pool):
    """Environments on the device, for whatever is written for pools.

    Attributes:
        env: What is mapped over the environments.
        envs: Where they are; a compiled loop goes on from there, and says by `settle`
            where it has left them.
        keys: Theirs, see `begin`.
    """

    on_device = True
    where = "on the device"

    def __init__(
        self, env: DeviceEnv, num_envs: int, seed: int | Sequence[int]
    ) -> None:
        """Prepare; the programs are compiled when they are first used."""
        super().__init__(spec_of(env), num_envs)
        self.env = env
        self.keys = env_keys(env_seeds(seed, num_envs))
        self._episode = jnp.zeros(num_envs, jnp.int32)
        self.envs: Envs | None = None
        self._answer: Any = None
        self._begin = jax.jit(lambda *args: begin(env, *args))
        self._advance = jax.jit(lambda *args: advance(env, *args))
        layout = row_layout(self.spec, num_envs)
        self._arrays = Rows(*(np.zeros(shape, dtype) for shape, dtype in layout))

    @property
    def _rows(self) -> Rows:
        return self._arrays

    def state(self) -> dict[str, Any]:
        """Return what the coming steps depend on; any environment can tell here."""
        self._expect("send", "state")
        return {
            "envs": jax.tree.map(_plain, self.envs),
            "keys": _plain(self.keys),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
        }

    def set_state(self, state: Mapping[str, Any]) -> np.ndarray:
        """Go on from what `state` returned; return what is seen there, [N, O]."""
        envs: Envs = jax.tree.map(_like, self.envs, state["envs"])
        self.envs, self.keys = envs, _like(self.keys, state["keys"])
        self._returns[:], self._lengths[:] = state["returns"], state["lengths"]
        self._due = "send"
        return np.array(envs.observation)

    def bytes_on_device(self) -> int:
        """Return what each environment takes between two steps; it is not made yet."""
        episode = jnp.zeros(1, jnp.int32)
        envs = jax.eval_shape(lambda: begin(self.env, self.keys[:1], episode))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(envs))

    def settle(self, envs: Envs, last: Step) -> None:
        """Take over where a compiled loop has left the environments.

        Args:
            envs: Where they are.
            last: Their last step, which is checked as if the pool had made it.

        Raises:
            EnvError: It broke the contract.
        """
        self._expect("send", "settle")
        self.envs, self._answer = envs, jax.device_get(last)
        self._returns[:] = self._answer.episode_return - self._answer.reward
        self._lengths[:] = self._answer.episode_length - 1
        self._recv()
        self._collect()

    def _reset(self, seeds: Sequence[int] | None) -> None:
        if seeds is not None:
            self.keys = env_keys(seeds)
            self._episode = jnp.zeros(self.num_envs, jnp.int32)
        elif self.envs is not None:
            self._episode = self.envs.episode + 1
        envs = self._begin(self.keys, self._episode)
        self._arrays.observation[:] = envs.observation
        self._arrays.reset_observation[:] = envs.observation
        self.envs = envs

    def _send(self) -> None:
        # A copy: the rows are written again while the device may still read.
        action = jnp.array(self._arrays.action)
        self.envs, self._answer = self._advance(self.envs, action, self.keys)

    def _recv(self) -> None:
        for name, value in jax.device_get(self._answer)._asdict().items():
            if name in Rows._fields:
                getattr(self._arrays, name)[:] = value

    def _close(self) -> None:
        self.envs = self._answer = None


def _plain(leaf: Array) -> Array:
    """Numbers that a file can hold, of a key or of any array."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    # A clone: what is drawn from a key may not follow its being looked at.
    return jax.random.key_data(jax.random.clone(leaf)) if is_key else leaf


def _like(leaf: Array, plain: Array) -> Array:
    """What `_plain` was given, `leaf` being another of its kind."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return plain
    return jax.random.wrap_key_data(plain, impl=jax.random.key_impl(leaf))


class OnHost(Env):
    """One environment of the device as an `Env`, e.g. to film it."""

    def __init__(self, env: DeviceEnv, seed: int) -> None:
        """Prepare; the programs are compiled when they are first used."""
        self.env, self.spec = env, spec_of(env)
        self.step_seconds = env.step_seconds
        self._keys = env_keys([seed])
        self._episode = -1
        self._envs: Any = None
        self._begin = jax.jit(lambda *args: begin(env, *args))
        self._advance = jax.jit(lambda *args: advance(env, *args))

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode."""
        if seed is not None:
            self._keys, self._episode = env_keys([seed]), -1
        self._episode += 1
        self._envs = self._begin(self._keys, jnp.full(1, self._episode, jnp.int32))
        return np.array(self._envs.observation[0])

    def step(self, action: np.ndarray) -> Outcome:
        """Do the action."""
        # `advance` begins the next episode too, which is thrown away: `reset` does.
        self._envs, step = self._advance(
            self._envs, jnp.asarray(action)[None], self._keys
        )
        step = jax.device_get(step)
        return Outcome(
            observation=np.array(step.observation[0]),
            reward=float(step.reward[0]),
            terminated=bool(step.terminated[0]),
            truncated=bool(step.truncated[0]),
            success=bool(step.success[0]) if self.spec.has_success else None,
        )

    def render(self, height: int = 240, width: int = 320) -> np.ndarray:
        """Return a picture of the present state (of the next one's after an end)."""
        state = jax.tree.map(lambda x: x[0], self._envs.state)
        return self.env.render(state, height, width)
