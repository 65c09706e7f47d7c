"""HumanoidBench: whole-body tasks of the humanoid H1, with hands (h1hand) or without.

Numbered where it matters for comparing with published scores:

1. An episode has 1000 steps (500 in basketball, cube, insert, kitchen and push) without
   action repeat, and terminates when the robot falls.
2. The papers (BMPC, TD-M(PC)², BOOM) carry values on through falls, so that the suite
   proposes `terminations = bootstrap`; `--terminations masked` is correct.
3. Published scores are of MuJoCo 3.1.6. On newer versions the same actions lead to
   other states from the first step on: say so where returns are compared.
4. Goals and objects that the package draws from NumPy's global state, and so without
   regard to the seed, follow from the environment's own here, of the same distribution.

The package is not on a package index, and its exact requirements (torch 2.3.1,
dm_control 1.0.20, …) would replace much of what is installed: `docs/suites.md`.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from planprior.envs import gym
from planprior.envs.base import Env
from planprior.envs.drawing import Drawing
from planprior.envs.options import TaskOptions

REQUIRES = "humanoid_bench"
INSTALL = (
    "get it from the repository carlosferrazza/humanoid-bench and run: "
    "pip install -e humanoid-bench (see docs/suites.md)"
)
SETTINGS = {"terminations": "bootstrap"}

_BODY = """
walk stand run reach hurdle crawl maze sit_simple sit_hard balance_simple balance_hard
stair slide pole push door truck basketball package
"""
_HANDS = """
cabinet cube bookshelf_simple bookshelf_hard window spoon kitchen powerlift room
insert_small insert_normal
"""
# Of which the package has a model.
_OF = {
    "h1hand": _BODY + _HANDS,
    "h1": _BODY + "highbar_simple",
    "h1strong": "highbar_hard",
}

TASKS = tuple(f"{robot}-{name}-v0" for robot, of in _OF.items() for name in of.split())
ALIASES = {task.removesuffix("-v0"): task for task in TASKS}


def make(task: str, seed: int) -> Env:
    """Build one environment.

    Args:
        task: One of `TASKS`.
        seed: Everything random in the environment follows from it.
    """
    importlib.import_module("humanoid_bench")  # registers its tasks
    # Its default would open a window's context in every environment. It prints, too.
    with contextlib.redirect_stdout(sys.stderr):
        made = importlib.import_module("gymnasium").make(
            task, render_mode=None, disable_env_checker=True
        )
    name, options = f"humanoid_bench:{task}", TaskOptions(simulated=True)
    return gym.wrap(_Own(made, name), name, seed, options)


class _Own:
    """A task that draws all its random numbers from its own generator."""

    def __init__(self, env: Any, name: str) -> None:
        self.env, self.unwrapped, self.spec = env, env.unwrapped, env.spec
        self.action_space = env.action_space
        self.observation_space = env.observation_space
        self._drawn: Any = None
        bare = env.unwrapped
        self._drawing = Drawing(name, bare.model, bare.data, bare.camera_name)

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.unwrapped.np_random = np.random.default_rng(seed)
        words = self.unwrapped.np_random.integers(2**32, size=4)
        begun: Any = None
        # Twice the same, since in some tasks the first has something of the episode
        # before: where a package was to go, or noise that is then switched off.
        for _ in range(2):
            self._drawn = np.random.RandomState(words).get_state()
            begun = self._drawing_from_own(self.env.reset)
        return begun

    def step(self, action: Any) -> Any:
        return self._drawing_from_own(lambda: self.env.step(action))

    def _drawing_from_own(self, call: Callable[[], Any]) -> Any:
        """Call it with NumPy's global state its own, which is then put back."""
        before = np.random.get_state()  # noqa: NPY002 – the package draws from it
        np.random.set_state(self._drawn)  # noqa: NPY002
        try:
            return call()
        finally:
            self._drawn = np.random.get_state()  # noqa: NPY002
            np.random.set_state(before)  # noqa: NPY002

    def render(self) -> np.ndarray:
        return self._drawing.picture()

    def close(self) -> None:
        self._drawing.close()
        self.env.close()
