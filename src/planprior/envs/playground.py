"""MuJoCo Playground: the DeepMind Control Suite's tasks, simulated on the device.

Numbered where it matters for comparing with published scores:

1. The tasks are those of `dmc.py` written anew by Playground's authors for MuJoCo XLA:
   the same bodies and rewards, but other solver settings, and there is no dog, no
   quadruped and no humanoid_CMU. As in `dmc.py`, an agent step is two control steps
   whose rewards are summed, and an episode has 500 of them and ends by truncation.
2. Playground marks a state that is not finite as done. That is a simulation that has
   diverged and no end of a task: as in every suite, NaN in an observation ends the
   training with a sentence. No episode terminates, so that no ends are learned.
3. Every episode starts in a new state. Brax's wrappers, with which Playground trains,
   go back to the first one.

The simulator is compiled for the JAX backend at hand ("jax"), not for Warp, which
Playground takes by default and which needs an NVIDIA card.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planprior.envs.device import DeviceEnv

REQUIRES = "mujoco_playground"
EXTRA = "playground"
ON_DEVICE = True

ACTION_REPEAT = 2
EPISODE_LENGTH = 500

TASKS = (
    *("AcrobotSwingup", "AcrobotSwingupSparse", "BallInCup", "CartpoleBalance"),
    *("CartpoleBalanceSparse", "CartpoleSwingup", "CartpoleSwingupSparse"),
    *("CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard", "FishSwim"),
    *("HopperHop", "HopperStand", "HumanoidStand", "HumanoidWalk", "HumanoidRun"),
    *("PendulumSwingup", "PointMass", "ReacherEasy", "ReacherHard"),
    *("SwimmerSwimmer6", "WalkerRun", "WalkerStand", "WalkerWalk"),
)
ALIASES: dict[str, str] = {}


def make(task: str, seed: int) -> "DeviceEnv":
    """Build one environment.

    Args:
        task: One of `TASKS`.
        seed: Nothing here is random; keys are given to each call.
    """
    del seed
    from planprior.envs.device import from_brax

    suite: Any = importlib.import_module("mujoco_playground").dm_control_suite
    config = suite.get_default_config(task)
    config.impl = "jax"
    return from_brax(
        suite.load(task, config=config),
        name=f"playground:{task}",
        episode_length=EPISODE_LENGTH,
        action_repeat=ACTION_REPEAT,
        can_terminate=False,
        step_seconds=ACTION_REPEAT * float(config.ctrl_dt),
    )
