"""Drive a simulator with exported programs: planprior gives the simulator alone.

    planprior export runs/cartpole-swingup-pompc-tiny-seed0 agent/ --onnx --stablehlo
    python examples/exported_agent.py agent/

Plays an episode with every program in the folder and prints its return and the time of
a call. What stands for the robot here is `env`: what it observes goes in as it is, and
it takes actions in [−1, 1].
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from planprior.envs.registry import make_env

Act = Callable[[np.ndarray], np.ndarray]


def onnx_policy(file: Path) -> Act:
    """The policy in onnxruntime: one observation at a time, as a batch of one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file)

    def act(seen: np.ndarray) -> np.ndarray:
        batch = session.run(["action"], {"observation": seen[np.newaxis]})[0]
        return np.asarray(batch)[0]

    return act


def stablehlo(file: Path) -> Callable[..., Any]:
    """A program of jax.export, compiled for this machine when it is first called."""
    import jax
    from jax import export

    return jax.jit(export.deserialize(bytearray(file.read_bytes())).call)


def policy(file: Path) -> Act:
    """The policy."""
    program = stablehlo(file)
    return lambda seen: np.asarray(program(seen)[0])


class Planner:
    """A plan at every call, which starts where the last one left off."""

    def __init__(self, file: Path, inputs: list[dict[str, Any]]) -> None:
        """Read from the description which inputs the plan has, and of what shapes."""
        self.program, self.inputs = stablehlo(file), inputs
        shapes = {one["name"]: one["shape"] for one in inputs}
        self.mean, self.step = np.zeros(shapes["mean"], np.float32), 0
        self.action = np.zeros(shapes["mean"][1:], np.float32)

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        """Give the first action of the plan."""
        given = {
            "observation": seen,
            "mean": self.mean,
            "step": np.uint32(self.step),
            "under_way": self.action,
        }
        action, self.mean = self.program(*(given[one["name"]] for one in self.inputs))
        # With --ahead the plan is for the next moment: the one before goes out.
        ready = self.action if len(self.inputs) == 4 else np.asarray(action)
        self.action, self.step = np.asarray(action), self.step + 1
        return ready


def load(folder: Path) -> dict[str, Act]:
    """Every program in a folder, by the name of its file."""
    about = json.loads((folder / "runtimes.json").read_text())["files"]
    make: dict[str, Callable[[Path], Act]] = {
        "policy.onnx": onnx_policy,
        "policy.stablehlo": policy,
        "plan.stablehlo": lambda file: Planner(file, about[file.name]["inputs"]),
    }
    return {name: make[name](folder / name) for name in about}


def play(act: Act, env: Any) -> tuple[float, float]:
    """The return of an episode, and milliseconds of a call (median)."""
    seen, total, ended, times = env.reset(0), 0.0, False, []
    while not ended:
        began = time.perf_counter()
        action = act(seen)
        times.append(time.perf_counter() - began)
        outcome = env.step(action)
        seen, total = outcome.observation, total + outcome.reward
        ended = outcome.terminated or outcome.truncated
    return total, 1e3 * float(np.median(times))


def main(folder: Path) -> None:
    """Play and tell."""
    task = json.loads((folder / "runtimes.json").read_text())["agent"]["task"]
    env = make_env(task, 0)
    for name, act in load(folder).items():
        total, milliseconds = play(act, env)
        print(f"{name}: return {total:.1f}, {milliseconds:.2f} ms a call")
    env.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
