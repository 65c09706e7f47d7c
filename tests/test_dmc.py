"""DeepMind Control, compared with dm_control used plainly."""

import importlib.util
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from ctypes.util import find_library
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from planprior.envs import dmc, registry
from planprior.envs.base import Env, EnvError

if importlib.util.find_spec("dm_control") is None:
    pytest.skip("dm_control is not installed", allow_module_level=True)

suite = dmc._import_suite()


def actions(env: Env, steps: int, seed: int = 0) -> np.ndarray:
    size = (steps, env.spec.action_dim)
    return np.random.default_rng(seed).uniform(-1, 1, size).astype(np.float32)


def flat(observation) -> np.ndarray:
    """In dm_control's order."""
    return np.concatenate([np.ravel(x) for x in observation.values()]).astype("f4")


def plain(task: str, seed: int, monkeypatch):
    """The task as dm_control gives it, with its random numbers where ours are."""
    env = suite.load(*task.split("-"), task_kwargs={"random": seed})
    env.task.random.seed(seed)
    # quadruped-escape opens a window at every reset.
    monkeypatch.setattr(type(env.physics), "contexts", None)
    return env


def to_bounds(spec, action: np.ndarray) -> np.ndarray:
    if spec.maximum.max() >= 1e10:
        return action.astype("f8")
    middle = (spec.maximum + spec.minimum) / 2
    return middle + (spec.maximum - spec.minimum) / 2 * action.astype("f8")


def test_the_written_list_is_the_suite():
    assert dmc.TASKS == tuple("-".join(pair) for pair in suite.ALL_TASKS)
    assert set(dmc.ALIASES.values()) <= set(dmc.TASKS)


@pytest.mark.parametrize("task", dmc.TASKS)
def test_every_task_equals_plain_dm_control(task, monkeypatch):
    ours = registry.make_env(task, 3)
    theirs = plain(task, 3, monkeypatch)
    spec = theirs.action_spec()
    assert ours.spec.name == f"dm_control:{task}"
    assert (ours.spec.action_dim,) == spec.shape
    observation = ours.reset()
    assert observation.dtype == np.float32
    assert observation.shape == (ours.spec.observation_dim,)
    np.testing.assert_array_equal(observation, flat(theirs.reset().observation))
    for action in actions(ours, 5):
        mine = ours.step(action)
        control = to_bounds(spec, action)
        once, twice = theirs.step(control), theirs.step(control)
        np.testing.assert_array_equal(mine.observation, flat(twice.observation))
        assert mine.observation.dtype == np.float32
        assert mine.reward == once.reward + twice.reward
        assert type(mine.reward) is float
        assert not mine.terminated and not mine.truncated
    ours.close()


def test_observations_are_not_sorted_by_name(monkeypatch):
    names = list(plain("dog-run", 0, monkeypatch).reset().observation)
    assert names != sorted(names)  # otherwise the order is not tested above


@pytest.mark.parametrize(
    "task", ["cartpole-swingup", "quadruped-walk", "pendulum-swingup"]
)
def test_an_episode_has_500_decisions_and_is_truncated(task, monkeypatch):
    env, theirs = registry.make_env(task, 0), plain(task, 0, monkeypatch)
    assert (env.spec.episode_length, env.spec.action_repeat) == (500, 2)
    assert not env.spec.can_terminate
    still = np.zeros(env.spec.action_dim, np.float32)
    env.reset()
    outcomes = [env.step(still) for _ in range(500)]
    assert not any(outcome.terminated for outcome in outcomes)
    assert [outcome.truncated for outcome in outcomes] == [False] * 499 + [True]
    theirs.reset()
    control = to_bounds(theirs.action_spec(), still)
    answers = [theirs.step(control) for _ in range(1000)]
    assert [answer.last() for answer in answers] == [False] * 999 + [True]
    assert answers[-1].discount == 1.0
    np.testing.assert_array_equal(
        outcomes[-1].observation, flat(answers[-1].observation)
    )
    assert not env.step(still).terminated  # still a time limit, not a state
    env.reset()
    assert not env.step(still).truncated


