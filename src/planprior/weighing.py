"""How the return and the prior's penalty are weighed against each other (eq. ★)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from planprior.config import Config
from planprior.hypers import Hypers
from planprior.types import Scalar


class Scales(NamedTuple):
    """Running scales: of the policy's values, the penalty, and the prior's loss."""

    value: Scalar
    penalty: Scalar
    prior: Scalar


def mixing_weights(weight: Scalar, config: Config) -> tuple[Scalar, Scalar]:
    """Factors of the return's and the prior's term."""
    if config.prior.mixing == "convex":
        return 1.0 - weight, weight
    return jnp.ones(()), weight / (1.0 - weight)


def penalty_factor(
    value_scale: Scalar, penalty_scale: Scalar, hypers: Hypers, config: Config
) -> Scalar:
    """What the penalty is multiplied by before it is weighed."""
    if config.prior.scale == "own":
        return 1.0 / penalty_scale
    if config.prior.scale == "value":
        # Off until values have grown (TD-M(PC)²'s scale_threshold).
        return jnp.where(value_scale > hypers.gate, 1.0 / value_scale, 0.0)
    return jnp.ones(())


def state_weights(
    q: Float[Array, "n B"], mask: Bool[Array, "n B"], by_value: bool
) -> Float[Array, "n B"]:
    """How much each state of a step's batch counts; 1 in all, or 0 without any plan."""
    score = jax.lax.stop_gradient(q) if by_value else jnp.zeros_like(q)
    best = jnp.max(score, axis=1, keepdims=True, initial=-jnp.inf, where=mask)
    weights = jnp.where(mask, jnp.exp(score - best), 0.0)
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1.0)


def effective_lambda(
    weight: Scalar, scales: Scales, hypers: Hypers, config: Config
) -> Scalar:
    """λ in reward units: what a unit of penalty costs against a unit of return.

    With the penalty over its own scale this is w/(1 − w) · S_Q/S_KL (§3.6.3). Infinite
    at w = 1, where there is no return to weigh against.
    """
    of_return, of_penalty = mixing_weights(weight, config)
    factor = penalty_factor(scales.value, scales.penalty, hypers, config)
    price = of_penalty * factor * scales.value
    return jnp.where(price == 0, 0.0, price / of_return)
