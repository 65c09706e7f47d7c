"""The ends of the family, w = 0 and w = 1, and what priors do in between."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import (
    change,
    close,
    method,
    policy_inputs,
    policy_step,
    policy_update,
    same,
    setup,
    simplices,
)
from planprior import learning, losses, numerics, priors
from planprior.config import Config
from planprior.types import Gaussian
from planprior.weighing import Scales


def with_weight(hypers, w):
    return dataclasses.replace(hypers, prior_weight=w)


# --- w = 0 ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["squashed", "clamped"])
def test_without_weight_pompc_is_tdmpc2(family):
    """The same loss, gradient and scale, to the last bit, in either family."""
    base, hypers = method("tdmpc2")
    pompc, _ = method("pompc")
    policy = base.policy if family == "squashed" else pompc.policy
    base, pompc = (dataclasses.replace(c, policy=policy) for c in (base, pompc))
    if family == "squashed":
        pompc = change(pompc, "prior", divergence="sampled")
    ours, theirs = setup(pompc, with_weight(hypers, 0.0)), setup(base, hypers)
    for part in ("model", "target_heads", "policy"):
        same(getattr(ours.state, part), getattr(theirs.state, part))
    (gradient, terms, _), (expected, told, _) = policy_step(ours), policy_step(theirs)
    same(gradient, expected)
    same(terms.value + terms.penalty, told.value + told.penalty)
    same(terms.scales.value, told.scales.value)
    # The comparison can fail: a little weight is enough.
    other, _, _ = policy_step(setup(pompc, with_weight(hypers, 0.01)))
    assert not np.array_equal(other.net.last.bias, expected.net.last.bias)


# --- w = 1 ----------------------------------------------------------------------------


def test_with_full_weight_the_planners_pompc_is_bmpc():
    """Its policy update, whatever the critic is and says."""
    base, hypers = method("bmpc")
    pompc, _ = method("pompc_planner")
    pompc = dataclasses.replace(pompc, prior=base.prior)
    ours, theirs = setup(pompc, with_weight(hypers, 1.0)), setup(base, hypers)
    same(ours.state.policy, theirs.state.policy)
    (gradient, terms, _), (expected, told, _) = policy_step(ours), policy_step(theirs)
    close(gradient, expected, rtol=1e-5, atol=1e-8)
    close(terms.value + terms.penalty, told.value + told.penalty)
    same(terms.scales.penalty, told.scales.penalty)


def test_with_full_weight_only_the_prior_counts():
    """By hand: (1/n) Σ ρᵗ mean_B [mean_A KL(π‖p)/S − α·A·H], and no value in it."""
    config, hypers = method("pompc")
    s = setup(config, with_weight(hypers, 1.0))
    x = policy_inputs(s)
    gradient, terms, _ = policy_step(s, x)
    other = jax.tree.map(lambda w: -3.0 * w, s.state.model)
    same(policy_step(s._replace(state=dataclasses.replace(s.state, model=other)), x)[0],
         gradient)  # fmt: skip

    def by_hand(policy):
        pi = jax.vmap(jax.vmap(policy))(x.zs)
        q = x.prior
        kl = jnp.log(q.std / pi.std) - 0.5 + (
            pi.std**2 + (pi.mean - q.mean) ** 2
        ) / (2 * q.std**2)  # fmt: skip
        k = kl.mean(2)
        low, high = np.percentile(np.asarray(jax.lax.stop_gradient(k[0])), [5, 95])
        scale = 1 + s.hypers.scale_tau * (max(high - low, 1) - 1)
        log_density = -0.5 * x.eps**2 - jnp.log(pi.std) - 0.5 * numerics.LOG_2PI
        bonus = -2 * jnp.sum(log_density, 2)
        loss = k / scale - s.hypers.entropy_coef * bonus
        decay = s.hypers.rho ** jnp.arange(3)
        return jnp.mean(decay * loss.mean(1))

    loss = by_hand(s.state.policy)
    close(terms.value + terms.penalty, loss)
    close(gradient, jax.grad(by_hand)(s.state.policy), rtol=1e-4, atol=1e-7)


# --- Between: what averaging over stored plans amounts to (§3.6.3) --------------------


def many_plans(count=20):
    rng = np.random.default_rng(5)
    mean = rng.uniform(-0.8, 0.8, (count, 2))
    std = rng.uniform(0.2, 0.6, (count, 2))
    return Gaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


def geometric_pool(plans: Gaussian) -> Gaussian:
    """Mean weighted by precision, and the mean precision."""
    precision = plans.std**-2.0
    total = precision.mean(0)
    return Gaussian((plans.mean * precision).mean(0) / total, total**-0.5)


def moments_of_mixture(plans: Gaussian) -> Gaussian:
    mean = plans.mean.mean(0)
    square = (plans.std**2 + plans.mean**2).mean(0)
    return Gaussian(mean, jnp.sqrt(square - mean**2))


def at_one_state(config: Config, prior: Gaussian, count: int) -> tuple:
    """Policy gradients of the penalty at one latent, visited with all the priors."""
    config = dataclasses.replace(config, batch_size=count, horizon=1)
    config = change(config, "prior", scale="none")
    s = setup(config, with_weight(method("pompc_planner")[1], 0.5))
    z = jnp.broadcast_to(simplices(1, 1), (1, count, 16))
    x = policy_inputs(s)._replace(
        zs=z,
        prior=jax.tree.map(lambda p: jnp.broadcast_to(p, (1, count, 2)), prior),
        mask=jnp.ones((1, count), bool),
    )

    @jax.jit
    @jax.grad
    def gradient(policy):
        pi = jax.vmap(jax.vmap(policy))(z)
        terms = losses.policy_loss(
            pi, policy.family, s.state.model, x, s.hypers, config
        )
        return terms.penalty

    return gradient(s.state.policy)


def test_the_geometric_pool_regularises_as_the_plans_do():
    """The same expected gradient: a perfect reverse prior changes only the variance."""
    config, plans = method("pompc_planner")[0], many_plans()
    count = len(plans.mean)
    by_plans = at_one_state(config, plans, count)
    by_pool = at_one_state(config, geometric_pool(plans), count)
    close(by_pool, by_plans, rtol=1e-4, atol=1e-6)
    by_mixture = at_one_state(config, moments_of_mixture(plans), count)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(by_plans))
    gap = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), by_mixture, by_plans)
    assert max(jax.tree.leaves(gap)) > 0.1 * largest


@pytest.fixture(scope="module")
def fitted():
    """Priors fitted to twenty plans of one state, by the update's own steps."""
    plans = many_plans()
    found = {}
    for fit in ("reverse", "forward"):
        config = change(method("pompc")[0], "prior", fit=fit)
        config = dataclasses.replace(config, horizon=1, batch_size=len(plans.mean))
        hypers = dataclasses.replace(method("pompc")[1], learning_rate=0.02)
        s = setup(config, hypers)
        z = jnp.broadcast_to(simplices(1, 1), (2, len(plans.mean), 16))
        rows = jax.tree.map(lambda x: x[None], plans)
        mask = jnp.ones((1, len(plans.mean)), bool)

        @jax.jit
        def learn(state, s=s, z=z, rows=rows, mask=mask):
            def step(state, _):
                state, told = learning.update_prior(
                    state, z, rows, mask, s.hypers, s.config
                )
                return state, told["prior_loss"]

            return jax.lax.scan(step, state, None, length=400)[0]

        found[fit] = learn(s.state).prior.at(
            z[0, 0], jax.tree.map(lambda x: x[0], plans)
        )
    return found


