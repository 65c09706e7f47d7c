"""Reading results, and the published curves in the package."""

import dataclasses
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from planprior import published_curves, results, run_files
from planprior.envs import registry
from planprior.experiment import TrainConfig
from planprior.results import ResultsError
from planprior.tables import jsonl_parts
from results_files import begin_run, write_run, write_sweeps, write_table, write_values

VALUES = "seed,prior_weight,predicted,achieved\n"


def full_folder():
    """Full published curves, where a user has them."""
    named = os.environ.get("PLANPRIOR_PUBLISHED")
    folder = Path(named or "../shared/reference_results")
    if not folder.is_dir():
        pytest.skip("PLANPRIOR_PUBLISHED names no folder of published curves")
    return folder


def some_of(folder, task, target):
    """A folder with what another says of one task."""
    for table in folder.glob("*.csv"):
        head, *rows = table.read_text().splitlines(keepends=True)
        kept = [row for row in rows if f",{task}," in row]
        (target / table.name).write_text("".join([head, *kept]))
    return target


def test_a_population_is_as_many_runs_as_members(tmp_path):
    folder = write_run(tmp_path / "run", seeds=(0, 1), weights=(0.25, 0.5))
    runs = results.read([folder])
    assert [(r.seed, r.prior_weight) for r in runs] == [
        ("0", 0.25), ("0", 0.5), ("1", 0.25), ("1", 0.5),
    ]  # fmt: skip
    first = runs[0]
    assert (first.task, first.method) == ("dog-run", "pompc")
    assert first.details == {"size": "tiny"}
    np.testing.assert_array_equal(first.env_steps, [0, 100, 200])
    np.testing.assert_array_equal(runs[2].returns, [1, 101, 201])
    assert first.policy_returns is not None and first.seconds is not None
    assert list(results.groups(runs)) == [
        ("dog-run", "pompc w=0.25"), ("dog-run", "pompc w=0.5"),
    ]  # fmt: skip


def test_another_task_is_told_what_there_is(tmp_path):
    folder = write_run(tmp_path / "run")
    sentence = r"run has no evaluations of dgo-run; it has those of dog-run$"
    with pytest.raises(ResultsError, match=sentence):
        results.read([folder], task="dgo-run")


def test_weights_have_as_many_digits_as_tell_them_apart(tmp_path):
    def named(*weights):
        folder = write_run(tmp_path / str(weights[0]), weights=weights)
        return [label for _, label in results.groups(results.read([folder]))]

    assert named(0.00596421, 0.5) == ["pompc w=0.00596", "pompc w=0.5"]
    assert named(0.12341, 0.12342) == ["pompc w=0.12341", "pompc w=0.12342"]


def test_a_mean_is_over_the_same_seeds_all_along():
    def a(seed, *steps):
        return results.Run("t", "m", seed, np.array(steps, float), np.ones(len(steps)))

    often, seldom = a("0", 10, 20, 30, 40, 50, 60, 70), a("1", 20, 40, 60)
    # At 50 the second is near enough to both sides, at 30 it is not.
    np.testing.assert_array_equal(
        results.common_grid([often, seldom]), [20, 40, 50, 60]
    )
    np.testing.assert_array_equal(results.common_grid([a("0", 1), a("1", 2)]), [1])


def test_success_is_kept_beside_the_return(tmp_path):
    folder = write_run(tmp_path / "run")
    rows = (folder / "eval.csv").read_text().splitlines()
    more = [f"{row},{x}" for row, x in zip(rows, ("success", 0, 0.5, 1), strict=True)]
    (folder / "eval.csv").write_text("\n".join(more))
    runs = results.read([folder])
    assert results.groups(runs).keys() == {("dog-run", "pompc")}
    (scored,) = results.as_metric(runs, "success")
    np.testing.assert_array_equal(scored.returns, [0, 0.5, 1])
    assert results.summarise([scored]).metric == "success"
    assert results.as_metric(runs, "return") == runs
    assert results.as_metric([scored], "return") == []


def test_further_columns_of_a_run_tell_its_members_apart(tmp_path):
    folder = write_run(tmp_path / "run", seeds=(0, 1))
    rows = (folder / "eval.csv").read_text().splitlines()
    head, *rows = [row.split(",") for row in rows]
    more = [[*head, "tau"], *([*row, x] for row in rows for x in ("0.1", "0.2"))]
    (folder / "eval.csv").write_text("\n".join(map(",".join, more)))
    labels = [label for _, label in results.groups(results.read([folder]))]
    assert labels == ["pompc tau=0.1", "pompc tau=0.2"]


