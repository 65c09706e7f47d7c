"""DeepMind Control Suite: every task, through dm_control.

Numbered where it matters for comparing with published scores:

1. An agent step is two control steps whose rewards are summed; an episode has 500
   agent steps and ends by truncation (only `lqr` can terminate).
2. Observations are concatenated in dm_control's own order, as TD-MPC2 does.
   Gymnasium's dictionaries would sort them by name.
3. Actions in [−1, 1] are mapped to the task's bounds dimension by dimension, as
   dm_control's `action_scale` does for TD-MPC2. Only `quadruped`, whose bounds lie
   between −1 and 1.1, notices. `lqr`, which has no bounds, gets them as they are.

OpenGL is not loaded before the first picture is asked for, whatever MUJOCO_GL says.
Then MUJOCO_GL chooses the library; where it is not set, EGL on Linux, which needs no
screen.
"""

import contextlib
import importlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from planprior.envs.base import Env, EnvError, EnvState, Outcome
from planprior.envs.generator import legacy_state, set_legacy_state
from planprior.spec import EnvSpec

PREFIX = "dm_control"
REQUIRES = "dm_control"
INSTALL = "run: pip install 'planprior[dmc]'"
if sys.version_info >= (3, 13):
    INSTALL += (
        " && pip install --no-deps dm-control==1.0.50 (alone, since labmaze, which "
        "it needs for tasks of no suite here, has no build for this Python)"
    )

ACTION_REPEAT = 2
EPISODE_LENGTH = 500

# Written out, so that tasks can be listed where dm_control is not installed.
_DOMAINS = {
    "acrobot": ("swingup", "swingup_sparse"),
    "ball_in_cup": ("catch",),
    "cartpole": (
        "balance",
        "balance_sparse",
        "swingup",
        "swingup_sparse",
        "two_poles",
        "three_poles",
    ),
    "cheetah": ("run",),
    "dog": ("stand", "walk", "trot", "run", "fetch"),
    "finger": ("spin", "turn_easy", "turn_hard"),
    "fish": ("upright", "swim"),
    "hopper": ("stand", "hop"),
    "humanoid": ("stand", "walk", "run", "run_pure_state"),
    "humanoid_CMU": ("stand", "walk", "run"),
    "lqr": ("lqr_2_1", "lqr_6_2"),
    "manipulator": ("bring_ball", "bring_peg", "insert_ball", "insert_peg"),
    "pendulum": ("swingup",),
    "point_mass": ("easy", "hard"),
    "quadruped": ("walk", "run", "escape", "fetch"),
    "reacher": ("easy", "hard"),
    "stacker": ("stack_2", "stack_4"),
    "swimmer": ("swimmer6", "swimmer15"),
    "walker": ("stand", "walk", "run"),
}

# Observation and action: of a domain, or of a task that differs from the rest of it.
_SIZES = {
    "acrobot": (6, 1),
    "ball_in_cup": (8, 2),
    "cartpole": (5, 1),
    "cartpole-two_poles": (8, 1),
    "cartpole-three_poles": (11, 1),
    "cheetah": (17, 6),
    "dog": (223, 38),
    "dog-fetch": (232, 38),
    "finger": (12, 2),
    "finger-spin": (9, 2),
    "fish-upright": (21, 5),
    "fish-swim": (24, 5),
    "hopper": (15, 4),
    "humanoid": (67, 21),
    "humanoid-run_pure_state": (55, 21),
    "humanoid_CMU": (137, 56),
    "lqr-lqr_2_1": (4, 1),
    "lqr-lqr_6_2": (12, 2),
    "manipulator": (44, 5),
    "pendulum": (3, 1),
    "point_mass": (4, 2),
    "quadruped": (78, 12),
    "quadruped-escape": (101, 12),
    "quadruped-fetch": (90, 12),
    "reacher": (6, 2),
    "stacker-stack_2": (49, 5),
    "stacker-stack_4": (63, 5),
    "swimmer-swimmer6": (25, 5),
    "swimmer-swimmer15": (61, 14),
    "walker": (24, 6),
}

TASKS = tuple(f"{domain}-{task}" for domain in _DOMAINS for task in _DOMAINS[domain])
ALIASES = {
    "cup-catch": "ball_in_cup-catch",
    "pointmass-easy": "point_mass-easy",
    "pointmass-hard": "point_mass-hard",
}


