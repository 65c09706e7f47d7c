"""Gymnasium: every registered environment, and environments of your own.

`gym:HalfCheetah-v5` is a registered one; `gym:my_package:MyEnv-v0` imports `my_package`
first, as `gymnasium.make` does. Options may follow the name: see `options.py`. A
function of your own may return any `gymnasium.Env` (or a ready-made vector environment:
see `vector.py`).

1. Actions in [−1, 1] are mapped to the bounds entry by entry; observations are
   flattened as `spaces.py` says.
2. The time limit is Gymnasium's `TimeLimit`, or the option `episode_length`, which
   must not exceed it; it truncates, the environment's own verdict terminates.
3. Which registered tasks never terminate is known of Gymnasium's own; of all others it
   is assumed that they can, unless the option `terminates=no` promises that they do
   not; an end that breaks the promise is an error.
4. Whether it is a simulator is known of Gymnasium's own, too; of all others only if the
   option `simulated=yes` says so.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from planprior.envs.base import Env, EnvError, Outcome, failure
from planprior.envs.dmc import quiet_absl
from planprior.envs.options import TaskOptions, split
from planprior.envs.retraced import RetracedEnv
from planprior.envs.spaces import Actions, Observations
from planprior.spec import EnvSpec

REQUIRES = "gymnasium"
EXTRA = "gym"
OPTIONS = True

# Those of its own that have continuous actions on vectors and need but MuJoCo; whatever
# else is registered is found as well.
TASKS = (
    *("Pendulum-v1", "MountainCarContinuous-v0", "Ant-v5", "HalfCheetah-v5"),
    *("Hopper-v5", "Humanoid-v5", "HumanoidStandup-v5", "InvertedDoublePendulum-v5"),
    *("InvertedPendulum-v5", "Pusher-v5", "Reacher-v5", "Swimmer-v5", "Walker2d-v5"),
)
ALIASES: dict[str, str] = {}

_NEVER_TERMINATE = {
    *("HalfCheetah", "HumanoidStandup", "Pendulum", "Pusher", "Reacher", "Swimmer"),
}
# Gymnasium's own tasks without continuous actions on vectors: not worth listing.
_NOT_LISTED = {
    *("Acrobot", "Blackjack", "CarRacing", "CartPole", "CliffWalking", "Taxi"),
    *("CliffWalkingSlippery", "FrozenLake", "FrozenLake8x8", "LunarLander"),
    *("MountainCar", "GymV21Environment", "GymV26Environment"),
}


# Names --------------------------------------------------------------------------------


def list_tasks() -> list[str]:
    """List the newest versions of all that are registered, where it is installed."""
    if importlib.util.find_spec("gymnasium") is None:
        return [*TASKS]
    newest: dict[str, tuple[int, str]] = {}
    for name, spec in _registry().items():
        stem, version = _stem(name), spec.version or 0
        listed = "/" not in name and stem not in _NOT_LISTED
        if listed and version >= newest.get(stem, (-1, ""))[0]:
            newest[stem] = (version, name)
    return sorted(name for _, name in newest.values())


def find(name: str) -> str:
    """Return the registered id that is meant; capitals do not matter.

    Raises:
        ValueError: There is none; the nearest are named.
    """
    if importlib.util.find_spec("gymnasium") is None:
        return name  # nothing to compare with; `make` is not called without it
    module, colon, bare = name.rpartition(":")
    if colon:
        _import(module, name)
    known = {one.casefold(): one for one in _registry()}
    if bare.casefold() in known:
        return module + colon + known[bare.casefold()]
    near = difflib.get_close_matches(bare.casefold(), known, n=3, cutoff=0.5)
    near = near or difflib.get_close_matches(bare.casefold(), known, n=1, cutoff=0.0)
    shown = " or ".join(f"'gym:{known[one]}'" for one in near)
    raise ValueError(f"task 'gym:{name}' is unknown; did you mean {shown}?")


def _import(module: str, name: str) -> None:
    """Import what registers a task."""
    try:
        importlib.import_module(module)
    except Exception as error:
        raise failure(f"importing {module} for gym:{name}", error) from error


def _registry() -> dict[str, Any]:
    import gymnasium

    return gymnasium.registry


def _stem(name: str) -> str:
    return name.rpartition(":")[2].rpartition("-v")[0]


# Making -------------------------------------------------------------------------------


def make(task: str, seed: int) -> Env:
    """Build a registered environment.

    Args:
        task: An id, with its options.
        seed: Everything random in the environment follows from it.

    Raises:
        EnvError: It cannot be built, or not be trained in, in one sentence.
    """
    import gymnasium

    name, options = split(task)
    full = f"gym:{task}"
    try:
        with quiet_absl():
            env = gymnasium.make(name, disable_env_checker=True, **_rendering(name))
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        raise EnvError(_missing(full, name, error)) from error
    except Exception as error:
        raise failure(f"making {full}", error) from error
    if options.simulated is None:
        options = dataclasses.replace(options, simulated=_is_gymnasiums(name))
    never = _stem(name) in _NEVER_TERMINATE and _is_gymnasiums(name)
    if options.terminates is None and never:
        return GymEnv(env, full, seed, options, can_terminate=False)
    return wrap(env, full, seed, options)


def _is_gymnasiums(name: str) -> bool:
    """Whether a task came with Gymnasium, all of whose tasks are simulated."""
    return _entry_point(name).startswith("gymnasium.envs.")


def _entry_point(name: str) -> str:
    spec = _registry().get(name)
    return "" if spec is None else str(spec.entry_point)


def _missing(full: str, name: str, error: Exception) -> str:
    """Gymnasium's own tasks on MuJoCo import what films are written with, too."""
    reason = " ".join(str(error).split())
    text = f"{full} needs a package that is missing: {reason}"
    if _entry_point(name).startswith("gymnasium.envs.mujoco"):
        text += "; run: pip install 'planprior[gym]'"
    return text


