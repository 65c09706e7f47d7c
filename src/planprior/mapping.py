"""How functions of one state become functions of many, in the form that is fastest."""

import functools
import math
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


def float32_products(function: Function) -> Function:
    """Products in float32 within, unless somebody has chosen another precision.

    JAX's own default is the coarsest that a device has: TF32 on NVIDIA's.
    """

    @functools.wraps(function)
    def program(*args: Any, **kwargs: Any) -> Any:
        chosen = jax.config.jax_default_matmul_precision  # pyright: ignore
        with jax.default_matmul_precision(chosen or "float32"):
            return function(*args, **kwargs)

    return program


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


def some_at_once(function: Function, most: int) -> Function:
    """Map over a leading axis, at most so many at a time.

    Parts are as equal as they can be: a smaller last one is a second program to
    compile.
    """

    def mapped(*args: Any) -> Any:
        count = jax.tree.leaves(args)[0].shape[0]
        size = math.ceil(count / math.ceil(count / most))
        if count == 1:
            return alone(function)(*args)
        if count == size:
            return jax.vmap(function)(*args)
        # One by one is not by vmap: see `alone`.
        by = None if size == 1 else size
        return jax.lax.map(lambda one: function(*one), args, batch_size=by)

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


def summed(loss: Function) -> Function:
    """Sum a loss over a stack of parts, and gather what each tells.

    `loss(part, given, x)` returns a number and, without gradient, anything else. The
    result does so of stacks of `part` and `given`, and can be differentiated by the
    parts and by x, an array that all share.

    The sum comes with its gradient, part by part: what a part's backward pass needs is
    gone before the next begins. Left to XLA, those arrays of all parts lie in memory at
    once, and on CPUs the system clears that memory for every update.
    """
    with_gradient = jax.value_and_grad(loss, argnums=(0, 2), has_aux=True)

    def mapped(parts: Any, given: Any, x: Array) -> tuple[Array, Any]:
        @jax.custom_gradient
        def total(parts: Any, x: Array) -> Any:
            def step(to_x: Array, one: Any) -> Any:
                (value, told), (to_part, more) = with_gradient(*one, x)
                return to_x + more, (value, told, to_part)

            to_x, (values, told, to_parts) = jax.lax.scan(
                step, jnp.zeros_like(x), (parts, given)
            )

            def pull(out: Any) -> Any:
                return jax.tree.map(lambda to: out[0] * to, (to_parts, to_x))

            return (jnp.sum(values), told), pull

        value, told = total(parts, x)
        return value, jax.lax.stop_gradient(told)

    return mapped
