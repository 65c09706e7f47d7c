"""MPPI: one pure function of model, policy, latent, warm start and noise → `Plan`.

Second of the five files that are the method. Everything is for one state; `plan_all`
is the only place with an environment axis.

Read `plan` from the bottom up: it draws proposals from the seeding policy, then refines
a Gaussian over action sequences (H, A) by moving it to its elites (TD-MPC2, alg. 1).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from planprior.config import PlannerConfig
from planprior.draws import Dims, Draws, KeyedDraws, Noise, Sequences
from planprior.hypers import Hypers
from planprior.mapping import on_accelerator, over_steps, some_at_once
from planprior.policies import Policy
from planprior.search import Search, finish, fit_elites, start
from planprior.types import Plan, PRNGKey, Scalar
from planprior.world_model import Latent, WorldModel, pick_heads

SAMPLES_AT_ONCE = 2048
"""Of several states, for which a CPU plans at a time; see docs/performance.md."""


class Rollout(NamedTuple):
    """Where action sequences lead, before the last state is valued.

    Attributes:
        reward: Σ γᵗ cₜ r̂ₜ.
        z: The last state.
        weight: γᴴ c_H, what its value counts for; cₜ is whether, or how likely, the
            episode still runs at step t.
    """

    reward: Scalar
    z: Latent
    weight: Scalar


def _survival(model: WorldModel, z: Latent, config: PlannerConfig) -> Scalar:
    """Whether, or how likely, the episode goes on at z."""
    going_on = model.continuation(z)
    if config.termination == "soft":
        return going_on
    return (going_on >= 0.5).astype(going_on.dtype)


def rollout(
    model: WorldModel,
    z: Latent,
    actions: Float[Array, "H A"],
    hypers: Hypers,
    config: PlannerConfig,
) -> Rollout:
    """Follow one action sequence through the model.

    What comes after a predicted end counts for nothing: reward, value or a later
    recovery (pitfall P16).
    """
    zs = [z]
    for a in actions:
        zs.append(model.next(zs[-1], a))
    rewards = model.rewards(zs[:-1], actions)
    survivals = over_steps(lambda z: _survival(model, z, config))(zs[1:])
    total, weight = jnp.zeros(()), jnp.ones(())
    for reward, survival in zip(rewards, survivals, strict=True):
        total = total + weight * reward
        weight = weight * hypers.discount * survival
    return Rollout(total, zs[-1], weight)


def sequence_value(
    model: WorldModel,
    policy: Policy,
    path: Rollout,
    eps: Float[Array, "A"],
    heads: Int[Array, "_"],
) -> Scalar:
    """Rewards along the way plus the discounted value of the last state.

    The mean of the two drawn online heads (never the target heads, never dropout) at
    an action of the policy.
    """
    action = policy.family.sample(policy(path.z), eps).action
    chosen = pick_heads(model.value_heads, heads)
    value = jnp.mean(model.values(path.z, action, chosen))
    return path.reward + path.weight * value


def follow_policy(
    model: WorldModel, policy: Policy, z: Latent, eps: Float[Array, "H A"]
) -> Float[Array, "H A"]:
    """Actions of the policy along its own imagined trajectory."""
    actions = []
    for t, noise in enumerate(eps):
        actions.append(policy.family.sample(policy(z), noise).action)
        if t + 1 < len(eps):
            z = model.next(z, actions[-1])
    return jnp.stack(actions)


def propose(
    model: WorldModel, seeders: tuple[Policy, ...], z: Latent, eps: Sequences
) -> Sequences:
    """Trajectories of all seeding policies, an equal share each."""
    shares = jnp.array_split(eps, len(seeders), axis=1)
    trajectories = [
        jax.vmap(lambda noise, pi=pi: follow_policy(model, pi, z, noise), 1, 1)(share)
        for pi, share in zip(seeders, shares, strict=True)
    ]
    return jnp.concatenate(trajectories, axis=1)


class Prepared(NamedTuple):
    """What a search does not change.

    Attributes:
        proposals: The seeding trajectories.
        paths: Where they lead.
    """

    proposals: Sequences
    paths: Rollout


def _explore(
    model: WorldModel,
    z: Latent,
    actions: Sequences,
    hypers: Hypers,
    config: PlannerConfig,
) -> Rollout:
    return jax.vmap(lambda a: rollout(model, z, a, hypers, config), in_axes=1)(actions)


def prepare(
    model: WorldModel,
    seeders: tuple[Policy, ...],
    z: Latent,
    eps: Sequences,
    hypers: Hypers,
    config: PlannerConfig,
) -> Prepared:
    """Draw proposals and follow them, once for all iterations."""
    proposals = propose(model, seeders, z, eps)
    return Prepared(proposals, _explore(model, z, proposals, hypers, config))


def improve(
    model: WorldModel,
    policy: Policy,
    z: Latent,
    prepared: Prepared,
    search: Search,
    noise: Noise,
    heads: Int[Array, "_"],
    hypers: Hypers,
    config: PlannerConfig,
) -> Search:
    """One iteration: sample, value, and move to the elites."""
    sampled = search.mean[:, None] + search.std[:, None] * noise.actions
    sampled = jnp.clip(sampled, -1.0, 1.0)
    paths = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]),
        prepared.paths,
        _explore(model, z, sampled, hypers, config),
    )
    values = jax.vmap(
        lambda path, eps: sequence_value(model, policy, path, eps, heads)
    )(paths, noise.terminal)
    actions = jnp.concatenate([prepared.proposals, sampled], axis=1)
    return fit_elites(search, actions, values, hypers)


def plan(
    model: WorldModel,
    policy: Policy,
    seeders: tuple[Policy, ...],
    z: Latent,
    warm_start: Float[Array, "H A"],
    hypers: Hypers,
    config: PlannerConfig,
    *,
    draws: Draws,
    explore: bool,
) -> Plan:
    """Plan from one latent.

    Args:
        model: The world model.
        policy: Values the last state.
        seeders: Policies that propose trajectories, an equal share each.
        z: The state to plan from.
        warm_start: The mean of the previous plan; zeros at the start of an episode.
        hypers: Temperature, std bounds, discount.
        config: Sizes and choices.
        draws: The randomness.
        explore: Add the planner's own noise to the action (training), or not.

    Returns:
        The plan.
    """
    prepared = prepare(model, seeders, z, draws.seeds(), hypers, config)

    def iterate(search: Search, step: tuple[Array, Array]) -> tuple[Search, None]:
        i, heads = step
        noise = draws.iteration(i)
        return improve(
            model, policy, z, prepared, search, noise, heads, hypers, config
        ), None

    search = start(warm_start, hypers, config)
    iterations = jnp.arange(config.num_iterations(len(warm_start[0])))
    # Drawn at once, as drawing them is four kernels; the noise would take much memory.
    heads = jax.vmap(draws.heads)(iterations)
    # A scan compiles in a third of the time of an unrolled loop and runs as fast.
    search, _ = jax.lax.scan(iterate, search, (iterations, heads))
    return finish(search, draws, config, explore)


def plan_all(
    model: WorldModel,
    policy: Policy,
    seeders: tuple[Policy, ...],
    z: Float[Array, "E L"],
    warm_start: Float[Array, "E H A"],
    reset: Bool[Array, "E"],
    hypers: Hypers,
    config: PlannerConfig,
    *,
    key: PRNGKey,
    explore: bool,
) -> Plan:
    """Plan for several states at once.

    Args:
        model: The world model.
        policy: Values the last state.
        seeders: Policies that propose trajectories.
        z: One latent per environment.
        warm_start: Each environment's previous mean.
        reset: Where an episode starts, so that the warm start is dropped.
        hypers: As for `plan`.
        config: As for `plan`.
        key: Consumed once.
        explore: As for `plan`.

    Returns:
        Plans with a leading environment axis.
    """
    envs, horizon, action = warm_start.shape
    heads = len(model.value_heads.last.bias)
    seeds = config.num_policy_trajectories
    dims = Dims(horizon, action, config.num_samples, seeds, heads)
    heads_key, env_key = jax.random.split(key)
    warm_start = jnp.where(reset[:, None, None], 0.0, warm_start)

    def one(z: Latent, warm: Float[Array, "H A"], key: PRNGKey) -> Plan:
        draws = KeyedDraws(key, heads_key, dims)
        return plan(
            model, policy, seeders, z, warm, hypers, config, draws=draws,
            explore=explore,
        )  # fmt: skip

    keys = jax.random.split(env_key, envs)
    return some_at_once(one, states_at_once(envs, config))(z, warm_start, keys)


def states_at_once(states: int, config: PlannerConfig) -> int:
    """For how many of so many states to plan at a time: on accelerators for all.

    On a CPU the arrays of all would not stay in a cache.
    """
    most = max(1, SAMPLES_AT_ONCE // config.num_samples)
    return states if on_accelerator() else min(states, most)