def wrap(env: Any, name: str, seed: int, options: TaskOptions) -> "GymEnv":
    """Wrap a `gymnasium.Env` of whatever origin.

    Args:
        env: The environment.
        name: Its task's full name.
        seed: Everything random in it follows from this.
        options: Its task's options.
    """
    can_terminate = options.terminates is not False
    return GymEnv(env, name, seed, options, can_terminate=can_terminate)


def is_env(made: object) -> bool:
    """Whether something is a `gymnasium.Env`; that package is not imported for it."""
    return any(
        kind.__module__.startswith("gymnasium.core") and kind.__name__ == "Env"
        for kind in type(made).__mro__
    )


def _rendering(name: str) -> dict[str, Any]:
    """Mode `rgb_array` where there is one; nothing is drawn before `render`."""
    from gymnasium.envs.registration import load_env_creator

    spec = _registry().get(name.rpartition(":")[2])
    if spec is None or spec.entry_point is None:
        return {}
    entry = spec.entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    modes = getattr(creator, "metadata", {}).get("render_modes", ())
    draws = "rgb_array" in modes and _takes(creator, "render_mode")
    return {"render_mode": "rgb_array"} if draws else {}


def _takes(function: Any, name: str) -> bool:
    """Whether a function has a parameter of that name, or takes any."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are not written in Python
        return True
    kinds = {parameter.kind for parameter in parameters.values()}
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def seconds_a_step(env: Any) -> float:
    """Simulated time of an environment step: its `dt`, else by the rate of its films.

    The rate alone can mislead: that of Pendulum-v1 is 30 a second, its `dt` 0.05.
    """
    dt = getattr(env.unwrapped, "dt", None)
    if isinstance(dt, int | float) and dt > 0:
        return float(dt)
    return 1.0 / (getattr(env, "metadata", {}).get("render_fps") or 30)


def _bounded(env: Any) -> Any:
    """The space of the actions that an environment obeys.

    `ClipAction` clips to a space and shows one without bounds in its place; so do the
    wrappers around it that leave actions as they are.
    """
    shown, layer = env.action_space, env
    while layer is not None and getattr(layer, "action_space", None) is shown:
        if type(layer).__name__ == "ClipAction":
            return layer.env.action_space
        layer = getattr(layer, "env", None)
    return shown


def time_limit(env: Any) -> int | None:
    """The time limit of an environment's `TimeLimit`, in environment steps."""
    # The wrapper itself is asked first: a function may have put it on by hand.
    layer = env
    while layer is not None:
        if type(layer).__name__ == "TimeLimit":
            return int(layer._max_episode_steps)
        layer = getattr(layer, "env", None)
    return getattr(getattr(env, "spec", None), "max_episode_steps", None)


