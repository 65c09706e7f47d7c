"""Meta-World: the 50 tasks of a robot arm, each on its own (MT1), version 3.

Numbered where it matters for comparing with published scores:

1. As in TD-MPC2, an agent step is two environment steps whose rewards are summed, an
   episode has 100 agent steps (200 of the 500 that the package allows) and ends by
   truncation, the goal is in the observation, and every episode draws a new goal. The
   goals are drawn from the environment's own seed; TD-MPC2's come from NumPy's global
   state, and are others in every process.
2. Success is that of the last step of an episode, as in TD-MPC2. Other papers count any
   step, which is never less.
3. Published scores are of version 2, whose models and rewards version 3 keeps on
   another physics engine.
"""

import importlib
from typing import Any

import numpy as np

from planprior.envs.base import Outcome
from planprior.envs.drawing import Drawing
from planprior.envs.retraced import RetracedEnv
from planprior.spec import EnvSpec

REQUIRES = "metaworld"
EXTRA = "metaworld"

ACTION_REPEAT = 2
EPISODE_LENGTH = 100
CAMERA = "corner2"

_NAMES = """
assembly basketball bin-picking box-close button-press button-press-topdown
button-press-topdown-wall button-press-wall coffee-button coffee-pull coffee-push
dial-turn disassemble door-close door-lock door-open door-unlock drawer-close
drawer-open faucet-close faucet-open hammer hand-insert handle-press
handle-press-side handle-pull handle-pull-side lever-pull peg-insert-side
peg-unplug-side pick-out-of-hole pick-place pick-place-wall plate-slide
plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall
reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into
window-close window-open
"""

TASKS = tuple(f"mw-{name}" for name in _NAMES.split())
ALIASES = {f"{name}-v3": f"mw-{name}" for name in _NAMES.split()}


def make(task: str, seed: int) -> "MetaWorld":
    """Build one environment.

    Args:
        task: One of `TASKS`.
        seed: Everything random in the environment follows from it.
    """
    return MetaWorld(task, seed)


class MetaWorld(RetracedEnv):
    """One task, with a new goal in every episode."""

    def __init__(self, task: str, seed: int) -> None:
        self._env = _load(task, seed)
        self._steps = 0
        self.step_seconds = ACTION_REPEAT * float(self._env.dt)
        spec = EnvSpec(
            name=f"metaworld:{task}",
            observation_dim=self._env.observation_space.shape[0],
            action_dim=self._env.action_space.shape[0],
            episode_length=EPISODE_LENGTH,
            action_repeat=ACTION_REPEAT,
            has_success=True,
        )
        super().__init__(spec, seed, simulated=True)
        self._drawing = Drawing(spec.name, self._env.model, self._env.data, CAMERA)

    def _generator(self) -> object:
        return self._env.np_random

    def _begin(self, seed: int | None) -> np.ndarray:
        if seed is not None:
            self._env.seed(seed)
        self._steps = 0
        observation, _ = self._env.reset()
        return observation.astype(np.float32)

    def _act(self, action: np.ndarray) -> Outcome:
        reward, observation, info = 0.0, None, {}
        for _ in range(ACTION_REPEAT):
            observation, gained, _, _, info = self._env.step(action)
            reward += float(gained)
        assert observation is not None
        self._steps += 1
        return Outcome(
            observation.astype(np.float32),
            reward,
            terminated=False,
            truncated=self._steps >= EPISODE_LENGTH,
            success=bool(info["success"]),
        )

    def render(self, height: int = 240, width: int = 320) -> np.ndarray:
        """Return a picture from the camera `corner2`, as close as in TD-MPC2."""
        # The camera hangs upside down.
        return self._drawing.picture(height, width)[::-1, ::-1]

    def close(self) -> None:
        """Free the simulator and, where pictures were taken, OpenGL."""
        self._drawing.close()
        self._env.close()


def _load(task: str, seed: int) -> Any:
    tasks = importlib.import_module("metaworld").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
    env = tasks[f"{task.removeprefix('mw-')}-v3-goal-observable"](seed=seed)
    # The class has drawn one goal and kept it; from now on each episode draws its own.
    env._freeze_rand_vec = False
    env.seeded_rand_vec = True
    env.seed(seed)
    # Before any state is computed, with which the camera moves.
    env.model.camera(CAMERA).pos[:] = (0.75, 0.075, 0.7)
    return env
