"""Formulas in their form for accelerators give what they give in that for CPUs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import SPEC, close, method, quick_methods, setup
from planprior import adam, agent
from planprior.numerics import TwoHot


def in_both_forms(function, *args):
    """Results in the form for CPUs and in that for accelerators; they do differ."""

    def traced():
        # A new function each time: JAX remembers how one was traced.
        return jax.jit(functools.partial(function)).trace(*args)

    on_cpu = traced()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        elsewhere = traced()
    assert str(on_cpu.jaxpr) != str(elsewhere.jaxpr)
    return tuple(form.lower().compile()(*args) for form in (on_cpu, elsewhere))


@pytest.mark.parametrize("name", quick_methods("tdmpc2", "bmpc"))
def test_updates(name):
    s = setup(*method(name))
    clipped = dataclasses.replace(s.hypers, max_grad_norm=jnp.float32(0.5))

    def update(state, batch, noise):
        return agent.update_with(state, batch, noise, clipped, s.config)

    expected, got = in_both_forms(update, s.state, s.batch, s.noise)
    assert float(expected[1]["model_grad_norm"]) > 0.5
    close(got[0], expected[0], rtol=1e-4, atol=2e-6)
    close(got[1], expected[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("terminations", ["bootstrap", "learned"])
def test_plans(terminations):
    config, hypers = method("pompc")
    s = setup(dataclasses.replace(config, terminations=terminations), hypers)
    observation = jnp.asarray(np.random.default_rng(3).normal(size=(2, 5)), jnp.float32)

    def act(state, observation):
        warm, reset = jnp.zeros((2, s.config.horizon, 2)), jnp.ones(2, bool)
        return agent.act(
            state, observation, warm, reset, s.hypers, s.config, key=jax.random.key(5),
            explore=True,
        )  # fmt: skip

    expected, got = in_both_forms(act, s.state, observation)
    close(got, expected, rtol=1e-4, atol=1e-5)


def test_cross_entropy_and_its_gradient():
    bins = TwoHot(11, -5.0, 5.0)
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(64, 11)), jnp.float32)
    x = jnp.asarray(rng.uniform(-300, 300, 64), jnp.float32)

    def loss(logits):
        each = jax.vmap(jax.value_and_grad(bins.cross_entropy))
        return each(logits, x)

    expected, got = in_both_forms(loss, logits)
    close(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("small", [2**14, 4], ids=["one sum", "large ones apart"])
def test_the_norm_of_a_gradient(small, monkeypatch):
    monkeypatch.setattr(adam, "SMALL", small)
    rng = np.random.default_rng(1)
    gradient = {n: jnp.asarray(rng.normal(size=n), jnp.float32) for n in (1, 3, 4, 9)}
    flat = np.concatenate([np.asarray(x) for x in gradient.values()])
    for norm in in_both_forms(adam.global_norm, gradient):
        assert float(norm) == pytest.approx(float(np.linalg.norm(flat)), rel=1e-6)


def test_the_toy_has_heads_to_choose_from():
    """Else nothing of the above would be about stacks of heads."""
    config, _ = method("tdmpc2")
    assert config.critic.num_heads == 3 and SPEC.action_dim == 2
