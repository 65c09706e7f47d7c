"""Checkpoints: folders of arrays keyed by their path, written aside and then renamed.

A checkpoint holds one `GROUP.safetensors` per group of arrays and a `meta.json` with
their checksums. Leaves are found by name (`agent/model/encoder/layers/0/weight`), never
by position: two fields of equal shape that changed places would otherwise load swapped.
Nothing is ever unpickled, and no name in a file leads out of the folder.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

import jax
from jax.tree_util import FlattenedIndexKey, keystr, tree_flatten_with_path
from jaxtyping import PyTree

from planprior import tensorfile
from planprior.tensorfile import CheckpointError, DamagedCheckpointError, Stored

FORMAT = "planprior checkpoint"
VERSION = 1

_LOG = logging.getLogger(__name__)
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.[a-z]{1,16}")
_STEP_FOLDER = re.compile(r"step_(\d{9,18})|\.step_(\d{9,18})\.old")


def save(
    folder: str | Path,
    groups: Mapping[str, PyTree],
    meta: Mapping[str, Any] | None = None,
    attached: Mapping[str, bytes] | None = None,
    added: Collection[str] = (),
) -> None:
    """Writes a checkpoint, or leaves the one that was there as it was.

    Args:
        folder: Where. An older checkpoint there is replaced.
        groups: A pytree of arrays per group; each group becomes a file of its own and
            can be loaded alone.
        meta: Anything that JSON can hold.
        attached: Further files by name, which nothing here reads.
        added: Names of files that may have been put into the older checkpoint since it
            was written, and go with it.
    """
    folder = Path(folder)
    leaves = {group: _leaves(group, tree) for group, tree in groups.items()}
    try:
        meta = json.loads(json.dumps(meta or {}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"meta of {folder} is no valid JSON: {error}") from None
    try:
        _write(folder, leaves, meta, attached or {}, added)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {folder} could not be written: {error.strerror or error}"
        ) from error


def load(folder: str | Path, like: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Reads groups of a checkpoint; those not asked for are not even opened.

    Args:
        folder: The checkpoint.
        like: Per group, a tree of what is expected: arrays, or the shapes that
            `jax.eval_shape` gives. NumPy arrays come back where it has NumPy arrays,
            and JAX arrays, placed as it says, everywhere else.
    """
    folder = _located(Path(folder))
    files, _ = _read_manifest(folder)
    wanted = {group: _leaves(group, tree) for group, tree in like.items()}
    paths = {group: _checked(folder, files, f"{group}.safetensors") for group in wanted}
    stored = {group: tensorfile.read_header(path) for group, path in paths.items()}
    misfits = [
        text for group in wanted for text in _misfits(wanted[group], stored[group])
    ]
    if misfits:
        raise CheckpointError(f"checkpoint {folder} does not fit: {'; '.join(misfits)}")
    return {
        group: jax.tree.unflatten(
            jax.tree.structure(tree),
            _read_group(paths[group], wanted[group], stored[group]),
        )
        for group, tree in like.items()
    }


def read_meta(folder: str | Path) -> dict[str, Any]:
    """Returns what was given to `save` as `meta`."""
    return _read_manifest(_located(Path(folder)))[1]


def verify(folder: str | Path) -> None:
    """Raises `DamagedCheckpointError` unless every file is as it was written."""
    folder = _located(Path(folder))
    files, _ = _read_manifest(folder)
    for name in files:
        _checked(folder, files, name)