def test_a_reverse_prior_becomes_the_geometric_pool(fitted):
    close(fitted["reverse"], geometric_pool(many_plans()), rtol=0.02, atol=0.01)


def test_a_forward_prior_matches_moments(fitted):
    close(fitted["forward"], moments_of_mixture(many_plans()), rtol=0.02, atol=0.01)
    assert (fitted["forward"].std > 1.5 * fitted["reverse"].std).all()


# --- How return and penalty are weighed -----------------------------------------------


def test_mixing_is_convex_or_additive():
    """w = 0.75 is λ = 3: factors ¼ and ¾, or 1 and 3."""
    config, hypers = method("pompc")
    hypers = dataclasses.replace(hypers, prior_weight=0.75, entropy_coef=0.0)
    s = setup(config, hypers)
    additive = s._replace(config=change(config, "prior", mixing="additive"))
    (g1, convex, _), (g2, added, _) = policy_step(s), policy_step(additive)
    close(added.value, 4 * convex.value)
    close(added.penalty, 4 * convex.penalty)
    close(g2, jax.tree.map(lambda g: 4 * g, g1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gate", [0.5, 1e9])
def test_the_gate_shuts_until_values_have_grown(gate):
    config, hypers = method("tdmpc_square")
    s = setup(config, dataclasses.replace(hypers, gate=gate))
    x = policy_inputs(s)
    x = x._replace(scales=x.scales._replace(value=jnp.float32(3.0)))
    gradient, terms, told = policy_step(s, x)
    if gate > 1:
        assert terms.penalty == told["penalty_grad_norm"] == 0
        return
    # Open: λ = A/61 times the mean cost over the value's scale, ρ-averaged.
    sample = terms.sample
    u = (sample.action - x.prior.mean) / jnp.maximum(x.prior.std, 0.05)
    cost = 2 * (0.5 * u**2 + jnp.log(x.prior.std)).sum(2) + 2 * 0.918938533
    by_hand = (2 / 61) * cost.mean(1) / terms.scales.value
    close(terms.penalty, jnp.mean(0.5 ** jnp.arange(2) * by_hand), rtol=1e-4)
    assert told["penalty_grad_norm"] > 0
    assert jax.tree.leaves(gradient)


def test_boom_weighs_states_by_their_value():
    """Softmax of Q/S_Q over the batch of each step; the policy's own σ."""
    config, hypers = method("boom")
    s = setup(config, dataclasses.replace(hypers, gate=0.5))
    x = policy_inputs(s)
    _, terms, _ = policy_step(s, x)
    action = terms.sample.action
    heads = [jax.vmap(jax.vmap(
        lambda z, a, m, i=i: s.state.model.values(z, a, x.heads, m)[i]
    ))(x.zs, action, losses.of_rows(x.dropout)) for i in range(2)]  # fmt: skip
    q = jnp.minimum(*heads)
    pi = jax.vmap(jax.vmap(s.state.policy))(x.zs)
    std = jnp.maximum(pi.std, 0.05)
    u = (action - x.prior.mean) / std
    cost = 2 * (0.5 * u**2 + jnp.log(std)).sum(2) + 2 * 0.918938533
    scale = terms.scales.value
    weights = jax.nn.softmax(q / scale, axis=1)
    by_hand = (2 / 50) * (weights * cost).sum(1) / scale
    close(terms.penalty, jnp.mean(0.5 ** jnp.arange(2) * by_hand), rtol=1e-4)


def test_effective_lambda():
    scales = Scales(*map(jnp.float32, (6.0, 2.0, 1.0)))
    config, hypers = method("pompc")

    def effective(w, **prior):
        return learning.effective_lambda(
            jnp.float32(w), scales, hypers, change(config, "prior", **prior)
        )

    close(effective(0.75), 3 * 6 / 2)  # w/(1 − w) · S_Q/S_KL
    assert effective(0.0) == 0
    assert np.isposinf(effective(1.0))
    # Over the value's scale λ is in reward units already; over nothing, in its scale.
    close(effective(0.75, scale="value"), 3.0)
    close(effective(0.75, scale="none"), 3 * 6)
    close(effective(0.75, mixing="additive"), 3 * 6 / 2)
    shut = dataclasses.replace(hypers, gate=7.0)
    for w in (0.5, 1.0):
        value = change(config, "prior", scale="value")
        assert learning.effective_lambda(jnp.float32(w), scales, shut, value) == 0


# --- Rows of random actions -----------------------------------------------------------


def test_random_rows():
    config, hypers = method("pompc_planner")
    s = setup(config, hypers)
    gap = np.argwhere(~np.asarray(s.batch.has_plan))
    assert len(gap) == 1
    t, b = gap[0]
    expected = {
        "mask": None,
        "standard_normal": (np.zeros(2), 1.0),
        "executed": (np.asarray(s.batch.action[t, b]), np.exp(2.0)),
    }
    gradients = {}
    for rows, plan in expected.items():
        config = change(s.config, "prior", random_rows=rows)
        plans, mask = priors.fill_plans(s.batch, config.prior)
        assert mask[t, b] == (plan is not None) and mask.sum() == mask.size - (not plan)
        if plan:
            close(plans.mean[t, b], plan[0])
            close(plans.std[t, b], np.full(2, plan[1]))
        elsewhere = s.batch.has_plan[..., None]
        same(plans.mean * elsewhere, s.batch.plan.mean * elsewhere)
        gradients[rows] = policy_step(s._replace(config=config))[0]
    assert len({float(jax.tree.leaves(g)[0].sum()) for g in gradients.values()}) == 3
    # What a masked row holds is never looked at.
    plan = jax.tree.map(lambda x: x.at[t, b].set(7.0), s.batch.plan)
    junk = s._replace(batch=dataclasses.replace(s.batch, plan=plan))
    same(policy_step(junk)[0], gradients["mask"])


def test_a_batch_without_any_plan_teaches_nothing_and_breaks_nothing():
    config, hypers = method("pompc_planner")
    config = change(config, "prior", adaptive=True)
    s = setup(config, hypers)
    none = dataclasses.replace(s.batch, has_plan=jnp.zeros_like(s.batch.has_plan))
    after, told = policy_update(s._replace(batch=none))
    assert told["penalty"] == told["penalty_grad_norm"] == told["divergence"] == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.policy))
    same(after.scales.penalty, s.state.scales.penalty)
    same(after.log_lambda, s.state.log_lambda)


