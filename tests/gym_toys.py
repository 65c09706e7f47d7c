"""Gymnasium environments that know where they are; apart so that workers find them."""

from collections import OrderedDict
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import ClipAction, TimeLimit, TransformAction, TransformReward

LIMIT = 6
LOW = np.array([-2.0, 0.0], np.float32)
HIGH = np.array([2.0, 10.0], np.float32)


class Counter(gymnasium.Env):
    """Sees its own step counter, the number of its episode and its latest draw.

    Episode k of seed s terminates after 2 + (s + k) % 4 steps, unless it is odd: those
    go on until the time limit.
    """

    observation_space: spaces.Space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space: spaces.Space = spaces.Box(LOW, HIGH)

    def __init__(self) -> None:
        self.seed, self.episode, self.count = 0, -1, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.episode += 1
        self.count = 0
        return self.see(), {}

    def see(self) -> Any:
        return np.array([self.count, self.episode, self.np_random.uniform()])

    def step(self, action):
        assert self.action_space.contains(action), action
        self.count += 1
        ends = (
            self.episode % 2 == 0 and self.count >= 2 + (self.seed + self.episode) % 4
        )
        reward = 100 * self.count + float(np.sum(action))
        return self.see(), reward, ends, False, {"is_success": self.count > 2}


class Drifter(gymnasium.Env):
    """A point that drifts at random; now and then its episode ends by its own rule.

    Its numbers are written into one array that it returns again and again.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(LOW, HIGH)

    def __init__(self) -> None:
        self.place = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place[:] = self.np_random.uniform(-1, 1, 2)
        return self.place, {}

    def step(self, action):
        self.place += self.np_random.normal(size=2) + 0.1 * action
        ends = bool(self.np_random.uniform() < 0.2)
        return self.place, float(self.place.sum()), ends, False, {}


class OfItsOwn(Drifter):
    """Draws from a generator of another kind than Gymnasium's."""

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.np_random = np.random.Generator(np.random.MT19937(seed))
        return super().reset()


class Parts(Counter):
    """The same numbers as a dictionary, whose entries come in no useful order."""

    observation_space = spaces.Dict(
        {
            "when": spaces.Box(-np.inf, np.inf, (2, 1)),
            "luck": spaces.Tuple([spaces.Box(0, 1, (), np.float32)]),
        }
    )

    def see(self):
        count, episode, draw = super().see()
        when = np.array([[count], [episode]], np.float32)
        return {"when": when, "luck": (np.float32(draw),)}


AS_GIVEN: OrderedDict[str, spaces.Space] = OrderedDict(
    when=spaces.Box(-np.inf, np.inf, (2, 1)),
    luck=spaces.Tuple([spaces.Box(0, 1, (), np.float32)]),
)


class Ordered(Parts):
    observation_space = spaces.Dict(AS_GIVEN)


class Matrix(Counter):
    """Actions of shape (2, 1), in float64."""

    action_space = spaces.Box(
        LOW[:, None].astype("f8"), HIGH[:, None].astype("f8"), dtype=np.float64
    )


class Scalar(Counter):
    """One action, which has no axis."""

    action_space = spaces.Box(-2.0, 2.0, ())


class Leaving(Counter):
    """Fails when it is closed."""

    def close(self):
        raise AttributeError("no window")


class Sized(Counter):
    def __init__(self, grid_size: int) -> None:
        super().__init__()


