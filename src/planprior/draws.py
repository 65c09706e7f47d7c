"""Where a plan's randomness comes from: keys in use, recordings in tests."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from planprior.types import PRNGKey
from planprior.world_model import draw_heads

Sequences = Float[Array, "H _ A"]


class Noise(NamedTuple):
    """The draws of one iteration.

    Attributes:
        actions: Standard normal, for the sequences sampled from the plan.
        terminal: Standard normal, for the action that values the last state.
        heads: The two value heads that value it.
    """

    actions: Sequences
    terminal: Float[Array, "N A"]
    heads: Int[Array, "_"]


@runtime_checkable
class Draws(Protocol):
    """Where a plan's randomness comes from: keys, or a recording in a test."""

    def seeds(self) -> Sequences:
        """Standard normal, for the seeding policy's own trajectories."""
        ...

    def iteration(self, i: Int[Array, ""]) -> Noise:
        """Draws of iteration i."""
        ...

    def elite(self, weights: Float[Array, "K"]) -> Int[Array, ""]:
        """Pick an elite with probability proportional to its weight."""
        ...

    def exploration(self) -> Float[Array, "A"]:
        """Standard normal, for the noise on the executed action."""
        ...


class Dims(NamedTuple):
    """Sizes of a planning problem: horizon, action, samples, seeds, heads."""

    horizon: int
    action: int
    samples: int
    seeds: int
    heads: int


class KeyedDraws(NamedTuple):
    """Draws from keys: what `plan` uses outside tests.

    Attributes:
        key: Of this state.
        heads_key: Of the call: all of its states share the drawn heads, as published,
            which also keeps the heads' weights free of the environment axis.
        dims: Sizes.
    """

    key: PRNGKey
    heads_key: PRNGKey
    dims: Dims

    def _normal(self, purpose: int, *shape: int) -> Float[Array, "..."]:
        return jax.random.normal(jax.random.fold_in(self.key, purpose), shape)

    def seeds(self) -> Sequences:
        """See `Draws`."""
        return self._normal(0, self.dims.horizon, self.dims.seeds, self.dims.action)

    def iteration(self, i: Int[Array, ""]) -> Noise:
        """See `Draws`."""
        d = self.dims
        key = jax.random.fold_in(jax.random.fold_in(self.key, 1), i)
        actions, terminal = jax.random.split(key)
        heads = draw_heads(d.heads, key=jax.random.fold_in(self.heads_key, i))
        shape = (d.horizon, d.samples - d.seeds, d.action)
        return Noise(
            jax.random.normal(actions, shape),
            jax.random.normal(terminal, (d.samples, d.action)),
            heads,
        )

    def elite(self, weights: Float[Array, "K"]) -> Int[Array, ""]:
        """See `Draws`."""
        key = jax.random.fold_in(self.key, 2)
        return jax.random.categorical(key, jnp.log(weights))

    def exploration(self) -> Float[Array, "A"]:
        """See `Draws`."""
        return self._normal(3, self.dims.action)
