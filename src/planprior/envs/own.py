"""Environments of one's own, as `module:function`.

The function may return a `planprior.Env`, a `gymnasium.Env` or, if it has the parameter
`num_envs`, a Gymnasium vector environment of so many. It is called with a seed if it
takes one (`make_env(seed)`), or with nothing; a class serves as well. Only what it
returns tells what it is, so that none of the packages in question is imported here.
But a class of `device.DeviceEnv`, or a function that makes one, is known by its
attribute `on_device`, since its environments are built all at once.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from planprior.envs import gym, vector
from planprior.envs.base import Env, EnvError, failure
from planprior.envs.options import TaskOptions, split


def make_env(task: str, seed: int) -> Env:
    """Build one environment.

    Args:
        task: `module:function`, with options.
        seed: Everything random in it follows from this.

    Raises:
        EnvError: It cannot be built, or is none.
        ValueError: There is no such function.
    """
    if makes_several(task):
        return vector.Single(make_vector_pool(task, 1, [seed]))
    bare, options = split(task)
    made = call(bare, seed=seed)
    if getattr(made, "on_device", False):
        _refuse(options, task, "DeviceEnv")
        return importlib.import_module("planprior.envs.device").OnHost(made, seed)
    if isinstance(made, Env):
        _refuse(options, task, "planprior.Env")
        return made
    if gym.is_env(made):
        return gym.wrap(made, task, seed, options)
    if vector.is_vector(made):
        raise EnvError(
            f"{bare} returns a vector environment; give it the parameter num_envs, so "
            "that it can be asked for as many environments as are needed"
        )
    raise EnvError(
        f"{bare} returns {type(made).__name__}; it must return a planprior.Env, a "
        "gymnasium.Env or a gymnasium.vector.VectorEnv"
    )


def make_device_env(task: str, seed: int) -> Any:
    """Build the `device.DeviceEnv` of a task whose function `makes_on_device`.

    Args:
        task: `module:function`.
        seed: Of whatever is random in building it.

    Raises:
        EnvError: It cannot be built, or options were given.
    """
    bare, options = split(task)
    _refuse(options, task, "DeviceEnv")
    return call(bare, seed=seed)


def _refuse(options: TaskOptions, task: str, kind: str) -> None:
    if str(options):
        raise EnvError(
            f"task {task!r} has options, which a {kind} does not have: its EnvSpec "
            "says what they would"
        )


def makes_several(task: str) -> bool:
    """Whether the function makes any number of environments at once."""
    return "num_envs" in _parameters(_function(split(task)[0]))


def make_vector_pool(
    task: str, num_envs: int, seeds: Sequence[int]
) -> vector.VectorPool:
    """Build all environments of a task whose function `makes_several`.

    Args:
        task: `module:function`, with options.
        num_envs: How many environments.
        seeds: One per environment.

    Raises:
        EnvError: They cannot be built, or are none.
    """
    bare, options = split(task)
    made = call(bare, num_envs=num_envs, seed=int(seeds[0]))
    if not vector.is_vector(made):
        raise EnvError(
            f"{bare} has the parameter num_envs, but returns {type(made).__name__}; it "
            "must return a gymnasium.vector.VectorEnv"
        )
    return vector.VectorPool(made, num_envs, task, seeds, options)


def _function(task: str) -> Callable[..., Any]:
    module, _, name = task.rpartition(":")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        raise failure(f"importing {module}", error) from error
    if not callable(getattr(found, name, None)):
        raise ValueError(f"module {module!r} has no function {name!r} to make its task")
    return getattr(found, name)


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are not written in Python
        return {}


def makes_on_device(task: str) -> bool:
    """Whether the function is a class of `device.DeviceEnv`, or says that it makes one.

    It says so by an attribute `on_device`, which such a class has.
    """
    return getattr(_function(split(task)[0]), "on_device", False)


def call(task: str, *, seed: int, num_envs: int | None = None) -> Any:
    """Call the function with what it takes of seed and number.

    Args:
        task: `module:function`.
        seed: Everything random in what it makes follows from this.
        num_envs: How many environments, where it `makes_several`.
    """
    function = _function(task)
    given: dict[str, int] = {} if num_envs is None else {"num_envs": num_envs}
    for name, parameter in _parameters(function).items():
        needed = _is_needed(parameter) and name not in given
        if name == "seed" or (needed and "seed" in name):
            given[name] = seed
        elif needed:
            raise EnvError(
                f"{task} needs its parameter {name}; nothing but seed and num_envs is "
                "given to it here: give it a default"
            )
    try:
        return function(**given)
    except EnvError:
        raise
    except Exception as error:
        raise failure(f"{task}()", error) from error


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Whether it has no default."""
    several = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in several
