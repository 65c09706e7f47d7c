"""Programs for other runtimes: they compute what the agent does, without planprior."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from command_line import run
from golden_files import find
from planprior import checkpoint, portable
from planprior.actor import Actor
from planprior.anytime import CompiledPlanner
from planprior.checkpoint import CheckpointError
from planprior.exporters import manifest, onnx_file, programs, stablehlo
from planprior.exporters.manifest import Wanted
from planprior.importers import published
from torch_files import FILES
from toys import LENGTH, Aim

KEPT = Path(__file__).parent / "agents" / "format-1"
ACTOR = portable.load(KEPT / "agent")
KNOWN = json.loads((KEPT / "expected.json").read_text())

has_onnx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))),
    reason="needs onnx and onnxruntime: pip install 'planprior[onnx]'",
)
has_stablehlo = pytest.mark.skipif(
    importlib.util.find_spec("flatbuffers") is None,
    reason="needs flatbuffers: pip install 'planprior[stablehlo]'",
)


def in_a_fresh_process(folder, code):
    """Run code where none of what trains, nor planprior itself, can be imported."""
    code = (
        "import sys\n"
        "for name in ('planprior', 'equinox', 'optax', 'jaxtyping', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "import json, numpy as np\n"
        "about = json.load(open('runtimes.json'))['files']\n"
        "arrays = lambda values: {n: np.array(v, t[n]) for n, v in values.items()}\n"
        f"{code}"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True,
        text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- StableHLO ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An agent's folder with StableHLO programs, planning ahead of the delay."""
    folder = tmp_path_factory.mktemp("stablehlo") / "agent"
    files = manifest.files(ACTOR, Wanted(stablehlo=True, ahead=True))
    portable.save(folder, ACTOR, {}, ACTOR.info, files)
    return folder


LOAD_STABLEHLO = """
import jax
from jax import export
told = {}
for name, one in about.items():
    t = {port['name']: port['dtype'] for port in one['inputs'] + one['outputs']}
    example = one['example']
    program = jax.jit(export.deserialize(bytearray(open(name, 'rb').read())).call)
    found = program(*arrays(example['inputs']).values())
    for array, wanted in zip(found, arrays(example['outputs']).values(), strict=True):
        np.testing.assert_allclose(array, wanted, atol=1e-5)
    told[name] = np.concatenate([np.ravel(x) for x in found]).tolist()
    if name == 'policy.stablehlo':
        told['known'] = program(np.array(KNOWN, np.float32))[0].tolist()
    else:
        action, mean = np.zeros(1, np.float32), np.zeros((3, 1), np.float32)
        for step in range(3):
            seen = np.array(KNOWN, np.float32)
            action, mean = program(seen, mean, np.uint32(step), action)
        told['loop'] = action.tolist()
print(json.dumps(told))
"""


@has_stablehlo
def test_policy_and_plan_run_where_there_is_only_jax(folder):
    code = LOAD_STABLEHLO.replace("KNOWN", str(KNOWN["observation"]))
    told = in_a_fresh_process(folder, code)
    np.testing.assert_allclose(told["known"], KNOWN["policy"], atol=1e-5)
    # It is the controller's planner, iteration by iteration.
    planner = CompiledPlanner(ACTOR, levels=[16], seed=0)
    seen, action = np.array(KNOWN["observation"], np.float32), np.zeros(1, np.float32)
    mean = np.zeros((ACTOR.config.horizon, 1), np.float32)
    for step in range(3):
        search, _ = planner.begin(0, seen, action, mean, step)
        for i in range(planner.levels[0].iterations):
            search, best = planner.improve(0, search, i)
            action, mean = best.action, best.mean
    np.testing.assert_allclose(told["loop"], action, atol=1e-5)


@has_stablehlo
def test_the_example_drives_a_simulator_with_them(folder):
    """And holds back by one step what is planned ahead of the delay."""
    example = load_example()
    acts = example.load(folder)
    assert {*acts} == {"policy.stablehlo", "plan.stablehlo"}
    for act in acts.values():
        total, milliseconds = example.play(act, Aim(0))
        assert 0 < total <= LENGTH and milliseconds > 0
    planner = acts["plan.stablehlo"]
    assert planner.step == LENGTH
    planned = planner.action
    seen = np.array(KNOWN["observation"], np.float32)
    np.testing.assert_array_equal(planner(seen), planned)


