"""Replays on disk: after every save, what is loaded is what was there."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planprior import replay as rows
from planprior import replay_segments, replay_store, tensorfile
from planprior.checkpoint import Checkpoints, read_meta
from planprior.replay_store import ReplayStore
from planprior.tensorfile import CheckpointError, DamagedCheckpointError
from planprior.types import Gaussian, Transition

MEMBERS, ENVS, KEPT, DIM, HORIZON, SLICES = 2, 2, 16, 3, 2, 4


def empty(kept=KEPT):
    one = rows.init(ENVS, ENVS * kept, DIM, DIM, HORIZON)
    return jax.tree.map(lambda x: jnp.zeros((MEMBERS, *x.shape), x.dtype), one)


class Life:
    """Random episodes at unequal pace, random plans made anew, and random saves."""

    def __init__(self, seed=0, kept=KEPT):
        self.chance = np.random.default_rng(seed)
        self.replay = empty(kept)
        self.updates = 0

    def live(self, steps, *, reanalyse=True):
        for _ in range(steps):
            self.add()
            self.updates += 1
            if reanalyse and self.chance.random() < 0.3 and self.can_sample():
                self.renew()

    def can_sample(self):
        return bool((jax.vmap(rows.num_starts)(self.replay) > 0).all())

    def add(self):
        shape = (MEMBERS, ENVS)
        begins = np.asarray(self.replay.total) == 0
        self.replay = ADD(
            self.replay,
            Transition(
                observation=self.normal(*shape, DIM),
                action=self.normal(*shape, DIM),
                reward=self.normal(*shape),
                terminated=jnp.asarray(self.chance.random(shape) < 0.2),
                plan=Gaussian(self.normal(*shape, DIM), self.normal(*shape, DIM)),
                has_plan=jnp.asarray(self.chance.random(shape) < 0.7),
                planned_at=jnp.full(shape, self.updates),
                first=jnp.asarray(begins | (self.chance.random(shape) < 0.15)),
            ),
            jnp.asarray(self.chance.random(shape) < np.array([[0.9, 0.4], [0.7, 1]])),
        )

    def renew(self):
        key = jax.random.key(int(self.chance.integers(2**31)))
        plan = (MEMBERS, HORIZON, SLICES, DIM)
        self.replay = RENEW(
            self.replay,
            Gaussian(self.normal(*plan), self.normal(*plan)),
            jnp.int32(self.updates),
            key,
        )

    def normal(self, *shape):
        return jnp.asarray(self.chance.normal(size=shape), jnp.float32)


def _renew(replay, plan, updates, key):
    def one(replay, plan, key):
        _, slices = rows.sample(replay, SLICES, update_count=updates, key=key)
        return rows.write_plans(replay, slices, plan, update_count=updates)

    return jax.vmap(one)(replay, plan, jax.random.split(key, MEMBERS))


ADD = jax.jit(jax.vmap(rows.add))
RENEW = jax.jit(_renew)


def queues(replay):
    """The valid starts of each stream; slots that are not in use do not count."""
    starts = np.asarray(replay.starts).reshape(MEMBERS * ENVS, -1)
    added = np.asarray(replay.starts_added).ravel()
    removed = np.asarray(replay.starts_removed).ravel()
    return [
        ring[np.arange(first, last) % len(ring)].tolist()
        for ring, first, last in zip(starts, removed, added, strict=True)
    ]


def assert_same(one, other):
    assert jax.tree.structure(one.rows) == jax.tree.structure(other.rows)
    for field in ("rows", *replay_segments.COUNTERS):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(one, field), getattr(other, field)
        )
    assert queues(one) == queues(other) and one.horizon == other.horizon


def live_and_save(life, store, lengths):
    """What each of these saves returned."""
    states = []
    for step, length in enumerate(lengths):
        life.live(length)
        states.append(store.save(step, life.replay, life.updates))
        store.prune()
    return states


def reload(folder, state, kept=KEPT, step=0):
    return ReplayStore(folder).load(step, json.loads(json.dumps(state)), empty(kept))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 5 rows of each stream, so that there are several."""
    size = replay_segments.row_bytes(empty()) * MEMBERS * ENVS * 5
    monkeypatch.setattr(replay_segments, "CHUNK_BYTES", size)


# --- Round trips ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_after_every_save_the_same_comes_back(tmp_path, seed):
    life, store = Life(seed), ReplayStore(tmp_path)
    for step in range(8):  # past the end of the ring, several times
        life.live(int(life.chance.integers(0, 12)))
        state = store.save(step, life.replay, life.updates)
        store.prune()
        assert_same(reload(tmp_path, state), life.replay)


