"""From a task's name to a pool of environments.

A suite is one file of this folder. It offers `TASKS` (names), `ALIASES` (other names
for them) and `make(task, seed) -> Env`, which imports the simulator when called;
`spec(task) -> EnvSpec` where it knows a task's sizes without it;
`REQUIRES` (a package to look for) and `EXTRA` (the extra of planprior that installs it)
or `INSTALL` (what to do instead) where it needs one; `PREFIX` where that is not the
file's name; `SETTINGS`, settings of the agent that its papers use, by full name. The
file is found by being there.

A task is `PREFIX:NAME`, a bare name, or `module:function` for an environment of one's
own, where `function(seed)` returns an `Env`; the present folder is searched as well.
"""

import difflib
import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from planprior.envs.base import Env, EnvMaker, LocalPool, Pool
from planprior.envs.process import ProcessPool, choose_workers
from planprior.spec import EnvSpec

# Files of this folder that are no suites; `probe` and `device` step on the device.
_OTHERS = {"base", "device", "probe", "process", "registry", "worker"}


def list_tasks() -> list[str]:
    """List the full names of all tasks, whether or not they are installed."""
    return [
        f"{prefix}:{task}" for prefix in _suites() for task in _suites()[prefix].TASKS
    ]


def resolve(task: str) -> str:
    """Return the full name of a task.

    Capitals do not matter, nor whether words are joined by `-` or `_`, since the field
    writes `finger-turn-hard` and `finger_turn_hard` for one task.
    """
    prefix, _, name = task.rpartition(":")
    if prefix and prefix not in _suites():
        if _is_module(prefix):
            return task
        raise _unknown(task)
    for known, suite in _suites().items():
        found = _spellings(suite).get(_plain(name))
        if found and prefix in ("", known):
            return f"{known}:{found}"
    raise _unknown(task)


def proposed_settings(task: str) -> dict[str, int | float | bool | str]:
    """Return the agent's settings that a task's suite proposes, by full name."""
    suite = _suites().get(resolve(task).rpartition(":")[0])
    return dict(getattr(suite, "SETTINGS", {}))


def make_env(task: str, seed: int) -> Env:
    """Build one environment.

    Args:
        task: A name that `resolve` accepts.
        seed: Everything random in the environment follows from it.
    """
    prefix, _, name = resolve(task).rpartition(":")
    suite = _suites().get(prefix)
    if suite is None:
        return _function(prefix, name)(seed)
    _check_installed(suite, task)
    return suite.make(name, seed)


def task_spec(task: str) -> EnvSpec:
    """Return the sizes of a task, without its simulator where its suite knows them.

    Args:
        task: A name that `resolve` accepts.
    """
    prefix, _, name = resolve(task).rpartition(":")
    known = getattr(_suites().get(prefix), "spec", None)
    if known is not None:
        return known(name)
    env = make_env(task, 0)
    env.close()
    return env.spec


def is_installed(task: str) -> bool:
    """Tell whether what a task is simulated with is there."""
    try:
        _check_installed(_suites().get(resolve(task).rpartition(":")[0]), task)
    except ModuleNotFoundError:
        return False
    return True


def make_pool(
    task: str,
    num_envs: int,
    seed: int,
    workers: int | str = "auto",
    timeout: float = 60.0,
) -> Pool:
    """Build environments of one task, in this process or in workers.

    Args:
        task: A name that `resolve` accepts.
        num_envs: How many environments.
        seed: Environment i's randomness follows from this and i, however many there
            are and wherever they run.
        workers: How many worker processes; 0 is this process. "auto" decides by
            `choose_workers`, which also says why.
        timeout: Seconds one step may take in a worker.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
    full = resolve(task)
    # Here, because a worker could only answer with a traceback.
    _check_installed(_suites().get(full.rpartition(":")[0]), task)
    make = functools.partial(make_env, full)
    count, _ = choose_workers(num_envs, workers)
    if count == 0:
        return LocalPool(make, num_envs, seed)
    return ProcessPool(make, num_envs, seed, count, timeout)


@functools.cache
def _suites() -> dict[str, ModuleType]:
    files = pkgutil.iter_modules([str(Path(__file__).parent)])
    names = sorted(file.name for file in files if file.name not in _OTHERS)
    modules = [importlib.import_module(f"planprior.envs.{name}") for name in names]
    return {getattr(m, "PREFIX", m.__name__.rpartition(".")[2]): m for m in modules}


def _spellings(suite: ModuleType) -> dict[str, str]:
    names = {task: task for task in suite.TASKS} | suite.ALIASES
    return {_plain(name): task for name, task in names.items()}


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")


def _unknown(task: str) -> ValueError:
    """Name the nearest among bare names: a prefix would outweigh the rest."""
    known = {
        plain: f"{prefix}:{name}"
        for prefix, suite in _suites().items()
        for plain, name in _spellings(suite).items()
    }
    bare = _plain(task.rpartition(":")[2])
    nearest = difflib.get_close_matches(bare, known, n=1, cutoff=0.0)[0]
    return ValueError(f"task {task!r} is unknown; the nearest is {known[nearest]!r}")


def _is_module(name: str) -> bool:
    # An installed command, unlike `python -m`, does not search the present folder.
    # Last, so that no file there hides a package.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _function(module: str, name: str) -> EnvMaker:
    found = importlib.import_module(module)
    if not callable(getattr(found, name, None)):
        raise ValueError(f"module {module!r} has no function {name!r} to make its task")
    return getattr(found, name)


def _check_installed(suite: ModuleType | None, task: str) -> None:
    if suite is None:
        return
    needed = getattr(suite, "REQUIRES", None)
    if needed and importlib.util.find_spec(needed) is None:
        how = getattr(suite, "INSTALL", None)
        how = how or f"run: pip install 'planprior[{suite.EXTRA}]'"
        raise ModuleNotFoundError(f"task {task!r} needs the package {needed}; {how}")
