"""Members: each as if it were alone, in one program."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from planprior import methods, population, programs, settings
from planprior.population import Population, member
from planprior.spec import EnvSpec
from toys import TINY

SPEC = EnvSpec("toy:x", 3, 2, 8)
ENVS = 2
SEEDS, WEIGHTS = (3, 4), (0.2, 0.7)


def build(seeds, weights, method="pompc", spec=SPEC, **options):
    config, hypers = methods.make(method, spec, "tiny")
    config, hypers = settings.apply(config, hypers, TINY)
    each = [dataclasses.replace(hypers, prior_weight=w) for w in weights]
    sizes = {"num_envs": ENVS, "capacity": 100}
    return Population(spec, config, seeds, each, **sizes, **options)


def test_compiler_options_that_xla_does_not_know_are_left_out():
    assert programs.known_options(**programs.SEQUENTIAL) == programs.SEQUENTIAL
    assert programs.known_options(xla_cpu_no_such_option=True) is None


def answers(members, count):
    """What environments answer; the members' differ."""
    for t in range(count):
        shape = (len(members), ENVS)
        draws = [np.random.default_rng([m, t]) for m in members]
        see = np.stack([d.normal(size=(2, ENVS, 3)) for d in draws]).astype(np.float32)
        yield types.SimpleNamespace(
            observation=see[:, 0].reshape(-1, 3),
            reset_observation=see[:, 1].reshape(-1, 3),
            reward=np.stack([d.normal(size=ENVS) for d in draws])
            .astype(np.float32)
            .ravel(),
            terminated=np.zeros(shape, bool).ravel(),
            acted=np.ones(shape, bool).ravel(),
            begun=np.full(shape, t % 8 == 7).ravel(),
        )


def collect(pop, members):
    replay = pop.init_replay()
    first = np.stack([np.full((ENVS, 3), 0.1 * m, np.float32) for m in members])
    replay = pop.begin(replay, first)
    for t, answer in enumerate(answers(members, 20)):
        decision = pop.act_randomly(t)
        replay = pop.add(replay, decision, pop.seen(answer), 0)
    return replay


def learn(pop, members):
    """Act, learn, reanalyse; return everything there is afterwards."""
    agents, replay = pop.init(), collect(pop, members)
    agents, _ = pop.update(agents, replay, 0, num_updates=1)
    replay = pop.reanalyse(agents, replay, 1)
    agents, metrics = pop.update(agents, replay, 1, num_updates=1)
    seen = np.stack([np.full((ENVS, 3), 0.3 * m, np.float32) for m in members])
    reset = np.tile(np.array([True, False]), (len(members), 1))
    warm = pop.cold_start() + 0.1
    decision, told = pop.act(agents, seen, warm, reset, 5)
    bare = pop.act_without_planning(agents, seen)
    return agents, replay.rows, metrics, decision, told, bare


@pytest.fixture(scope="module")
def alone():
    """One member; whose programs serve any, since all numbers are arguments."""
    return build(SEEDS[:1], WEIGHTS[:1])


@pytest.fixture(scope="module")
def solos():
    pairs = zip(SEEDS, WEIGHTS, strict=True)
    return [learn(build([s], [w]), [i]) for i, (s, w) in enumerate(pairs)]


# The loop is what `test_members.py` trains with, too.
@pytest.mark.parametrize(
    "mapping", [pytest.param("loop", marks=pytest.mark.slow), "vmap"]
)
def test_members_are_as_if_alone(solos, mapping, monkeypatch):
    if mapping == "vmap":
        monkeypatch.setattr(programs, "map_members", lambda f, num_members: jax.vmap(f))
        # Not those that were made for a loop.
        monkeypatch.setattr(population, "programs_for", programs._shared.__wrapped__)
    together = learn(build(SEEDS, WEIGHTS), [0, 1])
    for index, alone in enumerate(solos):
        ours, theirs = member(together, index), member(alone, 0)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
            ours,
            theirs,
        )
    first, second = (jax.tree.leaves(member(together[0], i)) for i in (0, 1))
    assert any(not np.allclose(a, b) for a, b in zip(first, second, strict=True))