def load_example():
    path = Path(__file__).parents[1] / "examples" / "exported_agent.py"
    spec = importlib.util.spec_from_file_location("exported_agent", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@has_stablehlo
def test_a_file_beside_them_says_what_they_are(folder):
    told = json.loads((folder / "runtimes.json").read_text())
    assert told["agent"]["task"] == ACTOR.info["task"]
    assert told["versions"]["jax"] and told["versions"]["planprior"]
    plan = told["files"]["plan.stablehlo"]
    ports = [(port["name"], port["shape"], port["dtype"]) for port in plan["inputs"]]
    assert ports == [
        ("observation", [3], "float32"),
        ("mean", [3, 1], "float32"),
        ("step", [], "uint32"),
        ("under_way", [1], "float32"),
    ]
    assert [port["name"] for port in plan["outputs"]] == ["action", "mean"]
    assert plan["platforms"] == ["cpu"]
    assert plan["planner"] == {"samples": 16, "iterations": 2, "horizon": 3}


@has_stablehlo
def test_programs_for_platforms_that_are_not_here_are_written_unseen():
    written = stablehlo.write(programs.policy_program(ACTOR), ["cuda", "tpu"])
    assert stablehlo.about(written)["platforms"] == ["cuda", "tpu"]
    assert stablehlo.device_for(["cuda", "tpu"]) is None
    assert stablehlo.device_for(["tpu", "cpu"]) == jax.devices("cpu")[0]


def test_a_program_is_compared_on_the_device_that_it_is_for():
    traced_for = []

    def call(x):
        traced_for.append(jax.config.jax_default_device)  # pyright: ignore
        return (x,)

    port = programs.Port("x", (2,), "float32", "anything")
    cpu = jax.devices("cpu")[0]
    manifest._stablehlo("x", programs.Program(call, (port,), (port,)), ("cpu",))
    # Written for no device, then run on the one of its platform, whatever the default.
    assert traced_for == [None, cpu]


def test_a_plan_has_the_size_that_is_asked_for():
    program, effort = programs.plan_program(ACTOR, samples=8, iterations=5)
    assert effort == (8, 5, ACTOR.config.horizon)
    assert [port.name for port in program.inputs] == ["observation", "mean", "step"]
    ahead, _ = programs.plan_program(ACTOR, ahead=True)
    told = [one.outputs[1].meaning for one in (program, ahead)]
    assert [text.partition("actions from ")[2] for text in told] == [
        "now on", "the end of under_way on"
    ]  # fmt: skip
    # Traced, not run: one scan of five iterations over sequences of eight.
    text = str(jax.make_jaxpr(program.call)(*program.shapes()))
    assert "length=5" in text and "f32[8," in text and "f32[16,1]" not in text


# --- ONNX -----------------------------------------------------------------------------

LOAD_ONNX = """
import onnxruntime
t = {'observation': 'float32', 'action': 'float32'}
session = onnxruntime.InferenceSession('policy.onnx')
example = about['policy.onnx']['example']
found = session.run(None, arrays(example['inputs']))[0]
np.testing.assert_allclose(found, arrays(example['outputs'])['action'], atol=1e-5)
seen = np.array([KNOWN, KNOWN], np.float32)
assert 'jax' not in sys.modules
print(json.dumps(session.run(['action'], {'observation': seen})[0].tolist()))
"""


@has_onnx
def test_the_policy_runs_where_there_is_only_onnxruntime(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "agent"
    command = ["export", KEPT / "agent", folder, "--onnx"]
    status, out, err = run(monkeypatch, capsys, *command)
    assert status == 0, err
    assert "for other runtimes: policy.onnx, runtimes.json" in out
    code = LOAD_ONNX.replace("KNOWN", str(KNOWN["observation"]))
    told = in_a_fresh_process(folder, code)
    np.testing.assert_allclose(told, [KNOWN["policy"]] * 2, atol=1e-5)
    checkpoint.verify(folder)
    # The agent is whole beside it, and may be replaced with all its files.
    assert run(monkeypatch, capsys, "export", folder, folder)[0] == 0
    assert not (folder / "policy.onnx").exists()


@has_onnx
@pytest.mark.parametrize("golden", find(), ids=lambda golden: golden.name)
def test_published_policies_do_what_the_published_programs_computed(golden):
    values = golden.load()
    path = next(path for path in FILES if path.stem == golden.name)
    agent = published.read(path, golden.name)
    actor = Actor(agent.networks, agent.spec, agent.config, agent.hypers)
    seen = np.asarray(values.batch().observation)
    written = manifest.files(actor, Wanted(onnx=True))["policy.onnx"]
    actions = onnx_file.run(written, seen.reshape(-1, seen.shape[-1]))
    expected = values["policy/mean"]
    np.testing.assert_allclose(actions.reshape(expected.shape), expected, atol=1e-5)


@has_onnx
def test_what_computes_something_else_is_not_exported(monkeypatch):
    monkeypatch.setattr(onnx_file, "LAYER_NORM_EPSILON", 0.1)
    with pytest.raises(CheckpointError, match=r"policy\.onnx differs from the agent"):
        manifest.files(ACTOR, Wanted(onnx=True))


# --- Mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--stablehlo", "--platforms", "gpu"],
            "platforms is 'gpu'; it must be of cpu",
        ),
        (["--samples", "8"], "samples is 8; it is for --stablehlo only"),
        (["--ahead"], "ahead is True; it is for --stablehlo only"),
    ],
)
def test_a_mistake_is_one_sentence(options, message, tmp_path, monkeypatch, capsys):
    command = ["export", KEPT / "agent", tmp_path / "agent", *options]
    status, _, err = run(monkeypatch, capsys, *command)
    assert status == 2 and message in err and err.count("\n") == 1
    assert not (tmp_path / "agent").exists()


@pytest.mark.parametrize("samples", [0, -1])
def test_sizes_that_make_no_sense_are_refused(samples):
    with pytest.raises(ValueError, match="num_samples is"):
        programs.plan_program(ACTOR, samples=samples)


@pytest.mark.parametrize(
    ("wanted", "package"),
    [(Wanted(onnx=True), "onnxruntime"), (Wanted(stablehlo=True), "flatbuffers")],
)
def test_a_missing_package_is_named(wanted, package, monkeypatch):
    found = importlib.util.find_spec

    def find_spec(name):
        return None if name == package else found("json")

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ModuleNotFoundError, match=rf"package {package}; run: pip inst"):
        wanted.check()
