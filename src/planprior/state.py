"""What an agent is: every array that learning changes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from planprior.config import Config
from planprior.hypers import Hypers
from planprior.nets import MLP
from planprior.policies import Policy, init_policy
from planprior.priors import PRIORS, Prior
from planprior.types import EnvSpec, PRNGKey, Scalar
from planprior.weighing import Scales
from planprior.world_model import WorldModel, init_world_model


class AgentState(eqx.Module):
    """Everything that learning changes.

    Attributes:
        model: The world model.
        target_heads: Slow copy of its value heads.
        policy: π.
        prior: The prior; without leaves unless it is learned.
        scales: Running scales.
        log_lambda: log λ where λ adapts itself; unused elsewhere.
        model_adam: Moments of the world model's optimiser.
        policy_adam: Of the policy's.
        prior_adam: Of the prior's.
        lambda_adam: Of λ's.
    """

    model: WorldModel
    target_heads: MLP
    policy: Policy
    prior: Prior
    scales: Scales
    log_lambda: Scalar
    model_adam: optax.ScaleByAdamState
    policy_adam: optax.ScaleByAdamState
    prior_adam: optax.ScaleByAdamState
    lambda_adam: optax.ScaleByAdamState


def moments(parameters: Any) -> optax.ScaleByAdamState:
    """Adam's moments before the first step."""
    state = optax.scale_by_adam().init(parameters)
    assert isinstance(state, optax.ScaleByAdamState)
    return state


def init(spec: EnvSpec, config: Config, hypers: Hypers, *, key: PRNGKey) -> AgentState:
    """A fresh agent for an environment."""
    model_key, policy_key, prior_key = jax.random.split(key, 3)
    network, actions = config.network, spec.action_dim
    model = init_world_model(spec.observation_dim, actions, config, key=model_key)
    policy = init_policy(
        network.latent_dim, actions, network.mlp_dim, config.policy, key=policy_key
    )
    prior = PRIORS[config.prior.kind].init(config, actions, key=prior_key)
    weight = jnp.asarray(hypers.prior_weight, jnp.float32)
    log_lambda = jnp.log(weight) - jnp.log1p(-weight) if config.prior.adaptive else 0.0
    one = jnp.ones(())
    log_lambda = jnp.asarray(log_lambda, jnp.float32)
    return AgentState(
        model=model,
        target_heads=jax.tree.map(jnp.copy, model.value_heads),
        policy=policy,
        prior=prior,
        scales=Scales(one, one, one),
        log_lambda=log_lambda,
        model_adam=moments(model),
        policy_adam=moments(policy),
        prior_adam=moments(prior),
        lambda_adam=moments(log_lambda),
    )
