"""What one segment of a stored replay holds, from the device and back.

A *stream* is one environment of one member. A row is known by its stream and its serial
(see `replay.py`), never by its position in memory, so a replay can be loaded into a
larger ring. A segment is one safetensors file:

- `counters/…`: the replay's counters as they were when it was written, [P, E];
- `rows/K/…`: the rows that are new, in chunks K = 0, 1, …, each with its `stream` and
  `serial`;
- `plans/K/…`: the new plans of rows that are in earlier segments.

A row never changes but for its plan, and a plan that was made anew carries the update
count at which it was made. So what changed since a save follows from the replay itself,
and no other code has to keep track of it.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import Array, Bool, Int

from planprior import tensorfile
from planprior.replay import Replay
from planprior.tensorfile import CheckpointError, DamagedCheckpointError, Stored

CHUNK_BYTES = 16 << 20
"""About as much of a replay is in host memory at a time."""

COUNTERS = ("total", "rows_in_episode", "starts_added", "starts_removed")
PLAN_FIELDS = ("plan/mean", "plan/std", "has_plan", "planned_at")
_INDEX = np.dtype(np.int32)
_CHUNK = re.compile(r"(rows|plans)/(\d{1,6})/serial")


def row_bytes(replay: Replay) -> int:
    """Bytes of one row."""
    fields = _fields(replay.rows).values()
    return sum(x.dtype.itemsize * int(np.prod(x.shape[3:])) for x in fields)


def totals(replay: Replay) -> np.ndarray:
    """Rows ever written of each stream, wide enough to subtract a capacity from."""
    return _flat(replay.total)


# --- Writing --------------------------------------------------------------------------


def changes(
    replay: Replay, since: np.ndarray | None = None, updates: int = 0
) -> dict[str, Any]:
    """Everything that a segment is to hold, by name, for `tensorfile.write`.

    Args:
        replay: The replays of all members, with leading axes [P, E].
        since: Rows of each stream that earlier segments hold; None to hold all.
        updates: Gradient steps made when the last of those was written.
    """
    total = totals(replay)
    begin = np.zeros_like(total) if since is None else since
    begin = np.maximum(begin, total - replay.starts.shape[-1])
    leaves: dict[str, Any] = {
        f"counters/{name}": np.asarray(getattr(replay, name)) for name in COUNTERS
    }
    chunks = {"rows": _row_chunks(replay, begin, total)}
    if since is not None:
        chunks["plans"] = _plan_chunks(replay, begin, updates)
    for kind, parts in chunks.items():
        for k, chunk in enumerate(parts):
            leaves |= {f"{kind}/{k}/{name}": leaf for name, leaf in chunk.items()}
    return leaves


class _Later:
    """An array that is fetched from the device when its turn to be written comes."""

    def __init__(
        self, ring: Array, count: int, fetch: Callable[[], np.ndarray]
    ) -> None:
        self.dtype, self.shape = ring.dtype, (count, *ring.shape[3:])
        self._fetch = fetch

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._fetch()


def _row_chunks(
    replay: Replay, begin: np.ndarray, end: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Rows `begin` to `end` − 1 of every stream, at most so many of each at once."""
    length = _chunk_length(replay)
    while (begin < end).any():
        inside = np.arange(length) < (end - begin)[:, None]
        stream, offset = np.nonzero(inside)
        start = jnp.asarray(begin.reshape(replay.total.shape), jnp.int32)
        chunk: dict[str, Any] = _index(stream, begin[stream] + offset)
        for name, ring in _fields(replay.rows).items():
            fetch = functools.partial(_fetch_window, ring, start, inside)
            chunk[name] = _Later(ring, len(stream), fetch)
        yield chunk
        begin = np.minimum(begin + length, end)


def _plan_chunks(
    replay: Replay, end: np.ndarray, updates: int
) -> Iterator[dict[str, Any]]:
    """Plans made at `updates` or later for rows before `end`."""
    before = jnp.asarray(end.reshape(replay.total.shape), jnp.int32)
    renewed = np.asarray(_renewed(replay, before, jnp.int32(updates)))
    stream, position = np.nonzero(renewed.reshape(len(end), -1))
    last = totals(replay)[stream] - 1
    serial = last - (last - position) % renewed.shape[-1]
    length = _chunk_length(replay) * len(end)
    for at in range(0, len(stream), length):
        part = slice(at, at + length)
        where = _where(replay, stream[part], position[part], length)
        chunk: dict[str, Any] = _index(stream[part], serial[part])
        for name in PLAN_FIELDS:
            ring, count = _fields(replay.rows)[name], len(stream[part])
            fetch = functools.partial(_fetch_rows, ring, where, count)
            chunk[name] = _Later(ring, count, fetch)
        yield chunk


