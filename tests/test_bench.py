"""The benchmark: what it counts, what it times, what it says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from planprior import benchmark, cli, experiment, runtime
from planprior.commands import bench
from planprior.envs import dmc, registry
from planprior.envs.registry import task_spec
from planprior.hlo import count_kernels, moved_bytes
from planprior.spec import EnvSpec
from toys import TINY

LOOP = """HloModule jit_f, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %sine = f32[4]{0} sine(f32[4]{0} %p)
}

%body (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element((s32[], f32[4]{0}) %arg), index=0
  %x = f32[4]{0} get-tuple-element((s32[], f32[4]{0}) %arg), index=1
  %next = s32[] add(s32[] %i, s32[] %i)
  %y = f32[4]{0} fusion(f32[4]{0} %x), kind=kLoop, calls=%fused
  ROOT %out = (s32[], f32[4]{0}) tuple(s32[] %next, f32[4]{0} %y)
}

%condition (arg: (s32[], f32[4])) -> pred[] {
  %arg = (s32[], f32[4]{0}) parameter(0)
  ROOT %less = pred[] compare(s32[] %arg, s32[] %arg), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %zero = s32[] constant(0)
  %both = (s32[], /*index=1*/f32[4]{0}) tuple(s32[] %zero, f32[4]{0} %a)
  %while = (s32[], f32[4]{0}) while((s32[], f32[4]{0}) %both), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"8"}}
  %x = f32[4]{0} get-tuple-element((s32[], f32[4]{0}) %while), index=1
  ROOT %result = f32[4]{0} custom-call(f32[4]{0} %x), custom_call_target="product"
}
"""  # noqa: E501


def test_a_loop_counts_as_often_as_it_runs():
    """Eight rounds of an addition and a fusion, whose instructions are one kernel."""
    assert count_kernels(LOOP) == {"add": 8, "fusion": 8, "custom-call": 1}


SOME_ENTRIES = """HloModule jit_g, is_scheduled=true

%fused.1 (table: f32[100,8], i: s32[]) -> f32[1,8] {
  %table = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %row = f32[1,8]{1,0} dynamic-slice(%table, %i, %i), dynamic_slice_sizes={1,8}
}

%fused.2 (i: s32[], row: f32[1,8], table: f32[100,8]) -> f32[100,8] {
  %i = s32[] parameter(0)
  %row = f32[1,8]{1,0} parameter(1)
  %table = f32[100,8]{1,0} parameter(2)
  ROOT %new = f32[100,8]{1,0} dynamic-update-slice(%table, %row, %i, %i)
}

