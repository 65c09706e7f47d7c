"""What every suite of tasks keeps; new ones are found by being there.

A suite is tested where its package is installed. Meta-World and MyoSuite cannot live
beside dm_control, so `docs/suites.md` says how to run this file for each of them.
"""

import importlib.util
import os
import sys
from types import ModuleType, SimpleNamespace

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit

from planprior import methods, settings
from planprior.envs import registry
from planprior.envs.base import Env, EnvError, Outcome
from planprior.envs.device import DevicePool
from toys_device import Fuse, FuseState

SUITES = registry._suites()


def installed(suite: ModuleType) -> bool:
    needed = getattr(suite, "REQUIRES", None)
    return needed is None or importlib.util.find_spec(needed) is not None


def some(tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Three of them, spread over the list; one where each takes a minute to compile."""
    if "CartpoleBalance" in tasks:
        return ("CartpoleBalance",)
    return tasks[:: max(1, len(tasks) // 3)][:3]


TASKS = [
    f"{prefix}:{task}"
    for prefix, suite in SUITES.items()
    if installed(suite)
    for task in some(suite.TASKS)
]


def actions(env: Env, steps: int) -> np.ndarray:
    size = (steps, env.spec.action_dim)
    return np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)


def episode(env: Env, seed: int | None = None, steps: int = 5) -> np.ndarray:
    """What is seen at the start of an episode."""
    first = env.reset(seed)
    return np.stack([first] + [env.step(a).observation for a in actions(env, steps)])


@pytest.fixture(scope="module", params=TASKS)
def env(request):
    made = registry.make_env(request.param, 5)
    yield made
    made.close()


def check(outcome: Outcome, env: Env) -> None:
    spec = env.spec
    assert outcome.observation.shape == (spec.observation_dim,)
    assert outcome.observation.dtype == np.float32
    assert np.isfinite(outcome.observation).all()
    assert type(outcome.reward) is float and np.isfinite(outcome.reward)
    assert type(outcome.terminated) is bool and type(outcome.truncated) is bool
    assert type(outcome.success) is (bool if spec.has_success else type(None))


def test_sizes_and_types_are_those_of_the_specification(env):
    first = env.reset()
    assert (first.shape, first.dtype) == ((env.spec.observation_dim,), np.float32)
    assert registry.resolve(env.spec.name) == env.spec.name
    for action in actions(env, 3):
        check(env.step(action), env)


def test_everything_random_follows_from_the_seed(env):
    once = episode(env, seed=5)
    again = episode(env)  # the stream goes on
    np.testing.assert_array_equal(episode(env, seed=5), once)
    np.testing.assert_array_equal(episode(env), again)
    fresh = registry.make_env(env.spec.name, 5)
    np.testing.assert_array_equal(episode(fresh), once)
    np.testing.assert_array_equal(episode(fresh), again)
    fresh.close()


def test_an_episode_goes_on_from_its_state(env):
    """Those of the device are asked for by their pool: test_device.py."""
    if env.spec.name.startswith("playground:"):
        pytest.skip("told by the pool")
    other = registry.make_env(env.spec.name, 8)
    moves = actions(env, 30)
    for seed in (5, None):  # the first episode of a seed, and a later one
        env.reset(seed)
        for move in moves[:20]:
            if env.step(move).terminated:
                env.reset()
        state = env.state()
        assert state is not None
        other.reset()
        other.set_state(state)
        for move in moves[20:]:
            ours, theirs = env.step(move), other.step(move)
            np.testing.assert_array_equal(theirs.observation, ours.observation)
            assert theirs[1:] == ours[1:]
            if ours.terminated:
                break
    np.testing.assert_array_equal(other.reset(), env.reset())
    other.close()


def test_an_episode_ends_once_and_by_its_specification(env):
    env.reset(1)
    limit = env.spec.episode_length
    outcome, left = None, list(actions(env, limit))
    while outcome is None or not (outcome.terminated or outcome.truncated):
        outcome = env.step(left.pop())
    check(outcome, env)
    assert outcome.terminated != outcome.truncated
    assert outcome.truncated == (not left)
    assert env.spec.can_terminate or not outcome.terminated
    env.reset()
    assert not env.step(actions(env, 1)[0]).truncated


def test_an_observation_stays_as_it_was(env):
    first = env.reset()
    kept = first.copy()
    second = env.step(actions(env, 1)[0]).observation
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)


@pytest.mark.skipif(os.environ.get("MUJOCO_GL") != "egl", reason="not told to draw")
def test_pictures_show_what_happens_in_the_size_asked_for(env):
    """`MUJOCO_GL=egl python -m pytest tests/test_suites.py`, where there is EGL."""
    env.reset(0)
    try:
        first = env.render()
    except EnvError as error:
        pytest.skip(str(error))
    for action in actions(env, 5):
        env.step(action)
    later, large = env.render(), env.render(480, 640)
    assert first.shape == later.shape == (240, 320, 3) and large.shape == (480, 640, 3)
    assert first.dtype == np.uint8 and first.std() > 5
    assert (first != later).any()
    # The camera was there from the first.
    env.reset(0)
    np.testing.assert_array_equal(env.render(), first)


@pytest.mark.parametrize("prefix", [p for p in SUITES if installed(SUITES[p])])
def test_seeds_differ(prefix):
    """In at least one task: some always start in the same state."""
    differ = []
    for task in some(SUITES[prefix].TASKS):
        envs = [registry.make_env(f"{prefix}:{task}", seed) for seed in (1, 2)]
        starts = [env.reset() for env in envs]
        differ.append((starts[0] != starts[1]).any())
        for env in envs:
            env.close()
    assert any(differ)


@pytest.mark.parametrize("prefix", SUITES)
def test_a_missing_package_comes_with_the_command(prefix, monkeypatch):
    suite = SUITES[prefix]
    if not hasattr(suite, "REQUIRES"):
        pytest.skip("it needs no package")
    find = importlib.util.find_spec
    hidden = suite.REQUIRES
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == hidden else find(name)
    )
    with pytest.raises(ModuleNotFoundError, match=r"needs the package .*pip install"):
        registry.make_pool(f"{prefix}:{suite.TASKS[0]}", 1, seed=0)


@pytest.mark.parametrize("prefix", SUITES)
def test_what_a_suite_proposes_are_settings(prefix):
    proposed = registry.proposed_settings(f"{prefix}:{SUITES[prefix].TASKS[0]}")
    assert settings.parse(proposed) == proposed


class Careless(gymnasium.Env):
    """Draws as HumanoidBench's tasks do, and sees something of the episode before."""

    action_space = gymnasium.spaces.Box(-1, 1, (2,))
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,))
    model = data = None
    camera_name = "cam_default"
    goal = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        before, self.goal = self.goal, np.random.uniform()  # noqa: NPY002
        return np.array([self.goal, before, self.np_random.uniform()]), {}

    def step(self, action):
        seen = np.array([self.goal, np.random.normal(), 0.0])  # noqa: NPY002
        return seen, 0.0, False, False, {}


