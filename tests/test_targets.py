"""Value targets and the policy's return, by hand, for every way to treat ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fakes
from helpers import change, close, method, setup
from planprior import losses, targets

Z, AFTER = np.array([0.4, 0.6]), np.array([1.5, 0.2])
EPS = jnp.zeros(2)


def say(kind, terminations):
    """An agent whose model gives rewards of 1 and values of 10, and ends by z₀ > 1."""
    config, hypers = method("pompc")
    config = change(config, "critic", kind=kind)
    config = dataclasses.replace(config, terminations=terminations)
    s = setup(config, dataclasses.replace(hypers, discount=0.9))
    model = fakes.make(fakes.Ending, config, key=jax.random.key(0))
    latent = jnp.zeros(16).at[:2].set(Z)
    action = s.state.policy.family.sample(s.state.policy(latent), EPS).action
    moved = fakes.A @ Z + fakes.B @ np.asarray(action)
    going_on = 1 / (1 + np.exp(2 * (moved[0] - 1)))
    return s, model, latent, action, going_on


@pytest.mark.parametrize("terminations", ["masked", "bootstrap", "learned"])
@pytest.mark.parametrize("kind", ["q", "v"])
@pytest.mark.parametrize("ended", [False, True])
def test_targets_by_hand(kind, terminations, ended):
    s, model, latent, _, going_on = say(kind, terminations)
    to = targets.Bootstrap(
        model, s.state.target_heads, s.state.policy, s.state.prior, jnp.float32(2.0),
        s.hypers, s.config,
    )  # fmt: skip
    step = targets.TargetInputs(
        latent, latent.at[:2].set(AFTER), jnp.float32(3.0), jnp.asarray(ended), EPS
    )
    alive = 1.0 if terminations == "bootstrap" else float(not ended)
    if kind == "v" and terminations == "learned":
        alive = going_on
    reward = 3.0 if kind == "q" else 1.0
    close(targets.TARGETS[kind](to, step), reward + 0.9 * alive * 10, rtol=1e-4)


@pytest.mark.parametrize("terminations", ["masked", "learned"])
def test_the_policys_return_with_v_heads_heeds_predicted_ends(terminations):
    s, model, latent, action, going_on = say("v", terminations)
    value = losses.action_value(
        model, latent, action, model.value_heads, None, s.hypers, s.config
    )
    alive = going_on if terminations == "learned" else 1.0
    close(value, 1 + 0.9 * alive * 10, rtol=1e-4)
