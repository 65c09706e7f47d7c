"""Figures: what is in them, not their pixels."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from command_line import run
from planprior import figures, places, plots, report, results, run_plots
from results_files import begin_run, write_run, write_sweeps, write_table, write_values
from scripts import load

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two methods on two tasks, three seeds each; one of them at two weights."""
    folder = tmp_path_factory.mktemp("plots")
    for task in ("dog-run", "walker-walk"):
        seeds = (0, 1, 2)
        write_run(folder / f"a-{task}", seeds=seeds, task=task, method="bmpc")
        weights = (0.25, 0.75)
        write_run(folder / f"b-{task}", seeds, weights, gain=2.0, task=task)
    return folder


def legend(figure):
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def test_learning_curves(folder):
    runs = results.read([folder])
    groups = results.groups(runs)
    panels: dict = {}
    for (task, label), of in groups.items():
        panels.setdefault(task, []).append(results.summarise(of, method=label))
    bmpc = [c for c in results.published("dog-run") if c.method == "BMPC"]
    panels["dog-run"] += bmpc
    figure = plots.learning_curves(panels, {"dog-run": runs[:3]})
    first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["dog-run", "walker-walk"]
    assert first.get_xlabel() == "env steps" and first.get_ylabel() == "episode return"
    assert len(first.lines) == 4 + 3 and len(second.lines) == 3
    assert len(first.collections) == 4  # a band each
    assert legend(figure) == [
        *("bmpc, 3 seeds", "pompc w=0.25, 3 seeds", "pompc w=0.75, 3 seeds"),
        "BMPC [bmpc], 5 seeds",
    ]
    # The axis ends where our runs do, however long the published ones are.
    assert first.get_xlim()[1] < 300
    assert len({line.get_marker() for line in second.lines}) == 3


def test_no_line_leads_where_no_comparison_would_interpolate():
    steps = np.array([0.0, 100, 200, 300, 700])
    mean = np.arange(5.0)
    curve = results.Curve("m", "t", steps, mean, mean - 1, mean + 1, np.full(5, 3))
    figure = plots.learning_curves({"t": [curve]})
    (line,) = figure.axes[0].lines
    drawn = line.get_xdata()
    np.testing.assert_array_equal(drawn, [0, np.nan, 100, 200, 300, np.nan, 700])
    known = [curve.at(between) is not None for between in (50, 250, 500)]
    assert known == [False, True, False]


def test_looks_differ_by_more_than_colour():
    look = figures.looks([f"method {i}" for i in range(12)])
    assert len({(str(x.linestyle), x.marker) for x in look.values()}) == 12
    assert len({(x.color, str(x.linestyle)) for x in look.values()}) == 12


def test_no_two_of_many_lines_look_alike():
    assert len(set(figures.looks(map(str, range(100))).values())) == 100


def test_nothing_that_was_reached_is_cut_off(tmp_path):
    """One seed has no interval, and another's must not hide it."""
    lines = ["method,step,episode_reward,seed", "new,10000,300,0", "new,20000,900,0"]
    lines += [f"old,{s},{s / 100 + k},{k}" for s in (10_000, 20_000) for k in (0, 1, 2)]
    table = tmp_path / "two.csv"
    table.write_text("\n".join(lines))
    runs = results.read([table], task="dog-run")
    curves = [
        results.summarise(of, method=label)
        for (_, label), of in results.groups(runs).items()
    ]
    assert plots.learning_curves({"dog-run": curves}).axes[0].get_ylim()[1] > 900
    alone = [c for c in curves if c.method == "old"]
    figure = plots.learning_curves({"dog-run": alone}, {"dog-run": runs})
    assert figure.axes[0].get_ylim()[1] > 900


