"""Adam, made only as long as what is learned is finite."""

import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool

from planprior.hypers import Hypers
from planprior.mapping import on_accelerator
from planprior.types import Number, Scalar

BETA_1, BETA_2 = 0.9, 0.999
"""As published."""

SMALL = 2**14
"""Numbers in an array from which on its squares are summed by a kernel of its own."""

Tree = TypeVar("Tree")
Flag = Bool[Array, ""] | bool


def keep_unless(going: Flag, new: Tree, old: Tree) -> Tree:
    """`new` while learning goes on, and else `old`, bit by bit.

    It goes on until a loss or a gradient is not finite. For use where `new` is computed
    rather than on the whole agent at the end: there it is part of a loop that reads the
    old numbers anyway, and costs nothing.
    """
    return jax.tree.map(lambda a, b: jnp.where(going, a, b), new, old)


def _row_major(x: Array) -> Array:
    """Written as parameters are.

    XLA makes the gradient of a stack of heads transposed, and would have Adam transpose
    parameters and moments to it and back.
    """
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def global_norm(gradient: Any) -> Scalar:
    """Global norm; on accelerators all small arrays are one sum, and one kernel."""
    if not on_accelerator():
        return optax.tree.norm(gradient)
    leaves = jax.tree.leaves(gradient)
    small = [jnp.zeros(1), *(x.ravel() for x in leaves if x.size < SMALL)]
    large = [x for x in leaves if x.size >= SMALL]
    return optax.tree.norm([jnp.concatenate(small), *large])


def adam_step(
    parameters: Tree,
    gradient: Tree,
    moments: optax.ScaleByAdamState,
    rates: Any,
    hypers: Hypers,
    eps: float,
    going: Flag = True,
) -> tuple[Tree, optax.ScaleByAdamState, Scalar]:
    """Clip by global norm, then Adam; no step at all where the gradient is not finite.

    Optax's Adam, written out for the order of things: parameters follow from moments
    that have been kept or not. Kept after Optax, all of them are copied first: twice
    the time.

    Args:
        parameters: What is trained.
        gradient: Of all of it at once: the clip is joint.
        moments: Adam's.
        rates: A learning rate, or a tree of them that is a prefix of the parameters.
        hypers: The clip.
        eps: Adam's.
        going: Whether to make the step.

    Returns:
        New parameters and moments, and the gradient's norm before the clip.
    """
    if on_accelerator():
        gradient = jax.tree.map(_row_major, gradient)
    norm = global_norm(gradient)
    going &= jnp.isfinite(norm)
    clip = jnp.minimum(1.0, hypers.max_grad_norm / (norm + 1e-6))
    gradient = jax.tree.map(lambda g: g * clip, gradient)
    mean = jax.tree.map(
        lambda g, m: (1 - BETA_1) * g + BETA_1 * m, gradient, moments.mu
    )
    mean = keep_unless(going, mean, moments.mu)
    square = jax.tree.map(
        lambda g, v: (1 - BETA_2) * jnp.square(g) + BETA_2 * v, gradient, moments.nu
    )
    square = keep_unless(going, square, moments.nu)
    count = moments.count + 1
    to_mean, to_square = 1 - BETA_1**count, 1 - BETA_2**count

    def step(rate: Number, p: Array, m: Array, v: Array) -> Array:
        return p - rate * ((m / to_mean) / (jnp.sqrt(v / to_square) + eps))

    new = jax.tree.map(
        lambda rate, *parts: jax.tree.map(functools.partial(step, rate), *parts),
        rates, parameters, mean, square,
    )  # fmt: skip
    count = keep_unless(going, count, moments.count)
    moments = optax.ScaleByAdamState(count, mean, square)
    return keep_unless(going, new, parameters), moments, norm
