import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planprior.log import RunFolder
from planprior.sinks import TensorBoard, WeightsAndBiases


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


class EventFile:
    """Stands for tensorboardX's `EventsWriter`."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.events = prefix, []
        self.flushed, self.full, self.closed = 0, False, False

    def write_event(self, event: Any) -> None:
        self.events.append(event)

    def flush(self) -> None:
        if self.full:
            raise OSError("no space left")
        self.flushed += 1

    def close(self) -> None:
        self.closed = True


def event_files(monkeypatch: pytest.MonkeyPatch) -> list[EventFile]:
    """Puts modules in the place of tensorboardX's; returns the files to be written."""
    files: list[EventFile] = []

    def make(prefix: str) -> EventFile:
        files.append(EventFile(prefix))
        return files[-1]

    class Message(types.SimpleNamespace):
        START, Value = 1, types.SimpleNamespace

    modules = {
        "tensorboardX": types.SimpleNamespace(),
        "tensorboardX.event_file_writer": types.SimpleNamespace(EventsWriter=make),
        "tensorboardX.proto.event_pb2": types.SimpleNamespace(
            Event=Message, SessionLog=Message
        ),
        "tensorboardX.proto.summary_pb2": types.SimpleNamespace(Summary=Message),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return files


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboardX") is None,
    reason="tensorboardX is not installed",
)
def test_tensorboards_own_files_are_written(tmp_path: Path) -> None:
    with RunFolder(tmp_path, sinks=[TensorBoard(tmp_path / "tb")]) as run:
        run.train(ROW)
    [file] = (tmp_path / "tb/seed=3,prior_weight=0.5").iterdir()
    assert b"train/loss" in file.read_bytes()


def test_what_a_package_lacks_itself_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text("import opentelemetry_of_no_one")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ImportError, match="fails: No module named 'opentelemetry_of_n"):
        WeightsAndBiases(tmp_path, project="p", config={})


def test_a_wandb_that_does_not_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("No API key\nconfigured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    with pytest.raises(ValueError, match=r"'p', but .*: No API key configured"):
        WeightsAndBiases(tmp_path, project="p", config={})


ROW = {"step": 7, "seed": 3, "prior_weight": 0.5, "loss": np.float32(0.5), "task": "x"}


def test_tensorboard_gets_a_run_per_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = event_files(monkeypatch)
    with RunFolder(tmp_path, sinks=[TensorBoard(tmp_path / "tb", resumed_at=5)]) as run:
        run.train(ROW)
    [file] = files
    assert file.prefix == str(tmp_path / "tb/seed=3,prior_weight=0.5/events")
    start, row = file.events
    assert (start.step, start.session_log.status) == (6, 1)
    [value] = row.summary.value
    assert (row.step, value.tag, value.simple_value) == (7, "train/loss", 0.5)
    assert file.flushed == 2 and file.closed


def test_a_full_disk_costs_the_curves_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, warnings = event_files(monkeypatch), []
    sinks = [TensorBoard(tmp_path / "tb")]
    with RunFolder(tmp_path, sinks=sinks, warn=warnings.append) as run:
        run.train(ROW)
        files[0].full = True
        for step in range(8, 100):
            run.train(ROW | {"step": step})
    assert warnings == ["TensorBoard failed and is left out: no space left"]
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 93


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
    # Another training in a folder of the same name is another run.
    recorder.calls.clear()
    WeightsAndBiases(tmp_path, project="p", config={"a": 1}, began="today")
    assert recorder.calls[0][1]["id"] != first[0][1]["id"]
