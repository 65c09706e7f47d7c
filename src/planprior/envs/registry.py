"""From a task's name to a pool of environments.

A suite is one file of this folder. It offers `TASKS` (names), `ALIASES` (other names
for them) and `make(task, seed) -> Env`, which imports the simulator when called;
`spec(task) -> EnvSpec` where it knows a task's sizes without it;
`REQUIRES` (a package to look for) and `EXTRA` (the extra of planprior that installs it)
or `INSTALL` (what to do instead) where it needs one; `PREFIX` where that is not the
file's name; `SETTINGS`, settings of the agent that its papers use, by full name. The
file is found by being there. A suite that has more tasks once its package is loaded
offers `list_tasks()` and `find(name)` as well, and `OPTIONS` where options may follow
its names. Where `ON_DEVICE` is True, `make` returns a `device.DeviceEnv` instead.

A task is `PREFIX:NAME`, a bare name, or `module:function` for an environment of one's
own (see `own.py`); the present folder is searched as well.
"""

import difflib
import functools
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from planprior.envs import envpool, own
from planprior.envs.base import Env
from planprior.envs.options import TaskOptions, split
from planprior.envs.pool import LocalPool, Pool
from planprior.envs.process import ProcessPool, choose_workers
from planprior.envs.rows import env_seeds
from planprior.spec import EnvSpec

POOLS = ("envpool",)
"""What may step a task's environments instead of its own simulator."""

NEAR = 0.6
"""Likeness of names from which on one is taken for a slip of the other."""

# Files of this folder that are no suites.
_OTHERS = {
    *("base", "check", "device", "drawing", "envpool", "generator", "options", "own"),
    *("pool", "process", "registry", "retraced", "rows", "spaces", "vector", "worker"),
}


def list_tasks() -> list[str]:
    """List the full names of all tasks, whether or not they are installed."""
    return [
        f"{prefix}:{task}"
        for prefix, suite in _suites().items()
        for task in (suite.list_tasks() if _is_open(suite) else suite.TASKS)
    ]


def suites() -> dict[str, str | None]:
    """Return the package that each suite needs, by the suite's prefix."""
    return {name: getattr(s, "REQUIRES", None) for name, s in _suites().items()}


def resolve(task: str) -> str:
    """Return the full name of a task.

    Capitals do not matter, nor whether words are joined by `-` or `_`, since the field
    writes `finger-turn-hard` and `finger_turn_hard` for one task.

    Raises:
        ValueError: There is no such task; the nearest is named.
    """
    _see_present_folder()
    bare, options = split(task)
    prefix, name = _parts(bare)
    if prefix and prefix not in _suites():
        if _is_module(prefix):
            return f"{bare}{options}"
        raise _unknown(task)
    for known, suite in _suites().items():
        found = _spellings(suite).get(_plain(name))
        if found and prefix in ("", known):
            return _with_options(f"{known}:{found}", suite, options)
    for known, suite in _suites().items():
        if _is_open(suite) and (prefix == known or (not prefix and _has(suite, name))):
            return _with_options(f"{known}:{suite.find(name)}", suite, options)
    raise _unknown(task)


def proposed_settings(task: str) -> dict[str, int | float | bool | str]:
    """Return the agent's settings that a task's suite proposes, by full name."""
    suite = _suites().get(_parts(resolve(task))[0])
    return dict(getattr(suite, "SETTINGS", {}))


def make_env(task: str, seed: int) -> Env:
    """Build one environment.

    Args:
        task: A name that `resolve` accepts.
        seed: Everything random in the environment follows from it.
    """
    full = resolve(task)
    prefix, name = _parts(full)
    suite = _suites().get(prefix)
    if suite is None:
        return own.make_env(full, seed)
    _check_installed(suite, task)
    made = suite.make(name, seed)
    return _device().OnHost(made, seed) if _on_device(suite) else made


def task_spec(task: str) -> EnvSpec:
    """Return the sizes of a task, without its simulator where its suite knows them.

    Args:
        task: A name that `resolve` accepts.
    """
    prefix, name = _parts(resolve(task))
    known = getattr(_suites().get(prefix), "spec", None)
    if known is not None:
        return known(name)
    env = make_env(task, 0)
    env.close()
    return env.spec


def is_installed(task: str) -> bool:
    """Tell whether what a task is simulated with is there."""
    try:
        _check_installed(_suites().get(_parts(resolve(task))[0]), task)
    except ModuleNotFoundError:
        return False
    return True


def is_on_device(task: str) -> bool:
    """Tell whether a task's environments are JAX programs (`device.py`)."""
    full = resolve(task)
    suite = _suites().get(_parts(full)[0])
    return own.makes_on_device(full) if suite is None else _on_device(suite)


