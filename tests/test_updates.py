"""What an update tells about itself, and that every choice in it counts."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import (
    Setup,
    change,
    close,
    method,
    policy_inputs,
    policy_step,
    policy_update,
    quick_methods,
    replay,
    same,
    setup,
    simplices,
)
from planprior import agent, learning, losses, priors, weighing
from planprior.types import Gaussian

SEED = 7


def varied(s: Setup, part: str, name: str, options) -> dict[str, Setup]:
    """The same agent under every value of one setting."""
    return {x: s._replace(config=change(s.config, part, **{name: x})) for x in options}


def finite(*trees) -> bool:
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(trees))


def gap(a, b) -> float:
    """Norm of the difference of two gradients, as a share of the first."""
    difference = jax.tree.map(jnp.subtract, a, b)
    return float(optax.tree.norm(difference) / optax.tree.norm(a))


# --- Every choice counts --------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "name", "options"),
    [
        ("critic", "actor", ("min", "mean")),
        ("prior", "reduction", ("mean", "sum")),
        ("prior", "divergence", ("reverse", "forward", "sampled")),
    ],
)
def test_choices_change_what_the_policy_learns(part, name, options):
    s = setup(*method("pompc"))
    found = [policy_step(x) for x in varied(s, part, name, options).values()]
    assert finite([(gradient, told) for gradient, _, told in found])
    for (a, _, _), (b, _, _) in itertools.combinations(found, 2):
        assert gap(a, b) > 0.01


def test_versions_of_the_entropy():
    """α times what their bonuses differ by, of which A = 2 dimensions have a part."""
    config, hypers = method("tdmpc2")
    s = setup(config, dataclasses.replace(hypers, entropy_coef=0.5))
    options = ("scaled", "closed_form", "legacy", "exact")
    versions = varied(s, "policy", "entropy", options)
    found = {name: policy_step(x) for name, x in versions.items()}
    assert finite([(gradient, told) for gradient, _, told in found.values()])
    values = {name: float(terms.value) for name, (_, terms, _) in found.items()}
    assert len({round(value, 3) for value in values.values()}) == 4
    # A draw and its expectation pull alike: only σ decides either.
    gradients = {name: gradient for name, (gradient, _, _) in found.items()}
    close(gradients["closed_form"], gradients["scaled"], rtol=1e-4, atol=1e-5)
    for a, b in itertools.combinations(("scaled", "legacy", "exact"), 2):
        assert gap(gradients[a], gradients[b]) > 1e-3
    # What the draws' log densities make of it, by hand.
    x = policy_inputs(s)
    pi = jax.vmap(jax.vmap(s.state.policy))(x.zs)
    base = np.asarray(-0.5 * x.eps**2 - 0.918938533 - jnp.log(pi.std))
    slope = np.log(1 - np.tanh(np.asarray(pi.mean + pi.std * x.eps)) ** 2 + 1e-6)
    decay = 0.5 ** np.arange(3)

    def share(bonus):
        return 0.5 * np.mean(decay * bonus.sum(2).mean(1))

    scaled, exact, legacy = -2 * base, slope - base, slope - 2 * base - 0.918938533
    close(values["scaled"] - values["exact"], share(exact - scaled), rtol=1e-3)
    close(values["scaled"] - values["legacy"], share(legacy - scaled), rtol=1e-3)


def test_the_kl_in_the_target():
    """It costs λ KL, over dimensions as the policy's; unclipped, a sum is A means."""
    config, hypers = method("pompc")
    hypers = dataclasses.replace(hypers, kl_clip=1e6, prior_weight=0.9)
    s = setup(config, hypers)
    target, heads = {}, []
    for how in ("none", "closed_form", "sampled"):
        one = s._replace(config=change(s.config, "critic", kl_in_target=how))
        for reduction, x in varied(one, "prior", "reduction", ("mean", "sum")).items():
            after, _, told = learning.update_model(
                x.state, x.batch, x.noise, x.hypers, x.config
            )
            assert finite(after.model, told)
            target[how, reduction] = told["target"]
            heads.append(after.model_adam)
    none = target["none", "mean"]
    same(target["none", "sum"], none)
    same(heads[1], heads[0])
    for how in ("closed_form", "sampled"):
        cost = none - target[how, "mean"]
        assert abs(cost) > 0.01
        close(none - target[how, "sum"], 2 * cost, rtol=1e-3)
    assert abs(target["closed_form", "mean"] - target["sampled", "mean"]) > 0.01
    for a, b in itertools.combinations(heads[1:], 2):
        assert gap(a.mu, b.mu) > 1e-4


