"""The world model of TD-MPC2: encode, next, reward, value, continue — for one state.

First of the five files that are the method: read this one, then `planner.py`,
`priors.py`, `losses.py`, `agent.py`.

    z  = h(o)          encode     a latent on a product of simplices
    z' = d(z, a)       next
    r̂  = R(z, a)       reward     two-hot over symlog bins
    q̂  = Q(z, a)       values     Q heads; or V(z), without the action (BMPC)
    ĉ  = C(z)          continues  only with `terminations="learned"`
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from planprior import nets
from planprior.config import Config
from planprior.encoders import Encoder, vector_encoder
from planprior.mapping import over_steps
from planprior.nets import MLP, Linear, NormedLinear, SimplexMLP
from planprior.numerics import TwoHot
from planprior.types import PRNGKey, Scalar

Latent = Float[Array, "L"]
Action = Float[Array, "A"]


class WorldModel(eqx.Module):
    """Everything that one joint optimiser step trains.

    Attributes:
        encoder: h.
        dynamics: d.
        reward_head: R.
        value_heads: All heads, stacked on a leading axis.
        termination_head: Logit of "the episode has ended at z", or nothing.
        bins: How logits stand for reward and value.
        action_values: Whether the heads are Q(z, a) rather than V(z).
    """

    encoder: Encoder
    dynamics: SimplexMLP
    reward_head: MLP
    value_heads: MLP
    termination_head: MLP | None
    bins: TwoHot = eqx.field(static=True)
    action_values: bool = eqx.field(static=True)

    def encode(self, observation: Float[Array, "O"]) -> Latent:
        """Z = h(o)."""
        return self.encoder(observation)

    def next(self, z: Latent, a: Action) -> Latent:
        """Z' = d(z, a)."""
        return self.dynamics(z, a)

    def reward_logits(self, z: Latent, a: Action) -> Float[Array, "bins"]:
        """Distribution of the reward of a in z."""
        return self.reward_head(z, a)

    def reward(self, z: Latent, a: Action) -> Scalar:
        """Expected reward (in symlog space, then symexp)."""
        return self.bins.decode(self.reward_head(z, a))

    def rewards(
        self, zs: Sequence[Latent], actions: Float[Array, "H A"]
    ) -> Float[Array, "H"]:
        """Expected rewards along a trajectory.

        Decoded together: of one by itself, XLA on CPUs leaves its library of products
        the softmax and the activation too, for which that is slower than loops.
        """
        logits = over_steps(self.reward_logits)(zs, actions)
        return jax.vmap(self.bins.decode)(logits)

    def valued(self, z: Latent, a: Action | None) -> tuple[Float[Array, "_"], ...]:
        """What a head looks at: the state, and for Q heads the action."""
        if not self.action_values:
            return (z,)
        assert a is not None, "Q heads value an action, and none is given"
        return (z, a)

    def value_logits(
        self,
        z: Latent,
        a: Action | None,
        heads: MLP | None = None,
        dropout: Float[Array, "Q _"] | None = None,
    ) -> Float[Array, "Q bins"]:
        """Distributions of the value under each head.

        Args:
            z: The state.
            a: The action; V heads do not look at it, Q heads need one.
            heads: Stacked heads, for instance drawn or target ones; the model's own
                when left out.
            dropout: Masks of the heads' first hidden layer, while learning.
        """
        heads = self.value_heads if heads is None else heads
        return nets.apply_heads(heads, *self.valued(z, a), dropout=dropout)

    def values(
        self,
        z: Latent,
        a: Action | None,
        heads: MLP | None = None,
        dropout: Float[Array, "Q _"] | None = None,
    ) -> Float[Array, "Q"]:
        """Expected value under each head; arguments as in `value_logits`."""
        return jax.vmap(self.bins.decode)(self.value_logits(z, a, heads, dropout))

    def end_logit(self, z: Latent) -> Scalar:
        """Logit of the probability that the episode has ended at z."""
        assert self.termination_head is not None
        return self.termination_head(z)[0]

    def continuation(self, z: Latent) -> Scalar:
        """Probability that the episode goes on at z; 1 without a continue head."""
        if self.termination_head is None:
            return jnp.ones(())
        return jax.nn.sigmoid(-self.end_logit(z))


