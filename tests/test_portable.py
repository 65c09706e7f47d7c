"""Agent folders: whole, small, migrated from older formats, never half written."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import command_line
from helpers import same
from planprior import portable
from planprior.acting import Agent
from planprior.checkpoint import CheckpointError
from planprior.experiment import TrainConfig
from planprior.exporting import Learner, experience, export
from torch_files import FILES

FORMATS = sorted((Path(__file__).parent / "agents").iterdir())


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent.load(FORMATS[-1] / "agent")


@pytest.fixture
def folder(agent, tmp_path):
    export(agent, Learner.of(agent.state), tmp_path / "agent")
    return tmp_path / "agent"


def run(monkeypatch, capsys, *arguments):
    """The same, with lines that were broken on paths joined."""
    status, out, err = command_line.run(monkeypatch, capsys, *arguments)
    return status, out.replace("\n", ""), err


def test_an_agent_comes_back_whole(agent, folder):
    back = Agent.load(folder)
    for part in ("model", "policy", "prior", "target_heads", "scales", "log_lambda"):
        same(getattr(back.state, part), getattr(agent.state, part))
    assert (back.spec, back.config) == (agent.spec, agent.config)
    assert jax.tree.leaves(back.hypers) == jax.tree.leaves(agent.hypers)
    for name in ("task", "method", "size", "seed", "prior_weight", "step", "score"):
        assert back.info[name] == agent.info[name] is not None
    assert back.info["exported_with"]["planprior"]


def test_exported_again_it_says_what_it_was_trained_with(tmp_path):
    agent = Agent.load(FORMATS[-1] / "agent")
    agent.info["versions"] = {"jax": "0.10"}
    for here, there in ((None, "one"), ("one", "two")):
        agent = Agent.load(tmp_path / here) if here else agent
        export(agent, Learner.of(agent.state), tmp_path / there)
    assert Agent.load(tmp_path / "two").info["trained_with"] == {"jax": "0.10"}


def test_it_holds_no_optimiser(folder):
    names = [path.name for path in folder.iterdir()]
    assert sorted(names) == ["agent.safetensors", "learner.safetensors", "meta.json"]
    for name in ("agent", "learner"):
        header = (folder / f"{name}.safetensors").read_bytes()[:20_000]
        assert b"adam" not in header


def test_acting_does_not_read_what_learns(folder, agent):
    (folder / "learner.safetensors").unlink()
    same(portable.load(folder).state.policy, agent.state.policy)
    with pytest.raises(CheckpointError, match=r"lacks its file learner\.safetensors"):
        Agent.load(folder)


@pytest.mark.parametrize("kept", FORMATS, ids=lambda path: path.name)
def test_agents_of_every_format_still_act_as_they_did(kept, agent):
    expected = json.loads((kept / "expected.json").read_text())
    agent = agent if kept == FORMATS[-1] else Agent.load(kept / "agent")
    agent.reset()
    for mode in ("policy", "plan"):
        action = agent.act(expected["observation"], mode=mode)
        np.testing.assert_allclose(action, expected[mode], atol=1e-4)


def test_a_folder_of_every_format_is_kept():
    assert [path.name for path in FORMATS] == [
        f"format-{number}" for number in range(1, portable.FORMAT + 1)
    ]
    assert set(portable.MIGRATIONS) == set(range(1, portable.FORMAT))


def test_formats_are_migrated_step_by_step(monkeypatch):
    steps = {
        -1: lambda meta: {**meta, "format": 0, "a": 1},
        0: lambda meta: {**meta, "format": portable.FORMAT, "b": meta["a"] + 1},
    }
    monkeypatch.setattr(portable, "MIGRATIONS", steps)
    assert portable.migrate({"format": -1})["b"] == 2
    assert portable.migrate({"format": 0, "a": 4})["b"] == 5
    with pytest.raises(ValueError, match="its format is 7; known here: -1, 0, 1"):
        portable.migrate({"format": 7})


def test_a_setting_younger_than_the_folder_takes_its_default(agent):
    stored = {
        "spec": dataclasses.asdict(agent.spec),
        "agent": dataclasses.asdict(agent.config),
        "hypers": dataclasses.asdict(agent.hypers),
    }
    del stored["agent"]["planner"]["termination"], stored["agent"]["terminations"]
    del stored["hypers"]["kl_clip"]
    _, config, hypers = portable.read_settings(stored)
    assert (config.planner.termination, config.terminations) == ("threshold", "masked")
    assert hypers.kl_clip == 20.0
    stored["agent"]["planner"]["bogus"] = 1
    with pytest.raises(ValueError, match="other fields: bogus"):
        portable.read_settings(stored)


def test_what_is_no_agent_is_neither_loaded_nor_overwritten(agent, folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").write_text("x")
    with pytest.raises(CheckpointError, match="is no agent; it is left as it is"):
        export(agent, Learner.of(agent.state), other)
    assert (other / "precious.txt").read_text() == "x"
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        portable.load(tmp_path / "nowhere")
    export(agent, Learner.of(agent.state), folder)  # an agent is replaced
    meta = json.loads((folder / "meta.json").read_text())
    meta["meta"]["format"] = 9
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="was altered"):
        Agent.load(folder)


def test_an_agent_is_replaced_whose_values_were_looked_at(agent, folder, tmp_path):
    values = folder / portable.VALUES
    values.write_text("of the old agent")
    export(agent, Learner.of(agent.state), folder)
    assert not values.exists() and len(list(folder.iterdir())) == 3
    values.write_text("of the old agent")
    (folder / "precious.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"it holds precious\.txt"):
        export(agent, Learner.of(agent.state), folder)
    assert values.read_text() == "of the old agent"
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]


@pytest.mark.parametrize("seed", [-1, 2**32, 10**20])
def test_wrong_seeds_are_one_sentence(seed, folder, monkeypatch, capsys):
    sentence = f"seed is {seed}; it must be in [0, 2^32 - 1]"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Agent.load(folder, seed=seed)
    with pytest.raises(ValueError, match="TrainConfig." + re.escape(sentence)):
        TrainConfig("cheetah-run", seed=seed)
    status, _, err = run(monkeypatch, capsys, "eval", folder, "--seed", seed)
    assert (status, err) == (2, f"planprior: {sentence}\n")


def test_no_name_is_not_the_current_folder(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for arguments in (["eval", ""], ["control", ""], ["export", "", "x"],
                      ["bench", "--control", ""]):  # fmt: skip
        status, _, err = run(monkeypatch, capsys, *arguments)
        assert status and "path is ''; it must be a run folder, one of its" in err
    assert Agent.load(".").info["step"] == 160


def test_a_folder_loads_anywhere_without_learning_or_simulator(folder, tmp_path):
    moved = tmp_path / "elsewhere" / "robot"
    shutil.copytree(folder, moved)
    code = (
        "import sys; from planprior import Controller, portable;portable.load('robot');"
        "bad = {'planprior.' + n for n in ('replay', 'learning', 'losses', 'training',"
        "'population', 'state', 'agent', 'envs.base')} | {'optax', 'dm_control'};"
        "print(sorted(bad & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=moved.parent, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_commands_import_export_and_evaluate(tmp_path, monkeypatch, capsys):
    file = next(path for path in FILES if path.stem == "bmpc")
    one, two = tmp_path / "one", tmp_path / "two"
    status, out, _ = run(monkeypatch, capsys, "import", "bmpc", file, one, "--verbose")
    assert status == 0
    assert "bmpc, size custom, 17 observations, 6 actions, 2 V heads" in out
    assert "64 tensors used, 10 that list the heads again, 30 entries" in out
    assert "used: _Qs.params.0.bias" in out and "no --task was given" in out
    status, out, _ = run(monkeypatch, capsys, "export", one, two)
    assert status == 0 and "no task, bmpc, imported: " in out
    assert f"KiB in {two}" in out
    same(Agent.load(two).state.model, Agent.load(one).state.model)
    assert portable.load(two).info["source"]["file"] == "bmpc.pt"
    status, _, err = run(monkeypatch, capsys, "eval", two)
    assert status == 2 and "agent has no task" in err
    status, _, err = run(monkeypatch, capsys, "export", tmp_path, two)
    assert status == 2 and "meta.json" in err


def test_returns_of_a_damaged_agent_are_not_told(agent, tmp_path, monkeypatch, capsys):
    lost = jax.tree.map(lambda x: x * np.nan, agent.state.policy)
    lost = dataclasses.replace(agent.state, policy=lost)
    broken = Agent(lost, agent.spec, agent.config, agent.hypers, agent.info)
    export(broken, Learner.of(lost), tmp_path / "agent")
    for mode in ("plan", "policy"):
        words = ["eval", tmp_path / "agent", "--mode", mode, "--episodes", 1]
        status, out, err = run(monkeypatch, capsys, *words)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert f"the {mode} of" in err and "is NaN or infinite in some state" in err


def test_an_exported_run_keeps_its_scores(agent, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "eval.csv").write_text(
        "step,episode_reward,policy_reward,episodes,seed\n"
        "50,1.0,2.0,4,0\n160,5.0,6.0,4,0\n160,7.0,8.0,4,1\n"
    )
    export(agent, Learner.of(agent.state), tmp_path / "agent", run_dir)
    scores = portable.load(tmp_path / "agent").info["scores"]
    assert scores == {"episode_reward": 5.0, "policy_reward": 6.0, "episodes": 4.0}


def test_scores_of_other_members_are_not_taken(agent, tmp_path):
    """Of a population over prior weights and τ, which all have one seed."""
    w, tau = float(agent.hypers.prior_weight), float(agent.hypers.tau)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    members = ((w / 2, tau), (w, tau / 2), (w, tau), (w / 2, tau / 2))
    rows = [f"160,{i},0,{one},{other}" for i, (one, other) in enumerate(members)]
    head = "step,episode_reward,seed,prior_weight,tau"
    (run_dir / "eval.csv").write_text("\n".join([head, *rows]))
    export(agent, Learner.of(agent.state), tmp_path / "agent", run_dir)
    assert portable.load(tmp_path / "agent").info["scores"] == {"episode_reward": 2.0}


def test_how_an_agent_came_to_be():
    assert experience({"step": 60_000}) == "at 60,000 env steps"
    assert experience({"step": 0}) == "at 0 env steps"
    source = {"program": "nicklashansen/tdmpc2"}
    assert experience({"step": 0, "source": source}) == "imported"
    # Trained on since.
    assert experience({"step": 20, "source": source}) == "at 20 env steps"
