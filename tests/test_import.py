"""Published checkpoints: nothing in them runs, and all they compute is the same."""

import dataclasses
import functools
import tracemalloc
import zipfile

import jax
import numpy as np
import pytest

from golden_files import Golden, Loaded, find
from planprior.commands import import_
from planprior.envs import registry
from planprior.importers import pickle_machine, published, torch_file
from planprior.importers.pickle_machine import FileError
from planprior.spec import EnvSpec

# The golden tests again, below, with networks that come from the `.pt`.
from test_golden import (  # noqa: F401
    test_forward,
    test_plan,
    test_policy,
    test_value_of_sequences,
)
from torch_files import FILES, malicious, members, mutate, only_pickle, with_pickle
from torch_files import zipped as zipped_members

PROGRAM = {"bmpc": "bmpc", "tdmpc2": "tdmpc2", "tdmpc_square": "tdmpc_square"}


@functools.cache
def read(name: str) -> published.Published:
    path = next(path for path in FILES if path.stem == name)
    return published.read(path, PROGRAM[name])


class Imported(Loaded):
    """A golden file whose networks, method and sizes are the importer's."""

    def model(self, when="params"):
        return read(self.name).networks.model

    def policy(self, when="params"):
        return read(self.name).networks.policy

    def target_heads(self, when="params"):
        return read(self.name).target_heads

    def config(self):
        """The importer's, with what no checkpoint tells: the planner's numbers."""
        golden = super().config()
        return dataclasses.replace(
            read(self.name).config, planner=golden.planner, horizon=golden.horizon
        )


@functools.cache
def imported(golden: Golden) -> Imported:
    return Imported(**vars(golden.load()))


@pytest.fixture(params=find(), ids=lambda golden: golden.name)
def golden(request) -> Imported:
    return imported(request.param)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request):
    return request.param


# --- What is read ---------------------------------------------------------------------


def test_every_kind_of_file_is_there():
    assert {path.stem for path in FILES} == set(PROGRAM)


def test_sizes_method_and_ranges_are_the_files(golden):
    found, s = read(golden.name), golden.settings
    assert found.method == golden.method
    assert found.spec == EnvSpec("imported", 17, 6, 500)
    network = found.config.network
    assert (network.encoder_dim, network.encoder_layers) == (40, 2)
    assert (network.mlp_dim, network.latent_dim, network.num_bins) == (48, 32, 101)
    assert found.config.critic.num_heads == 2
    assert found.config.policy.log_std_min == s["log_std_min"]
    assert found.config.policy.log_std_max == s["log_std_max"]
    np.testing.assert_allclose(found.hypers.discount, golden["discount"], rtol=1e-6)


def test_every_parameter_is_the_golden_one(golden):
    plain = Loaded(golden.name, golden.arrays, golden.settings)
    for got, want in (
        (golden.model(), plain.model()),
        (golden.policy(), plain.policy()),
        (golden.target_heads(), plain.target_heads()),
    ):
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_every_tensor_is_accounted_for(path):
    report = read(path.stem).report
    tensors, skipped = torch_file.read(path)
    assert len(report.used) + len(report.repeated) == len(tensors)
    assert report.skipped == skipped
    repeated = 0 if path.stem == "tdmpc_square" else 10
    assert len(report.repeated) == repeated


def test_a_tensor_too_many_or_too_few_is_refused(tmp_path):
    file = next(path for path in FILES if path.stem == "tdmpc2")
    changed = tmp_path / "x.pt"
    for old, new, message in (
        (b"_pi.2.bias", b"_pu.2.bias", r"has no tensor '_pi\.2\.bias'"),
        (
            b"_detach_Qs_",
            b"_attach_Qs_",
            r"of no use here: _attach_Qs_params\.0\.weight",
        ),
    ):
        changed.write_bytes(with_pickle(file, lambda p, o=old, n=new: p.replace(o, n)))
        with pytest.raises(FileError, match=message):
            published.read(changed, "tdmpc2")


def test_a_copy_of_the_heads_that_differs_is_refused(tmp_path):
    file = next(path for path in FILES if path.stem == "tdmpc2")
    changed = tmp_path / "x.pt"

    def swap(data: bytes) -> bytes:
        one, two = b"_detach_Qs_params.0.ln.weight", b"_detach_Qs_params.1.ln.weight"
        three = b"_detach_Qs_params.9.ln.weight"
        return data.replace(one, three).replace(two, one).replace(three, two)

    changed.write_bytes(with_pickle(file, swap))
    with pytest.raises(FileError, match=r"copy _detach_Qs_params.* that differs"):
        published.read(changed, "tdmpc2")


