"""The planner's Gaussian over action sequences: where it starts, moves and ends.

`planner.py` says what the sequences are worth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from planprior.config import PlannerConfig
from planprior.draws import Draws, Sequences
from planprior.hypers import Hypers
from planprior.types import Gaussian, Plan


class Search(NamedTuple):
    """The planner's distribution over sequences, and the elites that made it.

    Attributes:
        mean: Mean per step.
        std: Standard deviation per step.
        elites: The best sequences, best first.
        values: Their values.
        weights: Their weights, which sum to 1.
        nan_count: NaN values met so far.
    """

    mean: Float[Array, "H A"]
    std: Float[Array, "H A"]
    elites: Sequences
    values: Float[Array, "K"]
    weights: Float[Array, "K"]
    nan_count: Int[Array, ""]


def fit_elites(
    search: Search,
    actions: Sequences,
    values: Float[Array, "N"],
    hypers: Hypers,
) -> Search:
    """Move the distribution to the weighted elites; no momentum (tdmpc2.py: _plan)."""
    is_nan = jnp.isnan(values)
    values, index = jax.lax.top_k(jnp.where(is_nan, 0.0, values), len(search.values))
    elites = actions[:, index]
    weights = jax.nn.softmax(hypers.temperature * values)
    mean = jnp.einsum("k,hka->ha", weights, elites)
    deviation = elites - mean[:, None]
    variance = jnp.einsum("k,hka->ha", weights, deviation * deviation)
    std = jnp.clip(jnp.sqrt(variance), hypers.min_std, hypers.max_std)
    nan_count = search.nan_count + jnp.sum(is_nan)
    return Search(mean, std, elites, values, weights, nan_count)


def _shift(mean: Float[Array, "H A"]) -> Float[Array, "H A"]:
    """Yesterday's plan seen from today: one step on, and nothing yet for the last."""
    return jnp.concatenate([mean[1:], jnp.zeros_like(mean[:1])])


def aged(
    mean: Float[ArrayLike, "*n H A"], decisions: int
) -> Float[np.ndarray, "*n H A"]:
    """The mean of a plan after so many decisions without one, on the host.

    `start` shifts it by one more.
    """
    old = np.asarray(mean)
    horizon = old.shape[-2]
    gone = min(decisions, horizon)
    new = np.zeros_like(old)
    new[..., : horizon - gone, :] = old[..., gone:, :]
    return new


def start(
    warm_start: Float[Array, "H A"], hypers: Hypers, config: PlannerConfig
) -> Search:
    """The distribution before the first iteration."""
    mean, elites = _shift(warm_start), config.num_elites
    return Search(
        mean=mean,
        std=jnp.broadcast_to(jnp.asarray(hypers.max_std, mean.dtype), mean.shape),
        elites=jnp.zeros((mean.shape[0], elites, mean.shape[1])),
        values=jnp.zeros(elites),
        weights=jnp.zeros(elites),
        nan_count=jnp.zeros((), jnp.int32),
    )


def finish(search: Search, draws: Draws, config: PlannerConfig, explore: bool) -> Plan:
    """Choose what to execute, what to store and what to start from next time."""
    chosen = draws.elite(search.weights)
    centres = {
        "sampled_elite": search.elites[0, chosen],
        "best_elite": search.elites[0, 0],
        "mean": search.mean[0],
    }
    executed = "sampled_elite" if explore else config.evaluation
    action = centres[executed]
    if explore:
        action = action + search.std[0] * draws.exploration()
    return Plan(
        action=jnp.clip(action, -1.0, 1.0),
        target=Gaussian(centres[config.centre], search.std[0]),
        mean=search.mean,
        # Nobody has valued the mean sequence: the drawn elite speaks for it.
        value=search.values[0 if executed == "best_elite" else chosen],
        elite_std=jnp.std(search.values),
        effective_elites=1.0 / jnp.sum(search.weights**2),
        nan_count=search.nan_count,
    )