def test_humanoid_bench_draws_from_the_seed_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "humanoid_bench", ModuleType("humanoid_bench"))
    monkeypatch.setattr(
        gymnasium, "make", lambda *_, **__: TimeLimit(Careless(), max_episode_steps=9)
    )
    make = SUITES["humanoid_bench"].make
    one, other = make("h1hand-reach-v0", 5), make("h1hand-reach-v0", 5)
    state = str(np.random.get_state())  # noqa: NPY002
    for seed in (None, None, 5, None):
        first = episode(one, seed)
        np.testing.assert_array_equal(episode(other, seed), first)
        assert first[0, 0] == first[0, 1] and len(np.unique(first[1:, 1])) == 5
    assert str(np.random.get_state()) == state  # noqa: NPY002
    # The episode goes on where it was, with what it will draw.
    saved = one.state()
    assert saved is not None
    other.reset(8)
    other.set_state(saved)
    for action in actions(one, 3):
        seen = [env.step(action).observation for env in (one, other)]
        np.testing.assert_array_equal(*seen)
    np.testing.assert_array_equal(episode(other), episode(one))


def test_humanoid_bench_goes_by_its_papers():
    assert registry.proposed_settings("h1hand-walk-v0") == {"terminations": "bootstrap"}
    assert registry.proposed_settings("walker-walk") == {}


class Diverging(Fuse):
    """What Playground makes: a state that is not finite is `done`."""

    def step(self, state, action):
        after = super().step(state, action)
        lost = jax.tree.map(lambda x: x * jnp.nan, after.obs)
        return FuseState(lost, after.reward, jnp.ones(()))


def test_episodes_of_playground_end_by_the_time_limit_alone(monkeypatch):
    """So that no continue head is learned, and what diverges is no end of a task."""
    suite = SimpleNamespace(
        get_default_config=lambda task: SimpleNamespace(ctrl_dt=0.01),
        load=lambda task, config: Diverging(),
    )
    monkeypatch.setitem(
        sys.modules, "mujoco_playground", SimpleNamespace(dm_control_suite=suite)
    )
    env = SUITES["playground"].make("CartpoleBalance", 0)
    assert (env.spec.can_terminate, env.spec.episode_length) == (False, 500)
    config, _ = methods.make("pompc", env.spec, "tiny")
    assert config.terminations == "masked"
    with DevicePool(env, 2, seed=0) as pool:
        pool.reset()
        with pytest.raises(EnvError, match=r"nan .*the simulation has diverged"):
            pool.step(np.zeros((2, 1)))