def test_a_terminal_state_terminates_and_cuts_the_repeat(monkeypatch):
    env = dmc.make("lqr-lqr_2_1", 0)
    assert env.spec.can_terminate
    env.reset()
    verdicts = iter([0.0])  # a second repeat would exhaust them
    monkeypatch.setattr(env._task, "get_termination", lambda physics: next(verdicts))
    outcome = env.step(np.zeros(1, np.float32))
    assert outcome.terminated and not outcome.truncated


def test_quadruped_actions_reach_its_bounds_as_action_scale_maps_them(monkeypatch):
    env = dmc.make("quadruped-run", 0)
    bounds = env._env.action_spec()
    assert bounds.maximum.max() == pytest.approx(1.1)
    reached = []
    monkeypatch.setattr(env._task, "before_step", lambda u, _: reached.append(u))
    env.reset()
    for action in (-1.0, 1.0, 0.3):
        env.step(np.full(12, action, np.float32))
    np.testing.assert_allclose(reached[0], bounds.minimum)
    np.testing.assert_allclose(reached[2], bounds.maximum)
    # dm_control's wrapper: minimum + (maximum − minimum) / 2 · (action + 1)
    width = bounds.maximum - bounds.minimum
    scaled = bounds.minimum + width / 2 * (np.float64(np.float32(0.3)) + 1)
    np.testing.assert_allclose(reached[4], scaled, rtol=1e-12)


def test_actions_of_an_unbounded_task_stay_as_they_are(monkeypatch):
    env = dmc.make("lqr-lqr_6_2", 0)
    reached = []
    monkeypatch.setattr(env._task, "before_step", lambda u, _: reached.append(u))
    env.reset()
    env.step(np.array([-0.5, 1.0], np.float32))
    np.testing.assert_array_equal(reached[0], [-0.5, 1.0])


@pytest.mark.parametrize(
    "task", ["cheetah-run", "walker-walk", "quadruped-fetch", "lqr-lqr_2_1"]
)
def test_seeds(task):
    def episode(env, seed=None) -> np.ndarray:
        first = env.reset(seed)
        return np.stack([first] + [env.step(a).observation for a in actions(env, 20)])

    env = registry.make_env(task, 1)
    once = episode(env)
    np.testing.assert_array_equal(episode(registry.make_env(task, 1)), once)
    assert not np.array_equal(episode(env)[0], once[0]), "the stream must go on"
    assert not np.array_equal(episode(registry.make_env(task, 2))[0], once[0])
    np.testing.assert_array_equal(episode(env, seed=1), once)


def answers(env: Env, steps: int) -> np.ndarray:
    outcomes = [env.step(action) for action in actions(env, steps)]
    rewards = [outcome.reward for outcome in outcomes]
    return np.column_stack([[outcome.observation for outcome in outcomes], rewards])


def state_of(env: Env) -> dict[str, np.ndarray]:
    state = env.state()
    assert state is not None
    return {name: array.copy() for name, array in state.items()}


KEEPING = (
    "cartpole-swingup",
    "dog-fetch",
    "finger-turn_easy",
    "fish-swim",
    "humanoid-run",
    "lqr-lqr_2_1",
    "manipulator-insert_peg",
    "point_mass-hard",
    "quadruped-escape",
    "quadruped-fetch",
    "reacher-hard",
    "stacker-stack_2",
    "swimmer-swimmer6",
)
"""A task for every way of keeping what is drawn when an episode begins."""


@pytest.mark.parametrize(
    "task",
    [
        task if task in KEEPING else pytest.param(task, marks=pytest.mark.slow)
        for task in dmc.TASKS
    ],
)
def test_an_episode_goes_on_from_its_state(task):
    env, other = registry.make_env(task, 1), registry.make_env(task, 2)
    env.reset(seed=3)
    env.reset()  # the second episode of its seed
    answers(env, 7)
    state = state_of(env)
    other.set_state(state)
    np.testing.assert_array_equal(answers(other, 20), answers(env, 20))
    np.testing.assert_array_equal(other.reset(), env.reset())
    # And from the same one once more, as if nothing had been since.
    once = answers(env, 5)
    env.set_state(state)
    env.reset()
    np.testing.assert_array_equal(answers(env, 5), once)