# --- λ that adapts --------------------------------------------------------------------


def test_lambda_moves_towards_its_target():
    s = setup(*method("pompc_adaptive"))
    for excess, sign in ((0.3, 1), (-0.3, -1), (0.0, 0)):
        after = learning.update_lambda(s.state, jnp.float32(excess), s.hypers)
        assert np.sign(after.log_lambda - s.state.log_lambda) == sign
        w = learning.prior_weight(after, s.hypers, s.config)
        lam = jnp.exp(after.log_lambda)
        close(w, lam / (1 + lam))


def test_lambda_converges_to_what_meets_the_target():
    """Return −2(μ − 1)², prior N(0, 1), σ = 1: μ = 4/(4 + λ) and KL = μ²/2.

    So KL = 0.08 takes μ = 0.4 and λ = 6.
    """
    config, hypers = method("pompc_adaptive")
    hypers = dataclasses.replace(
        hypers, divergence_target=0.08, dual_learning_rate=0.02
    )
    s = setup(config, hypers)

    @jax.jit
    def run(state):
        def step(state, _):
            mean = 4 / (4 + jnp.exp(state.log_lambda))
            excess = mean**2 / 2 - s.hypers.divergence_target
            return learning.update_lambda(state, excess, s.hypers), None

        return jax.lax.scan(step, state, None, length=1500)[0]

    close(jnp.exp(run(s.state).log_lambda), 6.0, rtol=0.02)


@pytest.mark.parametrize("excess", [1.0, -1.0])
def test_lambda_stays_finite_where_no_lambda_meets_the_target(excess):
    config, hypers = method("pompc_adaptive")
    s = setup(config, dataclasses.replace(hypers, dual_learning_rate=1.0))
    state = s.state
    for _ in range(30):
        state = learning.update_lambda(state, jnp.float32(excess), s.hypers)
    w = learning.prior_weight(state, s.hypers, s.config)
    assert 0 < w < 1
    assert np.isfinite(learning.effective_lambda(w, state.scales, s.hypers, s.config))
