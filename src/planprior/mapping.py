"""How functions of one state become functions of many, in the form that is fastest."""

from collections.abc import Callable
from typing import Any

import jax

Function = Callable[..., Any]


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
