import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from planprior import checkpoint, portable, tensorfile
from planprior.acting import find_checkpoint
from planprior.checkpoint import (
    CheckpointError,
    Checkpoints,
    DamagedCheckpointError,
    load,
    read_meta,
    save,
    verify,
    write_json_atomic,
    write_text_atomic,
)


class Layer(eqx.Module):
    weight: jax.Array
    bias: jax.Array


class Swapped(eqx.Module):
    """The same fields of the same shapes in another order."""

    bias: jax.Array
    weight: jax.Array


class Pair(NamedTuple):
    first: Any
    second: Any


def mixed_tree() -> dict[str, Any]:
    layers: Any = (
        Layer(jnp.arange(6.0).reshape(2, 3), jnp.ones(3)),
        Layer(*jnp.eye(2)),
    )
    return {
        "layers": layers,
        "adam": optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(layers),
        "pair": Pair(jnp.float32(0.1), [jnp.array(True), jnp.array([False, True])]),
        "half": jnp.array([1.5, -jnp.inf, jnp.nan], jnp.bfloat16),
        "count": jnp.int32(-7),
        "bits": jnp.array([0, 2**32 - 1], jnp.uint32),
        "empty": jnp.zeros((0, 4)),
        "nothing": None,
        "a/b%": {"ü": jnp.zeros(1)},
    }


def assert_identical(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "agent"
    save(folder, {"agent": {"w": jnp.arange(3.0), "b": jnp.zeros((2, 2))}}, {"step": 1})
    return folder


LIKE = {"agent": {"w": jnp.zeros(3), "b": jnp.zeros((2, 2))}}


# Round trips.


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path: Path) -> None:
    tree = mixed_tree()
    save(tmp_path / "c", {"agent": tree})
    assert_identical(load(tmp_path / "c", {"agent": tree})["agent"], tree)
    shapes = jax.eval_shape(lambda: tree)
    assert_identical(load(tmp_path / "c", {"agent": shapes})["agent"], tree)