def test_a_method_that_ended_early_cuts_off_no_other(tmp_path):
    lines = ["task,method,step,episode_reward,seed", "a-a,short,10000,1,0"]
    lines += [
        f"{task},whole,{step},{step},{seed}"
        for task in ("a-a", "b-b")
        for step in (10_000, 20_000)
        for seed in (0, 1)
    ]
    table = tmp_path / "all.csv"
    table.write_text("\n".join(lines))
    groups = plots.of_every_task(results.groups(results.read([table])))
    assert {label for _, label in groups} == {"whole"}
    rng = np.random.default_rng(0)
    figure = plots.sample_efficiency(groups, scale=1.0, unit="return", rng=rng)
    assert figure.axes[0].lines[0].get_xdata()[-1] == 20_000


def test_aggregates_of_success_rates_are_called_so(tmp_path, monkeypatch, capsys):
    lines = ["task,method,step,return,success,seed"]
    lines += [
        f"{task},mine,100000,900,{0.1 * k},{k}"
        for task in ("mw-door-open", "mw-window-close")
        for k in (0, 1)
    ]
    table, picture = tmp_path / "mine.csv", tmp_path / "all.svg"
    table.write_text("\n".join(lines))
    full = tmp_path / "full"
    full.mkdir()
    rows = ["method,source,task,benchmark,metric,env_steps,return,seed"]
    rows += [
        f"TD-MPC2,tdmpc2,{task},metaworld,success,100000,{0.2 * k},{k}"
        for task in ("mw-door-open", "mw-window-close")
        for k in (0, 1)
    ]
    (full / "metaworld.csv").write_text("\n".join(rows))
    asked = [table, "--kind", "aggregate", "--output", picture]
    asked += ["--against", "TD-MPC2", "--published", full]
    code, _, error = run(monkeypatch, capsys, "plot", *map(str, asked))
    assert (code, error) == (0, "")
    assert "IQM of success rate" in picture.read_text()


def test_hours(folder):
    groups = results.groups(results.read([folder / "a-dog-run"]))
    figure = plots.wall_clock({"dog-run": {"bmpc": groups["dog-run", "bmpc"]}})
    (ax,) = figure.axes
    gap = np.nan  # nothing is told of what lies between 0 and 100 env steps
    hours = [0, gap, 10 / 3600, 20 / 3600]
    np.testing.assert_allclose(ax.lines[0].get_xdata(), hours)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [1, gap, 101, 201])
    assert ax.get_xlabel() == "wall time in hours"


def test_scores_are_of_methods_that_have_every_task(tmp_path, folder):
    more = write_table(tmp_path / "more.csv", {0: [1.0], 200: [5.0]}, task="dog-run")
    groups = results.groups(results.read([folder, more]))
    scores = plots.final_scores(groups, 200.0, 100.0)
    assert set(scores) == {"bmpc", "pompc w=0.25", "pompc w=0.75"}
    np.testing.assert_allclose(scores["bmpc"]["dog-run"], [2, 2.01, 2.02])


def test_aggregates_and_efficiency(folder):
    groups = results.groups(results.read([folder]))
    rng = np.random.default_rng(0)
    scores = plots.final_scores(groups, 200.0, 1000.0)
    figure = plots.aggregates(scores, budget=200.0, unit="return / 1000", rng=rng)
    left, right = figure.axes
    assert left.get_xlabel() == "IQM of return / 1000, 2 tasks"
    assert right.get_xlabel() == "P(better than bmpc)"
    names = [tick.get_text() for tick in right.get_yticklabels()]
    assert names == ["pompc w=0.25", "pompc w=0.75"]
    # Its gain is twice as high on every task: it always wins.
    assert right.lines[1].get_xdata()[0] == 1.0
    figure = plots.sample_efficiency(groups, scale=1000.0, unit="u", rng=rng)
    (ax,) = figure.axes
    assert ax.get_ylabel() == "IQM of u, 2 tasks" and len(ax.lines) == 3
    assert legend(figure)[0] == "bmpc, 3 seeds per task"


