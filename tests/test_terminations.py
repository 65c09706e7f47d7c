"""Ends of episodes: what is stored, learned and planned where they come apart."""

import dataclasses
import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import helpers
import toys
from planprior import launch, methods, replay
from planprior.envs.pool import Step
from planprior.experiment import TrainConfig
from planprior.planner import rollout
from planprior.population import Population
from planprior.spec import EnvSpec
from planprior.targets import Bootstrap, TargetInputs, td_target
from planprior.training import Training
from planprior.types import Transition

ENVS = 3
GAMMA = 0.9


class Run(NamedTuple):
    """A training that has ended, and what went through it."""

    training: Training
    seen: list[np.ndarray]
    resets: list[np.ndarray]


def train(folder: Path, task: str, first: int = 0, **changes) -> Run:
    """Train in environments numbered from `first` on."""
    values = {
        "method": "tdmpc2",
        "num_envs": ENVS,
        "eval_episodes": 1,
        "eval_every": 10**6,
        "log_every": 10**6,
        "size": "tiny",
    }
    values |= changes | {"settings": toys.TINY | changes.get("settings", {})}
    kept: list[Training] = []
    seen, resets = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toys.Ladder, "built", first)
        run, act = Training.run, Population.act

        def keeping(self):
            kept.append(self)
            return run(self)

        def watching(self, agents, observation, warm_start, reset, *others):
            seen.append(np.asarray(observation))
            resets.append(np.asarray(reset))
            return act(self, agents, observation, warm_start, reset, *others)

        patch.setattr(Training, "run", keeping)
        patch.setattr(Population, "act", watching)
        config = TrainConfig(task=task, run_dir=str(folder), **values)
        launch.train(config, console=Console(quiet=True))
    return Run(kept[0], seen, resets)


def stored(run: Run) -> list[Transition]:
    """The rows of each environment, in the order in which they came."""
    kept = jax.device_get(jax.tree.map(lambda x: x[0], run.training.replay))
    totals = kept.total
    assert (totals <= kept.starts.shape[1]).all(), "the oldest rows are gone"
    return [
        jax.tree.map(lambda x, i=i: x[i, : totals[i]], kept.rows)
        for i in range(len(totals))
    ]


# --- What is stored -------------------------------------------------------------------

