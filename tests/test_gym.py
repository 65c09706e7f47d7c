"""Gymnasium: any environment, alone or ready-made in numbers."""

import importlib.util
import warnings
from typing import Any

import numpy as np
import pytest

from planprior.envs import registry
from planprior.envs.base import Env, EnvError, StateError
from planprior.envs.options import TaskOptions, split
from planprior.envs.pool import LocalPool, Pool
from planprior.envs.process import ProcessPool

if importlib.util.find_spec("gymnasium") is None:
    pytest.skip("gymnasium is not installed", allow_module_level=True)

import gymnasium
from gymnasium.envs.registration import EnvSpec

import gym_toys as toys
from planprior.envs import gym
from planprior.envs.vector import VectorPool

N = 3
VECTORS = ["same_step", "next_step", "disabled"]


def make_pool(function: str, workers: int = 0, num: int = N) -> Pool:
    return registry.make_pool(f"gym_toys:{function}", num, 0, workers)


def actions(t: int, size: tuple[int, int] = (N, 2)) -> np.ndarray:
    return np.random.default_rng(t).uniform(-1, 1, size).astype(np.float32)


# One environment ----------------------------------------------------------------------


def test_actions_fill_the_bounds_and_never_leave_them():
    env = registry.make_env("gym_toys:counter", 0)
    env.reset()
    # The toy asserts that they lie in its space; it returns their sum.
    for action, reached in (([-1, -1], -2), ([1, 1], 12), ([0, 0], 5), ([0.5, -1], 1)):
        env.reset()
        outcome = env.step(np.array(action, np.float32))
        assert outcome.reward == pytest.approx(100 + reached)
    spec = registry.make_env("gym_toys:matrix", 0).spec
    assert spec.action_dim == 2
    for t in range(50):  # float32 rounding at bounds such as 0.1 must stay inside
        low, high = sorted(np.random.default_rng(t).normal(size=2).astype("f4"))
        actions = gym.Actions(gymnasium.spaces.Box(low, high, (1,)), "x")
        for end in (-1, 1):
            scaled = actions.scale(np.array([end], np.float32))
            assert scaled.dtype == np.float32 and low <= scaled[0] <= high


@pytest.mark.parametrize(
    ("function", "order"),
    [
        ("parts", [2, 0, 1]),  # Gymnasium sorts the names: luck, when
        ("ordered", [0, 1, 2]),  # unless they are given in order
        ("matrix", [0, 1, 2]),
    ],
)
def test_observations_are_flattened_in_the_order_of_their_space(function, order):
    plain = registry.make_env("gym_toys:counter", 5)
    other = registry.make_env(f"gym_toys:{function}", 5)
    assert other.spec.observation_dim == 3
    seen = [(plain.reset(), other.reset())]
    for t in range(2):
        action = actions(t)[0]
        seen.append((plain.step(action).observation, other.step(action).observation))
    for expected, observation in seen:
        assert observation.dtype == np.float32
        np.testing.assert_allclose(observation, expected[order], rtol=1e-6)


def test_the_order_is_that_of_gymnasium_itself():
    env = toys.parts()
    seen, _ = env.reset(seed=1)
    flat: Any = gymnasium.spaces.flatten(env.observation_space, seen)
    ours = gym.Observations(env.observation_space, "x").flatten(seen)
    np.testing.assert_allclose(ours, flat, rtol=1e-6)


def test_episodes_end_by_rule_or_by_time_limit():
    env = registry.make_env("gym_toys:counter", 0)
    assert (env.spec.episode_length, env.spec.can_terminate) == (toys.LIMIT, True)
    for episode in range(4):
        env.reset()
        steps = 0
        while True:
            outcome = env.step(actions(0)[0])
            steps += 1
            np.testing.assert_array_equal(outcome.observation[:2], [steps, episode])
            if outcome.terminated or outcome.truncated:
                break
        by_rule = episode % 2 == 0
        assert (outcome.terminated, outcome.truncated) == (by_rule, not by_rule)
        assert steps == (2 + episode % 4 if by_rule else toys.LIMIT)


