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
    # Another training in a folder of the same name is another run.
    recorder.calls.clear()
    WeightsAndBiases(tmp_path, project="p", config={"a": 1}, began="today")
    assert recorder.calls[0][1]["id"] != first[0][1]["id"]