def test_the_time_limit_goes_on_too():
    task = "pendulum-swingup"
    env, other = registry.make_env(task, 1), registry.make_env(task, 2)
    env.reset()
    answers(env, 490)
    other.set_state(state_of(env))
    truncated = [other.step(action).truncated for action in actions(other, 10)]
    assert truncated == [False] * 9 + [True]


def test_workers_change_nothing():
    with (
        registry.make_pool("cheetah-run", 3, seed=0, workers=0) as here,
        registry.make_pool("cheetah-run", 3, seed=0, workers=2) as there,
    ):
        first = here.reset()
        np.testing.assert_array_equal(there.reset(), first)
        assert len(np.unique(first, axis=0)) == 3, "environments must differ"
        rows = np.random.default_rng(0).uniform(-1, 1, (20, 3, 6))
        for row in rows:
            for mine, theirs in zip(here.step(row), there.step(row), strict=True):
                np.testing.assert_array_equal(mine, theirs)


PICTURE = """
import numpy as np
from planprior.envs.registry import make_env
for task in ("quadruped-escape", "cheetah-run"):
    env = make_env(task, 0)
    env.reset()
    first = env.render(48, 64)
    assert (first.shape, first.dtype) == ((48, 64, 3), np.uint8)
    assert first.std() > 5, "an empty picture"
    env.reset()
    for _ in range(5):
        env.step(np.ones(env.spec.action_dim, np.float32))
    assert (env.render(48, 64) != first).any()
    env.close()
print("drawn")
"""


@pytest.mark.skipif(
    sys.platform.startswith("linux") and find_library("EGL") is None,
    reason="no EGL library to render with",
)
@pytest.mark.parametrize("backend", [None, "egl"])
def test_pictures_need_no_preparation(backend):
    env = {k: v for k, v in os.environ.items() if k != "MUJOCO_GL"}
    if backend:
        env["MUJOCO_GL"] = backend
    ran = subprocess.run(
        [sys.executable, "-c", PICTURE], capture_output=True, text=True, env=env
    )
    assert ran.stdout == "drawn\n", ran.stderr


def test_a_missing_opengl_says_what_to_install(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    env = registry.make_env("quadruped-escape", 0)
    env.reset()
    with pytest.raises(EnvError, match=r"MUJOCO_GL=disabled; .*install libegl1"):
        env.render(48, 64)
    env.reset()  # still without OpenGL


def test_training_ignores_a_broken_opengl_setting():
    code = (
        "from planprior.envs.registry import make_env; make_env('dog-run', 0).reset()"
    )
    env = dict(os.environ, MUJOCO_GL="no_such_library")
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_a_simulation_that_diverges_is_an_error_of_the_environment():
    env = dmc.make("cheetah-run", 0)
    env.reset()
    env._physics.data.qpos[:] = np.nan
    with pytest.raises(EnvError, match=r"cheetah-run has diverged: .*BADQPOS"):
        env.step(np.zeros(6, np.float32))


def test_closing_twice_is_closing():
    pool = registry.make_pool("cheetah-run", 1, seed=0, workers=0)
    pool.close()
    pool.close()


def test_the_pace_of_a_film_is_that_of_the_simulation():
    # A control step of cheetah takes 0.01 s.
    assert dmc.make("cheetah-run", 0).step_seconds == pytest.approx(0.02)


def test_a_mujoco_that_is_too_new_is_named(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "4.0.0")
    with pytest.raises(EnvError, match=r"mujoco is version 4.0.0.*pip install 'mujoco"):
        registry.make_env("cheetah-run", 0)


def names(requirements: Iterable[str]) -> set[str]:
    """Packages that Python 3.13 needs of them."""
    python = {"python_version": "3.13", "extra": ""}
    parsed = map(Requirement, requirements)
    return {
        canonicalize_name(one.name)
        for one in parsed
        if one.marker is None or one.marker.evaluate(python)
    }


def test_newer_pythons_get_all_that_dm_control_needs_but_labmaze():
    file = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(file.read_text())["project"]
    extra = project["optional-dependencies"]["dmc"]
    listed = names([*project["dependencies"], *extra])
    assert "dm-control" not in listed
    assert names(metadata.requires("dm_control") or []) - listed <= {"labmaze"}