def test_several_updates_at_once_are_the_same_as_one_by_one(alone):
    pop = alone
    replay = collect(pop, [0])
    one_by_one, metrics = pop.init(), {}
    for count in range(3):
        one_by_one, metrics = pop.update(one_by_one, replay, count, num_updates=1)
    at_once, last = pop.update(pop.init(), replay, 0, num_updates=3)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)  # noqa: E731
    jax.tree.map(compare, at_once, one_by_one)
    jax.tree.map(compare, last, metrics)


def test_on_an_accelerator_only_what_tells_has_a_branch(monkeypatch):
    """A branch makes its host wait. What is learned is the same with and without."""
    monkeypatch.setattr(population, "programs_for", programs._shared.__wrapped__)
    pop = build(SEEDS[:1], WEIGHTS[:1])
    assert pop.programs.may_tell(False)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "cuda")
        quiet, telling = (pop.programs.may_tell(tell) for tell in (False, True))
    assert (quiet, telling) == (False, True)
    assert not build(SEEDS[:1], [0.0], "tdmpc2").programs.may_tell(True)
    replay = collect(pop, [0])
    monkeypatch.setattr(pop.programs, "may_tell", lambda tell: tell)
    (agents, metrics), (others, told) = (
        pop.update(pop.init(), replay, 0, num_updates=1, tell=tell)
        for tell in (False, True)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5),
        agents,
        others,
    )
    assert float(metrics["grad_cosine"][0]) == 0 != float(told["grad_cosine"][0])


def test_reanalysis_renews_plans_that_the_next_update_reads(alone):
    pop = alone
    agents, replay = pop.init(), collect(pop, [0])
    assert not replay.rows.has_plan.any()
    replay = pop.reanalyse(agents, replay, 7)
    renewed = np.asarray(replay.rows.has_plan)
    # Two slices of three steps, which may overlap.
    assert 3 <= renewed.sum() <= 6
    assert (np.asarray(replay.rows.planned_at)[renewed] == 7).all()
    _, metrics = pop.update(agents, replay, 7, num_updates=1)
    assert 0 < float(metrics["plan_std"][0]) <= 2


def test_one_program_each(alone, solos):
    """Whatever the seeds and numbers; and one more for three updates at once."""
    run = alone.programs
    assert build(SEEDS[1:], WEIGHTS[1:]).programs is run
    other = dataclasses.replace(SPEC, name="toy:other", episode_length=9)
    assert programs.programs_for(other, alone.config, 1, ENVS) is run
    assert run.update._cache_size() <= 2
    for program in (run.act, run.add, run.reanalyse, run.act_randomly):
        assert program._cache_size() == 1


def test_random_actions_fill_the_box_and_differ():
    pop = build(SEEDS, WEIGHTS)
    actions = np.stack([np.asarray(pop.act_randomly(t).action) for t in range(200)])
    assert actions.min() < -0.95 and actions.max() > 0.95
    assert abs(actions.mean()) < 0.05
    assert len(np.unique(actions)) == actions.size


def test_a_plan_that_is_nan_freezes_its_member_and_no_other():
    pop = build(SEEDS, WEIGHTS)
    agents = pop.init()
    warm, reset = pop.cold_start(), np.ones((2, ENVS), bool)
    seen = np.full((2, ENVS, 3), 0.1, np.float32)
    healthy, _ = pop.act(agents, seen, warm, reset, 5)
    seen[1, 0, 0] = np.nan
    decision, _ = pop.act(agents, seen, warm, reset, 5)
    assert population.describe_fault(int(decision.fault[1])).startswith("an action was")
    assert int(decision.fault[0]) == 0
    for ours, theirs in zip(
        pop.fetch(decision), (decision.action, decision.fault), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for name in ("action", "warm_start", "has_plan"):
        ours, theirs = getattr(decision, name), getattr(healthy, name)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert not np.asarray(ours[1]).any()
    seen[1] = 0.1
    later, _ = pop.act(agents, seen, warm, reset, 6, decision.fault)
    assert np.array_equal(later.fault, decision.fault)
    assert not np.asarray(later.action[1]).any() and np.asarray(later.action[0]).any()