def test_what_a_link_leads_to_is_replaced(saved: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(saved, target_is_directory=True)
    for step in (2, 3):
        save(link, {"agent": {"w": jnp.ones(3)}}, {"step": step})
        assert link.is_symlink() and read_meta(saved)["step"] == step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent", "link"]


def test_paths_are_readable_and_independent_of_order(tmp_path: Path) -> None:
    tree = {"net": (Layer(jnp.ones(2), jnp.zeros(2)),), "x/y": jnp.ones(1)}
    save(tmp_path / "c", {"agent": tree})
    arrays = load_file(tmp_path / "c" / "agent.safetensors")
    assert set(arrays) == {
        "agent/net/0/weight",
        "agent/net/0/bias",
        "agent/x%2Fy",
    }
    like = {"agent": {"net": (Swapped(jnp.ones(2), jnp.ones(2)),), "x/y": jnp.ones(1)}}
    layer = load(tmp_path / "c", like)["agent"]["net"][0]
    assert layer.weight.tolist() == [1, 1] and layer.bias.tolist() == [0, 0]


def test_groups_are_loaded_apart(tmp_path: Path) -> None:
    groups = {"agent": jnp.ones(2), "replay": {"rows": np.arange(4)}, "none": {}}
    save(tmp_path / "c", groups)
    (tmp_path / "c" / "replay.safetensors").unlink()
    loaded = load(tmp_path / "c", {"agent": jnp.zeros(2), "none": {}})
    assert loaded["agent"].tolist() == [1, 1] and loaded["none"] == {}


def test_numpy_arrays_come_back_as_numpy_also_of_types_jax_lacks(
    tmp_path: Path,
) -> None:
    tree = {"wide": np.arange(3) / 3, "strided": np.arange(12).reshape(3, 4)[:, ::2]}
    save(tmp_path / "c", {"host": tree})
    loaded = load(tmp_path / "c", {"host": tree})["host"]
    assert all(isinstance(leaf, np.ndarray) for leaf in loaded.values())
    assert_identical(loaded, tree)


def test_loaded_arrays_may_be_donated(tmp_path: Path) -> None:
    save(tmp_path / "c", {"agent": jnp.arange(4.0)})
    array = load(tmp_path / "c", {"agent": jnp.zeros(4)})["agent"]
    assert jax.jit(lambda x: x + 1, donate_argnums=0)(array).tolist() == [1, 2, 3, 4]


def test_files_of_the_safetensors_library_are_read(saved: Path) -> None:
    path = saved / "agent.safetensors"
    arrays = {"agent/w": np.ones(3, np.float32), "agent/b": np.eye(2, dtype=np.float32)}
    save_file(arrays, path, metadata={"by": "another program"})
    reseal(saved)
    loaded = load(saved, LIKE)["agent"]
    assert loaded["w"].tolist() == [1, 1, 1] and loaded["b"].tolist() == [
        [1, 0],
        [0, 1],
    ]


def test_meta_is_returned_as_json_gives_it(tmp_path: Path) -> None:
    save(tmp_path / "c", {}, {"name": "dög", "of": {10: [1.5, None], 9: -0.0}})
    meta = {"name": "dög", "of": {"10": [1.5, None], "9": 0.0}}
    assert read_meta(tmp_path / "c") == meta


def test_replacing_leaves_exactly_the_new_one(saved: Path) -> None:
    save(saved, {"agent": jnp.ones(1)}, {"step": 2})
    assert read_meta(saved) == {"step": 2}
    assert [entry.name for entry in saved.parent.iterdir()] == ["agent"]


def test_big_groups_are_written_without_copies(tmp_path: Path) -> None:
    script = """
import resource, sys
import jax.numpy as jnp, numpy as np
from planprior.checkpoint import save
tree = [jnp.zeros((8, 1 << 20)) + i for i in range(8)]  # 8 times 32 MiB
np.asarray(tree[0][0]); save(sys.argv[1], {"warm": tree[0][:1, :8]})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save(sys.argv[1], {"replay": tree})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = run_script(script, str(tmp_path / "c")).stdout
    assert int(grown) < 48 * 1024  # KiB: less than one array and a half


# Refusals.


@pytest.mark.parametrize(
    ("like", "sentence"),
    [
        ({"w": jnp.zeros(3)}, "surplus agent/b"),
        (
            {**LIKE["agent"], "c": jnp.zeros(1), "d": jnp.zeros(1)},
            "missing agent/c, age",
        ),
        (
            {**LIKE["agent"], "w": jnp.zeros(4)},
            r"w is float32\[3\] and must be float32\[4",
        ),
        ({**LIKE["agent"], "w": jnp.zeros(3, jnp.int32)}, r"agent/w .* be int32\[3\]"),
        ({"b": jnp.zeros(1)}, r"surplus agent/w; agent/b is float32\[2, 2\] and"),
    ],
)
def test_each_misfit_is_named(saved: Path, like: Any, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load(saved, {"agent": like})
    assert not isinstance(caught.value, DamagedCheckpointError)
    assert "\n" not in str(caught.value)


def test_a_group_that_is_not_there_is_named(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file replay.*it has agent.safetens"):
        load(saved, {"replay": jnp.zeros(1)})
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        load(saved / "nowhere", LIKE)


class Keyless:
    pass


jax.tree_util.register_pytree_node(
    Keyless, lambda _: ((jnp.ones(1), jnp.zeros(1)), None), lambda *_: Keyless()
)


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ({"../x": jnp.ones(1)}, "'../x' cannot name a group"),
        ({"a": {"k": 0.5}}, "a/k is of type float; allowed are arrays of int8"),
        ({"a": jax.random.key(0)}, r"a is of type key<fry>"),
        ({"a": np.ones(2, ">f4")}, r"a is of type >f4"),
        ({"a": Keyless()}, "pytree class without field names"),
        ({"a": {0: jnp.ones(1)}, "b": {"x": np.array("text")}}, "b/x is of type <U4"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_is_written(
    tmp_path: Path, groups: Any, sentence: str
) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        save(tmp_path / "c", groups)
    assert list(tmp_path.iterdir()) == []


def test_meta_that_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"meta of .* is no valid JSON"):
        save(tmp_path / "c", {}, {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(CheckpointError, match=r"holds thesis\.tex"):
        save(tmp_path / "home", {"agent": jnp.ones(1)})
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_a_failed_write_is_one_sentence_and_leaves_the_old_one(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorfile, "sync", full)
    with pytest.raises(
        CheckpointError, match="not be written: No space left on device"
    ):
        save(saved, {"agent": jnp.ones(1)})
    verify(saved)
    assert [entry.name for entry in saved.parent.iterdir()] == ["agent"]


# Damage.


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def cut(path: Path, position: int) -> None:
    path.write_bytes(path.read_bytes()[:position])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "data flipped": (lambda c: flip(c / "agent.safetensors", -1), "agent.*checksum"),
    "header flipped": (lambda c: flip(c / "agent.safetensors", 20), "agent.*checksum"),
    "data cut": (lambda c: cut(c / "agent.safetensors", -4), "agent.*checksum"),
    "data gone": (lambda c: (c / "agent.safetensors").unlink(), "lacks its file agent"),
    "meta gone": (lambda c: (c / "meta.json").unlink(), r"has no meta\.json"),
    "meta cut": (
        lambda c: cut(c / "meta.json", -9),
        "is not of a planprior checkpoint",
    ),
    "meta empty": (lambda c: cut(c / "meta.json", 0), "not of a planprior checkpoint"),
    "meta edited": (
        lambda c: write_text(
            c / "meta.json", lambda t: t.replace('"step": 1', '"step": 2')
        ),
        "was altered",
    ),
    "foreign": (
        lambda c: write_json_atomic(c / "meta.json", [1]),
        "not of a planprior",
    ),
    "foreign object": (
        lambda c: write_json_atomic(c / "meta.json", {"a": 1}),
        "not of a",
    ),
    "nested": (
        lambda c: (c / "meta.json").write_text("[" * 10**6),
        "not of a planprior",
    ),
    "long number": (
        lambda c: (c / "meta.json").write_text("1" * 10**5),
        "not of a plan",
    ),
}


def write_text(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_sentence(saved: Path, name: str) -> None:
    damage, sentence = DAMAGE[name]
    damage(saved)
    with pytest.raises(DamagedCheckpointError, match=sentence) as caught:
        load(saved, LIKE)
    assert "\n" not in str(caught.value)
    with pytest.raises(DamagedCheckpointError, match=sentence):
        verify(saved)


def reseal(folder: Path, **changes: Any) -> None:
    """Makes the checksums right again, as whoever forges a file would."""
    document = json.loads((folder / "meta.json").read_text())
    for name in document["files"]:
        data = (folder / name).read_bytes()
        document["files"][name] = checkpoint.hashlib.sha256(data).hexdigest()
    document.update(changes)
    del document["sha256"]
    document["sha256"] = checkpoint._digest(document)
    write_json_atomic(folder / "meta.json", document)


def forge(folder: Path, header: Any, data: bytes = b"\0" * 28) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "agent.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    reseal(folder)


W = {"dtype": "F32", "shape": [3], "data_offsets": [16, 28]}
B = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        {"agent/w": 1, "agent/b": B},
        {"agent/w": {**W, "data_offsets": [16, 10**30]}, "agent/b": B},
        {"agent/w": {**W, "data_offsets": [-16, 0]}, "agent/b": B},
        {"agent/w": {**W, "data_offsets": [16, 20]}, "agent/b": B},
        {"agent/w": {**W, "data_offsets": [16.0, 28.0]}, "agent/b": B},
        {"agent/w": {**W, "data_offsets": [16]}, "agent/b": B},
        {"agent/w": {**W, "data_offsets": None}, "agent/b": B},
        {"agent/w": {**W, "dtype": "F128"}, "agent/b": B},
        {"agent/w": {**W, "dtype": ["F32"]}, "agent/b": B},
        {"agent/w": {**W, "shape": 3}, "agent/b": B},
        {"agent/w": {**W, "shape": [2**62, 2**62]}, "agent/b": B},
        {"agent/w": {**W, "shape": [-3]}, "agent/b": B},
        {"agent/w": W, "agent/b": B, "../../x\n": B},
        {"agent/w": W, "agent/b": B, "\ud800": B},
    ],
    ids=lambda header: str(header)[:40],
)
def test_forged_headers_are_one_sentence(saved: Path, header: Any) -> None:
    forge(saved, header)
    with pytest.raises(CheckpointError) as caught:
        load(saved, LIKE)
    assert str(caught.value).isprintable()


def test_a_header_longer_than_its_file_is_refused(saved: Path) -> None:
    (saved / "agent.safetensors").write_bytes(b"\xff" * 8 + b"{}")
    reseal(saved)
    with pytest.raises(DamagedCheckpointError, match="no valid safetensors file"):
        load(saved, LIKE)


def test_forged_manifests_are_one_sentence(saved: Path) -> None:
    reseal(saved, files=[])
    with pytest.raises(DamagedCheckpointError):
        verify(saved)
    reseal(saved, files={"../agent/agent.safetensors": "0"})
    with pytest.raises(DamagedCheckpointError, match="names a file"):
        verify(saved)
    reseal(saved, files={}, version=2)
    with pytest.raises(
        CheckpointError, match="version 2; this planprior reads version 1"
    ):
        read_meta(saved)


def test_a_pipe_in_place_of_a_file_does_not_block(saved: Path) -> None:
    (saved / "agent.safetensors").unlink()
    os.mkfifo(saved / "agent.safetensors")
    with pytest.raises(DamagedCheckpointError, match="lacks its file"):
        load(saved, LIKE)


def test_bytes_that_are_no_bool_become_true(tmp_path: Path) -> None:
    save(tmp_path / "c", {"agent": np.array([False, True])})
    forge(
        tmp_path / "c",
        {"agent": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}},
        b"\x00\x07",
    )
    loaded = load(tmp_path / "c", {"agent": np.zeros(2, bool)})["agent"]
    assert loaded.tobytes() == b"\x00\x01"


@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_mutated_files_load_or_are_refused(saved: Path, data: st.DataObject) -> None:
    path = saved / "agent.safetensors"
    original, manifest = path.read_bytes(), (saved / "meta.json").read_bytes()
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(original) - 1))
        mutated[position : position + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3)
        )
    try:
        path.write_bytes(mutated)
        reseal(saved)
        load(saved, LIKE)
    except CheckpointError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(original)
        (saved / "meta.json").write_bytes(manifest)


# Kills.


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True)


WRITER = """
import sys
import numpy as np
from planprior.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=int(sys.argv[2]))
step = int(sys.argv[3])
while True:
    step += int(sys.argv[4])
    tree = {"x": np.full(300_000, step), "y": np.full(7, step)}
    checkpoints.save(step, {"agent": tree, "replay": tree})
    print(step, flush=True)
