"""What acts: the networks of an agent, without what only learning needs.

The planner and the policy need the world model, the policy and, where it proposes
actions, the prior. Target heads, optimisers, running scales and replay are a learner's.
"""

from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax

from planprior.config import Config
from planprior.hypers import Hypers
from planprior.policies import Policy, init_policy
from planprior.priors import PRIORS, Prior
from planprior.spec import EnvSpec
from planprior.types import PRNGKey
from planprior.world_model import WorldModel, init_world_model


class Networks(eqx.Module):
    """What an agent acts with.

    Attributes:
        model: The world model.
        policy: π.
        prior: The prior; without leaves unless it is learned.
    """

    model: WorldModel
    policy: Policy
    prior: Prior


def init_networks(spec: EnvSpec, config: Config, *, key: PRNGKey) -> Networks:
    """Fresh networks, of the shapes that an agent for `spec` has."""
    model_key, policy_key, prior_key = jax.random.split(key, 3)
    network, actions = config.network, spec.action_dim
    return Networks(
        init_world_model(spec.observation_dim, actions, config, key=model_key),
        init_policy(
            network.latent_dim, actions, network.mlp_dim, config.policy, key=policy_key
        ),
        PRIORS[config.prior.kind].init(config, actions, key=prior_key),
    )


@runtime_checkable
class HasNetworks(Protocol):
    """`Networks`, or a whole `AgentState`."""

    @property
    def model(self) -> WorldModel:
        """The world model."""
        ...

    @property
    def policy(self) -> Policy:
        """π."""
        ...

    @property
    def prior(self) -> Prior:
        """The prior."""
        ...


def seeders(
    networks: HasNetworks, policy: Policy, config: Config
) -> tuple[Policy, ...]:
    """Who proposes trajectories to the planner: the policy, the prior, or both."""
    prior = (networks.prior.proposer(),) if networks.prior.proposes else ()
    choices = {"policy": (policy,), "prior": prior, "both": (policy, *prior)}
    return choices[config.planner.seeds]


@runtime_checkable
class CanAct(Protocol):
    """Whatever has an agent's networks and settings: an `Agent`, or an `Actor`."""

    spec: EnvSpec
    config: Config
    hypers: Hypers
    info: dict[str, Any]

    @property
    def state(self) -> HasNetworks:
        """Its networks."""
        ...


class Actor:
    """An agent's networks and settings.

    Attributes:
        state: The networks.
        spec: The environment.
        config: Static settings.
        hypers: Numbers.
        info: What its folder says of it.
    """

    def __init__(
        self,
        state: Networks,
        spec: EnvSpec,
        config: Config,
        hypers: Hypers,
        info: dict[str, Any] | None = None,
    ) -> None:
        self.state, self.spec, self.config, self.hypers = state, spec, config, hypers
        self.info = info or {}