def test_the_log_of_a_member(tmp_path):
    folder = write_run(tmp_path / "run", seeds=(0, 1), weights=(0.25, 0.5))
    run = results.read([folder])[3]
    log = results.read_log(run)
    assert (run.seed, run.prior_weight) == ("1", 0.5)
    np.testing.assert_array_equal(log["step"], [0, 100, 200])
    np.testing.assert_array_equal(log["kl_policy_prior"], [2, 102, 202])
    np.testing.assert_array_equal(log["prior_weight"], [0.5] * 3)
    assert np.isnan(log["value"]).all()
    (folder / "train.jsonl").unlink()
    assert results.read_log(run) == {} and results.read_values(run) == {}


def test_the_runs_of_a_sweep_differ_in_weight_and_seed_alone(tmp_path):
    table = write_sweeps(tmp_path / "sizes.csv")
    # One weight alone is no sweep; a method without a weight has none.
    with table.open("a") as file:
        file.write("dog-run,boom,tiny,0,0.1,100,7\ndog-run,other,,0,,100,7\n")
    found = results.sweeps(results.read([table]))
    assert list(found) == [("dog-run", "pompc size tiny"), ("dog-run", "pompc size 5")]
    for runs in found.values():
        assert [run.prior_weight for run in runs] == [0, 0.5, 1]


def test_a_log_in_several_parts_is_read_whole(tmp_path):
    folder = write_run(tmp_path / "run")
    (run,) = results.read([folder])
    whole, path = results.read_log(run), folder / "train.jsonl"
    first, second, *rest = path.read_text().splitlines(keepends=True)
    for name, rows in (("1", first), ("2", second), ("4", "not of this log")):
        path.with_name(f"train.{name}.jsonl").write_text(rows)
    path.write_text("".join(rest))
    assert len(rest) == 2 and len(jsonl_parts(path)) == 3
    parts = results.read_log(run)
    assert parts.keys() == whole.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name], values)


def test_labels_say_only_what_tells_runs_apart(tmp_path):
    write_run(tmp_path / "a", method="bmpc")
    write_run(tmp_path / "b", seeds=(3,), settings={"horizon": 5})
    write_run(tmp_path / "c", seeds=(4,))
    names = {label for _, label in results.groups(results.read([tmp_path]))}
    assert names == {"bmpc", "pompc", "pompc horizon=5"}


def test_a_weight_that_follows_from_the_task_tells_nothing_apart(tmp_path):
    """λ of `boom` and `tdmpc_square` grows with the number of actions."""
    write_run(tmp_path / "a", method="boom", weights=(0.1,))
    write_run(tmp_path / "b", method="boom", weights=(0.02,), task="walker-walk")
    assert {label for _, label in results.groups(results.read([tmp_path]))} == {"boom"}
    write_run(tmp_path / "c", method="boom", weights=(0.02,))
    named = list(results.groups(results.read([tmp_path])))
    assert named == [
        *(("dog-run", "boom w=0.1"), ("walker-walk", "boom w=0.02")),
        ("dog-run", "boom w=0.02"),
    ]


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("metric", ["mine (return)", "mine (success)"]),
        ("benchmark", ["mine", "mine (gym)"]),
    ],
)
def test_runs_that_are_told_apart_have_names_of_their_own(tmp_path, column, names):
    table = tmp_path / "mine.csv"
    values = {"metric": ("return", "success"), "benchmark": ("", "gym")}[column]
    lines = [f"task,step,reward,seed,{column}"]
    lines += [f"t,100,{k},{seed},{x}" for k, x in enumerate(values) for seed in (0, 1)]
    table.write_text("\n".join(lines))
    found = results.groups(results.read([table]))
    assert [label for _, label in found] == names
    assert [len(runs) for runs in found.values()] == [2, 2]


