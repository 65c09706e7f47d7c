"""Replays on disk, in segments: each holds what changed since the one before it.

A segment (`replay_segments.py` says what is in it) is written once and never changed.
What `save` returns names the segments, with their checksums, and belongs into the
checkpoint of the agents: the rename that publishes that checkpoint publishes the replay
as well, and a kill at any moment leaves both as they were. Segments that no checkpoint
needs any more are removed only afterwards.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from planprior import replay_segments, tensorfile
from planprior.replay import Replay
from planprior.replay_segments import CHUNK_BYTES, Loader, Segment
from planprior.tensorfile import CheckpointError, DamagedCheckpointError

VERSION = 1
MOST_SEGMENTS = 100
"""With more, or with more than twice the replay's size, all is written anew."""

_NAME = re.compile(r"segment_(\d{6,12})\.safetensors")


class _File(NamedTuple):
    """A segment, and the rows of each stream that there were when it was written."""

    name: str
    sha256: str
    bytes: int
    total: np.ndarray


class _Saved(NamedTuple):
    """The segments of one saved replay, and the gradient steps made by then."""

    files: tuple[_File, ...]
    updates: int


class ReplayStore:
    """The segments of a run, in one folder.

    Only the process that trains may `save` and `prune`; `verify` changes nothing.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2) -> None:
        """Looks at a folder, which need not exist yet.

        Args:
            folder: Where the segments are.
            keep: How many of the last saved steps can be loaded again.
        """
        self.folder = Path(folder)
        self._keep = keep
        self._steps: dict[int, _Saved] = {}
        self._whole: set[tuple[str, str]] = set()

    def save(self, step: int, replay: Replay, updates: int) -> dict[str, Any]:
        """Write what changed since the last save or load, as one segment.

        Nothing is removed before `prune`, to be called once the checkpoint that holds
        what is returned is in place.

        Args:
            step: Environment steps.
            replay: The replays of all members, with leading axes [P, E].
            updates: Gradient steps made so far; plans that are made from now on carry
                at least this number.

        Returns:
            What `verify` and `load` need; JSON can hold it.

        Raises:
            CheckpointError: It could not be written; nothing has changed then.
        """
        base = self._base(replay)
        since = base.files[-1].total if base.files else None
        leaves = replay_segments.changes(replay, since, base.updates)
        file = self._write(leaves, replay_segments.totals(replay))
        saved = _Saved((*base.files, file), updates)
        self._remember(step, saved)
        return _describe(saved, replay.starts.shape[-1])

    def prune(self) -> None:
        """Remove the segments that none of the last saved steps needs."""
        named = {file.name for saved in self._steps.values() for file in saved.files}
        for path in list(self.folder.glob("segment_*.safetensors")):
            if _NAME.fullmatch(path.name) and path.name not in named:
                with contextlib.suppress(OSError):  # too many are no reason to stop
                    path.unlink(missing_ok=True)

    def verify(self, state: Any) -> None:
        """Raises `DamagedCheckpointError` unless all segments are as written.

        What was found whole is not read again: a large replay takes seconds.
        """
        for entry in _entries(state):
            segment = entry["name"], entry["sha256"]
            if segment not in self._whole:
                tensorfile.check(self.folder / entry["name"], entry["sha256"])
                self._whole.add(segment)

    def load(self, step: int, state: Any, empty: Replay) -> Replay:
        """Put the rows of a saved replay into an empty one, which is used up.

        Args:
            step: Environment steps at which it was saved.
            state: What `save` returned.
            empty: Replays of the same sizes, [P, E]; their ring may be larger than the
                one that was saved, but not smaller (see `capacity`).

        Raises:
            CheckpointError: A segment is damaged, or does not fit.
        """
        self.verify(state)
        entries = _entries(state)
        segments = [Segment(self.folder / entry["name"]) for entry in entries]
        counters = [segment.counters(empty) for segment in segments]
        loader = Loader(empty, counters[-1])
        for segment in segments:
            loader.take(segment)
        replay = loader.finish()
        totals = [np.asarray(c["total"], np.int64).reshape(-1) for c in counters]
        files = tuple(
            _File(entry["name"], entry["sha256"], entry["bytes"], total)
            for entry, total in zip(entries, totals, strict=True)
        )
        self._steps = {step: _Saved(files, state["updates"])}
        return replay

    def _base(self, replay: Replay) -> _Saved:
        """What the next save builds on: nothing, where all is to be written anew."""
        if not self._steps:
            return _Saved((), 0)
        last = self._steps[max(self._steps)]
        total, kept = replay_segments.totals(replay), replay.starts.shape[-1]
        files = tuple(f for f in last.files if (f.total > total - kept).any())
        live = int(np.minimum(total, kept).sum()) * replay_segments.row_bytes(replay)
        size = sum(file.bytes for file in files)
        if len(files) >= MOST_SEGMENTS or size > 2 * live + CHUNK_BYTES:
            return _Saved((), 0)
        return _Saved(files, last.updates)

    def _write(self, leaves: dict[str, Any], total: np.ndarray) -> _File:
        path = self.folder / f"segment_{self._unused_number():06d}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sha256 = tensorfile.write(path, leaves)
            tensorfile.sync_folder(self.folder)
            return _File(path.name, sha256, path.stat().st_size, total)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # its room is given back
            raise CheckpointError(
                f"replay {path} could not be written: {error.strerror or error}"
            ) from error

    def _unused_number(self) -> int:
        """A number that no file has, not even one that a killed process left."""
        names = (_NAME.fullmatch(path.name) for path in self.folder.glob("segment_*"))
        return 1 + max((int(match[1]) for match in names if match), default=0)

    def _remember(self, step: int, saved: _Saved) -> None:
        # Those of later steps go, as with checkpoints: a run comes to an earlier step
        # again only when it could not use them.
        steps = {s: old for s, old in self._steps.items() if s < step} | {step: saved}
        self._steps = dict(sorted(steps.items())[-self._keep :])


# What a checkpoint says of its replay.


def capacity(state: Any) -> int:
    """Rows per environment for which a saved replay had room."""
    _entries(state)
    return state["capacity"]


def num_bytes(state: Any) -> int:
    """Size of the files of a saved replay."""
    return sum(entry["bytes"] for entry in _entries(state))


def _describe(saved: _Saved, kept: int) -> dict[str, Any]:
    files = [
        {"name": f.name, "sha256": f.sha256, "bytes": f.bytes} for f in saved.files
    ]
    return {
        "version": VERSION,
        "capacity": kept,
        "updates": saved.updates,
        "segments": files,
    }


def _entries(state: Any) -> list[Mapping[str, Any]]:
    """The segments that are named; refuses what `save` would not have returned."""
    if not isinstance(state, Mapping) or "version" not in state:
        raise CheckpointError("the checkpoint names no replay")
    if state["version"] != VERSION:
        raise CheckpointError(
            f"the replay is of format version {state['version']!r}; this planprior "
            f"reads version {VERSION}"
        )
    try:
        entries = list(state["segments"])
        numbers = [state["capacity"], state["updates"]]
        numbers += [entry["bytes"] for entry in entries]
        valid = all(_is_count(number) for number in numbers)
        valid &= all(_NAME.fullmatch(entry["name"]) for entry in entries)
        valid &= max(numbers[:2]) < 2**31  # as in the replay itself
        valid &= numbers[0] > 0 and len(entries) > 0
        valid &= all(isinstance(entry["sha256"], str) for entry in entries)
    except (KeyError, TypeError):
        entries, valid = [], False
    if not valid:
        raise DamagedCheckpointError("the checkpoint does not say where its replay is")
    return entries


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**62
