"""Normalised layers, each for ONE example, with gradients that need little memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from planprior.mapping import on_accelerator
from planprior.numerics import mish, mish_slope
from planprior.types import Scalar

LAYER_NORM_EPSILON = 1e-5

WIDE = 128
"""Width from which on what saves memory saves time too, in updates on a CPU. It did so
at 128, 384 and 512, and cost time at the 64 of size `tiny`. So do simplices by halves
(128, 512; 64)."""


def is_wide(width: int) -> bool:
    """Whether layers of that width take the forms that only pay for wide ones."""
    return width >= WIDE and not on_accelerator()


def simnorm(x: Float[Array, "L"], group: int) -> Float[Array, "L"]:
    """Softmax within groups of `group` neighbours (TD-MPC2, §3.1): simplices.

    Wide layers on CPUs join halves of a group to its maximum and its sum. Whole
    reductions XLA leaves to its library of products, with the exponentials between
    them, for which that is slower than its own loops.
    """
    groups = x.reshape(-1, group)
    if not is_wide(len(x)):
        return jax.nn.softmax(groups, axis=-1).reshape(-1)
    largest = _by_halves(jnp.maximum, jnp.max, groups)
    share = jnp.exp(groups - largest)
    return (share / _by_halves(jnp.add, jnp.sum, share)).reshape(-1)


def _by_halves(
    join: Callable[..., Array], reduce: Callable[..., Array], x: Float[Array, "n group"]
) -> Float[Array, "n 1"]:
    """Reduce the last axis, by joining its halves as long as it has two."""
    while x.shape[1] % 2 == 0:
        half = x.shape[1] // 2
        x = join(x[:, :half], x[:, half:])
    return x if x.shape[1] == 1 else reduce(x, axis=1, keepdims=True)


def layer_norm(
    product: Float[Array, "out"],
    bias: Float[Array, "out"],
    scale: Float[Array, "out"],
    shift: Float[Array, "out"],
) -> Float[Array, "out"]:
    """Layer normalisation of product + bias, with gain `scale` and offset `shift`."""
    x, mean = _sum_and_mean(product, bias)
    return (x - mean) / _std(x, mean) * scale + shift


def _sum_and_mean(
    product: Float[Array, "out"], bias: Float[Array, "out"]
) -> tuple[Float[Array, "out"], Scalar]:
    # By the means of both, XLA on CPUs need not write the sum before it has its mean.
    return product + bias, jnp.mean(product) + jnp.mean(bias)


def _std(x: Float[Array, "out"], mean: Scalar) -> Scalar:
    centred = x - mean
    return jnp.sqrt(jnp.mean(centred * centred) + LAYER_NORM_EPSILON)


def _normal_again(
    x: Float[Array, "out"], mean: Scalar, precision: Scalar, out: Float[Array, "out"]
) -> tuple[Float[Array, "out"], Scalar]:
    """The normalised x and 1/std for a backward pass, when `out` is there.

    On CPUs nothing is added to a wide x, times `out`. XLA would otherwise see that all
    of this can be had since the forward pass, compute it there, and keep several arrays
    of x's size until now.

    On accelerators mean and 1/std are computed again, and kept apart from what follows.
    Otherwise XLA makes a kernel of its own for each thing that depends on them, and
    writes arrays of x's size between these.
    """
    if not on_accelerator():
        late = x + 0.0 * out[0] if is_wide(len(x)) else x
        return (late - mean) * precision, precision
    apart = jax.lax.optimization_barrier
    again = apart(x)
    mean = jnp.mean(again)
    mean, precision = apart((mean, 1.0 / _std(again, mean)))
    return (x - mean) * precision, precision


@jax.custom_vjp
def normed_mish(
    product: Float[Array, "out"],
    bias: Float[Array, "out"],
    scale: Float[Array, "out"],
    shift: Float[Array, "out"],
) -> Float[Array, "out"]:
    """Mish of `layer_norm`; for its gradient it keeps x = product + bias, mean, 1/std.

    Left to itself, autodiff keeps several arrays of x's size, and writing them is what
    a forward pass on a CPU takes most time for, beside the products. So the backward
    pass computes all that is as large as x again.
    """
    return mish(layer_norm(product, bias, scale, shift))


def _normed_mish(*layer: Array) -> tuple[Array, Any]:
    return mish(layer_norm(*layer)), _kept(*layer)


def _normed_mish_gradient(kept: Any, out: Array) -> tuple[Array, ...]:
    x, mean, precision, scale, shift = kept
    normal, precision = _normal_again(x, mean, precision, out)
    to_normed = out * mish_slope(normal * scale + shift)
    return _layer_norm_gradient(to_normed, normal, precision, scale)


normed_mish.defvjp(_normed_mish, _normed_mish_gradient)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def normed_simnorm(
    product: Float[Array, "out"],
    bias: Float[Array, "out"],
    scale: Float[Array, "out"],
    shift: Float[Array, "out"],
    group: int,
) -> Float[Array, "out"]:
    """`simnorm` of `layer_norm`; it keeps its result and what `normed_mish` keeps."""
    return simnorm(layer_norm(product, bias, scale, shift), group)


def _normed_simnorm(
    product: Array, bias: Array, scale: Array, shift: Array, group: int
) -> tuple[Array, Any]:
    z = simnorm(layer_norm(product, bias, scale, shift), group)
    return z, (z, *_kept(product, bias, scale, shift))


def _normed_simnorm_gradient(group: int, kept: Any, out: Array) -> tuple[Array, ...]:
    z, x, mean, precision, scale, _ = kept
    normal, precision = _normal_again(x, mean, precision, out)
    along = jnp.sum((z * out).reshape(-1, group), axis=1)
    to_normed = z * (out - jnp.repeat(along, group))
    return _layer_norm_gradient(to_normed, normal, precision, scale)


normed_simnorm.defvjp(_normed_simnorm, _normed_simnorm_gradient)


def _kept(product: Array, bias: Array, scale: Array, shift: Array) -> tuple[Array, ...]:
    x, mean = _sum_and_mean(product, bias)
    return x, mean, 1.0 / _std(x, mean), scale, shift


def _layer_norm_gradient(
    to_normed: Array, normal: Array, precision: Scalar, scale: Array
) -> tuple[Array, ...]:
    """By what `layer_norm` takes, from the gradient by what it makes of that."""
    to_normal = to_normed * scale
    along = jnp.mean(to_normal) + normal * jnp.mean(to_normal * normal)
    to_x = precision * (to_normal - along)
    return to_x, to_x, to_normed * normal, to_normed