def test_options_are_part_of_the_name():
    name = "gym_toys:endless,episode-length=5,action_repeat=2"
    full = "gym_toys:endless,action_repeat=2,episode_length=5"
    assert registry.resolve(name) == full
    env = registry.make_env(name, 1)
    assert env.spec.name == full
    assert (env.spec.episode_length, env.spec.action_repeat) == (3, 2)
    env.reset()
    still = np.zeros(2, np.float32)  # of which the sum is 5
    assert env.step(still).reward == 100 + 200 + 2 * 5
    outcome = env.step(still)  # terminates after 3 steps, amid the repeats
    assert outcome.terminated and outcome.reward == 300 + 5
    env.reset()
    rewards = [env.step(still) for _ in range(3)]
    assert [o.truncated for o in rewards] == [False, False, True]
    assert rewards[-1].reward == 500 + 5  # the limit cuts the repeats


def test_a_shorter_limit_holds_and_a_longer_one_is_refused():
    for given in (4, toys.LIMIT):
        env = registry.make_env(f"gym_toys:counter,episode_length={given}", 0)
        assert env.spec.episode_length == given
    sentence = (
        "^episode_length of gym_toys:counter,episode_length=7 is 7; it must be at most "
        "6, the environment's own limit in environment steps$"
    )
    with pytest.raises(EnvError, match=sentence):
        registry.make_env("gym_toys:counter,episode_length=7", 0)


@pytest.mark.parametrize("given", [toys.LIMIT - 1, toys.LIMIT + 1])
def test_a_ready_made_pool_keeps_its_own_limit(given):
    sentence = rf"^episode_length of .* is {given}; it must be 6, at which the vector"
    with pytest.raises(EnvError, match=sentence):
        make_pool(f"same_step,episode_length={given}")
    for function in ("same_step,episode_length=6", "unlimited,episode_length=9"):
        with make_pool(function) as pool:
            assert pool.spec.episode_length == int(function[-1])


def test_a_ready_made_pool_that_goes_on_beyond_the_option_is_told_so():
    sentence = "goes on after 1 steps, which the option episode_length says is the"
    with make_pool("unlimited,episode_length=1") as pool:
        pool.reset(0)
        with pytest.raises(EnvError, match=sentence):
            pool.step(actions(0))


@pytest.mark.parametrize("function", ["counter", "same_step"])
def test_a_broken_promise_never_to_terminate_names_the_option(function):
    sentence = (
        rf"^environment 0 of gym_toys:{function},terminates=no terminated, but the "
        "option terminates=no promises that it never does; leave it out$"
    )
    with make_pool(f"{function},terminates=no", num=1) as pool:
        pool.reset(0)
        with pytest.raises(EnvError, match=sentence):
            for t in range(6):
                pool.step(actions(t, (1, 2)))


def test_options_read_what_they_write():
    for options in (
        TaskOptions(),
        TaskOptions(action_repeat=4, terminates=False),
        TaskOptions(episode_length=7, terminates=True, success=True),
        TaskOptions(simulated=False),
    ):
        assert split(f"a:b{options}") == ("a:b", options)


def test_success_is_recorded_where_asked_for():
    env = registry.make_env("gym_toys:counter,success=yes", 3)
    assert env.spec.has_success
    env.reset()
    assert [env.step(actions(0)[0]).success for _ in range(4)] == [False] * 2 + [
        True
    ] * 2
    assert registry.make_env("gym_toys:counter", 3).spec.has_success is False
    silent = gym.make("Pendulum-v1,success=yes", 0)
    silent.reset()
    with pytest.raises(EnvError, match="success=yes, but info has no 'success'"):
        silent.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        ("x,episode_lenght=5", "did you mean 'episode_length'"),
        ("x,action_repeat=0", "is '0'; it must be a whole number of at least 1"),
        ("x,simulated=2", "is '2'; it must be yes or no"),
        ("x,terminates=maybe", "is 'maybe'; it must be yes or no"),
        ("x,action_repeat=2,action_repeat=2", "'action_repeat' twice"),
        ("dog-run,action_repeat=4", "'dm_control:dog-run' has no options"),
        ("test_envs_toys:Counter,action_repeat=2", "a planprior.Env does not have"),
    ],
)
def test_wrong_options_are_one_sentence(task, sentence):
    with pytest.raises((ValueError, EnvError), match=sentence):
        registry.make_env(task, 0)


def test_an_action_may_have_no_axis():
    with make_pool("scalar") as pool:
        pool.reset()
        assert pool.spec.action_dim == 1
        reward = pool.step([[-1.0], [0.0], [2.0]]).reward
    np.testing.assert_allclose(reward, [98, 100, 102])