ENTRY %main (table: f32[100,8], i: s32[]) -> f32[100,8] {
  %table = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %row = f32[1,8]{1,0} fusion(%table, %i), kind=kLoop, calls=%fused.1
  ROOT %new = f32[100,8]{1,0} fusion(%i, %row, %table), kind=kLoop, calls=%fused.2
}
"""


def test_what_kernels_move():
    """An addition of one number to itself, and four numbers in and four out."""
    assert moved_bytes(LOOP) == 8 * ((4 + 4) + (16 + 16)) + (16 + 16)


def test_of_a_table_only_the_entries_that_are_looked_up_or_written_move():
    read, written = 32 + 4 + 32, 4 + 32 + 32
    assert moved_bytes(SOME_ENTRIES) == read + written
    whole = SOME_ENTRIES.replace("dynamic-slice(%table", "reduce(%table")
    assert moved_bytes(whole) == read + written + (3200 - 32)


def test_what_a_real_program_moves():
    x = jnp.ones(1000)
    text = jax.jit(lambda x, y: x * y + x).lower(x, x).compile().as_text() or ""
    assert moved_bytes(text) == 3 * 4000


def test_kernels_of_a_real_program():
    def program(x):
        return jax.lax.scan(lambda y, _: (y @ x, None), x, length=5)[0]

    text = jax.jit(program).lower(jnp.ones((8, 8))).compile().as_text()
    kernels = count_kernels(text or "")
    assert kernels["dot"] + kernels["custom-call"] + kernels["fusion"] >= 5
    assert "parameter" not in kernels and "while" not in kernels


@pytest.mark.parametrize("task", ["cartpole-swingup", "finger-spin", "lqr-lqr_6_2"])
def test_sizes_are_those_of_the_simulator(task):
    pytest.importorskip("dm_control")
    env = dmc.make(task, 0)
    assert task_spec(task) == env.spec
    env.close()


def test_every_task_has_sizes():
    assert {dmc.spec(task).name for task in dmc.TASKS} == {
        f"dm_control:{task}" for task in dmc.TASKS
    }
    assert set(dmc._SIZES) <= {*dmc.TASKS, *(t.partition("-")[0] for t in dmc.TASKS)}


SIZES = EnvSpec("toys:aim", 3, 1, 10, action_repeat=2)


@pytest.fixture(scope="module")
def subject():
    train = experiment.TrainConfig(
        task="toys:aim", method="tdmpc2", size="tiny", num_envs=2, settings=TINY
    )
    resolved = experiment.resolve(train, SIZES, accelerator=False)
    subject = benchmark.Subject(resolved, members=1, updates=2)
    subject.compile()
    return subject


def test_compiling_beforehand_is_compiling_once(subject):
    """Or the compile time would not be that of the programs that run."""
    before = subject.population.programs.act._cache_size()
    subject.run("plan")
    assert subject.population.programs.act._cache_size() - before <= 1
    programs = subject.programs
    assert all(p.compile_seconds > 0 and p.kernels for p in programs.values())
    parameters = 4 * subject.population.num_parameters()
    # Adam's two moments, and the target heads.
    assert programs["update"].memory["argument"] > 3 * parameters


def test_parts_do_what_they_say(subject):
    times = benchmark.time_parts([subject], 3)[0]
    assert set(times) == set(benchmark.PARTS)
    assert all(0 < t.least <= t.median for t in times.values())
    before = jax.tree.map(np.asarray, subject.agents.policy)
    subject.run("update")
    changed = jax.tree.map(
        lambda a, b: bool((a != b).any()), before, subject.agents.policy
    )
    assert any(jax.tree.leaves(changed))


def test_methods_that_plan_again_are_timed_with_it(monkeypatch):
    train = experiment.TrainConfig(
        task="toys:aim", method="bmpc", size="tiny",
        settings=TINY | {"reanalysis.interval": 2, "reanalysis.num_slices": 1},
    )  # fmt: skip
    resolved = experiment.resolve(train, SIZES, accelerator=False)
    subject = benchmark.Subject(resolved, members=1, updates=1)
    renewed = []
    reanalyse = subject.population.reanalyse

    def spy(agents, replay, count):
        renewed.append(count)
        return reanalyse(agents, replay, count)

    monkeypatch.setattr(subject.population, "reanalyse", spy)
    times = benchmark.time_parts([subject], 3)[0]
    assert set(times) == {*benchmark.PARTS, "reanalyse"}
    assert len(renewed) == 1 + 2  # once to warm up, then in two rounds of three
    renewed.clear()
    whole = benchmark.time_whole(subject, benchmark.idle_pool(SIZES, 1), 4)
    assert len(renewed) == 3 and all(count % 2 == 0 for count in renewed)
    found = benchmark.result(subject, times, 1e9, whole, None)
    assert found.reanalysis == (resolved.config.horizon, 2)


def test_the_whole_counts_env_steps(subject, monkeypatch):
    """5 decisions of 2 environments that repeat an action twice, in 4 seconds."""
    clock = iter([0.0, 4.0])
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    pool = benchmark.idle_pool(subject.population.spec, 2)
    whole = benchmark.time_whole(subject, pool, 5)
    assert whole.env_steps_per_second == 5.0
    assert sum(whole.shares.values()) == pytest.approx(1.0)
    assert whole.shares["plan"] > 0 and whole.shares["env"] > 0


@pytest.mark.parametrize(
    ("rate", "steps", "made"), [(0.25, 8, 2), (1.0, 5, 5), (1.5, 4, 6), (2.5, 4, 10)]
)
def test_the_whole_learns_as_often_as_a_training(rate, steps, made):
    train = experiment.TrainConfig(
        task="toys:aim", method="tdmpc2", size="tiny", settings=TINY,
        updates_per_step=rate,
    )  # fmt: skip
    resolved = experiment.resolve(train, SIZES, accelerator=False)
    subject = benchmark.Subject(resolved, members=1, updates=max(1, int(rate)))
    subject.loop(benchmark.idle_pool(SIZES, 1), steps, benchmark.Shares())
    assert subject._count == made


def test_environments_that_take_no_time_keep_the_time_limit():
    pool = benchmark.idle_pool(SIZES, 2)
    pool.reset()
    ended = [pool.step(np.zeros((2, 1))).truncated for _ in range(25)]
    assert [i for i, both in enumerate(ended, 1) if both.all()] == [10, 20]


def test_peak_is_operations_over_time():
    rate = benchmark.matmul_peak([64], seconds=0.05)
    assert 1e6 < rate < 1e15


def test_bench_prints_json_for_given_sizes(capsys, monkeypatch):
    monkeypatch.setattr(runtime, "configure", lambda **_: None)
    # Those of `subject`, whose programs are compiled.
    sizes = ["--observation-dim", "3", "--action-dim", "1", "--episode-length", "10"]
    options = ["--members", "1", "--num-envs", "2", "--method", "tdmpc2"]
    options += ["--size", "tiny", *(f"{name}={value}" for name, value in TINY.items())]
    assert cli.run(["bench", *sizes, *options, "--repeats", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["no_simulator"] == "sizes were given, so no simulator was run"
    assert report["matmul_peak"] > 0
    assert report["agent"]["planner"]["num_samples"] == TINY["planner.num_samples"]
    (result,) = report["results"]
    assert result["members"] == 1 and result["simulated"] is None
    assert result["alone"]["env_steps_per_second"] > 0
    assert set(result["programs"]) == {"plan", "update"}


def test_bench_times_what_a_training_runs(monkeypatch):
    monkeypatch.setattr(runtime, "configure", lambda **_: None)
    timed = []

    def note(experiment, *_, **__):
        timed.append(experiment.config.terminations)
        raise ValueError("enough")

    monkeypatch.setattr(benchmark, "run", note)
    asked = ["bench", "Hopper-v5", "--no-simulate"]
    with pytest.raises(ValueError, match="enough"):
        cli.run(asked)
    # As the suite of HumanoidBench does.
    proposed = {"terminations": "bootstrap"}
    monkeypatch.setattr(registry, "proposed_settings", lambda task: proposed)
    with pytest.raises(ValueError, match="enough"):
        cli.run(asked)
    assert timed == ["learned", "bootstrap"]


def test_bench_says_which_of_two_loops_it_timed():
    options = bench.Bench(task="toys_device:Aim")
    assert "those of train --loop host" in bench._loop(options)
    assert bench._loop(bench.Bench(task="pendulum-swingup")) == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["dog-run", "--members", "0"],
            "members is 0; it must be numbers of at least 1",
        ),
        (["dog-run", "--members", "1", "99999999999"], "at least 1, at most 4096"),
        (["dog-run", "--lambda", "-1"], r"lam is -1\.0; it must be at least 0"),
        (["dog-run", "--prior-weight", "2"], r"prior_weight is 2\.0; it must be in"),
        (["dog-run", "--repeats", "0"], "repeats is 0; it must be at least 1"),
        (
            ["--action-dim", "3"],
            "task is empty; name one, or give --observation-dim and --episode-length",
        ),
        (["dog-rum"], "task 'dog-rum' is unknown; the nearest is 'dm_control:dog-run'"),
        (["dog-run", "--method", "tdmpc3"], "method is 'tdmpc3'"),
        (["dog-run", "--planner.samples", "3"], "setting 'planner.samples' is unknown"),
    ],
)
def test_wrong_options_are_one_sentence(arguments, message, monkeypatch):
    monkeypatch.setattr(runtime, "configure", lambda **_: None)
    with pytest.raises(ValueError, match=message):
        cli.run(["bench", *arguments])
