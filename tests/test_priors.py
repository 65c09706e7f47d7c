"""Priors and divergences: whatever is registered is tested here."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import SPEC, change, method, policy_step, setup, simplices, tiny
from planprior import methods, settings
from planprior.cli import run
from planprior.compatibility import validate
from planprior.hypers import Hypers
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

BY_VALUE = next(name for name, d in DIVERGENCES.items() if d.by_value)


def with_prior(kind: str):
    """PO-MPC towards that prior."""
    config, hypers = method("pompc")
    weight = 0.5 if PRIORS[kind].active else 0.0
    if kind == "none":
        config = change(config, "reanalysis", interval=0)
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


@pytest.mark.parametrize("how", ["closed_form", "sampled"])
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_a_kl_in_the_target_is_the_penaltys_own(name, how):
    """λ stands beside the penalty's scale, and would not be that of another cost."""
    config = change(method("pompc")[0], "critic", kl_in_target=how)
    config = change(config, "prior", divergence=name)
    if name in ("reverse", "sampled"):
        assert validate(config) == config
        return
    message = f"divergence is {name!r}; it must be 'reverse' or 'sampled'"
    with pytest.raises(ValueError, match=message):
        validate(config)


@pytest.mark.parametrize("values", [{"scale": "value"}, {"divergence": BY_VALUE}])
def test_who_only_imitates_has_no_values_to_weigh_by(values):
    """Its value scale stays at 1: the gate would never open, all weights be equal."""
    field = next(iter(values))
    for name in ("bmpc", "bmpc_q"):
        config = change(method(name)[0], "prior", **values)
        message = f"no value of .* is computed, but PriorConfig.{field} is '.*value"
        with pytest.raises(ValueError, match=message):
            validate(config)
        # Where the return has a part in it there are values.
        learning = change(config, "policy", imitation_only=False)
        assert validate(learning) == learning


def test_a_lambda_does_not_adapt_behind_a_shut_gate():
    config = change(method("pompc_adaptive")[0], "prior", scale="value")
    with pytest.raises(ValueError, match=r"adaptive is on, but .*scale is 'value'"):
        validate(config)


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_every_method_keeps_the_rules(name):
    config = methods.METHODS[name].config
    assert validate(config) == config


@pytest.mark.parametrize(
    "part, low", [("policy", -10.0), ("prior", -3.0), ("reanalysis", -2.0)]
)
def test_bounds_of_log_std_are_in_order(part, low):
    with pytest.raises(ValueError, match=f"log_std_max is -11.0; .*above .* = {low}"):
        change(method("tdmpc2")[0], part, log_std_max=-11.0)


@pytest.mark.parametrize(
    ("part", "name", "value", "most"),
    [
        ("network", "symlog_max", math.inf, 80),
        ("network", "symlog_max", 500.0, 80),
        ("network", "symlog_min", -math.inf, 80),
        ("policy", "log_std_min", -math.inf, 40),
        ("prior", "log_std_max", math.inf, 40),
        ("reanalysis", "log_std_max", 100.0, 40),
    ],
)
def test_what_exp_is_taken_of_has_bounds(part, name, value, most):
    with pytest.raises(
        ValueError, match=rf"{name} is {value}; .* in \[-{most}, {most}\]"
    ):
        change(method("pompc")[0], part, **{name: value})


def test_bounds_of_the_planners_std_are_in_order():
    config, hypers = method("tdmpc2")
    with pytest.raises(ValueError, match=r"max_std is 0\.01; .*at least min_std"):
        dataclasses.replace(hypers, max_std=0.01).validate(config)


# --- Ranges ---------------------------------------------------------------------------


@pytest.mark.parametrize("w", [0.99999999, 1 - 1e-12])
@pytest.mark.parametrize("name", ["tdmpc_square", "pompc_adaptive"])
def test_weights_are_checked_as_programs_see_them(name, w):
    """In float32 such a weight is 1, its λ infinite, and all that is learned NaN."""
    config, hypers = method(name)
    assert np.float32(w) == 1
    with pytest.raises(ValueError, match=r"below 1 here, where λ .* in float32"):
        dataclasses.replace(hypers, prior_weight=w).validate(config)
    largest = float(np.nextafter(np.float32(1), np.float32(0)))
    dataclasses.replace(hypers, prior_weight=largest).validate(config)


def test_a_weight_that_is_0_in_float32_does_not_adapt():
    config, hypers = method("pompc_adaptive")
    with pytest.raises(ValueError, match="above 0 to adapt from"):
        dataclasses.replace(hypers, prior_weight=1e-50).validate(config)


ENDLESS = ("max_grad_norm", "max_std", "gate", "kl_clip")


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Hypers)])
@pytest.mark.parametrize("value", [np.inf, 1e39, np.nan])
def test_numbers_are_finite_unless_infinity_means_something(field, value):
    """In float32 too, where 1e39 is infinite."""
    config, hypers = method("pompc")
    changed = dataclasses.replace(hypers, **{field: value})
    if field in ENDLESS and not np.isnan(value):
        assert changed.validate(config) is changed
        return
    with pytest.raises(ValueError, match=rf"Hypers\.{field} is .*; it must be in \["):
        changed.validate(config)
