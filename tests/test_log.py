import io
import json
import math
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from planprior import log
from planprior.log import (
    Progress,
    RunFolder,
    Shares,
    TensorBoard,
    WeightsAndBiases,
    jsonl_parts,
)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def read_rows(path: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    lines = path.read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_rows(path)]


# Tables.


def test_rows_of_several_agents_at_one_step(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as run:
        for seed in (1, 2):
            run.train({"step": 10, "seed": seed, "loss": 0.1 * seed})
            run.evaluation({"seed": seed, "episode_reward": 1 / 3, "step": 10})
    assert read_rows(tmp_path / "run/train.jsonl")[1] == {
        "step": 10,
        "seed": 2,
        "loss": 0.2,
    }
    assert (tmp_path / "run/eval.csv").read_text() == (
        "step,seed,episode_reward\n10,1,0.3333333333333333\n10,2,0.3333333333333333\n"
    )


def test_every_line_is_valid_json(tmp_path: Path) -> None:
    row = {
        "step": np.int64(1),
        "nan": float("nan"),
        "inf": jnp.float32(jnp.inf),
        "list": [np.float32(0.5), math.nan],
        "array": np.array([1.0, -np.inf]),
        "flag": np.bool_(True),
        "half": jnp.bfloat16(0.5),
        "deep": {"x": jnp.int32(3)},
        "text": "two\nlines",
        "none": None,
    }
    with RunFolder(tmp_path) as run:
        run.train(row)
    assert read_rows(tmp_path / "train.jsonl") == [
        {
            "step": 1,
            "nan": None,
            "inf": None,
            "list": [0.5, None],
            "array": [1.0, None],
            "flag": True,
            "half": 0.5,
            "deep": {"x": 3},
            "text": "two\nlines",
            "none": None,
        }
    ]


def test_csv_keeps_the_columns_of_its_first_row(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.evaluation({"step": 1, "a": 1.0, "b": math.nan})
        run.evaluation({"b": None, "a": np.float32(0.5), "step": 2})
        with pytest.raises(ValueError, match=r"other columns \(c\).*have step, a, b"):
            run.evaluation({"step": 3, "a": 1.0, "b": 2.0, "c": 3.0})
        with pytest.raises(ValueError, match="a row has no step; it has a"):
            run.train({"a": 1})
    assert (tmp_path / "eval.csv").read_text() == "step,a,b\n1,1.0,nan\n2,0.5,\n"


def test_an_evaluation_is_in_the_file_at_once(tmp_path: Path) -> None:
    with RunFolder(tmp_path) as run:
        run.evaluation({"step": 1, "episode_reward": 2.0})
        assert (tmp_path / "eval.csv").read_text() == "step,episode_reward\n1,2.0\n"


def fill(folder: Path, resumed_at: int | None, *upto: int) -> None:
    with RunFolder(folder, resumed_at=resumed_at) as run:
        for step in upto:
            run.train({"step": step, "loss": 1.0})
            run.evaluation({"step": step, "episode_reward": 1.5})


def test_resuming_drops_later_rows_and_doubles_none(tmp_path: Path) -> None:
    fill(tmp_path, None, 10, 20, 30, 40)
    fill(tmp_path, 20, 30, 40, 50)
    assert steps(tmp_path / "train.jsonl") == [10, 20, 30, 40, 50]
    rows = (tmp_path / "eval.csv").read_text().splitlines()
    assert rows == ["step,episode_reward", *(f"{s},1.5" for s in (10, 20, 30, 40, 50))]
    assert {entry.name for entry in tmp_path.iterdir()} == {"train.jsonl", "eval.csv"}


def test_an_evaluation_that_will_be_made_again_is_dropped(tmp_path: Path) -> None:
    """The checkpoint of its step is from before it."""
    with RunFolder(tmp_path) as run:
        for step in (10, 20):
            run.train({"step": step, "event": "update"})
            run.train({"step": step, "event": "evaluation"})
            run.evaluation({"step": step, "episode_reward": 1.5})
    with RunFolder(tmp_path, resumed_at=20, evaluated_at=10):
        pass
    assert steps(tmp_path / "train.jsonl") == [10, 10, 20]
    rows = (tmp_path / "eval.csv").read_text().splitlines()
    assert rows == ["step,episode_reward", "10,1.5"]


@pytest.mark.parametrize("kept", range(1, 8))
def test_a_half_written_last_line_is_dropped(tmp_path: Path, kept: int) -> None:
    """Cut anywhere: `20,1.5` must not survive as the smaller number `20,1`."""
    fill(tmp_path, None, 10, 20)
    for name in ("train.jsonl", "eval.csv"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-kept])
    fill(tmp_path, 20, 30)
    assert steps(tmp_path / "train.jsonl") == [10, 30]
    rows = (tmp_path / "eval.csv").read_text().splitlines()
    assert rows == ["step,episode_reward", "10,1.5", "30,1.5"]


def test_a_cut_header_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "eval.csv").write_text("step,epis")
    fill(tmp_path, 0, 10)
    assert (tmp_path / "eval.csv").read_text() == "step,episode_reward\n10,1.5\n"


