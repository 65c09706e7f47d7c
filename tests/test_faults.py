"""What may go wrong while saving and going on: one sentence, and nothing is lost."""

import errno
import functools
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import command_line
import helpers
import toys
from planprior import agent, checkpoint, tensorfile
from planprior.checkpoint import CheckpointError
from planprior.population import Population
from planprior.runtime import RunFolderError, RunLock
from planprior.saving import Saving
from planprior.training import Training
from test_replay_store import KEPT, Life, assert_same, empty, flip

META = {
    "format": 1,
    "task": "toys:aim",
    "method": "bmpc",
    "size": "tiny",
    "spec": {"observation_dim": 3},
    "agent": {"horizon": 2},
    "members": [{"seed": 0}],
}
EPISODES = {"reset": np.ones(3, bool)}


@functools.cache
def shapes():
    config, hypers = helpers.method("bmpc")
    arrays, key = hypers.arrays(), jax.random.key(0)
    return jax.eval_shape(lambda: agent.init(helpers.SPEC, config, arrays, key=key))


def agents_of(step):
    """Agents that hold nothing but the number of a step."""
    return jax.tree.map(lambda x: np.full(x.shape, step, x.dtype), shapes())


def step_of(agents):
    """That number."""
    [number] = {float(x) for leaf in jax.tree.leaves(agents) for x in leaf.ravel()[:1]}
    return number


def counters(life):
    return {"decisions": 4, "updates": life.updates}


def save(saving, step, life):
    saving.save(step, agents_of(step), life.replay, counters(life), episodes=EPISODES)


def restored(folder, warn=pytest.fail, meta=META):
    """Step, agents and replay that a training would go on with."""
    saving = Saving(folder, meta, warn=warn)
    start = saving.latest()
    assert start is not None
    assert start.counters.decisions == 4
    assert saving.load_episodes(start, EPISODES)["reset"].all()
    replay = saving.load_replay(start, KEPT, empty)
    return start.step, step_of(saving.load_agents(start, agents_of(0))), replay


# --- Disks ----------------------------------------------------------------------------

WRITING = [(os, "replace"), (os, "fsync"), (os, "open")]
WRITING += [(Path, "unlink"), (Path, "mkdir"), (Path, "open")]


class Failing:
    """Lets the `number`-th operation on files, and all after it, fail."""

    def __init__(self, monkeypatch, code, number):
        self.left, self.code = number, code
        for owner, name in WRITING:
            monkeypatch.setattr(owner, name, self.guard(getattr(owner, name)))

    def guard(self, call):
        def guarded(*args, **kwargs):
            reading = args[1:] == ("rb",)
            self.left -= not reading
            if self.left <= 0 and not reading:
                raise OSError(self.code, os.strerror(self.code))
            return call(*args, **kwargs)

        return guarded


@pytest.mark.parametrize(
    ("code", "begin"), [(errno.ENOSPC, 1), (errno.EROFS, 2)], ids=["full", "read-only"]
)
def test_a_disk_that_fails_at_any_moment_leaves_the_last_checkpoint(
    tmp_path, code, begin
):
    """Odd operations fail in one case, even ones in the other."""
    life, saving = Life(), Saving(tmp_path, META, warn=pytest.fail)
    life.live(4)
    save(saving, 1, life)
    step, number, ended = 1, begin, False
    while not ended:
        saving = Saving(tmp_path, META, warn=pytest.fail)
        start = saving.latest()
        assert start is not None
        saving.load_replay(start, KEPT, empty)  # what is saved next builds on it
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, code, number)
            try:
                save(saving, step + 1, life)
                ended = failing.left > 0
            except CheckpointError as error:
                assert os.strerror(code) in str(error) and "\n" not in str(error)
        found, agents, replay = restored(tmp_path)
        assert found in (step, step + 1) and agents == found
        assert_same(replay, life.replay)
        step, number = found, number + 2
    assert step > 1 and number > 10


def test_a_folder_that_is_read_only_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(RunFolderError, match=r"cannot be written: Read-only file sys"),
        RunLock(tmp_path),
    ):
        pass


# --- Files ----------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """Checkpoints at steps 1, 2 and 3."""
    life, saving = Life(), Saving(tmp_path, META, warn=pytest.fail)
    for step in (1, 2, 3):
        life.live(4)
        save(saving, step, life)
    return tmp_path


def newest_segment(folder):
    return sorted((folder / "replay").iterdir())[-1]


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def of_step(step, file):
    return lambda folder: folder / "checkpoints" / f"step_{step:09d}" / file


