"""The loop: schedules, run folders, stopping and going on."""

import csv
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

import toys
from planprior import launch, training
from planprior.acting import Agent, NotFiniteError, find_checkpoint
from planprior.checkpoint import CheckpointError, Checkpoints, read_meta
from planprior.envs.base import EnvError
from planprior.envs.process import WorkerError
from planprior.experiment import TrainConfig
from planprior.replay_store import ReplayStore
from planprior.runtime import GracefulStop
from planprior.saving import Saving
from planprior.search import aged
from planprior.training import Schedule
from scripts import load
from toys import LENGTH, TINY, UNEVEN

kill = load("kill")

STEPS = 160  # environment steps; 80 decisions, of which 20 are random


def config(folder, task="toys:aim", **changes):
    values = {
        "steps": STEPS,
        "seed_steps": 40,
        "eval_every": 80,
        "eval_episodes": 2,
        "log_every": 20,
        "run_dir": str(folder),
        "settings": TINY,
    }
    return TrainConfig(task=task, **(values | changes))


def train(*args, **kwargs):
    screen = io.StringIO()
    result = launch.train(config(*args, **kwargs), console=Console(file=screen))
    return result, screen.getvalue()


def told(screen):
    """What was printed, on one line."""
    return " ".join(screen.split())


def evaluations(folder):
    with (Path(folder) / "eval.csv").open() as file:
        return list(csv.DictReader(file))