@pytest.mark.parametrize(
    ("name", "program", "spec", "message"),
    [
        (
            "bmpc",
            "tdmpc2",
            None,
            "heads of the state alone, which nicklashansen/tdmpc2",
        ),
        ("tdmpc2", "bmcp", None, "program is 'bmcp'.*did you mean 'bmpc'"),
        ("tdmpc2", "tdmpc2", EnvSpec("x", 5, 6, 9), "has 17 observations; x has 5"),
        ("tdmpc2", "tdmpc2", EnvSpec("x", 17, 2, 9), "has 6 actions; x has 2"),
    ],
)
def test_a_file_of_another_program_or_task_is_refused(name, program, spec, message):
    path = next(path for path in FILES if path.stem == name)
    with pytest.raises(ValueError, match=message):
        published.read(path, program, spec)


def test_sizes_of_a_task_need_no_simulator(monkeypatch):
    monkeypatch.setattr(registry, "make_env", lambda *_, **__: pytest.fail("built"))
    spec = import_._spec("dog-run")
    assert (spec.name, spec.action_dim) == ("dm_control:dog-run", 38)
    assert import_._spec("") is None


def test_the_discount_follows_the_task():
    path = FILES[0]
    spec = EnvSpec("x", 17, 6, 100)
    found = published.read(path, PROGRAM[path.stem], spec)
    assert (found.spec, found.hypers.discount) == (spec, 0.95)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"log_std_min", b"_task_emb.w", "is a multi-task agent"),
        (b"_encoder.state.0.bias", b"_encoder.rgb.00.bias ", "reads pictures"),
    ],
)
def test_other_kinds_of_agents_are_refused_with_the_reason(old, new, message, tmp_path):
    file = next(path for path in FILES if path.stem == "tdmpc2")
    changed = tmp_path / "x.pt"
    changed.write_bytes(with_pickle(file, lambda p: p.replace(old, new)))
    with pytest.raises(FileError, match=message):
        published.read(changed, "tdmpc2")


# --- What is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["os.system", "posix.system", "builtins.eval", "builtins.exec", "nt.system",
     "collections.Counter", "planprior.cli.main", "numpy.load"],
)  # fmt: skip
def test_a_pickle_that_calls_something_is_refused(name, tmp_path):
    file = tmp_path / "x.pt"
    file.write_bytes(only_pickle(malicious(name)))
    with pytest.raises(FileError, match=f"names '{name}', which no file of tensors"):
        torch_file.read(file)


def test_names_of_torch_do_nothing(tmp_path):
    data = malicious("torch.hub.load")
    assert pickle_machine.load(data) == pickle_machine.Named("torch.hub.load")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"\x80\x02", "damaged"),
        (b".", "damaged"),
        (b"\x80\x02N(.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02]N(NNt}s.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x80\x02N(i\nos\nsystem\n.", "the instruction INST"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"\x80\x02Q.", "damaged"),
        (b"S'\\q'\n.", "the instruction STRING"),
        (b"\x80\x02ctorch\\X\nSize\n.", r"names 'torch\\\\X.Size'"),
    ],
)  # fmt: skip
def test_broken_pickles_are_refused(data, message):
    with pytest.raises(FileError, match=message):
        pickle_machine.load(data)


def test_a_pickle_that_would_run_for_ever_does_not():
    """Nested twice 64 deep, a tuple's hash takes 2⁶⁴ steps; a long argument list that
    is used often, or a list that doubles itself, as much memory."""
    nested = b"\x80\x02)" + b"q\x00h\x00\x86" * 64
    with pytest.raises(FileError, match="damaged"):
        pickle_machine.load(nested + b"q\x01}h\x01Ns.")
    long = b"(" + b"N" * 1000 + b"tq\x00"
    call = b"ctorch\nSize\nh\x00R"
    with pytest.raises(FileError, match="damaged"):
        pickle_machine.load(b"\x80\x02" + long + call + b".")
    # A dictionary is made empty: entries given to it would be hashed, or copied.
    ordered = b"ccollections\nOrderedDict\n"
    entries = nested + b"q\x01" + ordered + b"]h\x01N\x86a\x85R."
    with pytest.raises(FileError, match="damaged"):
        pickle_machine.load(entries)
    assert pickle_machine.load(b"\x80\x02" + ordered + b")R.") == {}