def test_tables_of_other_programs(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("step,episode_reward,seed\n0,1,7\n200,3,7\n100,2,7\n0,5,8\n")
    runs = results.read([table], task="dog-run")
    assert [(r.method, r.seed) for r in runs] == [("mine", "7"), ("mine", "8")]
    np.testing.assert_array_equal(runs[0].returns, [1, 2, 3])
    packed = tmp_path / "packed.csv.gz"
    text = "env_steps,reward,task,algorithm\n0,1,dog-walk,A\n0,2,dog-run,B\n"
    packed.write_bytes(gzip.compress(text.encode()))
    (run,) = results.read([packed], task="dm_control:dog-run")
    assert (run.method, run.seed) == ("B", "0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps,seed\n1,2\n", "one must be called episode_reward or plan_return"),
        ("", "has the columns none"),
        ("step,reward\n1,x\n", "line 2: returns is 'x'; it must be a finite number"),
        ("step,reward\n1,nan\n", "returns is 'nan'"),
        ("step,reward\n1,2\n1,3\n", "several rows of seed 0 of t on dog-run"),
        ("step,reward\n", "has no evaluations of dog-run"),
        ("step,reward\n1,\n", "line 2: returns is ''"),
        ("step,reward\n1,2\n2\n", "line 3 has 1 of 2 columns; is the file cut"),
        ("step,reward\n1,-1e308\n", r"'-1e308'; it must be in \[-1e30, 1e30\]"),
        ("step,reward\n-1,1\n", "env_steps is '-1'; it must be at least 0"),
        ("step,reward\n1e308,1\n", "line 2: env_steps is '1e308'; it must be in"),
    ],
)
def test_wrong_tables_are_one_sentence(tmp_path, text, message):
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(ResultsError, match=message):
        results.read([table], task="dog-run")


def test_a_run_that_has_only_begun_is_left_out(tmp_path):
    begun = begin_run(tmp_path / "runs" / "begun")
    with pytest.raises(ResultsError, match=r"begun has no evaluations yet$"):
        results.read([begun])
    with pytest.raises(ResultsError, match=r"runs has no evaluations yet$"):
        results.read([tmp_path / "runs"], task="dog-run")
    whole = write_run(tmp_path / "runs" / "whole")
    for paths in ([tmp_path / "runs"], [begun, whole]):
        told = []
        (run,) = results.read(paths, warn=told.append)
        assert run.path == str(whole / "eval.csv")
        assert told == [f"{begun} has no evaluations yet and is left out"]


@pytest.mark.parametrize("kept", [10, -8, None])
def test_damaged_archives_are_one_sentence(kept, tmp_path):
    """Cut off in the middle, without its checksum, or with other bytes inside."""
    text = "step,reward\n" + "".join(f"{i},{i * i}\n" for i in range(300))
    data, path = gzip.compress(text.encode()), tmp_path / "t.csv.gz"
    path.write_bytes(data[:kept] if kept else data[:20] + b"\xff" * 40 + data[60:])
    with pytest.raises(ResultsError, match=r"t\.csv\.gz cannot be read: "):
        results.read([path], task="dog-run")


def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("step,reward\n1,2\n", encoding="utf-8-sig")
    (run,) = results.read([table], task="dog-run")
    np.testing.assert_array_equal(run.returns, [2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed,achieved\n0,1\n", "seed, achieved; one must be called predicted"),
        (f"{VALUES}0,0.5,1\n", "line 2: achieved is ''; it must be a finite number"),
        (f"{VALUES}0,0.5,abc,1\n", "line 2: predicted is 'abc'; it must be a finite"),
        (f"{VALUES}0,0.5,1,1\n0,x,1,1\n", "line 3: prior_weight is 'x'; it must be a"),
        ("\0", "values.csv"),
    ],
)
def test_damaged_values_are_one_sentence(text, message, tmp_path):
    folder = write_values(write_run(tmp_path / "run"), text)
    (run,) = results.read([folder])
    with pytest.raises(ResultsError, match=message) as told:
        results.read_values(run)
    assert str(folder / "values.csv") in str(told.value)


def test_values_of_other_members_are_left_out(tmp_path):
    rows = "0,0.5,1,2\n1,0.5,3,4\n0,0.25,5,6\n0,,7,8\n"
    folder = write_values(write_run(tmp_path / "run"), VALUES + rows)
    (run,) = results.read([folder])
    values = results.read_values(run)
    assert {name: x.tolist() for name, x in values.items()} == {
        "predicted": [1.0], "achieved": [2.0],
    }  # fmt: skip