def test_a_loaded_store_goes_on_where_it_was(tmp_path):
    life, store = Life(), ReplayStore(tmp_path)
    state: Any = None
    for step in range(6):
        life.live(7)
        state = store.save(step, life.replay, life.updates)
        store.prune()
        store = ReplayStore(tmp_path)
        life.replay = store.load(step, state, empty())
    assert len(state["segments"]) > 1
    assert_same(reload(tmp_path, state), life.replay)


def test_only_what_changed_is_written(tmp_path):
    life, store = Life(), ReplayStore(tmp_path)
    life.live(10, reanalyse=False)
    store.save(0, life.replay, life.updates)
    life.live(3, reanalyse=False)
    state = store.save(1, life.replay, life.updates)
    life.renew()
    renewed = store.save(2, life.replay, life.updates)
    first, second, third = (
        tensorfile.read_header(tmp_path / entry["name"])
        for entry in renewed["segments"]
    )
    assert [e["name"] for e in renewed["segments"]][:2] == [
        e["name"] for e in state["segments"]
    ]

    def count(header, kind):
        names = [n for n in header if n.startswith(kind) and n.endswith("serial")]
        return sum(header[name].shape[0] for name in names)

    total = int(np.sum(np.asarray(life.replay.total)))
    assert count(first, "rows") + count(second, "rows") == total
    assert count(second, "plans") == 0 and count(third, "rows") == 0
    assert 0 < count(third, "plans") <= MEMBERS * HORIZON * SLICES
    assert "plans/0/observation" not in third
    assert_same(reload(tmp_path, renewed), life.replay)


def test_rows_of_random_actions_are_not_written_again(tmp_path):
    """Before the first update every row carries the update count 0."""
    life, store = Life(), ReplayStore(tmp_path)
    state: Any = None
    for step in range(2):
        life.add()
        without = dataclasses.replace(
            life.replay.rows, has_plan=jnp.zeros_like(life.replay.rows.has_plan)
        )
        state = store.save(step, dataclasses.replace(life.replay, rows=without), 0)
    header = tensorfile.read_header(tmp_path / state["segments"][1]["name"])
    assert not [name for name in header if name.startswith("plans")]


def test_a_larger_ring_takes_the_same_rows(tmp_path):
    life, store = Life(), ReplayStore(tmp_path)
    state = live_and_save(life, store, [15] * 4)[-1]
    larger = reload(tmp_path, state, kept=2 * KEPT)
    assert queues(larger) == queues(life.replay)
    assert_same_batches(larger, life.replay)
    assert replay_store.capacity(state) == KEPT
    # What is added and saved from then on comes back as well.
    store = ReplayStore(tmp_path)
    life.replay = store.load(3, state, empty(2 * KEPT))
    for step in range(4, 8):
        life.live(9)
        state = store.save(step, life.replay, life.updates)
        store.prune()
        again = reload(tmp_path, state, kept=2 * KEPT)
        assert queues(again) == queues(life.replay)
        assert_same_batches(again, life.replay)


@jax.jit
def draw_batches(replay):
    def one(replay):
        key = jax.random.key(3)
        return rows.sample(replay, 64, update_count=jnp.int32(99), key=key)

    return jax.vmap(one)(replay)


def assert_same_batches(one, other):
    jax.tree.map(np.testing.assert_array_equal, draw_batches(one), draw_batches(other))


# --- Files ----------------------------------------------------------------------------


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_segments_go_when_no_step_needs_them(tmp_path):
    life, store = Life(), ReplayStore(tmp_path, keep=2)
    states, needed = [], set()
    for step in range(12):
        life.live(4)
        states.append(store.save(step, life.replay, life.updates))
        store.prune()
        needed = {e["name"] for state in states[-2:] for e in state["segments"]}
        assert set(names(tmp_path)) == needed
    assert "segment_000001.safetensors" not in needed  # its rows are overwritten
    for state in states[-2:]:
        ReplayStore(tmp_path).verify(state)
    with pytest.raises(DamagedCheckpointError, match="lacks its file segment_"):
        ReplayStore(tmp_path).verify(states[0])


def test_what_was_found_whole_is_not_read_again(tmp_path, monkeypatch):
    life = Life()
    life.live(4)
    state = ReplayStore(tmp_path).save(0, life.replay, life.updates)
    read, check = [], tensorfile.check
    monkeypatch.setattr(tensorfile, "check", lambda *a: (read.append(a), check(*a)))
    store = ReplayStore(tmp_path)
    store.verify(state)
    assert_same(store.load(0, state, empty()), life.replay)
    assert len(read) == len(state["segments"]) == 1