def spec(task: str) -> EnvSpec:
    """Sizes of a task, without building it.

    Args:
        task: One of `TASKS`.
    """
    domain = task.partition("-")[0]
    observation_dim, action_dim = _SIZES.get(task) or _SIZES[domain]
    return EnvSpec(
        name=f"{PREFIX}:{task}",
        observation_dim=observation_dim,
        action_dim=action_dim,
        episode_length=EPISODE_LENGTH,
        action_repeat=ACTION_REPEAT,
        can_terminate=domain == "lqr",
    )


def make(task: str, seed: int) -> "DMControl":
    """Build one environment.

    Args:
        task: One of `TASKS`.
        seed: Everything random in the environment follows from it.
    """
    return DMControl(task, seed)


class DMControl(Env):
    """A task of the suite.

    It drives dm_control's task and physics itself: `dm_env.step` would also compute
    the observation between two repeats, which nobody sees.
    """

    def __init__(self, task: str, seed: int) -> None:
        self._name = task
        self._is_lqr = task.startswith("lqr")
        self._build(seed)
        seconds = self._env.control_timestep()
        self._substeps = round(seconds / self._physics.timestep())
        self._centre, self._half_range = _action_map(self._env.action_spec())
        self._camera = 2 if task.startswith("quadruped") else 0
        self._steps = 0
        self.step_seconds = ACTION_REPEAT * seconds
        self.spec = EnvSpec(
            name=f"{PREFIX}:{task}",
            observation_dim=_flatten(self._env.reset().observation).size,
            action_dim=self._centre.size,
            episode_length=EPISODE_LENGTH,
            action_repeat=ACTION_REPEAT,
            can_terminate=self._is_lqr,
        )
        # Sizing cost a reset, so that the stream of random numbers starts again.
        self._task.random.seed(seed)
        self._begun_from = legacy_state(self._task.random)

    def _build(self, seed: int) -> None:
        self._built_from = seed
        self._env = _load(self._name, seed)
        self._task, self._physics = self._env.task, self._env.physics
        _defer_rendering(self._physics)

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode."""
        if seed is not None and self._is_lqr:
            # Its springs are drawn when it is built.
            self._env.close()
            self._build(seed)
        if seed is not None:
            self._task.random.seed(seed)
        return self._begin()

    def _begin(self) -> np.ndarray:
        self._steps = 0
        self._begun_from = legacy_state(self._task.random)
        return _flatten(self._env.reset().observation)

    def step(self, action: np.ndarray) -> Outcome:
        """Do the action twice.

        Raises:
            EnvError: The simulation diverged.
        """
        control = self._centre + self._half_range * action.astype(np.float64)
        reward, terminated = 0.0, False
        for _ in range(ACTION_REPEAT):
            reward += self._advance(control)
            # The suite's only verdict is a discount of 0; None is to go on.
            terminated = self._task.get_termination(self._physics) == 0.0
            if terminated:
                break
        self._steps += 1
        observation = _flatten(self._task.get_observation(self._physics))
        truncated = self._steps >= EPISODE_LENGTH and not terminated
        return Outcome(observation, reward, terminated, truncated)

    def _advance(self, control: np.ndarray) -> float:
        self._task.before_step(control, self._physics)
        try:
            self._physics.step(self._substeps)
        except RuntimeError as error:
            raise EnvError(f"{self.spec.name} has diverged: {error}") from error
        self._task.after_step(self._physics)
        return float(self._task.get_reward(self._physics))

    def state(self) -> EnvState:
        """Return what the coming steps depend on.

        What a task draws when an episode begins may lie anywhere in the model (targets,
        terrain, gains), so this tells from which random numbers it was drawn; what
        moves after that is MuJoCo's own state.
        """
        return {
            "seed": np.array(self._built_from),
            "begun_from": self._begun_from,
            "random": legacy_state(self._task.random),
            "steps": np.array(self._steps),
            "physics": _integration_state(self._physics),
        }

    def set_state(self, state: EnvState) -> None:
        """Begin the same episode, and go on where it was."""
        if self._is_lqr:
            self._env.close()
            self._build(int(state["seed"]))
        set_legacy_state(self._task.random, state["begun_from"])
        self._begin()
        set_legacy_state(self._task.random, state["random"])
        _set_integration_state(self._physics, state["physics"])
        self._steps = int(state["steps"])

    def render(
        self, height: int = 240, width: int = 320, camera: int | None = None
    ) -> np.ndarray:
        """Return a picture; `camera` is a number of the task's own cameras."""
        _open_gl(self._physics, self.spec.name)
        camera = self._camera if camera is None else camera
        return self._physics.render(height, width, camera_id=camera)

    def close(self) -> None:
        """Free the simulator and, where pictures were taken, OpenGL."""
        self._env.close()


