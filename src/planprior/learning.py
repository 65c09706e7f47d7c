"""The three gradient steps of an update: world model, prior, policy."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from planprior import diagnostics
from planprior.adam import Flag, adam_step, keep_unless
from planprior.config import Config
from planprior.diagnostics import all_finite
from planprior.draws import UpdateNoise
from planprior.hypers import Hypers
from planprior.losses import (
    PolicyInputs,
    PolicyTerms,
    model_loss,
    policy_loss,
    prior_loss,
)
from planprior.mapping import each
from planprior.policies import Policy
from planprior.priors import PRIORS
from planprior.state import AgentState
from planprior.targets import Bootstrap, TargetInputs, td_target
from planprior.types import Batch, Gaussian, Metrics, Number, Scalar
from planprior.weighing import effective_lambda
from planprior.world_model import WorldModel, pick_heads

PULLS = ("return_grad_norm", "penalty_grad_norm", "grad_cosine")
"""Norms of the gradients of the policy loss's two terms, and their cosine."""

LOG_LAMBDA_LIMIT = 10.0
"""An adapted λ stays between e⁻¹⁰ and e¹⁰; beyond e¹⁷ its weight w rounds to 1."""


def prior_weight(state: AgentState, hypers: Hypers, config: Config) -> Scalar:
    """Prior weight w as it stands: the setting, or λ/(1 + λ) of the adapted λ."""
    if config.prior.adaptive:
        return jax.nn.sigmoid(state.log_lambda)
    return jnp.asarray(hypers.prior_weight)


def update_model(
    state: AgentState,
    batch: Batch,
    noise: UpdateNoise,
    hypers: Hypers,
    config: Config,
    going: Flag = True,
) -> tuple[AgentState, Float[Array, "T B L"], Metrics]:
    """Targets, then one joint step of the world model; also the imagined latents."""
    weight = prior_weight(state, hypers, config)
    to = Bootstrap(
        model=state.model,
        heads=pick_heads(state.target_heads, noise.target_heads),
        policy=state.policy,
        prior=state.prior,
        lam=effective_lambda(weight, state.scales, hypers, config),
        hypers=hypers,
        config=config,
    )
    latents = jax.lax.stop_gradient(each(state.model.encode)(batch.observation))
    steps = TargetInputs(
        latents[:-1], latents[1:], batch.reward, batch.terminated, noise.target
    )
    targets = td_target(to, steps)
    (_, (zs, metrics)), gradient = jax.value_and_grad(model_loss, has_aux=True)(
        state.model, batch, latents, targets, noise.model_dropout, hypers
    )
    rate = hypers.learning_rate
    rates = encoder_apart(state.model, rate * hypers.encoder_lr_scale, rate)
    model, moments, norm = adam_step(
        state.model, gradient, state.model_adam, rates, hypers, eps=1e-8, going=going
    )
    state = dataclasses.replace(state, model=model, model_adam=moments)
    return state, zs, metrics | {"model_grad_norm": norm}


def encoder_apart(model: WorldModel, encoder_rate: Number, rate: Number) -> Any:
    """Learning rates, leaf by leaf: one for the encoder, one for all the rest."""
    everything = jax.tree.map(lambda _: rate, model)
    encoder = jax.tree.map(lambda _: encoder_rate, model.encoder)
    return eqx.tree_at(lambda m: m.encoder, everything, encoder)


def update_prior(
    state: AgentState,
    zs: Float[Array, "T B L"],
    plans: Gaussian,
    mask: Bool[Array, "H B"],
    hypers: Hypers,
    config: Config,
    going: Flag = True,
) -> tuple[AgentState, Metrics]:
    """One step of a learned prior towards the stored plans; nothing for the others."""
    if not jax.tree.leaves(state.prior):
        return state, {}
    (loss, scale), gradient = jax.value_and_grad(prior_loss, has_aux=True)(
        state.prior, zs[:-1], plans, mask, state.scales.prior, hypers, config
    )
    prior, moments, norm = adam_step(
        state.prior,
        gradient,
        state.prior_adam,
        hypers.learning_rate,
        hypers,
        eps=1e-5,
        going=going,
    )
    told = {"prior_loss": loss, "prior_grad_norm": norm}
    scale = keep_unless(going & all_finite(told), scale, state.scales.prior)
    scales = state.scales._replace(prior=scale)
    state = dataclasses.replace(state, prior=prior, prior_adam=moments, scales=scales)
    return state, told | {"prior_scale": scale}


def policy_inputs(
    state: AgentState,
    zs: Float[Array, "T B L"],
    plans: Gaussian,
    mask: Bool[Array, "H B"],
    noise: UpdateNoise,
    hypers: Hypers,
    config: Config,
) -> PolicyInputs:
    """Gather what the policy loss looks at, on H + 1 or H states."""
    if state.prior.everywhere:
        # The last state has no stored plan, and a prior that is everywhere needs none.
        plans = jax.tree.map(lambda x: jnp.concatenate([x, x[-1:]]), plans)
        mask = jnp.full((len(zs), mask.shape[1]), state.prior.active)
    else:
        zs = zs[:-1]
    return PolicyInputs(
        zs=zs,
        prior=jax.lax.stop_gradient(each(state.prior.at)(zs, plans)),
        mask=mask,
        eps=noise.policy,
        heads=pick_heads(state.model.value_heads, noise.policy_heads),
        dropout=noise.policy_dropout,
        weight=prior_weight(state, hypers, config),
        scales=state.scales,
    )