def test_lines_that_are_no_rows_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(
        b'{"step": 1}\n\xff\xfe\n[]\n{"a": 1}\n{"step": "x"}\n\n' + b"[" * 10**5 + b"\n"
    )
    fill(tmp_path, 5)
    assert steps(tmp_path / "train.jsonl") == [1]


def all_steps(table: Path) -> list[int]:
    return [step for part in jsonl_parts(table) for step in steps(part)]


def test_a_long_table_continues_in_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PART_BYTES", 60)  # two rows and a bit
    fill(tmp_path, None, *range(10, 90, 10))
    table = tmp_path / "train.jsonl"
    parts = jsonl_parts(table)
    assert [p.name for p in parts] == ["train.1.jsonl", "train.2.jsonl", "train.jsonl"]
    assert all_steps(table) == [*range(10, 90, 10)]
    # Going on from within a part drops what comes later, in whatever file it is.
    fill(tmp_path, 40, 50)
    assert all_steps(table) == [10, 20, 30, 40, 50]
    fill(tmp_path, 10)
    assert all_steps(table) == [10]
    fill(tmp_path, None, *range(10, 60, 10))
    fill(tmp_path, None, 5)
    assert steps(table) == [5] and (tmp_path / "train.1.jsonl.old").exists()
    assert jsonl_parts(table) == [table]


class Full(io.StringIO):
    """A file on a full disk: it accepts text, and cannot put it there."""

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("table", ["_train", "_eval"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, table: str) -> None:
    name = "train.jsonl" if table == "_train" else "eval.csv"
    with pytest.raises(OSError, match=rf"{name} could not be written: No space left"):
        with RunFolder(tmp_path) as run:
            getattr(run, table)._file.close()
            getattr(run, table)._file = Full()
            run.train({"step": 1})
            run.evaluation({"step": 1})


def test_an_error_is_not_hidden_by_tables_that_cannot_be_closed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="what went wrong"), RunFolder(tmp_path) as run:
        run._train._file.close()
        run._train._file = Full()  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError("what went wrong")


def test_a_new_run_sets_old_tables_aside(tmp_path: Path) -> None:
    fill(tmp_path, None, 10, 20)
    fill(tmp_path, None, 5)
    assert steps(tmp_path / "train.jsonl") == [5]
    assert steps(tmp_path / "train.jsonl.old") == [10, 20]
    assert (tmp_path / "eval.csv.old").read_text().endswith("20,1.5\n")


# Sinks.


class Broken:
    def write(self, kind: str, row: Any) -> None:
        raise ConnectionError("no network")

    def close(self) -> None:
        raise AssertionError("closed although left out")


def test_a_sink_that_fails_is_left_out_and_changes_nothing(tmp_path: Path) -> None:
    warnings: list[str] = []
    with RunFolder(tmp_path, sinks=[Broken()], warn=warnings.append) as run:
        run.train({"step": 1, "loss": 1.0})
        run.train({"step": 2, "loss": 1.0})
    assert warnings == ["Broken failed and is left out: no network"]
    assert steps(tmp_path / "train.jsonl") == [1, 2]


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("tensorboardX", lambda folder: TensorBoard(folder)),
        ("wandb", lambda folder: WeightsAndBiases(folder, project="p", config={})),
    ],
)
def test_a_missing_package_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    make: Callable[[Path], object],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"needs the package {package}, which is not"):
        make(tmp_path)


