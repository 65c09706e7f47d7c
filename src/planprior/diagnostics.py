"""What an update tells about itself, beside its losses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from planprior import numerics
from planprior.config import Config
from planprior.hypers import Hypers
from planprior.losses import PolicyInputs, PolicyTerms
from planprior.mapping import each
from planprior.priors import DIVERGENCES
from planprior.state import AgentState
from planprior.types import Batch, Gaussian, Metrics
from planprior.weighing import effective_lambda, mixing_weights

WATCHED = (
    *("consistency_loss", "reward_loss", "value_loss", "termination_loss"),
    *("model_grad_norm", "prior_loss", "prior_grad_norm"),
    *("policy_loss", "policy_grad_norm"),
)
"""Metrics that must be finite, in the order in which an update computes them. As long
as they are, so are the parameters: Adam's steps are bounded."""


def all_finite(metrics: Metrics) -> Bool[Array, ""]:
    """Whether those of these metrics that are watched are finite."""
    watched = [metrics[name] for name in WATCHED if name in metrics]
    return jnp.all(jnp.isfinite(jnp.stack(watched)))


def prior_metrics(
    inputs: PolicyInputs, terms: PolicyTerms, hypers: Hypers, config: Config
) -> Metrics:
    """The penalty, its weights and its scales. λ is infinite at w = 1."""
    scales, weight = terms.scales, inputs.weight
    _, penalty_weight = mixing_weights(weight, config)
    return {
        "return_loss": terms.value,
        "value_scale": scales.value,
        "penalty_scale": scales.penalty,
        "penalty": terms.penalty,
        "penalty_weight": penalty_weight,
        "divergence": terms.divergence,
        "prior_weight": weight,
        "effective_lambda": effective_lambda(weight, scales, hypers, config),
    }


def distribution_metrics(
    state: AgentState,
    batch: Batch,
    pi: Gaussian,
    terms: PolicyTerms,
    inputs: PolicyInputs,
    hypers: Hypers,
) -> Metrics:
    """KLs of the policy to prior and plans, entropies, plans: per action dimension.

    In closed form where the policy is a Gaussian in action space, else by the sample at
    hand. KLs to plans are over rows that have one; those to a prior, and its entropy,
    over states that have one: 0 where none has.
    """
    gaussian = state.policy.family.in_action_space
    divergence = DIVERGENCES["reverse" if gaussian else "sampled"]
    kl = each(lambda pi, drawn, to: jnp.mean(divergence(pi, drawn, to, hypers)))
    steps = len(batch.action)
    pi_h, sample_h = jax.tree.map(lambda x: x[:steps], (pi, terms.sample))
    # Where no plan is stored there is a zero std: replaced, then masked.
    std = jnp.where(batch.has_plan[..., None], batch.plan.std, 1.0)
    to_plan = kl(pi_h, sample_h, Gaussian(batch.plan.mean, std))
    entropy = numerics.entropy(pi) if gaussian else -terms.sample.log_density
    prior_entropy = jnp.mean(numerics.entropy(inputs.prior), axis=2)
    mean_std = jnp.mean(batch.plan.std, axis=2)
    return {
        "kl_policy_prior": numerics.masked_mean(
            kl(pi, terms.sample, inputs.prior), inputs.mask
        ),
        "kl_policy_plan": numerics.masked_mean(to_plan, batch.has_plan),
        "policy_entropy": jnp.mean(entropy),
        "prior_entropy": numerics.masked_mean(prior_entropy, inputs.mask),
        "policy_log_std": jnp.mean(jnp.log(pi.std)),
        "plan_std": numerics.masked_mean(mean_std, batch.has_plan),
        "plan_age": numerics.masked_mean(batch.plan_age, batch.has_plan),
    }