def test_bounds_that_a_wrapper_clips_to_are_found():
    with make_pool("clipping") as pool, make_pool("counter") as plain:
        assert isinstance(pool, LocalPool) and isinstance(plain, LocalPool)
        pool.reset()
        plain.reset()
        for t in range(4):
            np.testing.assert_array_equal(
                pool.step(actions(t)).reward, plain.step(actions(t)).reward
            )


@pytest.mark.parametrize("function", ["leaving", "leaving_together"])
def test_what_fails_when_it_is_closed_is_told_and_hides_nothing(function, caplog):
    with make_pool(function) as pool:
        pool.reset()
    assert f"closing an environment of gym_toys:{function} failed" in caplog.text
    assert "AttributeError: no window" in caplog.text
    with pytest.raises(KeyError, match="the reason"), make_pool(function) as pool:
        raise KeyError("the reason")


def test_one_of_several_can_be_controlled_and_filmed():
    env = registry.make_env("gym_toys:drawn_together", 5)
    try:
        assert env.step_seconds == 0.05
        for episode in range(3):
            first = env.reset(7 if episode == 0 else None)
            assert first[0] == 0 and (env.render(8, 12) == 0).all()
            assert env.step(np.zeros(2, np.float32)).observation[0] == 1
            picture = env.render(8, 12)
            assert picture.shape == (8, 12, 3) and (picture == 10).all()
        steps, ended = 1, False
        while not ended:
            outcome, steps = env.step(np.zeros(2, np.float32)), steps + 1
            assert outcome.observation[0] == steps <= toys.LIMIT
            ended = outcome.terminated or outcome.truncated
        assert env.reset()[0] == 0
    finally:
        env.close()


def test_a_task_may_draw_without_being_told(monkeypatch):
    monkeypatch.setitem(
        gymnasium.registry,
        "Drawn-v0",
        EnvSpec("Drawn-v0", "gym_toys:Drawn", max_episode_steps=toys.LIMIT),
    )
    env = registry.make_env("gym:Drawn-v0", 0)
    assert env.step_seconds == 0.05
    env.reset()
    assert env.render(4, 6).shape == (4, 6, 3)


def test_a_name_of_gymnasiums_promises_nothing_for_others(monkeypatch):
    monkeypatch.setitem(
        gymnasium.registry,
        "Pusher-v9",
        EnvSpec("Pusher-v9", "gym_toys:Counter", max_episode_steps=toys.LIMIT),
    )
    assert registry.make_env("gym:Pusher-v9", 0).spec.can_terminate
    assert not registry.make_env("gym:Pendulum-v1", 0).spec.can_terminate


def test_a_module_that_fails_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "fails_at_once.py").write_text("undefined")
    monkeypatch.syspath_prepend(tmp_path)
    for name, why in {"fails_at_once": "NameError", "no_such_one": "No module"}.items():
        with pytest.raises(EnvError, match=f"importing {name} for gym:.*{why}"):
            registry.resolve(f"gym:{name}:Any-v0")


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("discrete", "actions of kind Discrete; they must be continuous"),
        ("whole", "actions of kind Box of int32; they must be continuous"),
        ("unbounded", r"action 0 of .* lies in \[-inf, inf\]; bounds must be finite"),
        ("doubling", r"action 0 of .* lies in \[-inf, inf\]; bounds must be finite"),
        ("Sized", "needs its parameter grid_size; nothing but seed and num_envs is"),
        ("stuck", r"action 1 of .* lies in \[1, 1\], which leaves nothing to choose"),
        ("pixels", r"pictures of shape \(64, 64, 3\) .*pixels are not supported yet"),
        ("numbered", "observations's entry where of kind Discrete; they must be Box"),
        ("endless", "no time limit.* as in gym_toys:endless,episode_length=1000, or"),
        (
            "fixed_number",
            "returns a vector environment; give it the parameter num_envs",
        ),
        ("nothing", "returns int; it must return a planprior.Env, a gymnasium.Env or"),
        ("secretive", "does not say when it begins the next episode"),
        ("stubborn", "made 4 environments where 3 were asked for"),
        ("single", "has the parameter num_envs, but returns TimeLimit"),
        ("same_step,simulated=yes", "simulated of .* is yes; when a training goes on"),
        ("same_step,action_repeat=2", "action_repeat of .* is 2; it must be 1 for a"),
    ],
)
def test_what_cannot_be_trained_in_is_one_sentence(function, sentence):
    with pytest.raises(EnvError, match=sentence) as caught:
        make_pool(function)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (
            "misfit",
            r"environment 0 of gym_toys:misfit: an observation has shape \(2,\)",
        ),
        ("forgetful", "an observation has no entry luck/0"),
        ("forgets_last", "autoreset mode 'same step', but its info has no 'final_obs'"),
    ],
)
def test_what_breaks_later_is_one_sentence(function, sentence):
    with make_pool(function) as pool:
        pool.reset()
        with pytest.raises(EnvError, match=sentence) as caught:
            for t in range(12):
                pool.step(actions(t))
    assert "\n" not in str(caught.value)


