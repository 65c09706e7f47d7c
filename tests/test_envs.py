"""The contract of environments, for pools in this process and in workers."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import test_envs_toys as toys
from planprior import host
from planprior.envs import process, registry
from planprior.envs.base import EnvError, EnvMaker
from planprior.envs.generator import (
    generator_state,
    legacy_state,
    set_generator_state,
    set_legacy_state,
)
from planprior.envs.pool import LocalPool, Pool
from planprior.envs.process import ProcessPool, WorkerError, choose_workers
from planprior.envs.rows import env_seeds

N = 5
WORKERS = [0, 2]


def make_pool(
    make: EnvMaker, workers: int, seed: int = 0, timeout: float = 20.0, num: int = N
) -> Pool:
    if workers == 0:
        return LocalPool(make, num, seed)
    return ProcessPool(make, num, seed, workers, timeout)


def actions(seed: int = 0, num: int = N) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (num, 2)).astype(np.float32)


def run_python(code: str, **kwargs) -> subprocess.CompletedProcess:
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parent))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
        **kwargs,
    )


# Pools --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", WORKERS)
def test_shapes_and_dtypes(workers):
    with make_pool(toys.Counter, workers) as pool:
        first = pool.reset()
        step = pool.step(actions())
    assert (pool.num_envs, pool.spec.name) == (N, "toy:counter")
    for field in (first, step.observation, step.reset_observation):
        assert (field.shape, field.dtype) == ((N, 3), np.float32)
    assert (step.reward.shape, step.reward.dtype) == ((N,), np.float32)
    flags = (step.terminated, step.truncated, step.begun, step.ended, step.success)
    for flag in flags:
        assert (flag.shape, flag.dtype) == ((N,), np.bool_)


@pytest.mark.parametrize("workers", WORKERS)
def test_episodes_end_apart_and_show_both_sides_of_the_border(workers):
    seeds = env_seeds(0, N)
    lengths = np.array([toys.counter_length(seed) for seed in seeds])
    assert len(set(lengths)) > 1
    count, episode = np.zeros(N), np.zeros(N)
    with make_pool(toys.Counter, workers) as pool:
        pool.reset()
        for _ in range(14):
            step = pool.step(np.zeros((N, 2), np.float32))
            count += 1
            ended = count == lengths
            odd = np.array(seeds) % 2 == 1
            np.testing.assert_array_equal(step.terminated, ended & odd)
            np.testing.assert_array_equal(step.truncated, ended & ~odd)
            np.testing.assert_array_equal(step.begun, ended)
            assert step.acted.all()
            # The true last observation, of the episode that it belongs to.
            np.testing.assert_array_equal(step.observation[:, 0], count)
            np.testing.assert_array_equal(step.observation[:, 1], episode)
            np.testing.assert_array_equal(step.episode_length, count)
            # The reward is the counter: 1 + 2 + … + count.
            np.testing.assert_array_equal(step.episode_return, count * (count + 1) / 2)
            count[ended] = 0
            episode[ended] += 1
            np.testing.assert_array_equal(step.reset_observation[:, 0], count)
            np.testing.assert_array_equal(step.reset_observation[:, 1], episode)
            same = step.reset_observation == step.observation
            np.testing.assert_array_equal(same.all(axis=1), ~ended)
    assert (episode >= 2).all()


@pytest.mark.parametrize("workers", [1, 2, N])
def test_workers_change_nothing(workers):
    with make_pool(toys.Counter, 0) as here, make_pool(toys.Counter, workers) as there:
        np.testing.assert_array_equal(here.reset(), there.reset())
        for t in range(20):
            mine, theirs = here.step(actions(t)), there.step(actions(t))
            for field, other in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(field, other)
        np.testing.assert_array_equal(here.reset(7), there.reset(7))


@pytest.mark.parametrize("workers", WORKERS)
def test_seeds(workers):
    def draws(pool: Pool, seed: int | None = None) -> np.ndarray:
        first = pool.reset(seed)[:, 2]
        return np.stack([first, pool.step(actions()).observation[:, 2]])

    with make_pool(toys.Counter, workers, seed=1) as pool:
        once = draws(pool)
        assert len(np.unique(once)) == once.size, "environments must differ"
        assert not np.isin(draws(pool), once).any(), "the stream must go on"
        other = draws(pool, seed=2)
        assert not np.isin(other, once).any()
        np.testing.assert_array_equal(draws(pool, seed=1), once)
    with make_pool(toys.Counter, workers, seed=1, num=2) as fewer:
        np.testing.assert_array_equal(fewer.reset()[:, 2], once[0, :2])


def test_env_seeds_are_distinct_and_checked():
    assert len(set(env_seeds(0, 500) + env_seeds(1, 500))) == 1000
    assert env_seeds(0, 500)[:3] == env_seeds(0, 3)
    with pytest.raises(ValueError, match="seed is -1; it must be at least 0"):
        env_seeds(-1, 1)


@pytest.mark.parametrize("workers", WORKERS)
def test_what_was_handed_out_is_not_written_again(workers):
    with make_pool(toys.Counter, workers) as pool:
        first = pool.reset()
        kept = first.copy()
        step = pool.step(actions(0))
        copies = [field.copy() for field in step]
        pool.step(actions(1))
        np.testing.assert_array_equal(first, kept)
        for field, copy in zip(step, copies, strict=True):
            np.testing.assert_array_equal(field, copy)


@pytest.mark.parametrize("workers", WORKERS)
def test_actions_are_clipped(workers):
    with make_pool(toys.Counter, workers) as pool:
        pool.reset()
        reward = pool.step(np.full((N, 2), 1.5)).reward
    np.testing.assert_array_equal(reward, 2.0)  # counter 1 + action 1


@pytest.mark.parametrize("workers", WORKERS)
def test_wrong_actions_are_named_and_leave_the_pool_usable(workers):
    with make_pool(toys.Counter, workers) as pool:
        pool.reset()
        with pytest.raises(ValueError, match=r"shape \(5, 3\); 5 .*need \(5, 2\)"):
            pool.send(np.zeros((N, 3)))
        broken = actions()
        broken[3, 1] = np.nan
        with pytest.raises(ValueError, match=r"environment 3 of .* is nan at entry 1"):
            pool.send(broken)
        assert (pool.step(actions()).episode_length == 1).all()


@pytest.mark.parametrize("workers", WORKERS)
def test_calls_out_of_order_are_refused(workers):
    with make_pool(toys.Counter, workers) as pool:
        with pytest.raises(RuntimeError, match=r"send\(\).*next call is reset"):
            pool.send(actions())
        pool.reset()
        with pytest.raises(RuntimeError, match=r"recv\(\).*next call is send"):
            pool.recv()
        pool.send(actions())
        for call in (lambda: pool.send(actions()), pool.reset):
            with pytest.raises(RuntimeError, match="next call is recv"):
                call()
        pool.recv()
    with pytest.raises(RuntimeError, match="it is closed"):
        pool.reset()


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (toys.BlindReward, "environment 0 of toy:counter returned nan in its reward;"),
        (
            toys.BlindObservation,
            "environment 0 of toy:counter returned inf in its observation at entry 1;",
        ),
    ],
)
def test_values_that_are_not_finite_are_named(make, sentence, workers):
    with make_pool(make, workers) as pool:
        pool.reset()
        pool.step(actions())
        with pytest.raises(EnvError, match=sentence) as caught:
            pool.step(actions())
    assert caught.value.environment == 0


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            toys.Raising,
            r" failed: ZeroDivisionError: the toy broke \(.*toys\.py, line \d+\)$",
        ),
        (toys.Shapeless, r": an observation has shape \(1,\); EnvSpec says \(3,\)$"),
    ],
)
def test_an_error_of_an_environment_is_one_sentence(make, sentence, workers):
    with make_pool(make, workers) as pool:
        pool.reset()
        pool.step(actions())
        with pytest.raises(EnvError) as caught:
            pool.step(actions())
    # `match` would look into the notes as well.
    assert re.search(f"^environment 0 of toy:counter{sentence}", str(caught.value))
    assert "\n" not in str(caught.value) and caught.value.environment == 0


@pytest.mark.parametrize("workers", WORKERS)
def test_where_an_environment_failed_is_in_a_note(workers):
    with make_pool(toys.Raising, workers) as pool:
        pool.reset()
        pool.step(actions())
        with pytest.raises(EnvError) as caught:
            pool.step(actions())
    shown = caught.value.__notes__[0]
    assert "Traceback" in shown and 'ZeroDivisionError("the toy broke")' in shown


@pytest.mark.parametrize("workers", WORKERS)
def test_an_environment_that_cannot_be_built_is_one_sentence(workers):
    sentence = r"^building an environment failed: LookupError: no parts \(.*, line"
    with pytest.raises(EnvError, match=sentence):
        make_pool(toys.Unbuildable, workers)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (toys.Liar, "environment 0 of toy:liar terminated, but its EnvSpec says"),
        (toys.Endless, "environment 0 of toy:endless goes on after 2 steps, which"),
    ],
)
def test_an_end_that_breaks_the_specification_is_named(make, sentence, workers):
    with make_pool(make, workers) as pool:
        pool.reset()
        with pytest.raises(EnvError, match=sentence):
            for _ in range(6):
                pool.step(actions())


# States -------------------------------------------------------------------------------


def play(pool: Pool, first: int, last: int) -> list:
    return [pool.step(actions(seed)) for seed in range(first, last)]


@pytest.mark.parametrize("workers", WORKERS)
def test_a_pool_goes_on_from_its_state(workers):
    with make_pool(toys.Steady, workers) as pool:
        pool.reset()
        play(pool, 0, 4)
        state = pool.state()
        expected = play(pool, 4, 12)
    assert state is not None
    # Another pool, in the other kind of process: it knows nothing but the state.
    with make_pool(toys.Steady, 2 - workers, seed=9) as pool:
        seen = pool.set_state(state)
        np.testing.assert_array_equal(seen, state["observation"])
        for one, other in zip(play(pool, 4, 12), expected, strict=True):
            for field, wanted in zip(one, other, strict=True):
                np.testing.assert_array_equal(field, wanted)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_state_that_cannot_be_told_is_none(workers):
    with make_pool(toys.Counter, workers) as pool:
        pool.reset()
        assert pool.state() is None
        pool.send(actions())
        with pytest.raises(RuntimeError, match=r"state\(\) was called .* next call is"):
            pool.state()


def test_an_environment_without_set_state_says_so():
    with LocalPool(toys.Counter, 1, 0) as pool, LocalPool(toys.Steady, 1, 0) as steady:
        steady.reset()
        state = steady.state()
        assert state is not None
        with pytest.raises(EnvError, match=r"toy:counter has no set_state\(\)"):
            pool.set_state(state)


def test_generators_go_on_from_their_state():
    generator = np.random.default_rng(5)
    generator.integers(2, dtype=np.uint32)  # leaves half a word behind
    state = generator_state(generator)
    expected = generator.integers(2**32, size=4, dtype=np.uint32)
    other = np.random.default_rng(6)
    set_generator_state(other, state)
    assert (other.integers(2**32, size=4, dtype=np.uint32) == expected).all()
    with pytest.raises(TypeError, match="is a MT19937; it must be a PCG64"):
        generator_state(np.random.Generator(np.random.MT19937(0)))


def test_older_generators_go_on_from_their_state():
    random, other = np.random.RandomState(5), np.random.RandomState(6)
    random.standard_normal()  # leaves a second number behind
    state = legacy_state(random)
    assert (state.dtype, state.shape) == (np.uint32, (628,))
    set_legacy_state(other, state)
    assert (other.standard_normal(5) == random.standard_normal(5)).all()
    assert (other.bytes(7), other.uniform()) == (random.bytes(7), random.uniform())


@pytest.mark.parametrize("workers", WORKERS)
def test_success_is_told_with_the_step_it_belongs_to(workers):
    with make_pool(toys.Goal, workers) as pool:
        pool.reset()
        for _ in range(12):
            step = pool.step(actions())
            assert step.success.dtype == np.bool_
            np.testing.assert_array_equal(step.success, step.episode_length % 3 == 0)


def test_a_success_that_was_promised_must_be_told():
    with make_pool(toys.Silent, 0) as pool:
        pool.reset()
        with pytest.raises(EnvError, match=r"success is None, but .*has_success=True"):
            pool.step(actions())


@pytest.mark.parametrize("workers", WORKERS)
def test_closing_twice_is_closing(workers):
    pool = make_pool(toys.Counter, workers)
    pool.close()
    pool.close()


@pytest.mark.parametrize("workers", WORKERS)
def test_environments_of_one_pool_are_of_one_kind(workers):
    with pytest.raises((EnvError, WorkerError), match="one pool differ"):
        make_pool(toys.Mixed, workers)


# Workers ------------------------------------------------------------------------------


def fail(make: EnvMaker, timeout: float = 20.0) -> tuple[str, Pool]:
    pool = make_pool(make, 2, timeout=timeout)
    pool.reset()
    pool.step(actions())
    with pytest.raises(WorkerError) as caught:
        pool.step(actions())
    return str(caught.value), pool


def test_a_worker_that_failed_closes_its_pool():
    with make_pool(toys.Raising, 2) as pool:
        pool.reset()
        pool.step(actions())
        with pytest.raises(EnvError):
            pool.step(actions())
        with pytest.raises(RuntimeError, match="it is closed"):
            pool.step(actions())


def test_an_error_of_a_worker_itself_is_shown_with_its_traceback(monkeypatch):
    with make_pool(toys.Counter, 2) as pool:
        pool.reset()
        assert isinstance(pool, ProcessPool)
        pool._crew.ask("step")
        pool._crew.gather(20.0)
        pool._crew._members[0].send(("step",))
        with pytest.raises(WorkerError, match=r"(?s)0 to 1 of .* failed:\nTraceback"):
            pool._crew.gather(20.0)


def test_a_killed_worker_is_one_sentence():
    message, _ = fail(toys.Dying)
    assert message == (
        "the worker of environments 0 to 1 of toy:counter was killed by SIGKILL; is "
        "memory short?"
    )


def test_a_worker_that_leaves_is_one_sentence():
    message, _ = fail(toys.Leaving)
    assert message.endswith("toy:counter ended with exit code 3")


def test_a_worker_killed_between_steps_is_one_sentence():
    with make_pool(toys.Witness, 2) as pool:
        os.kill(int(pool.reset()[0, 2]), signal.SIGKILL)
        time.sleep(0.2)
        with pytest.raises(WorkerError, match="was killed by SIGKILL"):
            pool.step(actions())


def test_workers_leave_signals_to_the_parent():
    with make_pool(toys.Witness, 2) as pool:
        for pid in pool.reset()[:, 2]:
            os.kill(int(pid), signal.SIGTERM)
            os.kill(int(pid), signal.SIGINT)
            os.kill(int(pid), signal.SIGHUP)
        time.sleep(0.2)
        pool.step(actions())


def test_a_signal_to_the_whole_group_ends_no_worker():
    """Clusters send SIGTERM to all processes; the fork server must not go either."""
    code = """