class Recorder:
    """Stands for the modules tensorboardX and wandb, and for what they return."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> "Recorder":
            self.calls.append((name, *args, kwargs) if kwargs else (name, *args))
            return self

        return call


ROW = {"step": 7, "seed": 3, "prior_weight": 0.5, "loss": np.float32(0.5), "task": "x"}


def test_tensorboard_gets_a_run_per_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    module = types.SimpleNamespace(SummaryWriter=recorder.SummaryWriter)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    with RunFolder(tmp_path, sinks=[TensorBoard(tmp_path / "tb", resumed_at=5)]) as run:
        run.train(ROW)
    assert recorder.calls == [
        (
            "SummaryWriter",
            str(tmp_path / "tb/seed=3,prior_weight=0.5"),
            {"purge_step": 6},
        ),
        ("add_scalar", "train/loss", 0.5, 7),
        ("close",),
    ]


def test_wandb_resumes_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    module = types.SimpleNamespace(init=recorder.init)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for _ in range(2):
        sink = WeightsAndBiases(tmp_path, project="p", config={"a": 1})
        with RunFolder(tmp_path, sinks=[sink]) as run:
            run.evaluation(ROW)
    first, second = recorder.calls[:4], recorder.calls[4:]
    assert first == second
    assert first[0][1]["resume"] == "allow" and first[0][1]["config"] == {"a": 1}
    row = {"step": 7, "eval/seed=3,prior_weight=0.5/loss": 0.5}
    assert first[2:] == [("log", row), ("finish",)]


# Time.


def test_nested_sections_count_once() -> None:
    clock = Clock()
    shares = Shares(clock)
    with shares.section("update"):
        clock.now += 2
        with shares.section("env"):
            clock.now += 5
        clock.now += 1
    clock.now += 2
    assert shares.seconds() == {"other": 2, "update": 3, "env": 5}
    assert shares.shares() == {"other": 0.2, "update": 0.3, "env": 0.5}


def test_an_error_ends_its_section() -> None:
    clock = Clock()
    shares = Shares(clock)
    with pytest.raises(KeyError), shares.section("env"):
        clock.now += 1
        raise KeyError
    clock.now += 1
    assert shares.seconds() == {"other": 1, "env": 1}


def test_reset_starts_at_zero_also_within_a_section() -> None:
    clock = Clock()
    shares = Shares(clock)
    with shares.section("env"):
        clock.now += 1
        shares.reset()
        assert shares.shares() == {"other": 0, "env": 0}
        clock.now += 3
    assert shares.seconds() == {"other": 0, "env": 3}


# The terminal.


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_every_few_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(
        10_000, start=1000, console=Console(file=stream), clock=clock, every=5.0
    ) as progress:
        for step in range(1100, 2300, 100):
            clock.now += 1
            progress.update(step, losses={"model": 1.23456}, shares={"env": 0.4})
        progress.say("saved [bold] at 2200")
    assert stream.getvalue().splitlines() == [
        "step 1500 of 10000 (15%) | speed 100.0 env steps/s | left 1 min 25 s"
        " | loss model 1.23 | time env 40%",
        "step 2000 of 10000 (20%) | speed 100.0 env steps/s | left 1 min 20 s"
        " | loss model 1.23 | time env 40%",
        "saved [bold] at 2200",
        "step 2200 of 10000 (22%) | speed 100.0 env steps/s | left 1 min 18 s"
        " | loss model 1.23 | time env 40%",
    ]


def test_pretraining_is_shown_while_it_lasts() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(
        100, start=50, console=Console(file=stream), clock=clock, every=5.0
    ) as progress:
        for done in (10, 20, 30, 40):
            clock.now += 4
            progress.pretraining(done, 40)
        for step in (55, 60):
            clock.now += 4
            progress.update(step)
    # Neither the pretraining nor the first step, which compiles, counts for the speed.
    assert stream.getvalue().splitlines() == [
        "step 50 of 100 (50%) | pretraining 20 of 40 updates (50%), left 8 s",
        "step 55 of 100 (55%)",
        "step 60 of 100 (60%) | speed 1.2 env steps/s | left 32 s",
    ]


def test_a_training_outlives_whoever_read_its_display() -> None:
    program = (
        "import sys; from planprior.log import Progress\n"
        "with Progress(100, every=0.0) as progress:\n"
        "    for step in range(100): progress.update(step)\n"
        "print('done', file=sys.stderr)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    made = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (made.returncode, made.stderr) == (0, b"done\n")


def test_an_evaluation_is_shown_at_once() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(100, console=Console(file=stream), clock=clock) as progress:
        progress.update(0, returns={"planner": 812.34, "policy": 7.0})
    assert (
        stream.getvalue() == "step 0 of 100 (0%) | return planner 812.3, policy 7.0\n"
    )


def test_speed_forgets_the_slow_start() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(
        10**6, console=Console(file=stream), clock=clock, every=1e9
    ) as progress:
        clock.now += 300  # compiling
        progress.update(0)
        for step in range(1, 101):
            clock.now += 1
            progress.update(step * 10)
    assert "speed 10.0 env steps/s | left 1 day" not in stream.getvalue()
    assert "speed 10.0 env steps/s | left 27 h 45 min" in stream.getvalue()


def test_a_terminal_gets_a_live_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    clock, stream = Clock(), Terminal()
    with Progress(100, console=Console(file=stream), clock=clock) as progress:
        for step in range(5):
            clock.now += 0.2
            progress.update(step, returns={"planner": 1.0})
        progress.say("saved")
    shown = stream.getvalue()
    assert "planner 1.0" in shown and "saved" in shown and "4 of 100" in shown
    assert "\x1b[?25l" in shown and shown.rindex("\x1b[?25h") > shown.rindex(
        "\x1b[?25l"
    )
