"""Driving a simulator at a rate: on a clock that the test moves, and by the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import toys
from command_line import run
from planprior import control_budgets, methods
from planprior.commands import bench_control, control
from planprior.controller import SPARE
from planprior.realtime import drive, untimed
from test_controller import PERIOD, Clock, FakePlanner, Loop

KEPT = Path(__file__).parent / "agents" / "format-1" / "agent"


class Slow(toys.Aim):
    """A simulator whose fifth step takes three and a half periods."""

    def __init__(self, clock):
        super().__init__(0)
        self.clock, self.times = clock, []

    def step(self, action):
        self.times.append(self.clock.now)
        self.clock.now += 3.5 * PERIOD if len(self.times) == 5 else 0.1 * PERIOD
        return super().step(action)


def test_every_action_goes_out_when_it_is_due_and_a_late_one_is_not_made_up_for():
    loop = Loop()
    env = Slow(loop.clock)

    def sleep(seconds):
        loop.clock.now += seconds

    driven = drive(
        loop.controller, env, seconds=0.5, seed=1, clock=loop.clock, sleep=sleep
    )
    waits = np.diff(env.times) / PERIOD
    assert waits[4] == pytest.approx(3.5)  # at once after the slow step
    np.testing.assert_allclose(np.delete(waits, 4), 1.0, atol=1e-6)
    assert driven.decisions == len(env.times) == loop.controller.report()["actions"]
    assert driven.lateness.summary()["max"] == pytest.approx(2.5 * PERIOD * 1e3)
    # Two episodes of ten ended; each start is the policy's.
    assert len(driven.returns) == driven.decisions // toys.LENGTH == 2
    assert loop.controller.report()["sources"]["policy at the start"] == 3


def test_episodes_without_a_clock_are_those_of_the_same_seed():
    class Still:
        def reset(self):
            self.resets = getattr(self, "resets", 0) + 1

        def act(self, observation):
            return np.array([toys.BEST], np.float32)

    agent = Still()
    returns = untimed(agent, toys.Aim(0), episodes=2, seed=1)
    assert returns == [toys.LENGTH] * 2 and agent.resets == 2


def test_the_command_drives_and_compares(tmp_path, monkeypatch, capsys):
    shutil.copytree(KEPT, tmp_path / "agent")
    command = ["control", tmp_path / "agent", "--hz", 100, "--seconds", 0.4]
    status, out, _ = run(monkeypatch, capsys, *command, "--json")
    told = json.loads(out)
    assert status == 0 and told["hz"] == 100
    # However slow this machine is now: no more actions than are due, all accounted for.
    assert 1 <= told["actions"] <= 41
    assert sum(told["sources"].values()) == told["actions"]
    assert len(told["returns"]) == len(told["untimed_returns"])
    assert told["error"] is None
    control.tell(told)
    out = capsys.readouterr().out
    assert "toys:aim at 100 Hz" in out and "missed deadlines" in out
    assert "observation to plan" in out and "policy at the start" in out


def test_budgets_are_a_grid_of_rates_and_returns(monkeypatch, capsys):
    made = []

    def planner(agent, levels):
        made.append((agent.config.network.mlp_dim, levels))
        return FakePlanner(Clock())

    monkeypatch.setattr(control_budgets, "CompiledPlanner", planner)
    grid = [
        "--control-samples",
        8,
        "--control-iterations",
        1,
        "--control-sizes",
        "tiny",
    ]
    command = ["bench", "--control", KEPT, *grid, "--json"]
    status, out, err = run(monkeypatch, capsys, *command)
    assert status == 0, err
    trained, fresh = json.loads(out)["budgets"]
    assert (trained["task"], trained["samples"], trained["iterations"]) == (
        "toys:aim", 8, 1,
    )  # fmt: skip
    assert 0 < trained["milliseconds"] <= trained["slowest"]
    assert trained["hz"] == pytest.approx(1e3 * (1 - SPARE) / trained["slowest"])
    assert len(trained["returns"]) == len(trained["own"]) == 1
    assert trained["kept"] == pytest.approx(trained["return"] / trained["own"][0])
    assert (fresh["size"], fresh["return"], fresh["kept"]) == ("tiny", None, None)
    assert made == [(16, [8]), (methods.SIZES["tiny"].network.mlp_dim, [8])]
    assert bench_control.cells(trained)[-1].endswith("%")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "0"], "seconds is 0.0; it must be above 0"),
        (["--hz", "0"], "hz is 0.0; it must be above 0"),
        (["--checkpoint", "last"], "it must be best, latest or a number"),
    ],
)
def test_a_mistake_is_one_sentence(options, message, monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, "control", KEPT, *options)
    assert status == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--control-samples", "0"], "control_samples is 0; it must be numbers of at"),
        (["--control-sizes", "2"], "control_sizes is '2'; it must be one of tiny, sm"),
        (["--control-episodes", "-1"], "control_episodes is -1; it must be at least 0"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(options, message, monkeypatch, capsys):
    command = ["bench", "--control", KEPT, *options]
    status, _, err = run(monkeypatch, capsys, *command)
    assert status == 2 and message in err and err.count("\n") == 1
    command = ["bench", "aim", "--control-sizes", "tiny"]
    status, _, err = run(monkeypatch, capsys, *command)
    assert status == 2 and "it needs --control with an agent" in err