def policy_gradient(
    policy: Policy,
    model: WorldModel,
    inputs: PolicyInputs,
    hypers: Hypers,
    config: Config,
    tell: Flag = True,
) -> tuple[Policy, Gaussian, PolicyTerms, Metrics]:
    """Gradient of the policy loss, and how its two terms pull.

    What that takes, two more backward passes through the policy, is made beside the
    gradient and not instead of it: what is learned does not depend on what is told.

    Returns:
        The gradient, the policy's distributions, the terms, and the norms of the two
        terms' gradients with their cosine: 0 unless they are to be told. Without an
        active prior the return's norm is that of the whole gradient, and always told.
    """
    pi, pull_back = jax.vjp(lambda p: each(p)(inputs.zs), policy)

    def term(name: str, pi: Gaussian) -> tuple[Scalar, PolicyTerms]:
        terms = policy_loss(pi, policy.family, model, inputs, hypers, config)
        return getattr(terms, name), terms

    by_value, terms = jax.grad(lambda p: term("value", p), has_aux=True)(pi)
    zero = jnp.zeros(())
    if not PRIORS[config.prior.kind].active:
        (gradient,) = pull_back(by_value)
        pulls = (optax.tree.norm(gradient), zero, zero)
        return gradient, pi, terms, dict(zip(PULLS, pulls, strict=True))
    by_penalty, _ = jax.grad(lambda p: term("penalty", p), has_aux=True)(pi)
    (gradient,) = pull_back(jax.tree.map(jnp.add, by_value, by_penalty))

    def apart() -> tuple[Scalar, Scalar, Scalar]:
        (of_value,), (of_penalty,) = pull_back(by_value), pull_back(by_penalty)
        norms = optax.tree.norm(of_value), optax.tree.norm(of_penalty)
        dot = jnp.asarray(optax.tree.vdot(of_value, of_penalty))
        return *norms, dot / jnp.maximum(norms[0] * norms[1], 1e-12)

    pulls = (zero, zero, zero)
    if tell is not False:
        nothing = pulls
        pulls = apart() if tell is True else jax.lax.cond(tell, apart, lambda: nothing)
    return gradient, pi, terms, dict(zip(PULLS, pulls, strict=True))


def update_policy(
    state: AgentState,
    batch: Batch,
    zs: Float[Array, "T B L"],
    plans: Gaussian,
    mask: Bool[Array, "H B"],
    noise: UpdateNoise,
    hypers: Hypers,
    config: Config,
    going: Flag = True,
    tell: Flag = True,
) -> tuple[AgentState, Metrics]:
    """One step of the policy (and of λ, where it adapts itself)."""
    inputs = policy_inputs(state, zs, plans, mask, noise, hypers, config)
    gradient, pi, terms, metrics = policy_gradient(
        state.policy, state.model, inputs, hypers, config, tell
    )
    policy, moments, norm = adam_step(
        state.policy,
        gradient,
        state.policy_adam,
        hypers.learning_rate,
        hypers,
        eps=1e-5,
        going=going,
    )
    metrics |= {"policy_loss": terms.value + terms.penalty, "policy_grad_norm": norm}
    going &= all_finite(metrics)
    metrics |= {"policy_entropy_bonus": terms.bonus}
    metrics |= diagnostics.prior_metrics(inputs, terms, hypers, config)
    metrics |= diagnostics.distribution_metrics(state, batch, pi, terms, inputs, hypers)
    scales = keep_unless(going, terms.scales, state.scales)
    state = dataclasses.replace(
        state, policy=policy, policy_adam=moments, scales=scales
    )
    if config.prior.adaptive:
        excess = terms.divergence - hypers.divergence_target
        excess = jnp.where(jnp.any(inputs.mask), excess, 0)
        state = update_lambda(state, excess, hypers, going)
    return state, metrics


def update_lambda(
    state: AgentState, excess: Scalar, hypers: Hypers, going: Flag = True
) -> AgentState:
    """Dual descent on log λ: up while the policy is farther from the prior than wanted.

    As SAC steers its temperature to a target entropy (Haarnoja et al. 2018, eq. 18).
    λ stays finite and positive even where no λ meets the target.
    """
    gradient = -excess
    log_lambda, moments, _ = adam_step(
        state.log_lambda,
        gradient,
        state.lambda_adam,
        hypers.dual_learning_rate,
        hypers,
        eps=1e-8,
        going=going,
    )
    log_lambda = jnp.clip(log_lambda, -LOG_LAMBDA_LIMIT, LOG_LAMBDA_LIMIT)
    return dataclasses.replace(state, log_lambda=log_lambda, lambda_adam=moments)
