"""What rate a machine sustains for a size of the planner, and what return it keeps."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from planprior.acting import Agent
from planprior.anytime import CompiledPlanner
from planprior.controller import SPARE
from planprior.envs.base import Env
from planprior.realtime import untimed


class Budgeted(NamedTuple):
    """A size of the planner.

    Attributes:
        samples: Action sequences per iteration.
        iterations: Iterations.
        milliseconds: What a plan takes (median of five).
        hz: The highest rate at which a controller finishes it in time.
        returns: Of whole episodes with it, without clock or delay.
    """

    samples: int
    iterations: int
    milliseconds: float
    hz: float
    returns: list[float]


def budgets(
    agent: Agent,
    env: Env,
    *,
    samples: Iterable[int],
    iterations: Iterable[int],
    episodes: int,
    seed: int,
) -> Iterator[Budgeted]:
    """Measure a grid of sizes.

    Args:
        agent: Whose networks.
        env: Its task.
        samples: Numbers of samples, each at least the agent's elites.
        iterations: Numbers of iterations.
        episodes: Episodes per size, the same ones for all; 0 leaves returns out.
        seed: Of the episodes.

    Raises:
        ValueError: A number makes no sense.
    """
    counts = sorted(set(iterations))
    for number in sorted(set(samples)):
        planner = dataclasses.replace(
            agent.config.planner, num_samples=number, extra_iterations=False
        )
        sized = _with(agent, planner)
        times = CompiledPlanner(sized, levels=[number]).measure()[0]
        for count in counts:
            chosen = _with(agent, dataclasses.replace(planner, iterations=count))
            seconds = times.begin + count * times.step
            returns = untimed(chosen, env, episodes=episodes, seed=seed)
            hz = (1 - SPARE) / seconds
            yield Budgeted(number, count, 1e3 * seconds, hz, returns)


def _with(agent: Agent, planner: Any) -> Agent:
    config = dataclasses.replace(agent.config, planner=planner)
    return Agent(agent.state, agent.spec, config, agent.hypers, agent.info)


def row(found: Budgeted) -> dict[str, Any]:
    """A size as a row of a table, for JSON too."""
    mean = float(np.mean(found.returns)) if found.returns else None
    return found._asdict() | {"return": mean}