def events(folder, event):
    lines = (Path(folder) / "train.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == event]


# --- Schedule -------------------------------------------------------------------------


def test_updates_start_with_a_burst_and_then_keep_pace():
    one = Schedule(1, 2, 100, 1.0, 0)
    assert [one.updates_due(n) for n in (0, 99, 100, 101)] == [0, 0, 100, 101]
    assert one.pretraining == 100 and one.updates_at_once == 1
    assert one.env_steps(7) == 14
    four = Schedule(4, 1, 10, 0.5, 0)
    # 10 random decisions are 3 of 4 environments each.
    assert [four.is_random(n) for n in (2, 3)] == [True, False]
    assert [four.updates_due(n) for n in (2, 3, 4)] == [0, 6, 8]
    assert four.pretraining == 6 and four.updates_at_once == 2


@pytest.mark.parametrize("rate", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("log_every", [1, 20, 50])
def test_the_last_updates_before_a_line_of_losses_tell(rate, num_envs, log_every):
    """The loop's schedule, played through; and not many others do."""
    schedule = Schedule(num_envs, 2, 40, rate, 0, log_every)
    updates, calls, lines = 0, [], 0
    for made in range(150):
        due = [schedule.updates_due(made)]  # those that were missed
        if not schedule.is_random(made):
            due.append(schedule.updates_due(made + 1))
        for until in due:
            while updates + schedule.updates_at_once <= until:
                calls.append(schedule.is_told(made + 1, updates))
                updates += schedule.updates_at_once
        if schedule.logs(made + 1) and calls:
            assert calls[-1]
            lines += 1
    assert 2 < lines and sum(calls) <= lines + 1


def test_reanalysis_keeps_its_cadence_whatever_the_size_of_calls():
    one = Schedule(1, 1, 5, 1.0, 10)
    due = [n for n in range(50) if one.reanalyses(n)]
    assert due == [5, 15, 25, 35, 45]  # not while pretraining
    four = Schedule(4, 1, 8, 1.0, 10)
    due = [n for n in range(8, 88, 4) if four.reanalyses(n)]
    assert len(due) == 8  # 80 updates at one in ten
    # Calls are no longer than from one reanalysis to the next.
    for num_envs, rate in ((16, 1.0), (64, 1.0), (64, 0.5), (4, 16.0)):
        many = Schedule(num_envs, 1, num_envs, rate, 10)
        assert many.updates_at_once == 10
        first = many.pretraining
        due = [n for n in range(first, first + 400, 10) if many.reanalyses(n)]
        assert len(due) == 40
    assert not any(Schedule(1, 1, 5, 1.0, 0).reanalyses(n) for n in range(50))


# --- A whole training -----------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    return folder, *train(folder)


def test_a_training_leaves_a_folder_that_anyone_can_read(finished):
    folder, result, screen = finished
    assert result.finished and result.run_dir == folder
    stored = json.loads((folder / "config.json").read_text())
    assert stored["train"]["task"] == "toys:aim"
    assert stored["agent"]["planner"]["num_samples"] == 16
    assert {"versions", "device", "git_commit"} <= stored["machine"].keys()
    rows = evaluations(folder)
    assert [row["step"] for row in rows] == ["80", "160"]
    assert list(rows[0])[:2] == ["step", "episode_reward"]
    assert 0 < float(rows[1]["episode_reward"]) <= LENGTH
    assert {"policy_reward", "seed", "prior_weight", "updates"} <= rows[0].keys()
    episodes = events(folder, "episode")
    assert "success" not in rows[0].keys() | episodes[0].keys()
    assert len(episodes) == STEPS / (2 * LENGTH)
    assert all(row["episode_length"] == 2 * LENGTH for row in episodes)
    updates = events(folder, "update")
    assert {"consistency_loss", "kl_policy_prior", "time_env"} <= updates[-1].keys()
    assert updates[-1]["updates"] == STEPS // 2
    learned = [row for row in updates if "policy_loss" in row]
    assert learned and all(row["penalty_grad_norm"] > 0 for row in learned)
    for text in ("replay of", "evaluation at 80 env steps", "in this process"):
        assert text in screen


def test_a_finished_training_is_not_repeated_but_can_be_prolonged(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = (folder / "eval.csv").read_text()
    result, screen = train(folder)
    assert result.finished and "going on from 160" in screen
    assert (folder / "eval.csv").read_text() == before
    result, _ = train(folder, steps=200, eval_every=80)
    assert [row["step"] for row in evaluations(folder)] == ["80", "160", "200"]
    stored = json.loads((folder / "config.json").read_text())
    assert [start["step"] for start in stored["resumed"]] == [160, 160]
    told = {"step", "evaluated_at", *stored["machine"]}
    assert stored["resumed"][0].keys() == told


def test_another_configuration_is_refused_by_name(finished):
    folder, _, _ = finished
    with pytest.raises(ValueError, match="has another configuration") as error:
        train(folder, seed=1)
    assert "train.seed was 0 and is 1" in str(error.value)
    with pytest.raises(ValueError, match=r"train\.settings\.horizon was 2 and is 3"):
        train(folder, settings=TINY | {"horizon": 3})


def test_of_many_differences_the_first_are_named(finished):
    folder, _, _ = finished
    with pytest.raises(
        ValueError, match=r"or choose another --run-dir \(train"
    ) as error:
        train(folder, settings={})
    assert str(error.value).count("train.settings.") == launch.MOST_TOLD
    assert re.search(r"; and \d+ more\)$", str(error.value))


def test_a_training_that_learns_nothing_is_told_beforehand(finished, tmp_path):
    assert "random actions for the first 40 env steps" in told(finished[2])
    assert "nothing will be learned" not in told(finished[2])
    _, screen = train(tmp_path / "run", steps=20)
    assert "nothing will be learned in 20 env steps: give more --steps" in told(screen)


def test_a_command_that_failed_can_be_mended(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        train(tmp_path / "run", init_from="nowhere")
    assert train(tmp_path / "run")[0].finished


@pytest.mark.parametrize("seed", [-1, 2**32, True])
def test_a_seed_that_keys_would_forget_is_refused(tmp_path, seed):
    with pytest.raises(ValueError, match=r"seed is .*; it must be"):
        config(tmp_path, seed=seed)
    with pytest.raises(ValueError, match=r"seeds is .* in \[0, 2\^32 - 1\]"):
        config(tmp_path, seeds=(0, seed))


def test_the_agent_can_be_loaded_and_asked(finished):
    folder, _, _ = finished
    agent = Agent.load(folder)
    assert agent.info["method"] == "pompc" and agent.info["task"] == "toys:aim"
    observation = np.zeros(3, np.float32)
    for mode in ("plan", "policy"):
        action = agent.act(observation, mode=mode)
        assert action.shape == (1,) and -1 <= action[0] <= 1
    again = Agent.load(folder)
    again.act(observation)
    first, second = Agent.load(folder), Agent.load(folder)
    assert first.act(observation) == second.act(observation)
    with pytest.raises(ValueError, match=r"shape \(2,\); toys:aim needs \(3,\)"):
        agent.act(np.zeros(2))
    with pytest.raises(ValueError, match="NaN"):
        agent.act(np.full(3, np.nan))
    agent.agents = jax.tree.map(lambda x: x * np.float32(np.nan), agent.agents)
    for mode in ("plan", "policy"):
        sentence = f"the {mode} of this agent for toys:aim is NaN or infinite; its"
        with pytest.raises(NotFiniteError, match=sentence):
            agent.act(observation, mode=mode)


def test_asked_for_the_policy_in_between_the_plan_grows_old(finished, monkeypatch):
    """The planner starts where its last plan stands by now."""
    agent, observation = Agent.load(finished[0]), np.zeros(3, np.float32)
    agent.act(observation)
    mean = np.asarray(agent._warm_start)
    started, evaluate = [], agent.population.evaluate

    def look(agents, seen, warm_start, reset, step):
        started.append(np.asarray(warm_start))
        return evaluate(agents, seen, warm_start, reset, step)

    monkeypatch.setattr(agent.population, "evaluate", look)
    agent.act(observation, mode="policy")
    agent.act(observation)
    np.testing.assert_array_equal(started[0], aged(mean, 1))
    horizon = mean.shape[2]
    assert horizon > 1 and not started[0][:, :, -1].any()
    np.testing.assert_array_equal(started[0][:, :, :-1], mean[:, :, 1:])
    assert not aged(mean, horizon + 3).any()


def test_what_the_kill_loop_must_notice(finished, tmp_path):
    """`benchmarks/kill.py` says that nothing is lost or doubled; here something is."""
    folder, _, _ = finished
    assert kill.check(folder, folder) == STEPS and kill.unfinished(folder) == []
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    table = (copy / "eval.csv").read_text()
    header, first, second = table.splitlines(True)
    wrong = {
        header + first + first + second: "are doubled or disordered",
        header + second: r"evaluations are lost: \[80\]",
        table.replace(",2,", ",3,"): r"eval\.csv differs at",
    }
    for text, sentence in wrong.items():
        (copy / "eval.csv").write_text(text)
        with pytest.raises(kill.LostError, match=sentence):
            kill.check(copy, folder)
    (copy / "eval.csv").write_text(table)
    (copy / "replay" / "segment_999999.safetensors").touch()
    assert kill.unfinished(copy) == ["segment_999999.safetensors"]
    newest = sorted((copy / "checkpoints").iterdir())[-1]
    (newest / "agents.safetensors").write_bytes(b"")
    with pytest.raises(kill.LostError, match="is damaged"):
        kill.check(copy, folder)


def test_what_cannot_be_loaded_is_one_sentence(finished, tmp_path):
    folder, _, _ = finished
    with pytest.raises(CheckpointError, match="is no folder"):
        Agent.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no checkpoint at 7 env steps; it has"):
        Agent.load(folder, checkpoint=7)
    with pytest.raises(CheckpointError, match=r"member is 3; .* has 1"):
        Agent.load(folder, member=3)
    checkpoint = find_checkpoint(folder)
    with pytest.raises(CheckpointError, match="is no run: it holds one agent"):
        Agent.load(checkpoint, checkpoint=160)
    with pytest.raises(CheckpointError, match=r"has no meta\.json nor checkpoints"):
        Agent.load(tmp_path)
    # Numbers of NumPy are numbers: steps are read from tables.
    assert find_checkpoint(folder, np.int64(160)) == find_checkpoint(folder, 160)
    assert Agent.load(folder, member=np.int64(0)).info["member"] == 0
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        Agent.load(tmp_path / "empty")


def test_of_a_wrong_choice_no_other_agent_is_taken(finished):
    # Elsewhere: in tests types are checked, and these are wrong.
    folder, _, _ = finished
    code = f"""
from pathlib import Path
from planprior.acting import find_checkpoint, find_member
for which in ("lates", "160", 160.0, None):
    try:
        print(find_checkpoint(Path({str(folder)!r}), which))
    except ValueError as error:
        print(error)
for member in ("0", 0.0):
    try:
        print(find_member([{{}}], member, Path("x")))
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        *(
            f"checkpoint is {which!r}; it must be best, latest or a number of env steps"
            for which in ("lates", "160", 160.0, None)
        ),
        "member is '0'; x has 1, so it must be in [0, 0]",
        "member is 0.0; x has 1, so it must be in [0, 0]",
    ], done.stderr


# --- Variants -------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [True, False])
def test_episodes_that_end_at_different_times(tmp_path, overlap):
    folder = tmp_path / "run"
    result, _ = train(folder, "toys:uneven", **UNEVEN, overlap=overlap, steps=180)
    assert result.finished
    rows = events(folder, "episode")
    lengths = {row["episode_length"] for row in rows}
    assert len(lengths) > 1 and max(lengths) <= 2 * LENGTH
    assert {row["terminated"] for row in rows} == {True, False}
    for row in rows:
        early = row["terminated"] and row["episode_length"] <= LENGTH
        assert row["success"] == early
    rates = [float(row["success"]) for row in evaluations(folder)]
    assert rates and all(0 <= rate <= 1 for rate in rates)
    assert events(folder, "update")[-1]["updates"] == 90


def test_an_environment_that_breaks_is_one_sentence_and_nothing_is_lost(
    tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    monkeypatch.setattr(toys.Broken, "made", 0)
    with pytest.raises(EnvError, match="returned nan in its reward"):
        train(folder, "toys:broken")
    # Its 30 good decisions are there, and what was learned from them.
    checkpoints = Checkpoints(folder / "checkpoints")
    assert checkpoints.steps() == [60]
    stored = read_meta(checkpoints.path(60))["replay"]
    ReplayStore(folder / "replay").verify(stored)
    assert (
        len(rows_of(folder / "replay", stored)) == 30 + 4
    )  # a first row, and one after each of 3 ends
    assert Agent.load(folder).act(np.zeros(3)).shape == (1,)
    monkeypatch.setattr(toys.Broken, "lasts", 10_000)
    result, screen = train(folder, "toys:broken")
    assert result.finished and "going on from 60" in screen


def test_an_environment_that_is_bound_to_break_is_not_gone_on_with(tmp_path):
    """It breaks in the first step after a checkpoint that holds its episode."""
    folder = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(EnvError, match="returned nan in its reward"):
            train(folder, "toys:doomed", steps=240)
    # The second time it was another episode, which got as far as it can.
    assert Checkpoints(folder / "checkpoints").steps()[-1] == 160
    assert [row["step"] for row in evaluations(folder)] == ["80", "160"]


def test_environments_that_end_at_the_signal_to_stop_are_no_fault(
    tmp_path, monkeypatch
):
    """Ctrl-C reaches the processes of an `AsyncVectorEnv`, too."""
    folder, evaluate = tmp_path / "run", training.evaluation.evaluate
    monkeypatch.setattr(toys.Broken, "made", 0)
    stopped = property(lambda self: toys.Broken.made > toys.Broken.lasts)
    with monkeypatch.context() as patch:
        patch.setattr(GracefulStop, "requested", stopped)
        result, screen = train(folder, "toys:broken")
    assert not result.finished and "the environments have ended first: " in screen
    assert "stopped and saved at 60 of 160" in screen
    assert not read_meta(Checkpoints(folder / "checkpoints").path(60))["episodes"]
    monkeypatch.setattr(toys.Broken, "lasts", 10_000)

    def end(*args, **options):
        toys.Broken.made = 10_001
        raise EnvError("toys:broken failed: BrokenPipeError", 0)

    with monkeypatch.context() as patch:
        patch.setattr(GracefulStop, "requested", stopped)
        patch.setattr(training.evaluation, "evaluate", end)
        result, _ = train(folder, "toys:broken")
    assert not result.finished and not evaluations(folder)
    # The evaluation that was interrupted is made first.
    assert training.evaluation.evaluate is evaluate
    monkeypatch.setattr(toys.Broken, "made", 0)
    assert train(folder, "toys:broken")[0].finished
    assert [row["step"] for row in evaluations(folder)] == ["80", "160"]


def test_an_evaluation_that_is_bound_to_break_is_left_out(tmp_path, monkeypatch):
    folder, evaluate = tmp_path / "run", training.evaluation.evaluate

    def break_at_80(*args, count, **options):
        if count == training._mix(1, 40):
            raise EnvError("toys:steady has diverged", 0)
        return evaluate(*args, count=count, **options)

    monkeypatch.setattr(training.evaluation, "evaluate", break_at_80)
    sentence = "at 80 env steps broke: toys:steady has diverged; the same command goes"
    with pytest.raises(EnvError, match=sentence):
        train(folder, "toys:steady")
    # The episodes in which it collects are well.
    assert read_meta(Checkpoints(folder / "checkpoints").path(80))["episodes"]
    result, _ = train(folder, "toys:steady")
    assert result.finished
    assert [row["step"] for row in evaluations(folder)] == ["160"]


def test_a_worker_that_dies_in_an_evaluation_leaves_the_other_episodes(
    tmp_path, monkeypatch
):
    folder, evaluate, deaths = tmp_path / "run", training.evaluation.evaluate, iter("x")

    def die_once(*args, **options):
        if next(deaths, None):
            raise WorkerError("the worker was killed by SIGKILL")
        return evaluate(*args, **options)

    monkeypatch.setattr(training.evaluation, "evaluate", die_once)
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        train(folder, "toys:steady")
    assert read_meta(Checkpoints(folder / "checkpoints").path(80))["episodes"]
    result, _ = train(folder, "toys:steady")
    assert result.finished
    assert [row["step"] for row in evaluations(folder)] == ["80", "160"]


def test_episodes_too_short_to_learn_from_are_one_sentence(tmp_path):
    sentence = r"no episode of toys:brief so far lasted horizon = 3 decisions"
    with pytest.raises(training.TrainingError, match=sentence):
        # With `learned`, ends are stored often enough to learn from.
        settings = TINY | {"terminations": "masked", "horizon": 3}
        train(tmp_path / "run", "toys:brief", settings=settings)


def test_too_few_random_steps_are_one_sentence(tmp_path):
    sentence = (
        "seed_steps is 4, too few for each environment to make the horizon = 3 "
        "decisions that it learns from; it must be at least 12"
    )
    with pytest.raises(training.TrainingError, match=sentence):
        train(
            tmp_path / "run", num_envs=2, seed_steps=4, settings={**TINY, "horizon": 3}
        )


def test_a_training_that_diverges_says_so(tmp_path):
    changes = TINY | {"max_grad_norm": 1e38, "entropy_coef": 1e38}
    with pytest.raises(training.TrainingError, match=r"training diverged: .* NaN"):
        train(tmp_path / "run", settings=changes)


# --- Stopping and going on ------------------------------------------------------------


def test_stopped_and_resumed_it_makes_the_same_steps(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(
        GracefulStop, "requested", property(lambda self: stop_after(self, 150))
    )
    result, screen = train(folder)
    assert not result.finished
    assert "the same command goes on from there" in screen
    stopped = Checkpoints(folder / "checkpoints").steps()[-1]
    assert 80 < stopped < STEPS
    monkeypatch.undo()
    result, screen = train(folder)
    assert result.finished and f"going on from {stopped}" in screen
    assert [row["step"] for row in evaluations(folder)] == ["80", "160"]
    assert events(folder, "update")[-1]["updates"] == STEPS // 2


def arrays(folder, step):
    """Everything that a checkpoint holds, but for how its replay is cut into files."""
    checkpoints = Checkpoints(folder / "checkpoints")
    path = checkpoints.path(step)
    meta = read_meta(path)
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    found["counters"] = {k: v for k, v in meta["counters"].items() if k != "seconds"}
    return found, rows_of(folder / "replay", meta["replay"])


def rows_of(folder, state):
    """The rows in the ring, by stream and serial, with their newest plans."""
    rows, total = {}, np.zeros(0, int)
    for entry in state["segments"]:
        arrays = load_file(folder / entry["name"])
        total = arrays["counters/total"].ravel()
        for kind in ("rows", "plans"):
            for k in range(len(arrays)):
                part = f"{kind}/{k}/"
                fields = {n: x for n, x in arrays.items() if n.startswith(part)}
                for i in range(len(fields.get(f"{part}serial", ()))):
                    values = {
                        n.removeprefix(part): x[i].tobytes() for n, x in fields.items()
                    }
                    place = ("stream", "serial")
                    values = {n: x for n, x in values.items() if n not in place}
                    at = tuple(int(fields[part + n][i]) for n in place)
                    rows[at] = rows.get(at, {}) | values
    oldest = total - state["capacity"]
    return {at: row for at, row in rows.items() if at[1] >= oldest[at[0]]}


@pytest.mark.parametrize(
    ("task", "stops", "more"),
    [
        ("toys:steady", [60], {}),
        ("toys:steady", [50, 9, 8], {"updates_per_step": 0.1, "log_every": 4}),
        pytest.param("toys:steady", [15, 60, 41], {}, marks=pytest.mark.slow),
        pytest.param(
            "toys:steady", [15, 60, 41], {"overlap": False}, marks=pytest.mark.slow
        ),
        ("gym_toys:drifter,simulated=yes", [60], {}),
        ("cartpole-swingup", [45], {}),
    ],
)
def test_stopped_and_resumed_it_is_as_if_never_stopped(
    tmp_path, monkeypatch, task, stops, more
):
    """Bit for bit, with environments whose state can be saved, past the ring's end.

    The stops fall into the pretraining, into an evaluation, and between steps.
    """
    changes = UNEVEN | {"overlap": True, "steps": 240} | more
    if task == "gym_toys:drifter,simulated=yes":
        pytest.importorskip("gymnasium")
    if task == "cartpole-swingup":
        pytest.importorskip("dm_control")
        changes["eval_every"] = 240  # its episodes are long
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, task, **changes)
    for questions in stops:
        with monkeypatch.context() as patch:
            requested = property(lambda self, n=questions: stop_after(self, n))
            patch.setattr(GracefulStop, "requested", requested)
            result, _ = train(parts, task, **changes)
            assert not result.finished
    result, _ = train(parts, task, **changes)
    assert result.finished
    expected, found = arrays(whole, 240), arrays(parts, 240)
    assert expected[0].keys() == found[0].keys() and expected[1] == found[1]
    for name, value in expected[0].items():
        np.testing.assert_array_equal(found[0][name], value, err_msg=name)
    one, other = evaluations(whole), evaluations(parts)
    for row in (*one, *other):
        del row["seconds"]
    assert one == other and len(one) == 240 // changes.get("eval_every", 80)
    for event in ("episode", "evaluation"):
        assert events(whole, event) == events(parts, event)
    assert untimed(events(whole, "update")) == untimed(events(parts, "update"))


def untimed(rows):
    return [
        {name: x for name, x in row.items() if not re.match("seconds$|time_", name)}
        for row in rows
    ]


def test_a_state_of_another_simulator_begins_new_episodes(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        requested = property(lambda self: stop_after(self, 60))
        patch.setattr(GracefulStop, "requested", requested)
        assert not train(folder, "toys:steady")[0].finished
    state = toys.Steady.state
    monkeypatch.setattr(
        toys.Steady, "state", lambda self: {**state(self), "new": np.zeros(2)}
    )
    result, screen = train(folder, "toys:steady")
    assert result.finished
    assert re.search(
        r"new episodes begin: checkpoint .* does not fit: missing", told(screen)
    )


def test_an_episode_that_cannot_be_gone_on_with_is_begun_anew(tmp_path, monkeypatch):
    """The toy counts its episodes, so that those after the first are never the same."""
    pytest.importorskip("gymnasium")
    folder, task = tmp_path / "run", "gym_toys:counter,simulated=yes"
    with monkeypatch.context() as patch:
        requested = property(lambda self: stop_after(self, 60))
        patch.setattr(GracefulStop, "requested", requested)
        assert not train(folder, task)[0].finished
    before = len(events(folder, "episode"))
    result, screen = train(folder, task)
    assert result.finished
    assert re.search(
        r"new episodes begin: environment 0: with the same seed and actions "
        r"gym_toys:counter,simulated=yes is not where it was after \d steps of",
        told(screen),
    )
    assert len(events(folder, "episode")) > before > 0


def test_told_to_stop_before_it_began_it_can_be_begun(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(GracefulStop, "requested", property(lambda self: True))
        result, screen = train(folder, prior_weight=None, lam=math.inf)
    assert not result.finished and "stopped and saved at 0 of 160" in screen
    result, _ = train(folder, prior_weight=None, lam=math.inf)
    assert result.finished and Agent.load(folder).hypers.prior_weight == 1
    # An infinite number is none that JSON knows.
    assert json.loads((folder / "config.json").read_text())["train"]["lam"] == "inf"


def test_a_stop_while_an_evaluation_is_saved_loses_no_score(tmp_path, monkeypatch):
    folder, save, stops = tmp_path / "run", Saving.save, []

    def save_and_be_stopped(saving, *args, **options):
        save(saving, *args, **options)
        stops.append(options["score"])

    with monkeypatch.context() as patch:
        patch.setattr(Saving, "save", save_and_be_stopped)
        patch.setattr(GracefulStop, "requested", property(lambda self: bool(stops)))
        result, _ = train(folder)
    # Nothing had changed since: there was one save, and what it holds still holds.
    assert not result.finished and len(stops) == 1
    path = Checkpoints(folder / "checkpoints").path(80)
    assert read_meta(path)["score"] == stops[0]
    # At the end there is nothing left to do: stopped or not, it is finished.
    stops.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Saving, "save", save_and_be_stopped)
        patch.setattr(GracefulStop, "requested", property(lambda self: bool(stops)))
        assert train(folder)[0].finished and len(stops) == 1


def test_a_pretraining_is_saved_in_time_and_never_evaluated(tmp_path, monkeypatch):
    """Its last random decision is one after which agents are evaluated."""
    folder, saved, save = tmp_path / "run", [], Saving.save

    def note(saving, step, agents, replay, counters, **options):
        saved.append((step, counters["updates"], counters["seconds"]))
        save(saving, step, agents, replay, counters, **options)

    monkeypatch.setattr(Saving, "save", note)
    with monkeypatch.context() as patch:
        requested = property(lambda self: len(saved) > 30)
        patch.setattr(GracefulStop, "requested", requested)
        result, _ = train(folder, eval_every=40, save_minutes=1e-9)
    assert not result.finished
    steps, updates, seconds = zip(*saved, strict=True)
    assert steps[-1] == 40 and 0 < updates[-1] < 20
    assert seconds == tuple(sorted(set(seconds)))
    train(folder, eval_every=40)
    assert [row["step"] for row in evaluations(folder)] == ["80", "120", "160"]


def stop_after(stop, questions):
    stop.asked = getattr(stop, "asked", 0) + 1
    return stop.asked > questions


ON_A_TERMINAL = """
import fcntl, os, runpy, signal, termios
signal.signal(signal.SIGHUP, getattr(signal, os.environ["HANGUP"]))
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
runpy.run_module("planprior", run_name="__main__", alter_sys=True)
"""


def start(folder, terminal=None, hangup="SIG_DFL"):
    """A training that goes on for long, of programs that are compiled already."""
    options = {
        "run-dir": folder,
        "steps": 3000,
        "seed-steps": 40,
        "eval-every": 40,
        "eval-episodes": 2,
        "method": UNEVEN["method"],
        "num-envs": UNEVEN["num_envs"],
        "buffer-size": UNEVEN["buffer_size"],
    }
    how = ["-m", "planprior"] if terminal is None else ["-c", ON_A_TERMINAL]
    command = [sys.executable, *how, "train", "toys:uneven"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    command += [f"{name}={value}" for name, value in UNEVEN["settings"].items()]
    here = str(Path(__file__).parent)
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": here, "HANGUP": hangup},
        stdin=terminal,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=terminal is not None,
    )


def wait_for_checkpoints(folder, process, after):
    for _ in range(6000):
        steps = Checkpoints(Path(folder) / "checkpoints").steps()
        if steps and steps[-1] > after:
            return steps[-1]
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    raise AssertionError("no checkpoint within five minutes")


def test_killed_and_repeated_it_goes_on(tmp_path):
    folder, step = tmp_path / "run", 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = start(folder)
        step = wait_for_checkpoints(folder, process, step + 40)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert kill.check(folder) >= step
        if number == signal.SIGTERM:
            assert process.returncode == 128 + number, output
            assert "the same command goes on from there" in output
    assert Agent.load(folder, checkpoint="latest").act(np.zeros(3)).shape == (1,)


@pytest.mark.parametrize("hangup", ["SIG_DFL", "SIG_IGN"])
def test_a_terminal_that_closes_ends_it_saved_or_not_at_all(tmp_path, hangup):
    folder = tmp_path / "run"
    ours, theirs = os.openpty()
    process = start(folder, theirs, hangup)
    os.close(theirs)
    with open(ours, "rb", buffering=0) as screen:
        shown, checkpoints = b"", Checkpoints(folder / "checkpoints")
        while not any(step > 40 for step in checkpoints.steps()):
            shown += screen.read(65536)
        step = checkpoints.steps()[-1]
    number = signal.SIGHUP
    if hangup == "SIG_IGN":
        # As in the background of a shell that has left: it goes on, unseen.
        step, number = wait_for_checkpoints(folder, process, step + 40), signal.SIGTERM
        process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number, shown[-1000:]
    assert kill.check(folder) >= step


def test_brackets_in_a_sentence_are_no_markup(tmp_path, monkeypatch):
    """What a failing sink says, and the folder's name, may hold any."""

    class Failing:
        def __init__(self, *args, **kwargs):
            pass

        def write(self, kind, row):
            raise OSError("cannot reach [/api/v1]")

        def close(self):
            pass

    monkeypatch.setattr(launch, "TensorBoard", Failing)
    result, screen = train(tmp_path / "[a=1]x", steps=60, tensorboard=True)
    assert result.finished
    assert "Failing failed and is left out: cannot reach [/api/v1]" in told(screen)
    assert "[a=1]x" in told(screen)