DAMAGE = {
    "agents flipped": (of_step(3, "agents.safetensors"), flip),
    "agents cut": (of_step(3, "agents.safetensors"), cut),
    "manifest cut": (of_step(3, "meta.json"), cut),
    "episodes gone": (of_step(3, "episodes.safetensors"), Path.unlink),
    "replay flipped": (newest_segment, flip),
    "replay cut": (newest_segment, cut),
    "replay gone": (newest_segment, Path.unlink),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(saved, name):
    find, spoil = DAMAGE[name]
    spoil(find(saved))
    told: list[str] = []
    step, number, _ = restored(saved, told.append)
    assert step == number == 2
    assert len(told) == 1 and "the checkpoint at 3 env steps is passed over" in told[0]


def test_where_none_is_whole_nothing_begins_anew(saved):
    for path in (saved / "replay").iterdir():
        flip(path)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole with its"):
        Saving(saved, META, warn=lambda text: None).latest()


OTHERS = {
    "format": 2,
    "task": "toys:uneven",
    "method": "tdmpc2",
    "size": "5",
    "spec": {"observation_dim": 4},
    "agent": {"horizon": 3},
    "hypers": {"discount": 0.1},
    "members": [{"seed": 7, "prior_weight": 0.5}],
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_another_training_is_refused_by_name(saved, name):
    sentence = rf"belongs to another training \({name}.* was .* and is"
    with pytest.raises(CheckpointError, match=sentence) as error:
        Saving(saved, META | {name: OTHERS[name]}, warn=pytest.fail).latest()
    assert "\n" not in str(error.value)


def test_a_replay_that_is_too_large_for_the_configuration_is_refused(saved):
    saving = Saving(saved, META, warn=pytest.fail)
    start = saving.latest()
    assert start is not None
    sentence = f"has room for {KEPT} rows per environment, but the configuration allows"
    with pytest.raises(CheckpointError, match=sentence):
        saving.load_replay(start, KEPT - 1, empty)


@pytest.mark.parametrize(
    "stored", [None, {}, {"decisions": -1}, {"decisions": "3"}, {"surplus": 1}]
)
def test_counters_that_cannot_be_are_one_sentence(saved, stored):
    saving = Saving(saved, META, warn=pytest.fail)
    start = saving.latest()
    assert start is not None
    start = start._replace(meta=start.meta | {"counters": stored})
    if stored == {}:
        assert start.counters.decisions == 0
        return
    with pytest.raises(CheckpointError, match="does not say where the training was"):
        _ = start.counters


# --- A whole training -----------------------------------------------------------------


def run(monkeypatch, capsys, folder):
    """`planprior train`, which saves after each of its random steps; see `stopping`."""
    options = ["--run-dir", str(folder), "--steps", "60", "--seed-steps", "60"]
    options += ["--save-minutes", "1e-9"]
    command = ["train", "toys:aim", *options]
    status, _, err = command_line.run(monkeypatch, capsys, *command)
    return status, err


def stopping(monkeypatch, owner, name, error, after):
    """Let a function raise at its call number `after`."""
    call, left = getattr(owner, name), [after]

    def counted(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            raise error
        return call(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)


def test_faults_of_the_machine_are_one_sentence_and_a_status(
    tmp_path, monkeypatch, capsys
):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    short = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 9 bytes.\n")
    faults = (
        (tensorfile, "write", full, 5, "could not be written: No space left on device"),
        (
            Population,
            "add",
            short,
            3,
            r"device has too little memory \(Out.*; lower --",
        ),
    )
    for owner, name, error, after, sentence in faults:
        with monkeypatch.context() as patch:
            stopping(patch, owner, name, error, after)
            status, told = run(patch, capsys, tmp_path / "run")
        assert status not in (0, None) and "Traceback" not in told
        assert re.search(sentence, told) and told.count("\n") == 1
        latest = checkpoint.Checkpoints(tmp_path / "run/checkpoints").latest()
        assert latest is not None
    with monkeypatch.context() as patch, RunLock(tmp_path / "run"):
        status, told = run(patch, capsys, tmp_path / "run")
    assert status == 1 and re.fullmatch(
        rf"planprior: run folder .* is in use by process {os.getpid()} on .*\n", told
    )


def test_an_environment_that_breaks_is_told_even_where_nothing_can_be_saved(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(toys.Broken, "made", 0)
    monkeypatch.setattr(toys.Broken, "lasts", 6)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    stopping(monkeypatch, Training, "save", full, 1)
    sizes = ["--steps", "60", "--seed-steps", "60"]
    command = ["train", "toys:broken", "--run-dir", str(tmp_path / "run"), *sizes]
    status, _, err = command_line.run(monkeypatch, capsys, *command)
    assert status == 1 and err.count("\n") == 1
    assert "toys:broken returned nan in its reward" in err
    assert "nor could what was learned be saved: [Errno 28] No space left" in err