class Checkpoints:
    """The checkpoints of a run: `step_000012345/` and so on, in one folder.

    Only the process that trains may call `save`; reading changes nothing.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 3,
        warn: Callable[[str], object] = _LOG.warning,
    ):
        """Looks at a folder, which need not exist yet.

        Args:
            folder: Where the checkpoints are.
            keep: How many of the last ones to keep, beside the one of best score.
            warn: Called with one sentence per damaged checkpoint that is passed over.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}; it must be at least 1")
        self.folder = Path(folder)
        self.keep = keep
        self._warn = warn

    def path(self, step: int) -> Path:
        """Returns the folder of a step's checkpoint, whether or not it exists."""
        return self.folder / f"step_{step:09d}"

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, good or damaged, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (_STEP_FOLDER.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted({int(match[1] or match[2]) for match in found if match})

    def save(
        self,
        step: int,
        groups: Mapping[str, PyTree],
        meta: Mapping[str, Any] | None = None,
        score: SupportsFloat | None = None,
    ) -> Path:
        """Writes a checkpoint, then removes those no longer wanted.

        `step` and `score` become part of `meta`; without a score that of the checkpoint
        which is replaced stays, if there is one. Checkpoints of later steps go too: a
        run comes to an earlier step again only when it could not use them.
        """
        for leftover in self.folder.glob(".step_*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        number = self._score(step) if score is None else float(score)
        kept = number if math.isfinite(number) else None
        meta = {**(meta or {}), "step": step, "score": kept}
        # Who looks into the folder may leave hidden files there: Jupyter's, macOS's.
        hidden = [entry.name for entry in self.path(step).glob(".*")]
        save(self.path(step), groups, meta, added=hidden)
        self._prune(step)
        return self.path(step)

    def latest(self) -> Path | None:
        """Returns the newest good checkpoint, or None where there is none at all."""
        steps = self.steps()
        found = next(self._good(steps[::-1]), None)
        if steps and not found:
            # To start anew would in the end delete what a person might still repair.
            raise CheckpointError(f"every checkpoint in {self.folder} is damaged")
        return found

    def best(self) -> Path | None:
        """Returns the good checkpoint of highest score; None if no good one has one."""
        return next(self._good(self._by_score(self.steps())), None)

    def _good(self, steps: Iterable[int]) -> Iterator[Path]:
        for step in steps:
            try:
                verify(self.path(step))
                yield self.path(step)
            except DamagedCheckpointError as error:
                self._warn(f"{error}; this checkpoint is passed over")

    def _by_score(self, steps: Iterable[int]) -> list[int]:
        scored = [(self._score(step), step) for step in steps]
        return [
            step for score, step in sorted(scored, reverse=True) if score > -math.inf
        ]

    def _score(self, step: int) -> float:
        with contextlib.suppress(CheckpointError):
            score = read_meta(self.path(step)).get("score")
            return score if isinstance(score, int | float) else -math.inf
        return -math.inf

    def _prune(self, last: int) -> None:
        steps = self.steps()
        until_now = [step for step in steps if step <= last]
        wanted = {*until_now[-self.keep :], *self._by_score(until_now)[:1]}
        for step in steps:
            if step not in wanted:
                _discard(self.path(step))


def write_text_atomic(path: str | Path, text: str) -> None:
    """Replaces a file so that whoever reads it sees the old text or the new one."""
    path = Path(path)
    temporary = _beside(path, "tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            tensorfile.sync(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    tensorfile.sync_folder(path.parent)


def write_json_atomic(path: str | Path, value: Any) -> None:
    """Replaces a file by `value` as JSON; NaN and infinities are refused."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


# Arrays and their paths.


def _leaves(group: str, tree: PyTree) -> dict[str, Any]:
    """Returns the leaves by path, in the tree's order; refuses what cannot be kept."""
    if not _GROUP.fullmatch(group):
        raise CheckpointError(
            f"{group!r} cannot name a group; letters, digits, _ and - are allowed"
        )
    leaves = {}
    for keys, leaf in tree_flatten_with_path(tree)[0]:
        path = "/".join([group, *(_segment(group, key) for key in keys)])
        tensorfile.spec_of(path, leaf)
        if path in leaves:
            raise CheckpointError(
                f"two arrays have the path {path}; rename one of them"
            )
        leaves[path] = leaf
    return leaves


def _segment(group: str, key: Any) -> str:
    if isinstance(key, FlattenedIndexKey):
        raise CheckpointError(
            f"group {group} contains a pytree class without field names; register it "
            "with keys, as arrays are never stored by position"
        )
    return keystr((key,), simple=True).replace("%", "%25").replace("/", "%2F")


def _misfits(wanted: Mapping[str, Any], stored: Mapping[str, Stored]) -> list[str]:
    """Names every path that is missing, surplus, or of another shape or type."""
    missing = [path for path in wanted if path not in stored]
    surplus = [printable(path) for path in stored if path not in wanted]
    texts = [f"missing {', '.join(missing)}"] if missing else []
    texts += [f"surplus {', '.join(surplus)}"] if surplus else []
    for path, leaf in wanted.items():
        dtype, shape = tensorfile.spec_of(path, leaf)
        found = stored.get(path)
        if found and (found.dtype, found.shape) != (dtype, shape):
            there = printable(f"{found.dtype}{list(found.shape)}")
            texts.append(f"{path} is {there} and must be {dtype}{list(shape)}")
    return texts


def printable(text: str) -> str:
    """A text of a file within a sentence: escaped if it could be mistaken for more."""
    return text if text.isprintable() else ascii(text)


# Files.


def _write(
    folder: Path,
    leaves: Mapping[str, dict[str, Any]],
    meta: Any,
    attached: Mapping[str, bytes],
    added: Collection[str],
) -> None:
    """Writes into a folder beside `folder`, which then takes its place.

    A link stays, and the folder that it leads to is replaced.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    ours = _ours(folder).union(added)
    foreign = [entry.name for entry in _entries(folder) if not _is_ours(entry, ours)]
    if foreign:
        raise CheckpointError(
            f"{folder} is no checkpoint (it holds {foreign[0]}) and is not overwritten"
        )
    temporary = _beside(folder, "tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        temporary.mkdir(parents=True)
        files = {}
        for group, arrays in leaves.items():
            name = f"{group}.safetensors"
            files[name] = tensorfile.write(temporary / name, arrays)
        for name, content in attached.items():
            files[name] = _attach(temporary / name, content)
        document = {"format": FORMAT, "version": VERSION, "files": files, "meta": meta}
        document["sha256"] = _digest(document)
        write_json_atomic(temporary / "meta.json", document)
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    """Renames; a folder that was there is set aside until the new one is in place."""
    old = _beside(folder, "old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(temporary, folder)
    tensorfile.sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _located(folder: Path) -> Path:
    """Returns where a checkpoint is if its replacement was killed between renames."""
    old = _beside(folder, "old")
    return old if old.is_dir() and not folder.exists() else folder


def _discard(folder: Path) -> None:
    """Removes a checkpoint; killed halfway, it leaves none that looks damaged."""
    temporary = _beside(folder, "tmp")
    with contextlib.suppress(OSError):  # a checkpoint too many is no reason to stop
        os.replace(_located(folder), temporary)
        shutil.rmtree(temporary)
    shutil.rmtree(_beside(folder, "old"), ignore_errors=True)


def _read_group(
    path: Path, wanted: Mapping[str, Any], stored: Mapping[str, Stored]
) -> list[Any]:
    with path.open("rb") as file:

        def read(name: str, leaf: Any) -> Any:
            spec = tensorfile.spec_of(name, leaf)
            return tensorfile.place(
                tensorfile.read_array(file, stored[name], *spec), leaf
            )

        return [read(name, leaf) for name, leaf in wanted.items()]


def _read_manifest(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the checksums of the files, and the user's part."""
    path = folder / "meta.json"
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint at {folder}")
    if not path.is_file():
        raise DamagedCheckpointError(f"checkpoint {folder} has no meta.json")
    try:
        document = json.loads(path.read_bytes())
        files, meta = document["files"], document["meta"]
        sealed = document.pop("sha256") == _digest(document)
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError):
        raise DamagedCheckpointError(
            f"{path} is not of a planprior checkpoint"
        ) from None
    if not sealed or not isinstance(files, dict) or not isinstance(meta, dict):
        raise DamagedCheckpointError(f"{path} was altered: its checksum does not match")
    if (document.get("format"), document.get("version")) != (FORMAT, VERSION):
        raise CheckpointError(
            f"checkpoint {folder} is of format version {document.get('version')!r}; "
            f"this planprior reads version {VERSION}"
        )
    return files, meta


def _checked(folder: Path, files: Mapping[str, Any], name: str) -> Path:
    """Returns the path of a file after comparing its checksum."""
    path = folder / name
    if not _FILE.fullmatch(name):
        raise DamagedCheckpointError(f"checkpoint {folder} names a file {name!r}")
    if name not in files:
        there = ", ".join(printable(file) for file in files) or "none"
        raise CheckpointError(f"checkpoint {folder} has no file {name}; it has {there}")
    tensorfile.check(path, files[name])
    return path


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _beside(path: Path, suffix: str) -> Path:
    path = path.absolute()  # `.` alone has no name
    return path.with_name(f".{path.name}.{suffix}")


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []


def _ours(folder: Path) -> set[str]:
    """Returns the names of the files that a good checkpoint says are its own."""
    try:
        return {"meta.json", ".meta.json.tmp", *_read_manifest(folder)[0]}
    except CheckpointError:
        return {"meta.json", ".meta.json.tmp"}


def _is_ours(path: Path, ours: set[str]) -> bool:
    return path.suffix == ".safetensors" or path.name in ours


def _attach(path: Path, content: bytes) -> str:
    with path.open("xb") as file:
        file.write(content)
        tensorfile.sync(file)
    return hashlib.sha256(content).hexdigest()
