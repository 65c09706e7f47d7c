import io
import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from planprior import tables
from planprior.log import RunFolder
from planprior.tables import jsonl_parts


def read_rows(path: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    lines = path.read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_rows(path)]


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


def test_of_the_frozen_those_stay_whom_the_checkpoint_knows(tmp_path: Path) -> None:
    """It is saved first and found to be NaN then, at the same step."""
    with RunFolder(tmp_path) as run:
        for seed, why in enumerate(("loss was NaN at 10", "plan was NaN at 20")):
            run.train({"step": 10 + 10 * seed, "event": "frozen", "why": why})
        run.train({"step": 20, "event": "update"})
    with RunFolder(tmp_path, resumed_at=20, frozen=["loss was NaN at 10"]):
        pass
    assert steps(tmp_path / "train.jsonl") == [10, 20]
    assert "plan was NaN" not in (tmp_path / "train.jsonl").read_text()


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
    monkeypatch.setattr(tables, "PART_BYTES", 60)  # two rows and a bit
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
