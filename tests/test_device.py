"""Environments on the device: the contract, and pools of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toys_device as toys
from planprior.envs import device, registry
from planprior.envs.base import EnvError
from planprior.envs.device import DevicePool, OnHost
from planprior.envs.pool import Pool, Step
from planprior.envs.rows import env_seeds

N = 4


def actions(steps: int, num: int = N) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.2, 1.2, (steps, num, 1)).astype("f4")


def play(pool: Pool, steps: int = 25) -> list[Step]:
    return [pool.step(a) for a in actions(steps, pool.num_envs)]


def test_episodes_end_apart_and_show_both_sides_of_the_border():
    with DevicePool(toys.Uneven(), N, seed=0) as pool:
        seen, count = pool.reset(), np.zeros(N)
        lengths = set()
        for step in play(pool):
            count += 1
            np.testing.assert_allclose(step.observation[:, 0], count / 10, rtol=1e-6)
            # The draw is the episode's: both sides belong to their own.
            np.testing.assert_array_equal(step.observation[:, 1:], seen[:, 1:])
            np.testing.assert_array_equal(step.episode_length, count)
            np.testing.assert_array_equal(step.truncated, count == toys.LENGTH)
            np.testing.assert_array_equal(step.success, step.terminated)
            lengths |= set(count[step.ended])
            count[step.ended] = 0
            seen = step.reset_observation
            np.testing.assert_allclose(seen[:, 0], count / 10, rtol=1e-6)
            same = (seen == step.observation).all(axis=1)
            np.testing.assert_array_equal(same, ~step.ended)
    assert len(lengths) > 1 and toys.LENGTH in lengths


def test_seeds():
    with (
        DevicePool(toys.Uneven(), N, 1) as pool,
        DevicePool(toys.Uneven(), 2, 1) as two,
    ):
        once = pool.reset()
        assert len(np.unique(once, axis=0)) == N, "environments must differ"
        np.testing.assert_array_equal(two.reset(), once[:2])
        assert not np.isin(pool.reset()[:, 1:], once[:, 1:]).any(), "it must go on"
        assert not np.isin(pool.reset(2)[:, 1:], once[:, 1:]).any()
        np.testing.assert_array_equal(pool.reset(1), once)


def test_one_on_the_host_equals_its_row_of_a_pool():
    with DevicePool(toys.Uneven(), N, seed=3) as pool:
        first, steps = pool.reset(), play(pool)
    one = OnHost(toys.Uneven(), env_seeds(3, N)[2])
    np.testing.assert_array_equal(one.reset(), first[2])
    for action, step in zip(actions(25), steps, strict=True):
        outcome = one.step(action[2])
        np.testing.assert_array_equal(outcome.observation, step.observation[2])
        assert outcome.reward == pytest.approx(step.reward[2])
        assert outcome.terminated == step.terminated[2] == outcome.success
        assert outcome.truncated == step.truncated[2]
        if outcome.terminated or outcome.truncated:
            np.testing.assert_array_equal(one.reset(), step.reset_observation[2])


def test_a_compiled_loop_makes_the_same_steps():
    env, keys = toys.Uneven(), device.env_keys(env_seeds(0, N))

    @jax.jit
    def loop(actions):
        envs = device.begin(env, keys, jnp.zeros(N, jnp.int32))
        return jax.lax.scan(lambda e, a: device.advance(env, e, a, keys), envs, actions)

    _, together = loop(jnp.asarray(actions(25)))
    with DevicePool(env, N, seed=0) as pool:
        pool.reset()
        for t, step in enumerate(play(pool)):
            for mine, theirs in zip(step, together, strict=True):
                np.testing.assert_allclose(mine, theirs[t], rtol=1e-6)


def test_actions_are_clipped():
    with DevicePool(toys.Aim(), 1, seed=0) as pool:
        pool.reset()
        assert pool.step([[3.0]]).reward == pool.step([[1.0]]).reward


def test_values_that_are_not_finite_are_named():
    with DevicePool(toys.Broken(), N, seed=0) as pool:
        pool.reset()
        with pytest.raises(EnvError, match=r"environment 0 of .* nan in its reward;"):
            play(pool)


def test_a_pool_goes_on_from_its_state():
    """The keys, from which the coming episodes follow, are numbers there."""
    env = toys.Uneven()
    with DevicePool(env, N, 0) as pool, DevicePool(env, N, 1) as other:
        pool.reset()
        other.reset()
        play(pool, 7)
        state = pool.state()
        assert state is not None and state["keys"].dtype == np.uint32
        other.set_state(state)
        for mine, theirs in zip(play(pool, 14), play(other, 14), strict=True):
            jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_a_pool_tells_what_an_environment_takes():
    pool = DevicePool(toys.Aim(), N, 0)
    # Steps and two draws; the observation; return, length and number of the episode.
    assert pool.bytes_on_device() == 4 * (3 + 3 + 3)


def test_a_picture_is_refused_in_one_sentence():
    env = OnHost(toys.Aim(), 0)
    env.reset()
    with pytest.raises(EnvError, match=r"toys_device:Aim has no render\(\)"):
        env.render()


def test_an_environment_of_brax_is_taken_as_it_is():
    """The action is repeated, rewards are summed, and none is given after an end."""
    env = device.from_brax(
        toys.Fuse(), name="toys_device:fuse", episode_length=3, action_repeat=2
    )
    assert (env.spec.observation_dim, env.spec.action_dim) == (3, 1)
    with DevicePool(env, 2, seed=0) as pool:
        first = pool.reset()
        np.testing.assert_array_equal(first, [[0, 1, 1], [0, 1, 1]])
        one, two = pool.step([[0.0], [1.0]]), pool.step([[0.0], [1.0]])
    # Step t gives t; the fuse of the second burns twice as fast and ends at step 3.
    np.testing.assert_array_equal(one.reward, [1 + 2, 1 + 2])
    np.testing.assert_array_equal(two.reward, [3 + 4, 3])
    np.testing.assert_array_equal(two.terminated, [False, True])
    np.testing.assert_array_equal(two.observation[:, 0], [4, 3])
    np.testing.assert_array_equal(two.reset_observation[:, 0], [4, 0])


def test_an_end_may_be_a_number():
    with (
        DevicePool(toys.Uneven(), N, seed=0) as one,
        DevicePool(toys.Numbered(), N, seed=0) as other,
    ):
        one.reset()
        other.reset()
        for _ in range(2 * toys.LENGTH):
            a, b = one.step(np.zeros((N, 1))), other.step(np.zeros((N, 1)))
            np.testing.assert_array_equal(a.terminated, b.terminated)
            np.testing.assert_array_equal(a.observation, b.observation)


@pytest.mark.parametrize("kind", [toys.Whole, toys.Half])
def test_what_is_seen_becomes_float32(kind):
    """At the beginning and later alike, or no loop could carry it."""
    with DevicePool(kind(), N, seed=0) as pool:
        assert isinstance(pool, DevicePool)
        pool.reset()
        before = jax.tree.map(jnp.shape, pool.envs)
        for _ in range(toys.LENGTH):
            pool.step(np.zeros((N, 1)))
        assert pool.envs is not None and pool.envs.observation.dtype == jnp.float32
        assert jax.tree.map(jnp.shape, pool.envs) == before
    keys, zeros = device.env_keys(range(N)), jnp.zeros(N, jnp.int32)
    first = jax.eval_shape(lambda: device.begin(kind(), keys, zeros))
    later, _ = jax.eval_shape(
        lambda envs: device.advance(kind(), envs, jnp.zeros((N, 1)), keys), first
    )
    assert jax.tree.map(lambda x: x.dtype, later) == jax.tree.map(
        lambda x: x.dtype, first
    )


def test_physics_are_exact_whatever_the_products_of_the_agent_are():
    keys, zeros = device.env_keys(range(N)), jnp.zeros(N, jnp.int32)
    with jax.default_matmul_precision("bfloat16"):
        first = jax.eval_shape(lambda: device.begin(toys.Multiplied(), keys, zeros))
        traced = jax.make_jaxpr(
            lambda envs: device.advance(
                toys.Multiplied(), envs, jnp.zeros((N, 1)), keys
            )
        )(first)
    text = str(traced)
    products = text.count("dot_general[")
    assert products and text.count("(Precision.HIGHEST, Precision.HIGHEST)") == products


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("Short", r"Aim: an observation has shape \(1,\); it must be \(3,\)"),
        ("ShortLater", r"Aim: an observation has shape \(1,\); it must be \(3,\)"),
        ("Rewarding", r"Aim: a step's reward has shape \(1,\); it must be \(\)"),
        ("Branching", r"step\(\) of toys_device:Aim failed: TracerBoolConversionError"),
        ("Unspecified", "Unspecified has None as its spec; it must be a planprior.Env"),
    ],
)
def test_what_breaks_its_own_word_is_one_sentence(kind, sentence):
    with pytest.raises(EnvError, match=sentence) as caught:
        registry.make_pool(f"toys_device:{kind}", N, seed=0).reset()
    assert "\n" not in str(caught.value)
    with pytest.raises(EnvError, match=sentence):
        registry.make_env(f"toys_device:{kind}", 0).reset()


def test_ones_own_environment_is_found_by_name():
    with registry.make_pool("toys_device:Uneven", N, seed=3, workers=2) as pool:
        assert isinstance(pool, DevicePool)
        first = pool.reset()
    env = registry.make_env("toys_device:Uneven", env_seeds(3, N)[1])
    np.testing.assert_array_equal(env.reset(), first[1])


def test_options_of_an_environment_on_the_device_are_refused():
    task = "toys_device:Uneven,action_repeat=2"
    for build in (
        registry.make_env,
        lambda task, seed: registry.make_pool(task, N, seed),
    ):
        with pytest.raises(EnvError, match="has options, which a DeviceEnv does not"):
            build(task, 0)
