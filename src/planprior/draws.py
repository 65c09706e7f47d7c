"""Where randomness comes from: keys in use, recordings in tests."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from planprior import nets
from planprior.config import Config
from planprior.priors import PRIORS
from planprior.types import PRNGKey
from planprior.world_model import draw_heads

Sequences = Float[Array, "H _ A"]


class Noise(NamedTuple):
    """The draws of one iteration.

    Attributes:
        actions: Standard normal, for the sequences sampled from the plan.
        terminal: Standard normal, for the action that values the last state.
    """

    actions: Sequences
    terminal: Float[Array, "N A"]


@runtime_checkable
class Draws(Protocol):
    """Where a plan's randomness comes from: keys, or a recording in a test."""

    def seeds(self) -> Sequences:
        """Standard normal, for the seeding policy's own trajectories."""
        ...

    def iteration(self, i: Int[Array, ""]) -> Noise:
        """Draws of iteration i."""
        ...

    def heads(self, i: Int[Array, ""]) -> Int[Array, "_"]:
        """The two value heads that value the last states of iteration i."""
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
        shape = (d.horizon, d.samples - d.seeds, d.action)
        return Noise(
            jax.random.normal(actions, shape),
            jax.random.normal(terminal, (d.samples, d.action)),
        )

    def heads(self, i: Int[Array, ""]) -> Int[Array, "_"]:
        """See `Draws`."""
        return draw_heads(self.dims.heads, key=jax.random.fold_in(self.heads_key, i))

    def elite(self, weights: Float[Array, "K"]) -> Int[Array, ""]:
        """See `Draws`."""
        key = jax.random.fold_in(self.key, 2)
        return jax.random.categorical(key, jnp.log(weights))

    def exploration(self) -> Float[Array, "A"]:
        """See `Draws`."""
        return self._normal(3, self.dims.action)


class UpdateNoise(NamedTuple):
    """All draws of one update.

    Attributes:
        target: Standard normal, for the target's actions.
        policy: Standard normal, for the policy loss's actions.
        target_heads: Which two target heads make the target.
        policy_heads: Which two online heads value the policy's actions.
        model_dropout: Masks of all heads, head by head as CPUs learn them.
        policy_dropout: Masks of those two.
    """

    target: Float[Array, "H B A"]
    policy: Float[Array, "n B A"]
    target_heads: Int[Array, "_"]
    policy_heads: Int[Array, "_"]
    model_dropout: Float[Array, "Q H B _"] | None
    policy_dropout: Float[Array, "q n B _"] | None


def policy_steps(config: Config) -> int:
    """How many imagined latents the policy learns on: H + 1, or H with stored plans."""
    return config.horizon + PRIORS[config.prior.kind].everywhere


def draw_update_noise(action_dim: int, config: Config, *, key: PRNGKey) -> UpdateNoise:
    """Draw everything random in one update."""
    keys = jax.random.split(key, 6)
    heads, width = config.critic.num_heads, config.network.mlp_dim
    steps = (config.horizon, config.batch_size)
    policy_shape = (policy_steps(config), config.batch_size)
    rate = config.network.dropout
    chosen = min(heads, 2)
    no_value = config.policy.imitation_only
    return UpdateNoise(
        target=jax.random.normal(keys[0], (*steps, action_dim)),
        policy=jax.random.normal(keys[1], (*policy_shape, action_dim)),
        target_heads=draw_heads(heads, key=keys[2]),
        policy_heads=draw_heads(heads, key=keys[3]),
        model_dropout=nets.dropout_mask((heads, *steps, width), rate, key=keys[4]),
        policy_dropout=nets.dropout_mask(
            (chosen, *policy_shape, width), 0.0 if no_value else rate, key=keys[5]
        ),
    )
