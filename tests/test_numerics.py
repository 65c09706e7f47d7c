"""Formulas against hand-derived numbers, against quadrature, and as properties."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import close
from planprior import numerics
from planprior.hypers import Hypers
from planprior.numerics import TwoHot
from planprior.policies import ENTROPIES, Clamped, Squashed
from planprior.priors import DIVERGENCES
from planprior.types import Gaussian

few = settings(max_examples=40, deadline=None, derandomize=True)
BINS = TwoHot(101, -10.0, 10.0)
LARGEST = math.expm1(10)
N = 8


def floats(low, high, size=N):
    one = st.floats(low, high, width=32)
    return st.lists(one, min_size=size, max_size=size).map(
        lambda xs: np.array(xs, np.float32)
    )


@functools.cache
def over_states(function):
    return jax.jit(jax.vmap(function))


# --- Symlog and two-hot ---------------------------------------------------------------


def test_symlog_by_hand():
    close(numerics.symlog(jnp.array([0.0, math.e - 1, 1 - math.e])), [0.0, 1.0, -1.0])


@few
@given(floats(-20000, 20000))
def test_symexp_inverts_symlog(x):
    close(numerics.symexp(numerics.symlog(jnp.asarray(x))), x, rtol=2e-5, atol=1e-6)
    close(numerics.symlog(numerics.symexp(jnp.asarray(x / 2000))), x / 2000)


def test_two_hot_by_hand():
    """Bins −1, 0, 1: symlog(symexp(¼)) lies a quarter of the way from 0 to 1."""
    bins = TwoHot(3, -1.0, 1.0)
    x = jnp.float32(math.expm1(0.25))
    close(bins.encode(x), [0.0, 0.75, 0.25])
    # −(¾ ln p₁ + ¼ ln p₂) with p = softmax(0, ln 2, 0) = (¼, ½, ¼).
    logits = jnp.array([0.0, math.log(2.0), 0.0])
    expected = 0.75 * math.log(2) + 0.25 * math.log(4)
    close(bins.cross_entropy(logits, x), expected)
    close(bins.decode(jnp.array([0.0, 0.0, 50.0])), math.e - 1)


@few
@given(floats(-22000, 22000))
def test_decoding_inverts_encoding(x):
    codes = over_states(BINS.encode)(x)
    close(codes.sum(1), np.ones(N))
    assert ((codes > 0).sum(1) <= 2).all()
    # The mean is taken in symlog space, whose rounding symexp magnifies.
    close(over_states(BINS.decode)(jnp.log(codes)), x, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_beyond_the_support_counts_as_its_end(sign):
    x = jnp.float32(sign * 1e6)
    code = BINS.encode(x)
    assert code[-1 if sign > 0 else 0] == 1.0
    assert code.sum() == 1.0
    close(BINS.decode(jnp.log(code)), sign * LARGEST, rtol=1e-4)
    logits = jnp.linspace(-1.0, 1.0, 101)
    close(BINS.cross_entropy(logits, x), -jnp.dot(code, jax.nn.log_softmax(logits)))


@few
@given(floats(-30000, 30000), st.integers(0, 100))
def test_cross_entropy_is_that_of_the_two_hot(x, seed):
    logits = 3 * np.random.default_rng(seed).normal(size=(N, 101)).astype(np.float32)
    code = over_states(BINS.encode)(x)
    expected = -np.sum(np.asarray(code) * jax.nn.log_softmax(logits), axis=1)
    got = jax.jit(jax.vmap(BINS.cross_entropy))(logits, x)
    close(got, expected, rtol=1e-4, atol=2e-4)


def test_cross_entropy_is_least_for_its_own_code():
    x = jnp.float32(3.3)
    code = BINS.encode(x)
    own = jnp.log(code + 1e-9)
    slope = jax.grad(BINS.cross_entropy)(own, x)
    close(slope, np.zeros(101), atol=1e-5)


# --- Gaussians ------------------------------------------------------------------------


def gaussians():
    pair = st.tuples(floats(-3, 3, 2), floats(0.125, 3, 2))
    return pair.map(lambda ms: Gaussian(jnp.asarray(ms[0]), jnp.asarray(ms[1])))


def density(p, x):
    """Of each coordinate (last axis), in float64, at points x."""
    mean, std = np.float64(p.mean), np.float64(p.std)
    u = (x[:, None] - mean) / std
    return np.exp(-0.5 * u * u) / (std * math.sqrt(2 * math.pi))


def integrate(y, x):
    return np.trapezoid(y, x, axis=0)


def test_gaussians_by_hand():
    """KL(N(0,1)‖N(1,2²)) = ln 2 + (1 + 1)/8 − ½; H(N(·,σ²)) = ½ ln(2πe σ²)."""
    p = Gaussian(jnp.zeros(1), jnp.ones(1))
    q = Gaussian(jnp.ones(1), 2 * jnp.ones(1))
    close(numerics.kl(p, q), [math.log(2) - 0.25])
    # The other way about: −ln 2 + (4 + 1)/2 − ½.
    close(numerics.kl(q, p), [2 - math.log(2)])
    close(numerics.entropy(q), [0.5 * math.log(2 * math.pi * math.e * 4)])
    at = jnp.full(1, 3.0)
    close(numerics.log_density(q, at), [-0.5 - 0.5 * math.log(8 * math.pi)])


log_densities = jax.jit(jax.vmap(numerics.log_density, (None, 0)))


@few
@given(gaussians(), gaussians())
def test_kl_is_positive_and_equals_the_integral(p, q):
    divergence = np.asarray(numerics.kl(p, q))
    assert (divergence >= -1e-6).all()
    close(numerics.kl(p, p), np.zeros(2))
    x = np.linspace(-20, 20, 20001)
    points = jnp.asarray(np.repeat(x[:, None], 2, 1), jnp.float32)
    log_p, log_q = (np.asarray(log_densities(g, points)) for g in (p, q))
    integral = integrate(density(p, x) * (log_p - log_q), x)
    close(divergence, integral, rtol=2e-3, atol=2e-3)


@few
@given(gaussians())
def test_entropy_is_minus_the_mean_log_density(p):
    x = np.linspace(-25, 25, 20001)
    f = density(p, x)
    close(numerics.entropy(p), -integrate(f * np.log(f + 1e-300), x), rtol=1e-4)


# --- Policies -------------------------------------------------------------------------

SQUASHED = Squashed(-10.0, 2.0)
CLAMPED = Clamped(-3.0, 1.0)
HERMITE = np.polynomial.hermite_e.hermegauss(40)


def expected(function):
    """E[function(ε)] over one standard normal ε, by Gauss-Hermite quadrature."""
    points, weights = HERMITE
    values = np.asarray(jax.vmap(function)(jnp.asarray(points[:, None], jnp.float32)))
    return np.tensordot(weights / weights.sum(), values, 1)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.4), (0.7, 0.3), (-1.0, 0.2)])
def test_the_squashed_density_integrates_to_one(mean, std):
    pi = Gaussian(jnp.full(1, mean), jnp.full(1, std))
    a = np.tanh(np.linspace(-4, 4, 8001))
    eps = jnp.asarray((np.arctanh(a) - mean) / std, jnp.float32)[:, None]
    sample = jax.vmap(lambda e: SQUASHED.sample(pi, e))(eps)
    close(sample.action[:, 0], a, rtol=1e-4, atol=1e-5)
    f = np.exp(np.asarray(sample.log_density[:, 0], np.float64))
    assert integrate(f, a) == pytest.approx(1, abs=1e-3)
    # The same density gives the mean action that sampling gives.
    mean_action = expected(lambda e: SQUASHED.sample(pi, e).action)[0]
    assert integrate(f * a, a) == pytest.approx(mean_action, abs=1e-3)


def test_the_slope_of_tanh_is_exact_where_it_rounds_to_zero():
    """1 − tanh²(20) = 4 e⁻⁴⁰ up to a factor 1 − e⁻⁴⁰: its log is ln 4 − 40."""
    close(numerics.log_tanh_slope(jnp.array([0.0, 20.0])), [0.0, math.log(4) - 40])
    close(jax.grad(numerics.log_tanh_slope)(20.0), -2.0)


def test_families_by_hand():
    """Raw log σ = 0 is the middle of the range: e⁻⁴ squashed, e⁻¹ clamped."""
    raw = jnp.array([0.5, -2.0, 0.0, 0.0])
    squashed, clamped = SQUASHED.distribution(raw), CLAMPED.distribution(raw)
    close(squashed, Gaussian(raw[:2], jnp.full(2, math.exp(-4))))
    close(clamped, Gaussian(jnp.tanh(raw[:2]), jnp.full(2, math.exp(-1))))
    eps = jnp.array([10.0, -1.0])
    drawn = CLAMPED.sample(clamped, eps)
    point = math.tanh(0.5) + 10 * math.exp(-1)
    assert drawn.action[0] == 1.0
    close(drawn.point[0], point)
    close(SQUASHED.mode(squashed), jnp.tanh(raw[:2]))
    close(CLAMPED.mode(clamped), jnp.tanh(raw[:2]))
    # Bounds of log σ are reached and never passed.
    for extreme, std in ((-50.0, math.exp(-3)), (50.0, math.exp(1))):
        pi = CLAMPED.distribution(jnp.array([0.0, extreme]))
        close(pi.std, [std])


@pytest.mark.parametrize("family", [SQUASHED, CLAMPED], ids=["squashed", "clamped"])
def test_one_sample_estimates_the_kl_without_bias(family):
    pi = Gaussian(jnp.full(1, 0.3), jnp.full(1, 0.4))
    prior = Gaussian(jnp.full(1, -0.2), jnp.full(1, 0.7))
    sampled = DIVERGENCES["sampled"]

    def cost(eps):
        return sampled(pi, family.sample(pi, eps), prior, Hypers())

    if family.in_action_space:
        close(expected(cost), numerics.kl(pi, prior))
        return
    # ∫ π ln(π / prior) over actions, π being the density of tanh(u), u ~ N.
    u = np.linspace(-4, 4, 8001)
    a = np.tanh(u)
    log_slope = np.log1p(-(a**2))
    log_pi = np.log(density(pi, u))[:, 0] - log_slope
    log_prior = np.log(density(prior, a))[:, 0]
    integral = integrate(np.exp(log_pi) * (log_pi - log_prior), a)
    close(expected(cost), [integral], rtol=1e-3)


def test_entropy_bonuses_by_hand():
    """The formulas of §1.4, with A = 2 and numbers put in."""
    u, eps = np.array([0.5, -0.8]), np.array([1.2, -0.4])
    sigma = np.array([0.3, 0.6])
    pi = Gaussian(jnp.asarray(u - sigma * eps, jnp.float32), jnp.asarray(sigma, "f4"))
    drawn = SQUASHED.sample(pi, jnp.asarray(eps, jnp.float32))
    core, constant = -0.5 * eps**2 - np.log(sigma), 0.5 * math.log(2 * math.pi)
    slope = 1 - np.tanh(u) ** 2
    by_hand = {
        "scaled": -2 * np.sum(core - constant),
        "closed_form": 2 * np.sum(np.log(sigma) + 0.5 + constant),
        "legacy": -(2 * (np.sum(core) - constant) - np.sum(np.log(slope + 1e-6))),
        "exact": -np.sum(core - constant - np.log(slope)),
    }
    assert set(by_hand) == set(ENTROPIES)
    for name, value in by_hand.items():
        close(ENTROPIES[name](pi, drawn), value, rtol=1e-5)


def test_the_scaled_entropy_pulls_equally_on_every_log_std():
    """Pitfall P2: its gradient is 0 for the mean and A for every log σ."""
    eps = jnp.array([0.3, -1.0, 2.0])

    def bonus(mean, log_std):
        pi = Gaussian(mean, jnp.exp(log_std))
        return ENTROPIES["scaled"](pi, SQUASHED.sample(pi, eps))

    of_mean, of_std = jax.grad(bonus, (0, 1))(jnp.ones(3), jnp.full(3, -0.7))
    close(of_mean, np.zeros(3))
    close(of_std, np.full(3, 3.0))


def test_the_closed_form_is_the_mean_of_the_scaled_entropy():
    pi = Gaussian(jnp.full(1, 0.3), jnp.full(1, 0.4))
    mean = expected(lambda e: ENTROPIES["scaled"](pi, CLAMPED.sample(pi, e)))
    close(ENTROPIES["closed_form"](pi, CLAMPED.sample(pi, jnp.zeros(1))), mean)


# --- Masks and running scales ---------------------------------------------------------


def test_masked_mean():
    x = jnp.array([1.0, jnp.nan, 3.0])
    close(numerics.masked_mean(x, jnp.array([True, False, True])), 2.0)
    assert numerics.masked_mean(x, jnp.zeros(3, bool)) == 0


masks = st.lists(st.booleans(), min_size=N, max_size=N).map(np.array)


@few
@given(floats(-1000, 1000), masks)
def test_the_spread_ignores_what_is_masked(x, mask):
    filled = jnp.asarray(np.where(mask, x, np.float32(np.nan)))
    shown = jnp.asarray(mask)
    got = jax.jit(numerics.spread)(filled, shown)
    if not mask.any():
        scale = numerics.update_scale(jnp.float32(3.0), filled, shown, 0.5)
        assert scale == 3.0
        return
    low, high = np.percentile(x[mask].astype(np.float64), [5, 95])
    close(got, high - low, rtol=1e-4, atol=1e-3)
    scale = numerics.update_scale(jnp.float32(3.0), filled, shown, 0.5)
    close(scale, 3 + 0.5 * (max(high - low, 1) - 3), rtol=1e-4, atol=1e-3)


def test_a_running_scale_by_hand():
    """Of 0…20 the 5th and 95th percentiles are 1 and 19: a spread of 18."""
    x, every = jnp.arange(21.0), jnp.ones(21, bool)
    close(numerics.update_scale(jnp.ones(()), x, every, 0.01), 1.17)
    # Never below 1, however small the spread.
    close(numerics.update_scale(jnp.ones(()), x * 1e-3, every, 0.01), 1.0)
    moved = jax.grad(lambda y: numerics.update_scale(jnp.ones(()), y, every, 0.5))(x)
    close(moved, np.zeros(21))


def test_mish_and_its_slope():
    x = jnp.array([-100.0, -5.0, -0.3, 0.0, 1.0, 30.0, 100.0])
    close(numerics.mish(x), jax.nn.mish(x))
    slope = jax.vmap(jax.grad(jax.nn.mish))(x)
    close(numerics.mish_slope(x), slope, rtol=1e-4)
    close(jax.vmap(jax.grad(numerics.mish))(x), slope, rtol=1e-4)
