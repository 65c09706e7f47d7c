"""Drive a simulator in real time with a controller, and without a clock to compare."""

import gc
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from planprior.controller import Controller
from planprior.envs.base import Env
from planprior.latency import Histogram


class Drive(NamedTuple):
    """What came of a drive.

    Attributes:
        returns: Of the episodes that ended.
        decisions: Actions, of unfinished episodes too.
        seconds: How long it took.
        lateness: From the moment an action was due to the moment it went out.
        sleeps: Share of the time that the loop had to spare.
    """

    returns: list[float]
    decisions: int
    seconds: float
    lateness: Histogram
    sleeps: float


def drive(
    controller: Controller,
    env: Env,
    *,
    seconds: float,
    seed: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Drive:
    """Act at the controller's rate, each action when it is due and never before.

    A tick that comes too late is not made up for: the next one is due a period after
    it, as on a robot.

    Args:
        controller: What acts.
        env: What it acts in.
        seconds: How long; the episode under way then is left.
        seed: Of the episodes.
        clock: Seconds.
        sleep: Waits for seconds.
    """
    period, lateness, returns = 1 / controller.hz, Histogram(), []
    observation, total, decisions, slept = env.reset(seed), 0.0, 0, 0.0
    controller.reset()
    # A full collection takes 0.1 s beside a simulator. What is there by now stays.
    gc.collect()
    gc.freeze()
    began = due = clock()
    while due - began < seconds:
        wait = due - clock()
        if wait > 0:
            sleep(wait)
            slept += wait
        action = controller.act(observation)
        now = clock()
        lateness.add(max(now - due, 0.0))
        # A jitter does not shift the grid of ticks; a tick missed altogether does.
        due = due + period if now < due + period else now + period
        outcome = env.step(action)
        observation, total = outcome.observation, total + outcome.reward
        decisions += 1
        if outcome.terminated or outcome.truncated:
            returns.append(total)
            observation, total = env.reset(), 0.0
            controller.reset()
    elapsed = clock() - began
    gc.unfreeze()
    return Drive(returns, decisions, elapsed, lateness, slept / max(elapsed, 1e-9))


def untimed(agent: Any, env: Env, *, episodes: int, seed: int) -> list[float]:
    """Returns of the same episodes with the whole planner and no clock or delay."""
    returns = []
    for episode in range(episodes):
        observation, total, ended = env.reset(None if episode else seed), 0.0, False
        agent.reset()
        while not ended:
            outcome = env.step(np.asarray(agent.act(observation)))
            observation, total = outcome.observation, total + outcome.reward
            ended = outcome.terminated or outcome.truncated
        returns.append(total)
    return returns
