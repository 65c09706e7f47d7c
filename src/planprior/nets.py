"""Network parts, each for ONE example. Every leaf is an array; `vmap` adds the axes."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, UInt16

from planprior.mapping import on_accelerator
from planprior.numerics import mish, mish_slope
from planprior.types import PRNGKey, Scalar

Tree = TypeVar("Tree")

LAYER_NORM_EPSILON = 1e-5

WIDE = 512
"""Width from which on what saves memory saves time too, in updates on a CPU. It did so
at 512 and cost time in size `tiny`; between the two nothing was measured."""


def simnorm(x: Float[Array, "L"], group: int) -> Float[Array, "L"]:
    """Softmax within groups of `group` neighbours (TD-MPC2, §3.1): simplices."""
    return jax.nn.softmax(x.reshape(-1, group), axis=-1).reshape(-1)


def layer_norm(
    x: Float[Array, "out"], scale: Float[Array, "out"], shift: Float[Array, "out"]
) -> Float[Array, "out"]:
    """Layer normalisation, with gain `scale` and offset `shift`."""
    centred, std = _moments(x)
    return centred / std * scale + shift


def _moments(x: Float[Array, "out"]) -> tuple[Float[Array, "out"], Scalar]:
    centred = x - jnp.mean(x)
    return centred, jnp.sqrt(jnp.mean(centred * centred) + LAYER_NORM_EPSILON)


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
        late = x + 0.0 * out[0] if len(x) >= WIDE else x
        return (late - mean) * precision, precision
    apart = jax.lax.optimization_barrier
    again = apart(x)
    _, std = _moments(again)
    mean, precision = apart((jnp.mean(again), 1.0 / std))
    return (x - mean) * precision, precision


@jax.custom_vjp
def normed_mish(
    x: Float[Array, "out"], scale: Float[Array, "out"], shift: Float[Array, "out"]
) -> Float[Array, "out"]:
    """Mish of `layer_norm`, which keeps x, mean and 1/std for its gradient.

    Left to itself, autodiff keeps several arrays of x's size, and writing them is what
    a forward pass on a CPU takes most time for, beside the products. So the backward
    pass computes all that is as large as x again.
    """
    return mish(layer_norm(x, scale, shift))


def _normed_mish(x: Array, scale: Array, shift: Array) -> tuple[Array, Any]:
    _, std = _moments(x)
    kept = (x, jnp.mean(x), 1.0 / std, scale, shift)
    return normed_mish(x, scale, shift), kept


def _normed_mish_gradient(kept: Any, out: Array) -> tuple[Array, Array, Array]:
    x, mean, precision, scale, shift = kept
    normal, precision = _normal_again(x, mean, precision, out)
    to_shift = out * mish_slope(normal * scale + shift)
    to_normal = to_shift * scale
    along = jnp.mean(to_normal) + normal * jnp.mean(to_normal * normal)
    return precision * (to_normal - along), to_shift * normal, to_shift


normed_mish.defvjp(_normed_mish, _normed_mish_gradient)


class Linear(eqx.Module):
    """x W + b, for an input that may come in several parts.

    Attributes:
        weight: W, input first.
        bias: b.
    """

    weight: Float[Array, "*heads in out"]
    bias: Float[Array, "*heads out"]

    @classmethod
    def init(cls, in_dim: int, out_dim: int, *, key: PRNGKey) -> "Linear":
        """Normal of std 0.02, no bias (tdmpc2, init.py).

        The published truncation is at ±2 in weight units, 100 std: no truncation.
        """
        weight = 0.02 * jax.random.normal(key, (in_dim, out_dim))
        return cls(weight, jnp.zeros(out_dim))

    def __call__(self, *parts: Float[Array, "_"]) -> Float[Array, "out"]:
        """Apply to the concatenation of `parts`.

        Each part meets its own rows of W, so that one which a surrounding `vmap` does
        not map, like the latent that all the planner's samples share, is multiplied
        once.

        Raises:
            ValueError: The parts have fewer or more numbers than W has rows.
        """
        given, rows = sum(part.shape[0] for part in parts), self.weight.shape[0]
        if given != rows:
            raise ValueError(f"the input has {given} numbers; the layer takes {rows}")
        out, row = self.bias, 0
        for part in parts:
            out = out + part @ self.weight[row : row + part.shape[0]]
            row += part.shape[0]
        return out


class NormedLinear(eqx.Module):
    """Linear → dropout → LayerNorm → Mish, or simplices (tdmpc2, layers.py).

    Attributes:
        linear: The linear map.
        scale: LayerNorm's gain.
        shift: LayerNorm's offset.
    """

    linear: Linear
    scale: Float[Array, "*heads out"]
    shift: Float[Array, "*heads out"]

    @classmethod
    def init(cls, in_dim: int, out_dim: int, *, key: PRNGKey) -> "NormedLinear":
        """A `Linear` and an identity LayerNorm."""
        linear = Linear.init(in_dim, out_dim, key=key)
        return cls(linear, jnp.ones(out_dim), jnp.zeros(out_dim))

    def __call__(
        self, *parts: Float[Array, "_"], dropout: Float[Array, "out"] | None = None
    ) -> Float[Array, "out"]:
        """Apply; `dropout` is a drawn mask that already holds the factor 1/(1 − p)."""
        x = self.linear(*parts)
        if dropout is not None:
            x = x * dropout
        return normed_mish(x, self.scale, self.shift)

    def simplices(self, *parts: Float[Array, "_"], group: int) -> Float[Array, "out"]:
        """Apply with `simnorm` in the place of Mish."""
        return simnorm(layer_norm(self.linear(*parts), self.scale, self.shift), group)


class MLP(eqx.Module):
    """Hidden `NormedLinear` layers and a plain linear last one.

    Attributes:
        hidden: The hidden layers.
        last: The last layer; without LayerNorm or activation.
    """

    hidden: tuple[NormedLinear, ...]
    last: Linear

    @classmethod
    def init(
        cls, in_dim: int, hidden: Sequence[int], out_dim: int, *, key: PRNGKey
    ) -> "MLP":
        """Layers of the given widths."""
        keys = jax.random.split(key, len(hidden) + 1)
        widths = [in_dim, *hidden]
        layers = tuple(
            NormedLinear.init(i, o, key=k)
            for i, o, k in zip(widths[:-1], widths[1:], keys[:-1], strict=True)
        )
        return cls(layers, Linear.init(widths[-1], out_dim, key=keys[-1]))

    def __call__(
        self, *parts: Float[Array, "_"], dropout: Float[Array, "_"] | None = None
    ) -> Float[Array, "out"]:
        """Apply; `dropout` is the first hidden layer's mask."""
        x = self.hidden[0](*parts, dropout=dropout)
        for layer in self.hidden[1:]:
            x = layer(x)
        return self.last(x)