def test_workers_change_nothing():
    with make_pool("counter") as here, make_pool("counter", 2) as there:
        assert isinstance(here, LocalPool) and isinstance(there, ProcessPool)
        np.testing.assert_array_equal(here.reset(), there.reset())
        for t in range(15):
            for a, b in zip(here.step(actions(t)), there.step(actions(t)), strict=True):
                np.testing.assert_array_equal(a, b)


# States -------------------------------------------------------------------------------


def simulated(function: str, seed: int = 0) -> Env:
    return registry.make_env(f"gym_toys:{function},simulated=yes", seed)


def compare(answers: list, others: list) -> None:
    for one, other in zip(answers, others, strict=True):
        for field, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(field, same)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 20, 23])
@pytest.mark.parametrize("repeat", ["", ",action_repeat=2"])
def test_an_episode_goes_on_by_doing_its_actions_again(repeat, done, workers):
    task = f"drifter,simulated=yes{repeat}"
    with make_pool(task, workers) as pool:
        pool.reset(5)
        for t in range(done):
            pool.step(actions(t))
        state = pool.state()
        expected = [pool.step(actions(t)) for t in range(done, 40)]
    assert state is not None
    with make_pool(task, 2 - workers) as pool:
        seen = pool.reset(6)
        shapes = pool.state()
        assert shapes is not None
        for env, arrays in state["environments"].items():
            for name, array in arrays.items():
                other = np.asarray(shapes["environments"][env][name])
                assert (other.shape, other.dtype) == (array.shape, array.dtype)
        assert (pool.set_state(state) != seen).any()
        # What it tells now is what it was told.
        again = pool.state()
        np.testing.assert_equal(again, state)
        compare([pool.step(actions(t)) for t in range(done, 40)], expected)


