"""A population through the whole program: each member as if it were alone."""

import csv
import io
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

import toys
from planprior import checkpoint, launch, run_files, training
from planprior.acting import Agent, Which
from planprior.checkpoint import CheckpointError, Checkpoints
from planprior.envs.base import EnvError
from planprior.experiment import TrainConfig
from toys import UNEVEN

SEEDS, WEIGHTS = (3, 5), (0.2, 1.0)
STEPS = 120  # environment steps; 30 decisions of 2 environments, of which 10 random
SETTINGS = UNEVEN["settings"]


def train(folder, **changes):
    values = UNEVEN | {
        "task": "toys:uneven",
        "steps": STEPS,
        "seed_steps": 40,
        "eval_every": 60,
        "eval_episodes": 2,
        "log_every": 20,
        "run_dir": str(folder),
    }
    screen = io.StringIO()
    console = Console(file=screen, width=200)
    result = launch.train(TrainConfig(**values | changes), console=console)
    return result, screen.getvalue()


def evaluations(folder):
    with (Path(folder) / "eval.csv").open() as file:
        return list(csv.DictReader(file))


def log(folder):
    lines = (Path(folder) / "train.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def of_member(rows, seed, weight):
    """A member's rows without what is measured by the clock."""
    return [
        {k: v for k, v in row.items() if k != "seconds" and not k.startswith("time_")}
        for row in rows
        if (int(row["seed"]), float(row["prior_weight"])) == (seed, weight)
    ]


def assert_same_rows(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, str) and not value.replace(".", "").isdecimal():
                assert value == other[name]
            elif value is not None:
                mine, its = np.asarray([value, other[name]], np.float64)
                np.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("members") / "run"
    return folder, *train(folder, seeds=SEEDS, prior_weight=WEIGHTS)


@pytest.mark.parametrize(
    ("index", "seed", "weight"),
    [(1, 5, 0.2), pytest.param(2, 3, 1.0, marks=pytest.mark.slow)],
)
def test_a_member_is_as_if_alone(together, tmp_path, index, seed, weight):
    folder, result, _ = together
    assert result.finished
    train(tmp_path / "run", seed=seed, prior_weight=weight)
    for read in (evaluations, log):
        ours = of_member(read(folder), seed, weight)
        assert_same_rows(ours, read_all(read, tmp_path / "run"))
    ours = Agent.load(folder, member=index, checkpoint="latest")
    theirs = Agent.load(tmp_path / "run", checkpoint="latest")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        ours.state,
        theirs.state,
    )


def read_all(read, folder):
    [row] = {(r["seed"], r["prior_weight"]) for r in read(folder)}
    return of_member(read(folder), int(row[0]), float(row[1]))


def test_every_member_is_logged_and_shown(together):
    folder, _, screen = together
    rows = evaluations(folder)
    assert [(r["step"], r["seed"], r["prior_weight"]) for r in rows] == [
        (step, seed, weight)
        for step in ("60", "120")
        for weight in ("0.2", "1.0")
        for seed in ("3", "5")
    ]
    assert len({row["episode_reward"] for row in rows}) > 4
    for text in (
        "each of 4 members",
        "member 2: seed 3, prior weight 1",
        "mean and range of 4 members, 2 episodes each",
    ):
        assert text in screen
    assert len(json.loads((folder / "config.json").read_text())["members"]) == 4
    best = Checkpoints(folder / "checkpoints").best()
    assert best is not None
    means = {
        step: np.mean([float(r["episode_reward"]) for r in rows if r["step"] == step])
        for step in ("60", "120")
    }
    assert checkpoint.read_meta(best)["score"] == pytest.approx(max(means.values()))


def test_one_is_taken_out_by_number_or_by_what_tells_it_apart(together):
    folder, _, _ = together
    agent = Agent.load(folder, member=3)
    assert (agent.info["seed"], agent.info["prior_weight"]) == (5, 1.0)
    assert float(agent.hypers.prior_weight) == 1.0
    same = Agent.load(folder, member={"seed": 5, "prior_weight": 1.0})
    assert same.info["member"] == 3
    assert agent.act(np.zeros(3)) == same.act(np.zeros(3))
    for wanted, count in (({"seed": 5}, 2), ({"seed": 4}, 0), ({"tau": 0.1}, 0)):
        with pytest.raises(CheckpointError, match=f"fits {count} of the 4") as error:
            Agent.load(folder, member=wanted)
        assert "3: seed=5, prior_weight=1" in str(error.value)