import os, signal
import numpy as np
import test_envs_toys as toys
from planprior.envs.process import ProcessPool

seen = []
numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
for number in numbers:
    signal.signal(number, lambda number, _: seen.append(number))
with ProcessPool(toys.Witness, 4, 0, 2, 20.0) as pool:
    pool.reset()
    for number in numbers:
        os.killpg(0, number)
        pool.step(np.zeros((4, 2), np.float32))
    with ProcessPool(toys.Witness, 2, 0, 2, 20.0) as other:
        other.reset()
print(sorted(seen), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""
    done = run_python(code, start_new_session=True)
    assert done.stdout == "[1, 2, 15] set()\n", done.stderr


def test_a_fork_server_that_is_gone_is_one_sentence(monkeypatch):
    def refuse(_):
        raise EOFError("unexpected EOF")

    monkeypatch.setattr(process._context().Process, "start", refuse)
    sentence = "the worker of environments 0 to 4 of the pool could not be started"
    with pytest.raises(WorkerError, match=sentence):
        make_pool(toys.Witness, 1)


def test_a_hanging_worker_is_one_sentence_in_time():
    message, _ = fail(toys.Hanging, timeout=2.0)  # it would sleep for 600 s
    assert "did not answer within 2 s" in message


def test_time_in_which_the_process_stood_still_is_not_waited(monkeypatch):
    now, answers, waited = 0.0, [], []

    def wait(sources, seconds):
        nonlocal now
        now += 3600.0  # as if it had been suspended meanwhile
        waited.append(seconds)
        return answers.pop(0)

    monkeypatch.setattr(process, "wait", wait)
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: now))
    answers += [[], [], ["worker"]]
    assert process._Patience(2.5).wait(["worker"])
    answers += [[], [], []]
    assert not process._Patience(2.5).wait(["worker"])
    assert waited == [1.0, 1.0, 0.5] * 2