def test_the_priors_fit():
    s = setup(*method("pompc"))
    zs = simplices(3, 4)
    plans, mask = priors.fill_plans(s.batch, s.config.prior)
    found = {}
    for fit, x in varied(s, "prior", "fit", ("forward", "reverse")).items():
        after, told = learning.update_prior(
            x.state, zs, plans, mask, x.hypers, x.config
        )
        assert finite(after.prior, told)
        found[fit] = after.prior_adam.mu
    assert gap(found["forward"], found["reverse"]) > 0.01


# --- Compiled -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def updated():
    """An agent, what one update op by op makes of it, and what that tells.

    The row without a plan holds junk, which nothing may look at.
    """
    s = setup(*method("pompc"))
    key = jax.random.key(SEED)
    row = ~s.batch.has_plan
    junk = jax.tree.map(lambda x: jnp.where(row[..., None], 7.0, x), s.batch.plan)
    age = jnp.where(row, 100.0, jnp.arange(8, dtype=jnp.float32).reshape(2, 4))
    batch = dataclasses.replace(s.batch, plan=junk, plan_age=age)
    s = s._replace(batch=batch, noise=agent.draw_update_noise(2, s.config, key=key))
    return s, *s.update()


def test_compiled_once_and_the_same(updated):
    """Other numbers, batches and keys are no other program."""
    s, after, told = updated
    traced = []

    @functools.partial(jax.jit, static_argnames="config")
    def program(state, batch, hypers, config, key):
        traced.append(config)
        return agent.update(state, batch, hypers, config, key=key)

    again, retold = program(s.state, s.batch, s.hypers, s.config, jax.random.key(SEED))
    close(retold, told, rtol=1e-4, atol=1e-5)
    # Adam's first step is a sign, which rounding decides where a gradient is 0.
    rate = float(s.hypers.learning_rate)
    for part in ("model", "policy", "prior"):
        moments = (getattr(x, f"{part}_adam").mu for x in (again, after))
        assert gap(*moments) < 1e-4
        close(getattr(again, part), getattr(after, part), rtol=1e-4, atol=2 * rate)
    close(again.target_heads, after.target_heads, rtol=1e-4, atol=1e-5)
    close(again.scales, after.scales, rtol=1e-4)
    hypers = jax.tree.map(lambda x: 0.9 * x, s.hypers)
    key = jax.random.key(SEED + 1)
    _, other = program(again, replay(s.config, 2), hypers, s.config, key)
    assert len(traced) == 1
    assert finite(other)
    assert other["model_loss"] != retold["model_loss"]


# --- What an update tells -------------------------------------------------------------


# One for each kind of critic and policy; op by op, the others take a minute together.
@pytest.mark.parametrize("name", quick_methods("tdmpc2", "bmpc", "pompc"))
def test_a_nan_is_never_hidden(name):
    s = setup(*method(name))
    batch = s.batch
    reward = batch.reward.at[0, 2].set(jnp.nan)
    told = s._replace(batch=dataclasses.replace(batch, reward=reward)).update()[1]
    assert told["nan_metrics"] > 0
    assert np.isposinf(told["effective_lambda"]) == (s.hypers.prior_weight == 1)


def test_where_there_is_none_none_is_counted(updated):
    _, _, told = updated
    assert told["nan_metrics"] == 0


def kl_by_hand(p: Gaussian, q: Gaussian) -> np.ndarray:
    (m, s), (n, t) = ([np.asarray(x) for x in jax.tree.leaves(g)] for g in (p, q))
    return np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5


def imagined(s: Setup):
    """Encoded latents, and those imagined from the first on."""
    model = s.state.model
    encoded = jax.vmap(jax.vmap(model.encode))(s.batch.observation)
    zs = [encoded[0]]
    for action in s.batch.action:
        zs.append(jax.vmap(model.next)(zs[-1], action))
    return encoded, jnp.stack(zs)


def test_policy_prior_and_plans_by_hand(updated):
    s, after, told = updated
    _, zs = imagined(s)
    pi = jax.vmap(jax.vmap(s.state.policy))(zs)
    prior = jax.vmap(jax.vmap(after.prior.policy))(zs)
    rows = np.asarray(s.batch.has_plan)
    plan = s.batch.plan
    first = jax.tree.map(lambda x: x[:2], pi)
    half_log = 0.5 * np.log(2 * np.pi * np.e)
    expected = {
        "kl_policy_prior": kl_by_hand(pi, prior).mean(),
        "kl_policy_plan": kl_by_hand(first, plan)[rows].mean(),
        "policy_entropy": np.log(pi.std).mean() + half_log,
        "prior_entropy": np.log(prior.std).mean() + half_log,
        "plan_std": np.asarray(plan.std)[rows].mean(),
        "plan_age": np.mean([0, 1, 2, 3, 4, 6, 7]),
    }
    close({name: told[name] for name in expected}, expected, rtol=1e-4)


