"""Safetensors files, written and read one array at a time; nothing is unpickled.

A file is 8 bytes of length, a JSON header, and raw little-endian data. The library's
writer wants all arrays in host memory at once, too much for a replay of several GB; its
reader maps the file into memory, where a file that shrinks meanwhile kills the process.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np

_CODES = {
    **{np.dtype(f"int{bits}"): f"I{bits}" for bits in (8, 16, 32, 64)},
    **{np.dtype(f"uint{bits}"): f"U{bits}" for bits in (8, 16, 32, 64)},
    **{np.dtype(f"float{bits}"): f"F{bits}" for bits in (16, 32, 64)},
    np.dtype("bfloat16"): "BF16",
    np.dtype("bool"): "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, read or used; the message is a sentence."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint that is incomplete or was altered; an older one may be good."""


class Stored(NamedTuple):
    """What the header of a file says of one array."""

    dtype: np.dtype | str  # a name where we do not know the type
    shape: tuple
    begin: int  # position in the file
    end: int


def spec_of(path: str, leaf: Any) -> tuple[np.dtype, tuple[int, ...]]:
    """Returns dtype and shape of a leaf; refuses what the format cannot hold."""
    try:
        dtype, shape = np.dtype(leaf.dtype), tuple(leaf.shape)
        _CODES[dtype]
    except (AttributeError, KeyError, TypeError):
        raise CheckpointError(
            f"{path} is of type {getattr(leaf, 'dtype', type(leaf).__name__)}; allowed "
            f"are arrays of {', '.join(map(str, _CODES))}"
        ) from None
    return dtype, shape


def _to_host(leaf: Any) -> np.ndarray:
    """Returns a leaf's data in host memory, without leaving a copy behind.

    `np.asarray` of an array on an accelerator keeps its host copy for as long as that
    array lives; a copy put on the CPU device is freed after its last use.
    """
    with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may exclude the CPU
        cpu = jax.local_devices(backend="cpu")[0]
        if isinstance(leaf, jax.Array) and leaf.devices() != {cpu}:
            leaf = jax.device_put(leaf, cpu)
    return np.asarray(leaf)


def write(path: Path, leaves: Mapping[str, Any]) -> str:
    """Writes one file, array by array, and returns its SHA-256.

    Args:
        path: Where.
        leaves: Arrays by name, or anything with `dtype` and `shape` that `np.asarray`
            turns into one when its turn has come.
    """
    digest = hashlib.sha256()
    header, order = _header(leaves)
    with path.open("wb") as file:
        file.write(header)
        digest.update(header)
        for name in order:
            flat = np.ascontiguousarray(_to_host(leaves[name])).reshape(-1)
            data = flat.view(np.uint8).data
            file.write(data)
            digest.update(data)
        sync(file)
    return digest.hexdigest()


def _header(leaves: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    specs = {name: spec_of(name, leaf) for name, leaf in leaves.items()}
    # Large items first, so that each array is aligned to the size of its items.
    order = sorted(specs, key=lambda name: (-specs[name][0].itemsize, name))
    entries, end = {}, 0
    for name in order:
        dtype, shape = specs[name]
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {
            "dtype": _CODES[dtype],
            "shape": shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def check(path: Path, sha256: Any) -> None:
    """Raises `DamagedCheckpointError` unless a file has this checksum."""
    if not path.is_file():  # which a pipe or a device, that would block us, is not
        raise DamagedCheckpointError(f"{path.parent} lacks its file {path.name}")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedCheckpointError(
            f"{path} cannot be read: {error.strerror}"
        ) from None
    if digest != sha256:
        raise DamagedCheckpointError(f"{path} is damaged: its checksum does not match")


def read_header(path: Path) -> dict[str, Stored]:
    """Returns what a file says it holds; every array lies within the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        try:
            if start > size:
                raise ValueError("the header is longer than the file")
            entries = json.loads(file.read(start - 8))
            entries.pop("__metadata__", None)
            return {name: _parse(entry, start, size) for name, entry in entries.items()}
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise DamagedCheckpointError(
                f"{path} is no valid safetensors file"
            ) from None


def _parse(entry: Any, start: int, size: int) -> Stored:
    begin, end = entry["data_offsets"]
    if not (isinstance(begin, int) and isinstance(end, int)):
        raise TypeError("offsets must be integers")
    if not 0 <= begin <= end <= size - start:
        raise ValueError("the data lie outside the file")
    dtype = _DTYPES.get(entry["dtype"], str(entry["dtype"]))
    return Stored(dtype, tuple(entry["shape"]), start + begin, start + end)


def read_array(
    file: IO[bytes], stored: Stored, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    """Reads one array, after comparing the size that is wanted with what is stored."""
    count = math.prod(shape) * dtype.itemsize
    if stored.end - stored.begin != count:
        raise DamagedCheckpointError(f"{file.name} has an array that is cut short")
    file.seek(stored.begin)
    data = np.fromfile(file, np.uint8, count)
    if data.size != count:
        raise DamagedCheckpointError(f"{file.name} ends too early")
    # A byte that is neither 0 nor 1 is no valid bool to NumPy and XLA.
    data = data.astype(bool) if dtype == np.bool_ else data.view(dtype)
    return data.reshape(shape)


def place(array: np.ndarray, like: Any) -> Any:
    """Turns what was read into the kind of array, on the devices, that `like` is."""
    if isinstance(like, np.ndarray | np.generic):
        return array
    committed = getattr(like, "committed", True)
    return jax.device_put(array, getattr(like, "sharding", None) if committed else None)


def sync(file: IO[Any]) -> None:
    """Waits until what was written is on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder last; Windows cannot, and need not, open folders."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