def test_episodes_to_be_done_again_have_the_time_of_their_steps(monkeypatch):
    with make_pool(toys.Steady, 2) as pool:
        assert isinstance(pool, ProcessPool)
        pool.reset()
        state, allowed = pool.state(), []
        gather = pool._crew.gather

        def note(timeout):
            allowed.append(timeout)
            return gather(timeout)

        monkeypatch.setattr(pool._crew, "gather", note)
        assert state is not None
        pool.set_state(state)
    most, steps = pool.num_envs // 2 + pool.num_envs % 2, pool.spec.episode_length
    assert allowed == [process._START_TIMEOUT + most * steps * 20.0]


def wait_until(condition: Callable[[], bool], sentence: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, sentence
        time.sleep(0.02)


def test_workers_step_while_the_caller_does_something_else(tmp_path, monkeypatch):
    monkeypatch.setenv("PATIENT_FOLDER", str(tmp_path))
    with make_pool(toys.Patient, 2, num=2) as pool:
        pool.reset()
        pool.send(actions(num=2))
        wait_until((tmp_path / "begun").exists, "no step before recv() is called")
        (tmp_path / "go").touch()  # send() has not waited for this
        assert (pool.recv().episode_length == 1).all()


def test_workers_load_no_jax_and_use_one_thread_each():
    assert "jax" in sys.modules
    with make_pool(toys.Witness, 2) as pool:
        seen = pool.reset()
    np.testing.assert_array_equal(seen[:, 0], 0)
    np.testing.assert_array_equal(seen[:, 1], 1)
    assert len(np.unique(seen[:, 2])) == 2
    assert os.getpid() not in seen[:, 2]


def test_importing_environments_loads_no_jax():
    code = """
import sys
import planprior.envs.dmc, planprior.envs.process, planprior.envs.registry
planprior.envs.registry.list_tasks()
print([name for name in ("jax", "equinox", "dm_control") if name in sys.modules])
"""
    assert run_python(code).stdout == "[]\n"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(alive, pids)), "a worker outlived its parent")


