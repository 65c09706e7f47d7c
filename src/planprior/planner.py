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
from planprior.draws import Dims, Draws, KeyedDraws, Sequences
from planprior.hypers import Hypers
from planprior.policies import Policy
from planprior.types import Gaussian, Plan, PRNGKey, Scalar
from planprior.world_model import Latent, WorldModel, pick_heads


class Rollout(NamedTuple):
    """Where action sequences lead, before the last state is valued.

    Attributes:
        reward: Σ γᵗ cₜ r̂ₜ.
        z: The last state.
        alive: c_H, whether (or how likely) the episode still runs there.
    """

    reward: Scalar
    z: Latent
    alive: Scalar


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
    reward, weight, alive = jnp.zeros(()), jnp.ones(()), jnp.ones(())
    for a in actions:
        reward = reward + weight * alive * model.reward(z, a)
        z = model.next(z, a)
        alive = alive * _survival(model, z, config)
        weight = weight * hypers.discount
    return Rollout(reward, z, alive)


def sequence_value(
    model: WorldModel,
    policy: Policy,
    path: Rollout,
    eps: Float[Array, "A"],
    heads: Int[Array, "_"],
    horizon: int,
    hypers: Hypers,
) -> Scalar:
    """Rewards along the way plus the discounted value of the last state.

    The mean of the two drawn online heads (never the target heads, never dropout) at
    an action of the policy.
    """
    action = policy.family.sample(policy(path.z), eps).action
    chosen = pick_heads(model.value_heads, heads)
    value = jnp.mean(model.values(path.z, action, chosen))
    return path.reward + hypers.discount**horizon * path.alive * value


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


class Search(NamedTuple):
    """The planner's distribution over sequences, and the elites that made it.

    Attributes:
        mean: Mean per step.
        std: Standard deviation per step.
        elites: The best sequences, best first.
        values: Their values.
        weights: Their weights, which sum to 1.
        nan_count: NaN values met so far.
    """

    mean: Float[Array, "H A"]
    std: Float[Array, "H A"]
    elites: Sequences
    values: Float[Array, "K"]
    weights: Float[Array, "K"]
    nan_count: Int[Array, ""]


def _fit_elites(
    search: Search,
    actions: Sequences,
    values: Float[Array, "N"],
    hypers: Hypers,
) -> Search:
    """Move the distribution to the weighted elites; no momentum (tdmpc2.py: _plan)."""
    is_nan = jnp.isnan(values)
    values, index = jax.lax.top_k(jnp.where(is_nan, 0.0, values), len(search.values))
    elites = actions[:, index]
    weights = jax.nn.softmax(hypers.temperature * values)
    mean = jnp.einsum("k,hka->ha", weights, elites)
    deviation = elites - mean[:, None]
    variance = jnp.einsum("k,hka->ha", weights, deviation * deviation)
    std = jnp.clip(jnp.sqrt(variance), hypers.min_std, hypers.max_std)
    nan_count = search.nan_count + jnp.sum(is_nan)
    return Search(mean, std, elites, values, weights, nan_count)


def _shift(mean: Float[Array, "H A"]) -> Float[Array, "H A"]:
    """Yesterday's plan seen from today: one step on, and nothing yet for the last."""
    return jnp.concatenate([mean[1:], jnp.zeros_like(mean[:1])])


def _start(
    warm_start: Float[Array, "H A"], hypers: Hypers, config: PlannerConfig
) -> Search:
    mean, elites = _shift(warm_start), config.num_elites
    return Search(
        mean=mean,
        std=jnp.broadcast_to(jnp.asarray(hypers.max_std, mean.dtype), mean.shape),
        elites=jnp.zeros((mean.shape[0], elites, mean.shape[1])),
        values=jnp.zeros(elites),
        weights=jnp.zeros(elites),
        nan_count=jnp.zeros((), jnp.int32),
    )


def _finish(search: Search, draws: Draws, config: PlannerConfig, explore: bool) -> Plan:
    """Choose what to execute, what to store and what to start from next time."""
    chosen = draws.elite(search.weights)
    centres = {
        "sampled_elite": search.elites[0, chosen],
        "best_elite": search.elites[0, 0],
        "mean": search.mean[0],
    }
    if explore:
        action = centres["sampled_elite"] + search.std[0] * draws.exploration()
    else:
        action = centres[config.evaluation]
    return Plan(
        action=jnp.clip(action, -1.0, 1.0),
        target=Gaussian(centres[config.centre], search.std[0]),
        mean=search.mean,
        value=search.values[chosen],
        elite_std=jnp.std(search.values),
        effective_elites=1.0 / jnp.sum(search.weights**2),
        nan_count=search.nan_count,
    )


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

    What does not change is computed once: the seeding trajectories and where they
    lead, and everything that only depends on the first latent.

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
    horizon, num_iterations = len(warm_start), config.num_iterations(len(warm_start[0]))
    explore_paths = jax.vmap(lambda a: rollout(model, z, a, hypers, config), in_axes=1)
    proposals = propose(model, seeders, z, draws.seeds())
    proposed_paths = explore_paths(proposals)

    def iterate(search: Search, i: Int[Array, ""]) -> tuple[Search, None]:
        noise = draws.iteration(i)
        sampled = search.mean[:, None] + search.std[:, None] * noise.actions
        sampled = jnp.clip(sampled, -1.0, 1.0)
        paths = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]), proposed_paths, explore_paths(sampled)
        )
        values = jax.vmap(
            lambda path, eps: sequence_value(
                model, policy, path, eps, noise.heads, horizon, hypers
            )
        )(paths, noise.terminal)
        actions = jnp.concatenate([proposals, sampled], axis=1)
        return _fit_elites(search, actions, values, hypers), None

    search = _start(warm_start, hypers, config)
    # A scan compiles in a third of the time of an unrolled loop and runs as fast.
    search, _ = jax.lax.scan(iterate, search, jnp.arange(num_iterations))
    return _finish(search, draws, config, explore)


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

    return jax.vmap(one)(z, warm_start, jax.random.split(env_key, envs))
