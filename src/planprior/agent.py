"""An agent, and what one can do with it: act, update, reanalyse.

Last of the five files that are the method. All functions are pure; counters, cadences
and schedules are the caller's.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from planprior.actor import seeders
from planprior.adam import Flag
from planprior.config import Config
from planprior.diagnostics import all_finite
from planprior.draws import UpdateNoise, draw_update_noise, policy_steps
from planprior.hypers import Hypers
from planprior.learning import update_model, update_policy, update_prior
from planprior.mapping import each
from planprior.planner import plan_all
from planprior.priors import fill_plans
from planprior.state import AgentState, init
from planprior.types import Batch, Metrics, Plan, PRNGKey

__all__ = [
    "AgentState",
    "UpdateNoise",
    "act",
    "act_without_planning",
    "draw_update_noise",
    "init",
    "policy_steps",
    "reanalyse",
    "update",
    "update_with",
]

# --- Acting ---------------------------------------------------------------------------


def act(
    state: AgentState,
    observation: Float[Array, "E O"],
    warm_start: Float[Array, "E H A"],
    reset: Bool[Array, "E"],
    hypers: Hypers,
    config: Config,
    *,
    key: PRNGKey,
    explore: bool,
) -> Plan:
    """Plan an action for every environment.

    Args:
        state: The agent.
        observation: What each environment shows.
        warm_start: `Plan.mean` of the previous call.
        reset: Where an episode starts.
        hypers: The planner's numbers.
        config: Choices.
        key: Consumed once.
        explore: With the planner's noise (training) or without (evaluation).
    """
    z = jax.vmap(state.model.encode)(observation)
    return plan_all(
        state.model,
        state.policy,
        seeders(state, state.policy, config),
        z,
        warm_start,
        reset,
        hypers,
        config.planner,
        key=key,
        explore=explore,
    )


def act_without_planning(
    state: AgentState, observation: Float[Array, "E O"]
) -> Float[Array, "E A"]:
    """The bare policy's action, without noise."""

    def one(o: Float[Array, "O"]) -> Float[Array, "A"]:
        return state.policy.family.mode(state.policy(state.model.encode(o)))

    return jax.vmap(one)(observation)


def reanalyse(
    state: AgentState,
    batch: Batch,
    hypers: Hypers,
    config: Config,
    *,
    key: PRNGKey,
) -> tuple[Batch, Plan]:
    """Plan again at the states of the batch's first slices (BMPC, lazy reanalysis).

    Starts cold, and the policy's seeds explore as `ReanalysisConfig` says.

    Returns:
        The batch with the new plans, and these plans (H, slices), to be written back.
    """
    again = config.reanalysis
    horizon, _, actions = batch.action.shape
    states = batch.observation[:horizon, : again.num_slices]
    z = each(state.model.encode)(states).reshape(horizon * again.num_slices, -1)
    exploring = state.policy.with_log_std(again.log_std_min, again.log_std_max)
    plans = plan_all(
        state.model,
        state.policy,
        seeders(state, exploring, config),
        z,
        jnp.zeros((len(z), horizon, actions)),
        jnp.ones(len(z), bool),
        hypers,
        config.reanalysis_planner(),
        key=key,
        explore=False,
    )
    plans = jax.tree.map(lambda x: x.reshape(horizon, -1, *x.shape[1:]), plans)
    fresh = (slice(None), slice(again.num_slices))
    plan = jax.tree.map(
        lambda old, new: old.at[fresh].set(new), batch.plan, plans.target
    )
    return dataclasses.replace(
        batch,
        plan=plan,
        has_plan=batch.has_plan.at[fresh].set(True),
        plan_age=batch.plan_age.at[fresh].set(0.0),
    ), plans


# --- Learning -------------------------------------------------------------------------


def update(
    state: AgentState,
    batch: Batch,
    hypers: Hypers,
    config: Config,
    *,
    key: PRNGKey,
    learn_policy: bool = True,
    going: Flag = True,
    tell: Flag = True,
) -> tuple[AgentState, Metrics]:
    """One gradient step on everything: world model, prior, policy, target heads.

    Steps are made in that order until a loss or a gradient is not finite; from there on
    everything stays as it is.

    Args:
        state: The agent.
        batch: Replayed slices.
        hypers: Numbers.
        config: Choices.
        key: Consumed once.
        learn_policy: Whether prior and policy learn (BMPC's do not before the first
            planned action).
        going: Whether to learn at all; else only the metrics are new.
        tell: Whether to tell how the policy's two terms pull, which takes time.
    """
    noise = draw_update_noise(batch.action.shape[-1], config, key=key)
    return update_with(
        state, batch, noise, hypers, config, learn_policy=learn_policy, going=going,
        tell=tell,
    )  # fmt: skip


def update_with(
    state: AgentState,
    batch: Batch,
    noise: UpdateNoise,
    hypers: Hypers,
    config: Config,
    *,
    learn_policy: bool = True,
    going: Flag = True,
    tell: Flag = True,
) -> tuple[AgentState, Metrics]:
    """`update` with its randomness given, in the order of the published programs."""
    state, zs, metrics = update_model(state, batch, noise, hypers, config, going)
    going &= all_finite(metrics)
    if learn_policy:
        zs = jax.lax.stop_gradient(zs)
        plans, mask = fill_plans(batch, config.prior)
        if config.terminations == "learned":
            mask &= ~batch.over
            planned = batch.has_plan & ~batch.over
            batch = dataclasses.replace(batch, has_plan=planned)
        state, prior_metrics = update_prior(
            state, zs, plans, mask, hypers, config, going
        )
        metrics = metrics | prior_metrics
        going &= all_finite(metrics)
        state, policy_metrics = update_policy(
            state, batch, zs, plans, mask, noise, hypers, config, going, tell
        )
        metrics = metrics | policy_metrics
        going &= all_finite(metrics)
    tau = jnp.where(going, hypers.tau, 0.0)
    target_heads = jax.tree.map(
        lambda slow, fast: slow + tau * (fast - slow),
        state.target_heads,
        state.model.value_heads,
    )
    # Never hidden: a run that diverges says so at the first update that does.
    is_nan = jnp.isnan(jnp.stack(list(metrics.values())))
    metrics["nan_metrics"] = jnp.sum(is_nan).astype(jnp.float32)
    return dataclasses.replace(state, target_heads=target_heads), metrics
