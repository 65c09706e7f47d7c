"""The objectives, as functions of arrays: world model, prior, policy.

Fourth of the five files that are the method. Time first, batch second: H or T = H + 1
steps of B slices. Each function is written for one state and mapped by `each`.

Losses decay along the horizon as (1/n) Σ_t ρᵗ mean_B(·), over n steps (§1.8).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from planprior import numerics
from planprior.config import Config
from planprior.hypers import Hypers
from planprior.mapping import each, summed
from planprior.nets import MLP
from planprior.normed import is_wide
from planprior.policies import ENTROPIES, Sample
from planprior.priors import DIVERGENCES, FITS, Prior
from planprior.targets import REDUCTIONS, value_metrics
from planprior.types import Batch, Gaussian, Metrics, Number, Scalar
from planprior.weighing import Scales, mixing_weights, penalty_factor, state_weights
from planprior.world_model import WorldModel


def decayed(rho: Number, per_step: Float[Array, "n"]) -> Scalar:
    """(1/n) Σ_t ρᵗ x_t. Divided by n, not by Σ ρᵗ, as published."""
    return jnp.dot(rho ** jnp.arange(len(per_step)), per_step) / len(per_step)


# --- World model (TD-MPC2, eq. 3) -----------------------------------------------------


def imagine(model: WorldModel, batch: Batch) -> Float[Array, "T B L"]:
    """Latents from the first observation on, under the replayed actions."""
    z = jax.vmap(model.encode)(batch.observation[0])
    zs = [z]
    for action in batch.action:
        zs.append(jax.vmap(model.next)(zs[-1], action))
    return jnp.stack(zs)


def model_loss(
    model: WorldModel,
    batch: Batch,
    latents: Float[Array, "T B L"],
    targets: Float[Array, "H B"],
    dropout: Float[Array, "Q H B _"] | None,
    hypers: Hypers,
) -> tuple[Scalar, tuple[Float[Array, "T B L"], Metrics]]:
    """Consistency, reward, value and, with a continue head, termination.

    Args:
        model: What is trained, jointly and through the whole imagined sequence.
        batch: Replayed slices.
        latents: The encoder's own latents, without gradient: what imagination is to
            match (no slow copy of the encoder).
        targets: Of the value heads.
        dropout: Masks of the value heads.
        hypers: Loss weights.

    Returns:
        The loss, and the imagined latents with metrics.
    """
    zs = imagine(model, batch)
    before, after = zs[:-1], zs[1:]
    consistency = jnp.mean(jnp.square(after - latents[1:]), axis=(1, 2))

    cross_entropy = model.bins.cross_entropy
    reward_logits = each(model.reward_logits)(before, batch.action)
    reward = jnp.mean(each(cross_entropy)(reward_logits, batch.reward), axis=1)

    value, values = value_loss(model, before, batch.action, targets, dropout, hypers)

    losses = {
        "consistency_loss": decayed(hypers.rho, consistency),
        "reward_loss": decayed(hypers.rho, reward),
        "value_loss": value,
        "termination_loss": termination_loss(model, after, batch.terminated),
    }
    total = (
        hypers.consistency_coef * losses["consistency_loss"]
        + hypers.reward_coef * losses["reward_loss"]
        + hypers.value_coef * losses["value_loss"]
        + hypers.termination_coef * losses["termination_loss"]
    )
    steps = {f"consistency_error_{t + 1}": x for t, x in enumerate(consistency)}
    metrics = losses | steps | value_metrics(values, targets)
    return total, (zs, metrics | {"model_loss": total})


def value_loss(
    model: WorldModel,
    zs: Float[Array, "H B L"],
    actions: Float[Array, "H B A"],
    targets: Float[Array, "H B"],
    dropout: Float[Array, "Q H B _"] | None,
    hypers: Hypers,
) -> tuple[Scalar, Float[Array, "H B Q"]]:
    """Mean cross entropy of the heads to the targets, and the heads' values.

    On CPUs wide heads learn one after the other (`mapping.summed`).
    """
    cross_entropy, decode = model.bins.cross_entropy, model.bins.decode
    width = model.value_heads.hidden[0].scale.shape[-1]
    if not is_wide(width):
        logits = each(lambda z, a, m: model.value_logits(z, a, dropout=m))(
            zs, actions, of_rows(dropout)
        )
        per_head = each(jax.vmap(cross_entropy, (0, None)))(logits, targets)
        loss = decayed(hypers.rho, jnp.mean(per_head, axis=(1, 2)))
        return loss, each(jax.vmap(decode))(logits)

    def of_head(
        head: MLP, mask: Float[Array, "H B _"] | None, zs: Float[Array, "H B L"]
    ) -> tuple[Scalar, Float[Array, "H B"]]:
        logits = each(lambda z, a, m: head(*model.valued(z, a), dropout=m))(
            zs, actions, mask
        )
        error = jnp.mean(each(cross_entropy)(logits, targets), axis=1)
        return decayed(hypers.rho, error), each(decode)(logits)

    total, values = summed(of_head)(model.value_heads, dropout, zs)
    return total / len(values), jnp.moveaxis(values, 0, 2)


def of_rows(
    masks: Float[Array, "Q n B _"] | None,
) -> Float[Array, "n B Q _"] | None:
    """Masks drawn head by head, as `each` takes them."""
    return None if masks is None else jnp.moveaxis(masks, 0, 2)


def termination_loss(
    model: WorldModel, zs: Float[Array, "H B L"], terminated: Bool[Array, "H B"]
) -> Scalar:
    """Binary cross entropy at the state that is asked about, z_{t+1} (pitfall P16)."""
    if model.termination_head is None:
        return jnp.zeros(())
    logits = each(model.end_logit)(zs)
    labels = terminated.astype(logits.dtype)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, labels))


# --- Prior (PO-MPC's learned prior, §3.6.4) -------------------------------------------


def prior_loss(
    prior: Prior,
    zs: Float[Array, "H B L"],
    plans: Gaussian,
    mask: Bool[Array, "H B"],
    scale: Scalar,
    hypers: Hypers,
    config: Config,
) -> tuple[Scalar, Scalar]:
    """KL between the prior and the stored plans, over its own running scale.

    Args:
        prior: What is trained.
        zs: Latents, without gradient.
        plans: What it is fitted to.
        mask: Rows that have a plan.
        scale: The loss's running scale so far.
        hypers: Decay.
        config: The direction of the fit.

    Returns:
        The loss, and the running scale now.
    """
    priors = each(prior.at)(zs, plans)
    divergence = jnp.sum(FITS[config.prior.fit](priors, plans), axis=2)
    scale = numerics.update_scale(scale, divergence[0], mask[0], hypers.scale_tau)
    per_step = jax.vmap(numerics.masked_mean)(divergence / scale, mask)
    return decayed(hypers.rho, per_step), scale


# --- Policy (PO-MPC, eq. ★ of §3.6.3) -------------------------------------------------


class PolicyInputs(NamedTuple):
    """What the policy loss looks at, apart from the policy; no gradient flows into it.

    Attributes:
        zs: Imagined latents: H + 1 of them, or H where only stored plans are a prior.
        prior: The prior at each.
        mask: Where there is one.
        eps: Standard normal, for the policy's actions.
        heads: The two drawn online heads.
        dropout: Their masks.
        weight: w, the prior weight.
        scales: Running scales so far.
    """

    zs: Float[Array, "n B L"]
    prior: Gaussian
    mask: Bool[Array, "n B"]
    eps: Float[Array, "n B A"]
    heads: MLP
    dropout: Float[Array, "q n B _"] | None
    weight: Scalar
    scales: Scales


class PolicyTerms(NamedTuple):
    """The two halves of the policy loss, and what came up on the way.

    Attributes:
        value: The return's term, entropy bonus included.
        penalty: The prior's term.
        scales: Running scales now.
        divergence: Mean penalty, unscaled, per action dimension if reduced so.
        bonus: Mean entropy bonus.
        sample: The drawn actions.
    """

    value: Scalar
    penalty: Scalar
    scales: Scales
    divergence: Scalar
    bonus: Scalar
    sample: Sample


def action_value(
    model: WorldModel,
    z: Float[Array, "L"],
    a: Float[Array, "A"],
    heads: MLP,
    dropout: Float[Array, "q _"] | None,
    hypers: Hypers,
    config: Config,
) -> Scalar:
    """Q(z, a); with V heads r̂(z, a) + γ ĉ V(d(z, a)), through the model."""
    reduce = REDUCTIONS[config.critic.actor]
    if model.action_values:
        return reduce(model.values(z, a, heads, dropout))
    z_next = model.next(z, a)
    value = reduce(model.values(z_next, None, heads, dropout))
    value = model.continuation(z_next) * value
    return model.reward(z, a) + hypers.discount * value


def policy_loss(
    pi: Gaussian, family: Any, model: WorldModel, x: PolicyInputs,
    hypers: Hypers, config: Config,
) -> PolicyTerms:  # fmt: skip
    """ℓ = −(1 − w) Q̄/S_Q − α·entropy  +  w K/S_K, as its two terms (eq. ★).

    w = 0 is TD-MPC2, w = 1 BMPC. With additive mixing the factors are 1 and w/(1 − w):
    TD-M(PC)² and BOOM.

    Args:
        pi: The policy's distributions at `x.zs`.
        family: How they become actions.
        model: Values those actions; not trained here, but already updated.
        x: Everything else.
        hypers: α, ρ, gate.
        config: Choices.
    """
    sample = each(family.sample)(pi, x.eps)
    bonus = each(ENTROPIES[config.policy.entropy])(pi, sample)
    return_weight, penalty_weight = mixing_weights(x.weight, config)

    q = jnp.zeros_like(bonus)
    value_scale = x.scales.value
    if not config.policy.imitation_only:
        q = each(lambda z, a, m: action_value(model, z, a, x.heads, m, hypers, config))(
            x.zs, sample.action, of_rows(x.dropout)
        )
        everywhere = jnp.ones_like(x.mask[0])
        value_scale = numerics.update_scale(
            value_scale, q[0], everywhere, hypers.scale_tau
        )
    gain = return_weight * q / value_scale + hypers.entropy_coef * bonus

    divergence = DIVERGENCES[config.prior.divergence]
    reduce = REDUCTIONS[config.prior.reduction]
    cost = each(lambda pi, drawn, prior: divergence(pi, drawn, prior, hypers))
    k = reduce(cost(pi, sample, x.prior), axis=2)
    penalty_scale = numerics.update_scale(
        x.scales.penalty, k[0], x.mask[0], hypers.scale_tau
    )
    factor = penalty_factor(value_scale, penalty_scale, hypers, config)
    weights = state_weights(q / value_scale, x.mask, divergence.by_value)
    penalty = penalty_weight * factor * jnp.sum(weights * k, axis=1)

    return PolicyTerms(
        value=decayed(hypers.rho, -jnp.mean(gain, axis=1)),
        penalty=decayed(hypers.rho, penalty),
        scales=x.scales._replace(value=value_scale, penalty=penalty_scale),
        divergence=numerics.masked_mean(k, x.mask),
        bonus=jnp.mean(bonus),
        sample=sample,
    )