DECISIONS = 40


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Three environments, random for ten decisions, then planned; no learning."""
    folder = tmp_path_factory.mktemp("snake") / "run"
    steps = ENVS * DECISIONS
    return train(
        folder, "toys:snake", steps=steps, seed_steps=30, updates_per_step=1e-3,
        settings={"terminations": "masked"},
    )  # fmt: skip


@pytest.mark.parametrize("which", range(ENVS))
def test_a_parallel_run_stores_what_single_runs_store(which, together, tmp_path):
    alone = train(
        tmp_path / "run", "toys:snake", which, num_envs=1, steps=DECISIONS,
        seed_steps=10, updates_per_step=1e-3, settings={"terminations": "masked"},
    )  # fmt: skip
    (single,), one = stored(alone), stored(together)[which]
    assert len(single.first) > DECISIONS + 5  # a first row for each of some episodes
    assert single.terminated.sum() > 2 and single.terminated.sum() < single.first.sum()
    for name in ("observation", "terminated", "first", "has_plan", "planned_at"):
        np.testing.assert_array_equal(getattr(one, name), getattr(single, name), name)
    # Actions are drawn per environment; the reward tells which one it was told.
    for rows in (one, single):
        told = rows.reward - 100 * which - 20 * rows.observation[:, 1]
        told = np.where(rows.first, 0.0, told)
        np.testing.assert_allclose(told, rows.action[:, 0], atol=1e-4)


def test_every_episode_has_its_own_true_last_observation(together):
    for which, rows in enumerate(stored(together)):
        starts = np.flatnonzero(rows.first)
        for start, stop in itertools.pairwise(starts):
            episode = round(float(rows.observation[start, 3]) * 2**12)
            length = 4 + (3 * episode + which) % 5
            assert stop - start == length + 1
            expected = [
                toys.ladder_state(which, t, length, episode) for t in range(length + 1)
            ]
            np.testing.assert_array_equal(rows.observation[start:stop], expected)
            ends = [*[False] * length, episode % 2 == 0]
            np.testing.assert_array_equal(rows.terminated[start:stop], ends)


def test_no_slice_mixes_two_episodes(together):
    kept = jax.tree.map(lambda x: x[0], together.training.replay)
    key = jax.random.key(0)
    batch, _ = replay.sample(kept, 500, update_count=jnp.int32(0), key=key)
    which, steps, left, episode = np.moveaxis(np.asarray(batch.observation), 2, 0)
    for constant in (which, steps + left, episode):
        assert (constant == constant[:1]).all()
    np.testing.assert_array_equal(np.diff(steps, axis=0), 0.5)
    ends = (left[1:] == 0) & (np.round(episode[1:] * 2**12) % 2 == 0)
    np.testing.assert_array_equal(batch.terminated, ends)
    assert ends[-1].any() and not ends[:-1].any()
    assert len(np.unique(episode)) > 3 and len(np.unique(which)) == ENVS


def test_with_a_continue_head_an_end_stays_for_slices_to_begin_before_it():
    spec = toys.Ladder.spec
    config, hypers = methods.make("tdmpc2", spec, "tiny")
    population = Population(spec, config, [0], [hypers], num_envs=2, capacity=100)
    state, kept = np.zeros((1, 2, 4), np.float32), population.init_replay()
    kept = population.begin(kept, state)
    for t in range(1, 6):  # the first environment ends after 2 steps, and again
        ended = np.array([t % 2 == 0, False])
        step = Step(
            observation=state[0] + t, reward=np.ones(2, np.float32), terminated=ended,
            truncated=np.zeros(2, bool), reset_observation=state[0] - t, begun=ended,
            episode_return=np.zeros(2), episode_length=np.full(2, t),
            success=np.zeros(2, bool),
        )  # fmt: skip
        kept = population.add(
            kept, population.act_randomly(t), population.seen(step), 0
        )
    one = jax.tree.map(lambda x: np.asarray(x[0, 0]), kept)
    assert population.programs.rows_after_end == config.horizon - 1 == 2
    assert one.rows.observation[:12, 0].tolist() == [
        0,
        1,
        2,
        2,
        2,
        -2,
        3,
        4,
        4,
        4,
        -4,
        5,
    ]
    assert one.rows.reward[:12].tolist() == [0, 1, 1, 0, 0] * 2 + [0, 1]
    assert one.rows.terminated[:12].tolist() == [*[False] * 2, *[True] * 3] * 2 + [
        *[False] * 2
    ]
    # Both real states of an episode begin a slice, the end and what follows do not.
    assert one.starts[: one.starts_added].tolist() == [0, 1, 5, 6]
    assert kept.total[0, 1] == 6


def test_warm_starts_are_dropped_where_an_episode_begins_and_nowhere_else(together):
    assert len(together.resets) == DECISIONS - 10
    begun = [observation[..., 1] == 0 for observation in together.seen]
    assert (np.stack(begun).sum(axis=(0, 1)) > 2).all()
    assert any(row.any() and not row.all() for row in begun)
    np.testing.assert_array_equal(np.stack(together.resets), np.stack(begun))


def test_a_reset_environment_plans_as_if_nothing_had_been_before(together):
    population, agents = together.training.population, together.training.agents
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(1, ENVS, 4)).astype(np.float32)
    warm = jnp.asarray(rng.uniform(-1, 1, (1, ENVS, 3, 1)), jnp.float32)
    which = jnp.asarray([[True, False, True]])
    nowhere = jnp.zeros_like(which)
    reset, _ = population.act(agents, seen, warm, which, 7)
    kept, _ = population.act(agents, seen, warm, nowhere, 7)
    cold, _ = population.act(agents, seen, jnp.zeros_like(warm), nowhere, 7)
    for i, other in enumerate((cold, kept, cold)):
        np.testing.assert_array_equal(reset.warm_start[0, i], other.warm_start[0, i])
    assert (np.asarray(kept.warm_start) != cold.warm_start).any(axis=(0, 2, 3)).all()


# --- What is learned ------------------------------------------------------------------


def targets(kind: str, terminations: str, terminated: bool) -> jax.Array:
    """Targets of random states, all of whose steps end the episode, or none."""
    name = "tdmpc2" if kind == "q" else "bmpc"
    config, hypers = helpers.method(name)
    config = dataclasses.replace(config, terminations=terminations)
    made = helpers.setup(config, hypers)
    model, batch = made.state.model, made.batch
    z = jax.vmap(jax.vmap(model.encode))(batch.observation)
    ends = jnp.full(batch.terminated.shape, terminated)
    eps = jax.random.normal(jax.random.key(0), batch.action.shape)
    steps = TargetInputs(z[:-1], z[1:], batch.reward, ends, eps)
    heads = made.state.target_heads
    zero = jnp.zeros(())
    to = Bootstrap(
        model, heads, made.state.policy, made.state.prior, zero, made.hypers, config
    )
    return td_target(to, steps)


@pytest.mark.parametrize("terminations", ["masked", "learned"])
def test_after_an_end_there_is_no_value(terminations):
    reward = helpers.replay(helpers.method("tdmpc2")[0]).reward
    np.testing.assert_array_equal(targets("q", terminations, True), reward)
    assert (targets("q", terminations, False) != reward).all()


@pytest.mark.parametrize("kind", ["q", "v"])
def test_bootstrapping_ignores_ends(kind):
    ended, going_on = (targets(kind, "bootstrap", end) for end in (True, False))
    np.testing.assert_array_equal(ended, going_on)
    np.testing.assert_array_equal(going_on, targets(kind, "masked", False))


@pytest.mark.parametrize("method", ["bmpc", "pompc"])
def test_nothing_is_imitated_after_an_end(method):
    """Neither plans that reanalysis made there, nor what stands for random actions."""
    config, hypers = helpers.method(method)
    made = helpers.setup(dataclasses.replace(config, terminations="learned"), hypers)
    batch = made.batch
    ended = batch.terminated.at[0, 1].set(True).at[1, 1].set(True)
    after = np.zeros(ended.shape, bool)
    after[1, 1] = True
    batch = dataclasses.replace(batch, terminated=ended)
    np.testing.assert_array_equal(batch.over, after)

    def learned(planned: bool, mean: float, terminations: str):
        plan = jax.tree.map(lambda x: x.at[1, 1].set(mean), batch.plan)
        has_plan = batch.has_plan.at[1, 1].set(planned)
        seen = dataclasses.replace(batch, plan=plan, has_plan=has_plan)
        same = dataclasses.replace(made.config, terminations=terminations)
        # A head that predicts ends comes with `learned`; it is the same for all.
        state, metrics = made._replace(batch=seen, config=same).update()
        return jax.tree.leaves((state.policy, state.prior, metrics))

    one = learned(True, 0.5, "learned")
    for other in (learned(True, 0.9, "learned"), learned(False, 0.5, "learned")):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)
    # Where nothing is stored after an end, such a row is one like any.
    pairs = zip(learned(True, 0.5, "masked"), learned(True, 0.9, "masked"), strict=True)
    assert any((np.asarray(x) != np.asarray(y)).any() for x, y in pairs)


@pytest.mark.parametrize("method", methods.METHODS)
def test_the_continue_head_is_there_where_episodes_can_terminate(method):
    ends = EnvSpec("toy:x", 5, 2, 100, can_terminate=True)
    for spec, terminations in ((helpers.SPEC, "masked"), (ends, "learned")):
        config, _ = methods.make(method, spec, "tiny")
        assert config.terminations == terminations


class Learned(NamedTuple):
    """What was learned of the ladders at their states; `ends` is of the next ones."""

    values: np.ndarray
    truth: np.ndarray
    ends: np.ndarray
    plans: np.ndarray


def learn(folder: Path) -> Learned:
    # Little weight on consistency, so that so small an encoder learns in seconds.
    changes = {"discount": GAMMA, "learning_rate": 3e-3}
    changes |= {"consistency_coef": 1.0, "reward_coef": 1.0, "value_coef": 1.0}
    run = train(
        folder, "toys:ladder", steps=1600, seed_steps=600, updates_per_step=0.5,
        settings=changes,
    )  # fmt: skip
    population, agents = run.training.population, run.training.agents
    state = jax.tree.map(lambda x: x[0], agents)
    alive = [(k, t) for k in range(ENVS) for t in range(4 + k)]
    seen = np.stack([toys.ladder_state(k, t, 4 + k, 100) for k, t in alive])
    truth = np.array(
        [sum(GAMMA**i * (t + i + 1) for i in range(4 + k - t)) for k, t in alive]
    )

    def value(observation):
        z = state.model.encode(observation)
        return jnp.mean(
            state.model.values(z, state.policy.family.mode(state.policy(z)))
        )

    def end(observation):
        z = state.model.encode(observation)
        action = state.policy.family.mode(state.policy(z))
        return state.model.end_logit(state.model.next(z, action))

    ends = jax.vmap(end)(seen)
    cold = population.cold_start(len(seen))
    _, told = population.act(agents, seen[None], cold, np.ones((1, len(seen)), bool), 0)
    plans = np.asarray(told["plan_value"])
    return Learned(np.asarray(jax.vmap(value)(seen)), truth, np.asarray(ends), plans)


@pytest.fixture(scope="module")
def ladders(tmp_path_factory):
    return learn(tmp_path_factory.mktemp("ladder") / "run")


def test_values_of_episodes_of_different_lengths_are_learned(ladders):
    # The last step of the shortest pays 4 and leads nowhere.
    assert ladders.truth[3] == pytest.approx(4.0)
    np.testing.assert_allclose(ladders.values, ladders.truth, rtol=0.15, atol=0.15)


def test_the_continue_head_knows_the_ends(ladders):
    last = [t == 3 + k for k in range(ENVS) for t in range(4 + k)]
    np.testing.assert_array_equal(ladders.ends > 0, last)


def test_the_planner_counts_nothing_after_an_end(ladders):
    # The plans' mean over all states; through an end they would find far more.
    assert ladders.plans[0] == pytest.approx(ladders.truth.mean(), rel=0.15)


# --- What is planned ------------------------------------------------------------------


@pytest.mark.parametrize("termination", ["threshold", "soft"])
def test_what_comes_after_a_predicted_end_counts_for_nothing(termination):
    config, hypers = helpers.method("tdmpc2")
    config = dataclasses.replace(config, terminations="learned")
    planner = dataclasses.replace(config.planner, termination=termination)
    made = helpers.setup(config, hypers)
    head = made.state.model.termination_head
    assert head is not None
    louder = dataclasses.replace(head, last=jax.tree.map(lambda x: 200 * x, head.last))
    model = dataclasses.replace(made.state.model, termination_head=louder)

    @jax.jit
    def path_of(z, actions):
        return rollout(model, z, actions, made.hypers, planner)

    @jax.jit
    def step(z, action):
        z_next = model.next(z, action)
        return model.reward(z, action), z_next, model.end_logit(z_next)

    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(40):
        z = model.encode(jnp.asarray(rng.normal(size=5), jnp.float32))
        actions = jnp.asarray(rng.uniform(-1, 1, (3, 2)), jnp.float32)
        path = path_of(z, actions)
        expected, alive, flags = 0.0, 1.0, []
        for t, action in enumerate(actions):
            reward, z, logit = step(z, action)
            expected += hypers.discount**t * alive * float(reward)
            logit = float(logit)
            flags.append(logit > 0)
            goes_on = 1 / (1 + np.exp(logit))
            alive *= goes_on if termination == "soft" else float(logit <= 0)
        assert float(path.reward) == pytest.approx(expected, abs=1e-4)
        weight = hypers.discount**3 * alive
        assert float(path.weight) == pytest.approx(weight, abs=1e-4)
        outcomes.add(tuple(flags))
    # Ends at once, later, never, and states that seem to have recovered from one.
    assert len(outcomes) >= 3
