"""A ring buffer of sequences on the device, as pure functions of its state.

Each environment writes its rows, in time order, into a ring of its own, so episodes
of different lengths never disturb each other. A row is known by its environment and
its *serial*, the number of rows which that environment wrote before it; the row with
serial s lies at position s mod C, and is still there while s ≥ total − C.

A slice is H + 1 consecutive rows of one episode. The serials at which one can start
form a first-in, first-out queue per environment: a start joins when the row H later in
its episode arrives, and leaves when its own row is overwritten. A slice's first row is
its oldest, so while that row is there all of them are, and starts leave in the order
in which they joined. Hence a row costs O(1) work whatever the capacity, and the queues
list exactly the valid starts, from which sampling is uniform without rejection.

Axes are as in `types.py`; C is the number of rows kept per environment.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from planprior.types import Batch, Gaussian, PRNGKey, Transition


class Replay(eqx.Module):
    """The rows of E environments and the queues of starts.

    Attributes:
        rows: The stored rows, [E, C].
        total: Rows ever written: the serial of the next row. (int32 is enough for
            two thousand million rows of each environment.)
        rows_in_episode: Rows of the current episode so far.
        starts: Ring that holds the queue of valid starts, as serials: number n of all
            that ever joined is at n mod C. At most C − H are valid at a time.
        starts_added: Starts that ever joined the queue.
        starts_removed: Starts that ever left it.
        horizon: H, the number of steps of a slice.
    """

    rows: Transition
    total: Int[Array, "*E"]
    rows_in_episode: Int[Array, "*E"]
    starts: Int[Array, "*E C"]
    starts_added: Int[Array, "*E"]
    starts_removed: Int[Array, "*E"]
    horizon: int = eqx.field(static=True)


class Slices(eqx.Module):
    """Where sampled slices came from.

    Attributes:
        environment: The environment that wrote the slice.
        serial: The serial of its first row. Unlike a position it is never used again,
            which is how `write_plans` can tell that a row was overwritten.
    """

    environment: Int[Array, "*B"]
    serial: Int[Array, "*B"]


def init(
    num_envs: int, capacity: int, observation_dim: int, action_dim: int, horizon: int
) -> Replay:
    """Returns an empty replay.

    Args:
        num_envs: Number of environments.
        capacity: Rows in total; each environment gets an equal share, rounded down.
        observation_dim: Size of an observation.
        action_dim: Size of an action.
        horizon: Steps of a slice, which is one row longer.

    Raises:
        ValueError: If an environment's share cannot hold one slice.
    """
    least = num_envs * (horizon + 1)
    if capacity < least:
        raise ValueError(
            f"capacity is {capacity} rows but must be at least {least}, so that each "
            f"of the {num_envs} environments can keep one slice of {horizon + 1} rows."
        )
    shape = (num_envs, capacity // num_envs)
    return Replay(
        rows=_empty_rows(shape, observation_dim, action_dim),
        total=jnp.zeros(num_envs, jnp.int32),
        rows_in_episode=jnp.zeros(num_envs, jnp.int32),
        starts=jnp.zeros(shape, jnp.int32),
        starts_added=jnp.zeros(num_envs, jnp.int32),
        starts_removed=jnp.zeros(num_envs, jnp.int32),
        horizon=horizon,
    )


def num_bytes(
    num_envs: int, capacity: int, observation_dim: int, action_dim: int, horizon: int
) -> int:
    """Returns the size of what `init` would return, without allocating it."""
    sizes = (num_envs, capacity, observation_dim, action_dim, horizon)
    leaves = jax.tree.leaves(jax.eval_shape(functools.partial(init, *sizes)))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def num_starts(replay: Replay) -> Int[Array, ""]:
    """Returns the number of valid starts; `sample` needs at least one."""
    return jnp.sum(replay.starts_added - replay.starts_removed)


def add(replay: Replay, row: Transition, mask: Bool[Array, "E"]) -> Replay:
    """Writes one row for each environment that `mask` selects.

    A row with `first` set begins an episode. An environment whose episode ends is
    added to twice: its last transition, with the true last observation, and then the
    first row of its next episode.

    Args:
        replay: Where to write. Donate it when compiling, or all of it is copied.
        row: One row per environment, [E].
        mask: Environments that have a row; the others stay as they are, whatever
            `row` holds for them.
    """
    return jax.vmap(_add_one)(replay, row, mask)


def sample(
    replay: Replay, batch_size: int, *, update_count: Int[Array, ""], key: PRNGKey
) -> tuple[Batch, Slices]:
    """Draws slices uniformly, with replacement, from all valid starts.

    The caller makes sure that `num_starts` is not 0. If it is, the slices are made of
    whatever the ring holds (finite, but neither uniform nor within one episode).

    Args:
        replay: Where to read.
        batch_size: Number of slices.
        update_count: Gradient steps made so far, from which plans take their age.
        key: Chooses the slices.
    """
    slices = _draw(replay, batch_size, key=key)
    return read(replay, slices, update_count=update_count), slices


def read(replay: Replay, slices: Slices, *, update_count: Int[Array, ""]) -> Batch:
    """Returns the rows of slices drawn before, with the plans they have by now.

    Args:
        replay: Where to read.
        slices: Where the slices came from; none of their rows may be overwritten yet.
        update_count: Gradient steps made so far, from which plans take their age.
    """
    rows = jax.vmap(functools.partial(_read_one, replay), out_axes=1)(slices)
    # What led to a slice's first row happened before the slice.
    steps = jax.tree.map(lambda field: field[1:], rows)
    age = (update_count - steps.planned_at).astype(jnp.float32)
    return Batch(
        observation=rows.observation,
        action=steps.action,
        reward=steps.reward,
        terminated=steps.terminated,
        plan=steps.plan,
        has_plan=steps.has_plan,
        plan_age=jnp.where(steps.has_plan, age, 0.0),
    )


def write_plans(
    replay: Replay, slices: Slices, plan: Gaussian, *, update_count: Int[Array, ""]
) -> Replay:
    """Replaces the stored plans of the first n slices by newer ones.

    A plan made at a slice's observation t goes to row t + 1, which holds the action
    taken there. Rows overwritten since the slices were drawn are left alone. Where
    slices overlap, the last plan wins: the one with the latest t, or else the one of
    the latest slice.

    To learn from the new plans, `read` the slices again afterwards. A program that
    uses the plans of the first batch after this makes the compiler keep a copy of all
    plans; one that uses only its observations writes in place.

    Args:
        replay: Where to write; see `add` on donation.
        slices: Where the slices came from; those after the first n are ignored.
        plan: New plans at observations 0 to H − 1 of each slice, [H, n, A].
        update_count: Gradient steps made when they were made.
    """
    shape = (replay.horizon, plan.mean.shape[1])
    step = jnp.arange(shape[0], dtype=jnp.int32)
    serial = slices.serial[None, : shape[1]] + 1 + step[:, None]
    environment = jnp.broadcast_to(slices.environment[None, : shape[1]], shape)

    capacity = replay.starts.shape[-1]
    present = serial >= replay.total[environment] - capacity
    # Duplicate indices in one scatter have no defined winner, and on a GPU not even
    # the same one for every element, so all but the last are dropped beforehand.
    keep = present & ~_recurs(environment, serial)
    position = jnp.where(keep, serial % capacity, capacity)

    def write(ring: Array, value: Array) -> Array:
        return ring.at[environment, position].set(value, mode="drop")

    rows = dataclasses.replace(
        replay.rows,
        plan=jax.tree.map(write, replay.rows.plan, plan),
        has_plan=write(replay.rows.has_plan, jnp.ones(shape, bool)),
        planned_at=write(replay.rows.planned_at, jnp.full(shape, update_count)),
    )
    return dataclasses.replace(replay, rows=rows)


def _empty_rows(
    shape: tuple[int, int], observation_dim: int, action_dim: int
) -> Transition:
    # One array per field: a buffer that occurs twice could not be donated.
    return Transition(
        observation=jnp.zeros((*shape, observation_dim), jnp.float32),
        action=jnp.zeros((*shape, action_dim), jnp.float32),
        reward=jnp.zeros(shape, jnp.float32),
        terminated=jnp.zeros(shape, bool),
        plan=Gaussian(
            mean=jnp.zeros((*shape, action_dim), jnp.float32),
            std=jnp.zeros((*shape, action_dim), jnp.float32),
        ),
        has_plan=jnp.zeros(shape, bool),
        planned_at=jnp.zeros(shape, jnp.int32),
        first=jnp.zeros(shape, bool),
    )


def _add_one(replay: Replay, row: Transition, mask: Bool[Array, ""]) -> Replay:
    """`add` for one environment."""
    capacity = replay.starts.shape[-1]
    # Always that; but it is known only after the queue was read for the row before, or
    # the compiler might write first and read from a copy.
    past_end = capacity + (replay.starts_removed < 0)

    def write(ring: Array, value: Array, index: Array, where: Array) -> Array:
        # An index past the end is dropped; a `where` over the result would copy it.
        index = jnp.where(where, index % capacity, past_end)
        return ring.at[index].set(value, mode="drop")

    def write_row(ring: Array, value: Array) -> Array:
        return write(ring, value, replay.total, mask)

    rows = jax.tree.map(write_row, replay.rows, row)
    length = jnp.where(row.first, 1, replay.rows_in_episode + 1)
    joins = mask & (length > replay.horizon)
    start = replay.total - replay.horizon
    starts = write(replay.starts, start, replay.starts_added, joins)
    # Read after the write, never before it, or the compiler keeps a copy of the queue.
    # The slots differ unless the queue was empty, as it never fills its ring.
    oldest = starts[replay.starts_removed % capacity]
    empty = replay.starts_added == replay.starts_removed
    leaves = mask & ~empty & (oldest == replay.total - capacity)
    return Replay(
        rows=rows,
        total=replay.total + mask,
        rows_in_episode=jnp.where(mask, length, replay.rows_in_episode),
        starts=starts,
        starts_added=replay.starts_added + joins,
        starts_removed=replay.starts_removed + leaves,
        horizon=replay.horizon,
    )


def _draw(replay: Replay, batch_size: int, *, key: PRNGKey) -> Slices:
    """Numbers all valid starts, environment by environment, and draws numbers."""
    num_envs, capacity = replay.starts.shape
    count = replay.starts_added - replay.starts_removed
    end = jnp.cumsum(count)
    # With nothing to draw from, `randint` returns 0 and the bound keeps it in range.
    number = jax.random.randint(key, (batch_size,), 0, end[-1])
    environment = jnp.searchsorted(end, number, side="right", method="compare_all")
    environment = jnp.minimum(environment, num_envs - 1)
    queued = number - (end - count)[environment]
    slot = (replay.starts_removed[environment] + queued) % capacity
    return Slices(environment=environment, serial=replay.starts[environment, slot])


def _read_one(replay: Replay, slices: Slices) -> Transition:
    """Returns the H + 1 rows of one slice."""
    step = jnp.arange(replay.horizon + 1, dtype=jnp.int32)
    position = (slices.serial + step) % replay.starts.shape[-1]
    return jax.tree.map(lambda ring: ring[slices.environment, position], replay.rows)


def _recurs(
    environment: Int[Array, "H n"], serial: Int[Array, "H n"]
) -> Bool[Array, "H n"]:
    """Whether the same row is named again later on.

    Compares all pairs: a few thousand for the tens of rows that are planned again at
    once. Serials and not positions: a row that was overwritten must not hide the one
    that took its place.
    """
    row = jnp.stack([environment.ravel(), serial.ravel()])
    same = jnp.all(row[:, :, None] == row[:, None, :], axis=0)
    return jnp.triu(same, k=1).any(axis=1).reshape(serial.shape)