def _fields(rows: Any) -> dict[str, Any]:
    """The fields of rows by name, e.g. `plan/mean`."""
    leaves, _ = tree_flatten_with_path(rows)
    return {keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _chunk_length(replay: Replay) -> int:
    """Rows of each stream in a chunk. One length, so that programs compile once."""
    fitting = CHUNK_BYTES // (row_bytes(replay) * replay.total.size)
    return int(np.clip(fitting, 1, replay.starts.shape[-1]))


def _index(stream: np.ndarray, serial: np.ndarray) -> dict[str, Any]:
    return {"stream": stream.astype(_INDEX), "serial": serial.astype(_INDEX)}


def _flat(counter: Any) -> np.ndarray:
    return np.asarray(counter).reshape(-1).astype(np.int64)


# --- On the device --------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="length")
def _window(ring: Array, start: Int[Array, "P E"], length: int) -> Array:
    def one(ring: Array, start: Array) -> Array:
        return ring[(start + jnp.arange(length, dtype=jnp.int32)) % len(ring)]

    return jax.vmap(jax.vmap(one))(ring, start)


@jax.jit
def _renewed(
    replay: Replay, before: Int[Array, "P E"], updates: Int[Array, ""]
) -> Bool[Array, "P E C"]:
    kept = replay.starts.shape[-1]

    def one(has_plan: Array, planned_at: Array, total: Array, before: Array) -> Array:
        serial = total - 1 - (total - 1 - jnp.arange(kept, dtype=jnp.int32)) % kept
        stored = (serial >= 0) & (serial < before)
        return stored & has_plan & (planned_at >= updates)

    rows = replay.rows
    each = jax.vmap(jax.vmap(one))
    return each(rows.has_plan, rows.planned_at, replay.total, before)


@jax.jit
def _gather(ring: Array, where: Int[Array, "3 n"]) -> Array:
    return ring[where[0], where[1], where[2]]


@functools.cache
def _scatter(sharding: jax.sharding.Sharding | None) -> Callable[..., Array]:
    """A program that writes rows, and leaves a ring on the devices it is on."""

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding)
    def program(ring: Array, where: Int[Array, "3 n"], values: Array) -> Array:
        return ring.at[where[0], where[1], where[2]].set(values, mode="drop")

    return program


def _fetch_window(ring: Array, start: Array, inside: np.ndarray) -> np.ndarray:
    window = np.asarray(_window(ring, start, length=inside.shape[1]))
    return window.reshape(*inside.shape, *window.shape[3:])[inside]


def _fetch_rows(ring: Array, where: Array, count: int) -> np.ndarray:
    return np.asarray(_gather(ring, where))[:count]


def _where(
    replay: Replay, stream: np.ndarray, position: np.ndarray, length: int
) -> Array:
    """Indices [3, length] of rows; the surplus ones lie outside."""
    _, num_envs, kept = replay.starts.shape
    where = np.full((3, length), kept, _INDEX)
    where[:, : len(stream)] = *np.divmod(stream, num_envs), position
    return jnp.asarray(where)


# --- Reading --------------------------------------------------------------------------


