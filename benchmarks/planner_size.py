"""Is it the planner that is too small? Evaluate a run with the published one.

    python benchmarks/planner_size.py RUNS/finger-spin RUNS/walker-walk

The agents of each run's last checkpoint play the same episodes twice: with the planner
that they were trained with, and with TD-MPC2's (512 samples, 6 iterations).
"""

import argparse
import dataclasses

import numpy as np

from planprior.acting import Agent
from planprior.config import PlannerConfig
from planprior.envs.registry import make_pool
from planprior.evaluation import evaluate
from planprior.population import Population

SIZES = ("num_samples", "num_elites", "num_policy_trajectories", "iterations")


def returns(agent: Agent, planner: PlannerConfig, episodes: int) -> np.ndarray:
    """Returns of an agent's episodes, planned by another planner."""
    config = dataclasses.replace(agent.config, planner=planner)
    population = Population(
        agent.spec, config, [0], [agent.hypers], num_envs=episodes,
        capacity=config.horizon + 1,
    )  # fmt: skip
    pool = make_pool(agent.info["task"], episodes, [1000], 0)
    try:
        return evaluate(population, agent.agents, pool, "plan", 5).returns[0]
    finally:
        pool.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--episodes", type=int, default=10)
    options = parser.parse_args()
    for run in options.runs:
        agent = Agent.load(run, checkpoint="latest")
        own, published = agent.config.planner, PlannerConfig()
        sizes = {name: getattr(published, name) for name in SIZES}
        for planner in (own, dataclasses.replace(own, **sizes)):
            found = returns(agent, planner, options.episodes)
            error = np.std(found, ddof=1) / np.sqrt(len(found))
            print(
                f"{run}: {planner.num_samples} samples, {planner.iterations} rounds: "
                f"mean {np.mean(found):.1f} (standard error {error:.1f}), "
                f"least {np.min(found):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
