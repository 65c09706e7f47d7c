"""`planprior check-env` and `planprior doctor`: what they find, and say to do."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import jax
import pytest

import env_toys
from planprior import doctor, host, runtime
from test_cli import run


def check(monkeypatch, capsys, task, steps=120):
    arguments = ("check-env", f"env_toys:{task}", "--steps", steps, "--json")
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert not err
    told = json.loads(out)
    return status, told, {one["topic"]: one for one in told["findings"]}


def test_a_good_environment(monkeypatch, capsys):
    status, told, found = check(monkeypatch, capsys, "Fine")
    assert status == told["broken"] == told["advice"] == 0
    assert told["task"] == "env_toys:Fine" and told["spec"]["episode_length"] == 50
    assert set(found) >= {
        *("sizes", "actions", "episodes", "ends", "discount", "rewards", "values"),
        *("observations", "resets", "speed", "seeds"),
    }
    assert all(one["level"] == "good" for one in found.values())
    assert "4 ended after 50 to 50 decisions" in found["episodes"]["seen"]
    assert "0 terminated, 4 were cut off" in found["ends"]["seen"]
    assert "terminates=no" in found["ends"]["todo"]
    assert "120 steps of the same seed" in found["seeds"]["seen"]
    assert "it does not tell its state" in found["resume"]["seen"]


FAULTS = [
    ("Deaf", "actions", "broken", "same observations", "whether step() uses"),
    ("Thrifty", "actions", "good", "and come to the same", ""),
    ("Noisy", "stepping", "broken", "'planprior[gym]' [/dev/ttyUSB0]", "mend it"),
    ("Unspecified", "building", "broken", "has None as its spec", "mend it"),
    ("Rich", "values", "broken", "bins reach 2.203e+04", "divide rewards by"),
    ("Poor", "rewards", "advice", "from ", "they are tiny"),
    ("Flat", "rewards", "advice", "always 0", "shape it"),
    ("Huge", "observations", "advice", "entries reach 4", "nothing normalises"),
    ("Frozen", "observations", "broken", "2 of 2 never", "returns the new state"),
    ("Moody", "seeds", "advice", "differ from step 0 on", "cannot be repeated"),
    ("Confused", "ends", "advice", "exactly at the time limit", "truncated=True"),
    (
        "Hasty",
        "episodes",
        "advice",
        "100% of them in fewer than",
        "lower --horizon",
    ),
    ("Blind", "stepping", "broken", "environment 0 of env_toys:fine", "mend it"),
    ("Amnesic", "resume", "advice", "actions it goes on otherwise", "see that state()"),
    ("Timeless", "resume", "advice", "it broke: environment 0 of", "see that state()"),
    ("Slow", "speed", "advice", "ms a decision", "--num-envs"),
    ("Long", "discount", "advice", "about 200 decisions ahead", "action_repeat"),
    ("Nothing", "building", "broken", "has no function 'Nothing'", "mend it"),
]


@pytest.mark.parametrize(("task", "topic", "level", "seen", "todo"), FAULTS)
def test_each_fault_is_found_and_named(
    task, topic, level, seen, todo, monkeypatch, capsys
):
    steps = 20 if task == "Slow" else 120
    status, told, found = check(monkeypatch, capsys, task, steps)
    assert status == (level == "broken") and told["broken"] == int(level == "broken")
    finding = found[topic]
    assert finding["level"] == level
    assert seen in finding["seen"] and todo in finding["todo"]


def test_it_can_be_read_by_people(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = run(monkeypatch, capsys, "check-env", "env_toys:Huge")
    assert status == 0 and "advice" in out and "→ nothing normalises them" in out
    assert "planprior train env_toys:Huge" in out
    status, out, _ = run(monkeypatch, capsys, "check-env", "env_toys:Deaf")
    assert status == 1 and "BROKEN" in out and "planprior train" not in out
    monkeypatch.setenv("COLUMNS", "400")
    status, out, _ = run(monkeypatch, capsys, "check-env", "env_toys:Noisy")
    assert status == 1 and "'planprior[gym]' [/dev/ttyUSB0] timed out" in out


def test_environments_on_the_device_can_be_looked_at(monkeypatch, capsys):
    arguments = ("check-env", "toys_device:Aim", "--steps", 40, "--json")
    status, out, _ = run(monkeypatch, capsys, *arguments)
    assert status == 0 and json.loads(out)["broken"] == 0


def test_wrong_use_of_check_env(monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, "check-env", "dog-rum")
    assert status == 2 and "'dm_control:dog-run'" in err
    arguments = ("check-env", "env_toys:Fine", "--steps", 3)
    status, _, err = run(monkeypatch, capsys, *arguments)
    assert status == 2 and "steps is 3; it must be at least 10" in err
    status, out, err = run(
        monkeypatch, capsys, "check-env", "env_toys:Fine", "--seed", -1
    )
    assert status == 2 and not out and "seed is -1; it must be in [0, 2^32 - 1]" in err


def test_the_toys_are_all_tested():
    toys = {name for name, kind in vars(env_toys).items() if isinstance(kind, type)}
    toys -= {"Env", "EnvSpec", "Outcome", "Fine"}
    assert toys == {row[0] for row in FAULTS} - {"Nothing"}


@pytest.mark.skipif(
    importlib.util.find_spec("gymnasium") is None, reason="gymnasium is not installed"
)
def test_gymnasium_tells_its_bounds_and_its_autoreset_mode(monkeypatch, capsys):
    arguments = ("check-env", "gym_toys:next_step", "--steps", 60, "--json")
    status, out, _ = run(monkeypatch, capsys, *arguments)
    found = {one["topic"]: one["seen"] for one in json.loads(out)["findings"]}
    assert status == 0
    assert "mapped to bounds from -2 to 10" in found["sizes"]
    assert "autoreset mode 'next step'" in found["resets"]
    assert "begins new episodes" in found["resume"]


@pytest.mark.parametrize(
    ("task", "level", "seen"),
    [
        ("drifter", "good", "it does not tell its state"),
        ("drifter,simulated=yes", "good", "a training goes on within its episodes"),
        ("counter,simulated=yes", "advice", "is not where it was after"),
    ],
)
def test_whether_a_training_goes_on_within_its_episodes(
    task, level, seen, monkeypatch, capsys
):
    pytest.importorskip("gymnasium")
    arguments = ("check-env", f"gym_toys:{task}", "--steps", 60, "--json")
    status, out, _ = run(monkeypatch, capsys, *arguments)
    found = {one["topic"]: one for one in json.loads(out)["findings"]}
    assert status == 0
    assert found["resume"]["level"] == level and seen in found["resume"]["seen"]


# --- doctor ---------------------------------------------------------------------------


@pytest.fixture
def no_gl(monkeypatch):
    """OpenGL is tried elsewhere: it takes seconds."""
    reasons = {"egl": "", "osmesa": "does not draw: no library", "glfw": "no screen"}
    monkeypatch.setattr(doctor, "draws", lambda name, timeout: reasons[name])
    monkeypatch.setattr(runtime, "configure", lambda: None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    return reasons


def examine() -> dict[str, doctor.Fact]:
    return {fact.topic: fact for fact in doctor.examine()}


def test_doctor_tells_what_there_is(no_gl, monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "doctor", "--json")
    told = json.loads(out)
    facts = {fact["topic"]: fact for fact in told["facts"]}
    assert status == 0 and told["broken"] is False
    assert set(facts) >= {
        *("Python", "jax", "device", "CPU", "precision", "compile cache", "memory"),
        "suite dm_control",
    }
    assert "cpu" in facts["device"]["value"]
    assert "free of" in facts["memory"]["value"]
    status, out, _ = run(monkeypatch, capsys, "doctor")
    assert status == 0 and "Python" in out


def test_doctor_tells_of_a_cache_that_may_not_be_seen(no_gl, tmp_path, monkeypatch):
    def forbid(path):
        raise PermissionError(13, "Permission denied", str(path))

    before = jax.config.jax_compilation_cache_dir  # pyright: ignore
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "locked" / "cache"))
    try:
        monkeypatch.setattr(Path, "exists", forbid)
        monkeypatch.setattr(doctor.os, "access", lambda path, mode: path != tmp_path)
        fact = doctor._cache()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert fact.level == "advice" and "cannot be written" in fact.value


def test_doctor_tells_of_a_quota_where_it_holds(no_gl, monkeypatch):
    monkeypatch.setattr(host, "allowed_cores", lambda: 8)
    for quota, told in (
        (2, "2 cores for this process, which may run on 8 but"),
        (9, "8 cores for this process"),
    ):
        monkeypatch.setattr(host, "core_quota", lambda quota=quota: quota)
        value = examine()["CPU"].value
        assert told in value and ("quota" in value) == (quota < 8)


def test_doctor_says_what_is_missing(no_gl, monkeypatch):
    monkeypatch.setattr(doctor, "_has_nvidia_card", lambda: True)
    monkeypatch.setattr(host, "memory", lambda: host.Memory(2**20, 2**33))
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    versions = {"mujoco": "4.0.1", "dm_control": None, "envpool": None}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "1.0"))
    facts = examine()
    assert facts["device"].todo == "pip install 'planprior[cuda]'"
    assert "lower --buffer-size" in facts["memory"].todo
    assert facts["mujoco"].todo == "pip install 'mujoco>=3.17,<4'"
    assert facts["suite dm_control"].value == "not installed (dm_control)"
    assert facts["pool envpool"].value == "not installed"
    assert facts["OpenGL"].todo == "for films, set MUJOCO_GL=egl"
    assert facts["OpenGL osmesa"].value == "does not draw: no library"
    no_gl["egl"] = "does not draw"
    assert "apt-get install libegl1" in examine()["OpenGL"].todo


def test_a_jax_that_does_not_work_is_broken(no_gl, monkeypatch, capsys):
    def fail():
        raise RuntimeError("no\nbackend")

    monkeypatch.setattr("jax.devices", fail)
    status, out, _ = run(monkeypatch, capsys, "doctor", "--json")
    facts = {fact["topic"]: fact for fact in json.loads(out)["facts"]}
    assert status == 1 and "no backend" in facts["device"]["value"]
    assert facts["device"]["level"] == "broken"


@pytest.mark.parametrize("answer", ["timeout", "failure", "silence", "picture"])
def test_libraries_that_draw_and_that_do_not(answer, monkeypatch):
    def fake(command, env, timeout, **_):
        assert env["MUJOCO_GL"] == "egl" and os.environ.get("MUJOCO_GL") != "egl"
        if answer == "timeout":
            raise subprocess.TimeoutExpired(command, timeout)
        out, err = {"picture": ("drawn\n", ""), "silence": ("", "")}.get(
            answer, ("", "Traceback\nOSError: no EGL\n")
        )
        return subprocess.CompletedProcess(command, -11, out, err)

    monkeypatch.setattr(subprocess, "run", fake)
    assert doctor.draws("egl", 7.0) == {
        "timeout": "does not draw within 7 s",
        "failure": "does not draw: OSError: no EGL",
        "silence": "does not draw: exit status -11",
        "picture": "",
    }.get(answer)


def test_wrong_use_of_doctor(monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, "doctor", "--gl-timeout", 0)
    assert status == 2 and "gl_timeout is 0.0; it must be above 0" in err
