"""Meta-World, compared with the package used plainly; runs where it is installed."""

import numpy as np
import pytest

from planprior.envs import metaworld, registry

package = pytest.importorskip("metaworld")


def plain(task: str, seed: int):
    name = task.removeprefix("mw-") + "-v3-goal-observable"
    env = package.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[name](seed=seed)
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    env.seed(seed)
    return env


def test_the_written_list_is_the_packages():
    names = {f"mw-{name.removesuffix('-v3')}" for name in package.ALL_V3_ENVIRONMENTS}
    assert set(metaworld.TASKS) == names and len(metaworld.TASKS) == 50
    assert registry.resolve("mw-door-open") == "metaworld:mw-door-open"
    assert registry.resolve("door-open-v3") == "metaworld:mw-door-open"


@pytest.mark.parametrize("task", ["mw-reach", "mw-hammer"])
def test_two_steps_are_one_and_success_is_the_last_ones(task):
    ours, theirs = registry.make_env(task, 3), plain(task, 3)
    np.testing.assert_array_equal(ours.reset(), theirs.reset()[0].astype("f4"))
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype("f4"):
        mine = ours.step(action)
        _, first, *_ = theirs.step(action)
        seen, second, _, _, info = theirs.step(action)
        np.testing.assert_array_equal(mine.observation, seen.astype("f4"))
        assert mine.reward == float(first) + float(second)
        assert mine.success == bool(info["success"])


def test_every_episode_has_a_goal_of_its_own_that_is_seen():
    env = registry.make_env("mw-reach", 0)
    goals = np.stack([env.reset()[-3:] for _ in range(3)])
    assert len(np.unique(goals, axis=0)) == 3


def test_success_is_reached_by_going_to_the_goal():
    env = metaworld.make("mw-reach", 0)
    seen, success = env.reset(), False
    while not success:
        towards = np.clip(10 * (seen[-3:] - seen[:3]), -1, 1)
        outcome = env.step(np.append(towards, 0.0).astype("f4"))
        seen, success = outcome.observation, bool(outcome.success)
        assert not outcome.truncated
    # The task's own measure is between the fingers, not at the hand that is seen.
    assert np.linalg.norm(env._env.tcp_center - seen[-3:]) <= 0.05


def test_a_film_has_the_pace_of_the_simulation():
    # A step of the arm takes 0.0125 s.
    assert registry.make_env("mw-reach", 0).step_seconds == pytest.approx(0.025)
