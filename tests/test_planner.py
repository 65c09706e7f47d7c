"""The planner, on models whose best plan is known."""

import dataclasses
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fakes
from fakes import HYPERS, Ending, K, LinearQuadratic, P
from helpers import change, close, method, same, setup
from planprior import agent, draws, nets, planner
from planprior.policies import Clamped, Policy

H, N, ELITES, SEEDS = 3, 64, 8, 6
CONFIG = dataclasses.replace(method("tdmpc2")[0], horizon=H)
CONFIG = change(
    CONFIG,
    "planner",
    num_samples=N,
    num_elites=ELITES,
    num_policy_trajectories=SEEDS,
    iterations=6,
)


def a_key():
    """The same key every time: a key is consumed by its use."""
    return jax.random.key(7)


few = settings(max_examples=15, deadline=None, derandomize=True)


def make_policy(mean=(0.0, 0.0), std=0.3, size=2):
    """A clamped policy that says the same everywhere."""
    net = nets.MLP.init(size, [4, 4], 4, key=jax.random.key(1))
    raw = jnp.concatenate([jnp.arctanh(jnp.asarray(mean)), jnp.zeros(2)])
    last = nets.Linear(jnp.zeros_like(net.last.weight), raw)
    low = float(np.log(std))
    return Policy(nets.MLP(net.hidden, last), Clamped(low - 0.01, low + 0.01))


MODEL = fakes.make(LinearQuadratic, CONFIG, key=a_key())
POLICY = make_policy()


def _plan(model, z, warm_start, reset, hypers, key, config=CONFIG, explore=True):
    return planner.plan_all(
        model, POLICY, (POLICY,), z, warm_start, reset, hypers, config.planner,
        key=key, explore=explore,
    )  # fmt: skip


compiled = jax.jit(_plan, static_argnames=("config", "explore"))


def states(*rows):
    return jnp.asarray(rows, jnp.float32)


def plan_for(z, *, model=MODEL, warm=None, reset=None, hypers=HYPERS, key=None, **kw):
    warm = jnp.zeros((len(z), H, 2)) if warm is None else warm
    reset = jnp.zeros(len(z), bool) if reset is None else jnp.asarray(reset)
    key = a_key() if key is None else key
    return compiled(model, z, warm, reset, hypers.arrays(), key, **kw)


THREE = states([0.6, -0.4], [-0.5, 0.3], [0.1, 0.7])


class Scripted(NamedTuple):
    """Noise of our choice; the drawn elite too."""

    noise: jax.Array
    seeds_noise: jax.Array
    chosen: int = 0

    def seeds(self):
        return self.seeds_noise

    def iteration(self, i):
        samples = self.noise.shape[1] + self.seeds_noise.shape[1]
        return draws.Noise(self.noise, jnp.zeros((samples, 2)))

    def heads(self, i):
        return jnp.arange(2)

    def elite(self, weights):
        return jnp.int32(self.chosen)

    def exploration(self):
        return jnp.full(2, 0.5)


def scripted_plan(chosen=0, explore=False, warm=None, noise=None, **choices):
    config = change(CONFIG, "planner", iterations=2, **choices).planner
    if noise is None:
        noise = np.random.default_rng(0).normal(size=(H, N - SEEDS, 2))
    script = Scripted(jnp.asarray(noise, jnp.float32), jnp.zeros((H, SEEDS, 2)), chosen)
    warm = jnp.zeros((H, 2)) if warm is None else warm
    return planner.plan(
        MODEL, POLICY, (POLICY,), THREE[0], warm, HYPERS.arrays(), config,
        draws=script, explore=explore,
    )  # fmt: skip


# --- It finds the best plan -----------------------------------------------------------


def test_it_finds_the_linear_quadratic_optimum():
    """The best action is −Kz (all inside the box), the best value −zᵀPz."""
    planning = {"num_samples": 256, "num_elites": 16, "iterations": 10}
    config = change(CONFIG, "planner", **planning)
    plan = plan_for(THREE, config=config, explore=False)
    best = -np.asarray(THREE) @ K.T
    assert np.abs(best).max() < 0.95
    close(plan.mean[:, 0], best, rtol=0, atol=0.05)
    optimum = -np.einsum("ei,ij,ej->e", THREE, P, THREE)
    assert (plan.value <= optimum + 1e-4).all()
    for z, mean, most in zip(THREE, plan.mean, optimum, strict=True):
        assert value_of(z, mean) >= most - 0.02