def test_too_many_segments_become_one(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_store, "MOST_SEGMENTS", 3)
    life, store, counts = Life(), ReplayStore(tmp_path), []
    for step in range(8):
        life.live(2)
        state = store.save(step, life.replay, life.updates)
        store.prune()
        counts.append(len(state["segments"]))
        assert_same(reload(tmp_path, state), life.replay)
    assert counts == [1, 2, 3, 1, 2, 3, 1, 2]


def test_files_stay_below_a_multiple_of_the_replay(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_store, "CHUNK_BYTES", 0)
    life, store, sizes = Life(kept=64), ReplayStore(tmp_path), []
    life.live(80)
    for step in range(30):
        life.renew()
        state = store.save(step, life.replay, life.updates)
        store.prune()
        sizes.append(replay_store.num_bytes(state))
        assert replay_store.num_bytes(state) <= sum(
            path.stat().st_size for path in tmp_path.iterdir()
        )
    live = replay_segments.row_bytes(life.replay) * MEMBERS * ENVS * 64
    assert max(sizes) < 2.5 * live and min(sizes[5:]) < max(sizes[5:])


def test_a_number_is_never_used_twice(tmp_path):
    """A file that a killed process left is not mistaken for one of ours."""
    life, store = Life(), ReplayStore(tmp_path)
    life.live(5)
    (tmp_path / "segment_000041.safetensors").write_bytes(b"half")
    state = store.save(0, life.replay, life.updates)
    assert state["segments"][0]["name"] == "segment_000042.safetensors"
    store.prune()
    assert names(tmp_path) == ["segment_000042.safetensors"]


def test_saving_a_step_again_replaces_it(tmp_path):
    life, store = Life(), ReplayStore(tmp_path, keep=2)
    state: Any = None
    for step in (1, 2, 2, 2):
        life.live(3)
        state = store.save(step, life.replay, life.updates)
        store.prune()
    assert_same(reload(tmp_path, state), life.replay)
    assert sorted(store._steps) == [1, 2]


# --- Faults ---------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    life, store = Life(), ReplayStore(tmp_path)
    return tmp_path, live_and_save(life, store, [6] * 3)[-1], life


