"""Planning agents whose planner is the prior of their policy.

Names are loaded when they are first used: environment workers import this package and
must not load JAX.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# JAX would take three quarters of a GPU before it needs any. It reads this when its
# devices start, which is after this package has been imported, whoever starts them.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_HOMES = {
    "Agent": "acting",
    "Config": "config",
    "Controller": "controller",
    "Env": "envs.base",
    "EnvSpec": "spec",
    "Hypers": "hypers",
    "METHODS": "methods",
    "Outcome": "envs.base",
    "Pool": "envs.pool",
    "Result": "launch",
    "SIZES": "methods",
    "TrainConfig": "experiment",
    "list_tasks": "envs.registry",
    "make_pool": "envs.registry",
    "train": "launch",
}

if TYPE_CHECKING:
    from planprior.acting import Agent
    from planprior.config import Config
    from planprior.controller import Controller
    from planprior.envs.base import Env, Outcome
    from planprior.envs.pool import Pool
    from planprior.envs.registry import list_tasks, make_pool
    from planprior.experiment import TrainConfig
    from planprior.hypers import Hypers
    from planprior.launch import Result, train
    from planprior.methods import METHODS, SIZES
    from planprior.spec import EnvSpec

__all__ = [
    "METHODS",
    "SIZES",
    "Agent",
    "Config",
    "Controller",
    "Env",
    "EnvSpec",
    "Hypers",
    "Outcome",
    "Pool",
    "Result",
    "TrainConfig",
    "__version__",
    "list_tasks",
    "make_pool",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"planprior.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
