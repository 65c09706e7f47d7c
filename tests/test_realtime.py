"""Driving a simulator at a rate: on a clock that the test moves, and by the command."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import toys
from planprior import cli
from planprior.commands import control
from planprior.realtime import drive, untimed
from test_controller import PERIOD, Loop

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


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["planprior", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


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


def test_budgets_are_a_grid_of_rates(monkeypatch, capsys):
    grid = ["--budgets", "--samples", 8, "--iterations", 1, 2, "--episodes", 0]
    status, out, _ = run(monkeypatch, capsys, "control", KEPT, *grid, "--json")
    rows = json.loads(out)["budgets"]
    assert status == 0
    assert [(r["samples"], r["iterations"]) for r in rows] == [(8, 1), (8, 2)]
    assert rows[0]["hz"] > rows[1]["hz"] > 0
    assert [r["return"] for r in rows] == [None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "0"], "seconds is 0.0; it must be above 0"),
        (["--hz", "0"], "hz is 0.0; it must be above 0"),
        (
            ["--budgets", "--samples", "2"],
            "num_elites is 4; it must be at most num_samp",
        ),
        (["--checkpoint", "last"], "it must be best, latest or a number"),
    ],
)
def test_a_mistake_is_one_sentence(options, message, monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, "control", KEPT, *options)
    assert status == 2 and message in err and err.count("\n") == 1
