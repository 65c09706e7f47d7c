"""The control loop on a clock that a test moves: what goes out, and when."""

import json
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clocks import Clock
from planprior import planner, portable
from planprior.anytime import (
    LONGEST,
    WINDOW,
    Best,
    Budget,
    CompiledPlanner,
    Level,
    Times,
)
from planprior.controller import Controller, Job, Source, ThreadWorker
from planprior.draws import Dims, KeyedDraws
from planprior.latency import Histogram

ACTOR = portable.load(Path(__file__).parent / "agents" / "format-1" / "agent")
HORIZON, PERIOD = ACTOR.config.horizon, 0.02
LEVELS = [Level(128, 3), Level(64, 3), Level(32, 3)]
STEPS = (0.004, 0.002, 0.001)
BEGIN = 0.001


class FakePlanner:
    """Its plan is 0.1, 0.2, … after one iteration, and takes the clock with it."""

    def __init__(self, clock):
        self.levels, self.clock = LEVELS, clock
        self.pace = self.begin_pace = 1.0
        self.began, self.nan = [], False
        self.fails: Exception | type[Exception] | None = None

    def begin(self, level, observation, pending, warm_start, step):
        if self.fails:
            raise self.fails
        self.began.append((level, observation, pending, warm_start))
        self.clock.now += BEGIN * self.begin_pace
        return level, np.array([-0.5], np.float32)

    def improve(self, level, search, iteration):
        self.clock.now += STEPS[level] * self.pace
        mean = 0.1 * np.arange(1, HORIZON + 1, dtype=np.float32)[:, None]
        mean = mean + 0.01 * iteration + (np.nan if self.nan else 0)
        return search, Best(mean[0], mean)

    def policy(self, observation):
        return np.array([-0.9], np.float32)

    def measure(self):
        return [Times(BEGIN, step) for step in STEPS]


class FakeWorker:
    """Carries a job out at once, on a time of its own: it begins when it is free."""

    def __init__(self, carry_out, clock):
        self.carry_out, self.clock, self.free = carry_out, clock, 0.0

    def post(self, job):
        now = self.clock.now
        self.clock.now = max(now, self.free)
        self.carry_out(job)
        self.free, self.clock.now = self.clock.now, now

    def close(self):
        return


class Loop:
    """A controller and the parts that a test looks at."""

    def __init__(self, **options):
        self.clock = Clock()
        self.planner = FakePlanner(self.clock)
        self.controller = Controller(
            ACTOR, 1 / PERIOD, planner=self.planner, clock=self.clock,
            worker=lambda carry_out: FakeWorker(carry_out, self.clock), **options,
        )  # fmt: skip

    def tick(self, observation=(0.0, 0.0, 0.0)):
        action = self.controller.act(np.array(observation))
        self.clock.now += PERIOD
        assert self.controller.last is not None
        np.testing.assert_array_equal(action, self.controller.last.action)
        return self.controller.last

    def ticks(self, count):
        return [self.tick() for _ in range(count)]


def test_a_plan_goes_out_one_period_after_its_observation():
    loop = Loop()
    first, second = loop.tick([1, 2, 3]), loop.tick([4, 5, 6])
    assert (first.source, float(first.action[0])) == (Source.FIRST, np.float32(-0.9))
    assert (second.source, second.samples, second.iterations) == ("plan", 128, 3)
    np.testing.assert_allclose(second.action, [0.12], rtol=1e-6)
    (_, seen, pending, warm), (_, seen2, pending2, warm2) = loop.planner.began
    # Planned for where the action leads that goes out meanwhile.
    np.testing.assert_array_equal(seen, [1, 2, 3])
    np.testing.assert_array_equal(pending, first.action)
    np.testing.assert_array_equal(seen2, [4, 5, 6])
    np.testing.assert_array_equal(pending2, second.action)
    assert not warm.any()
    np.testing.assert_allclose(warm2[:, 0], [0.12, 0.22, 0.32], rtol=1e-6)
    report = loop.controller.report()
    assert report["missed"] == 0 and report["sources"]["plan"] == 1
    assert report["latency_ms"]["max"] == pytest.approx(13.0)


def test_a_slow_machine_gets_fewer_samples_then_fewer_iterations_and_recovers():
    loop = Loop()
    loop.ticks(3)
    loop.planner.pace = loop.planner.begin_pace = 2.5
    slow = loop.ticks(10)
    assert {d.source for d in slow[2:]} == {Source.REDUCED}
    assert (slow[-1].samples, slow[-1].iterations) == (64, 3)
    loop.planner.pace = loop.planner.begin_pace = 6.0
    slower = loop.ticks(10)[-1]
    assert (slower.source, slower.samples) == (Source.REDUCED, 32)
    assert 1 <= slower.iterations < 3
    loop.planner.pace = loop.planner.begin_pace = 1.0
    recovered = loop.ticks(40)[-1]
    assert (recovered.source, recovered.samples) == (Source.PLAN, 128)
    assert loop.controller.report()["slowness"] < 1.5


