"""How good agents are: whole episodes in environments of their own."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from planprior.envs.pool import Pool
from planprior.intervals import mean_intervals
from planprior.population import Population
from planprior.state import AgentState

Mode = Literal["plan", "policy"]


class Scores(NamedTuple):
    """Returns and lengths of evaluation episodes.

    Attributes:
        returns: Undiscounted sums of rewards, [P, episodes].
        lengths: Environment steps, [P, episodes].
        success: Whether the goal was met at the last step, [P, episodes]; None where
            the task defines no goal.
        finite: Whether all actions of the member were finite, [P]; the returns of one
            whose were not mean nothing.
    """

    returns: np.ndarray
    lengths: np.ndarray
    success: np.ndarray | None
    finite: np.ndarray

    def success_rate(self, member: int) -> dict[str, float]:
        """Share of a member's episodes that succeeded; empty without a goal."""
        if self.success is None:
            return {}
        return {"success": float(np.mean(self.success[member]))}


def evaluate(
    population: Population,
    agents: AgentState,
    pool: Pool,
    mode: Mode,
    seed: int | Sequence[int],
    *,
    count: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Play one episode in every environment of a pool.

    One each, and not the first so many to end: those would be the short ones.

    Args:
        population: Programs of the agents.
        agents: All members, [P].
        pool: An equal number of environments for each member, in order of members.
        mode: Act by planning, or by the bare policy.
        seed: Of first states, one for all members or one for each. What is random in
            planning follows from the members' own seeds.
        count: Tells this evaluation's random numbers from another's.
        stop: Asked at every step whether to give up.

    Returns:
        The scores; None if it was told to stop.
    """
    shape = (population.num_members, pool.num_envs // population.num_members)
    observation = pool.reset(seed)
    warm_start = population.cold_start(shape[1])
    reset = np.ones(shape, bool)
    running, success = np.ones(pool.num_envs, bool), np.zeros(pool.num_envs, bool)
    returns, lengths = np.zeros(pool.num_envs), np.zeros(pool.num_envs, np.int64)
    finite = np.ones(population.num_members, bool)
    while running.any():
        if stop():
            return None
        seen = observation.reshape(*shape, -1)
        if mode == "plan":
            number = count % 2**31
            decision = population.evaluate(agents, seen, warm_start, reset, number)
            warm_start = decision.warm_start
            action, fault = population.fetch(decision)
            finite &= fault == 0
        else:
            action = np.asarray(population.act_without_planning(agents, seen))
            finite &= np.isfinite(action).all(axis=(1, 2))
            action = np.where(finite[:, None, None], action, 0.0)
        outcome = pool.step(action.reshape(pool.num_envs, -1))
        ending = running & outcome.ended
        returns[ending] = outcome.episode_return[ending]
        lengths[ending] = outcome.episode_length[ending]
        success[ending] = outcome.success[ending]
        running &= ~outcome.ended
        observation = outcome.reset_observation
        reset = outcome.begun.reshape(shape)
        count += 1
    lengths *= population.spec.action_repeat
    met = success.reshape(shape) if population.spec.has_success else None
    return Scores(returns.reshape(shape), lengths.reshape(shape), met, finite)


def summary(scores: Scores) -> dict[str, Any]:
    """What `planprior eval` reports of one member's scores.

    The interval of the mean is Student's over episodes; one episode has none.
    """
    returns = scores.returns[0]
    ((mean,), (low,), (high,), _) = mean_intervals(returns[:, None])
    ends = {"low": float(low), "high": float(high)} if len(returns) > 1 else {}
    return {
        "mean": float(mean),
        **ends,
        "std": float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0,
        **scores.success_rate(0),
        "episodes": len(returns),
        "returns": [float(x) for x in returns],
        "env_steps": [int(x) for x in scores.lengths[0]],
    }
