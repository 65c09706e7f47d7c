"""Silent broadcasting is an error in every test, and key reuse in almost all files."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MUJOCO_GL", "disabled")
# What is tested is the programs' meaning. Without optimisation, in one part and by the
# plainer of XLA's two ways to write a loop they compile in a tenth of the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_FLAGS = "--xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib").startswith("0.10."):  # later ones end at flags unknown to them
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _FLAGS)
# Programs compiled by one process serve the others, and the next run of the tests; also
# those of single operations, of which there are thousands.
_CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Where in the source an operation comes from is not written into programs.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# A process comes to hold a million objects of traced programs, and to look through all
# of them again for every few thousand new ones took a tenth of its time.
gc.set_threshold(200_000, 20, 1000)

RECHECKED = (
    *("updates", "limits", "priors", "golden", "heads", "numerics"),
    *("members", "population", "terminations", "probes", "replay"),
    *("cli", "examples", "bench", "starting", "realtime"),
)
"""Files in which using a key twice is no error: what draws there is checked elsewhere.

That is in `test_training.py`, `test_planner.py` and `test_networks.py` above all. The
check slows every call down, by a third where a test runs operation by operation.
"""


@pytest.fixture(scope="module", autouse=True)
def key_reuse(request: pytest.FixtureRequest):
    """Check the use of keys, but in these files; in all threads, unlike a context."""
    rechecked = request.path.stem.removeprefix("test_") in RECHECKED
    jax.config.update("jax_debug_key_reuse", not rechecked)


MOST_RESIDENT = 2 << 30
"""Bytes beyond which a process lets go of its programs between two files."""


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Let go of compiled programs when they are many: those of all tests take 7 GiB."""
    yield
    if resident_bytes() > MOST_RESIDENT:
        jax.clear_caches()
        gc.collect()


def resident_bytes() -> int:
    """What this process holds of the memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


LONG = ("training", "updates", "members", "terminations", "probes", "population")
"""Files that begin first, for two processes to end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the files that take longest to the front."""
    names = [f"test_{name}.py" for name in LONG]

    def place(item: pytest.Item) -> int:
        return names.index(item.path.name) if item.path.name in names else len(names)

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have recorded as a note."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "note":
                terminalreporter.write_line(value)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
