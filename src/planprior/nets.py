"""Network parts, each for ONE example. Every leaf is an array; `vmap` adds the axes."""

import functools
import math
from collections.abc import Sequence
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.random import threefry_2x32
from jaxtyping import Array, Float, Int, UInt16

from planprior.mapping import on_accelerator
from planprior.normed import (
    is_wide,
    layer_norm,
    normed_mish,
    normed_simnorm,
    simnorm,
)
from planprior.types import PRNGKey

Tree = TypeVar("Tree")


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
        """Apply to the concatenation of `parts`."""
        return self.product(*parts) + self.bias

    def product(self, *parts: Float[Array, "_"]) -> Float[Array, "out"]:
        """Without the bias.

        Each part meets its own rows of W, so that one which a surrounding `vmap` does
        not map, like the latent that all the planner's samples share, is multiplied
        once.

        Raises:
            ValueError: The parts have fewer or more numbers than W has rows.
        """
        given, rows = sum(part.shape[0] for part in parts), self.weight.shape[0]
        if given != rows:
            raise ValueError(f"the input has {given} numbers; the layer takes {rows}")
        products, row = [], 0
        for part in parts:
            products.append(part @ self.weight[row : row + part.shape[0]])
            row += part.shape[0]
        return functools.reduce(jnp.add, products)


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
        x, bias = self._addends(*parts)
        if dropout is not None:
            x, bias = (x + bias) * dropout, jnp.zeros_like(bias)
        return normed_mish(x, bias, self.scale, self.shift)

    def simplices(self, *parts: Float[Array, "_"], group: int) -> Float[Array, "out"]:
        """Apply with `simnorm` in the place of Mish."""
        layer = *self._addends(*parts), self.scale, self.shift
        if is_wide(len(self.scale)):
            return normed_simnorm(*layer, group)
        return simnorm(layer_norm(*layer), group)

    def _addends(
        self, *parts: Float[Array, "_"]
    ) -> tuple[Float[Array, "out"], Float[Array, "out"]]:
        """Product and bias, apart in wide layers (`layer_norm`); else their sum and 0.

        On accelerators the gradient of a bias that comes apart is a kernel of its own.
        """
        if is_wide(len(self.scale)):
            return self.linear.product(*parts), self.linear.bias
        return self.linear(*parts), jnp.zeros_like(self.linear.bias)


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
