"""How many operations a plan and an update need, from the settings alone.

Counted are the products of the networks' linear layers, a multiplication and an
addition as two operations; all else is less than a hundredth of them. Divided by a
machine's rate at large matrix products this is the least time that they can take.

A network is a list of its layers' sizes. The gradient of a layer costs as much again
for its weights, and as much again for its input where somebody wants that.
"""

import itertools
from typing import NamedTuple

from planprior.config import Config, PlannerConfig
from planprior.priors import PRIORS
from planprior.spec import EnvSpec

Layers = list[tuple[int, int]]


def forward(layers: Layers) -> int:
    """Multiply-adds of one example's forward pass."""
    return sum(i * o for i, o in layers)


def backward(layers: Layers, *, inputs: int = 0, weights: bool = True) -> int:
    """Multiply-adds of one example's gradients.

    Args:
        layers: The network.
        inputs: How many entries of its input want a gradient.
        weights: Whether its weights do.
    """
    between = forward(layers[1:]) + inputs * layers[0][1]
    return between + forward(layers) * weights


class Networks(NamedTuple):
    """Layer sizes of every network that a method has.

    Attributes:
        encoder: h.
        dynamics: d.
        reward: R.
        value: One value head.
        policy: π, and a learned prior.
        end: The continue head; no layers without one.
        latent: L.
        action: A.
        drawn: Value heads that a target, the planner or the policy evaluates.
    """

    encoder: Layers
    dynamics: Layers
    reward: Layers
    value: Layers
    policy: Layers
    end: Layers
    latent: int
    action: int
    drawn: int


def _layers(*widths: int) -> Layers:
    return list(itertools.pairwise(widths))


def networks(spec: EnvSpec, config: Config) -> Networks:
    """Layer sizes for an environment."""
    net, actions = config.network, spec.action_dim
    latent, width, joint = net.latent_dim, net.mlp_dim, net.latent_dim + actions
    hidden = max(net.encoder_layers - 1, 1) * (net.encoder_dim,)
    is_q, learns_end = config.critic.kind == "q", config.terminations == "learned"
    return Networks(
        encoder=_layers(spec.observation_dim, *hidden, latent),
        dynamics=_layers(joint, width, width, latent),
        reward=_layers(joint, width, width, net.num_bins),
        value=_layers(joint if is_q else latent, width, width, net.num_bins),
        policy=_layers(latent, width, width, 2 * actions),
        end=_layers(latent, width, width, 1) if learns_end else [],
        latent=latent,
        action=actions,
        drawn=min(config.critic.num_heads, 2),
    )


# --- Planning -------------------------------------------------------------------------


def _paths(net: Networks, count: int, horizon: int, *, shared: bool) -> int:
    """Follow `count` action sequences from one latent.

    The latent's products with the first layers are the same for all of them; `shared`
    says that they are made once.
    """
    step = forward(net.dynamics) + forward(net.reward)
    first = net.latent * (net.dynamics[0][1] + net.reward[0][1])
    total = count * horizon * (step + forward(net.end))
    return total - (count - 1) * first if shared else total


def _proposals(net: Networks, count: int, horizon: int, seeders: int) -> int:
    """Let the seeding policies imagine `count` trajectories between them.

    All start at one latent, which a policy looks at once. What the first dynamics
    layer makes of it is not counted again: `_paths` has it.
    """
    policy, dynamics = forward(net.policy), forward(net.dynamics)
    total = seeders * policy + count * (horizon - 1) * (policy + dynamics)
    first = net.latent * net.dynamics[0][1] if horizon > 1 else 0
    return total - count * first


def plan_flops(
    spec: EnvSpec,
    config: Config,
    planner: PlannerConfig | None = None,
    *,
    heads: int | None = None,
    shared: bool = True,
    proposed_once: bool = True,
) -> int:
    """Operations of one plan for one state, its encoding included.

    Args:
        spec: The environment.
        config: The agent.
        planner: The planner's settings, if not the agent's own.
        heads: Value heads evaluated at the end of a sequence; only the drawn ones if
            left out. (The published programs evaluate all.)
        shared: Whether what only depends on the first latent is computed once.
        proposed_once: Whether the policy's trajectories are followed once rather than
            in every iteration.
    """
    planner, net = planner or config.planner, networks(spec, config)
    heads = net.drawn if heads is None else heads
    iterations = planner.num_iterations(spec.action_dim)
    samples, proposed = planner.num_samples, planner.num_policy_trajectories
    horizon, seeders = config.horizon, 2 if planner.seeds == "both" else 1
    total = forward(net.encoder)
    if proposed:
        total += _proposals(net, proposed, horizon, seeders)
    if proposed_once and proposed:
        total += _paths(net, proposed, horizon, shared=shared)
    followed = samples - proposed if proposed_once else samples
    total += iterations * _paths(net, followed, horizon, shared=shared)
    end = heads * forward(net.value)
    if config.critic.kind == "q":
        end += forward(net.policy)
    return 2 * (total + iterations * samples * end)


# --- Learning -------------------------------------------------------------------------


def update_flops(spec: EnvSpec, config: Config) -> int:
    """Operations of one update, the policy's step included; nothing to be told."""
    net = networks(spec, config)
    parts = (_targets, _model_step, _prior_step, _policy_step)
    return 2 * sum(part(net, config) for part in parts)


def _targets(net: Networks, config: Config) -> int:
    batch, horizon = config.batch_size, config.horizon
    encoded = (horizon + 1) * batch * forward(net.encoder)
    value = forward(net.policy) + net.drawn * forward(net.value)
    if config.critic.kind == "v":
        value += forward(net.dynamics) + forward(net.reward) + forward(net.end)
    if config.critic.kl_in_target != "none" and config.prior.kind == "learned":
        value += forward(net.policy)
    return encoded + horizon * batch * value


def _model_step(net: Networks, config: Config) -> int:
    rows, heads = config.horizon * config.batch_size, config.critic.num_heads
    learned = [net.dynamics, net.reward, *heads * [net.value]]
    learned += [net.end] if net.end else []
    step = sum(forward(n) + backward(n, inputs=net.latent) for n in learned)
    encoder = forward(net.encoder) + backward(net.encoder)
    return rows * step + config.batch_size * encoder


def _prior_step(net: Networks, config: Config) -> int:
    if config.prior.kind != "learned":
        return 0
    rows = config.horizon * config.batch_size
    return rows * (forward(net.policy) + backward(net.policy))


def _policy_step(net: Networks, config: Config) -> int:
    prior = PRIORS[config.prior.kind]
    rows = (config.horizon + prior.everywhere) * config.batch_size
    step = forward(net.policy) + backward(net.policy)
    if config.prior.kind == "learned":
        step += forward(net.policy)
    if not config.policy.imitation_only:
        step += _action_value(net, config)
    return rows * step


def _action_value(net: Networks, config: Config) -> int:
    """Value an action, and its gradient with respect to the action alone."""

    def through(layers: Layers, inputs: int) -> int:
        return forward(layers) + backward(layers, inputs=inputs, weights=False)

    if config.critic.kind == "q":
        return net.drawn * through(net.value, net.action)
    model = through(net.dynamics, net.action) + through(net.reward, net.action)
    return model + net.drawn * through(net.value, net.latent)
