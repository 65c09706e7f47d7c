"""The smallest agents that have all parts, for tests of the core."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planprior import agent, learning, methods, priors
from planprior.config import Config, NetworkConfig
from planprior.draws import UpdateNoise
from planprior.hypers import Hypers
from planprior.losses import PolicyInputs
from planprior.spec import EnvSpec
from planprior.types import Batch, Gaussian

SPEC = EnvSpec("toy:x", 5, 2, 100)
SMALL = NetworkConfig(encoder_dim=16, mlp_dim=16, latent_dim=16, num_bins=11)


def tiny(config: Config) -> Config:
    """`config` at the least size: three heads, so that drawing two is a choice."""
    replace = dataclasses.replace
    planner = replace(
        config.planner,
        num_samples=16,
        num_elites=4,
        num_policy_trajectories=2,
        iterations=2,
    )
    return replace(
        config,
        network=SMALL,
        critic=replace(config.critic, num_heads=3),
        planner=planner,
        reanalysis=replace(config.reanalysis, num_slices=2),
        horizon=2,
        batch_size=4,
    )


def change(config: Config, part: str, **values) -> Config:
    """`config` with fields of one of its parts replaced."""
    changed = dataclasses.replace(getattr(config, part), **values)
    return dataclasses.replace(config, **{part: changed})


def replay(config: Config, seed: int = 1) -> Batch:
    """Random slices; the last row of the second slice has no plan."""
    rng = np.random.default_rng(seed)
    steps = (config.horizon, config.batch_size)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    has_plan = np.ones(steps, bool)
    has_plan[-1, 1] = False
    shown = jnp.asarray(has_plan)[..., None]
    return Batch(
        observation=normal(config.horizon + 1, config.batch_size, 5),
        action=jnp.tanh(normal(*steps, 2)),
        reward=normal(*steps),
        terminated=jnp.zeros(steps, bool).at[-1, 0].set(True),
        plan=Gaussian(
            jnp.tanh(normal(*steps, 2)) * shown,
            jnp.exp(0.3 * normal(*steps, 2)) * shown,
        ),
        has_plan=jnp.asarray(has_plan),
        plan_age=jnp.full(steps, 3.0, jnp.float32) * has_plan,
    )


class Setup(NamedTuple):
    """An agent, and what one update of it needs."""

    config: Config
    hypers: Hypers
    state: agent.AgentState
    batch: Batch
    noise: UpdateNoise

    def update(self, **options):
        """One update, op by op: compiling each config would take most of the time."""
        return agent.update_with(
            self.state, self.batch, self.noise, self.hypers, self.config, **options
        )


def setup(config: Config, hypers: Hypers, seed: int = 0) -> Setup:
    """A fresh agent whose heads have been stirred, so that values are not all zero."""
    arrays = hypers.validate(config).arrays()
    state = agent.init(SPEC, config, arrays, key=jax.random.key(seed))
    state = stir(state, seed + 1)
    noise = agent.draw_update_noise(2, config, key=jax.random.key(seed + 2))
    return Setup(config, arrays, state, replay(config), noise)


def policy_inputs(s: Setup) -> PolicyInputs:
    """What the policy of `s` learns from, at random latents."""
    zs = simplices(s.config.horizon + 1, s.config.batch_size)
    plans, mask = priors.fill_plans(s.batch, s.config.prior)
    return learning.policy_inputs(s.state, zs, plans, mask, s.noise, s.hypers, s.config)


def policy_step(s: Setup, x: PolicyInputs | None = None):
    """Gradient of the policy loss alone, its terms and metrics."""
    gradient, _, terms, metrics = learning.policy_gradient(
        s.state.policy, s.state.model, x or policy_inputs(s), s.hypers, s.config
    )
    return gradient, terms, metrics


def policy_update(s: Setup):
    """An update's steps of prior and policy, at random latents."""
    zs = simplices(s.config.horizon + 1, s.config.batch_size)
    plans, mask = priors.fill_plans(s.batch, s.config.prior)
    state, told = learning.update_prior(s.state, zs, plans, mask, s.hypers, s.config)
    state, more = learning.update_policy(
        state, s.batch, zs, plans, mask, s.noise, s.hypers, s.config
    )
    return state, told | more


def stir(state: agent.AgentState, seed: int) -> agent.AgentState:
    """Give the zeroed last layers, and the target heads, weights of their own."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype)

    def last(mlp):
        return dataclasses.replace(mlp, last=jax.tree.map(draw, mlp.last))

    model = dataclasses.replace(
        state.model,
        reward_head=last(state.model.reward_head),
        value_heads=last(state.model.value_heads),
    )
    return dataclasses.replace(
        state, model=model, target_heads=last(state.target_heads)
    )


def method(name: str) -> tuple[Config, Hypers]:
    """A method at the least size."""
    return tiny(methods.METHODS[name].config), methods.METHODS[name].hypers_for(SPEC)


def quick_methods(*quick: str) -> list:
    """All methods, for `parametrize`: those that are not quick among the slow tests."""
    slow = pytest.mark.slow
    return [x if x in quick else pytest.param(x, marks=slow) for x in methods.METHODS]


def same(actual, expected) -> None:
    """Both trees hold the very same numbers."""
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def close(actual, expected, rtol=1e-5, atol=1e-6) -> None:
    """Both trees hold the same numbers, up to rounding."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
        actual,
        expected,
    )


def simplices(*shape: int, size: int = 16, group: int = 8, seed: int = 3):
    """Random latents: groups of numbers that sum to 1."""
    raw = np.random.default_rng(seed).normal(size=(*shape, size // group, group))
    return jnp.asarray(jax.nn.softmax(raw, axis=-1).reshape(*shape, size), jnp.float32)
