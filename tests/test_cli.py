"""The command, in this process: what it prints, and how it ends."""

import json

import pytest

from command_line import run
from toys import TINY


def options(folder):
    small = [f"{name}={value}" for name, value in TINY.items()]
    # Those of `test_training.py`, so that its programs serve here.
    sizes = ["--seed-steps", 40, "--eval-every", 160, "--eval-episodes", 2]
    return ["toys:aim", "--run-dir", folder, "--steps", 160, *sizes, *small]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli") / "run"


def test_train_then_evaluate(folder, monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "train", *options(folder))
    assert status == 0
    assert f"planprior eval {folder}" in out.replace("\n", "")
    status, out, _ = run(monkeypatch, capsys, "eval", folder, "--episodes", 3, "--json")
    told = json.loads(out)
    assert status == 0 and told["episodes"] == len(told["returns"]) == 3
    assert told["low"] <= told["mean"] <= told["high"]
    assert told["env_steps"] == [20, 20, 20]
    assert (told["task"], told["method"], told["step"]) == ("toys:aim", "pompc", 160)
    status, out, _ = run(
        monkeypatch, capsys, "eval", folder, "--mode", "policy", "--episodes", 2
    )
    assert status == 0 and "95 % interval" in out and "by policy" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "nowhere"], "planprior: nowhere is no folder"),
        (["train", "cartpole-swngup"], "'dm_control:cartpole-swingup'"),
        (["train", "x", "--horizn", "3"], "did you mean 'horizon'"),
        (["train", "cartpole-swingup", "--method", "tdmcp2"], "did you mean 'tdmpc2'"),
        (["train", "cartpole-swingup", "--steps", "0"], "steps is 0; it must be"),
        (["trian"], "command is 'trian'; it must be one of train, eval"),
        (["trian"], "did you mean 'train'?"),
        (["train", "x", "--pool", "envpol"], "'envpol'"),
        (["train", "x", "--steps", "1e5"], "--steps is '1e5'; it must be a whole"),
        (["train", "x", "--updates-per-step", "z"], "is 'z'; it must be a number"),
        (["train", "x", "--steps"], "--steps has no value; it must have one"),
        (["bench", "x", "--members", "a"], "--members is 'a'; it must be whole"),
        (["eval", "x", "--mode", "plann"], "--mode is 'plann'; it must be one of 'pl"),
        (["train"], "Missing from planprior train: STR Task"),
        (["eval", "x", "--nosuch", "3"], "Unrecognized options: --nosuch"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_status(
    arguments, message, monkeypatch, capsys
):
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status not in (0, None)
    assert message in err and err.count("\n") == 1 and "Traceback" not in err
    assert err.startswith("planprior: ") and "---" not in err and "│" not in err
    assert not out


def test_wrong_choices_of_eval(folder, monkeypatch, capsys):
    for change, message in (
        (["--checkpoint", "newest"], "checkpoint is 'newest'; it must be best, latest"),
        (["--checkpoint", "7"], "no checkpoint at 7 env steps"),
        (["--episodes", "0"], "episodes is 0; it must be at least 1"),
        (["--video", "film.avi"], "must end in .mp4 or .gif"),
        (["--member", "2"], "member is 2"),
    ):
        status, _, err = run(monkeypatch, capsys, "eval", folder, *change)
        assert status not in (0, None) and message in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("methods", ["tdmpc2", "bmpc_q", "pompc_adaptive"]),
        ("tasks", ["dm_control:dog-run", "dm_control:cartpole-swingup"]),
        ("sizes", ["tiny", "317"]),
        ("settings", ["planner.num_samples", "num_pi_trajs"]),
    ],
)
def test_list_shows_what_there_is(what, names, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    status, out, _ = run(monkeypatch, capsys, "list", what)
    assert status == 0
    for name in names:
        assert name in out


def test_help_is_for_newcomers(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "train", "--help")
    assert status == 0
    for word in ("--method", "--seed", "--steps", "--size", "--run-dir", "--num-envs",
                 "--prior-weight", "environment steps"):  # fmt: skip
        assert word in " ".join(out.split())
    status, out, _ = run(monkeypatch, capsys)
    assert "train" in out and "eval" in out and "list" in out