def test_where_only_the_policy_is_ready_it_goes_out_and_counts_as_missed():
    loop = Loop()
    loop.ticks(2)
    loop.planner.pace = 1000.0
    loop.tick()
    decision = loop.tick()
    assert decision.source is Source.POLICY and decision.action[0] == np.float32(-0.5)
    assert loop.controller.report()["missed"] == 1


def test_where_nothing_is_ready_the_last_plan_goes_on_and_then_the_policy():
    loop = Loop()
    loop.ticks(2)
    loop.planner.begin_pace = 1e4
    loop.tick()
    late = loop.ticks(HORIZON)
    assert [d.source for d in late] == ["last plan continued"] * 2 + ["policy"]
    np.testing.assert_allclose([d.action[0] for d in late], [0.22, 0.32, -0.9], 1e-6)
    assert loop.controller.report()["missed"] == 3


def test_a_plan_after_a_missed_one_starts_where_the_last_left_off():
    loop = Loop()
    loop.ticks(2)
    loop.tick([np.nan, 0, 0])
    assert loop.controller.report()["bad_observations"] == 1
    assert len(loop.planner.began) == 2  # nothing was planned from it
    assert loop.tick().source is Source.CONTINUED
    warm = loop.planner.began[-1][3]
    # The last mean was for the tick before the last: one row on; the planner itself
    # then shifts by the other.
    np.testing.assert_allclose(warm[:, 0], [0.22, 0.32, 0.0], rtol=1e-6)
    assert loop.tick().source is Source.PLAN


def test_without_plan_and_observation_the_last_action_is_held():
    loop = Loop(max_rate=5.0)
    decision = loop.tick([np.inf, 0, 0])
    assert decision.source is Source.HELD and decision.action[0] == 0.0


def test_plans_that_are_not_finite_never_go_out():
    loop = Loop()
    loop.planner.nan = True
    assert [d.source for d in loop.ticks(3)][1:] == [Source.POLICY] * 2
    assert np.isfinite([d.action for d in loop.ticks(3)]).all()


def test_the_rate_of_change_is_limited_and_the_limited_action_is_planned_with():
    loop = Loop(max_rate=2.0)  # 0.04 a tick
    actions = [float(d.action[0]) for d in loop.ticks(4)]
    np.testing.assert_allclose(actions, [-0.04, 0.0, 0.04, 0.08], atol=1e-6)
    assert loop.planner.began[2][2] == np.float32(actions[2])


def test_numbers_of_numpy_do_not_change_the_kind_of_actions():
    loop = Loop(max_rate=np.float64(2.0))
    assert [one.action.dtype for one in loop.ticks(3)] == [np.float32] * 3


def test_reset_forgets_everything_of_the_last_episode():
    loop = Loop(max_rate=2.0)
    loop.ticks(3)
    loop.controller.reset()
    assert loop.controller.last is None
    decision = loop.tick()
    assert decision.source is Source.FIRST
    np.testing.assert_allclose(decision.action, [-0.04], atol=1e-6)
    assert not loop.planner.began[-1][3].any()
    assert loop.tick().source is Source.PLAN


def test_a_planner_that_breaks_leaves_the_policy_and_is_reported():
    loop = Loop()
    loop.ticks(2)
    loop.planner.fails = RuntimeError("the planner broke")
    loop.ticks(HORIZON + 1)
    assert loop.tick().source is Source.POLICY
    assert loop.controller.report()["error"] == "the planner broke"


