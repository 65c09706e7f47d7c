"""MyoSuite: the ten tasks of a hand with muscles that TD-MPC2 is tested on.

Numbered where it matters for comparing with published scores:

1. As in TD-MPC2, an episode has 100 steps without action repeat whatever the package's
   own limit is (50 to 200), and goes on where the package would end it, e.g. when an
   object is dropped: it always ends by truncation.
2. Success is `solved` at the last step of an episode, as in TD-MPC2.
3. Tasks named `hard` draw a new goal for every episode; the others have one.
"""

import importlib
from typing import Any

import numpy as np

from planprior.envs import gym
from planprior.envs.base import Env
from planprior.envs.drawing import Drawing
from planprior.envs.options import TaskOptions

REQUIRES = "myosuite"
EXTRA = "myosuite"

EPISODE_LENGTH = 100

_IDS = {
    "reach": "myoHandReach",
    "pose": "myoHandPose",
    "obj-hold": "myoHandObjHold",
    "key-turn": "myoHandKeyTurn",
    "pen-twirl": "myoHandPenTwirl",
}
_KINDS = {"": "Fixed-v0", "-hard": "Random-v0"}

TASKS = tuple(f"myo-{name}{kind}" for name in _IDS for kind in _KINDS)
ALIASES = {
    f"{_IDS[name]}{_KINDS[kind]}": f"myo-{name}{kind}"
    for name in _IDS
    for kind in _KINDS
}


def make(task: str, seed: int) -> Env:
    """Build one environment.

    Args:
        task: One of `TASKS`.
        seed: Everything random in the environment follows from it.
    """
    importlib.import_module("myosuite")  # registers its tasks
    name = next(name for name, ours in ALIASES.items() if ours == task)
    made = importlib.import_module("gymnasium").make(name, disable_env_checker=True)
    options = TaskOptions(
        episode_length=EPISODE_LENGTH, terminates=False, success=True, simulated=True
    )
    name = f"myosuite:{task}"
    return gym.wrap(_Unending(made.unwrapped, name), name, seed, options)


class _Unending:
    """The task without ends of its own, and with its success by the usual name."""

    def __init__(self, env: Any, name: str) -> None:
        self.action_space, self.observation_space = (
            env.action_space,
            env.observation_space,
        )
        self.metadata = {"render_fps": round(1 / env.dt)}
        self.reset = env.reset
        self._env = self.unwrapped = env
        self._drawing = Drawing(name, env.mj_model, env.mj_data, "hand_side_inter")

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = self._env.step(action)
        return observation, reward, False, False, {"success": info["solved"]}

    def render(self) -> np.ndarray:
        return self._drawing.picture()

    def close(self) -> None:
        self._drawing.close()
        self._env.close()