class Drawn(Counter):
    """Draws itself, though no parameter says so; the time of a step is told twice."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    dt = 0.05

    def __init__(self) -> None:
        super().__init__()
        self.render_mode = "rgb_array"

    def render(self) -> Any:
        return np.full((4, 6, 3), 10 * self.count, np.uint8)


class Odd(Counter):
    """Spaces that cannot be used, one at a time."""

    def __init__(self, **spaces: spaces.Space) -> None:
        super().__init__()
        for name, space in spaces.items():
            setattr(self, name, space)


def counter() -> gymnasium.Env:
    return TimeLimit(Counter(), LIMIT)


def drifter() -> gymnasium.Env:
    return TimeLimit(Drifter(), LIMIT)


def of_its_own() -> gymnasium.Env:
    return TimeLimit(OfItsOwn(), LIMIT)


def parts() -> gymnasium.Env:
    return TimeLimit(Parts(), LIMIT)


def ordered() -> gymnasium.Env:
    return TimeLimit(Ordered(), LIMIT)


def matrix() -> gymnasium.Env:
    return TimeLimit(Matrix(), LIMIT)


def scalar() -> gymnasium.Env:
    return TimeLimit(Scalar(), LIMIT)


def leaving() -> gymnasium.Env:
    return TimeLimit(Leaving(), LIMIT)


def drawn() -> gymnasium.Env:
    return TimeLimit(Drawn(), LIMIT)


def drawn_together(num_envs: int) -> SyncVectorEnv:
    return _together(drawn, num_envs, AutoresetMode.NEXT_STEP)


def leaving_together(num_envs: int) -> SyncVectorEnv:
    return _together(leaving, num_envs, AutoresetMode.SAME_STEP)


def clipping() -> gymnasium.Env:
    """As in CleanRL: a wrapper that hides the bounds, and one around it."""
    return TransformReward(TimeLimit(ClipAction(Counter()), LIMIT), lambda r: r)


def doubling() -> gymnasium.Env:
    """Actions are not what the space within says: its bounds are not those to keep."""
    anything = spaces.Box(-np.inf, np.inf, (2,))
    return TransformAction(ClipAction(Counter()), lambda a: 2 * a, anything)


def endless() -> gymnasium.Env:
    return Counter()


def discrete() -> gymnasium.Env:
    return Odd(action_space=spaces.Discrete(3))


def whole() -> gymnasium.Env:
    return Odd(action_space=spaces.Box(0, 3, (2,), np.int32))


def unbounded() -> gymnasium.Env:
    return Odd(action_space=spaces.Box(-np.inf, np.inf, (2,)))


def stuck() -> gymnasium.Env:
    return Odd(action_space=spaces.Box(np.array([0, 1], "f4"), np.array([1, 1], "f4")))


def pixels() -> gymnasium.Env:
    return Odd(observation_space=spaces.Box(0, 255, (64, 64, 3), np.uint8))


def numbered() -> gymnasium.Env:
    mixed = {"where": spaces.Discrete(5), "what": spaces.Box(0, 1, (2,))}
    return Odd(observation_space=spaces.Dict(mixed))


class Misfit(Counter):
    def see(self):
        return np.zeros(2 if self.count > 1 else 3)


class Forgetful(Parts):
    def see(self):
        seen = super().see()
        return seen if self.count < 2 else {"when": seen["when"]}


def misfit() -> gymnasium.Env:
    return TimeLimit(Misfit(), LIMIT)


def forgetful() -> gymnasium.Env:
    return TimeLimit(Forgetful(), LIMIT)


def nothing(seed: int) -> int:
    return seed


def _together(make, num_envs: int, mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([make] * num_envs, autoreset_mode=mode)


def same_step(num_envs: int) -> SyncVectorEnv:
    return _together(counter, num_envs, AutoresetMode.SAME_STEP)


def unlimited(num_envs: int) -> SyncVectorEnv:
    return _together(endless, num_envs, AutoresetMode.SAME_STEP)


def next_step(num_envs: int) -> SyncVectorEnv:
    return _together(counter, num_envs, AutoresetMode.NEXT_STEP)


def asynchronous(num_envs: int) -> AsyncVectorEnv:
    """In processes of its own, which answer by pipes."""
    return AsyncVectorEnv(
        [counter] * num_envs,
        shared_memory=False,
        context="spawn",
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )


def disabled(num_envs: int) -> SyncVectorEnv:
    return _together(counter, num_envs, AutoresetMode.DISABLED)


def same_step_parts(num_envs: int) -> SyncVectorEnv:
    return _together(parts, num_envs, AutoresetMode.SAME_STEP)


def next_step_parts(num_envs: int) -> SyncVectorEnv:
    return _together(parts, num_envs, AutoresetMode.NEXT_STEP)


def secretive(num_envs: int) -> SyncVectorEnv:
    env = same_step(num_envs)
    env.metadata = {}
    return env


def forgets_last(num_envs: int) -> SyncVectorEnv:
    env = next_step(num_envs)
    env.metadata = env.metadata | {"autoreset_mode": AutoresetMode.SAME_STEP}
    return env


def fixed_number() -> SyncVectorEnv:
    return same_step(2)


def stubborn(num_envs: int) -> SyncVectorEnv:
    return same_step(num_envs + 1)


def single(num_envs: int) -> gymnasium.Env:
    return counter()