def value_of(z, actions):
    path = planner.rollout(MODEL, z, actions, HYPERS.arrays(), CONFIG.planner)
    value = planner.sequence_value(MODEL, POLICY, path, jnp.zeros(2), jnp.arange(2))
    return float(value)


def test_iterations_improve_the_plan():
    start = value_of(THREE[0], jnp.zeros((H, 2)))
    found = plan_for(THREE, explore=False)
    assert value_of(THREE[0], found.mean[0]) > start + 0.02


def test_the_value_of_a_sequence_by_hand():
    z, actions = THREE[0], jnp.asarray([[0.5, -0.5], [0.2, 0.1], [0.0, 0.3]])
    total, x = 0.0, np.asarray(z, np.float64)
    for t, a in enumerate(np.asarray(actions, np.float64)):
        total += 0.9**t * (-x @ x - fakes.COST * a @ a)
        x = fakes.A @ x + fakes.B @ a
    close(value_of(z, actions), total - 0.9**3 * x @ P @ x)


floats = st.floats(-3, 3, width=32)


@few
@given(
    st.tuples(*[floats] * 6),
    st.floats(-1, 1, width=32),
    st.floats(0.0078125, 0.5, width=32),
    st.floats(0.5, 2, width=32),
    st.floats(0.0, 100, width=32),
    st.integers(0, 1000),
)
def test_the_distribution_stays_in_its_bounds(z, warm, low, high, temperature, seed):
    hypers = dataclasses.replace(
        HYPERS, min_std=low, max_std=high, temperature=temperature
    )
    z = jnp.asarray(z, jnp.float32).reshape(3, 2)
    warm_start = jnp.full((3, H, 2), warm)
    key = jax.random.key(seed)
    plan = plan_for(z, warm=warm_start, hypers=hypers, key=key, explore=True)
    for x in (plan.action, plan.mean, plan.target.mean):
        assert (jnp.abs(x) <= 1 + 1e-6).all()
    std = plan.target.std
    assert (std >= low * (1 - 1e-6)).all() and (std <= high * (1 + 1e-6)).all()
    effective = plan.effective_elites
    assert (effective >= 1 - 1e-4).all() and (effective <= ELITES * (1 + 1e-4)).all()
    assert (plan.elite_std >= 0).all() and not plan.nan_count.any()


# --- Environments, warm starts --------------------------------------------------------


def test_environments_do_not_disturb_each_other():
    warm = jnp.asarray(np.random.default_rng(1).normal(size=(3, H, 2)), jnp.float32)
    before = plan_for(THREE, warm=warm, explore=True)
    z, warm = THREE.at[1].set(9.0), warm.at[1].set(0.0)
    after = plan_for(z, warm=warm, reset=[False, True, False], explore=True)
    for e in (0, 2):
        same(nets.take(after, e), nets.take(before, e))
    assert not np.allclose(after.action[1], before.action[1])
    # Same state, other noise: two environments never share their draws.
    twins = plan_for(jnp.tile(THREE[:1], (3, 1)), explore=True)
    assert len(np.unique(np.asarray(twins.action))) == 6


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_it_does_not_matter_for_how_many_states_a_cpu_plans_at_a_time(
    parts, monkeypatch
):
    """Also where the last part is smaller (3 parts), or each is a single state."""
    rng = np.random.default_rng(2)
    z = jnp.asarray(rng.normal(size=(5, len(THREE[0]))), jnp.float32)
    warm = jnp.asarray(rng.normal(size=(5, H, 2)), jnp.float32)
    reset = jnp.asarray([False, True, False, False, True])

    def plans(at_once):
        monkeypatch.setattr(planner, "SAMPLES_AT_ONCE", at_once * N)
        # A new function each time: JAX remembers how one was traced.
        traced = jax.jit(partial(_plan, MODEL)).trace(
            z, warm, reset, HYPERS.arrays(), a_key()
        )
        return str(traced.jaxpr), traced.lower().compile()(
            z, warm, reset, HYPERS.arrays(), a_key()
        )

    at_once, expected = plans(5)
    in_parts, got = plans(math.ceil(5 / parts))
    assert in_parts != at_once
    close(got, expected)


