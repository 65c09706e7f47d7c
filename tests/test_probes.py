"""A tiny world with known answers, learned to the known numbers by every method.

Its five states are a question each: a constant reward, a reward one step away, an end,
an action to aim for, and two hills of which only planning finds the higher. Steps are
fixed; the agent's own planner gives some of them plans, and one program does all
updates.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import change, quick_methods, tiny
from planprior import agent, methods
from planprior.hypers import Hypers
from planprior.spec import EnvSpec
from planprior.types import Batch, Gaussian

CONSTANT, BEFORE, LAST, AIM, HILLS = range(5)
SPEC = EnvSpec("probe", 5, 1, 10)
DISCOUNT, SLICES, REANALYSED, ROWS = 0.5, 64, 8, 2000
QUICK = {"pompc": 400}
"""Updates of a method, where it is not 800."""
SHOWN = np.eye(5, dtype=np.float32)
AFTER = np.array([CONSTANT, LAST, LAST, AIM, HILLS])
ENDS = np.array([False, False, True, True, True])


class Steps(NamedTuple):
    """Steps from random states with random actions, [rows]."""

    state: jax.Array
    action: jax.Array
    reward: jax.Array


def _reward(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """The hills: a wide low one, which a slope leads to, and a narrow high one."""
    low = 0.5 * np.exp(-(((action + 0.5) / 0.5) ** 2))
    high = np.exp(-(((action - 0.7) / 0.2) ** 2))
    one = np.ones(ROWS)
    rewards = np.stack([one, 0 * one, one, 1 - 2 * abs(action - 0.5), low + high])
    return rewards[state, np.arange(ROWS)]


def _steps() -> Steps:
    rng = np.random.default_rng(0)
    state = rng.integers(0, 5, ROWS)
    action = rng.uniform(-1, 1, ROWS)
    reward = _reward(state, action)
    return Steps(
        jnp.asarray(state), *(jnp.asarray(x, jnp.float32) for x in (action, reward))
    )


STEPS = _steps()


def slices(rows: jax.Array) -> Batch:
    """Some steps as slices of one step, without plans yet."""
    state, action, reward = jax.tree.map(lambda x: x[rows], STEPS)
    shape = (1, len(rows))
    show = jnp.asarray(SHOWN)
    return Batch(
        observation=jnp.stack([show[state], show[jnp.asarray(AFTER)[state]]]),
        action=action[None, :, None],
        reward=reward[None],
        terminated=jnp.asarray(ENDS)[state][None],
        plan=Gaussian(jnp.zeros((*shape, 1)), jnp.ones((*shape, 1))),
        has_plan=jnp.zeros(shape, bool),
        plan_age=jnp.zeros(shape),
    )


class Learned(NamedTuple):
    """What an agent says, at each state, when it has learned."""

    value: jax.Array
    planned: jax.Array
    bare: jax.Array
    nans: jax.Array


def settings(name: str, terminations: str = "masked"):
    """A method, small and in a hurry."""
    method = methods.METHODS[name]
    config = dataclasses.replace(
        tiny(method.config), horizon=1, batch_size=SLICES, terminations=terminations
    )
    config = change(config, "network", encoder_dim=32, mlp_dim=32, latent_dim=16)
    config = change(config, "network", num_bins=21, symlog_min=-2.0, symlog_max=2.0)
    config = change(config, "planner", num_samples=32, num_elites=4, iterations=3)
    config = change(config, "planner", evaluation="best_elite")
    config = change(config, "reanalysis", num_slices=REANALYSED)
    hypers = dataclasses.replace(
        method.hypers_for(SPEC),
        discount=DISCOUNT,
        learning_rate=3e-3,
        encoder_lr_scale=1.0,
        tau=0.1,
        temperature=20.0,
        reward_coef=1.0,
        value_coef=1.0,
    )
    return config, hypers.validate(config).arrays()


def learn(config, hypers: Hypers, updates: int, *, key) -> Learned:
    """Learn from the fixed steps, then answer."""
    init_key, learn_key, act_key = jax.random.split(key, 3)
    state = agent.init(SPEC, config, hypers, key=init_key)

    def update(state, i):
        keys = jax.random.split(jax.random.fold_in(learn_key, i), 3)
        batch = slices(jax.random.randint(keys[0], (SLICES,), 0, ROWS))
        batch, _ = agent.reanalyse(state, batch, hypers, config, key=keys[1])
        return agent.update(state, batch, hypers, config, key=keys[2])

    state, told = jax.lax.scan(update, state, jnp.arange(updates))
    observation = jnp.asarray(SHOWN)
    plan = agent.act(
        state, observation, jnp.zeros((5, 1, 1)), jnp.ones(5, bool), hypers, config,
        key=act_key, explore=False,
    )  # fmt: skip
    bare = agent.act_without_planning(state, observation)
    z = jax.vmap(state.model.encode)(observation)
    value = jnp.mean(jax.vmap(state.model.values)(z, bare), axis=1)
    nans = jnp.sum(told["nan_metrics"]) + jnp.sum(plan.nan_count)
    return Learned(value, plan.action[..., 0], bare[..., 0], nans)


def learned(name: str, terminations: str = "masked") -> Learned:
    run = jax.jit(learn, static_argnums=(0, 2))
    updates = QUICK.get(name, 800)
    return run(*settings(name, terminations), updates, key=jax.random.key(0))


def near(value, expected):
    assert float(value) == pytest.approx(expected, abs=0.12)


# The others take minutes together; run them with -m slow.
@pytest.mark.parametrize("name", quick_methods(*QUICK))
def test_every_method_learns_the_probes(name):
    found = learned(name)
    assert found.nans == 0
    near(found.value[CONSTANT], 1 / (1 - DISCOUNT))
    near(found.value[BEFORE], DISCOUNT)
    near(found.value[LAST], 1.0)
    near(found.planned[AIM], 0.5)
    near(found.planned[HILLS], 0.7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terminations", "after_an_end"), [("learned", 0.0), ("bootstrap", 1.0)]
)
def test_what_comes_after_an_end(terminations, after_an_end):
    """Nothing; or, where ends are ignored, what the last state is worth: 1/(1 − γ)."""
    found = learned("pompc", terminations)
    near(found.value[CONSTANT], 2.0)
    near(found.value[LAST], 1.0 + after_an_end)
