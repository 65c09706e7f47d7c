"""How agents spin the finger's spinner, and whether their models know what it pays.

    python benchmarks/finger_spin.py RUNS/finger-spin

A step pays 1 while the spinner turns at 15 rad/s or more. It slows down by itself, so
that the finger has to strike it again and again; a *dip* is a time below that speed.
"""

from typing import NamedTuple

import jax
import numpy as np

from planner_size import asked_for
from planprior.acting import Agent
from planprior.envs.registry import make_pool

TASK = "finger-spin"
PAID = 15.0
"""rad/s; dm_control's task."""
STUCK = 20
"""Decisions below it that are no strike any more."""
HINGE = 6
"""Where an observation has the spinner's velocity, which is negative as it is paid."""


class Episode(NamedTuple):
    """One episode, [T].

    Attributes:
        speed: Of the spinner, after each decision; rad/s.
        reward: Of each decision, 0 to 2.
        predicted: The same by the agent's model, from where the action was chosen.
    """

    speed: np.ndarray
    reward: np.ndarray
    predicted: np.ndarray


def play(agent: Agent, seed: int) -> Episode:
    """Play an episode with the planner."""
    model = agent.state.model
    predict = jax.jit(lambda o, a: model.reward(model.encode(o), a))
    rows, ended = [], False
    with make_pool(TASK, 1, seed) as pool:
        observation = pool.reset()
        agent.reset()
        while not ended:
            action = agent.act(observation[0])
            predicted = float(predict(observation[0], action))
            step = pool.step(action[None])
            rows.append((-step.observation[0, HINGE], step.reward[0], predicted))
            observation, ended = step.reset_observation, bool(step.ended[0])
    return Episode(*np.array(rows).T)


def dips(speed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begin and length of every dip, in decisions; the start from rest is none."""
    slow = speed < PAID
    edges = np.flatnonzero(np.diff(np.concatenate([[False], slow, [False]])))
    begin, end = edges[::2], edges[1::2]
    later = begin > 0
    return begin[later], (end - begin)[later]


def describe(episodes: list[Episode]) -> str:
    """What is to be said of an agent."""
    found = [dips(episode.speed) for episode in episodes]
    length = np.concatenate([lengths for _, lengths in found])
    before = [e.speed[begin - 1] for e, (begin, _) in zip(episodes, found, strict=True)]
    strikes = length < STUCK
    speed, reward, predicted = map(np.concatenate, zip(*episodes, strict=True))
    return (
        f"return {reward.sum() / len(episodes):.0f}; "
        f"{strikes.sum() / len(episodes):.1f} strikes an episode, each "
        f"{length[strikes].mean():.2f} decisions below {PAID:g} rad/s, from "
        f"{np.concatenate(before)[strikes].mean():.1f} rad/s; a twentieth of the time "
        f"above {np.quantile(speed, 0.95):.1f} rad/s; stuck for "
        f"{length[~strikes].sum() / len(episodes):.0f} decisions an episode; reward "
        f"of a decision {reward.mean():.2f}, by the model {predicted.mean():.2f}"
    )


def main() -> None:
    for run, agent, count in asked_for(str(__doc__), 5):
        episodes = [play(agent, seed) for seed in range(count)]
        print(f"{run}: {describe(episodes)}", flush=True)


if __name__ == "__main__":
    main()
