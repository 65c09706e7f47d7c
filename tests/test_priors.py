"""Priors and divergences: whatever is registered is tested here."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import SPEC, change, method, policy_step, setup, simplices, tiny
from planprior import methods, settings
from planprior.cli import run
from planprior.compatibility import validate
from planprior.priors import (
    DIVERGENCES,
    PRIORS,
    LearnedPrior,
    Prior,
    register_divergence,
    register_prior,
)
from planprior.priors import Divergence as Penalty
from planprior.types import Gaussian


def with_prior(kind: str):
    """PO-MPC towards that prior."""
    config, hypers = method("pompc")
    weight = 0.5 if PRIORS[kind].active else 0.0
    config = validate(change(config, "prior", kind=kind))
    return setup(config, dataclasses.replace(hypers, prior_weight=weight))


@pytest.mark.parametrize("kind", list(PRIORS))
def test_every_prior_keeps_the_contract(kind):
    s = with_prior(kind)
    prior = s.state.prior
    plan = Gaussian(jnp.asarray([0.3, -0.2]), jnp.asarray([0.5, 0.1]))
    at = prior.at(simplices(1)[0], plan)
    assert at.mean.shape == at.std.shape == (2,)
    assert (at.std > 0).all() and np.isfinite(at.mean).all()
    if prior.proposes:
        assert prior.proposer()(simplices(1)[0]).mean.shape == (2,)
    gradient, terms, told = policy_step(s)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
    assert (told["penalty_grad_norm"] > 0) == prior.active
    assert (terms.penalty != 0) == prior.active


@pytest.mark.parametrize("name", list(DIVERGENCES))
@pytest.mark.parametrize("family", ["squashed", "clamped"])
def test_every_divergence_keeps_the_contract(name, family):
    config, hypers = method("pompc")
    config = change(config, "policy", family=family)
    config = change(config, "prior", divergence=name)
    if DIVERGENCES[name].in_action_space and family == "squashed":
        with pytest.raises(ValueError, match="a closed form that a squashed policy"):
            validate(config)
        return
    s = setup(validate(config), hypers)
    _, terms, told = policy_step(s)
    assert np.isfinite(terms.penalty) and terms.penalty != 0
    assert np.isfinite(told["penalty_grad_norm"]) and told["penalty_grad_norm"] > 0


@pytest.fixture
def registered():
    """A prior and a divergence as a newcomer writes them; forgotten afterwards."""

    @register_prior("wide")
    class Wide(Prior):
        everywhere = True

        @classmethod
        def init(cls, config, action_dim, *, key):
            return cls()

        def at(self, z, plan):
            return Gaussian(0 * plan.mean, 0.7 + 0 * plan.std)

    @register_divergence("distance")
    class Distance(Penalty):
        def __call__(self, pi, sample, prior, hypers):
            return (sample.action - prior.mean) ** 2

    yield Wide
    del PRIORS["wide"], DIVERGENCES["distance"]


def test_a_new_prior_is_found_by_its_name(registered, capsys):
    given = settings.parse({"prior": "wide", "divergence": "distance"})
    config, hypers = methods.make("pompc", SPEC, "tiny")
    config, hypers = settings.apply(config, hypers, given)
    s = setup(tiny(config), hypers)
    assert isinstance(s.state.prior, registered)
    _, terms, told = policy_step(s)
    assert terms.penalty > 0 and told["penalty_grad_norm"] > 0
    assert run(["list", "settings"]) == 0
    shown = capsys.readouterr().out
    assert "wide" in shown and "distance" in shown


def test_the_command_lists_and_checks_priors(capsys):
    with pytest.raises(SystemExit):
        run(["train", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in PRIORS)
    with pytest.raises(ValueError, match=r"prior\.kind is 'lerned'; .*'learned'"):
        settings.parse({"prior": "lerned"})


def test_a_learned_prior_reaches_its_bounds_and_not_beyond():
    config, hypers = method("pompc")
    config = change(config, "prior", log_std_min=-2.0, log_std_max=0.5)
    prior = setup(config, hypers).state.prior
    assert isinstance(prior, LearnedPrior)
    last = prior.policy.net.last
    for raw, log_std in ((-50.0, -2.0), (50.0, 0.5)):
        bias = jnp.full_like(last.bias, raw)
        net = dataclasses.replace(
            prior.policy.net, last=dataclasses.replace(last, bias=bias)
        )
        extreme = dataclasses.replace(
            prior, policy=dataclasses.replace(prior.policy, net=net)
        )
        z = simplices(1)[0]
        std = extreme.at(z, Gaussian(jnp.zeros(2), jnp.ones(2))).std
        np.testing.assert_allclose(std, np.exp(log_std), rtol=1e-4)


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("critic", {"kl_in_target": "sampled"}, "needs a prior at every state"),
        ("planner", {"seeds": "both"}, "'none' cannot propose actions"),
        ("policy", {"imitation_only": True}, "leaves nothing to imitate"),
        ("prior", {"adaptive": True}, "adaptive is on, but PriorConfig.kind is 'none'"),
    ],
)
def test_what_needs_a_prior_says_so(part, values, message):
    config = change(method("tdmpc2")[0], part, **values)
    with pytest.raises(ValueError, match=message) as error:
        validate(config)
    assert "'learned'" in str(error.value)


@pytest.mark.parametrize(
    ("part", "values", "remedy"),
    [
        ("prior", {"adaptive": True}, "adaptive must be off"),
        ("prior", {"mixing": "additive"}, "mixing must be 'convex'"),
        ("critic", {"kl_in_target": "closed_form"}, "kl_in_target must be 'none'"),
    ],
)
def test_what_needs_a_finite_lambda_says_so(part, values, remedy):
    config = change(method("pompc")[0], "policy", imitation_only=True)
    with pytest.raises(ValueError, match=f"λ is infinite; .*{remedy}"):
        validate(change(config, part, **values))


@pytest.mark.parametrize(
    "part, low", [("policy", -10.0), ("prior", -3.0), ("reanalysis", -2.0)]
)
def test_bounds_of_log_std_are_in_order(part, low):
    with pytest.raises(ValueError, match=f"log_std_max is -11.0; .*above .* = {low}"):
        change(method("tdmpc2")[0], part, log_std_max=-11.0)


def test_bounds_of_the_planners_std_are_in_order():
    config, hypers = method("tdmpc2")
    with pytest.raises(ValueError, match=r"max_std is 0\.01; .*at least min_std"):
        dataclasses.replace(hypers, max_std=0.01).validate(config)
