"""Values against returns: the sums by hand, what is left out, and the command."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from command_line import run
from planprior import calibration, evaluation, results
from planprior.calibration import Calibration
from planprior.results import Run

EXPORTED = Path(__file__).parent / "agents" / "format-1" / "agent"


def played(reward, terminated, discount):
    """What comes of these rewards, where 10 · t was predicted; NaN is after the end."""
    reward = np.array(reward, float)
    steps = 10.0 * np.arange(len(reward))[:, None]
    predicted = np.broadcast_to(steps, reward.shape)
    running = np.isfinite(reward)
    told = predicted, np.nan_to_num(reward), running, np.array(terminated)
    return calibration.compare(discount, *told)


def test_discounted_sums_by_hand():
    reward = np.array([[1.0, 0.0], [2.0, 0.0], [4.0, 1.0]])
    # 1 + 2/2 + 4/4, 2 + 4/2, 4; and 1/4, 1/2, 1.
    expected = [[3, 0.25], [4, 0.5], [4, 1]]
    np.testing.assert_allclose(calibration._discounted(reward, 0.5), expected)


def test_states_near_a_time_limit_are_left_out():
    # 0.2² = 0.04 is the first power of 0.2 below 0.05: the last state is left out.
    found = played([[1], [1], [5]], [False], 0.2)
    np.testing.assert_allclose(found.predicted, [0, 10])
    np.testing.assert_allclose(found.achieved, [1 + 0.2 + 5 / 25, 1 + 1])


def test_where_an_episode_terminates_nothing_is_left_out():
    # The second episode has ended after two steps.
    nan = np.nan
    found = played([[1, 1], [1, 3], [5, nan]], [False, True], 0.2)
    np.testing.assert_allclose(found.predicted, [0, 0, 10, 10])
    np.testing.assert_allclose(found.achieved, [1.4, 1.6, 2, 3])


def test_episodes_may_be_too_short():
    with pytest.raises(ValueError, match=r"discount is 0\.99; episodes of 3 decisions"):
        played([[1], [1], [5]], [False], 0.99)


def test_the_summary_by_hand():
    found = Calibration(np.array([3.0, 5.0]), np.array([1.0, 2.0]))
    assert calibration.summary(found)["value_overestimation"] == pytest.approx(2.5)


def test_a_table_about_a_checkpoint_is_beside_the_evaluations(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    one = run_dir / "checkpoints" / "step_000000100"
    one.mkdir(parents=True)
    # Without evaluations it is merely a folder of that name, with agents in it.
    assert calibration.folder_of(one) == one
    (run_dir / "eval.csv").write_text("")
    assert calibration.folder_of(one) == calibration.folder_of(run_dir) == run_dir
    monkeypatch.chdir(run_dir / "checkpoints")
    assert calibration.folder_of(Path(one.name)) == run_dir
    monkeypatch.chdir(tmp_path)
    assert calibration.folder_of(one.relative_to(tmp_path)) == Path("run")


def test_places_are_checked_before_the_evaluation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("too late"))
    agent = shutil.copytree(EXPORTED, tmp_path / "agent")
    one = shutil.copytree(EXPORTED, tmp_path / "run" / "checkpoints" / "step_000000160")
    (tmp_path / "run" / "eval.csv").write_text("")
    for folder in (agent, tmp_path / "run"):
        (folder / "values.csv").mkdir()
    for folder, option, place in (
        (agent, ["--values"], f"values is '{agent}/values.csv'"),
        (one, ["--values"], f"values is '{tmp_path}/run/values.csv'"),
        (agent, ["--video", "/proc/film.gif"], "video is '/proc/film.gif'"),
    ):
        status, out, err = run(monkeypatch, capsys, "eval", folder, *option)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"{place}; it must be where a file can be written: " in err


def test_a_film_is_made_before_the_evaluation(tmp_path, monkeypatch, capsys):
    """What does not draw is known before time is spent."""
    pytest.importorskip("imageio", reason="imageio is not installed")
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: pytest.fail("too late"))
    film = tmp_path / "film.gif"
    status, _, err = run(monkeypatch, capsys, "eval", EXPORTED, "--video", film)
    assert status == 1 and "has no render" in err and not film.exists()


def test_the_command_writes_what_the_figure_reads(tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(EXPORTED, tmp_path / "agent")
    # Episodes have ten decisions; with this all but the last six are far enough.
    monkeypatch.setattr(calibration, "NEGLIGIBLE", 0.75)
    options = ["eval", folder, "--episodes", 2, "--values", "--json"]
    status, out, err = run(monkeypatch, capsys, *options)
    assert status == 0, err
    told = json.loads(out)
    with (folder / "values.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 5 and rows[0]["step"] == "160"
    nothing = np.zeros(0)
    member = Run("aim", "pompc", "0", nothing, nothing, prior_weight=0.5,
                 path=str(folder / "eval.csv"))  # fmt: skip
    values = results.read_values(member)
    gap = float(np.mean(values["predicted"] - values["achieved"]))
    assert told["value_overestimation"] == pytest.approx(gap, rel=1e-3)
    # Another agent may take its place.
    status, _, err = run(monkeypatch, capsys, "export", EXPORTED, folder)
    assert status == 0, err
    status, _, err = run(monkeypatch, capsys, *options, "--mode", "policy")
    assert status == 2 and "mode is 'policy'; values are those of plan" in err