def episode_steps(own: int | None, name: str, options: TaskOptions) -> int:
    """The time limit that holds, in environment steps.

    Raises:
        EnvError: None is known, or the option asks for more than the environment's own.
    """
    asked = options.episode_length
    if own and asked and asked > own:
        raise EnvError(
            f"episode_length of {name} is {asked}; it must be at most {own}, the "
            "environment's own limit in environment steps"
        )
    limit = asked or own
    if not limit:
        raise EnvError(
            f"{name} has no time limit, from which the discount follows; add one in "
            f"environment steps, as in {name},episode_length=1000, or wrap it in "
            "gymnasium.wrappers.TimeLimit"
        )
    return limit


def resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture of that size, points of it left out or repeated."""
    rows = np.arange(height) * picture.shape[0] // height
    columns = np.arange(width) * picture.shape[1] // width
    return np.ascontiguousarray(picture[rows][:, columns, :3], np.uint8)


class GymEnv(RetracedEnv):
    """A Gymnasium environment.

    Attributes:
        actions: The box of its actions.
        observations: The parts of its observations.
    """

    def __init__(
        self,
        env: Any,
        name: str,
        seed: int,
        options: TaskOptions,
        *,
        can_terminate: bool,
    ) -> None:
        self._env = env
        self.actions = Actions(_bounded(env), name)
        self.observations = Observations(env.observation_space, name)
        self._repeat = options.action_repeat
        self._limit = episode_steps(time_limit(env), name, options)
        self._steps = 0
        self.step_seconds = self._repeat * seconds_a_step(env)
        spec = EnvSpec(
            name=name,
            observation_dim=self.observations.size,
            action_dim=self.actions.size,
            episode_length=-(-self._limit // self._repeat),
            action_repeat=self._repeat,
            can_terminate=can_terminate,
            has_success=bool(options.success),
        )
        super().__init__(spec, seed, simulated=bool(options.simulated))

    def _generator(self) -> object:
        return getattr(self._env.unwrapped, "np_random", None)

    def _begin(self, seed: int | None) -> np.ndarray:
        self._steps = 0
        observation, _ = self._env.reset(seed=seed)
        return self.observations.flatten(observation)

    def _act(self, action: np.ndarray) -> Outcome:
        control = self.actions.scale(action)
        reward, ended = 0.0, False
        observation, terminated, info = None, False, {}
        for _ in range(self._repeat):
            observation, gain, terminated, truncated, info = self._env.step(control)
            reward += np.asarray(gain, np.float64).item()
            self._steps += 1
            ended = terminated or truncated or self._steps >= self._limit
            if ended:
                break
        flat = self.observations.flatten(observation)
        terminated = bool(terminated)
        truncated = bool(ended) and not terminated
        return Outcome(flat, reward, terminated, truncated, self._success(info))

    def _success(self, info: Mapping[str, Any]) -> bool | None:
        if not self.spec.has_success:
            return None
        for key in ("success", "is_success"):
            if key in info:
                return bool(info[key])
        raise EnvError("the task's option says success=yes, but info has no 'success'")

    def render(self, height: int = 240, width: int = 320) -> np.ndarray:
        """Return a picture, scaled to the size by leaving out or repeating points."""
        try:
            picture = np.asarray(self._env.render())
        except EnvError:
            raise
        except Exception as error:
            raise failure(f"drawing {self.spec.name}", error) from error
        if picture.ndim != 3:
            return super().render(height, width)
        return resized(picture, height, width)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()