def test_the_warm_start_is_yesterdays_plan_moved_on():
    """Without noise the new mean is the old one, a step on, with zeros at its end."""
    warm = jnp.asarray([[0.1, 0.2], [0.3, 0.4], [-0.5, 0.6]])
    config = {"num_policy_trajectories": 0}
    script = Scripted(jnp.zeros((H, N, 2)), jnp.zeros((H, 0, 2)))
    plan = planner.plan(
        MODEL, POLICY, (POLICY,), THREE[0], warm, HYPERS.arrays(),
        change(CONFIG, "planner", **config).planner, draws=script, explore=False,
    )  # fmt: skip
    close(plan.mean, [[0.3, 0.4], [-0.5, 0.6], [0.0, 0.0]])
    close(plan.target.std, np.full(2, HYPERS.min_std))


def test_a_reset_drops_the_warm_start_of_its_environment_only():
    warm, reset = jnp.full((3, H, 2), 0.9), [True, False, True]
    told = plan_for(THREE, warm=warm, reset=reset, explore=True)
    cold = plan_for(THREE, explore=True)
    kept = plan_for(THREE, warm=warm, explore=True)
    for e, expected in enumerate((cold, kept, cold)):
        same(nets.take(told, e), nets.take(expected, e))
    assert not np.allclose(cold.mean, kept.mean)


# --- Heads ----------------------------------------------------------------------------


def test_only_the_drawn_heads_matter():
    """Of three heads two are drawn, by the call: spoil each in turn."""
    config = change(CONFIG, "planner", iterations=1)
    dims = draws.Dims(H, 2, N, SEEDS, 3)
    heads_key, _ = jax.random.split(a_key())
    drawn = draws.KeyedDraws(a_key(), heads_key, dims).heads(jnp.int32(0))
    assert len(set(map(int, drawn))) == 2
    expected = plan_for(THREE, config=config, explore=False)
    for head in range(3):
        bias = MODEL.value_heads.last.bias.at[head].set(jnp.nan)
        last = dataclasses.replace(MODEL.value_heads.last, bias=bias)
        heads = dataclasses.replace(MODEL.value_heads, last=last)
        model = dataclasses.replace(MODEL, value_heads=heads)
        plan = plan_for(THREE, model=model, config=config, explore=False)
        if head in drawn:
            assert (plan.nan_count == N).all()
        else:
            same(plan, expected)


def test_all_pairs_of_heads_are_drawn():
    draw = jax.jit(jax.vmap(lambda k: draws.draw_heads(4, key=k)))
    pairs = np.sort(draw(jax.random.split(jax.random.key(2), 200)), axis=1)
    assert len({tuple(pair) for pair in pairs.tolist()}) == 6
    assert (pairs[:, 0] != pairs[:, 1]).all()
    for count in (1, 2):
        same(draws.draw_heads(count, key=jax.random.key(3)), jnp.arange(count))


def test_no_more_is_computed_than_need_be():
    """Multiply-adds of one plan: two of five heads; what is shared, once.

    The first layer of reward and dynamics meets the first latent once for all samples,
    and the policy's trajectories are followed, and rolled out, once for all iterations.
    """
    config = dataclasses.replace(CONFIG, network=dataclasses.replace(
        CONFIG.network, latent_dim=32, mlp_dim=24, num_bins=11))  # fmt: skip
    config = change(config, "critic", num_heads=5)
    s = setup(config, method("tdmpc2")[1])
    jaxpr = jax.make_jaxpr(
        lambda: agent.act(
            s.state, jnp.zeros((1, 5)), jnp.zeros((1, H, 2)), jnp.ones(1, bool),
            s.hypers, config, key=a_key(), explore=True,
        )
    )()  # fmt: skip
    latent, width, bins, actions, iterations = 32, 24, 11, 2, 6
    tail = width * width + width * bins
    follow = (latent + actions) * width + width * width + width * latent
    score = (latent + actions) * width + tail
    pi = latent * width + width * width + width * 2 * actions
    per_path = 2 * (follow + score) + follow + score - 2 * latent * width
    once = 2 * latent * width
    seeding = SEEDS * (H * pi + (H - 1) * follow + per_path) + 2 * once
    each = (N - SEEDS) * per_path + N * (pi + 2 * score)
    encoder = 5 * 16 + 16 * latent
    # Decoding distributions, moments of the elites, and the shared part, which a
    # compiler takes out of the loop.
    smaller = N * 5 * bins + 2 * ELITES * H * actions + once
    limit = encoder + seeding + iterations * (each + smaller)
    assert 0.98 * limit < multiply_adds(jaxpr.jaxpr) <= limit


