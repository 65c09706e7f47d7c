"""The ring buffer against a model that keeps every row it was ever given."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planprior import replay as replays
from planprior.replay import Replay, Slices
from planprior.types import Batch, Gaussian, Transition

ENVS, DIM, STEPS, BATCH, NOW = 3, 2, 90, 64, 50

# (rows per environment, horizon): the least possible, a little more, and more yet.
SIZES = [(4, 3), (4, 2), (13, 3)]
by_size = pytest.mark.parametrize(("kept", "horizon"), SIZES)
examples = settings(max_examples=20, deadline=None)


class Script(NamedTuple):
    """What happens at each step to each environment; `code` tells rows apart."""

    mask: np.ndarray
    first: np.ndarray
    code: np.ndarray

    def part(self, begin, end):
        """The same number of steps, of which only begin to end − 1 take place."""
        step = np.arange(len(self.mask))[:, None]
        inside = (step >= begin) & (step < end)
        return self._replace(mask=self.mask & inside)


class Model:
    """The rules, said plainly: episodes are lists of rows, and the last C rows stay."""

    def __init__(self, kept, horizon):
        self.kept, self.horizon = kept, horizon
        self.episodes = [[] for _ in range(ENVS)]

    def add(self, mask, first, code):
        for env in np.flatnonzero(mask):
            if first[env]:
                self.episodes[env].append([])
            self.episodes[env][-1].append(code[env])

    def codes(self, env):
        return [code for episode in self.episodes[env] for code in episode]

    def oldest(self, env):
        return max(0, len(self.codes(env)) - self.kept)

    def starts(self, env):
        found, begin = [], 0
        for episode in self.episodes[env]:
            last = begin + len(episode) - 1 - self.horizon
            found += [s for s in range(begin, last + 1) if s >= self.oldest(env)]
            begin += len(episode)
        return found

    def slices(self):
        """The codes of all valid slices, by environment and serial of the start."""
        return {
            (env, s): self.codes(env)[s : s + self.horizon + 1]
            for env in range(ENVS)
            for s in self.starts(env)
        }


def to_rows(code, first, mask):
    """Rows whose every field tells which row it is; NaN where there is none."""

    def vector(offset, zero):
        values = np.where(zero, 0.0, code + offset)[..., None] * np.array([1.0, -1.0])
        return jnp.asarray(np.where(mask[..., None], values, np.nan), jnp.float32)

    return Transition(
        observation=vector(0.0, np.zeros_like(first)),
        action=vector(0.25, first),
        reward=vector(0.5, first)[..., 0],
        terminated=jnp.asarray(code % 5 == 0),
        plan=Gaussian(mean=vector(0.125, first), std=vector(0.375, first)),
        has_plan=jnp.asarray((code % 3 > 0) & ~first),
        planned_at=jnp.asarray(code % 7, jnp.int32),
        first=jnp.asarray(first),
    )


@st.composite
def scripts(draw):
    """Episodes of 1 to 40 rows in each environment, at unequal pace."""
    lengths = st.lists(
        st.one_of(st.integers(1, 5), st.integers(1, 40)), min_size=4, max_size=20
    )
    chance = np.random.default_rng(draw(st.integers(0, 99)))
    pace = np.array(draw(st.tuples(*[st.sampled_from([0.3, 0.8, 1.0])] * ENVS)))
    mask = chance.random((STEPS, ENVS)) < pace
    first = np.zeros((STEPS, ENVS), bool)
    for env in range(ENVS):
        begins = np.cumsum([0, *draw(lengths)])
        first[:, env] = np.isin(np.cumsum(mask[:, env]) - 1, begins)
        mask[:, env] &= np.cumsum(mask[:, env]) <= begins[-1]
    code = 1 + np.arange(STEPS * ENVS).reshape(STEPS, ENVS)
    return Script(mask, first & mask, code)


def fixed_script(seed=0, lengths=(1, 9, 2, 3, 25, 4, 40, 6)):
    chance = np.random.default_rng(seed)
    mask = chance.random((STEPS, ENVS)) < np.array([1.0, 0.7, 0.4])
    order = [chance.permutation(lengths) for _ in range(ENVS)]
    begins = [np.cumsum([0, *part]) for part in order]
    rows = np.cumsum(mask, axis=0) - 1
    first = np.stack([np.isin(rows[:, e], begins[e]) for e in range(ENVS)], axis=1)
    code = 1 + np.arange(STEPS * ENVS).reshape(STEPS, ENVS)
    return Script(mask, first & mask, code)


def empty(kept, horizon):
    return replays.init(ENVS, kept * ENVS, DIM, DIM, horizon)


@jax.jit
def scan_add(replay, rows, mask):
    """Adds all rows; returns also the queues as they were after each step."""

    def step(replay, row_and_mask):
        replay = replays.add(replay, *row_and_mask)
        return replay, (replay.starts, replay.starts_removed, replay.starts_added)

    return jax.lax.scan(step, replay, (rows, mask))


jit_sample = jax.jit(replays.sample, static_argnums=1)
jit_read = jax.jit(replays.read)
jit_write = jax.jit(replays.write_plans)
now = jnp.int32(NOW)


def play(replay, script):
    rows = to_rows(script.code, script.first, script.mask)
    return scan_add(replay, rows, jnp.asarray(script.mask))


def play_model(model, script):
    for mask, first, code in zip(*script, strict=True):
        model.add(mask, first, code)
    return model


def queue(starts, removed, added):
    return [int(starts[n % len(starts)]) for n in range(removed, added)]


def names(slices):
    """The environment and serial of each slice, as the model names them."""
    pair = np.stack([slices.environment, slices.serial], axis=1)
    return [(env, serial) for env, serial in pair.tolist()]


def assert_same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def expected_batch(model, slices):
    """What the slices must hold, by the model."""
    found = model.slices()
    code = np.array([found[name] for name in names(slices)]).T
    rows = to_rows(code, np.zeros_like(code, bool), np.ones_like(code, bool))
    steps = jax.tree.map(lambda field: field[1:], rows)
    age = jnp.where(steps.has_plan, NOW - steps.planned_at, 0).astype(jnp.float32)
    return Batch(
        observation=rows.observation,
        action=steps.action,
        reward=steps.reward,
        terminated=steps.terminated,
        plan=steps.plan,
        has_plan=steps.has_plan,
        plan_age=age,
    )


@by_size
@examples
@given(script=scripts())
def test_valid_starts_are_the_models_after_every_row(kept, horizon, script):
    _, trace = play(empty(kept, horizon), script)
    starts, removed, added = (np.asarray(part) for part in trace)
    model = Model(kept, horizon)
    for step in range(STEPS):
        model.add(script.mask[step], script.first[step], script.code[step])
        for env in range(ENVS):
            at = (step, env)
            assert queue(starts[at], removed[at], added[at]) == model.starts(env)


@by_size
@examples
@given(script=scripts(), seed=st.integers(0, 99))
def test_sampled_slices_are_the_models(kept, horizon, script, seed):
    replay, _ = play(empty(kept, horizon), script)
    model = play_model(Model(kept, horizon), script)
    assert replays.num_starts(replay) == len(model.slices())
    if model.slices():
        key = jax.random.key(seed)
        batch, slices = jit_sample(replay, BATCH, update_count=now, key=key)
        assert_same(batch, expected_batch(model, slices))


@by_size
def test_every_start_is_equally_likely(kept, horizon, key):
    script = fixed_script()
    replay, _ = play(empty(kept, horizon), script)
    valid = list(play_model(Model(kept, horizon), script).slices())
    counts = [sum(env == e for e, _ in valid) for env in range(ENVS)]
    assert len(set(counts)) > 1, "environments with equally many starts prove nothing"
    _, slices = jit_sample(replay, 20_000, update_count=now, key=key)
    drawn = np.array(names(slices))
    seen = np.array([np.sum(np.all(drawn == name, axis=1)) for name in valid])
    assert seen.sum() == len(drawn)
    # Chi-square: mean n − 1, variance 2 (n − 1).
    freedom = len(valid) - 1
    expected = len(drawn) / len(valid)
    chi_square = np.sum((seen - expected) ** 2) / expected
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("lengths", [(), (1, 3) * 40])
def test_without_a_valid_start_samples_are_finite(lengths, key):
    # Two episodes of one and three rows fill the ring with nothing to sample.
    script = fixed_script(lengths=lengths or (200,))
    replay, _ = play(empty(4, 3), script if lengths else script.part(0, 0))
    assert replays.num_starts(replay) == 0
    batch, slices = jit_sample(replay, BATCH, update_count=now, key=key)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(batch))
    assert set(np.asarray(slices.environment)) <= set(range(ENVS))


def test_masked_environments_stay_as_they_are():
    replay, _ = play(empty(13, 3), fixed_script())
    mask = np.array([True, False, True])
    row = to_rows(np.arange(900, 900 + ENVS), np.zeros(ENVS, bool), mask)
    after = replays.add(replay, row, jnp.asarray(mask))
    assert_same(*(jax.tree.map(lambda x: x[1], part) for part in (after, replay)))
    assert list(after.total - replay.total) == [1, 0, 1]


def written_by_hand(replay, model, slices, plan, num):
    """The plan fields after `write_plans`, one row after the other."""
    rows, plan = replay.rows, jax.tree.map(np.asarray, plan)
    mean, std = np.array(rows.plan.mean), np.array(rows.plan.std)
    has_plan, planned_at = np.array(rows.has_plan), np.array(rows.planned_at)
    for step in range(model.horizon):
        for n, (env, serial) in enumerate(names(slices)[:num]):
            row = serial + step + 1
            if row >= model.oldest(env):
                at = (env, row % model.kept)
                mean[at], std[at] = plan.mean[step, n], plan.std[step, n]
                has_plan[at], planned_at[at] = True, NOW
    return mean, std, has_plan, planned_at


def fresh_plans(horizon, num):
    """Plans that are all different; `std` tells which `mean` it belongs to."""
    label = 1000.0 + jnp.arange(horizon * num, dtype=jnp.float32)
    mean = jnp.stack([label, -label], axis=1).reshape(horizon, num, DIM)
    return Gaussian(mean=mean, std=jnp.abs(mean) + 0.5)


@by_size
@examples
@given(script=scripts(), pause=st.integers(10, STEPS), later=st.integers(0, 12))
def test_plans_are_written_where_their_rows_still_are(
    kept, horizon, script, pause, later
):
    # With 64 draws from a small ring nearly every row is named several times.
    replay, _ = play(empty(kept, horizon), script.part(0, pause))
    _, slices = jit_sample(replay, BATCH, update_count=now, key=jax.random.key(1))
    if replays.num_starts(replay) == 0:
        return
    replay, _ = play(replay, script.part(pause, pause + later))
    model = play_model(Model(kept, horizon), script.part(0, pause + later))

    plan = fresh_plans(horizon, num=40)
    rows = jit_write(replay, slices, plan, update_count=now).rows
    expected = written_by_hand(replay, model, slices, plan, num=40)
    written = (rows.plan.mean, rows.plan.std, rows.has_plan, rows.planned_at)
    assert_same(written, tuple(jnp.asarray(part) for part in expected))
    for name in ("observation", "action", "reward", "terminated", "first"):
        assert_same(getattr(rows, name), getattr(replay.rows, name))


def test_overwritten_rows_do_not_hide_those_that_took_their_place():
    replay, _ = play(empty(4, 2), fixed_script(lengths=(200,)))
    latest = replay.total[0] - 3
    # The second slice lay, one turn of the ring ago, at the same positions.
    serial = jnp.stack([latest, latest - 4])
    slices = Slices(environment=jnp.zeros(2, jnp.int32), serial=serial)
    plan = fresh_plans(2, num=2)
    replay = replays.write_plans(replay, slices, plan, update_count=now)
    batch = replays.read(replay, slices, update_count=now)
    np.testing.assert_array_equal(batch.plan.mean[:, 0], plan.mean[:, 0])


def test_a_row_named_twice_is_written_once(monkeypatch):
    # On a CPU scatters go in order, so the result alone cannot show that each row is
    # named once. Rows (0, 5) and (1, 7) are named again, (1, 5) and (0, 7) are not.
    environment = jnp.array([[0, 1, 1], [0, 1, 0]])
    serial = jnp.array([[5, 7, 5], [5, 7, 7]])
    expected = jnp.array([[True, True, False], [False, False, False]])
    assert_same(replays._recurs(environment, serial), expected)

    replay, _ = play(empty(4, 2), fixed_script())
    _, slices = jit_sample(replay, BATCH, update_count=now, key=jax.random.key(1))
    monkeypatch.setattr(replays, "_recurs", lambda _, serial: serial == serial)
    plan = fresh_plans(2, num=40)
    assert_same(replays.write_plans(replay, slices, plan, update_count=now), replay)


def test_a_plan_belongs_to_the_observation_it_was_made_at(key):
    num = 20
    replay, _ = play(empty(13, 3), fixed_script())
    batch, slices = jit_sample(replay, BATCH, update_count=now, key=key)
    seen = batch.observation[:-1]
    plan = Gaussian(mean=seen[:, :num], std=seen[:, :num] + 0.5)
    replay = jit_write(replay, slices, plan, update_count=now)

    later = jit_read(replay, slices, update_count=now + 3)
    assert_same(later.observation, batch.observation)
    assert_same(later.plan.mean[:, :num], seen[:, :num])
    assert_same(later.plan.std[:, :num], seen[:, :num] + 0.5)
    assert jnp.all(later.has_plan[:, :num])
    assert jnp.all(later.plan_age[:, :num] == 3)
    # The other slices have plans of their own or, where they overlap, the new ones.
    own = jnp.all(later.plan.mean == batch.plan.mean, axis=-1)
    new = jnp.all(later.plan.mean == seen, axis=-1)
    assert jnp.all(own | new)
    assert jnp.any(own)


def test_compiled_equals_interpreted():
    script = fixed_script()
    before, _ = play(empty(4, 2), script.part(0, 20))
    compiled, _ = play(before, script.part(20, 23))
    rows = to_rows(script.code, script.first, script.mask)
    plain = before
    for step in range(20, 23):
        row = jax.tree.map(lambda field, step=step: field[step], rows)
        plain = replays.add(plain, row, jnp.asarray(script.mask[step]))
    assert_same(plain, compiled)
    drawn = replays.sample(plain, BATCH, update_count=now, key=jax.random.key(1))
    again = jit_sample(compiled, BATCH, update_count=now, key=jax.random.key(1))
    assert_same(drawn, again)


def use(replay: Replay, row, mask, key):
    """All that one step of training does with the replay."""
    replay = replays.add(replay, row, mask)
    batch, slices = replays.sample(replay, 8, update_count=now, key=key)
    seen = batch.observation[:-1, :5]
    plan = Gaussian(mean=seen[..., :DIM], std=seen[..., :DIM] + 0.5)
    replay = replays.write_plans(replay, slices, plan, update_count=now)
    return replay, replays.read(replay, slices, update_count=now)


def a_row():
    mask = np.array([True, True, False])
    return to_rows(np.arange(1, 4), np.zeros(ENVS, bool), mask), jnp.asarray(mask)


def test_two_replays_under_vmap_equal_each_alone():
    row, mask = a_row()
    ready = [play(empty(4, 2), fixed_script(seed))[0] for seed in range(2)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ready)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    over = jax.vmap(use, in_axes=(0, None, None, 0))
    result = jax.jit(over)(together, row, mask, keys)
    for n, replay in enumerate(ready):
        one = jax.tree.map(lambda leaf, n=n: leaf[n], result)
        assert_same(one, jax.jit(use)(replay, row, mask, jax.random.key(n)))


def test_donated_buffers_are_reused():
    row, mask = a_row()
    replay, _ = play(empty(4, 2), fixed_script())
    expected = jax.jit(use)(replay, row, mask, jax.random.key(0))
    given_away = jax.jit(use, donate_argnums=0)
    assert_same(given_away(replay, row, mask, jax.random.key(0)), expected)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(replay))


def test_an_empty_replay_can_be_donated():
    row, mask = a_row()
    replay = replays.init(ENVS, 12, DIM, DIM, 2)
    replay = jax.jit(replays.add, donate_argnums=0)(replay, row, mask)
    assert list(replay.total) == [1, 1, 0]


@pytest.mark.parametrize("over", [lambda f: f, jax.vmap], ids=["one", "vmap"])
@pytest.mark.parametrize("function", [use, lambda *args: replays.add(*args[:3])])
def test_nothing_is_copied_when_donated(function, over):
    # Abstract sizes, so no memory is taken. Even one copy of the smallest field, one
    # byte a row, would be four times the bound.
    size = (ENVS, 4_000_000, DIM, DIM, 3)

    def arguments(_):
        return replays.init(*size), *a_row(), jax.random.key(0)

    if over is jax.vmap:
        args = jax.eval_shape(jax.vmap(arguments), jnp.arange(2))
    else:
        args = jax.eval_shape(arguments, 0)
    compiled = jax.jit(over(function), donate_argnums=0).lower(*args).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.alias_size_in_bytes >= replays.num_bytes(*size)
    assert memory.temp_size_in_bytes < 1_000_000


@pytest.mark.parametrize("size", [(3, 13, 5, 2, 2), (1, 1000, 7, 3, 3)])
def test_num_bytes_is_what_init_takes(size):
    leaves = jax.tree.leaves(replays.init(*size))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert replays.num_bytes(*size) == sum(leaf.nbytes for leaf in leaves)


def test_capacity_is_shared_by_the_environments():
    replay = replays.init(3, 14, 5, 2, 3)
    assert replay.rows.observation.shape == (3, 4, 5)
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(replay)}
    assert kinds == {"float32", "int32", "bool"}


def test_a_capacity_below_one_slice_is_refused():
    replays.init(4, 16, 5, 2, 3)
    message = r"capacity is 15 rows but must be at least 16, .* 4 env.* 4 rows"
    with pytest.raises(ValueError, match=message):
        replays.init(4, 15, 5, 2, 3)
