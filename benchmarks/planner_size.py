"""Is it the planner that is too small, or the noise that is missing?

    python benchmarks/planner_size.py RUNS/finger-spin RUNS/walker-walk

The agents of each run's last checkpoint play the same episodes three times: with the
planner that they were trained with, with the same exploring as in training, and with
TD-MPC2's (512 samples, 6 iterations).
"""

import argparse
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from planprior.acting import Agent
from planprior.config import PlannerConfig
from planprior.envs.registry import make_pool
from planprior.evaluation import evaluate
from planprior.population import Population
from planprior.programs import Decision

SIZES = ("num_samples", "num_elites", "num_policy_trajectories", "iterations")


class Exploring(Population):
    """Agents that are evaluated with the noise that they are trained with."""

    def evaluate(self, *place: Any) -> Decision:
        """Plan with exploration."""
        return self.act(*place)[0]


def returns(
    agent: Agent, planner: PlannerConfig, episodes: int, kind: type[Population]
) -> np.ndarray:
    """Returns of an agent's episodes, planned by another planner."""
    config = dataclasses.replace(agent.config, planner=planner)
    population = kind(
        agent.spec, config, [0], [agent.hypers], num_envs=episodes,
        capacity=config.horizon + 1,
    )  # fmt: skip
    pool = make_pool(agent.info["task"], episodes, [1000], 0)
    try:
        return evaluate(population, agent.agents, pool, "plan", 5).returns[0]
    finally:
        pool.close()


def asked_for(about: str, episodes: int) -> Iterator[tuple[str, Agent, int]]:
    """Runs that the command line names, their last agents, and how many episodes.

    Args:
        about: What the script is for.
        episodes: How many, unless the command line says otherwise.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--episodes", type=int, default=episodes)
    options = parser.parse_args()
    for run in options.runs:
        try:
            agent = Agent.load(run, checkpoint="latest")
        except (ValueError, OSError) as error:
            parser.error(str(error))
        yield run, agent, options.episodes


def main() -> None:
    for run, agent, episodes in asked_for(str(__doc__), 10):
        own, published = agent.config.planner, PlannerConfig()
        sizes = {name: getattr(published, name) for name in SIZES}
        large = dataclasses.replace(own, **sizes)
        for planner, kind in ((own, Population), (own, Exploring), (large, Population)):
            found = returns(agent, planner, episodes, kind)
            error = np.std(found, ddof=1) / np.sqrt(len(found))
            noise = ", exploring" if kind is Exploring else ""
            print(
                f"{run}: {planner.num_samples} samples, {planner.iterations} rounds"
                f"{noise}: mean {np.mean(found):.1f} (standard error {error:.1f}), "
                f"least {np.min(found):.1f}, most {np.max(found):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