def test_a_squashed_policys_by_its_sample():
    s = setup(*method("tdmpc_square"))
    told = policy_update(s)[1]
    x = policy_inputs(s)
    pi = jax.vmap(jax.vmap(s.state.policy))(x.zs)
    u = np.asarray(pi.mean + pi.std * x.eps, np.float64)
    log_pi = -0.5 * np.asarray(x.eps) ** 2 - np.log(np.sqrt(2 * np.pi) * pi.std)
    log_pi = log_pi - np.log(1 - np.tanh(u) ** 2)
    rows, plan = np.asarray(s.batch.has_plan), s.batch.plan
    std = np.where(rows[..., None], plan.std, 1.0)
    log_plan = -0.5 * ((np.tanh(u) - plan.mean) / std) ** 2
    log_plan = log_plan - np.log(np.sqrt(2 * np.pi) * std)
    close(told["policy_entropy"], -log_pi.mean(), rtol=1e-4)
    close(told["kl_policy_plan"], (log_pi - log_plan)[rows].mean(), rtol=1e-4)


def test_the_models_errors_by_hand(updated):
    s, _, told = updated
    model, noise = s.state.model, s.noise
    encoded, zs = imagined(s)
    for t in (1, 2):
        error = np.mean(np.square(zs[t] - encoded[t]))
        close(told[f"consistency_error_{t}"], error, rtol=1e-4)
    heads = jax.tree.map(lambda x: x[noise.target_heads], s.state.target_heads)
    pi = jax.vmap(jax.vmap(s.state.policy))(encoded[1:])
    action = jnp.clip(pi.mean + pi.std * noise.target, -1, 1)
    after = jax.vmap(jax.vmap(lambda z, a: model.values(z, a, heads)))
    q = np.min(after(encoded[1:], action), axis=2)
    alive = 1 - np.asarray(s.batch.terminated)
    target = s.batch.reward + s.hypers.discount * alive * q
    value = jax.vmap(jax.vmap(lambda z, a, m: model.values(z, a, dropout=m)))(
        zs[:-1], s.batch.action, losses.of_rows(noise.model_dropout)
    )
    close(told["value_over_target"], value.mean() - target.mean(), rtol=1e-4)


def test_gradients_of_return_and_penalty_by_hand(updated):
    """Each term's own, through the policy; the model and prior have stepped before."""
    s, after, told = updated
    _, zs = imagined(s)
    state = dataclasses.replace(s.state, model=after.model, prior=after.prior)
    plans, mask = priors.fill_plans(s.batch, s.config.prior)
    x = learning.policy_inputs(state, zs, plans, mask, s.noise, s.hypers, s.config)

    def term(policy, name):
        pi = jax.vmap(jax.vmap(policy))(zs)
        terms = losses.policy_loss(
            pi, policy.family, after.model, x, s.hypers, s.config
        )
        return getattr(terms, name)

    of_return, of_penalty = (
        np.concatenate([np.ravel(g) for g in jax.tree.leaves(grad)])
        for grad in (jax.grad(term)(state.policy, n) for n in ("value", "penalty"))
    )
    norms = [np.linalg.norm(g) for g in (of_return, of_penalty)]
    expected = {
        "return_grad_norm": norms[0],
        "penalty_grad_norm": norms[1],
        "grad_cosine": of_return @ of_penalty / (norms[0] * norms[1]),
        "policy_grad_norm": np.linalg.norm(of_return + of_penalty),
    }
    close({name: told[name] for name in expected}, expected, rtol=1e-3)


def test_without_a_prior_the_returns_pull_is_always_told():
    s = setup(*method("tdmpc2"))
    gradient, _, _, told = learning.policy_gradient(
        s.state.policy, s.state.model, policy_inputs(s), s.hypers, s.config, tell=False
    )
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
    close(told["return_grad_norm"], norm)
    assert told["penalty_grad_norm"] == told["grad_cosine"] == 0 and norm > 0


# --- Weights of states ----------------------------------------------------------------


@pytest.mark.parametrize("huge", [1e30, np.inf, np.nan])
def test_rows_without_a_plan_have_no_weight(huge):
    q = jnp.asarray([[0.5, huge, -1.0, 2.0], [3.0, 1.0, 1.0, huge]], jnp.float32)
    mask = jnp.asarray([[True, False, True, True], [False] * 4])
    weights = weighing.state_weights(q, mask, by_value=True)
    e = np.exp([0.5, -1.0, 2.0])
    e = e / e.sum()
    close(weights, np.array([[e[0], 0, e[1], e[2]], [0, 0, 0, 0]]))
    even = weighing.state_weights(q, mask, by_value=False)
    close(even, np.array([[1 / 3, 0, 1 / 3, 1 / 3], [0, 0, 0, 0]]))