def test_zip_bombs_and_false_sizes_are_refused(path, tmp_path):
    file = tmp_path / "x.pt"
    file.write_bytes(zipped_members(members(path), zipfile.ZIP_DEFLATED))
    with pytest.raises(FileError, match=r"is compressed, which torch\.save never does"):
        torch_file.read(file)
    # A central directory may claim any size.
    data = bytearray(zipped_members({"x/data.pkl": b"\x80\x02}."}))
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (0xFFFFFFF0).to_bytes(4, "little")
    file.write_bytes(bytes(data))
    with pytest.raises(FileError, match="claims to hold more than it does"):
        torch_file.read(file)


def tensors_of(count: int, shape: bytes, strides: bytes) -> bytes:
    """A pickle of `count` tensors that all show one storage of four numbers."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpuK\x04tQ"
    )
    data = b"\x80\x02}("
    for i in range(count):
        name = f"t{i:05d}".encode()
        data += b"X" + len(name).to_bytes(4, "little") + name
        data += b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage
        data += b"K\x00" + shape + strides + b"\x89}tR"
    return data + b"u."


def four_numbers(pickled: bytes, size: int = 16) -> bytes:
    return zipped_members({"x/data.pkl": pickled, "x/data/0": bytes(size)})


@pytest.mark.parametrize(
    ("shape", "strides", "message"),
    [
        (b"K\x05\x85", b"K\x01\x85", "reaches beyond its numbers"),
        (b"K\x04\x85", b"K\x02\x85", "reaches beyond its numbers"),
        (b"J\x00\x00\x00\x7f\x85", b"K\x00\x85", "reaches beyond its numbers"),
        (b"J\xff\xff\xff\xff\x85", b"K\x01\x85", "no whole numbers of at least 0"),
        (b"K\x04\x85", b"K\x01K\x01\x86", "more sizes than strides"),
        (b"K\x04", b"K\x01\x85", "no short list"),
    ],
)
def test_tensors_outside_their_storage_are_refused(shape, strides, message, tmp_path):
    file = tmp_path / "x.pt"
    file.write_bytes(four_numbers(tensors_of(1, shape, strides)))
    with pytest.raises(FileError, match=message):
        torch_file.read(file)


def test_a_storage_shown_again_and_again_is_refused(tmp_path):
    file = tmp_path / "x.pt"
    pickled = tensors_of(1, b"M\x00\x10\x85", b"K\x01\x85")
    one = pickled.replace(b"cpuK\x04", b"cpuM\x00\x10")
    file.write_bytes(four_numbers(one, 16384))
    assert torch_file.read(file)[0]["t00000"].shape == (4096,)
    many = tensors_of(50, b"M\x00\x10\x85", b"K\x01\x85")
    many = many.replace(b"cpuK\x04", b"cpuM\x00\x10")
    file.write_bytes(four_numbers(many, 16384))
    with pytest.raises(FileError, match="claim more than it holds"):
        torch_file.read(file)


@pytest.mark.parametrize("data", [b"", b"PK", b"\x80\x02}.", b"not a file of torch"])
def test_what_is_no_zip_file_is_refused(data, tmp_path):
    file = tmp_path / "x.pt"
    file.write_bytes(data)
    with pytest.raises(FileError, match=r"cannot be read as a file of torch\.save"):
        torch_file.read(file)
    with pytest.raises(FileError, match="is no file"):
        torch_file.read(tmp_path)


# --- Fuzz -----------------------------------------------------------------------------


def attempt(data: bytes, path, file) -> bool:
    """Import a mutated copy: it is refused, or loads; whether it loaded."""
    file.write_bytes(data)
    try:
        published.read(file, PROGRAM[path.stem])
    except FileError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 600
        return False
    return True


def fuzz(path, file, count: int, seed: int) -> int:
    """Mutate the file as it is, and its pickle under checksums that are right again."""
    rng, whole = np.random.default_rng(seed), path.read_bytes()
    loaded = 0
    for i in range(count):
        if i % 2:
            data = with_pickle(path, lambda pickled: mutate(pickled, rng))
            loaded += attempt(data, path, file)
        elif attempt(mutate(whole, rng), path, file):
            # What the checksums let through is what was there.
            got, want = published.read(file, PROGRAM[path.stem]), read(path.stem)
            jax.tree.map(np.testing.assert_array_equal, got.networks, want.networks)
            loaded += 1
    return loaded


def test_mutated_copies_are_refused_or_load(path, tmp_path):
    tracemalloc.start()
    try:
        fuzz(path, tmp_path / "x.pt", 20, seed=1)
        assert tracemalloc.get_traced_memory()[1] < 30 * path.stat().st_size
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_thousand_mutated_copies_are_refused_or_load(path, tmp_path):
    loaded = fuzz(path, tmp_path / "x.pt", 334, seed=2)
    print(f"{path.name}: 334 mutated copies, {loaded} loaded, the others were refused")