class Segment:
    """A segment's file; each array is compared with what must be there, then read."""

    def __init__(self, path: Path) -> None:
        """Reads what the file says it holds, and none of the data."""
        self.path = path
        self._stored: dict[str, Stored] = tensorfile.read_header(path)

    def counters(self, like: Replay) -> dict[str, np.ndarray]:
        """The counters as they were when the segment was written, [P, E]."""
        shape = like.total.shape
        values = {n: self.read(f"counters/{n}", _INDEX, shape) for n in COUNTERS}
        if any((value < 0).any() for value in values.values()):
            raise DamagedCheckpointError(f"{self.path} has counters below 0")
        return values

    def chunks(self, kind: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Prefix, streams and serials of each chunk of `rows` or `plans`."""
        for name in self._stored:
            match = _CHUNK.fullmatch(name)
            if match and match[1] == kind:
                prefix = f"{kind}/{match[2]}"
                stored = self._stored[name]
                shape = ((stored.end - stored.begin) // _INDEX.itemsize,)
                stream = self.read(f"{prefix}/stream", _INDEX, shape)
                yield prefix, stream, self.read(name, _INDEX, shape)

    def read(self, name: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        """One array, of this type and shape and no other."""
        stored = self._stored.get(name)
        if stored is None or (stored.dtype, stored.shape) != (dtype, shape):
            found = stored and f"{stored.dtype}{list(stored.shape)}"
            raise CheckpointError(
                f"{self.path} does not fit: {name} is {found or 'missing'!a} and "
                f"must be {np.dtype(dtype)}{list(shape)}"
            )
        with self.path.open("rb") as file:
            return tensorfile.read_array(file, stored, np.dtype(dtype), shape)


class Loader:
    """Fills an empty replay, segment by segment."""

    def __init__(self, empty: Replay, counters: Mapping[str, np.ndarray]) -> None:
        """Takes over an empty replay [P, E], which is used up.

        Args:
            empty: Of the sizes of the one that was saved; the ring may be larger.
            counters: Those of the last segment.
        """
        self._replay, self._counters = empty, counters
        self._fields = _fields(empty.rows)
        self._total = _flat(counters["total"])
        self._length = _chunk_length(empty) * len(self._total)
        shape = (len(self._total), empty.starts.shape[-1])
        # Which rows there are, and which of them begin an episode; by position.
        self._present, self._first = np.zeros(shape, bool), np.zeros(shape, bool)

    def take(self, segment: Segment) -> None:
        """Add the rows of a segment, and its plans for the rows of earlier ones."""
        everything = tuple(self._fields)
        for prefix, stream, serial in segment.chunks("rows"):
            kept = self._kept(segment, stream, serial)
            position = serial[kept] % self._present.shape[1]
            where = stream[kept], position
            values = self._put(segment, prefix, everything, kept, where)
            self._present[where], self._first[where] = True, values["first"]
        for prefix, stream, serial in segment.chunks("plans"):
            kept = self._kept(segment, stream, serial)
            where = stream[kept], serial[kept] % self._present.shape[1]
            self._put(segment, prefix, PLAN_FIELDS, kept, where)

    def finish(self) -> Replay:
        """The replay, with its counters and its queues of starts."""
        like = self._replay
        counters = {
            name: tensorfile.place(self._counters[name], getattr(like, name))
            for name in COUNTERS
        }
        leaves = list(self._fields.values())
        starts = self._starts().reshape(like.starts.shape)
        return Replay(
            rows=jax.tree.unflatten(jax.tree.structure(like.rows), leaves),
            starts=tensorfile.place(starts, like.starts),
            horizon=like.horizon,
            **counters,
        )

    def _kept(
        self, segment: Segment, stream: np.ndarray, serial: np.ndarray
    ) -> np.ndarray:
        """Which of these rows are still in the ring."""
        known = (stream >= 0) & (stream < len(self._total)) & (serial >= 0)
        if not known.all() or (serial >= self._total[stream]).any():
            raise DamagedCheckpointError(
                f"{segment.path} holds rows that were never written"
            )
        return serial >= self._total[stream] - self._present.shape[1]

    def _put(
        self,
        segment: Segment,
        prefix: str,
        names: tuple[str, ...],
        kept: np.ndarray,
        where: tuple[np.ndarray, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Read fields of a chunk, and write them to where they belong."""
        read = {}
        for name in names:
            ring = self._fields[name]
            shape = (len(kept), *ring.shape[3:])
            read[name] = segment.read(f"{prefix}/{name}", ring.dtype, shape)[kept]
            self._fields[name] = self._write(ring, where, read[name])
        return read

    def _write(
        self, ring: Array, where: tuple[np.ndarray, np.ndarray], values: np.ndarray
    ) -> Array:
        spread = len(ring.devices()) > 1
        for at in range(0, len(values), self._length):
            part = slice(at, at + self._length)
            index = _where(self._replay, where[0][part], where[1][part], self._length)
            padded = np.zeros((self._length, *values.shape[1:]), values.dtype)
            padded[: len(values[part])] = values[part]
            ring = _scatter(ring.sharding if spread else None)(ring, index, padded)
        return ring

    def _starts(self) -> np.ndarray:
        """The queues of starts, [P · E, C], which follow from the rows."""
        starts = np.zeros(self._present.shape, _INDEX)
        added = _flat(self._counters["starts_added"])
        waiting = added - _flat(self._counters["starts_removed"])
        for stream, ring in enumerate(starts):
            queue = self._valid_starts(stream)
            if not 0 <= waiting[stream] <= len(queue):
                raise DamagedCheckpointError(
                    f"the stored replay is incomplete: {waiting[stream]} slices could "
                    f"start in stream {stream}, but only {len(queue)} can"
                )
            # A ring that was made larger since may find older rows in the files.
            queue = queue[len(queue) - waiting[stream] :]
            number = added[stream] - len(queue) + np.arange(len(queue))
            ring[number % len(ring)] = queue
        return starts

    def _valid_starts(self, stream: int) -> np.ndarray:
        """Serials s where rows s to s + H are present and of one episode."""
        size, horizon = self._present.shape[1], self._replay.horizon
        serial = np.arange(max(0, self._total[stream] - size), self._total[stream])
        position = serial % size
        present = self._present[stream, position]
        ends = ~present | self._first[stream, position]
        before = np.concatenate([[0], np.cumsum(ends)])  # ends among the first k rows
        begin = np.arange(max(0, len(serial) - horizon))
        whole = before[begin + horizon + 1] == before[begin + 1]
        return serial[begin][whole & present[begin]]
