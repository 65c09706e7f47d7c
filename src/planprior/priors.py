"""Every prior and every penalty that holds the policy to it, each a small class.

Third of the five files that are the method. PO-MPC maximises return minus λ times the
KL of the policy to a prior that carries the planner's action distribution:

* a **prior** says which Gaussian, at a state, the policy is held to: the stored plan
  itself, or a network fitted to the stored plans;
* a **divergence** says what being away from it costs, per action dimension.

To add one, write a class and register it by name: `PriorConfig.kind` or
`PriorConfig.divergence` then accepts the name, and the tests pick it up.
"""

import abc
from collections.abc import Callable
from typing import ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from planprior import numerics
from planprior.config import Config, PriorConfig
from planprior.hypers import Hypers
from planprior.policies import Clamped, Policy, Sample, init_policy
from planprior.types import Batch, Gaussian, PRNGKey
from planprior.world_model import Latent

Vector = Float[Array, "A"]
Registered = TypeVar("Registered")

PRIORS: dict[str, type["Prior"]] = {}
DIVERGENCES: dict[str, "Divergence"] = {}


def register_prior(name: str) -> Callable[[type[Registered]], type[Registered]]:
    """Make a `Prior` class available as `PriorConfig.kind`."""

    def register(cls: type[Registered]) -> type[Registered]:
        PRIORS[name] = cls  # pyright: ignore[reportArgumentType]
        return cls

    return register


def register_divergence(name: str) -> Callable[[type[Registered]], type[Registered]]:
    """Make a `Divergence` class available as `PriorConfig.divergence`."""

    def register(cls: type[Registered]) -> type[Registered]:
        DIVERGENCES[name] = cls()  # pyright: ignore[reportArgumentType]
        return cls

    return register


# --- Priors ---------------------------------------------------------------------------


class Prior(eqx.Module):
    """Which Gaussian the policy is held to. Its leaves, if any, are learned.

    Attributes:
        active: Whether there is anything to be held to.
        everywhere: Whether it exists at every state, or only where plans are stored.
        proposes: Whether it can seed the planner; then it has a `proposer`.
    """

    active: ClassVar[bool] = True
    everywhere: ClassVar[bool] = False
    proposes: ClassVar[bool] = False

    @classmethod
    @abc.abstractmethod
    def init(cls, config: Config, action_dim: int, *, key: PRNGKey) -> "Prior":
        """A fresh prior."""

    @abc.abstractmethod
    def at(self, z: Latent, plan: Gaussian) -> Gaussian:
        """The prior at a state, given the plan that is stored for it (if any)."""

    def proposer(self) -> Policy:
        """The policy that seeds the planner, of a prior that `proposes`."""
        raise NotImplementedError


@register_prior("none")
class NoPrior(Prior):
    """No prior: λ = 0, TD-MPC2."""

    active = False
    everywhere = True

    @classmethod
    def init(cls, config: Config, action_dim: int, *, key: PRNGKey) -> "NoPrior":
        """Nothing to initialise."""
        return cls()

    def at(self, z: Latent, plan: Gaussian) -> Gaussian:
        """A standard normal, which no loss looks at."""
        return Gaussian(jnp.zeros_like(plan.mean), jnp.ones_like(plan.std))


@register_prior("plans")
class StoredPlans(Prior):
    """The stored plans: BMPC, TD-M(PC)², BOOM, PO-MPC with planner samples."""

    @classmethod
    def init(cls, config: Config, action_dim: int, *, key: PRNGKey) -> "StoredPlans":
        """Nothing to initialise."""
        return cls()

    def at(self, z: Latent, plan: Gaussian) -> Gaussian:
        """The stored plan."""
        return plan


@register_prior("learned")
class LearnedPrior(Prior):
    """A network fitted to the stored plans: PO-MPC's new variants.

    Fitted with the reverse KL it is the precision-weighted geometric pool of the plans
    stored around a state, and regularises the policy as the plans themselves would,
    with less variance. Fitted with the forward KL it is their moment-matched mixture:
    wider, keeping the disagreement of old and new plans as exploration (§3.6.3).

    Attributes:
        policy: The network, always of the clamped family: it models Gaussians in action
            space.
    """

    policy: Policy

    everywhere = True
    proposes = True

    @classmethod
    def init(cls, config: Config, action_dim: int, *, key: PRNGKey) -> "LearnedPrior":
        """A network like the policy's."""
        low, high = config.prior.log_std_min, config.prior.log_std_max
        network = config.network
        policy = init_policy(
            network.latent_dim, action_dim, network.mlp_dim, config.policy, key=key
        )
        return cls(Policy(policy.net, Clamped(low, high)))

    def at(self, z: Latent, plan: Gaussian) -> Gaussian:
        """The network's Gaussian."""
        return self.policy(z)

    def proposer(self) -> Policy:
        """The network."""
        return self.policy


