"""The scripts of benchmarks/: what is run, resumed, collected and written down."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planprior import planner
from results_files import write_run
from scripts import FOLDER, load

# Stands for planprior: makes 100 env steps at a time until told to stop.
PROGRAM = """
import pathlib, signal, sys, time
options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
folder = pathlib.Path(options["--run-dir"])
folder.mkdir(exist_ok=True)
table = folder / "eval.csv"
made = int(table.read_text().split()[-1]) if table.exists() else 0
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if "bad" in sys.argv[2]:
    sys.exit(3)
table.write_text(f"step\\n{made + 100}\\n")
if "slow" in sys.argv[2] and made == 0:
    time.sleep(60)
table.write_text(f"step\\n{options['--steps']}\\n")
"""


suite, collect = load("suite"), load("collect")
kills, memory = load("kill"), load("memory")
control = load("control")


@pytest.fixture
def command(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return [sys.executable, "-S", str(program)]


def driver(tmp_path, command, seconds=60.0, **options):
    deadline = time.monotonic() + seconds
    return suite.Driver(
        tmp_path / "runs", deadline=deadline, command=command, **options
    )


def entries(*tasks):
    return [suite.Entry(task, "bmpc", "0-2", "5", 500) for task in tasks]


def test_the_sets_are_what_they_are_said_to_be():
    cpu, gpu = (suite.SUITES[name].entries() for name in ("cpu", "gpu"))
    assert len(cpu) == 8 * 3 * 3 and len({e.name for e in cpu}) == 72
    # One seed of everything comes first: a stop leaves whole tables.
    assert {e.seeds for e in cpu[:24]} == {"0"}
    assert len(gpu) == 5 * 6 and {e.seeds for e in gpu} == {"0-2"}
    assert gpu[0].arguments(Path("runs")) == [
        *("train", "dog-run", "--method", "tdmpc2", "--seeds", "0-2", "--size", "5"),
        *("--steps", "1000000", "--run-dir", "runs/dog-run-tdmpc2-5-seed0-2"),
    ]
    assert cpu[0].arguments(Path("runs"))[4:6] == ["--seed", "0"]


def test_every_method_and_option_of_the_sets_is_known():
    from planprior import methods
    from planprior.envs import dmc

    for made in suite.SUITES.values():
        assert set(made.methods) <= set(methods.METHODS)
        assert made.size in methods.SIZES
        assert {dmc.ALIASES.get(task, task) for task in made.tasks} <= set(dmc.TASKS)


def test_finished_runs_are_skipped_and_failures_do_not_stop_the_others(
    tmp_path, command, capsys
):
    first = driver(tmp_path, command)
    assert not first.run(entries("bad", "good"))
    assert first.failed == ["bad-bmpc-5-seed0-2"]
    said = capsys.readouterr().out
    assert "failed with status 3; see " in said and "bad-bmpc-5-seed0-2.log" in said
    assert driver(tmp_path, command).run(entries("good"))
    assert capsys.readouterr().out == "[1/1] good-bmpc-5-seed0-2: done\n"


def test_runs_at_the_same_time_share_the_cores(tmp_path, command, monkeypatch):
    cores = os.sched_getaffinity(0)
    dealt = suite.shares(2)
    assert all(dealt) and set.union(*dealt) == cores
    assert suite.shares(1) == [set()]
    # More runs than cores: some share one.
    assert all(suite.shares(len(cores) + 1))
    held = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, share: held.append(share))
    side_by_side = driver(tmp_path, command, jobs=2)
    assert side_by_side.run(entries("a", "b", "c"))
    assert len(held) == 3 and all(share in dealt for share in held)
    assert driver(tmp_path, command, jobs=2).run(entries("a", "b", "c"))


def test_a_run_is_told_to_save_when_the_time_is_up_and_goes_on(
    tmp_path, command, capsys
):
    began = time.monotonic()
    timed = driver(tmp_path, command, seconds=1.5)
    assert not timed.run(entries("slow", "never")) and timed.failed == []
    assert time.monotonic() - began < 30
    assert not (tmp_path / "runs" / "never-bmpc-5-seed0-2").exists()
    assert driver(tmp_path, command).run(entries("slow", "never"))
    assert "from 100 of 500 env steps" in capsys.readouterr().out


def test_runs_of_one_core_each_keep_off_the_card(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        suite, "Driver", lambda *_, environ, **__: given.append(environ)
    )
    for name in suite.SUITES:
        monkeypatch.setattr(sys, "argv", ["suite.py", name, "--folder", str(tmp_path)])
        with pytest.raises(AttributeError):  # of what stands in for the driver
            suite.main()
    assert given == [{"JAX_PLATFORMS": "cpu"}, {}]
    monkeypatch.undo()
    script = [sys.executable, "-c", "import os; print(os.environ['SOME'])"]
    environ = {"SOME": "thing", "PATH": "nowhere"}
    one = driver(tmp_path, script, environ=environ)
    assert one.environ["SOME"] == "thing" and one.environ["PATH"] == os.environ["PATH"]
    one.run(entries("a"))
    log = tmp_path / "runs" / f"{entries('a')[0].name}.log"
    assert log.read_text() == "thing\n"


def test_no_time_is_no_run(tmp_path, command):
    assert not driver(tmp_path, command, seconds=0.0).run(entries("good"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_command_passes_a_signal_on(tmp_path, command):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import suite, signal, time\n"
        f"d = suite.Driver(suite.Path({str(tmp_path / 'runs')!r}),"
        f" deadline=time.monotonic() + 60, command={command!r})\n"
        "signal.signal(signal.SIGTERM, d.stop)\n"
        "print(d.run([suite.Entry('slow', 'm', '0', '5', 500)]), d.failed)\n"
    )
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True
    )
    table = tmp_path / "runs" / "slow-m-5-seed0" / "eval.csv"
    while not table.exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert out.endswith("False []\n")


def read(table):
    with table.open() as file:
        return list(csv.DictReader(file))


def run_collect(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["collect.py", *map(str, arguments)])
    collect.main()


def test_a_population_is_collected_with_how_it_was_made(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", (0, 1), (0.25, 0.5), method="pompc")
    table = tmp_path / "results" / "table.csv"
    run_collect(monkeypatch, folder, tmp_path / "nothing", "--table", table)
    rows = read(table)
    assert len(rows) == 3 * 4
    first = rows[0]
    assert first | {
        "task": "dog-run", "method": "pompc", "size": "tiny", "seed": "0",
        "prior_weight": "0.25", "env_steps": "0", "plan_return": "0.0",
        "seconds": "0.0", "date": "2026-11-26", "commit": "0123abc", "cores": "2",
        "command": "planprior train dog-run", "jax": "0.10", "mujoco": "",
    } == first  # fmt: skip
    before = table.read_bytes()
    run_collect(monkeypatch, folder, "--table", table)
    assert table.read_bytes() == before


def test_rows_of_a_run_are_replaced_and_all_others_stay(tmp_path, monkeypatch):
    table = tmp_path / "table.csv"
    a = write_run(tmp_path / "a", (0,), method="bmpc")
    b = write_run(tmp_path / "b", (0,), method="pompc")
    run_collect(monkeypatch, a, b, "--table", table)
    longer = write_run(tmp_path / "c", (0,), method="bmpc", steps=(0, 100, 200, 300))
    run_collect(monkeypatch, longer, "--table", table)
    rows = read(table)
    steps = {m: [r["env_steps"] for r in rows if r["method"] == m]
             for m in ("bmpc", "pompc")}  # fmt: skip
    assert steps == {"bmpc": ["0", "100", "200", "300"], "pompc": ["0", "100", "200"]}


def test_two_folders_of_one_run_are_refused(tmp_path, monkeypatch, capsys):
    a, b = (write_run(tmp_path / name, (0,), method="bmpc") for name in "ab")
    with pytest.raises(SystemExit):
        run_collect(monkeypatch, a, b, "--table", tmp_path / "table.csv")
    assert "is in 2 of the folders: a table has room for one" in capsys.readouterr().err
    assert not (tmp_path / "table.csv").exists()


def test_a_run_that_goes_further_is_not_replaced(tmp_path, monkeypatch, capsys):
    table = tmp_path / "table.csv"
    whole = write_run(tmp_path / "a", (0,), method="bmpc", steps=(0, 100, 200))
    run_collect(monkeypatch, whole, "--table", table)
    before = table.read_bytes()
    shorter = write_run(tmp_path / "b", (0,), method="bmpc", steps=(0, 100))
    with pytest.raises(SystemExit):
        run_collect(monkeypatch, shorter, "--table", table)
    assert "in the table up to 200 env steps, further than" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_rows_have_the_command_that_made_them(tmp_path, monkeypatch):
    """The second went on from an older checkpoint than the first had reached."""
    table = tmp_path / "table.csv"
    resumed = [
        {"step": at, "command": f"planprior train dog-run --steps {at + 150}"}
        for at in (100, 50)
    ]
    folder = write_run(tmp_path / "a", steps=(0, 50, 100, 200), resumed=resumed)
    run_collect(monkeypatch, folder, "--table", table)
    assert [row["command"].split()[2:] for row in read(table)] == [
        ["dog-run"], ["dog-run"], *2 * [["dog-run", "--steps", "200"]]
    ]  # fmt: skip


def test_an_evaluation_made_at_a_resumption_is_of_that_start(tmp_path, monkeypatch):
    """The first was stopped within the evaluation of its last step."""
    resumed = [{"step": 200, "evaluated_at": 100, "command": "planprior train again"}]
    folder = write_run(tmp_path / "a", steps=(0, 100, 200), resumed=resumed)
    run_collect(monkeypatch, folder, "--table", tmp_path / "table.csv")
    made_by = [row["command"].split()[-1] for row in read(tmp_path / "table.csv")]
    assert made_by == ["dog-run", "dog-run", "again"]


def test_commands_do_not_say_where_planprior_is_installed():
    long = "/home/me/.venv/bin/python -m planprior train dog-run --seed 1"
    assert collect.command(long) == "planprior train dog-run --seed 1"
    assert collect.command("python my_script.py") == "python my_script.py"


def test_the_page_of_results(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    make_results = load("make_results")
    steps = (0, 100_000, 200_000)
    sweep = write_run(
        tmp_path / "s", (0, 1, 2), (0.0, 0.5, 1.0), gain=1e-6, steps=steps
    )
    alike = write_run(tmp_path / "t", method="tdmpc2", gain=1e-3, steps=steps)
    folder = tmp_path / "results"
    run_collect(monkeypatch, sweep, alike, "--table", folder / "dmcontrol.csv")
    monkeypatch.setattr(sys, "argv", ["make_results.py", "--folder", str(folder)])
    make_results.main()
    page = (folder / "README.md").read_text()
    for text in (
        *("## dog-run", "![dog-run](figures/dog-run.svg)", "| pompc w=0.5 | 200,000 |"),
        *("BMPC [bmpc]", "| lower |", "some CPU, 2 cores"),
        *("## Prior weight: pompc on dog-run", "| w = 0.5 | w = 0 |"),
        *("no difference shown", "which favours it"),
    ):
        assert text in page, text
    # 200 is beyond five runs around 102, but not beyond three that differ more.
    head = "| dog-run | tdmpc2 | tiny | 200,000 | 200.0 n=1 | "
    assert [x.removeprefix(head) for x in page.splitlines() if x.startswith(head)] == [
        "101.7 (17.7 to 185.7) n=5 | bmpc | above |",
        "66.9 (-167.7 to 301.5) n=3 | tdmpc2 | inside |",
    ]
    for figure in ("dog-run.svg", "sweep-dog-run-pompc.svg"):
        assert (folder / "figures" / figure).stat().st_size < 200_000


def loop(returns, p99):
    times = {"p50": 5.0, "p95": 6.0, "p99": p99, "max": 30.0}
    return {
        "busy_processes": 2, "load_before": 0.5, "actions": 3000, "seconds": 60.0,
        "missed": 4, "sources": {"plan": 2996, "policy": 4}, "latency_ms": times,
        "call_ms": times, "lateness_ms": times, "returns": returns,
    }  # fmt: skip


def controlled(returns, p99):
    machine = {
        "cpu_cores": 2, "cpu": "a CPU", "device": "cpu", "date": "2026-01-01T00:00:00",
        "git_commit": None, "versions": {"jax": "0.10.2", "python": "3.11"},
    }  # fmt: skip
    return {
        "task": "toys:aim", "method": "pompc", "size": "tiny", "command": "this",
        "hz": 50.0, "machine": machine, "untimed": [100.0, 50.0],
        "runs": [loop(returns, p99), loop([], p99)],
    }  # fmt: skip


def test_a_control_loop_is_held_to_what_it_promises():
    good = control.page(controlled([90.0, 54.0], 12.0))
    assert "yes (12.0 ms)" in good and "yes (96.0%)" in good and "**no**" not in good
    assert "72.0 of 75.0, 96.0% (2 episodes) | no episode ended |" in good
    assert "yes (4 missed deadlines reported)" in good
    # Of the un-timed episodes only those count that were driven too.
    bad = control.page(controlled([90.0], 21.0))
    assert "**no** (21.0 ms)" in bad and "**no** (90.0%)" in bad


def test_a_page_keeps_what_stands_around_the_table(tmp_path):
    page = tmp_path / "control.md"
    page.write_text(f"before\n{control.BEGIN}\nold\n{control.END}\nafter\n")
    control.insert(page, r"new \1")
    assert page.read_text() == (
        f"before\n{control.BEGIN}\n\nnew \\1\n\n{control.END}\nafter\n"
    )
    page.write_text("before\n")
    with pytest.raises(ValueError, match=r"has no lines '<!-- loop"):
        control.insert(page, "new")


def test_growth_of_memory_is_told_from_its_level():
    def sample(minute, mib):
        return memory.Sample(60.0 * minute, minute, mib, 10.0, 5, 9, 3, 1.0)

    flat = [sample(minute, 300.0 if minute > 10 else 100.0) for minute in range(61)]
    growing = [sample(minute, 300.0 + minute) for minute in range(61)]
    later = flat[15:]
    assert memory.growth(later, "mib") == pytest.approx(0, abs=1e-6)
    assert memory.growth(growing, "mib") == pytest.approx(60)
    assert "| mib | 300.00 | 300.00 | 300.00 | 300.00 |" in memory.report(flat)
    assert memory.report(flat).startswith("60 minutes, 60 env steps; from minute 15")


def test_a_process_and_its_children_are_seen(tmp_path):
    program = "import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', P])"
    program = f"P = 'input()'; {program}"
    command = [sys.executable, "-S", "-c", program]
    with subprocess.Popen(
        command, start_new_session=True, stdin=subprocess.PIPE
    ) as process:
        until, found = time.monotonic() + 30, None
        # A child that has just begun has no memory of its own yet.
        while not (found and found.processes == 2 and found.workers_mib > 1):
            assert time.monotonic() < until
            time.sleep(0.05)
            found = memory.look(process.pid, tmp_path, time.monotonic())
        assert found.processes == 2 and found.mib > 1 and found.workers_mib > 1
        assert found.threads == 1 and found.files >= 3
        process.communicate(b"x")
    assert memory.family(process.pid) == []


def test_kills_are_summed_up(tmp_path):
    for kill in (("0", "any moment", "40", ""), ("0", "while writing", "80", "x.tmp")):
        kills.record(tmp_path, kills.Kill(*kill))
    kills.record(tmp_path, kills.Kill("0", kills.FINISHED, "3000", ""))
    assert kills.summary(kills.known(tmp_path)) == (
        "2 kills survived (1 any moment, 1 while writing; 1 left files that were being "
        "written); 1 trainings ended bit for bit as undisturbed"
    )


def test_a_moment_comes_with_what_it_waits_for(tmp_path):
    for part in ("checkpoints", "replay"):
        (tmp_path / part).mkdir()
    second, hidden = kills.writes(tmp_path, 2, ".step_"), ".step_000000004.tmp"
    assert not second(0)
    for expected in (False, True):
        (tmp_path / "checkpoints" / hidden).mkdir()
        assert second(0) == expected
        (tmp_path / "checkpoints" / hidden).rmdir()
        assert not second(0)
    learns = kills.learns_for(tmp_path, 0.0)
    assert not learns(1)
    (tmp_path / "train.jsonl").write_text("{}\n")
    assert learns(1) and kills.passes(0.0)(1) and not kills.passes(1e9)(1)


def test_strikes_of_the_finger_are_counted():
    finger_spin = load("finger_spin")
    slow, paid = [3.0] * 2, [16.0, 20.0]
    speed = np.array([*slow, *paid, 14.0, *paid, *slow, *paid, *[0.0] * 30])
    begin, length = finger_spin.dips(speed)
    assert list(begin) == [4, 7, 11] and list(length) == [1, 2, 30]
    assert [len(x) for x in finger_spin.dips(np.full(5, 16.0))] == [0, 0]
    reward = np.where(speed < 15, 0.0, 2.0)
    told = finger_spin.describe([finger_spin.Episode(speed, reward, reward)] * 2)
    assert told.startswith("return 12; 2.0 strikes an episode, each 1.50 decisions")
    assert "from 20.0 rad/s;" in told and "stuck for 30 decisions" in told


def test_plans_for_many_states_are_timed_in_parts(monkeypatch, capsys):
    at_once = load("states_at_once")
    monkeypatch.setattr(planner, "SAMPLES_AT_ONCE", planner.SAMPLES_AT_ONCE)
    monkeypatch.setattr(at_once.runtime, "configure", lambda: None)
    options = ["--task", "pendulum-swingup", "--size", "tiny", "--states", "2"]
    options += ["--samples", "128", "0", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["states_at_once.py", *options])
    at_once.main()
    title, one, both = capsys.readouterr().out.splitlines()
    assert "bmpc, size tiny: 2 states of 128 samples; ms" in title
    assert "128 samples at once:" in one and "all samples at once:" in both


# What is compiled after the script is rounded too: a process of its own.
ROUNDED = """
import sys, jax, jax.numpy as jnp, coarse_products
sys.argv = ["coarse_products.py", "tensorfloat32", "list", "methods"]
try:
    coarse_products.main()
