import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from planprior import host, runtime
from planprior.host import Memory
from planprior.runtime import (
    GracefulStop,
    OutOfMemoryError,
    RunFolderError,
    RunLock,
    configure,
    cpu_model,
    describe,
    device_memory,
    explaining_memory,
    format_bytes,
    git_commit,
)


def run_script(script: str, **environment: str) -> dict[str, Any]:
    """Runs a script that prints JSON, where JAX has not started."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("JAX_COMPILATION", "XLA_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**inherited, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


# Setting up JAX.

CONFIGURE = """
import json, os, sys
from planprior import runtime
assert "jax" not in sys.modules
runtime.configure({arguments})
import jax
{after}
read = jax.config.values
print(json.dumps(dict(
    preallocate=os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"],
    fraction=os.environ.get("XLA_CLIENT_MEM_FRACTION"),
    precision=read["jax_default_matmul_precision"],
    enabled=read["jax_enable_compilation_cache"],
    cache=read["jax_compilation_cache_dir"],
)))
"""


def test_the_defaults_are_exact_share_the_card_and_keep_programs(
    tmp_path: Path,
) -> None:
    after = """
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
"""
    script = CONFIGURE.format(arguments="", after=after)
    found = run_script(script, XDG_CACHE_HOME=str(tmp_path))
    cache = Path(found.pop("cache"))
    assert cache.parent == tmp_path / "planprior" and any(cache.iterdir())
    assert found == {
        "preallocate": "false",
        "fraction": None,
        "precision": "float32",
        "enabled": True,
    }


def test_programs_are_kept_apart_by_number_of_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """JAX would load one that was compiled for one core, and leave the others idle."""
    monkeypatch.delenv("NPROC", raising=False)
    folders = []
    for cores in (1, 2, 2):
        monkeypatch.setattr(host, "cores", lambda cores=cores: cores)
        folders.append(runtime._cache_folder())
    monkeypatch.setenv("NPROC", "2")
    folders.append(runtime._cache_folder())
    assert folders[1] == folders[2] and len(set(folders)) == 3


def test_settings_are_applied_and_those_of_the_user_stay() -> None:
    arguments = "precision='bfloat16', memory_fraction=0.5, compilation_cache=False"
    script = CONFIGURE.format(arguments=arguments, after="")
    assert run_script(script, XLA_PYTHON_CLIENT_PREALLOCATE="true") == {
        "preallocate": "true",
        "fraction": "0.5",
        "precision": "bfloat16",
        "enabled": False,
        "cache": None,
    }
    script = CONFIGURE.format(arguments="", after="")
    found = run_script(script, JAX_COMPILATION_CACHE_DIR="/mine")
    assert found["cache"] == "/mine"


def test_a_memory_fraction_under_its_old_name_is_left_alone() -> None:
    script = CONFIGURE.format(arguments="memory_fraction=0.5", after="")
    found = run_script(script, XLA_PYTHON_CLIENT_MEM_FRACTION="0.3")
    assert found["fraction"] is None


THREADS = """
import json, os
from planprior import host, runtime
host.allowed_cores, host.core_quota = lambda: 4, lambda: {quota}
runtime.configure()
print(json.dumps(dict(threads=os.environ.get("PJRT_NPROC"))))
"""


@pytest.mark.parametrize(
    ("quota", "given", "threads"),
    [(None, {}, None), (9, {}, None), (2, {}, "2"), (2, {"NPROC": "3"}, None)],
)
def test_a_container_with_the_time_of_few_cores_starts_as_few_threads(
    quota: int | None, given: dict[str, str], threads: str | None
) -> None:
    assert run_script(THREADS.format(quota=quota), **given) == {"threads": threads}


def test_three_products_are_float32_where_there_is_no_gpu() -> None:
    script = CONFIGURE.format(arguments="precision='tensorfloat32_x3'", after="")
    assert run_script(script)["precision"] == "float32"


def test_impossible_settings_are_named() -> None:
    with pytest.raises(
        ValueError, match="precision is 'exact'; it must be one of floa"
    ):
        configure(precision="exact")
    with pytest.raises(ValueError, match=r"memory_fraction is 1\.5; it must be in"):
        configure(memory_fraction=1.5)


# Describing the machine.


def test_the_description_is_json_and_complete() -> None:
    found = json.loads(json.dumps(describe()))
    assert found["versions"]["jax"] and found["versions"]["planprior"]
    assert found["platform"] == "cpu" and found["device_count"] >= 1
    assert found["cpu"] and found["cpu_cores"] >= 1
    assert found["date"].endswith("+00:00")
    assert set(found) >= {"git_commit", "command", "matmul_precision", "memory"}


def test_versions_import_nothing() -> None:
    script = """