def fill_plans(
    batch: Batch, config: PriorConfig
) -> tuple[Gaussian, Bool[Array, "H B"]]:
    """Stored plans, with what rows of random actions are to have, and where they count.

    Returns:
        Plans, and a mask of the rows that a loss may use.
    """
    if config.random_rows == "mask":
        plan, mask = batch.plan, batch.has_plan
        centre, width = jnp.zeros_like(plan.mean), 1.0
    else:
        plan, mask = batch.plan, jnp.ones_like(batch.has_plan)
        executed = config.random_rows == "executed"
        centre = batch.action if executed else jnp.zeros_like(plan.mean)
        width = jnp.exp(2.0) if executed else 1.0
    has_plan = batch.has_plan[..., None]
    return Gaussian(
        jnp.where(has_plan, plan.mean, centre), jnp.where(has_plan, plan.std, width)
    ), mask


FITS = {
    "forward": lambda prior, plan: numerics.kl(plan, prior),
    "reverse": lambda prior, plan: numerics.kl(prior, plan),
}
"""What a learned prior minimises towards a stored plan, per action dimension."""


# --- Divergences ----------------------------------------------------------------------


class Divergence(abc.ABC):
    """What being away from the prior costs at one state, per action dimension.

    Attributes:
        in_action_space: Whether it needs the policy's own Gaussian in action space.
        by_value: Whether a batch's states weigh by the softmax of their values.
    """

    in_action_space: ClassVar[bool] = False
    by_value: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(
        self, pi: Gaussian, sample: Sample, prior: Gaussian, hypers: Hypers
    ) -> Vector:
        """Cost of the policy `pi`, of which `sample` is a draw."""


@register_divergence("reverse")
class Reverse(Divergence):
    """KL(π‖prior) in closed form: the objective's own direction, and BMPC's."""

    in_action_space = True

    def __call__(
        self, pi: Gaussian, sample: Sample, prior: Gaussian, hypers: Hypers
    ) -> Vector:
        """See the class."""
        return numerics.kl(pi, prior)


@register_divergence("forward")
class Forward(Divergence):
    """KL(prior‖π) in closed form."""

    in_action_space = True

    def __call__(
        self, pi: Gaussian, sample: Sample, prior: Gaussian, hypers: Hypers
    ) -> Vector:
        """See the class."""
        return numerics.kl(prior, pi)


@register_divergence("sampled")
class Sampled(Divergence):
    """KL(π‖prior) by one reparameterised sample; also for squashed policies."""

    def __call__(
        self, pi: Gaussian, sample: Sample, prior: Gaussian, hypers: Hypers
    ) -> Vector:
        """See the class."""
        return sample.log_density - numerics.log_density(prior, sample.point)


def _scaled_likelihood(point: Vector, centre: Vector, std: Vector) -> Vector:
    """−A · log density, with its constant counted once over the A dimensions.

    The convention of 2023's TD-MPC2, which TD-M(PC)² and BOOM inherit; sum it over the
    dimensions (§3.3).
    """
    u = (point - centre) / std
    dim = len(point)
    return dim * (0.5 * u * u + jnp.log(std)) + 0.5 * numerics.LOG_2PI


@register_divergence("likelihood")
class Likelihood(Divergence):
    """TD-M(PC)²: minus the plan's log density at the policy's action.

    The cross-entropy half of KL(π‖plan); the entropy half is left to the entropy bonus.
    """

    def __call__(
        self, pi: Gaussian, sample: Sample, prior: Gaussian, hypers: Hypers
    ) -> Vector:
        """See the class."""
        std = jnp.maximum(prior.std, hypers.min_std)
        return _scaled_likelihood(sample.action, prior.mean, std)


@register_divergence("value_weighted_likelihood")
class ValueWeightedLikelihood(Divergence):
    """BOOM: as TD-M(PC)², with the policy's own detached σ, and weighted by value."""

    by_value = True

    def __call__(
        self, pi: Gaussian, sample: Sample, prior: Gaussian, hypers: Hypers
    ) -> Vector:
        """See the class."""
        std = jnp.maximum(jax.lax.stop_gradient(pi.std), hypers.min_std)
        return _scaled_likelihood(sample.action, prior.mean, std)