def test_a_sweep(folder):
    runs = [r for r in results.read([folder]) if r.method == "pompc"]
    figure = plots.sweep(runs, [100.0, 200.0])
    ax = figure.axes[0]
    assert ax.get_xlabel() == "prior weight w = λ / (1 + λ)"
    lines = [c.lines[0] for c in ax.containers]
    assert [list(line.get_xdata()) for line in lines] == [[0.25, 0.75]] * 2
    np.testing.assert_allclose(lines[1].get_ydata(), [401, 401])
    assert legend(figure) == ["at 100 env steps", "at 200 env steps"]


def test_sweeps_of_other_sizes_are_lines_of_their_own(tmp_path, monkeypatch, capsys):
    runs = results.read([write_sweeps(tmp_path / "t.csv")])
    figure = plots.sweep(runs, [100.0])
    lines = [c.lines[0] for c in figure.axes[0].containers]
    assert [list(line.get_ydata()) for line in lines] == [
        [0, 50, 100], [900, 950, 1000],
    ]  # fmt: skip
    names = [f"pompc size {size}, at 100 env steps" for size in ("tiny", "5")]
    assert legend(figure) == names
    output = tmp_path / "sweep.svg"
    options = [tmp_path / "t.csv", "--kind", "sweep", "--output", output]
    status, _, err = run(monkeypatch, capsys, "plot", *options)
    assert status == 0, err
    assert all(name in output.read_text() for name in names)


def test_the_page_of_results_does_not_take_sizes_for_seeds(tmp_path):
    make_results = load("make_results")
    runs = results.read([write_sweeps(tmp_path / "t.csv")])
    page = "".join(make_results.sweep_section(runs, tmp_path))
    for size, best in (("tiny", 50), ("5", 950)):
        assert f"## Prior weight: pompc size {size} on dog-run" in page
        assert f"(figures/sweep-dog-run-pompc-size-{size}.svg)" in page
        assert f"| w = 0.5 | w = 0 | 100 | {best}.0 n=1 |" in page
    head = "task,method,size,seed,prior_weight,env_steps,plan_return"
    rows = [f"dog-run,bmpc,{size},0,1,100000,{x}" for size, x in (("1", 10), ("5", 30))]
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]))
    page = make_results.spread_section(results.read([tmp_path / "t.csv"]))
    for size, only in (("1", 10), ("5", 30)):
        row = f"| dog-run | bmpc size {size} | {size} | 100,000 | {only}.0 n=1 |"
        assert row in page


def test_runs_on_several_devices_are_told_apart_by_their_settings(tmp_path):
    head = "task,method,size,seed,prior_weight,env_steps,plan_return,device"
    rows = ["x,bmpc,1,0,1,100,1,one card", "x,bmpc,5,0,1,100,1,another"]
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]))
    runs = results.read([tmp_path / "t.csv"])
    devices = load("make_results").devices
    assert [devices(run) for run in runs] == [{"one card"}, {"another"}]


def test_weights_of_different_settings_are_no_sweep(tmp_path, monkeypatch, capsys):
    rows = ["dog-run,pompc,tiny,0,0,100,1", "dog-run,pompc,5,0,0.5,100,2"]
    head = "task,method,size,seed,prior_weight,env_steps,plan_return"
    (tmp_path / "t.csv").write_text("\n".join([head, *rows]))
    options = [tmp_path / "t.csv", "--kind", "sweep"]
    status, _, err = run(monkeypatch, capsys, "plot", *options)
    assert status == 2 and "that differ in nothing else but the seed" in err


def test_a_sweep_says_of_which_runs_it_has_no_score(tmp_path, monkeypatch, capsys):
    weights = (0.25, 0.75)
    write_run(tmp_path / "a", (0,), weights, steps=(0, 100), task="dog-run")
    write_run(tmp_path / "b", (1,), weights, steps=(0, 100, 200), task="dog-run")
    asked = ["plot", tmp_path, "--kind", "sweep", "--output", tmp_path / "x.svg"]
    status, _, err = run(monkeypatch, capsys, *asked, "--budgets", 100, 200)
    assert (status, err.count("\n")) == (0, 1)
    assert "pompc on dog-run: 2 of 4 runs have a score at 200 env steps" in err
    status, _, err = run(monkeypatch, capsys, *asked, "--budgets", 1_000_000)
    assert status == 2
    assert "no run of the sweep has a score at 1,000,000 env steps" in err


