"""Files that were changed at random, a few of each kind; more: `benchmarks/fuzz.py`."""

import copy
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planprior import checkpoint, experiment, results
from planprior.acting import Agent
from planprior.config import Config, CriticConfig, NetworkConfig
from planprior.spec import EnvSpec
from scripts import load

fuzz = load("fuzz")

LOADS = {
    "agent folder": 4,
    "checkpoint to act with": 4,
    "run folder": 20,
    "published agent": 15,
}
"""Examples of kinds that take long; 40 of all others."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Good files of every kind, made when they are asked for."""
    made = {}

    def folder(target):
        if target.name not in made:
            made[target.name] = tmp_path_factory.mktemp("good")
            target.make(made[target.name])
        return made[target.name]

    return folder


@pytest.mark.parametrize("target", fuzz.TARGETS, ids=lambda target: target.name)
def test_spoilt_files_load_or_are_refused_in_one_sentence(target, good):
    outcomes = set()

    @settings(
        deadline=None,
        max_examples=LOADS.get(target.name, 40),
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(seed=st.integers(0, 2**32 - 1))
    def load_one(seed):
        outcomes.add(fuzz.attempt(target, good(target), random.Random(seed)))

    load_one()
    target.load(good(target))  # what was not spoilt loads
    assert outcomes <= {"loaded", "refused"} and outcomes


# --- What the fuzzer itself must notice -----------------------------------------------


def fails_with(load):
    return fuzz.Target("x", lambda folder: None, lambda folder, chance: None, load)


def numpy_error(folder):
    json.loads("{")


def hang(folder):
    while True:
        pass


def two_lines(folder):
    checkpoint.load(folder / "a\nb", {})


@pytest.mark.parametrize(
    ("load", "sentence"),
    [
        (numpy_error, "JSONDecodeError: .*decoder.py"),
        (hang, "did not end within"),
        (two_lines, "there is no checkpoint at"),
    ],
)
def test_the_fuzzer_notices_what_may_not_be(load, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "PATIENCE", 0.05)
    with pytest.raises(fuzz.FoundError, match=sentence):
        fuzz.attempt(fails_with(load), tmp_path, random.Random(0))


# --- What it has found ----------------------------------------------------------------


def test_lists_within_lists_are_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("[" * 100_000)
    sentence = r"config\.json cannot be read: maximum recursion depth"
    with pytest.raises(ValueError, match=sentence):
        experiment.read(tmp_path)
    with pytest.raises(results.ResultsError, match=sentence):
        results.read_config(tmp_path)


def change_agent(folder, change):
    """An agent folder whose meta is another, with the right checksum."""
    fuzz.make_agent(folder)
    document = json.loads((folder / "meta.json").read_text())
    change(document["meta"])
    (folder / "meta.json").write_text(json.dumps(document))
    fuzz.reseal(folder)


def test_an_agent_that_does_not_say_its_seed_still_acts(tmp_path):
    change_agent(tmp_path, lambda meta: [meta.pop(n) for n in ("seed", "prior_weight")])
    assert "seed" not in Agent.load(tmp_path).info


def test_a_population_without_members_is_refused(tmp_path):
    fuzz.make_checkpoint(tmp_path)
    document = json.loads((tmp_path / "meta.json").read_text())
    document["meta"]["members"] = []
    (tmp_path / "meta.json").write_text(json.dumps(document))
    fuzz.reseal(tmp_path)
    with pytest.raises(checkpoint.CheckpointError, match="it has no members"):
        Agent.load(tmp_path)


def test_a_name_in_a_file_stays_within_its_sentence(tmp_path):
    change_agent(tmp_path, lambda meta: meta["spec"].update({"a\nb\x1b": 1}))
    with pytest.raises(checkpoint.CheckpointError, match="cannot be used") as error:
        Agent.load(tmp_path)
    assert str(error.value).isprintable()


SPEC = EnvSpec("x", 3, 1, 10)


@pytest.mark.parametrize(
    ("owner", "name", "value", "allowed"),
    [
        (SPEC, "observation_dim", 3.0, "a whole number"),
        (SPEC, "can_terminate", [], "true or false"),
        (SPEC, "name", ["x"], "a text"),
        (NetworkConfig(), "num_bins", True, "a whole number"),
        (NetworkConfig(), "symlog_max", [1.0], "a number"),
        (Config().prior, "kind", {}, "a text"),
        (Config().prior, "adaptive", [], "true or false"),
    ],
)
def test_what_is_of_another_kind_is_refused(owner, name, value, allowed):
    """A list for a switch got as far as the programs, which cannot be told by it."""
    changed = copy.copy(owner)
    # As a file does; here the tests' check of types would be first.
    object.__setattr__(changed, name, value)
    field = f"{type(owner).__name__}.{name}"
    with pytest.raises(ValueError) as error:
        changed.__post_init__()
    assert str(error.value) == f"{field} is {value!r}; it must be {allowed}"


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (
            lambda n: NetworkConfig(encoder_layers=n),
            r"NetworkConfig\.encoder_layers is .*; it must be at most 100",
        ),
        (
            lambda n: CriticConfig(num_heads=n),
            r"CriticConfig\.num_heads is .*; it must be at most 1000",
        ),
        (
            lambda n: Config(horizon=n),
            r"Config\.horizon is .*; it must be at most 1000",
        ),
    ],
)
def test_what_is_counted_out_while_loading_is_limited(build, sentence):
    """A number of ten digits in a file took all memory of the machine."""
    with pytest.raises(ValueError, match=sentence):
        build(2**31 - 8)
