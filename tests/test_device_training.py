"""The loop on the device: the same training as on the host, in one program."""

import csv
import functools
import io
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

import toys_device
from planprior import device_training, launch
from planprior.checkpoint import Checkpoints, read_meta
from planprior.device_loop import MOST, Given, Loop, Place, timetable
from planprior.envs.base import EnvError
from planprior.envs.device import DevicePool
from planprior.experiment import TrainConfig, resolve
from planprior.population import Population
from planprior.runtime import GracefulStop
from planprior.schedule import Counters, Schedule
from toys import TINY, UNEVEN

# 60 decisions of 2 environments, 10 of them random.
COMMON: dict[str, Any] = UNEVEN | {
    "steps": 240,
    "seed_steps": 40,
    "eval_every": 80,
    "eval_episodes": 2,
    "log_every": 20,
}


@pytest.fixture(scope="module", autouse=True)
def one_program():
    """Trainings of equal programs share a loop: each would compile its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_training, "Loop", functools.cache(Loop))
        yield


def train(folder, task="toys_device:uneven", **changes):
    screen = io.StringIO()
    config = TrainConfig(task=task, run_dir=str(folder), **(COMMON | changes))
    result = launch.train(config, console=Console(file=screen, width=200))
    return result, screen.getvalue()


def told(folder):
    """All that the tables say, but for how long it took."""
    lines = (folder / "train.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    with (folder / "eval.csv").open() as file:
        for row in csv.DictReader(file):
            rows.append({name: float(x) for name, x in row.items()})
    return [
        {k: v for k, v in row.items() if k != "seconds" and not k.startswith("time_")}
        for row in rows
    ]


def learned(folder):
    """The arrays of the last checkpoint: agents, and episodes with environments."""
    checkpoints = Checkpoints(folder / "checkpoints")
    path = checkpoints.path(checkpoints.steps()[-1])
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    return found, read_meta(path)["counters"] | {"seconds": 0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device") / "run"
    result, screen = train(folder)
    assert result.finished
    return folder, screen


def assert_same(folder, other, rtol):
    (found, counters), (expected, others) = learned(folder), learned(other)
    assert counters == others and found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=rtol, atol=rtol / 10, err_msg=name
        )


def test_it_leaves_what_a_training_on_the_host_leaves(whole, tmp_path):
    folder, screen = whole
    assert "where acting, stepping and learning are one program" in screen
    _, screen = train(tmp_path / "run", loop="host")
    assert "step by step (--loop host)" in screen
    assert_same(folder, tmp_path / "run", rtol=1e-3)
    here, there = told(folder), told(tmp_path / "run")
    assert len(here) == len(there)
    for row, other in zip(here, there, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if isinstance(value, float):
                value = pytest.approx(value, rel=1e-3, abs=1e-4, nan_ok=True)
            assert other[name] == value, name
    # A line of losses whenever 20 steps are over; at the random ones there are none.
    assert [row.get("event") for row in here].count("update") == 12 - 2
    ends = {row["terminated"] for row in here if row.get("event") == "episode"}
    assert ends == {True, False}


def test_stopped_and_resumed_it_is_as_if_never_stopped(whole, tmp_path, monkeypatch):
    """Bit for bit, episodes of the environments included."""
    questions = iter(range(1000))
    requested = property(lambda self: next(questions) > 20)
    monkeypatch.setattr(GracefulStop, "requested", requested)
    result, _ = train(tmp_path / "run")
    stopped = Checkpoints(tmp_path / "run" / "checkpoints").steps()[-1]
    assert not result.finished and 0 < stopped < 240
    monkeypatch.undo()
    monkeypatch.setattr(device_training, "SHORT", 0.0)  # other pieces, too
    result, screen = train(tmp_path / "run")
    assert result.finished and f"going on from {stopped}" in screen
    assert_same(tmp_path / "run", whole[0], rtol=0)
    assert told(tmp_path / "run") == told(whole[0])


def population(pool, config, capacity=0):
    experiment = resolve(config, pool.spec, accelerator=False)
    return Population(
        pool.spec,
        experiment.config,
        [0],
        [experiment.hypers],
        num_envs=pool.num_envs,
        capacity=capacity or experiment.capacity,
    )


def beginning(pool, pop):
    """Where a loop begins; the pool has just been reset."""
    start = jnp.ones((1, pool.num_envs), bool)
    place = Place(pool.envs, pop.cold_start(), start, jnp.zeros(1, jnp.int32))
    return place, Given(pop.hypers, pop.keys, pool.keys)


# --- When an environment breaks -------------------------------------------------------


def test_an_environment_that_breaks_stops_the_loop_at_once(whole):
    """Its step is not remembered, and named as a pool would name it."""
    config = TrainConfig(task="toys_device:uneven", **COMMON)
    pool = DevicePool(toys_device.uneven(), 2, 0)
    pop = population(pool, config)
    schedule = Schedule(2, 2, 1000, 1.0, 3)
    loop = device_training.Loop(pool.env, pop.programs, 2, True)
    replay = pop.begin(pop.init_replay(), pool.reset()[None])
    place, given = beginning(pool, pop)
    table = timetable(schedule, Counters(), 3)
    agents, replay, place, record = loop.run(
        pop.init(), replay, place, given, table, 3, Counters()
    )
    assert list(record.made) == [3]
    pool.settle(place.envs, record.last)
    before = np.array(replay.total)
    state = place.envs.state
    poisoned = state | {"draw": state["draw"].at[1].set(jnp.nan)}
    place = place._replace(envs=place.envs._replace(state=poisoned))
    _, replay, place, record = loop.run(
        agents, replay, place, given, table, 3, Counters(3)
    )
    assert list(record.made) == [0]
    np.testing.assert_array_equal(replay.total, before)
    sentence = r"environment 1 of toys_device:Uneven returned nan in its observation"
    with pytest.raises(EnvError, match=sentence):
        pool.settle(place.envs, record.last)


@pytest.mark.slow
def test_what_was_learned_until_it_broke_is_saved(tmp_path):
    changes = {"seed_steps": 8, "settings": TINY}
    sentence = r"environment 0 of toys_device:Broken returned nan in its reward"
    with pytest.raises(EnvError, match=sentence):
        train(tmp_path / "run", "toys_device:Broken", **changes)
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [20]


# --- The parts ------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.25, 1.0, 1.5, 3.0, 0.7, 1 / 3, 1.4])
@pytest.mark.parametrize("num_envs", [1, 4, 5, 10])
def test_the_timetable_is_what_the_host_would_do(rate, num_envs):
    """In pieces of any length, it asks for every gradient step when that is due."""
    schedule = Schedule(num_envs, 2, 20, rate, 5, 50)
    at_once, due = schedule.updates_at_once, schedule.updates_due(20 // num_envs)
    counters = Counters(20 // num_envs, due - due % at_once)
    assert counters.updates == schedule.pretraining
    for length in (1, 7, 40, *[MOST] * 10):
        table = timetable(schedule, counters, length)
        assert not table.random.any() and not table.calls[length:].any()
        for i in range(length):
            counters.decisions += 1
            for c in range(table.calls[i]):
                told = schedule.is_told(counters.decisions, counters.updates)
                assert table.told[i, c] == told
                assert table.renewed[i, c] == schedule.reanalyses(counters.updates)
                counters.updates += at_once
            left = schedule.updates_due(counters.decisions) - counters.updates
            assert 0 <= left < at_once


def test_gradient_steps_are_counted_exactly():
    """5800 · 0.7 is 4059.9999999999995 as floats."""
    schedule = Schedule(1, 1, 1, 0.7, 0)
    assert [schedule.updates_due(n) for n in (5799, 5800, 5801)] == [4059, 4060, 4060]
    third = Schedule(3, 1, 1, 1 / 3, 0)
    assert [third.updates_due(n) for n in (1, 2, 49)] == [1, 2, 49]


def test_nothing_is_learned_while_acting_randomly():
    table = timetable(Schedule(2, 1, 10, 1.0, 0), Counters(), 5)
    assert list(table.random[:6]) == [True] * 5 + [False]
    assert not table.calls.any() and len(table.calls) == MOST


def test_the_host_is_no_device(tmp_path):
    sentence = r"TrainConfig\.loop is 'device', but the environments of toys:aim are no"
    with pytest.raises(ValueError, match=sentence):
        train(tmp_path / "run", "toys:aim", loop="device")
    assert not (tmp_path / "run").exists()


HALF_FROZEN = {
    "method": "pompc",
    "seed": 3,
    "settings": TINY | {"max_grad_norm": 1e38, "entropy_coef": (1e-4, 1e38)},
}
"""The second of two members diverges at its first step after the pretraining."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "tdmpc2", "updates_per_step": 0.3, "overlap": False},
        {"updates_per_step": 1.5, "overlap": False},
        HALF_FROZEN,
    ],
    ids=["few updates", "many", "one of two diverges"],
)
def test_it_is_the_hosts_with_other_settings_too(tmp_path, changes):
    train(tmp_path / "device", **changes)
    train(tmp_path / "host", **changes, loop="host")
    assert_same(tmp_path / "device", tmp_path / "host", rtol=1e-3)
    here, there = told(tmp_path / "device"), told(tmp_path / "host")
    for row, other in zip(here, there, strict=True):
        assert row.get("event") == other.get("event")
        assert row.get("step") == other.get("step")
    frozen = [row for row in here if row.get("event") == "frozen"]
    assert len(frozen) == (changes is HALF_FROZEN)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [True, False])
def test_the_replay_is_never_copied(overlap):
    """However large it is, a call takes no more memory than before."""
    config = TrainConfig(task="toys_device:uneven", num_envs=2, settings=TINY)
    pool = DevicePool(toys_device.uneven(), 2, 0)
    pop = population(pool, config, capacity=4_000_000)
    loop = Loop(pool.env, pop.programs, 2, overlap)
    pool.reset()
    place, given = beginning(pool, pop)
    agents, replay = jax.eval_shape(lambda: (pop.init(), pop.init_replay()))
    compiled = loop.lower(agents, replay, place, given).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.alias_size_in_bytes >= pop.replay_bytes()
    # One copy of the smallest field, of one byte a row, would be above.
    assert memory.temp_size_in_bytes < 4_000_000