def multiply_adds(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            inner = [equation.invars[0].aval.shape[i] for i in contracted]
            total += int(np.prod(equation.outvars[0].aval.shape) * np.prod(inner))
        times = equation.params.get("length", 1)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * multiply_adds(inner)
    return total


# --- Choices --------------------------------------------------------------------------


def test_what_is_stored_and_what_is_executed():
    """The drawn elite, the best one or the mean; noise only on the executed action."""
    stored = {
        centre: scripted_plan(chosen=3, centre=centre)
        for centre in ("sampled_elite", "best_elite", "mean")
    }
    best = scripted_plan(chosen=0, centre="sampled_elite")
    same(stored["best_elite"].target, best.target)
    same(stored["mean"].target.mean, stored["mean"].mean[0])
    assert len({float(p.target.mean[0]) for p in stored.values()}) == 3
    for choice, plan in stored.items():
        evaluated = scripted_plan(chosen=3, evaluation=choice)
        same(evaluated.action, plan.target.mean)
        # Exploring always starts from the drawn elite, and leaves the target alone.
        explored = scripted_plan(chosen=3, explore=True, centre=choice)
        drawn = stored["sampled_elite"].target
        expected = jnp.clip(drawn.mean + 0.5 * drawn.std, -1, 1)
        close(explored.action, expected)
        same(explored.target, plan.target)
    assert best.value > stored["sampled_elite"].value


@pytest.mark.parametrize("explore", [False, True])
def test_the_value_is_that_of_what_is_executed(explore):
    """Of the drawn elite; or of the best, where evaluations act on that."""
    first, fourth = (scripted_plan(chosen=i, explore=explore).value for i in (0, 3))
    assert first > fourth
    for choice in ("sampled_elite", "best_elite", "mean"):
        plan = scripted_plan(chosen=3, explore=explore, evaluation=choice)
        acts_on_best = choice == "best_elite" and not explore
        same(plan.value, first if acts_on_best else fourth)


def test_elites_are_drawn_by_their_weight():
    dims = draws.Dims(H, 2, N, SEEDS, 3)
    weights = jnp.asarray([0.7, 0.3, 0.0])
    draw = jax.jit(jax.vmap(
        lambda k: draws.KeyedDraws(k, k, dims).elite(weights)))  # fmt: skip
    counts = np.bincount(draw(jax.random.split(jax.random.key(4), 2000)), minlength=3)
    assert counts[2] == 0
    assert abs(counts[0] / 2000 - 0.7) < 0.04


def test_seeds_come_in_equal_shares():
    left, right = make_policy((-0.5, 0.1), 1e-4), make_policy((0.5, -0.2), 1e-4)
    eps = jnp.zeros((H, SEEDS, 2))
    for seeders, firsts in (
        ((left,), [-0.5] * 6),
        ((left, right), [-0.5] * 3 + [0.5] * 3),
    ):
        paths = planner.propose(MODEL, seeders, THREE[0], eps)
        assert paths.shape == (H, SEEDS, 2)
        close(paths[0, :, 0], firsts, atol=1e-3)
    # The policy's trajectories are among what is searched: a plan as good as they are.
    good = make_policy(tuple(-K @ np.asarray(THREE[0])), 1e-4)
    script = Scripted(jnp.full((H, N - SEEDS, 2), 5.0), jnp.zeros((H, SEEDS, 2)))
    plan = planner.plan(
        MODEL, POLICY, (good,), THREE[0], jnp.zeros((H, 2)), HYPERS.arrays(),
        CONFIG.planner, draws=script, explore=False,
    )  # fmt: skip
    close(plan.target.mean, -K @ np.asarray(THREE[0]), rtol=1e-3)


def test_who_seeds():
    config, hypers = method("pompc")
    s = setup(config, hypers)
    names = {"policy": [s.state.policy], "prior": [s.state.prior.proposer()]}
    names["both"] = [*names["policy"], *names["prior"]]
    for seeds, expected in names.items():
        chosen = change(s.config, "planner", seeds=seeds)
        assert list(agent.seeders(s.state, s.state.policy, chosen)) == expected


@pytest.mark.parametrize(
    ("count", "seeds"), [(0, "policy"), (1, "both"), (16, "policy"), (5, "both")]
)
def test_any_number_of_seeds(count, seeds):
    config, hypers = method("pompc")
    config = change(
        config, "planner", num_policy_trajectories=count, seeds=seeds, iterations=1
    )
    s = setup(config, hypers)
    shape = jax.eval_shape(
        lambda: agent.act(
            s.state, jnp.zeros((2, 5)), jnp.zeros((2, 2, 2)), jnp.ones(2, bool),
            s.hypers, config, key=a_key(), explore=True,
        )
    )  # fmt: skip
    assert shape.action.shape == (2, 2)


def test_two_more_iterations_from_twenty_dimensions_on():
    planning = CONFIG.planner
    assert [planning.num_iterations(a) for a in (1, 19, 20, 38)] == [6, 6, 8, 8]
    fixed = dataclasses.replace(planning, extra_iterations=False)
    assert fixed.num_iterations(38) == 6


# --- What goes wrong is counted -------------------------------------------------------


def test_nan_is_counted_and_worth_nothing():
    model = fakes.make(fakes.Broken, CONFIG, key=a_key())
    plan = plan_for(THREE, model=model, explore=True)
    assert (plan.nan_count > 0).all() and (plan.nan_count < 6 * N).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(plan))
    assert not plan_for(THREE, explore=True).nan_count.any()