@pytest.mark.parametrize("task", ["gym:Pendulum-v1", "gym:Hopper-v5"])
def test_registered_tasks_go_on(task):
    with registry.make_pool(task, 2, 0, 0) as pool:
        pool.reset()
        size = (2, pool.spec.action_dim)
        for t in range(230):
            pool.step(actions(t, size))
        state = pool.state()
        expected = [pool.step(actions(t, size)) for t in range(230, 300)]
    assert state is not None
    with registry.make_pool(task, 2, 1, 0) as pool:
        pool.reset()
        pool.set_state(state)
        compare([pool.step(actions(t, size)) for t in range(230, 300)], expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_lasts_longer_than_an_episode_is_noticed(workers):
    """The toy counts its episodes, which no seed tells."""
    with make_pool("counter,simulated=yes", workers) as pool:
        pool.reset(5)
        for t in range(20):
            pool.step(actions(t))
        state = pool.state()
        assert state is not None
        sentence = (
            r"^environment \d: with the same seed and actions gym_toys:counter,"
            r"simulated=yes is not where it was after \d steps of the episode$"
        )
        with pytest.raises(StateError, match=sentence):
            pool.set_state(state)
        with pytest.raises(RuntimeError, match="whose next call is reset"):
            pool.step(actions(0))
        pool.reset()  # the pool is whole
        pool.step(actions(0))


@pytest.mark.parametrize(
    "change", [{"steps": np.array(0)}, {"earned": np.array(0.5)}, {"seed": np.array(1)}]
)
def test_a_state_that_does_not_fit_is_noticed(change):
    env, other = (simulated("drifter", seed) for seed in (0, 1))
    env.reset()
    env.step(actions(0)[0])
    state = env.state()
    assert state is not None
    with pytest.raises(StateError, match="is not where it was after"):
        other.set_state({**state, **change})


def test_another_generator_does_not_tell_its_state():
    with make_pool("of_its_own,simulated=yes", num=1) as pool:
        pool.reset()
        assert pool.state() is not None  # the seed tells all of its first episode
        while not pool.step(actions(0, (1, 2))).ended[0]:
            pass
        assert pool.state() is None
    env = simulated("drifter")
    for _ in range(2):
        env.reset()
    state = env.state()
    assert state is not None
    odd = simulated("of_its_own")
    with pytest.raises(StateError, match="simulated=yes draws random numbers"):
        odd.set_state(state)


def test_what_may_be_a_robot_never_does_actions_again(monkeypatch):
    with make_pool("drifter") as pool:
        pool.reset()
        pool.step(actions(0))
        assert pool.state() is None
    state, robot = simulated("drifter"), registry.make_env("gym_toys:drifter", 0)
    state.reset()
    told = state.state()
    assert told is not None
    monkeypatch.setattr(toys.Drifter, "reset", None)  # nothing of it is called
    with pytest.raises(StateError, match="nothing says that gym_toys:drifter is a sim"):
        robot.set_state(told)
    # Of those that came with Gymnasium it is known, unless the option says otherwise.
    for options, known in (("", True), (",simulated=no", False)):
        env = gym.make(f"Pendulum-v1{options}", 0)
        env.reset()
        assert (env.state() is not None) is known


# Many at once -------------------------------------------------------------------------


def transitions(pool: Pool, steps: int = 30) -> list[list[tuple]]:
    """What happened to each environment, border by border."""
    told: list[list[tuple]] = [[] for _ in range(pool.num_envs)]
    present = pool.reset()
    for _ in range(steps):
        # Actions that follow from the state, so that a lost step changes nothing else.
        action = np.sin(3 * present[:, :2] + present[:, 2:])
        step = pool.step(action)
        for i in np.flatnonzero(step.acted):
            told[i].append(
                (*present[i], *action[i], step.reward[i], *step.observation[i],
                 step.terminated[i], step.truncated[i], step.episode_length[i],
                 step.episode_return[i])
            )  # fmt: skip
        for i in np.flatnonzero(~step.acted):
            assert step.begun[i] and step.reward[i] == step.episode_length[i] == 0
        np.testing.assert_array_equal(step.reset_observation[step.begun, 0], 0)
        present = step.reset_observation
    return told


@pytest.mark.parametrize("mode", VECTORS)
def test_every_autoreset_mode_tells_the_same_story(mode):
    with make_pool("counter") as pool, make_pool(mode) as ready_made:
        assert isinstance(ready_made, VectorPool)
        assert ready_made.mode == mode.replace("_", " ")
        expected, told = transitions(pool), transitions(ready_made)
    for story, same in zip(expected, told, strict=True):
        # Resets that take a step of their own leave less time for others.
        assert 20 <= len(same) <= len(story) == 30
        np.testing.assert_allclose(same, story[: len(same)], rtol=1e-6)
        assert {row[-4] for row in same} == {row[-3] for row in same} == {False, True}


@pytest.mark.parametrize("function", ["same_step_parts", "next_step_parts"])
def test_last_observations_that_are_dictionaries(function):
    with make_pool("parts") as pool, make_pool(function) as ready_made:
        np.testing.assert_allclose(pool.reset(), ready_made.reset(), rtol=1e-6)
        for t in range(3):
            one, other = pool.step(actions(t)), ready_made.step(actions(t))
            mask = one.acted & other.acted
            assert mask.any()
            np.testing.assert_allclose(
                one.observation[mask], other.observation[mask], rtol=1e-6
            )


def test_seeds_of_a_ready_made_pool():
    with make_pool("same_step") as pool:
        once = pool.reset()
        assert len(np.unique(once[:, 2])) == N
        assert not np.isin(pool.reset()[:, 2], once[:, 2]).any()
        np.testing.assert_array_equal(pool.reset(0), once)
        np.testing.assert_array_equal(pool.reset(0), once)


def test_a_reset_that_is_forgotten_begins_once_more():
    """Gymnasium's workers without shared memory do so where an episode has ended."""
    limit = f",episode_length={toys.LIMIT}"  # workers do not tell it
    with make_pool(f"asynchronous{limit}", num=2) as pool:
        pool.reset(0)
        steps = (pool.step(actions(t, (2, 2))) for t in range(toys.LIMIT))
        ended = next(done for step in steps if (done := ends(step)).any())
        for due in (ended, np.zeros(2, bool)):
            pool.reset(0)
            step = pool.step(actions(0, (2, 2)))
            np.testing.assert_array_equal(step.begun, due)
            np.testing.assert_array_equal(step.episode_length, np.where(due, 0, 1))


def ends(step):
    return step.terminated | step.truncated


# Names --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gym:pendulum-v1", "Pendulum-v1", "gym:Pendulum-v1"])
def test_registered_names_resolve(name):
    assert registry.resolve(name) == "gym:Pendulum-v1"


def test_unknown_names_get_the_nearest():
    sentence = r"^task 'gym:HalfCheeta-v5' is unknown; did you mean 'gym:HalfCheetah"
    with pytest.raises(ValueError, match=sentence):
        registry.resolve("gym:HalfCheeta-v5")


def test_a_module_may_register_its_own(tmp_path, monkeypatch):
    (tmp_path / "registers_one.py").write_text(
        "import gymnasium, gym_toys\n"
        "gymnasium.register('Mine-v0', gym_toys.Counter, max_episode_steps=9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with registry.make_pool("gym:registers_one:mine-v0", 2, 0, workers=2) as pool:
        assert pool.spec.name == "gym:registers_one:Mine-v0"
        assert pool.spec.episode_length == 9 and pool.spec.can_terminate
        pool.reset()
    gymnasium.registry.pop("Mine-v0", None)


def test_a_missing_gymnasium_comes_with_the_command(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: None if name == "gymnasium" else find(name),
    )
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'planprior\[gym\]'"):
        registry.make_pool("gym:Pendulum-v1", 1, 0)
    assert not registry.is_installed("gym:my_package:Mine-v0")
    assert "gym:Hopper-v5" in registry.list_tasks()
    assert "gym:LunarLanderContinuous-v3" not in registry.list_tasks()


def test_a_package_that_mujoco_tasks_import_comes_with_the_command(monkeypatch):
    def lacks(*_, **__):
        raise ModuleNotFoundError("No module named 'imageio'", name="imageio")

    monkeypatch.setattr(gymnasium, "make", lacks)
    with pytest.raises(EnvError) as raised:
        registry.make_env("gym:HalfCheetah-v5", 0)
    assert str(raised.value) == (
        "gym:HalfCheetah-v5 needs a package that is missing: No module named "
        "'imageio'; run: pip install 'planprior[gym]'"
    )
    # What others' environments lack is not in that extra.
    with pytest.raises(EnvError, match=r"missing: No module named 'imageio'$"):
        registry.make_env("gym:Pendulum-v1", 0)


# Every registered task ----------------------------------------------------------------


def random_episode(env, seed: int) -> list:
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(env.spec.episode_length):
        action = rng.uniform(-1, 1, env.spec.action_dim).astype(np.float32)
        steps.append(env.step(action))
        if steps[-1].terminated or steps[-1].truncated:
            break
    return steps


@pytest.mark.parametrize("name", gym.list_tasks())
def test_every_listed_task_keeps_the_contract_or_is_one_sentence(name):
    own = gymnasium.spec(name).max_episode_steps
    name += f",episode_length={min(100, own or 100)}"
    try:
        env = gym.make(name, 3)
    except EnvError as error:
        assert "\n" not in str(error) and f"gym:{name}" in str(error)
        pytest.skip(str(error))
    first = env.reset()
    assert (first.shape, first.dtype) == ((env.spec.observation_dim,), np.float32)
    again = gym.make(name, 3)
    np.testing.assert_array_equal(first, again.reset())
    steps, same = random_episode(env, 0), random_episode(again, 0)
    for step, twin in zip(steps, same, strict=True):
        np.testing.assert_array_equal(step.observation, twin.observation)
        assert step.reward == twin.reward and np.isfinite(step.reward)
        assert step.observation.shape == first.shape
    assert steps[-1].terminated != steps[-1].truncated
    assert env.spec.can_terminate or not steps[-1].terminated
    env.close()
    env.close()


def test_a_task_is_what_gymnasium_makes_of_it():
    ours, theirs = gym.make("Hopper-v5", 3), gymnasium.make("Hopper-v5")
    np.testing.assert_array_equal(ours.reset(), theirs.reset(seed=3)[0].astype("f4"))
    for t in range(50):
        action = actions(t, (1, 3))[0]
        mine, (seen, reward, terminated, _, _) = ours.step(action), theirs.step(action)
        np.testing.assert_array_equal(mine.observation, seen.astype("f4"))
        assert (mine.reward, mine.terminated) == (reward, terminated)
        if terminated:
            return
    raise AssertionError("random actions make a hopper fall within 50 steps")


def test_known_tasks_never_terminate():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not gym.make("HalfCheetah-v4", 0).spec.can_terminate
    assert gym.make("Walker2d-v5", 0).spec.can_terminate
    assert not gym.make("Walker2d-v5,terminates=no", 0).spec.can_terminate
