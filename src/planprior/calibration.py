"""Whether an agent's values come true: its estimates against the returns that came."""

import csv
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from planprior import agent as programs
from planprior.acting import Agent
from planprior.envs.pool import Pool

NEGLIGIBLE = 0.05
"""Weight below which what would have come after a time limit is left out of account."""


class Calibration(NamedTuple):
    """Estimates and returns at the states of some episodes, one entry per state.

    Attributes:
        predicted: The planner's estimate of the discounted return, `Plan.value`; an
            elite's where `PlannerConfig.evaluation` is `mean`.
        achieved: The discounted return that came.
    """

    predicted: Float[np.ndarray, "states"]
    achieved: Float[np.ndarray, "states"]


def calibrate(agent: Agent, pool: Pool, seed: int = 0) -> Calibration:
    """Plan through one episode of every environment and compare.

    An episode that a time limit ends would have gone on: only states so far from that
    end that the rest weighs less than `NEGLIGIBLE` are compared.

    Args:
        agent: The agent.
        pool: Environments of its task.
        seed: Of first states and of what is random in planning.

    Raises:
        ValueError: Episodes are too short for the discount.
    """
    return compare(float(agent.hypers.discount), *_play(agent, pool, seed))


def compare(
    discount: float,
    predicted: Float[np.ndarray, "T E"],
    reward: Float[np.ndarray, "T E"],
    running: Bool[np.ndarray, "T E"],
    terminated: Bool[np.ndarray, "E"],
) -> Calibration:
    """Compare estimates with the discounted returns of the same episodes.

    Args:
        discount: Per decision.
        predicted: Estimate at each state.
        reward: Of each decision.
        running: Whether the first episode of an environment was still on.
        terminated: Whether it ended by its own rule.

    Raises:
        ValueError: Episodes are too short for the discount.
    """
    achieved = _discounted(reward * running, discount)
    left = np.cumsum(running[::-1], axis=0)[::-1]
    known = running & (terminated | (discount**left <= NEGLIGIBLE))
    if not known.any():
        raise ValueError(
            f"discount is {discount:g}; episodes of {len(reward)} decisions are too "
            "short to tell what the values were worth"
        )
    return Calibration(predicted[known], achieved[known])


def _play(agent: Agent, pool: Pool, seed: int) -> tuple[Any, Any, Any, Any]:
    """Estimates, rewards and what was running, [T, E]; which episodes terminated."""

    @jax.jit
    def act(observation: Any, warm_start: Any, reset: Any, step: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(seed), step)
        return programs.act(
            agent.state, observation, warm_start, reset, agent.hypers, agent.config,
            key=key, explore=False,
        )  # fmt: skip

    shape = (pool.num_envs, agent.config.horizon, agent.spec.action_dim)
    observation, warm_start = pool.reset(seed), jnp.zeros(shape)
    reset, running = np.ones(pool.num_envs, bool), np.ones(pool.num_envs, bool)
    terminated = np.zeros(pool.num_envs, bool)
    told = []
    while running.any():
        plan = act(observation, warm_start, reset, np.int32(len(told)))
        outcome = pool.step(np.asarray(plan.action))
        told.append((np.asarray(plan.value), outcome.reward.copy(), running.copy()))
        terminated |= running & outcome.terminated
        running &= ~outcome.ended
        observation, reset = outcome.reset_observation, outcome.ended
        warm_start = plan.mean
    predicted, reward, was_running = (np.stack(x) for x in zip(*told, strict=True))
    return predicted, reward, was_running, terminated


def _discounted(
    reward: Float[np.ndarray, "T E"], discount: float
) -> Float[np.ndarray, "T E"]:
    """Discounted sums of the rewards from each step on."""
    sums, rest = np.zeros(reward.shape), np.zeros(reward.shape[1])
    for t in range(len(reward) - 1, -1, -1):
        rest = reward[t] + discount * rest
        sums[t] = rest
    return sums


def folder_of(agent: Path) -> Path:
    """The folder that a table about an agent belongs in.

    Args:
        agent: A run's folder or an agent's, which is the one; or one of the checkpoints
            of a run, whose figures are drawn from what is beside its `eval.csv`.
    """
    above = agent.absolute().parent
    if above.name != "checkpoints" or not (above.parent / "eval.csv").exists():
        return agent
    return agent.parents[1] if len(agent.parents) > 1 else above.parent


def write(path: Path, found: Calibration, about: dict[str, Any]) -> Path:
    """Write a table of them; one of this name is replaced once the new one is whole.

    Args:
        path: Where to.
        found: What was found.
        about: Further columns, the same in every row: of which agent.
    """
    aside = path.with_name(f".{path.name}.part{os.getpid()}")
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*about, "predicted", "achieved"])
        for pair in zip(found.predicted, found.achieved, strict=True):
            writer.writerow([*about.values(), *(f"{x:.6g}" for x in pair)])
    os.replace(aside, path)
    return path


def summary(found: Calibration) -> dict[str, float]:
    """Mean estimate, mean return, and by how much the first exceeds the second."""
    predicted, achieved = float(found.predicted.mean()), float(found.achieved.mean())
    return {
        "value_predicted": predicted,
        "value_achieved": achieved,
        "value_overestimation": predicted - achieved,
    }