"""


@pytest.mark.parametrize("stride", [1, 0], ids=["new steps", "the same step again"])
def test_killed_anywhere_a_good_checkpoint_remains(tmp_path: Path, stride: int) -> None:
    generator = np.random.default_rng(stride)
    like = {"agent": {"x": np.zeros(300_000, int), "y": np.zeros(7, int)}}
    step = 100
    for _ in range(3):
        arguments = [str(tmp_path / "c"), "1", str(step), str(stride)]
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            written = int(process.stdout.readline())
            time.sleep(generator.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            written = int((process.stdout.read().split() or [written])[-1])
        warnings: list[str] = []
        latest = Checkpoints(tmp_path / "c", warn=warnings.append).latest()
        assert latest is not None and not warnings
        step = read_meta(latest)["step"]
        assert step - written in (0, stride)  # at most the last word was cut off
        assert set(load(latest, like)["agent"]["x"]) == {step}


def test_a_kill_between_the_two_renames_is_undone(saved: Path) -> None:
    saved.rename(saved.with_name(".agent.old"))
    assert read_meta(saved) == {"step": 1}
    assert load(saved, LIKE)["agent"]["w"].tolist() == [0, 1, 2]
    save(saved, {"agent": jnp.ones(1)}, {"step": 2})
    assert read_meta(saved) == {"step": 2}
    assert [entry.name for entry in saved.parent.iterdir()] == ["agent"]


# The folder of checkpoints.


def fill(folder: Path, scores: dict[int, float | None], keep: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for step, score in scores.items():
        checkpoints.save(step, {"agent": jnp.ones(2)}, {"of": step}, score)
    return checkpoints


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    scores = {1: 5.0, 2: 9.0, 3: None, 4: float("nan"), 5: 7.0, 6: 1.0}
    checkpoints = fill(tmp_path, scores, keep=2)
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.latest() == tmp_path / "step_000000006"
    assert checkpoints.best() == tmp_path / "step_000000002"
    assert read_meta(checkpoints.path(6)) == {"of": 6, "step": 6, "score": 1.0}


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == []
    assert checkpoints.latest() is None and checkpoints.best() is None


def test_saved_again_without_a_score_it_keeps_its_own(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path, {1: 5.0, 2: 3.0})
    fill(tmp_path, {1: None, 2: 4.0})
    assert read_meta(checkpoints.path(1))["score"] == 5.0
    assert read_meta(checkpoints.path(2))["score"] == 4.0


def test_no_scores_no_best(tmp_path: Path) -> None:
    assert fill(tmp_path, {1: None}).best() is None


def test_keep_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep is 0; it must be at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_damaged_ones_are_passed_over_with_a_sentence(tmp_path: Path) -> None:
    fill(tmp_path, {1: 1.0, 2: 3.0, 3: 2.0})
    flip(tmp_path / "step_000000003" / "agent.safetensors", -1)
    flip(tmp_path / "step_000000002" / "meta.json", 30)
    warnings: list[str] = []
    checkpoints = Checkpoints(tmp_path, warn=warnings.append)
    assert checkpoints.latest() == checkpoints.path(1)
    assert len(warnings) == 2 and "step_000000003" in warnings[0]
    assert checkpoints.best() == checkpoints.path(1)


def test_where_the_best_are_damaged_another_one_is_found(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path / "checkpoints", {1: 1.0, 2: None})
    flip(checkpoints.path(1) / "agent.safetensors", -1)
    assert checkpoints.best() is None
    assert find_checkpoint(tmp_path, "best") == checkpoints.path(2)


def test_hidden_files_of_others_do_not_keep_a_step_from_being_written(
    tmp_path: Path,
) -> None:
    checkpoints = fill(tmp_path, {1: None})
    (checkpoints.path(1) / ".ipynb_checkpoints").mkdir()
    fill(tmp_path, {1: None})
    assert not (checkpoints.path(1) / ".ipynb_checkpoints").exists()
    # A folder that someone else has named may be a repository.
    save(tmp_path / "agent", {"agent": LIKE["agent"]})
    (tmp_path / "agent/.git").mkdir()
    with pytest.raises(
        CheckpointError, match=r"it holds \.git\) and is not overwritte"
    ):
        save(tmp_path / "agent", {"agent": LIKE["agent"]})


def test_when_all_are_damaged_nothing_starts_anew(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path, {1: None})
    (checkpoints.path(1) / "meta.json").unlink()
    with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged"):
        checkpoints.latest()


def test_a_newer_format_is_refused_not_passed_over(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path, {1: None, 2: None})
    reseal(checkpoints.path(2), version=2)
    with pytest.raises(CheckpointError, match="format version 2"):
        checkpoints.latest()


def test_after_going_back_the_damaged_later_ones_are_replaced(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path, {1: None, 3: None, 4: None})
    for step in (3, 4):
        (checkpoints.path(step) / "agent.safetensors").unlink()
    fill(tmp_path, {2: None})
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.latest() == checkpoints.path(2)


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path, {1: None})
    shutil.copytree(checkpoints.path(1), tmp_path / ".step_000000002.tmp")
    assert checkpoints.steps() == [1]
    fill(tmp_path, {3: None})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "step_000000001",
        "step_000000003",
    ]


def test_a_checkpoint_set_aside_counts_until_it_is_pruned(tmp_path: Path) -> None:
    checkpoints = fill(tmp_path, {1: None}, keep=1)
    checkpoints.path(1).rename(tmp_path / ".step_000000001.old")
    assert checkpoints.steps() == [1] and checkpoints.latest() == checkpoints.path(1)
    fill(tmp_path, {2: None}, keep=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_000000002"]


# Small files.


def test_text_and_json_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_text_atomic(path, "ä\n")
    assert path.read_text(encoding="utf-8") == "ä\n"
    write_json_atomic(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_atomic(path, float("inf"))
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_of_runs_is_no_run_and_names_them(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"is no run; choose .* in it: a, b$"):
        find_checkpoint(tmp_path)


def test_a_run_that_has_only_begun_has_no_checkpoint_yet(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no checkpoint yet$"):
        find_checkpoint(tmp_path)


def test_a_run_is_no_agent_folder_and_can_be_exported(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="is no agent folder; make one with: pla"):
        portable.load(tmp_path)
