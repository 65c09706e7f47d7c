"""The two policy families: how a network's output becomes a distribution over actions.

`squashed` (TD-MPC2, TD-M(PC)², BOOM): tanh of a Gaussian. Its `Gaussian` lives before
the tanh and cannot be compared with a plan in closed form.

`clamped` (BMPC, and PO-MPC here): a Gaussian around tanh of the network's mean, whose
samples are clipped to the box. Its `Gaussian` lives in action space, as plans do.

Versions of the entropy bonus, for A dimensions, noise ε and scale σ (§1.4):

* `scaled`: −A · log density of the Gaussian draw, which is what the "scaled entropy" of
  TD-MPC2 and BMPC amounts to: the tanh has no part in it.
* `closed_form`: its expectation, A · Σ (log σ + ½ log 2πe).
* `legacy`: the bonus of 2023's TD-MPC2, still in TD-M(PC)² and BOOM: the Gaussian's
  part scaled by A (with its constant counted once), the tanh's part not.
* `exact`: minus the log density of the sample, tanh included.
"""

import dataclasses
from typing import ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from planprior.config import PolicyConfig
from planprior.nets import MLP
from planprior.numerics import LOG_2PI, entropy, log_tanh_slope
from planprior.types import Gaussian, PRNGKey, Scalar

Vector = Float[Array, "A"]


class Sample(eqx.Module):
    """A reparameterised draw from a policy.

    Attributes:
        action: What is executed, in [−1, 1].
        point: The same before clipping, in action space.
        base_log_density: Log density of the Gaussian draw, before any tanh.
        log_slope: Log of the slope of the tanh there; 0 without one.
    """

    action: Float[Array, "*s A"]
    point: Float[Array, "*s A"]
    base_log_density: Float[Array, "*s A"]
    log_slope: Float[Array, "*s A"]

    @property
    def log_density(self) -> Float[Array, "*s A"]:
        """Log density of `point`, per dimension."""
        return self.base_log_density - self.log_slope


@runtime_checkable
class Family(Protocol):
    """What the planner and the losses need of a policy family.

    Attributes:
        in_action_space: Whether its Gaussians can be compared with plans.
    """

    in_action_space: ClassVar[bool]

    def distribution(self, raw: Float[Array, "2*A"]) -> Gaussian:
        """Turn a network's output (mean, then raw log σ) into a Gaussian."""
        ...

    def sample(self, pi: Gaussian, eps: Vector) -> Sample:
        """Turn a standard normal draw into an action."""
        ...

    def mode(self, pi: Gaussian) -> Vector:
        """The action without noise."""
        ...


@dataclasses.dataclass(frozen=True)
class _Bounded:
    """log σ between two bounds, by a tanh (tdmpc2, math.py: log_std)."""

    log_std_min: float
    log_std_max: float

    def _split(self, raw: Float[Array, "_"]) -> tuple[Vector, Vector]:
        mean, log_std = jnp.split(raw, 2)
        width = self.log_std_max - self.log_std_min
        std = jnp.exp(self.log_std_min + 0.5 * width * (jnp.tanh(log_std) + 1.0))
        return mean, std


def _base_log_density(pi: Gaussian, eps: Vector) -> Vector:
    return -0.5 * (eps * eps + LOG_2PI) - jnp.log(pi.std)


class Squashed(_Bounded):
    """tanh of a Gaussian; the Gaussian is the one before the tanh."""

    in_action_space = False

    def distribution(self, raw: Float[Array, "_"]) -> Gaussian:
        """The Gaussian before the tanh."""
        mean, std = self._split(raw)
        return Gaussian(mean, std)

    def sample(self, pi: Gaussian, eps: Vector) -> Sample:
        """tanh(μ + σε)."""
        u = pi.mean + pi.std * eps
        base = _base_log_density(pi, eps)
        action = jnp.tanh(u)
        return Sample(action, action, base, log_tanh_slope(u))

    def mode(self, pi: Gaussian) -> Vector:
        """tanh(μ)."""
        return jnp.tanh(pi.mean)


class Clamped(_Bounded):
    """A Gaussian around tanh(μ) in action space, clipped to the box."""

    in_action_space = True

    def distribution(self, raw: Float[Array, "_"]) -> Gaussian:
        """The Gaussian in action space."""
        mean, std = self._split(raw)
        return Gaussian(jnp.tanh(mean), std)

    def sample(self, pi: Gaussian, eps: Vector) -> Sample:
        """clip(tanh(μ) + σε, −1, 1); the density is that of the unclipped Gaussian."""
        point = pi.mean + pi.std * eps
        base = _base_log_density(pi, eps)
        action = jnp.clip(point, -1.0, 1.0)
        return Sample(action, point, base, jnp.zeros_like(point))

    def mode(self, pi: Gaussian) -> Vector:
        """tanh(μ)."""
        return pi.mean


FAMILIES: dict[str, type[Squashed] | type[Clamped]] = {
    "squashed": Squashed,
    "clamped": Clamped,
}


class Policy(eqx.Module):
    """A network and the family that reads its output.

    Attributes:
        net: From a latent to 2A numbers.
        family: Static.
    """

    net: MLP
    family: Squashed | Clamped = eqx.field(static=True)

    def __call__(self, z: Float[Array, "L"]) -> Gaussian:
        """The distribution at one latent."""
        return self.family.distribution(self.net(z))

    def with_log_std(self, low: float, high: float) -> "Policy":
        """The same network read with another range of log σ."""
        family = dataclasses.replace(self.family, log_std_min=low, log_std_max=high)
        return Policy(self.net, family)


def init_policy(
    latent_dim: int, action_dim: int, width: int, policy: PolicyConfig, *, key: PRNGKey
) -> Policy:
    """A policy with two hidden layers; its last layer is not zeroed (§1.2)."""
    family = FAMILIES[policy.family](policy.log_std_min, policy.log_std_max)
    net = MLP.init(latent_dim, [width, width], 2 * action_dim, key=key)
    return Policy(net, family)


def _scaled(pi: Gaussian, sample: Sample) -> Scalar:
    return -len(pi.mean) * jnp.sum(sample.base_log_density)


def _closed_form(pi: Gaussian, sample: Sample) -> Scalar:
    return len(pi.mean) * jnp.sum(entropy(pi))


def _legacy(pi: Gaussian, sample: Sample) -> Scalar:
    dim = len(pi.mean)
    constant = 0.5 * LOG_2PI * (dim - 1)
    # The published floor of the slope, 1 − a² + 1e-6.
    slope = jnp.sum(jnp.log(jnp.exp(sample.log_slope) + 1e-6))
    return -dim * (jnp.sum(sample.base_log_density) + constant) + slope


def _exact(pi: Gaussian, sample: Sample) -> Scalar:
    return -jnp.sum(sample.log_density)


ENTROPIES = {
    "scaled": _scaled,
    "closed_form": _closed_form,
    "legacy": _legacy,
    "exact": _exact,
}
"""Versions of the entropy bonus: (distribution, sample) → bonus in nats, scaled."""
