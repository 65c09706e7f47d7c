"""What the value heads learn: one-step targets, from replay (Q) or the model (V).

TD-MPC2, eq. 3; BMPC for V heads; PO-MPC, eqs. 2 and 3, where the KL counts as a cost.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from planprior.config import Config
from planprior.hypers import Hypers
from planprior.mapping import each
from planprior.nets import MLP
from planprior.policies import Policy
from planprior.priors import DIVERGENCES, Prior
from planprior.types import Metrics, Scalar
from planprior.world_model import WorldModel

REDUCTIONS = {"min": jnp.min, "mean": jnp.mean, "sum": jnp.sum}
"""Of heads (`min`, `mean`), and of action dimensions (`mean`, `sum`)."""


class TargetInputs(NamedTuple):
    """What a value target at one step is made of.

    Attributes:
        z: Latent of the observation before the step (encoded, not imagined).
        z_next: Latent of the one after it.
        reward: The step's reward.
        terminated: Whether the episode ended with it.
        eps: Standard normal, for the policy's action.
    """

    z: Float[Array, "*s L"]
    z_next: Float[Array, "*s L"]
    reward: Float[Array, "*s"]
    terminated: Bool[Array, "*s"]
    eps: Float[Array, "*s A"]


class Bootstrap(NamedTuple):
    """Who values the state that a target bootstraps from.

    Attributes:
        model: The world model.
        heads: Two drawn target heads.
        policy: Chooses the action there.
        prior: What its KL is counted against, if it is.
        lam: λ in reward units.
        hypers: Discount and clip.
        config: Choices.
    """

    model: WorldModel
    heads: MLP
    policy: Policy
    prior: Prior
    lam: Scalar
    hypers: Hypers
    config: Config

    def value(self, z: Float[Array, "L"], a: Float[Array, "A"] | None) -> Scalar:
        """Value under the drawn heads."""
        values = self.model.values(z, a, self.heads)
        return REDUCTIONS[self.config.critic.target](values)

    def act(self, z: Float[Array, "L"], eps: Float[Array, "A"]) -> tuple[Any, Scalar]:
        """An action of the policy, and what being away from the prior costs there.

        The cost is λ times the KL, reduced over dimensions as the policy's penalty is,
        whose scale λ holds; and clipped, as it could swamp the rewards (§3.6.5).
        """
        pi = self.policy(z)
        sample = self.policy.family.sample(pi, eps)
        how = self.config.critic.kl_in_target
        if how == "none":
            return sample.action, jnp.zeros(())
        divergence = DIVERGENCES["reverse" if how == "closed_form" else "sampled"]
        cost = divergence(pi, sample, self.prior.at(z, pi), self.hypers)
        reduced = REDUCTIONS[self.config.prior.reduction](cost)
        clipped = jnp.minimum(reduced, self.hypers.kl_clip)
        return sample.action, self.lam * clipped

    def alive(self, terminated: Bool[Array, ""]) -> Scalar:
        """Whether there is a value after the step."""
        if self.config.terminations == "bootstrap":
            return jnp.ones(())
        return 1.0 - terminated


def q_target(to: Bootstrap, step: TargetInputs) -> Scalar:
    """Return r + γ (1 − d) (Q(z', a') − λ KL(z')), a' ~ π(z')."""
    action, cost = to.act(step.z_next, step.eps)
    value = to.value(step.z_next, action) - cost
    return step.reward + to.hypers.discount * to.alive(step.terminated) * value


def v_target(to: Bootstrap, step: TargetInputs) -> Scalar:
    """Return r̂(z, a) − λ KL(z) + γ ĉ V(d(z, a)), a ~ π(z) (BMPC, td_horizon 1).

    On-policy and by the model: the replayed action and reward have no part in it.
    Whether the episode goes on is the continue head's word, or without one the
    replay's, which speaks of the replayed action.
    """
    model = to.model
    action, cost = to.act(step.z, step.eps)
    z_next = model.next(step.z, action)
    if model.termination_head is None:
        alive = to.alive(step.terminated)
    else:
        alive = model.continuation(z_next)
    value = to.value(z_next, None)
    return model.reward(step.z, action) - cost + to.hypers.discount * alive * value


TARGETS = {"q": q_target, "v": v_target}


def td_target(to: Bootstrap, steps: TargetInputs) -> Float[Array, "H B"]:
    """Targets of the value heads at every step of the batch."""
    target = TARGETS[to.config.critic.kind]
    return jax.lax.stop_gradient(each(lambda step: target(to, step))(steps))


def value_metrics(
    values: Float[Array, "H B Q"], targets: Float[Array, "H B"]
) -> Metrics:
    """Values, targets, and by how much the first exceed the second."""
    value, target = jnp.mean(values), jnp.mean(targets)
    return {
        "value": value,
        "target": target,
        "value_over_target": value - target,
        "value_head_std": jnp.mean(jnp.std(values, axis=2)),
    }