def test_diagnostics(folder):
    run = results.read([folder / "b-dog-run"])[5]
    log = results.read_log(run)
    values = {"predicted": np.array([2.0, 4.0]), "achieved": np.array([1.0, 3.0])}
    figure = run_plots.diagnostics(run, log, values)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [
        *("episode return", "KL of the policy, per dimension"),
        *("entropy, per dimension", "effective λ and prior weight"),
        "value: +1 on average",
    ]
    returns, kl = figure.axes[:2]
    assert [line.get_label() for line in returns.lines] == ["planner", "bare policy"]
    np.testing.assert_allclose(kl.lines[0].get_ydata(), [3, 103, 203])
    assert kl.get_yscale() == "log"


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_data_make_the_same_file(folder, tmp_path, suffix):
    runs = results.read([folder / "a-dog-run"])
    made = [
        figures.save(
            plots.learning_curves({"dog-run": [results.summarise(runs)]}),
            tmp_path / str(i) / f"figure{suffix}",
        ).read_bytes()
        for i in range(2)
    ]
    assert made[0] == made[1] and len(made[0]) > 1000
    assert [p.name for p in (tmp_path / "0").iterdir()] == [f"figure{suffix}"]


@pytest.mark.parametrize(
    "kind", ["curves", "time", "aggregate", "efficiency", "diagnostics"]
)
def test_the_command_draws(kind, folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / f"{kind}.svg"
    arguments = [folder, "--kind", kind, "--output", output]
    status, out, _ = run(monkeypatch, capsys, "plot", *arguments)
    assert status == 0 and "figure: " in out
    assert "<svg" in output.read_text()


def test_the_command_draws_a_sweep_and_published_curves(
    folder, tmp_path, monkeypatch, capsys
):
    sweep = [folder, "--kind", "sweep", "--method", "pompc", "--budgets", 100, 200]
    curves = [folder, "--against", "BMPC", "--interval", "bootstrap", "--singles"]
    for arguments, text in ((sweep, "at 200 env steps"), (curves, "BMPC [bmpc]")):
        output = tmp_path / "figure.svg"
        status, _, err = run(
            monkeypatch, capsys, "plot", *arguments, "--output", output
        )
        assert status == 0, err
        assert text in output.read_text()
    status, _, err = run(
        monkeypatch, capsys, "compare", folder, "--output", tmp_path / "compare.pdf"
    )
    assert status == 0 and (tmp_path / "compare.pdf").read_bytes()[:4] == b"%PDF"


def test_wrong_figures_are_one_sentence(folder, tmp_path, monkeypatch, capsys):
    table = write_table(tmp_path / "t.csv", {0: [1.0], 200: [5.0]}, task="dog-run")
    begun = begin_run(tmp_path / "begun")
    values = "seed,prior_weight,predicted,achieved\n0,0.5,abc,1\n"
    damaged = write_values(write_run(tmp_path / "damaged"), values)
    for arguments, message in (
        ([folder, "--output", "a.gif"], "output is 'a.gif'; its name must end in .png"),
        ([folder, "--method", "x"], "method is 'x'; the runs are of bmpc, pompc"),
        ([folder, "--kind", "sweep"], "the runs are of bmpc, pompc; choose one"),
        ([table, "--kind", "sweep"], "needs runs of two prior weights or more"),
        ([table, "--kind", "time"], "the runs have no wall time: no column seconds"),
        ([table, "--scale", "0"], "scale is 0.0; it must be above 0"),
        ([table, "--scale", "nan"], "scale is nan; it must be above 0 and finite"),
        ([table, "--scale", "inf"], "scale is inf; it must be above 0 and finite"),
        ([table, "--seed", "-1"], "seed is -1; it must be in [0, 2^32 - 1]"),
        ([""], "runs has ''; each must be a run folder"),
        ([], "runs is empty; it must be run folders"),
        ([begun], "begun has no evaluations yet"),
        ([damaged, "--kind", "diagnostics"], "line 2: predicted is 'abc'; it must be"),
        ([table, "--kind", "diagnostics", "--member", "3"], "it must be in [0, 0]"),
        ([folder, "--kind", "aggregate", "--against", "BMPC"], "needs --published"),
        ([folder, "--kind", "aggregate", "--budgets", "9"], "has every task at 9"),
        (
            [folder, "--kind", "aggregate", "--budgets", "9", "10"],
            "aggregate takes one",
        ),
    ):
        status, out, err = run(monkeypatch, capsys, "plot", *arguments)
        assert status == 2 and message in err and err.count("\n") == 1 and not out


@pytest.mark.parametrize("kind", ["curves", "aggregate", "efficiency"])
def test_single_runs_have_no_interval(kind, tmp_path, monkeypatch, capsys):
    for task in ("dog-run", "walker-walk"):
        for method in ("bmpc", "pompc"):
            write_run(tmp_path / f"{task}-{method}", task=task, method=method)
    output = tmp_path / "figure.svg"
    options = [tmp_path, "--kind", kind, "--output", output]
    status, _, err = run(monkeypatch, capsys, "plot", *options)
    assert (status, err) == (0, "")
    texts = re.findall(r">([^<]*)</text>", output.read_text())
    assert "bmpc" in "".join(texts) and not [t for t in texts if "nan" in t.lower()]


@pytest.mark.parametrize("command", ["plot", "compare", "report"])
def test_a_place_that_cannot_be_written_is_found_first(
    command, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(results, "read", lambda *_, **__: pytest.fail("too late"))
    suffix = ".html" if command == "report" else ".png"
    (tmp_path / "file").write_text("")
    (tmp_path / f"folder{suffix}").mkdir()
    for place, reason in (
        (Path("/proc") / f"x{suffix}", "No such file or directory"),
        (tmp_path / "file" / f"x{suffix}", "Not a directory"),
        (tmp_path / f"folder{suffix}", "it is a folder"),
        (tmp_path / f"{'x' * 300}{suffix}", "File name too long"),
    ):
        status, _, err = run(monkeypatch, capsys, command, folder, "--output", place)
        assert status == 2 and err.count("\n") == 1
        sentence = f"output is '{place}'; it must be where a file can be written: "
        assert sentence + reason in err
    places.require_place("output", tmp_path / "new" / "x.png")
    assert not (tmp_path / "new").exists()


def test_a_file_that_cannot_be_written_is_named_itself(tmp_path):
    with pytest.raises(OSError, match=r"/x\.png cannot be written: No space left"):
        with places.replacing(tmp_path / "x.png") as aside:
            aside.write_text("half")
            raise OSError(28, "No space left on device", str(aside))
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_says_what_to_install(monkeypatch, capsys, folder):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    status, _, err = run(monkeypatch, capsys, "plot", folder)
    assert status == 1 and "pip install 'planprior[plot]'" in err


def test_a_source_in_the_label_does_not_hide_the_times(tmp_path):
    table = tmp_path / "mine.csv"
    rows = [f"{step},{step},0,lab,{step / 10}" for step in (10, 20)]
    head = "step,episode_reward,seed,source,seconds"
    table.write_text("\n".join([head, *rows]) + "\n")
    runs = results.read([table], task="walker-walk")
    [((task, label), of)] = results.groups(runs).items()
    figure = plots.wall_clock({task: {label: of}})
    assert len(figure.axes[0].lines) == 1


def test_hours_say_where_they_end_and_what_they_leave_out(
    tmp_path, monkeypatch, capsys
):
    write_run(tmp_path / "a", (0,), steps=(0, 100), task="dog-run")
    write_run(tmp_path / "b", (1,), steps=(0, 100, 200), task="dog-run")
    table = write_table(tmp_path / "others.csv", {0: [1.0], 200: [5.0]}, task="dog-run")
    asked = ["plot", tmp_path / "a", tmp_path / "b", table, "--kind", "time"]
    status, _, err = run(monkeypatch, capsys, *asked, "--output", tmp_path / "x.svg")
    assert status == 0
    assert "pompc on dog-run: the curve ends at 100 env steps, where seed 0 ends" in err
    assert "left out, since they have no wall time: runs of others\n" in err


@pytest.mark.parametrize("name", ["_mine", "a$b_{$", "x$a^2$", r"y\$z$"])
def test_names_are_shown_letter_by_letter(name, tmp_path, monkeypatch, capsys):
    table = write_table(tmp_path / f"{name}.csv", {0: [1.0], 200: [5.0]})
    output = tmp_path / "x.svg"
    asked = ["plot", table, "--task", "dog-run", "--output", output]
    status, _, err = run(monkeypatch, capsys, *asked)
    assert status == 0, err
    assert f"{name}, 1 seed<" in output.read_text()


def test_long_names_leave_room_for_what_is_told_of_them():
    names = [f"pompc planner.num_samples=256 planner.horizon=5 size {s}" for s in "15"]
    scores = {
        name: {task: np.arange(3.0) + i for task in ("dog-run", "walker-walk")}
        for i, name in enumerate(names)
    }
    rng = np.random.default_rng(0)
    figure = plots.aggregates(scores, budget=100.0, unit="return", rng=rng)
    figure.draw_without_rendering()
    left, right = (ax.get_window_extent() for ax in figure.axes)
    assert min(left.width, right.width) > 0.25 * figure.bbox.width
    of_left, of_right = (ax.get_tightbbox() for ax in figure.axes)
    assert of_left.x1 <= of_right.x0 and of_right.x1 <= figure.bbox.width
    for ax in figure.axes:
        names_of = [text.get_window_extent() for text in ax.get_yticklabels()]
        assert not any(above.overlaps(below) for above, below in pairwise(names_of))
    assert (
        figure.axes[1].get_xlabel().replace("\n", " ") == f"P(better than {names[0]})"
    )


def test_figures_over_several_tasks_say_which_seed_ends_them(
    tmp_path, monkeypatch, capsys
):
    for task, steps in (("dog-run", (0, 100)), ("walker-walk", (0, 100, 200))):
        write_run(tmp_path / task, (0, 1), steps=steps, task=task, method="bmpc")
    told = "at 100 env steps, where seed 0 of bmpc on dog-run ends; others go on to 200"

    def said(*options):
        asked = ("plot", tmp_path, *options, "--output", tmp_path / "x.png")
        status, _, err = run(monkeypatch, capsys, *asked)
        assert status == 0
        return err

    assert f"scores are taken {told}" in said("--kind", "aggregate")
    assert f"curves end {told}" in said("--kind", "efficiency")
    write_run(
        tmp_path / "longer", (2,), steps=(0, 100, 200), task="dog-run", method="bmpc"
    )
    err = said("--kind", "aggregate", "--budgets", "200")
    assert "bmpc on dog-run: 1 of 3 runs have a score at 200 env steps" in err
    assert "walker-walk" not in err


def test_seeds_that_end_early_are_told_of(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "a", (0,), steps=(0, 100))
    write_run(tmp_path / "b", (1,), steps=(0, 100, 200))
    output = tmp_path / "[x]y.png"
    status, out, err = run(monkeypatch, capsys, "plot", tmp_path, "--output", output)
    assert status == 0 and "[x]y.png" in out
    assert (
        "the curve ends at 100 env steps, where seed 0 ends; others go on to 200" in err
    )
    page = report.page(results.read([tmp_path]))
    assert "the curve ends at 100 env steps" in page
    arguments = ("plot", tmp_path, "--kind", "sweep", "--budgets", "0")
    status, _, err = run(monkeypatch, capsys, *arguments)
    assert status and "budgets is (0,); each must be at least 1" in err