# An early `weakref.finalize` is what makes the order of exit handlers matter.
OPEN_POOL = """
import weakref
weakref.finalize(weakref.ref, int)
import test_envs_toys as toys
from planprior.envs.process import ProcessPool
pool = ProcessPool(toys.Witness, 4, 0, 2)
print(*set(pool.reset()[:, 2].astype(int).tolist()), flush=True)
"""


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "raise SystemExit(0)",
        "pool.close(); pool.close()",
        "del pool",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_workers_go_with_their_parent_silently(ending, tmp_path):
    # A script without a main guard, which workers must not run again.
    ran = run_python(OPEN_POOL + ending, cwd=tmp_path)
    pids = [int(pid) for pid in ran.stdout.split()]
    assert len(pids) == 2
    assert ran.stderr == ""
    wait_until_gone(pids)


def test_workers_do_not_run_the_script_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import jax\n" + OPEN_POOL + "print(*pool.reset()[:, 0])\n")
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parent))
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, env=env
    )
    assert ran.stdout.splitlines()[1:] == ["0.0 0.0 0.0 0.0"], ran.stderr


def test_shared_memory_is_nameless_while_the_pool_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "_memory_folder", lambda: str(tmp_path))
    with make_pool(toys.Counter, 2) as pool:
        pool.reset()
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num", "asked", "cores", "chosen"),
    [
        (8, "auto", 2, 0),
        (1, "auto", 64, 0),
        (8, "auto", 16, 8),
        (8, "auto", 8, 4),  # 7 workers would still have one with 2 environments
        (64, "auto", 16, 13),  # of up to 5; 15 workers would also have 5
        (8, 0, 64, 0),
        (8, 3, 2, 3),
        (2, 3, 2, 2),
    ],
)
def test_choice_of_workers(num, asked, cores, chosen):
    count, why = choose_workers(num, asked, cores)
    assert count == chosen
    assert ("in this process" if chosen == 0 else f"in {chosen} workers") in why