def test_a_report_is_json_even_of_a_planner_that_never_planned():
    loop = Loop()
    loop.planner.fails = MemoryError
    loop.tick()
    told = json.loads(json.dumps(loop.controller.report(), allow_nan=False))
    assert told["error"] == "MemoryError"
    assert told["latency_ms"] == dict.fromkeys(("p50", "p95", "p99", "max"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hz": 0.0}, r"hz is 0\.0; it must be above 0"),
        ({"hz": float("nan")}, "hz is nan"),
        ({"max_rate": -1.0}, r"max_rate is -1\.0; it must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Controller(ACTOR, **options)


def test_an_observation_of_another_shape_is_refused():
    loop = Loop()
    with pytest.raises(ValueError, match=r"has shape \(2,\); toys:aim needs \(3,\)"):
        loop.controller.act(np.zeros(2))


# --- The thread -----------------------------------------------------------------------


class Blocked(FakePlanner):
    """Its iterations wait until a test lets them go."""

    def __init__(self):
        super().__init__(lambda: 0.0)
        self.clock = Clock()
        self.go, self.waiting = threading.Event(), threading.Event()

    def improve(self, level, search, iteration):
        self.waiting.set()
        assert self.go.wait(30)
        return super().improve(level, search, iteration)


def test_act_never_waits_for_the_planner():
    blocked = Blocked()
    with Controller(ACTOR, 50.0, planner=blocked) as controller:
        controller.act(np.zeros(3))
        assert blocked.waiting.wait(30)
        for _ in range(5):  # they return although the planner does not
            controller.act(np.zeros(3))
        assert controller.sources[Source.POLICY] == 5
        blocked.go.set()


def test_a_worker_skips_jobs_that_are_out_of_date():
    done, go, began = [], threading.Event(), threading.Event()

    def carry_out(job):
        began.set()
        assert go.wait(30)
        done.append(job.tick)

    worker = ThreadWorker(carry_out)
    nothing = np.zeros(1)
    jobs = [Job(tick, nothing, nothing, nothing, 0.0, 0.0) for tick in range(4)]
    worker.post(jobs[0])
    assert began.wait(30)
    for job in jobs[1:]:
        worker.post(job)
    go.set()
    while len(done) < 2:
        pass
    worker.close()
    assert done == [0, 3]


# --- The programs ---------------------------------------------------------------------


def test_one_iteration_at_a_time_is_the_planner():
    """And it plans from the state that the pending action leads to."""
    programs = CompiledPlanner(ACTOR, levels=[16], seed=3)
    seen = np.array([0.1, -0.2, 0.3], np.float32)
    pending = np.array([0.7], np.float32)
    warm = np.full((HORIZON, 1), 0.25, np.float32)
    search, policy = programs.begin(0, seen, pending, warm, 5)
    # Ticks go on where 32 bits end.
    later, _ = programs.begin(0, seen, pending, warm, 2**31 + 5)
    assert (jax.random.key_data(later.key) == jax.random.key_data(search.key)).all()
    best = None
    for i in range(programs.levels[0].iterations):
        search, best = programs.improve(0, search, i)
    model, pi = ACTOR.state.model, ACTOR.state.policy
    z = model.next(model.encode(jnp.asarray(seen)), jnp.asarray(pending))
    np.testing.assert_allclose(search.z, z, atol=1e-6)
    np.testing.assert_allclose(policy, pi.family.mode(pi(z)), atol=1e-6)
    ours, theirs = jax.random.split(jax.random.fold_in(jax.random.key(3), 5))
    config = ACTOR.config.planner
    dims = Dims(HORIZON, 1, 16, config.num_policy_trajectories, 2)

    @jax.jit
    def whole():
        draws = KeyedDraws(ours, theirs, dims)
        return planner.plan(
            model, pi, (pi,), z, jnp.asarray(warm), ACTOR.hypers.arrays(), config,
            draws=draws, explore=False,
        )  # fmt: skip

    assert best is not None
    np.testing.assert_allclose(best.mean, whole().mean, atol=1e-5)
    np.testing.assert_allclose(best.action, best.mean[0], atol=1e-6)
    np.testing.assert_allclose(
        programs.policy(seen),
        pi.family.mode(pi(model.encode(jnp.asarray(seen)))),
        atol=1e-6,
    )


def test_levels_halve_the_samples_down_to_the_elites():
    assert [level.samples for level in CompiledPlanner(ACTOR).levels] == [16, 8, 4]


# --- Budget and histogram -------------------------------------------------------------


def test_a_budget_buys_the_largest_level_that_fits():
    budget = Budget(LEVELS, [Times(BEGIN, step) for step in STEPS])
    assert [budget.choose(t) for t in (0.02, 0.0131, 0.0129, 0.0041, 0.0)] == [
        0, 0, 1, 2, 2
    ]  # fmt: skip


def test_the_pace_is_that_of_the_last_calls_and_one_stop_does_not_hide_it():
    budget = Budget(LEVELS, [Times(BEGIN, step) for step in STEPS])
    assert budget.slowness == 1.0
    budget.observe(1.0, 0.004)  # stopped for a second: counts as ten calls
    assert budget.slowness == pytest.approx((WINDOW - 1 + LONGEST) / WINDOW)
    for _ in range(WINDOW):
        budget.observe(0.004, 0.004)
    assert budget.slowness == pytest.approx(1.0)
    for _ in range(WINDOW // 2):
        budget.observe(0.012, 0.004)
    assert budget.slowness == pytest.approx(2.0)


def test_quantiles_of_a_histogram_are_right_within_its_bins():
    histogram = Histogram()
    seconds = np.random.default_rng(0).lognormal(-5, 1, 5000)
    for value in seconds:
        histogram.add(float(value))
    for share in (0.5, 0.95, 0.99):
        exact = np.quantile(seconds, share, method="inverted_cdf")
        assert exact <= histogram.quantile(share) <= exact * 1.024
    assert histogram.summary()["max"] == 1e3 * seconds.max()
    assert sum(row["count"] for row in histogram.to_json()) == len(histogram) == 5000
    histogram.add(1e9)
    histogram.add(0.0)
    assert histogram.quantile(1.0) == 1e9 or histogram.counts[-1] == 1


def test_an_empty_histogram_has_no_quantiles():
    assert np.isnan(Histogram().quantile(0.5))