def test_an_infinite_number_can_be_swept(tmp_path):
    """JSON has none: it is kept as a text, and as null in the log."""
    norms, folder = (20.0, math.inf), tmp_path / "run"
    train(folder, steps=80, settings=SETTINGS | {"max_grad_norm": norms})
    for index, norm in enumerate(norms):
        agent = Agent.load(folder, member={"max_grad_norm": norm})
        assert agent.info["member"] == index
        assert agent.info["max_grad_norm"] == agent.hypers.max_grad_norm == norm
    with pytest.raises(CheckpointError, match=r"fits 2 of the 2 .*max_grad_norm=inf"):
        Agent.load(folder, member={"seed": 0})
    runs = run_files.read([folder])
    assert len(runs) == 2 and all(len(run_files.read_log(r)["step"]) for r in runs)


def test_another_sweep_on_the_same_folder_is_refused(together):
    with pytest.raises(ValueError, match=r"train\.seeds was \[3, 5\] and is \[3, 6\]"):
        train(together[0], seeds=(3, 6), prior_weight=WEIGHTS)


# --- Members that diverge -------------------------------------------------------------


DIVERGING = {"max_grad_norm": 1e38, "entropy_coef": (1e-4, 1e38)}
"""The first step of the policy is too much for two."""
FROZEN, WHOLE = (2, 3), (0, 1)


@pytest.fixture(scope="module")
def half_frozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen") / "run"
    return folder, *train(folder, seeds=SEEDS, settings=SETTINGS | DIVERGING)


def state(folder, member, checkpoint: Which = "latest"):
    return Agent.load(folder, member=member, checkpoint=checkpoint).state


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_members_that_diverge_are_frozen_and_said_so_once(half_frozen):
    folder, result, screen = half_frozen
    assert result.finished and screen.count("the others go on") == 2
    notice = "member 3 (seed 5, prior weight 1, entropy coef 1e+38) is frozen: "
    assert screen.count(notice) == 1
    rows = [row for row in log(folder) if row["event"] == "frozen"]
    assert [(row["seed"], row["entropy_coef"]) for row in rows] == [
        (3, 1e38),
        (5, 1e38),
    ]
    for row in rows:
        assert row["why"].startswith("policy_loss was NaN or infinite at ")
        assert 40 <= row["step"] <= 60
    after = [row for row in log(folder) if row["step"] > rows[-1]["step"]]
    assert {row["entropy_coef"] for row in after} == {1e-4}
    assert {row["entropy_coef"] for row in evaluations(folder)} == {"0.0001"}


@pytest.mark.slow
def test_the_others_do_not_notice(half_frozen, tmp_path):
    tame = DIVERGING | {"entropy_coef": (1e-4, 2e-4)}
    train(tmp_path / "run", seeds=SEEDS, settings=SETTINGS | tame)
    for member in WHOLE:
        same(state(half_frozen[0], member), state(tmp_path / "run", member))


def test_a_frozen_member_keeps_the_last_good_state(half_frozen):
    for member in FROZEN:
        early, late = (state(half_frozen[0], member, step) for step in (60, STEPS))
        same(early, late)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(late))


def test_a_frozen_member_stays_so_when_the_training_goes_on(half_frozen):
    folder, _, _ = half_frozen
    before = state(folder, FROZEN[0])
    result, screen = train(
        folder, seeds=SEEDS, settings=SETTINGS | DIVERGING, steps=STEPS + 40
    )
    assert result.finished
    assert "member 2 stays frozen: policy_loss was NaN" in screen
    assert "is frozen:" not in screen
    assert len([row for row in log(folder) if row["event"] == "frozen"]) == 2
    same(before, state(folder, FROZEN[0]))


def test_an_environment_that_breaks_is_told_with_its_member(tmp_path, monkeypatch):
    monkeypatch.setattr(toys.Broken, "made", 0)
    monkeypatch.setattr(toys.Broken, "lasts", 6)  # among the random actions
    sentence = (
        r"^environment 2 of toys:broken returned nan in its reward; .* "
        r"\(member 1: seed 5, prior weight 1\)$"
    )
    with pytest.raises(EnvError, match=sentence):
        train(tmp_path / "run", task="toys:broken", seeds=SEEDS)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.latest() == checkpoints.path(4)


def test_when_all_diverge_the_training_ends(tmp_path):
    changes = SETTINGS | DIVERGING | {"entropy_coef": (1e38, 2e38)}
    with pytest.raises(
        training.TrainingError, match="training diverged: policy_loss was NaN or"
    ) as e:
        train(tmp_path / "run", seeds=SEEDS, settings=changes)
    assert "\n" not in str(e.value)