def test_auto_counts_the_cores_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(host, "core_quota", lambda: None)
    assert choose_workers(16)[0] == 4  # 5 cores besides the learner's: shares of 4
    monkeypatch.setattr(host, "core_quota", lambda: 2)
    assert choose_workers(16)[0] == 0


@pytest.mark.parametrize("workers", [-1, "many"])
def test_a_wrong_number_of_workers_is_named(workers):
    with pytest.raises(ValueError, match=f"workers is {workers!r}; it must be 'auto'"):
        choose_workers(4, workers)


# Names --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelling", "full"),
    [
        ("dm_control:dog-run", "dm_control:dog-run"),
        ("dog-run", "dm_control:dog-run"),
        ("cup-catch", "dm_control:ball_in_cup-catch"),
        ("ball_in_cup-catch", "dm_control:ball_in_cup-catch"),
        ("dm_control:cup-catch", "dm_control:ball_in_cup-catch"),
        ("finger-turn-hard", "dm_control:finger-turn_hard"),
        ("finger-turn_hard", "dm_control:finger-turn_hard"),
        ("pointmass-easy", "dm_control:point_mass-easy"),
        ("humanoid_CMU-run", "dm_control:humanoid_CMU-run"),
        ("humanoid_cmu_run", "dm_control:humanoid_CMU-run"),
        ("swimmer-swimmer6", "dm_control:swimmer-swimmer6"),
        ("test_envs_toys:Counter", "test_envs_toys:Counter"),
    ],
)
def test_names_resolve(spelling, full):
    assert registry.resolve(spelling) == full


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("dog-rum", "dm_control:dog-run"),
        ("dm_control:cheetah", "dm_control:cheetah-run"),
        ("reacher-three-easy", "dm_control:reacher-easy"),
    ],
)
def test_unknown_names_get_the_nearest(wrong, nearest):
    sentence = f"^task '{wrong}' is unknown; the nearest is '{nearest}'$"
    with pytest.raises(ValueError, match=sentence):
        registry.resolve(wrong)