class SimplexMLP(eqx.Module):
    """An MLP whose last layer is normalised too and ends on simplices: a latent.

    Attributes:
        layers: All layers.
        group: Length of each simplex.
    """

    layers: tuple[NormedLinear, ...]
    group: int = eqx.field(static=True)

    @classmethod
    def init(
        cls, in_dim: int, widths: Sequence[int], group: int, *, key: PRNGKey
    ) -> "SimplexMLP":
        """Layers of the given widths, the last of which is the latent's."""
        keys = jax.random.split(key, len(widths))
        inputs = [in_dim, *widths[:-1]]
        layers = tuple(
            NormedLinear.init(i, o, key=k)
            for i, o, k in zip(inputs, widths, keys, strict=True)
        )
        return cls(layers, group)

    def __call__(self, *parts: Float[Array, "_"]) -> Float[Array, "L"]:
        """Apply."""
        x = self.layers[0](*parts)
        for layer in self.layers[1:-1]:
            x = layer(x)
        return self.layers[-1].simplices(x, group=self.group)


def stack(trees: Sequence[Tree]) -> Tree:
    """Stack equal modules into one with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def take(tree: Tree, index: int | Int[Array, "..."]) -> Tree:
    """Pick entries of the leading axis of a stacked module."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def apply_heads(
    heads: MLP,
    *parts: Float[Array, "_"],
    dropout: Float[Array, "Q _"] | None = None,
) -> Float[Array, "Q out"]:
    """Apply stacked heads to one input.

    One batched product per layer on accelerators, where what costs is how many products
    are launched. On CPUs a loop, which was 8 % faster there.
    """
    if on_accelerator():
        if dropout is None:
            return jax.vmap(lambda head: head(*parts))(heads)
        return jax.vmap(lambda head, mask: head(*parts, dropout=mask))(heads, dropout)
    masks = [None] * len(heads.last.bias) if dropout is None else list(dropout)
    return jnp.stack(
        [take(heads, i)(*parts, dropout=mask) for i, mask in enumerate(masks)]
    )


def dropout_mask(
    shape: Sequence[int], rate: float, *, key: PRNGKey
) -> Float[Array, "..."] | None:
    """Draw a dropout mask with values 0 and 1/(1 − p); nothing where the rate is 0.

    The rate is rounded to a multiple of 2⁻¹⁶ (0.01 to 0.009995) and the factor follows
    it: 16 random bits an entry are enough.
    """
    if not rate:
        return None
    threshold = round(rate * 65536)
    keep = _uint16(math.prod(shape), key=key).reshape(tuple(shape)) >= threshold
    return keep * jnp.float32(65536 / (65536 - threshold))


def _uint16(count: int, *, key: PRNGKey) -> UInt16[Array, "count"]:
    """Uniform numbers from 0 to 65535, four from each block of 64 bits.

    `jax.random.bits` makes a block for each, of which it drops three quarters; that was
    7 % of an update on CPUs.
    """
    words = threefry_2x32(
        jax.random.key_data(key)[:2], jnp.arange(-(-count // 2), dtype=jnp.uint32)
    )
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:count]
