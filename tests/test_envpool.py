"""EnvPool: its habits, by a package that stands for it, and itself where installed."""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
import sys

import numpy as np
import pytest

import fake_envpool
import planprior
from command_line import run
from planprior import results
from planprior.envs import dmc, envpool, registry
from planprior.envs.base import EnvError
from planprior.envs.pool import LocalPool
from planprior.experiment import TrainConfig
from scripts import FOLDER, load

fast_pool = load("fast_pool")

TASK = "dm_control:quadruped-walk"
INSTALLED = {
    name: importlib.util.find_spec(name) is not None for name in ("envpool", "mujoco")
}
needs_it = pytest.mark.skipif(
    not all(INSTALLED.values()), reason="EnvPool or MuJoCo is not installed"
)


@pytest.fixture
def fake(monkeypatch):
    """The package that stands for EnvPool, of the version that was compared."""
    spec = importlib.util.spec_from_loader("envpool", loader=None)
    monkeypatch.setattr(fake_envpool, "__spec__", spec)
    monkeypatch.setitem(sys.modules, "envpool", fake_envpool)
    monkeypatch.setattr(fake_envpool, "made", [])
    version = envpool.comparison().version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    return fake_envpool


@pytest.fixture
def short(monkeypatch):
    """Episodes of 3 decisions of 2 steps."""
    monkeypatch.setattr(dmc, "EPISODE_LENGTH", 3)


def make(num: int = 2, seed: int = 0, workers: int = 2):
    return registry.make_pool(TASK, num, seed, workers, pool="envpool")


def still(num: int = 2) -> np.ndarray:
    return np.zeros((num, 12), np.float32)


# Its habits ---------------------------------------------------------------------------