# --- Ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["threshold", "soft"])
def test_nothing_counts_after_a_predicted_end(how):
    """Rewards of 1, a last value of 10; the end where z₀ > 1, by logit 2 (z₀ − 1)."""
    config = dataclasses.replace(CONFIG, terminations="learned")
    config = change(config, "planner", termination=how)
    model = fakes.make(Ending, config, key=a_key())
    push = jnp.asarray([[1.0, 0.0]] * 3)
    z, x = jnp.asarray([0.9, 0.6]), np.array([0.9, 0.6])
    alive, total = 1.0, 0.0
    for t in range(3):
        total += 0.9**t * alive
        x = fakes.A @ x + fakes.B @ np.array([1.0, 0.0])
        end = 1 / (1 + np.exp(-2 * (x[0] - 1)))
        alive *= (end <= 0.5) if how == "threshold" else 1 - end
    path = planner.rollout(model, z, push, HYPERS.arrays(), config.planner)
    value = planner.sequence_value(model, POLICY, path, jnp.zeros(2), jnp.arange(2))
    close(value, total + 0.9**3 * alive * 10, rtol=1e-4)
    if how == "threshold":
        assert alive == 0 and total == 1  # the very first step ends it


# --- Planning again -------------------------------------------------------------------


def test_reanalysis_renews_the_plans_of_its_slices():
    config, hypers = method("pompc")
    config = change(config, "reanalysis", log_std_min=0.5, log_std_max=0.6)
    s = setup(config, hypers)
    seen = []

    def spy(model, policy, seeders, z, warm, reset, hypers, planning, *, key, explore):
        seen.append((policy, seeders, warm, reset, planning, explore))
        return planner.plan_all(
            model, policy, seeders, z, warm, reset, hypers, planning, key=key,
            explore=explore,
        )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agent, "plan_all", spy)
        fresh, plans = jax.jit(
            lambda: agent.reanalyse(s.state, s.batch, s.hypers, config, key=a_key())
        )()
    policy, seeders, _, reset, planning, explore = seen[0]
    # Values are those of the policy itself; only its seeds explore more.
    assert policy is s.state.policy
    assert (seeders[0].family.log_std_min, seeders[0].family.log_std_max) == (0.5, 0.6)
    assert reset.shape == (4,) and not explore and planning == config.planner
    assert plans.target.mean.shape == (2, 2, 2)
    same(fresh.plan.mean[:, :2], plans.target.mean)
    same(jax.tree.map(lambda x: x[:, 2:], fresh.plan),
         jax.tree.map(lambda x: x[:, 2:], s.batch.plan))  # fmt: skip
    assert fresh.has_plan[:, :2].all() and not fresh.plan_age[:, :2].any()
    same(fresh.has_plan[:, 2:], s.batch.has_plan[:, 2:])
    same((fresh.observation, fresh.action), (s.batch.observation, s.batch.action))


def test_reanalysis_may_plan_with_less():
    config = change(method("pompc")[0], "reanalysis", num_samples=8, iterations=1)
    less = config.reanalysis_planner()
    assert (less.num_samples, less.iterations, less.num_elites) == (8, 1, 4)
    again = change(method("pompc")[0], "reanalysis", num_samples=3).reanalysis_planner()
    assert (again.num_samples, again.num_elites) == (3, 3)
    assert again.iterations == config.planner.iterations
    # With many action dimensions it plans longer, as the planner does.
    assert (less.num_iterations(19), less.num_iterations(20)) == (1, 3)
