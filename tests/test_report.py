"""The page about runs: what is in it, and that it needs nothing else."""

import re
from dataclasses import replace

import numpy as np
import pytest

from command_line import run
from planprior import plots, report, results
from planprior.results import Run
from results_files import begin_run, write_run, write_values

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    steps = (0, 100_000, 200_000)
    resumed = [{"step": 100_000, "date": "2026-11-27", "command": "planprior train"}]
    for task in ("dog-run", "walker-walk"):
        write_run(
            folder / task, (0, 1), (0.25, 0.75), gain=1e-3, steps=steps, task=task,
            resumed=resumed,
        )  # fmt: skip
    return folder


def test_the_page_has_every_section_and_needs_nothing_else(
    folder, tmp_path, monkeypatch, capsys
):
    (folder / "dog-run" / "film.gif").write_bytes(b"GIF89a")
    config = (folder / "dog-run" / "config.json").read_text()
    risky = config.replace("some CPU", "<script>alert(1)</script>")
    (folder / "dog-run" / "config.json").write_text(risky)
    output = tmp_path / "page.html"
    status, out, err = run(monkeypatch, capsys, "report", folder, "--output", output)
    assert status == 0, err
    assert "report: " in out
    page = output.read_text()
    sections = re.findall(r"<h2>(.*?)</h2>", page)
    assert sections == [
        *("Summary", "Curves", "Published", "Several tasks", "Prior weight"),
        *("Diagnostics", "Films", "Configuration"),
    ]
    # Nothing is fetched: every source is inside, and there are no scripts.
    sources = re.findall(r'(?:src|href)="([^"]{0,20})', page)
    assert all(s.startswith(("data:", "#")) for s in sources) and len(sources) > 12
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert 'src="data:image/gif;base64,R0lGODlh"' in page
    for text in (
        *(
            "pompc w=0.25",
            "BMPC [bmpc]",
            "200,000",
            "0123abc",
            "planprior train dog-run",
            "resumed at 100,000 env steps",
        ),
        *("action repeat 2", "spec.action_repeat", '<span class="verdict lower">lower'),
    ):
        assert text in page, text


def tasks_of(*names, success=None):
    """Runs of tasks that were evaluated once, at 100 env steps."""
    at, rates = np.array([100.0]), None if success is None else np.array([success])
    return [
        Run(task, "pompc", seed, at, np.array([500.0]), successes=rates)
        for task in names
        for seed in ("0", "1")
    ]


def test_tasks_of_different_scales_are_not_averaged(monkeypatch):
    shown = []

    def draw(scores, *, unit, **_):
        shown.append((sorted(scores["pompc"]), unit))

    monkeypatch.setattr(plots, "aggregates", draw)
    monkeypatch.setattr(report, "_figure", lambda figure, caption: caption)
    dmc = tasks_of("dog-run", "walker-walk")
    gym = tasks_of("Hopper-v5", "Pendulum-v1")
    reach = tasks_of("mw-reach", "mw-push", success=0.5)

    def told(runs):
        shown.clear()
        return report._several(results.groups(runs), 0), shown

    assert told(gym) == ("", []) and told([*gym, *dmc[:2]]) == ("", [])
    caption, found = told([*dmc, *gym, *reach])
    assert found == [(["dog-run", "walker-walk"], "return / 1000")]
    assert "where a task has one run there is no interval" in caption
    assert told(reach)[1] == [(["mw-push", "mw-reach"], "success rate")]


def test_weights_of_different_settings_are_no_sweep():
    one, other = tasks_of("dog-run")
    runs = [
        replace(one, prior_weight=0.0, details={"size": "tiny"}),
        replace(other, prior_weight=0.5, details={"size": "5"}),
    ]
    assert report._sweeps(runs) == ""


def test_single_runs_and_one_that_has_only_begun(tmp_path, monkeypatch, capsys, caplog):
    steps = (0, 100_000, 200_000)
    for task in ("dog-run", "walker-walk"):
        write_run(tmp_path / "runs" / task, gain=1e-3, steps=steps, task=task)
    begun = begin_run(tmp_path / "runs" / "begun")
    output = tmp_path / "page.html"
    options = [tmp_path / "runs", "--output", output]
    status, _, err = run(monkeypatch, capsys, "report", *options)
    assert (status, err) == (0, "")
    assert caplog.messages == [f"{begun} has no evaluations yet and is left out"]
    page = re.sub(r'src="[^"]*"', "", output.read_text())
    assert "Several tasks" in page and "none: too few seeds" in page
    assert not re.search(r"\bnan\b", page.lower())


def test_wrong_reports_are_one_sentence(folder, tmp_path, monkeypatch, capsys):
    bad = write_run(tmp_path / "bad" / "run", resumed=[{"step": "x"}])
    (tmp_path / "none").mkdir()
    damaged = write_values(
        write_run(tmp_path / "damaged"), "seed,prior_weight,predicted,achieved\n0,0.5"
    )
    for arguments, message in (
        (
            [folder, "--output", "a.pdf"],
            "output is 'a.pdf'; its name must end in .html",
        ),
        ([folder, "--against", "BMCP"], "nothing of 'BMCP' is published for dog-run"),
        ([tmp_path / "none"], "no eval.csv in it"),
        ([folder, "--seed", "4294967296"], "seed is 4294967296; it must be in [0, 2^"),
        ([""], "runs has ''; each must be a run folder"),
        ([], "runs is empty; it must be run folders"),
        ([damaged], "values.csv, line 2: predicted is ''; it must be a finite number"),
        ([bad], "config.json is [{'step': 'x'}]; it must be a list of objects"),
    ):
        status, out, err = run(monkeypatch, capsys, "report", *arguments)
        assert status == 2 and message in err and err.count("\n") == 1 and not out


def test_a_source_of_which_nothing_is_known_is_said_to_be(tmp_path):
    write_run(tmp_path / "ant", steps=(0, 100_000, 200_000), task="Ant-v4")
    page = report.page(results.read([tmp_path]), against=["SimbaV2 (UTD2)"])
    assert "SimbaV2 (UTD2) [simbav2]: nothing known.</p>" in page