def test_a_module_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    sentence = (
        rf"is unknown: 'no_such_module' is no suite, and no module in {tmp_path} or on "
        "PYTHONPATH; "
    )
    with pytest.raises(ValueError, match=f"{sentence}see: planprior list tasks$"):
        registry.resolve("no_such_module:make_env")
    nearest = "the nearest is 'dm_control:walker-walk'$"
    with pytest.raises(ValueError, match=sentence + nearest):
        registry.resolve("no_such_module:walker-wlk")
    with pytest.raises(ValueError, match=r"^task 'zzqq' is unknown; see: planprior"):
        registry.resolve("zzqq")


def test_all_listed_names_resolve_to_themselves():
    tasks = registry.list_tasks()
    assert len(tasks) == len(set(tasks)) >= 51
    assert [registry.resolve(task) for task in tasks] == tasks


def test_ones_own_environment_needs_no_file_here():
    with registry.make_pool("test_envs_toys:Counter", 3, seed=0, workers=0) as here:
        assert isinstance(here, LocalPool)
        first = here.reset()
    with registry.make_pool("test_envs_toys:Counter", 3, seed=0, workers=2) as there:
        assert isinstance(there, ProcessPool)
        np.testing.assert_array_equal(there.reset(), first)


def test_ones_own_environment_may_lie_in_the_present_folder(tmp_path, monkeypatch):
    (tmp_path / "lies_here.py").write_text("from test_envs_toys import Counter as one")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    with registry.make_pool("lies_here:one", 2, seed=0, workers=1) as pool:
        assert pool.reset().shape == (2, 3)


def test_a_missing_function_and_no_environments_are_named():
    with pytest.raises(ValueError, match="'test_envs_toys' has no function 'Countr'"):
        registry.make_env("test_envs_toys:Countr", 0)
    with pytest.raises(ValueError, match="num_envs is 0; it must be at least 1"):
        registry.make_pool("dog-run", 0, seed=0)


def test_a_missing_package_comes_with_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'planprior\[dmc\]'"):
        registry.make_pool("dog-run", 2, seed=0)