def test_an_eval_csv_of_another_program_is_a_table_like_any(tmp_path):
    """Further columns tell members apart only in a run folder of ours."""
    lines = ["episode,frame,step,episode_reward"]
    lines += [f"{k},{2 * k},{k * 1000},{k}" for k in (1, 2, 3)]
    for name in ("eval.csv", "drq.csv"):
        (tmp_path / name).write_text("\n".join(lines))
        (run,) = results.read([tmp_path / name], task="dog-run")
        assert run.returns.tolist() == [1, 2, 3]


def test_a_task_has_one_name_whatever_tables_call_it(tmp_path):
    ours = write_table(tmp_path / "a.csv", {100: [1.0]}, task="ball_in_cup-catch")
    theirs = write_table(tmp_path / "b.csv", {100: [2.0]}, task="cup-catch")
    runs = results.read([ours, theirs])
    assert {run.task for run in runs} == {"ball_in_cup-catch"}
    for name in ("cup-catch", "ball_in_cup-catch", "dm_control:cup-catch"):
        assert len(results.read([ours, theirs], task=name)) == 2


def test_what_decides_what_is_learned_tells_runs_apart(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", updates_per_step=0.25, settings={"horizon": 5})
    found = results.groups(results.read([tmp_path]))
    assert {label for _, label in found} == {
        "pompc",
        "pompc horizon=5 updates_per_step=0.25",
    }
    usual = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    assert run_files.TEACHING.items() <= usual.items()


def test_a_row_that_is_cut_off_is_no_other_run(tmp_path):
    table = write_run(tmp_path / "run") / "eval.csv"
    table.write_text(table.read_text() + "300,7\n")
    with pytest.raises(ResultsError, match=r"eval.csv, line 5 has 2 of 10 columns; is"):
        results.read([tmp_path])


def test_a_comma_within_a_number_is_told(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("step,reward,seed\n\n100,950,5,0\n")
    sentence = "line 3 has 4 of 3 columns; does a number have a comma in it"
    with pytest.raises(ResultsError, match=sentence):
        results.read([table], task="dog-run")


def test_wrong_places_are_one_sentence(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("step,reward\n1,2\n")
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    for paths, message in (
        ([tmp_path / "none"], "does not exist"),
        ([tmp_path / "a" / ".."], "seed 0 of pompc on dog-run is there twice"),
        ([table], "does not say of which task it is; give --task"),
        ([table.parent / "empty"], "no eval.csv in it"),
        ([], "runs is empty; it must be run folders"),
        ([tmp_path / "a", ""], "runs has ''; each must be a run folder"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ResultsError, match=message):
            results.read(paths)
    (tmp_path / "a" / "config.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"config\.json cannot be used"):
        results.read([tmp_path / "a"])


def test_values_between_evaluations_only_where_they_are_near():
    steps = np.array([0.0, 100, 150, 200])
    asked = np.array([0.0, 50, 100, 125, 200, 201])
    # 0 and 100 are too far apart to tell the value at 50.
    known = [True, False, True, True, True, False]
    assert results.covers(steps, asked).tolist() == known
    assert not results.covers(steps[1:], asked[:2]).any()
    assert not results.covers(steps[:0], asked).any()


def test_a_summary_has_the_seeds_that_are_there(tmp_path):
    folder = write_run(tmp_path / "run", seeds=(0, 2))
    curve = results.summarise(results.read([folder]))
    np.testing.assert_array_equal(curve.mean, [1, 101, 201])
    assert curve.seeds.tolist() == [2, 2, 2]
    at = curve.at(200)
    # Deviations ±1 of two runs: standard error 1, times t(1) = 12.706.
    assert at is not None and at.mean == 201 and at.seeds == 2
    assert at.high - at.mean == pytest.approx(12.7062, rel=1e-4)
    assert curve.at(201) is None and curve.at(150) is None


def test_published_curves_are_in_the_package():
    curves = {c.label: c for c in results.published("dog-run")}
    bmpc = curves["BMPC [bmpc]"].at(1_000_000)
    assert bmpc is not None and bmpc.mean == pytest.approx(548.1) and bmpc.seeds == 5
    assert bmpc.low < bmpc.mean < bmpc.high
    assert curves["TD-MPC2 [tdmpc2]"].env_steps[-1] >= 13_000_000
    assert results.published("dm_control:dog-run") == results.published("dog-run")
    assert results.published("no-such-task") == []
    # A function of the user's own is another task, whatever it is called.
    assert results.published("my_envs:dog_run") == []
    for ours, theirs in (("ball_in_cup-catch", "cup-catch"),
                         ("finger-turn_hard", "finger-turn-hard")):  # fmt: skip
        assert results.published(ours) == results.published(theirs) != []
    pixels = results.published("dmcontrol_pixels:walker-run")
    assert {c.benchmark for c in pixels} == {"dmcontrol_pixels"}
    states = results.published("walker-run")
    assert {c.benchmark for c in states} == {"dmcontrol"}
    (success,) = {c.metric for c in results.published("mw-assembly")}
    assert success == "success"


def test_every_published_curve_is_sound_and_has_a_source():
    data = Path(results.__file__).with_name("data")
    assert sum(path.stat().st_size for path in data.iterdir()) < 1_000_000
    for curve in published_curves.packaged():
        about = results.sources()[curve.source]
        assert about["licence"] in ("MIT", "Apache-2.0")
        assert about["repository"] and about["commit"] and about["conversion"]
        assert (np.diff(curve.env_steps) > 0).all()
        assert np.isfinite(curve.mean).all()
        many = curve.seeds > 1
        assert np.isfinite(curve.low[many]).all()
        assert (curve.low[many] <= curve.mean[many]).all()
        assert (curve.mean[many] <= curve.high[many]).all()
        assert np.isnan(curve.low[~many]).all()


def test_caveats_belong_to_their_curves():
    of = {c.label: results.caveats(c) for c in results.published("dog-run")}
    assert "action repeat 2" in of["BMPC [bmpc]"]
    assert any("not TD-MPC2's own" in text for text in of["TD-MPC2 [bmpc]"])
    assert any("no action repeat" in text for text in of["BRO (UTD2) [simbav2]"])


def test_the_packaged_table_is_what_full_curves_say(tmp_path):
    folder = some_of(full_folder(), "humanoid-walk", tmp_path)
    packaged = {c.label: c for c in results.published("humanoid-walk")}
    full = {c.label: c for c in results.published("humanoid-walk", folder)}
    assert set(packaged) == set(full)
    for label, curve in packaged.items():
        for step in (500_000, 1_000_000):
            a, b = curve.at(step), full[label].at(step)
            if a and b and b.seeds == a.seeds:
                np.testing.assert_allclose(a[:3], b[:3], atol=0.3, err_msg=label)
    runs = results.published_runs(folder, "humanoid-walk")
    own = [r for r in runs if r.method == "TD-MPC2"]
    assert {r.details["source"] for r in own} == {"tdmpc2"} and len(own) == 3


def test_functions_of_several_modules_are_several_tasks():
    assert results.plain_task("dm_control:dog-run") == "dog-run"
    assert results.plain_task("gym:my_package:MyEnv-v0") == "my_package:MyEnv-v0"
    for task in ("mod_a:make_env", "mod_b:make_env", "dog-run"):
        assert results.plain_task(task) == task


def test_all_suites_are_left_out_of_a_tasks_name():
    assert set(run_files.SUITES) == set(registry.suites())


@pytest.mark.parametrize("weight", ["nan", "inf", "-0.1", "1.5"])
def test_a_weight_that_is_none_is_one_sentence(tmp_path, weight):
    table = tmp_path / "mine.csv"
    rows = f"step,episode_reward,seed,prior_weight\n10,1,0,{weight}\n"
    table.write_text(rows)
    sentence = rf"prior_weight is '{weight}'; it must be in \[0, 1\], or left out"
    with pytest.raises(ResultsError, match=sentence):
        results.read([table], task="dog-run")


def test_values_are_of_the_member_that_has_what_is_swept(tmp_path):
    folder = tmp_path / "run"
    write_run(folder)
    rows = (folder / "eval.csv").read_text().splitlines()
    rows = [f"{rows[0]},temperature"] + [
        f"{row},{x}" for row in rows[1:] for x in (0.5, 1.0)
    ]
    (folder / "eval.csv").write_text("\n".join(rows) + "\n")
    values = (
        "step,seed,prior_weight,temperature,predicted,achieved\n200,0,0.5,1.0,3,4\n"
    )
    (folder / "values.csv").write_text(values)
    found = {
        run.details["swept"]: results.read_values(run) for run in results.read([folder])
    }
    assert found["temperature=0.5"] == {}
    assert found["temperature=1.0"]["achieved"] == [4]
    # One of before, which does not say of whom it is.
    (folder / "values.csv").write_text(values.replace(",temperature", ",other"))
    assert not any(map(results.read_values, results.read([folder])))
