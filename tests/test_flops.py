"""Operations counted from settings equal those of the programs, product by product."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from helpers import SPEC, change, method, replay
from planprior import agent, methods
from planprior.flops import (
    plan_flops,
    update_flops,
)
from planprior.hypers import Hypers
from planprior.spec import EnvSpec

DOG = EnvSpec("dog", 223, 38, 500)
CHEETAH = EnvSpec("cheetah", 17, 6, 500)


def product(eqn) -> int:
    """Operations of one matrix product; 0 where a side is a mere vector per example.

    Those are no layers of a network: the mean bin, the mean of the elites.
    """
    (left, right), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    a, b = (x.aval for x in eqn.invars)
    free = min(a.ndim - len(left + left_batch), b.ndim - len(right + right_batch))
    if not free or not left:
        return 0
    depth = math.prod(a.shape[i] for i in left)
    return 2 * math.prod(eqn.outvars[0].aval.shape) * depth


def operations(jaxpr: Any) -> int:
    """Operations of all matrix products that a program's results depend on.

    As a compiler counts them: what is computed twice counts once, and what is empty or
    leads nowhere not at all.
    """
    needed = {id(x) for x in jaxpr.outvars}
    numbers: dict[Any, Any] = {}
    first: dict[Any, Any] = {}
    repeated = set()
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name, tuple(numbers.get(id(x), id(x)) for x in eqn.invars)
        same = first.setdefault((*name, str(eqn.params)), eqn)
        if same is not eqn:
            repeated.add(id(eqn))
        for ours, theirs in zip(eqn.outvars, same.outvars, strict=True):
            numbers[id(ours)] = id(theirs)
    total = 0
    for eqn in reversed(jaxpr.eqns):
        if not any(id(x) in needed and x.aval.size for x in eqn.outvars):
            continue
        needed |= {id(x) for x in eqn.invars}
        if id(eqn) in repeated:
            needed |= {numbers[id(x)] for x in eqn.outvars}
        elif eqn.primitive.name == "dot_general":
            total += product(eqn)
        else:
            inner = [getattr(value, "jaxpr", value) for value in eqn.params.values()]
            inner = [part for part in inner if hasattr(part, "eqns")]
            total += eqn.params.get("length", 1) * sum(map(operations, inner))
    return total


CASES = {
    **{name: method(name)[0] for name in ("tdmpc2", "bmpc", "bmpc_q", "pompc")},
    "v critic with a return term": change(
        method("pompc")[0], "critic", kind="v", num_heads=2
    ),
    "continue head": dataclasses.replace(method("bmpc")[0], terminations="learned"),
    "kl in target": change(method("pompc")[0], "critic", kl_in_target="closed_form"),
    "both seed": change(method("pompc")[0], "planner", seeds="both"),
    "no seeds": change(method("tdmpc2")[0], "planner", num_policy_trajectories=0),
    "horizon 1": dataclasses.replace(method("tdmpc2")[0], horizon=1),
}


@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_the_programs(case):
    config, hypers = CASES[case], Hypers().arrays()
    state = jax.eval_shape(
        lambda key: agent.init(SPEC, config, hypers, key=key), jax.random.key(0)
    )

    def act(state, observation, warm, reset, key):
        return agent.act(
            state, observation, warm, reset, hypers, config, key=key, explore=True
        )

    def update(state, key):
        batch = replay(config)
        return agent.update(state, batch, hypers, config, key=key, tell=False)[0]

    shape = (2, config.horizon, SPEC.action_dim)
    inputs = jnp.zeros((2, 5)), jnp.zeros(shape), jnp.ones(2, bool), jax.random.key(0)
    planned = jax.make_jaxpr(act)(state, *inputs)
    assert operations(planned.jaxpr) == 2 * plan_flops(SPEC, config)
    learned = jax.make_jaxpr(update)(state, jax.random.key(0))
    assert operations(learned.jaxpr) == update_flops(SPEC, config)


@pytest.mark.parametrize(
    ("name", "spec", "plan", "update"),
    [
        ("tdmpc2", DOG, 44.7, 31.2),
        ("tdmpc2", CHEETAH, 32.5, 30.1),
        ("bmpc", DOG, 44.0, 19.4),
        ("bmpc", CHEETAH, 32.5, 18.8),
    ],
)
def test_dog_and_cheetah_at_the_default_size(name, spec, plan, update):
    """Counted by hand, in 10⁹, before there was a program.

    BMPC's plan without sharing the first latent's products. In the updates gradients
    that nobody learns from: hence the tolerance.
    """
    config, _ = methods.make(name, spec)
    shared = name == "tdmpc2"
    counted = plan_flops(spec, config, shared=shared, proposed_once=False)
    assert counted / 1e9 == pytest.approx(plan, rel=0.003)
    assert update_flops(spec, config) / 1e9 == pytest.approx(update, rel=0.07)


def test_what_is_saved_by_not_repeating():
    config, _ = methods.make("tdmpc2", DOG)
    published = plan_flops(DOG, config, heads=5, shared=False, proposed_once=False)
    drawn = plan_flops(DOG, config, shared=False, proposed_once=False)
    assert published / 1e9 == pytest.approx(63.6, abs=0.05)
    assert drawn / 1e9 == pytest.approx(49.0, abs=0.1)
    assert plan_flops(DOG, config) / 1e9 == pytest.approx(43.4, abs=0.05)