def test_a_full_disk_is_one_sentence_and_changes_nothing(stored, monkeypatch):
    folder, state, life = stored
    store = ReplayStore(folder)
    store.load(2, state, empty())
    before = names(folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorfile, "sync", full)
    life.live(3)
    with pytest.raises(CheckpointError, match="not be written: No space left on"):
        store.save(3, life.replay, life.updates)
    monkeypatch.undo()
    assert names(folder) == before
    assert_same(reload(folder, store.save(3, life.replay, life.updates)), life.replay)


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped": (flip, "is damaged: its checksum"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
    "gone": (lambda path: path.unlink(), "lacks its file segment_000002"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "lacks its file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_sentence(stored, damage):
    folder, state, _ = stored
    spoil, sentence = DAMAGE[damage]
    spoil(folder / "segment_000002.safetensors")
    with pytest.raises(DamagedCheckpointError, match=sentence) as error:
        reload(folder, state)
    assert "\n" not in str(error.value)


FORGED = {
    "no state": (None, "names no replay"),
    "another version": ({"version": 9}, "format version 9; this planprior reads"),
    "nothing else": ({"version": 1}, "does not say where its replay is"),
    "no segments": ({"segments": []}, "does not say where"),
    "a way out": ({"segments": [{"name": "../x", "sha256": "", "bytes": 1}]}, "where"),
    "an absolute": ({"segments": [{"name": "/x", "sha256": "", "bytes": 1}]}, "where"),
    "no list": ({"segments": 3}, "does not say where"),
    "no number": ({"capacity": "16"}, "does not say where"),
    "below zero": ({"updates": -1}, "does not say where"),
    "too large": ({"capacity": 2**40}, "does not say where"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_descriptions_are_one_sentence(stored, name):
    folder, state, _ = stored
    changes, sentence = FORGED[name]
    whole = len(changes or {}) == 1 and "version" in (changes or {})
    forged = changes if whole or changes is None else state | changes
    with pytest.raises(CheckpointError, match=sentence):
        replay_store.capacity(forged)
    with pytest.raises(CheckpointError, match=sentence):
        ReplayStore(folder).load(2, forged, empty())


def reseal(folder, state, number, change):
    """Change arrays of a segment and put its new checksum into the description."""
    path = folder / state["segments"][number]["name"]
    with path.open("rb") as file:
        arrays = {
            name: tensorfile.read_array(
                file, stored, np.dtype(stored.dtype), stored.shape
            )
            for name, stored in tensorfile.read_header(path).items()
        }
    change(arrays)
    state["segments"][number]["sha256"] = tensorfile.write(path, arrays)
    return state


def put(name, index, value):
    def change(arrays):
        arrays[name][index] = value

    return change


CONTENTS = {
    "an unknown stream": (put("rows/0/stream", 0, 4), "rows that were never written"),
    "a stream below 0": (put("rows/0/stream", 0, -1), "rows that were never written"),
    "a row to come": (put("rows/0/serial", 0, 9999), "rows that were never written"),
    "a counter below 0": (put("counters/total", 0, -1), "has counters below 0"),
    "too many starts": (put("counters/starts_added", 0, 99), "is incomplete"),
    "too few": (put("counters/starts_removed", 0, 10**9), "is incomplete"),
    "a field is gone": (lambda a: a.pop("rows/0/reward"), "reward is 'missing' and"),
    "another type": (
        lambda a: a.update({"rows/0/reward": a["rows/0/reward"].astype(np.float64)}),
        r"rows/0/reward is 'float64\[\d+\]' and must be float32",
    ),
    "another shape": (
        lambda a: a.update({"rows/0/action": a["rows/0/action"][:, :2]}),
        r"rows/0/action is 'float32\[\d+, 2\]' and must be float32\[\d+, 3\]",
    ),
    "rows are gone": (
        lambda a: [a.pop(n) for n in list(a) if n.startswith("rows/0/")],
        "is incomplete",
    ),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_forged_contents_are_one_sentence(stored, name):
    folder, state, _ = stored
    change, sentence = CONTENTS[name]
    with pytest.raises(CheckpointError, match=sentence) as error:
        reload(folder, reseal(folder, state, 2, change))
    assert "\n" not in str(error.value)


# --- Kills ----------------------------------------------------------------------------

WRITER = """
import os, signal, sys
sys.path.insert(0, sys.argv[4])
import json
from pathlib import Path
from planprior import checkpoint, tensorfile
from planprior.checkpoint import Checkpoints, read_meta
from planprior.replay_store import ReplayStore
from test_replay_store import Life, empty

folder, left = Path(sys.argv[1]), int(sys.argv[2])
checkpoints, store = Checkpoints(folder / "c", keep=1), ReplayStore(folder / "r")
life, begin = Life(int(sys.argv[3])), 0
latest = checkpoints.latest()
if latest is not None:
    meta = read_meta(latest)
    begin = meta["step"]
    life.updates = meta["updates"]
    life.replay = store.load(begin, meta["replay"], empty())

def counting(call):
    def counted(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return counted

# Every operation on files may be the last.
for module, name in [(os, "replace"), (os, "fsync"), (os, "unlink"), (os, "open"),
                     (Path, "unlink"), (Path, "mkdir"), (Path, "open")]:
    setattr(module, name, counting(getattr(module, name)))
for step in range(begin + 1, begin + 4):
    life.live(4)
    state = store.save(step, life.replay, life.updates)
    checkpoints.save(step, {}, {"replay": state, "updates": life.updates})
    store.prune()
    print("saved", step, json.dumps(state), flush=True)
print("end", flush=True)
"""


def write_until(folder, operation, seed):
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", WRITER, str(folder), str(operation), str(seed)]
    done = subprocess.run([*command, here], capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.stdout.splitlines()


def test_killed_at_any_operation_the_replay_of_a_checkpoint_is_whole(tmp_path):
    operation, ended = 1, False
    while not ended:
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        told = write_until(folder, operation, operation)
        ended = told[-1:] == ["end"]
        operation += 31  # all of them take minutes; see also benchmarks/kill.py
        check_after_kill(folder, told)
    assert operation > 3 * 31


def check_after_kill(folder, told):
    latest = Checkpoints(folder / "c").latest()
    saved = [json.loads(line.split(" ", 2)[2]) for line in told if "saved" in line]
    if latest is None:
        assert not saved
        return
    meta = read_meta(latest)
    assert meta["step"] in (len(saved), len(saved) + 1)
    replay = reload(folder / "r", meta["replay"])
    life = Life(0)
    life.replay, life.updates = replay, meta["updates"]
    life.live(3)  # it can be gone on with
    if saved:
        assert meta["step"] > len(saved) or meta["replay"] == saved[-1]