except SystemExit as end:
    assert not end.code
x, y = jnp.full((2, 1), 1 + 2.0**-10 + 2.0**-12), jnp.full((1, 2), 3 + 2.0**-11)
product, pull = jax.vjp(jnp.matmul, x, y)
to_x, to_y = pull(jnp.full((2, 2), 1 - 2.0**-13))
print(float(product[0, 0]), float(to_x[0, 0]), float(to_y[0, 0]))
print(float((x * y)[0, 0]), (x.astype("bfloat16") @ y.astype("bfloat16")).dtype)
"""


def test_factors_of_products_are_rounded_and_nothing_else():
    environ = {**os.environ, "PYTHONPATH": str(FOLDER)}
    done = subprocess.run(
        [sys.executable, "-c", ROUNDED],
        capture_output=True, text=True, env=environ, check=True, timeout=120,
    )  # fmt: skip
    *listed, rounded, others = done.stdout.splitlines()
    assert any("pompc_reverse" in line for line in listed)
    x = 1 + 2.0**-10
    assert rounded.split() == [str(3 * x), "6.0", str(2 * x)]
    exact = (x + 2.0**-12) * (3 + 2.0**-11)
    assert float(others.split()[0]) == pytest.approx(exact, rel=1e-7)
    assert others.split()[1] == "bfloat16"


def test_operations_with_products_are_found_in_a_program():
    profile = load("profile_ops")
    x = jnp.ones((64, 64))
    lowered = jax.jit(lambda x: jnp.tanh(x @ x) + jnp.sum(x, axis=1)[:, None]).lower(x)
    known = profile.described(lowered.compile().as_text())
    kinds = {kind for one in known.values() for kind in one.kinds}
    assert {"dot", "tanh", "reduce"} <= kinds
    # A fusion is told by what it is fused of, and never by its own name.
    assert "fusion" not in kinds
