"""How functions of one state become functions of many, in the form that is fastest."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

Function = Callable[..., Any]


def on_accelerator() -> bool:
    """Whether programs are built for a GPU or TPU.

    There what costs is starting kernels and moving arrays between them, on a CPU the
    operations: where that decides between two forms of the same formula, both are
    written, and tests compare them.
    """
    return jax.default_backend() != "cpu"


def each(function: Function) -> Function:
    """Map over time and batch, as one axis.

    The gradient of a weight is then one product of two matrices. Over two axes its
    second factor would be transposed first, and the product slower.
    """

    def mapped(*args: Any) -> Any:
        steps, batch = jax.tree.leaves(args)[0].shape[:2]
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), args)
        return jax.tree.map(
            lambda x: x.reshape(steps, batch, *x.shape[1:]), jax.vmap(function)(*rows)
        )

    return mapped


def alone(function: Function) -> Function:
    """Map over a leading axis of length 1, which the function's program never sees.

    Under `vmap` every product would be one of a batch of matrices, which is slower on a
    CPU.
    """

    def mapped(*args: Any) -> Any:
        result = function(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], result)

    return mapped


def over_steps(function: Function) -> Function:
    """Map over a few steps, given as one sequence per argument.

    All at once on accelerators. On CPUs one after the other: of a first state that all
    samples of the planner share, products are then computed once.
    """

    def mapped(*sequences: Sequence[Array] | Array) -> Any:
        if on_accelerator():
            return jax.vmap(function)(*map(jnp.asarray, sequences))
        results = [function(*args) for args in zip(*sequences, strict=True)]
        return jax.tree.map(lambda *x: jnp.stack(x), *results)

    return mapped
