"""Formulas: symlog, two-hot, Gaussians, running scales. Nothing here has parameters."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from planprior.mapping import on_accelerator
from planprior.types import Gaussian, Number, Scalar

LOG_2PI = 1.8378770664093453
LOG_2 = 0.6931471805599453


def symlog(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Symmetric logarithm, sign(x) ln(1 + |x|) (DreamerV3, eq. 9)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def mish(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Mish, x tanh(softplus(x)), with one exponential.

    tanh(ln(1 + e)) = n / (n + 2) with n = e (e + 2); beyond 20 it is 1 in float32, and
    e² would overflow beyond 44.
    """
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


def mish_slope(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Derivative of `mish`, with one exponential and one division.

    With e and n as there, n / (n + 2) + 4 x e (1 + e) / (n + 2)². Over one denominator
    XLA makes it one loop on CPUs; of a reciprocal used twice, four that each write an
    array.
    """
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2.0)
    d = n + 2.0
    return (n * d + 4.0 * x * e * (1.0 + e)) / (d * d)


@dataclasses.dataclass(frozen=True)
class TwoHot:
    """Scalars as distributions over equal bins in symlog space (TD-MPC2, §3.1).

    Attributes:
        num_bins: Number of bins.
        low: Centre of the first, in symlog of the scalar's unit.
        high: Centre of the last.
    """

    num_bins: int
    low: float
    high: float

    def position(self, x: Scalar) -> Scalar:
        """Where x lies, counted in bins from the first; clamped to the support."""
        width = (self.high - self.low) / (self.num_bins - 1)
        return (jnp.clip(symlog(x), self.low, self.high) - self.low) / width

    def encode(self, x: Scalar) -> Float[Array, "bins"]:
        """Split x's mass between its two neighbouring bins."""
        bins = jnp.arange(self.num_bins, dtype=jnp.float32)
        return jnp.maximum(1.0 - jnp.abs(self.position(x) - bins), 0.0)

    def decode(self, logits: Float[Array, "bins"]) -> Scalar:
        """Symexp of the mean bin: the expectation is taken in symlog space."""
        bins = jnp.linspace(self.low, self.high, self.num_bins)
        return symexp(jnp.dot(jax.nn.softmax(logits), bins))

    def cross_entropy(self, logits: Float[Array, "bins"], x: Scalar) -> Scalar:
        """Cross entropy of `logits` to `encode(x)`.

        By two look-ups on CPUs, where never forming the two-hot target saves 9 % of an
        update. On accelerators the gradient of a look-up is a kernel and a copy.
        """
        if on_accelerator():
            return jax.nn.logsumexp(logits) - jnp.sum(self.encode(x) * logits)
        position = self.position(x)
        k = jnp.clip(jnp.floor(position), 0, self.num_bins - 2).astype(jnp.int32)
        upper = position - k
        log_z = jax.nn.logsumexp(logits)
        return log_z - ((1.0 - upper) * logits[k] + upper * logits[k + 1])


def log_density(p: Gaussian, x: Float[Array, "*s A"]) -> Float[Array, "*s A"]:
    """Log density of each coordinate of x."""
    u = (x - p.mean) / p.std
    return -0.5 * (u * u + LOG_2PI) - jnp.log(p.std)


def entropy(p: Gaussian) -> Float[Array, "*s A"]:
    """Differential entropy of each coordinate, in nats."""
    return jnp.log(p.std) + 0.5 * (1.0 + LOG_2PI)


def kl(p: Gaussian, q: Gaussian) -> Float[Array, "*s A"]:
    """KL(p‖q) of each coordinate, in nats."""
    ratio = jnp.square(p.std / q.std)
    shift = jnp.square((p.mean - q.mean) / q.std)
    return 0.5 * (ratio + shift - 1.0 - jnp.log(ratio))


def log_tanh_slope(u: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Log of d tanh(u)/du = 1 − tanh²(u), exact where that rounds to 0."""
    return 2.0 * (LOG_2 - u - jax.nn.softplus(-2.0 * u))


def masked_mean(x: Float[Array, "*s"], mask: Bool[Array, "*s"]) -> Scalar:
    """Mean over where `mask` holds; 0 where it holds nowhere."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask), 1)


def spread(x: Float[Array, "B"], mask: Bool[Array, "B"]) -> Scalar:
    """95th minus 5th percentile (linear interpolation) of x where `mask` holds.

    Where it holds nowhere the result is infinite or NaN; see `update_scale`.
    """
    ordered = jnp.sort(jnp.where(mask, x, jnp.inf))
    last = jnp.sum(mask) - 1

    def percentile(share: float) -> Scalar:
        position = share * last.astype(x.dtype)
        below = jnp.floor(position).astype(jnp.int32)
        above = jnp.minimum(below + 1, jnp.maximum(last, 0))
        part = position - below
        # A weight of 0 must not meet an infinity: 0 · inf is NaN.
        gap = jnp.where(above > below, ordered[above] - ordered[below], 0.0)
        return ordered[below] + part * gap

    return percentile(0.95) - percentile(0.05)


def update_scale(
    scale: Scalar, x: Float[Array, "B"], mask: Bool[Array, "B"], tau: Number
) -> Scalar:
    """Move a running scale towards the spread of x, never below 1 (TD-MPC2, scale.py).

    No gradient flows into it, and a batch without any sample leaves it as it is.
    """
    x = jax.lax.stop_gradient(x)
    target = jnp.maximum(spread(x, mask), 1.0)
    return jnp.where(jnp.any(mask), scale + tau * (target - scale), scale)
