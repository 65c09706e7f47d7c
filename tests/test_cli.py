"""The command, in this process: what it prints, and how it ends."""

import io
import json
import os
import subprocess
import sys

import pytest

import planprior
from command_line import run
from planprior import cli, settings
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
        (["train"], "`planprior train` lacks a word: STR Task"),
        (["eval", "x", "--nosuch", "3"], "Unrecognized options: --nosuch"),
        (
            ["train", "x", "--seed-steps", "nan"],
            "--seed-steps is 'nan'; it must be a w",
        ),
        (["control", "x", "--hz", "abc"], "--hz is 'abc'; it must be a number"),
        (["train", "cartpole-swingup", "--lr", "0", "nan"], "learning_rate is nan; it"),
        (["train", "x", "overlap=off"], "overlap is 'off'; it is a switch: --overlap "),
        (["eval", "x", "--json=on"], "it is a switch: --json or --no-json"),
        (["train", "--task", "cartpole-swngup"], "task 'cartpole-swngup' is unknown"),
        (
            ["train", "x", "--steps", "0"],
            "planprior: --steps is 0; it must be at least",
        ),
        (
            ["train", "toys:aim", "--lambda", "-1"],
            "planprior: --lambda is -1.0; it must be at",
        ),
        (["train", "toys:aim", "--prior-weight", "2"], ": --prior-weight is 2.0; it m"),
        (
            ["train", "toys:aim", "num_samples=0"],
            "planprior: planner.num_samples is 0;",
        ),
        (["train", "toys:aim", "lr=-1"], "planprior: learning_rate is -1.0; it must"),
        (["train", "x", "exp_name=a"], "exp_name is no option here; it is --run-dir F"),
        (["train", "--env-id=x"], "env_id is no option here; it is the first word"),
        (["list", "tasks", "--like", "zz"], "like is 'zz', which is in no name of tas"),
        (["train", "--task"], "task has no value; it is the first word"),
        (["train", "toys:aim,foo=1"], "has the option 'foo'; it must be one of action"),
        (["bench", "toys:aim,foo=1"], "has the option 'foo'; it must be one of action"),
        (["check-env", "toys:aim,foo=1"], "has the option 'foo'; it must be one of ac"),
        (["train", "x", "--seeds", "0-999999999"], "it must be at most 4096"),
        (
            ["train", "dog-run", "--seeds", "0-4095", "--prior-weight", "0", "1"],
            "the population has 8,192 members, one for each combination; it must have",
        ),
        (["train", "x", "--seeds", "0-3000", "5000-7000"], "which are 5,002; it must"),
        (["compare"], "runs is empty; it must be run folders, folders of them, or CSV"),
        (["plot"], "runs is empty; it must be run folders, folders of them, or CSV"),
        (["report"], "runs is empty; it must be run folders, folders of them, or CSV"),
        (["export", "x", ""], "folder is '.'; it must have a name of its own"),
        (["export", "x", "/"], "folder is '/'; it must have a name of its own"),
        (["export", "x", "y/.."], "folder is 'y/..'; it must have a name of its own"),
        (["import", "tdmpc2", "x", "."], "folder is '.'; it must have a name of its"),
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
        (["--episodes", "100001"], "episodes is 100001; it must be at most 100000"),
        (["--video", "film.avi"], "must end in .mp4 or .gif"),
        (["--member", "2"], "member is 2"),
    ):
        status, _, err = run(monkeypatch, capsys, "eval", folder, *change)
        assert status not in (0, None) and message in err.replace("\n", " ")


def test_names_are_found_in_capitals_or_not(monkeypatch, capsys):
    for like in ("Dog-Ru", "dog-ru"):
        _, out, _ = run(monkeypatch, capsys, "list", "tasks", "--like", like)
        assert "dm_control:dog-run" in out and "dog-walk" not in out


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


def test_fields_are_named_as_options():
    """Every part of the configuration is named by its section."""
    for setting in settings.table().values():
        owner = setting.section.capitalize() + "Config"
        named = cli._as_options(f"{owner}.{setting.field} is 3")
        assert named == f"{setting.name} is 3"


def test_help_is_for_newcomers(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "train", "--help")
    assert status == 0
    for word in ("--method", "--seed", "--steps", "--size", "--run-dir", "--num-envs",
                 "--prior-weight", "environment steps"):  # fmt: skip
        assert word in " ".join(out.split())
    status, out, _ = run(monkeypatch, capsys)
    assert "train" in out and "eval" in out and "list" in out


def test_names_of_settings_are_never_cut_off(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run(monkeypatch, capsys, "list", "settings")
    for name in ("reanalysis.log_std_min", "reanalysis.log_std_max", "encoder_layers"):
        assert f"{name} " in out


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        ("list", "WHAT", ["all", "tasks", "methods", "sizes", "settings"]),
        ("import", "PROGRAM", ["tdmpc2", "bmpc", "tdmpc_square"]),
    ],
)
def test_a_positional_has_one_name_in_help_and_errors(
    command, name, words, monkeypatch, capsys
):
    _, out, _ = run(monkeypatch, capsys, command, "--help")
    assert name in out and all(word in out for word in words)
    _, _, err = run(monkeypatch, capsys, command, "foo", "a", "b")
    assert f"{name.lower()} is 'foo'; it must be one of '{words[0]}'" in err


def test_it_tells_its_version(monkeypatch, capsys):
    status, out, error = run(monkeypatch, capsys, "--version")
    assert (status, out, error) == (0, f"planprior {planprior.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["list", "methods"], ["--help"]])
def test_a_stream_may_lack_characters(arguments, monkeypatch, capsys):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    status, _, err = run(monkeypatch, capsys, *arguments)
    stream.seek(0)
    assert status in (0, None) and not err
    assert len(stream.read()) > 500


@pytest.mark.parametrize("arguments", [["list", "methods"], ["train", "--help"]])
def test_who_reads_no_further_is_told_nothing(arguments, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        status, _, err = run(monkeypatch, capsys, *arguments)
    assert status == 1 and not err


def test_another_broken_pipe_is_told(monkeypatch, capsys):
    def broken(*_):
        raise BrokenPipeError("the worker's pipe")

    monkeypatch.setattr("planprior.cli.run", broken)
    with open(os.devnull, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        status, _, err = run(monkeypatch, capsys, "list")
    assert status == 1 and err == "planprior: the worker's pipe\n"


INTERRUPTED = """
import sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == "{module}":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.argv = ["planprior", "list", "methods"]
from planprior.cli import main
main()
"""


@pytest.mark.parametrize("module", ["tyro", "jax", "planprior.commands"])
def test_ctrl_c_while_it_starts(module):
    program = INTERRUPTED.format(module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert (done.returncode, done.stderr) == (130, b"")