def _flatten(observation: Mapping[str, Any]) -> np.ndarray:
    # Some entries are 0-d, which concatenate refuses.
    return np.concatenate([np.ravel(v) for v in observation.values()], dtype=np.float32)


def _action_map(bounds: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and half range of the bounds; 0 and 1 where there are none."""
    # MuJoCo's infinity.
    bounded = (bounds.maximum < 1e10) & (bounds.minimum > -1e10)
    centre = np.where(bounded, (bounds.maximum + bounds.minimum) / 2, 0.0)
    half_range = np.where(bounded, (bounds.maximum - bounds.minimum) / 2, 1.0)
    return centre, half_range


def _integration_state(physics: Any) -> np.ndarray:
    """Return all that MuJoCo's next step depends on, float64."""
    mujoco = importlib.import_module("mujoco")
    model, what = physics.model.ptr, int(mujoco.mjtState.mjSTATE_INTEGRATION)
    state = np.empty(mujoco.mj_stateSize(model, what))
    mujoco.mj_getState(model, physics.data.ptr, state, what)
    return state


def _set_integration_state(physics: Any, state: np.ndarray) -> None:
    mujoco = importlib.import_module("mujoco")
    model, data = physics.model.ptr, physics.data.ptr
    mujoco.mj_setState(model, data, state, int(mujoco.mjtState.mjSTATE_INTEGRATION))
    # dm_control ends every step with this, and begins the next with the other half.
    mujoco.mj_step1(model, data)


def _load(task: str, seed: int) -> Any:
    suite = _import_suite()
    domain, name = task.split("-")
    with quiet_absl():
        return suite.load(domain, name, task_kwargs={"random": seed})


def _import_suite() -> ModuleType:
    """Import dm_control without OpenGL, so that training never needs it."""
    # Without metadata it was not installed by pip, and somebody chose the version.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("mujoco")
        if int(version.split(".")[0]) >= 4:
            raise EnvError(
                f"mujoco is version {version}, with which dm_control cannot load its "
                "tasks; run: pip install 'mujoco>=3.17,<4'"
            )
    with _environment("MUJOCO_GL", "disabled"):
        return importlib.import_module("dm_control.suite")


@contextlib.contextmanager
def quiet_absl() -> Iterator[None]:
    """Silence MuJoCo's remarks: every dog would repeat one on its own XML file."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# Rendering: OpenGL is loaded when the first picture is asked for ----------------------


def _open_gl(physics: Any, task: str) -> None:
    default = "egl" if sys.platform.startswith("linux") else "glfw"
    backend = os.environ.get("MUJOCO_GL", default)
    try:
        _load_gl(backend)
        physics.open_contexts()
    except Exception as error:
        raise EnvError(
            f"{task} cannot be rendered: no OpenGL library works with MUJOCO_GL="
            f"{backend}; on a Linux machine without a screen, set MUJOCO_GL=egl and "
            "`apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri`"
        ) from error


def _load_gl(backend: str) -> None:
    """Let dm_control choose OpenGL again, which it does when it is imported."""
    renderer = importlib.import_module("dm_control._render")
    if renderer.BACKEND in (None, "off"):
        with _environment("MUJOCO_GL", backend):
            importlib.reload(renderer)


def _defer_rendering(physics: Any) -> None:
    """Keep `physics` from opening OpenGL before a picture is asked for.

    `quadruped-escape` would at every reset, to upload its new terrain.
    """
    plain = type(physics)

    class Deferred(plain):
        has_contexts = False

        @property
        def contexts(self) -> Any:
            return super().contexts if self.has_contexts else None

        def open_contexts(self) -> None:
            self.has_contexts = super().contexts is not None

    physics.__class__ = Deferred


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
