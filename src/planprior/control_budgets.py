"""What rate a machine sustains for a size of the planner, and what return it keeps."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from planprior.acting import Agent
from planprior.actor import Actor, CanAct, init_networks
from planprior.anytime import CompiledPlanner, Planner, resized
from planprior.checked import find
from planprior.config import PlannerConfig
from planprior.controller import SPARE
from planprior.envs.base import Env
from planprior.methods import METHODS, SIZES, at_size
from planprior.realtime import untimed

REPEATS, FEWEST, PATIENCE = 50, 10, 3.0
"""How many plans are timed for a row: fewer once they have taken so many seconds."""

IN_TIME = 0.95
"""Share of plans that must be finished in time at a rate that is called sustained."""


class Grid(NamedTuple):
    """Sizes of the planner.

    Attributes:
        samples: Numbers of action sequences per iteration; elites are in proportion.
        iterations: Numbers of iterations.
    """

    samples: tuple[int, ...]
    iterations: tuple[int, ...]


class Budgeted(NamedTuple):
    """A row: a size of the model and of the planner.

    Attributes:
        size: The model's.
        samples: Action sequences per iteration.
        iterations: Iterations.
        milliseconds: What a plan takes (median).
        slowest: What the slowest but one in twenty takes, in milliseconds.
        hz: The highest rate at which a controller finishes 19 of 20 plans in time.
        returns: Of whole episodes with it, without clock or delay.
        own: Of the same episodes with the agent's own planner.
    """

    size: str
    samples: int
    iterations: int
    milliseconds: float
    slowest: float
    hz: float
    returns: list[float]
    own: list[float]


def budgets(
    agent: Agent, env: Env, grid: Grid, *, episodes: int, seed: int
) -> Iterator[Budgeted]:
    """Measure a trained agent: rates, and what its return becomes.

    Args:
        agent: Whose networks.
        env: Its task.
        grid: Sizes of the planner.
        episodes: Episodes per size, the same ones for all; 0 leaves returns out.
        seed: Of the episodes.

    Raises:
        ValueError: A number makes no sense.
    """
    own = untimed(agent, env, episodes=episodes, seed=seed)
    for found, planner in _timed(agent, agent.info["size"], grid):
        config = dataclasses.replace(agent.config, planner=planner)
        chosen = Agent(agent.state, agent.spec, config, agent.hypers, agent.info)
        returns = untimed(chosen, env, episodes=episodes, seed=seed)
        yield found._replace(returns=returns, own=own)


def rates(like: CanAct, size: str, grid: Grid) -> Iterator[Budgeted]:
    """Measure another size of an agent's model, untrained: rates alone.

    Args:
        like: The agent whose task and method it has.
        size: A name in `SIZES`.
        grid: Sizes of the planner.

    Raises:
        ValueError: A name is unknown, or a number makes no sense.
    """
    method = METHODS.get(like.info["method"] or "")
    own_heads = method is not None and method.own_heads
    config = at_size(like.config, find(SIZES, size, "size"), own_heads)
    networks = jax.jit(lambda: init_networks(like.spec, config, key=jax.random.key(0)))
    actor = Actor(networks(), like.spec, config, like.hypers)
    for found, _ in _timed(actor, size, grid):
        yield found


def row(found: Budgeted) -> dict[str, Any]:
    """A row as JSON can hold it, with mean return and the share of it that is kept."""
    mean, own = (float(np.mean(x)) if x else None for x in (found.returns, found.own))
    kept = mean / own if mean is not None and own and own > 0 else None
    return found._asdict() | {"return": mean, "kept": kept}


def _timed(
    agent: CanAct, size: str, grid: Grid
) -> Iterator[tuple[Budgeted, PlannerConfig]]:
    for samples in sorted(set(grid.samples)):
        planner = CompiledPlanner(agent, levels=[samples])
        planner.measure()
        for count in sorted(set(grid.iterations)):
            chosen = resized(agent.config.planner, samples, count)
            seconds = _plans(planner, agent, count)
            slowest = float(np.quantile(seconds, IN_TIME))
            yield (
                Budgeted(
                    size, samples, count, 1e3 * float(np.median(seconds)),
                    1e3 * slowest, (1 - SPARE) / slowest, [], [],
                ),
                chosen,
            )  # fmt: skip


def _plans(planner: Planner, agent: CanAct, iterations: int) -> list[float]:
    """Seconds of whole plans, made as a controller makes them."""
    spec, seconds = agent.spec, []
    seen = np.zeros(spec.observation_dim, np.float32)
    pending = np.zeros(spec.action_dim, np.float32)
    warm_start = np.zeros((agent.config.horizon, spec.action_dim), np.float32)
    while len(seconds) < (REPEATS if sum(seconds) < PATIENCE else FEWEST):
        began = time.perf_counter()
        search, _ = planner.begin(0, seen, pending, warm_start, len(seconds))
        for i in range(iterations):
            search, _ = planner.improve(0, search, i)
        seconds.append(time.perf_counter() - began)
    return seconds