import json, sys
from planprior import runtime
runtime.versions()
print(json.dumps(sorted({"jax", "mujoco", "dm_control"} & set(sys.modules))))
"""
    assert run_script(script) == []


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True
    )


def test_the_commit_says_whether_files_were_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None
    assert git_commit(tmp_path / "nowhere") is None
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one")
    commit = git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{commit}-dirty"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_commit() is None


def test_memory_of_a_device() -> None:
    assert cpu_model()
    card = SimpleNamespace(
        memory_stats=lambda: {"bytes_limit": 100, "bytes_in_use": 30, "other": 1}
    )
    assert device_memory(card) == Memory(free=70, total=100)
    assert device_memory(SimpleNamespace(memory_stats=lambda: None)) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (5 * 2**30, "5.0 GiB"),
        (3 * 2**50, "3072.0 TiB"),
    ],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text


# Stopping.


@pytest.fixture
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    signal.signal(signal.SIGHUP, inherited)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    with GracefulStop() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested and stop.signal == number
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("handlers")
def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with GracefulStop() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.requested
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("handlers")
def test_a_second_ctrl_c_interrupts(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), GracefulStop():
        signal.raise_signal(signal.SIGINT)
        assert "Ctrl-C again leaves at once" in capfd.readouterr().err
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
)
def test_where_nothing_is_to_be_saved_a_signal_leaves(
    number: signal.Signals,
    error: type[BaseException],
    capfd: pytest.CaptureFixture[str],
) -> None:
    reached = []
    with pytest.raises(error) as caught, GracefulStop() as stop, stop.at_once():
        signal.raise_signal(number)
        reached.append("further")
    assert not reached and "saving" not in capfd.readouterr().err
    if error is SystemExit:
        assert caught.value.args == (143,)
    # One that came before, or was swallowed within.
    with pytest.raises(error), GracefulStop() as stop:
        signal.raise_signal(number)
        with stop.at_once():
            reached.append("further")
    with pytest.raises(error), GracefulStop() as stop, stop.at_once():
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)
        reached.append("after")
    assert reached == ["after"]
    with GracefulStop() as stop:
        with stop.at_once():
            pass
        signal.raise_signal(number)
        assert stop.requested


@pytest.mark.usefixtures("handlers")
def test_outside_the_main_thread_nothing_is_installed() -> None:
    found = []

    def enter() -> None:
        with GracefulStop() as stop:
            found.append(stop.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_process_that_is_terminated_ends_its_loop() -> None:
    script = """
import time
from planprior.runtime import GracefulStop
with GracefulStop() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
print("saved", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 0


# Locks.

HOLD = """
import sys, time
from planprior.runtime import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(RunFolderError, match=f"in use by process {process.pid} on"),
            RunLock(folder),
        ):
            raise AssertionError("both processes have the folder")
        process.kill()
    with RunLock(folder):
        pass


def test_a_lock_can_be_taken_again_after_its_release(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} ")
            with pytest.raises(RunFolderError), RunLock(tmp_path):
                pass


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunFolderError, match=r"file/run cannot be written: Not a dir"),
        RunLock(tmp_path / "file" / "run"),
    ):
        pass


# Too little memory.


def test_a_device_without_memory_is_one_sentence() -> None:
    text = "RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes.\nBuffer dump: ..."
    with pytest.raises(OutOfMemoryError) as error, explaining_memory():
        raise jax.errors.JaxRuntimeError(text)
    assert str(error.value).startswith(
        "the device has too little memory (Out of memory allocating 4096 bytes); lower "
        "--buffer-size"
    )
    assert "\n" not in str(error.value)


def test_a_host_without_memory_is_one_sentence() -> None:
    with pytest.raises(OutOfMemoryError, match="the host has too little memory"):
        with explaining_memory():
            np.empty(2**55)


def test_other_errors_pass() -> None:
    for error in (jax.errors.JaxRuntimeError("INTERNAL: x"), RuntimeError("x")):
        with pytest.raises(type(error), match="x"), explaining_memory():
            raise error
