"""Runs beside published curves: numbers, verdicts, caveats, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest

from command_line import run
from planprior import comparison, results
from planprior.intervals import Estimate
from planprior.results import ResultsError
from results_files import begin_run, write_run, write_table

# BMPC on dog-run at 1 M env steps: 548.1 (474.8 to 621.4) of 5 seeds.
STEP = 1_000_000


ONE = Estimate(1.0, np.nan, np.nan, 1)


def row(low, high, mean=None, seeds=3):
    middle = (low + high) / 2 if mean is None else mean
    any_value = Estimate(1.0, 0.0, 2.0, 3)
    return comparison.Row(1.0, any_value, any_value, Estimate(middle, low, high, seeds))


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (row(0.1, 5.0), "higher"),
        (row(-5.0, -0.1), "lower"),
        (row(-0.1, 99.0), "no difference shown"),
        (row(0.0, 99.0), "no difference shown"),
        (row(np.nan, np.nan, 50.0), "none: all seeds alike"),
        (row(np.nan, np.nan, 50.0)._replace(ours=ONE), "none: too few seeds"),
        (row(np.nan, np.nan, 50.0)._replace(theirs=ONE), "none: too few seeds"),
        (row(0.0, 1.0)._replace(gap=None), "not published here"),
    ],
)
def test_a_verdict_says_no_more_than_the_interval(found, verdict):
    assert found.verdict == verdict


def test_published_curves_are_chosen_by_name():
    curves = results.published("dog-run")

    def labels(*names, own=""):
        return {c.label for c in comparison.choose(curves, names, own)}

    assert labels("bmpc") == {"BMPC [bmpc]"}
    assert labels("TD-MPC2") == {"TD-MPC2 [bmpc]", "TD-MPC2 [tdmpc2]"}
    assert labels("TD-MPC2@tdmpc2") == {"TD-MPC2 [tdmpc2]"}
    assert len(labels("SimbaV2")) == 2 and len(labels("SimbaV2 (UTD8)")) == 1
    assert labels() == labels("TD-MPC2", "BMPC")
    assert labels(own="tdmpc") == labels("TD-MPC2", "BMPC", "TD-MPC")
    assert labels("BMCP") == set()
    assert len(comparison.choose(curves, ("bmpc", "bmpc"))) == 1


def test_a_name_is_refused_where_no_task_has_it():
    dog, gym = results.published("dog-run"), results.published("HalfCheetah-v4")
    check = comparison.require_published
    with pytest.raises(ResultsError, match=r"you mean 'BMPC'\?\); there are BMPC, "):
        check(["BMCP"], {"dog-run": dog})
    with pytest.raises(ResultsError, match="nothing is published here for my-task"):
        check(["BMPC"], {"my-task": []})
    assert check(["BMPC", "TD7"], {"dog-run": dog}) == []
    told = ["nothing of 'BMPC' is published for HalfCheetah-v4, my-task"]
    many = {"dog-run": dog, "HalfCheetah-v4": gym, "my-task": []}
    assert check(["BMPC"], many) == told


def test_a_seed_that_ends_early_is_named(tmp_path):
    lines = ["task,step,return,seed"]
    lines += [f"t,{step},1,0" for step in (100, 200, 300)]
    table = tmp_path / "mine.csv"
    table.write_text("\n".join([*lines, "t,100,2,7"]))
    runs = results.read([table])
    told = "budgets end at 100 env steps, where seed 7 ends; others go on to 300"
    assert comparison.cut_short(runs) == told
    assert comparison.cut_short(runs[:1]) == ""
    assert comparison.cut_short(runs, "the curve ends").startswith(
        "the curve ends at 100"
    )


def test_returns_and_success_rates_share_no_axis(tmp_path):
    """Meta-World is published as success rates, which our runs know beside returns."""
    lines = ["task,method,step,return,success,seed"]
    lines += [
        f"mw-window-close,mine,{step},{step / 100},{min(1, step / 2e5)},{seed}"
        for step in (50_000, 100_000, 150_000)
        for seed in (0, 1)
    ]
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(lines))
    groups = {"mine": results.read([table])}
    rivals = comparison.choose(results.published("mw-window-close"), ())
    assert rivals and {rival.metric for rival in rivals} == {"success"}
    own, *others = comparison.panel(groups, rivals)
    assert (own.metric, own.mean.tolist()) == ("success", [0.25, 0.5, 0.75])
    assert others == rivals
    # Without rates there is nothing to lay beside theirs.
    table.write_text("\n".join(lines).replace("success", "other"))
    (own,) = comparison.panel({"mine": results.read([table])}, rivals)
    assert (own.metric, own.mean.tolist()) == ("return", [500, 1000, 1500])
    # Two returns against one rate among our own: that of the first.
    others = [run_ for run_ in groups["mine"] if run_.seed == "0"]
    mixed = {"a": results.read([table]), "b": results.as_metric(others, "success")}
    told, left = comparison.on_one_axis(mixed, rivals)
    assert list(told) == ["a"] and left == []


def test_budgets_are_round_and_common(tmp_path):
    steps = {step: [1.0, 2.0] for step in range(0, 250_001, 10_000)}
    table = write_table(tmp_path / "mine.csv", steps, task="dog-run")
    curve = results.summarise(results.read([table]))
    bmpc = next(c for c in results.published("dog-run") if c.method == "BMPC")
    # BMPC was evaluated every 100,000 steps, and the runs end at 250,000.
    assert comparison.common_budgets(curve, bmpc) == [100_000, 200_000, 250_000]


def mine(tmp_path, *values, name="mine.csv"):
    return write_table(tmp_path / name, {0: [0.0] * len(values), STEP: [*values]})


def told(monkeypatch, capsys, *arguments):
    status, out, err = run(monkeypatch, capsys, "compare", *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def test_the_difference_to_bmpc_by_hand(tmp_path, monkeypatch, capsys):
    table = mine(tmp_path, 690.0, 700.0, 710.0)
    options = [table, "--task", "dog-run", "--against", "BMPC", "--budgets", STEP]
    (found,) = told(monkeypatch, capsys, *options)
    (budget,) = found["budgets"]
    assert budget["ours"]["mean"] == 700 and budget["ours"]["seeds"] == 3
    # Standard errors: 10/√3 of three, and 73.3 / 2.77645 of five.
    ours, theirs = 100 / 3, (73.3 / 2.77645) ** 2
    dof = (ours + theirs) ** 2 / (ours**2 / 2 + theirs**2 / 4)
    from planprior.intervals import t_quantile

    half = t_quantile(0.975, dof) * np.sqrt(ours + theirs)
    gap = budget["difference"]
    assert gap["mean"] == pytest.approx(700 - 548.1)
    assert gap["low"] == pytest.approx(700 - 548.1 - half, abs=0.2)
    assert budget["verdict"] == "higher"
    assert found["source"] == "bmpc" and "action repeat 2" in found["caveats"]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((500.0, 540.0, 580.0), "no difference shown"),
        ((100.0, 120.0), "lower"),
        ((900.0,), "none: too few seeds"),
    ],
)
def test_verdicts_against_bmpc(tmp_path, monkeypatch, capsys, values, verdict):
    table = mine(tmp_path, *values)
    options = [table, "--task", "dog-run", "--against", "BMPC", "--budgets", STEP]
    (found,) = told(monkeypatch, capsys, *options)
    assert found["budgets"][0]["verdict"] == verdict


def test_a_run_folder_is_compared_in_words(tmp_path, monkeypatch, capsys):
    steps = (0, 100_000, 200_000, 300_000)
    folder = write_run(tmp_path / "run", seeds=(0, 1, 2), gain=1e-6, steps=steps)
    status, out, _ = run(monkeypatch, capsys, "compare", folder, "--against", "BMPC")
    assert status == 0
    for text in (
        *("dog-run: pompc against BMPC [bmpc]", "200,000", "n=3", "n=5", "lower"),
        *("pompc: action repeat 2, size tiny", "BMPC [bmpc]: action repeat 2"),
        "95 % intervals over seeds",
    ):
        assert text in out


def test_long_names_are_whole_where_no_terminal_has_a_width(
    tmp_path, monkeypatch, capsys
):
    folder = write_run(tmp_path / "run", seeds=(0, 1, 2), steps=(0, 500_000, STEP))
    name = "a method whose settings are all in its name, " * 4 + "and its end"
    rows = (folder / "eval.csv").read_text()
    (tmp_path / "mine.csv").write_text(rows)
    asked = (tmp_path / "mine.csv", "--task", "dog-run", "--name", name)
    status, out, _ = run(monkeypatch, capsys, "compare", *asked, "--against", "BMPC")
    assert status == 0
    [heading] = [
        line for line in out.splitlines() if line.lstrip().startswith("env steps")
    ]
    assert name in heading


def test_a_run_that_has_only_begun_is_left_out(tmp_path, monkeypatch, capsys, caplog):
    write_run(tmp_path / "runs" / "whole", gain=1e-3, steps=(0, 100_000))
    begun = begin_run(tmp_path / "runs" / "begun")
    (found,) = told(monkeypatch, capsys, tmp_path / "runs", "--against", "BMPC")
    assert found["budgets"][0]["ours"] == {"mean": 100.0, "seeds": 1}
    assert caplog.messages == [f"{begun} has no evaluations yet and is left out"]


def test_wrong_comparisons_are_one_sentence(tmp_path, monkeypatch, capsys):
    table = mine(tmp_path, 1.0, 2.0)
    for change, message in (
        (["--against", "BMCP"], "nothing of 'BMCP' is published for dog-run"),
        (["--budgets", "0"], "budgets is (0,); each must be at least 1"),
        (
            ["--budgets", "7000000"],
            "budget is 7,000,000 env steps; mine on dog-run has",
        ),
        (["--output", "figure.jpg"], "must end in .png, .svg or .pdf"),
        (["--published", tmp_path / "no"], "has no table (*.csv) of published curves"),
    ):
        arguments = ["compare", table, "--task", "dog-run", *change]
        status, out, err = run(monkeypatch, capsys, *arguments)
        assert status == 2 and message in err and err.count("\n") == 1 and not out


def test_a_task_that_nobody_published(tmp_path, monkeypatch, capsys):
    table = mine(tmp_path, 1.0, 2.0)
    status, out, _ = run(monkeypatch, capsys, "compare", table, "--task", "my-task")
    assert status == 0 and "nothing is published here for this task" in out
    table = mine(tmp_path, 1.0, 2.0)
    options = ["--task", "HalfCheetah-v4"]
    status, out, _ = run(monkeypatch, capsys, "compare", table, *options)
    assert status == 0 and "mine on HalfCheetah-v4: published for this task: " in out
    assert "SimbaV2 (UTD2), " in out and out.endswith("; choose by --against\n")
    table = write_table(tmp_path / "own.csv", {0: [1.0]}, task="my_envs:ant")
    status, out, _ = run(monkeypatch, capsys, "compare", table)
    assert status == 0 and "own on my_envs:ant: nothing is published" in out


def test_a_source_is_named_once():
    curve = results.Curve("X [lab] (gym)", "t", *np.zeros((5, 1)), source="lab")
    assert curve.label == "X [lab] (gym)"
    assert replace(curve, method="X").label == "X [lab]"