def check_pool(task: str, pool: str) -> None:
    """Check, without building anything, that a pool can step a task.

    Raises:
        ValueError: There is no such pool, or it cannot take the task.
        ModuleNotFoundError: Its package is missing.
        EnvError: Its package is of another version.
    """
    if pool not in POOLS:
        raise ValueError(
            f"pool is {pool!r}; it must be {' or '.join(POOLS)}, or left out"
        )
    envpool.check(resolve(task))


def make_pool(
    task: str,
    num_envs: int,
    seed: int | Sequence[int],
    workers: int | str = "auto",
    timeout: float = 60.0,
    pool: str | None = None,
) -> Pool:
    """Build environments of one task, in this process or in workers.

    Args:
        task: A name that `resolve` accepts.
        num_envs: How many environments.
        seed: Environment i's randomness follows from this and i, however many there
            are and wherever they run. Several seeds share the environments equally.
        workers: How many worker processes; 0 is this process. "auto" decides by
            `choose_workers`, which also says why. Nothing to environments on the
            device, which need none.
        timeout: Seconds one step may take in a worker.
        pool: One of `POOLS`, in whose threads they are stepped; the task's own
            simulator if None. Workers are threads then.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}; it must be at least 1")
    full = resolve(task)
    if pool is not None:
        check_pool(task, pool)
        return envpool.make_pool(full, num_envs, seed, workers)
    prefix, name = _parts(full)
    suite = _suites().get(prefix)
    _check_installed(suite, task)
    if suite is None and own.makes_several(full):
        return own.make_vector_pool(full, num_envs, env_seeds(seed, num_envs))
    if suite is None and own.makes_on_device(full):
        return _device().DevicePool(own.make_device_env(full, 0), num_envs, seed)
    if suite is not None and _on_device(suite):
        return _device().DevicePool(suite.make(name, 0), num_envs, seed)
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


def _parts(task: str) -> tuple[str, str]:
    """Part prefix and name: a module's name has dots, an open suite's may have ":"."""
    first, colon, rest = task.partition(":")
    if colon and first in _suites():
        return first, rest
    prefix, _, name = task.rpartition(":")
    return prefix, name


def _is_open(suite: ModuleType) -> bool:
    return hasattr(suite, "find")


def _has(suite: ModuleType, name: str) -> bool:
    return _plain(name) in map(_plain, suite.list_tasks())


def _with_options(full: str, suite: ModuleType, options: TaskOptions) -> str:
    if str(options) and not getattr(suite, "OPTIONS", False):
        given = str(options).removeprefix(",")
        raise ValueError(f"task {full!r} has no options, but {given} was given")
    return f"{full}{options}"


def _spellings(suite: ModuleType) -> dict[str, str]:
    names = {task: task for task in suite.TASKS} | suite.ALIASES
    return {_plain(name): task for name, task in names.items()}


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_")


def _unknown(task: str) -> ValueError:
    """Name the nearest among bare names: a prefix would outweigh the rest."""
    given, bare = _parts(task)
    known = {
        plain: f"{prefix}:{name}"
        for prefix, suite in _suites().items()
        for plain, name in _spellings(suite).items()
        if given == prefix or given not in _suites()
    }
    bare = _plain(bare)
    nearest = difflib.get_close_matches(bare, known, n=1, cutoff=0.0)[0]
    why = ""
    if given and given not in _suites():
        why = (
            f": {given!r} is no suite, and no module in {os.getcwd()} or on PYTHONPATH"
        )
    near = difflib.SequenceMatcher(None, bare, nearest).ratio() >= NEAR
    hint = f"the nearest is {known[nearest]!r}" if near else "see: planprior list tasks"
    return ValueError(f"task {task!r} is unknown{why}; {hint}")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _see_present_folder() -> None:
    # An installed command, unlike `python -m`, does not search the present folder.
    # Last, so that no file there hides a package.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def _on_device(suite: ModuleType | None) -> bool:
    return getattr(suite, "ON_DEVICE", False)


def _device() -> ModuleType:
    # Late, because it needs JAX, which workers must not load.
    return importlib.import_module("planprior.envs.device")


def _check_installed(suite: ModuleType | None, task: str) -> None:
    needed = getattr(suite, "REQUIRES", None)
    if suite and needed and importlib.util.find_spec(needed) is None:
        how = getattr(suite, "INSTALL", None)
        how = how or f"run: pip install 'planprior[{suite.EXTRA}]'"
        raise ModuleNotFoundError(f"task {task!r} needs the package {needed}; {how}")
