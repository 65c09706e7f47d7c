"""What holds the code together: one-way imports, short files, no special cases."""

import ast
import re
from pathlib import Path

import pytest

import planprior
from planprior import methods

SOURCE = Path(planprior.__file__).parent
CORE = (
    *("spec", "types", "checked", "config", "hypers", "compatibility", "methods"),
    *("mapping", "numerics", "normed", "nets", "encoders", "policies", "world_model"),
    *("draws",),
    *("search", "planner", "priors", "actor", "weighing", "targets", "losses", "state"),
    *("diagnostics", "adam", "learning", "agent"),
)
# Each file may import those before it, and nothing that comes later.
ORDER = (
    *("spec", "types", "checked", "config", "hypers", "mapping", "numerics", "normed"),
    *("nets", "encoders", "policies", "world_model", "priors", "actor", "draws"),
    *("search",),
    *("planner", "compatibility", "methods", "weighing", "targets", "losses"),
    *("state", "diagnostics", "adam"),
    *("learning", "agent", "replay", "placement", "programs", "population"),
)
FILES = ("tensorfile", "checkpoint")
STORED = (*ORDER, *FILES, "replay_segments", "replay_store")
THIRD_PARTY = {
    *("equinox", "jax", "extend.random", "experimental.layout", "jaxtyping", "numpy"),
    "optax",
}
STANDARD = {
    *("abc", "collections", "dataclasses", "difflib", "functools", "math", "typing"),
    "enum",
}
# What a controller or a robot needs, and nothing that learns or simulates.
ACTING = (
    *("spec", "types", "checked", "config", "hypers", "mapping", "numerics", "normed"),
    *("nets", "encoders", "policies", "world_model", "priors", "draws", "search"),
    *("planner",),
    "compatibility",
    *("sweep", "settings", "tensorfile", "checkpoint", "actor", "portable"),
    *("latency", "anytime", "controller"),
)
FREE_OF_OURS = (
    *("checked", "host", "places", "runtime", "spec", "tables", "tensorfile"),
    "timing",
)
# What a run writes beside its checkpoints, and shows; no agent is known there.
RECORDS = ("tables", "sinks", "log", "progress")
# What shows results reads files, and knows nothing of what wrote them.
EVIDENCE = (
    *("places", "tables", "intervals", "curves", "run_files", "published_curves"),
    *("results", "comparison", "figures", "plots", "run_plots", "report"),
)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Top-level names of other packages, and the files of ours, that a file imports."""
    ours, others = set(), set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "planprior":
            names = [f"planprior.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            (ours if first == "planprior" else others).add(rest if rest else first)
    return ours - {"planprior"}, others


def functions(path):
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("name", CORE)
def test_the_core_needs_nothing_but_arrays(name):
    ours, others = imports(SOURCE / f"{name}.py")
    assert ours <= set(CORE)
    assert others <= THIRD_PARTY | STANDARD


@pytest.mark.parametrize("name", ORDER)
def test_imports_go_one_way(name):
    ours, _ = imports(SOURCE / f"{name}.py")
    assert ours <= set(ORDER[: ORDER.index(name)])


@pytest.mark.parametrize("name", FILES)
def test_files_know_nothing_of_agents(name):
    ours, _ = imports(SOURCE / f"{name}.py")
    assert ours <= set(FILES)


@pytest.mark.parametrize("name", STORED[-2:])
def test_what_stores_the_replay_knows_nothing_of_training(name):
    ours, _ = imports(SOURCE / f"{name}.py")
    assert ours <= set(STORED[: STORED.index(name)]) - {
        "agent",
        "placement",
        "programs",
        "population",
    }


@pytest.mark.parametrize("name", ACTING)
def test_acting_needs_neither_learning_nor_simulators(name):
    ours, others = imports(SOURCE / f"{name}.py")
    assert ours <= set(ACTING)
    assert "optax" not in others


def test_exporters_know_only_what_acts():
    for path in (SOURCE / "exporters").glob("*.py"):
        ours, others = imports(path)
        ours = {n for n in ours if not n.startswith("exporters")}
        assert ours <= {*ACTING, "__version__"}, path
        # Each is imported in the one file that writes its kind of file.
        assert others.isdisjoint({"onnx", "onnxruntime"} - _allowed(path)), path


def _allowed(path):
    return {"onnx", "onnxruntime"} if path.stem == "onnx_file" else set()


@pytest.mark.parametrize("name", FREE_OF_OURS)
def test_tools_know_nothing_of_agents(name):
    ours, _ = imports(SOURCE / f"{name}.py")
    assert ours <= ({"host"} if name == "runtime" else set())


@pytest.mark.parametrize("name", RECORDS)
def test_records_know_nothing_of_agents(name):
    ours, _ = imports(SOURCE / f"{name}.py")
    assert ours <= set(RECORDS[: RECORDS.index(name)])


@pytest.mark.parametrize("name", EVIDENCE)
def test_results_are_made_from_files_alone(name):
    ours, others = imports(SOURCE / f"{name}.py")
    assert ours <= set(EVIDENCE[: EVIDENCE.index(name)])
    assert "jax" not in others


def test_environments_know_nothing_of_agents_or_jax():
    for path in (SOURCE / "envs").glob("*.py"):
        ours, others = imports(path)
        assert all(n in ("spec", "host") or n.startswith("envs") for n in ours), path
        if path.stem != "device":
            assert "jax" not in others, path


@pytest.mark.parametrize("name", CORE)
def test_core_files_and_their_functions_are_short(name):
    path = SOURCE / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 300
    assert {n: size for n, size in functions(path) if size > 60} == {}


def test_no_function_is_long():
    for path in SOURCE.rglob("*.py"):
        assert {n: size for n, size in functions(path) if size > 60} == {}, path


@pytest.mark.parametrize("name", CORE)
def test_the_core_is_written_for_one_agent(name):
    text = (SOURCE / f"{name}.py").read_text().lower()
    assert not re.findall(r"\b(members?|populations?)\b", text)
    assert not re.findall(r"\bseed\b\s*[:=]", text)


def test_no_branch_on_a_methods_name():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Compare):
                words = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
                assert not words & set(methods.METHODS), path


def test_the_readme_says_how_long_the_method_is():
    text = (SOURCE.parents[1] / "README.md").read_text(encoding="utf-8")
    told = re.search(r"The method is five files.*?\(([\d,]+) lines", text)
    named = re.search(r"## Read the code(.*?)\n## ", text, re.DOTALL)
    assert told and named
    files = set(re.findall(r"(\w+\.py)`?\W", named[1]))
    assert len(files) == 7
    lines = sum(len((SOURCE / f).read_text().splitlines()) for f in files)
    assert int(told[1].replace(",", "")) == lines


def test_the_public_names_are_there():
    for name in planprior.__all__:
        assert getattr(planprior, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = planprior.nothing  # pyright: ignore[reportAttributeAccessIssue]