def init_world_model(
    observation_dim: int, action_dim: int, config: Config, *, key: PRNGKey
) -> WorldModel:
    """Networks initialised as in §1.2: rewards start at 0, up to rounding.

    So do values, unless `CriticConfig.init` is `published`.
    """
    network, critic = config.network, config.critic
    keys = jax.random.split(key, 5)
    latent, width = network.latent_dim, network.mlp_dim
    hidden, joint = [width, width], latent + action_dim
    reward = MLP.init(joint, hidden, network.num_bins, key=keys[2])
    heads_in = joint if critic.kind == "q" else latent
    ended = MLP.init(latent, hidden, 1, key=keys[4])
    return WorldModel(
        encoder=vector_encoder(observation_dim, network, key=keys[0]),
        dynamics=SimplexMLP.init(
            joint, [*hidden, latent], network.simnorm_dim, key=keys[1]
        ),
        reward_head=_zero_last(reward),
        value_heads=_init_heads(heads_in, config, key=keys[3]),
        termination_head=ended if config.terminations == "learned" else None,
        bins=TwoHot(network.num_bins, network.symlog_min, network.symlog_max),
        action_values=critic.kind == "q",
    )


def _zero_last(mlp: MLP) -> MLP:
    last = Linear(jnp.zeros_like(mlp.last.weight), mlp.last.bias)
    return MLP(mlp.hidden, last)


def _init_heads(in_dim: int, config: Config, *, key: PRNGKey) -> MLP:
    network, critic = config.network, config.critic
    hidden = [network.mlp_dim, network.mlp_dim]
    head_keys = jax.random.split(key, (critic.num_heads, 2))
    heads = [
        MLP.init(in_dim, hidden, network.num_bins, key=keys[0]) for keys in head_keys
    ]
    if critic.init == "published":
        heads = [
            _pytorch_default(head, key=keys[1])
            for head, keys in zip(heads, head_keys, strict=True)
        ]
    return nets.stack([_zero_last(head) for head in heads])


def _pytorch_default(mlp: MLP, *, key: PRNGKey) -> MLP:
    """Uniform in ±1/√in, biases too: what published runs have in their value heads.

    The published initialisation did not reach a stacked ensemble (pitfall P1, fixed in
    tdmpc2 e9f5932); only the last layer's weight was set to 0.
    """

    def redraw(linear: Linear, key: PRNGKey) -> Linear:
        bound = linear.weight.shape[0] ** -0.5
        weight, bias = jax.random.split(key)
        uniform = jax.random.uniform
        return Linear(
            uniform(weight, linear.weight.shape, minval=-bound, maxval=bound),
            uniform(bias, linear.bias.shape, minval=-bound, maxval=bound),
        )

    keys = jax.random.split(key, len(mlp.hidden) + 1)
    hidden = tuple(
        NormedLinear(redraw(layer.linear, k), layer.scale, layer.shift)
        for layer, k in zip(mlp.hidden, keys[:-1], strict=True)
    )
    return MLP(hidden, redraw(mlp.last, keys[-1]))


def draw_heads(num_heads: int, *, key: PRNGKey) -> Int[Array, "_"]:
    """Draw the two heads that a target, the planner or the policy uses.

    Drawn before evaluation, so that only they are computed: −29 % of a plan and −22 %
    of an update with five heads on CPUs. With one or two heads there is no choice.
    """
    if num_heads <= 2:
        return jnp.arange(num_heads)
    return jax.random.choice(key, num_heads, (2,), replace=False)


def pick_heads(heads: MLP, index: Int[Array, "_"]) -> MLP:
    """The heads of that index, stacked; all of them when there are only two."""
    return heads if len(heads.last.bias) <= 2 else nets.take(heads, index)