def test_observations_are_the_tasks_own_in_the_order_of_dm_control(fake):
    """Entry k of the package's list is 100 k; dm_control has 1, 3, 2, 4, 5 of them."""
    with make() as pool:
        seen = pool.reset()
    assert (seen.shape, seen.dtype) == ((2, 78), np.float32)
    parts = np.split(seen[0] // 100, np.cumsum([44, 3, 1, 6]))
    assert [list(np.unique(part)) for part in parts] == [[1], [3], [2], [4], [5]]


def test_an_action_reaches_the_tasks_bounds_and_is_done_twice(fake):
    with make() as pool:
        pool.reset()
        step = pool.step(np.stack([np.full(12, -1.0), np.full(12, 1.0)]))
    done = fake.made[0].actions
    assert [i for i, _ in done] == [0, 1, 0, 1]
    for i, action in done:
        np.testing.assert_allclose(action, fake.HIGH if i else fake.LOW)
    np.testing.assert_array_equal(step.reward, [1 + 2] * 2)
    assert step.observation[0, 0] == 100 + 2 + 0.25


def test_an_episode_ends_with_its_own_last_row_and_the_next_begins_at_once(fake, short):
    with make() as pool:
        pool.reset()
        steps = [pool.step(still()) for _ in range(4)]
    assert [step.truncated.tolist() for step in steps] == [
        *[[False, False]] * 2,
        [True, True],
        [False, False],
    ]
    last, following = steps[2], steps[3]
    assert not last.terminated.any() and last.begun.all()
    assert last.observation[0, 0] == 100 + 6 + 0.25
    assert last.reset_observation[0, 0] == 100 + 0 + 0.5
    np.testing.assert_array_equal(last.episode_return, [21, 21])
    np.testing.assert_array_equal(last.episode_length, [3, 3])
    # The last reward does not come again, nor is an action lost.
    np.testing.assert_array_equal(following.reward, [3, 3])
    assert following.observation[0, 0] == 100 + 2 + 0.5
    assert len(fake.made[0].actions) == 2 * 2 * 4


def test_an_end_within_a_repeat_cuts_it_there_alone(fake, monkeypatch):
    spec = dataclasses.replace(dmc.spec("quadruped-walk"), can_terminate=True)
    monkeypatch.setattr(dmc, "spec", lambda task: spec)
    with make() as pool:
        fake.made[0].ends = {1: 3}
        pool.reset()
        before, step = pool.step(still()), pool.step(still())
        after = pool.step(still())
    assert not before.ended.any()
    np.testing.assert_array_equal(step.terminated, [False, True])
    assert not step.truncated.any()
    np.testing.assert_array_equal(step.reward, [3 + 4, 3])
    np.testing.assert_array_equal(step.observation[:, 0], [104.25, 103.25])
    np.testing.assert_array_equal(step.reset_observation[:, 0], [104.25, 100.5])
    np.testing.assert_array_equal(after.reward, [5 + 6, 1 + 2])
    assert [i for i, _ in fake.made[0].actions] == [0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1]


def test_seeds_fix_the_environments_one_by_one(fake):
    with make(2, seed=5) as pool, make(4, seed=5) as more:
        first, others = fake.made
        assert first.seeds == others.seeds[:2] and len(set(others.seeds)) == 4
        pool.reset()
        pool.reset()
        assert fake.made == [first, others], "the streams go on"
        pool.reset(5)
        assert fake.made[2].seeds == first.seeds, "built anew"
        more.reset(5)
        assert len(fake.made) == 3, "nothing was drawn from these seeds yet"
        more.reset(6)
        assert set(fake.made[3].seeds).isdisjoint(others.seeds)


@pytest.mark.parametrize(
    ("num", "workers", "threads"), [(4, 0, 1), (4, 3, 3), (2, 3, 2)]
)
def test_workers_are_threads(fake, num, workers, threads):
    with make(num, workers=workers) as pool:
        assert fake.made[0].threads == threads
        assert pool.where == f"in EnvPool, threads: {threads}"


def test_it_has_no_state_to_go_on_from_and_closes(fake):
    pool = make()
    pool.reset()
    assert pool.state() is None
    pool.close()
    assert fake.made[0].closed


# What is refused ----------------------------------------------------------------------


def test_a_missing_package_comes_with_the_command(monkeypatch):
    find = importlib.util.find_spec
    hide = {"envpool"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in hide else find(name)
    )
    with pytest.raises(ModuleNotFoundError) as told:
        make()
    assert str(told.value) == (
        "pool envpool needs the package envpool; run: pip install 'planprior[envpool]'"
    )


def test_another_version_is_refused(fake, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9")
    with pytest.raises(
        EnvError, match=r"envpool is version 9\.9, which was not comp.*"
    ):
        make()


def test_a_task_that_differs_is_refused_with_the_reason(tmp_path):
    config = TrainConfig("cup-catch", pool="envpool", run_dir=str(tmp_path / "run"))
    with pytest.raises(ValueError) as told:
        planprior.train(config)
    assert str(told.value) == (
        "pool envpool cannot take task 'dm_control:ball_in_cup-catch': its rewards "
        "differ from dm_control's, by up to 2; leave --pool out"
    )
    assert not (tmp_path / "run").exists()


def test_a_benchmark_is_refused_before_it_measures(monkeypatch, capsys):
    arguments = ("bench", "cup-catch", "--pool", "envpool")
    status, _, told = run(monkeypatch, capsys, *arguments)
    assert status == 2
    assert "'dm_control:ball_in_cup-catch': its rewards differ" in told


def test_other_suites_are_refused():
    with pytest.raises(ValueError, match=r"'metaworld:mw-reach': it is no task of dm_"):
        registry.make_pool("mw-reach", 1, 0, pool="envpool")


def test_another_pool_is_unknown():
    with pytest.raises(
        ValueError, match=r"pool is 'fast'; it must be envpool, or left"
    ):
        registry.make_pool(TASK, 1, 0, pool="fast")


# The table ----------------------------------------------------------------------------


def test_the_table_is_what_the_comparison_came_to(tmp_path, capsys):
    made = tmp_path / "envpool.json"
    rows = FOLDER.parent / "results" / "envpool.csv"
    fast_pool.main(["table", "--results", str(rows), "--table", str(made)])
    known = envpool.comparison()
    table = json.loads(made.read_text())
    assert table["equal"] == list(known.equal) and table["refused"] == known.refused
    assert table["envpool"] == known.version
    extra = (FOLDER.parent / "pyproject.toml").read_text()
    assert f'envpool = ["envpool=={known.version}"]' in extra


def test_every_task_of_the_papers_was_compared():
    known = envpool.comparison()
    compared = {*known.equal, *known.refused}
    assert not {*known.equal} & {*known.refused}
    theirs = {
        f"dm_control:{task}" for task in dmc.TASKS if results.published(plain(task))
    }
    assert len(theirs) == 28
    assert theirs <= compared


def plain(task: str) -> str:
    """As the papers write it."""
    other = {name: alias for alias, name in dmc.ALIASES.items()}
    return other.get(task, task).replace("_", "-")


def test_random_numbers_are_those_of_cpp():
    """The C++ standard gives the 10000th of `mt19937` from its own seed, 5489."""
    stream = fast_pool.Stream(5489)
    words = np.frombuffer(stream.bytes(4 * 10_000), "<u4")
    assert words[-1] == 4123659995


# Itself -------------------------------------------------------------------------------


def both(task: str):
    """dm_control with EnvPool's random numbers, and EnvPool."""
    build = functools.partial(fast_pool.reference, task, 0.0)
    return LocalPool(build, 2, 3), registry.make_pool(task, 2, 3, pool="envpool")


def check_equal(mine, theirs) -> None:
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


ONE_OF_EACH = {
    task.partition("-")[0]: task.removeprefix("dm_control:")
    for task in envpool.comparison().equal
}.values()


@needs_it
@pytest.mark.parametrize("task", ONE_OF_EACH)
def test_rows_are_those_of_dm_control(task):
    theirs, ours = both(task)
    size = (10, 2, dmc.spec(task).action_dim)
    with theirs, ours:
        check_equal([ours.reset()], [theirs.reset()])
        for actions in np.random.default_rng(0).uniform(-1, 1, size):
            check_equal(ours.step(actions), theirs.step(actions))
        # New episodes, from where the streams of random numbers are now.
        check_equal([ours.reset()], [theirs.reset()])


@needs_it
def test_an_end_is_that_of_dm_control():
    theirs, ours = both("pendulum-swingup")
    with theirs, ours:
        ours.reset()
        theirs.reset()
        for action in np.random.default_rng(0).uniform(-1, 1, (503, 2, 1)):
            check_equal(ours.step(action), theirs.step(action))


@needs_it
def test_seeding_anew_is_building_anew():
    with registry.make_pool("cheetah-run", 3, 5, pool="envpool") as pool:
        once, again = pool.reset(), pool.reset()
        assert len(np.unique(once, axis=0)) == 3 and (once != again).any()
        np.testing.assert_array_equal(pool.reset(5), once)
        np.testing.assert_array_equal(pool.reset(), again)
