"""Files of `torch.save` (since PyTorch 1.6), read with NumPy alone.

Such a file is a zip archive: `data.pkl`, which describes tensors, and one member per
block of numbers, stored without compression. Nothing larger than the file is ever
held: compressed members, members that claim more than there is, and tensors that
together claim more than a few times the file are refused.
"""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from planprior.importers import pickle_machine
from planprior.importers.pickle_machine import FileError, Storage, Strided

Tensors = dict[str, np.ndarray]

LONGEST_PICKLE = 1 << 20
"""Bytes; the largest published agents need 30 thousand."""

MOST_MEMBERS = 10_000

MOST_COPIES = 4
"""How many times over tensors may show the file's bytes: heads are listed twice."""

_DTYPES = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("u1"),
}


def read(path: str | Path) -> tuple[Tensors, list[str]]:
    """Read the tensors of a file: of its `model`, where it has one, as TD-MPC2's do.

    Args:
        path: The file.

    Returns:
        The tensors by name, as views of what was read, and the names of entries that
        are no tensors or have no numbers.

    Raises:
        FileError: It cannot be read; the message is one sentence.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"{path} is no file")
    try:
        with zipfile.ZipFile(path) as archive:
            return _tensors(_Archive(archive, path.stat().st_size))
    except FileError as error:
        raise FileError(f"{path} {error}") from None
    except _ZIP_ERRORS as error:
        text = str(error).strip() or type(error).__name__
        shown = text if text.isprintable() else ascii(text)
        raise FileError(
            f"{path} cannot be read as a file of torch.save since PyTorch 1.6 "
            f"({shown[:120]})"
        ) from None


_ZIP_ERRORS = (
    *(zipfile.BadZipFile, EOFError, OSError, ValueError, KeyError, IndexError),
    # What zipfile raises for encrypted members, unknown methods, impossible offsets.
    *(RuntimeError, NotImplementedError, OverflowError, TypeError, AttributeError),
)


class _Archive:
    """The members of a zip file that has been looked over."""

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise FileError(f"has {len(members)} members; at most {MOST_MEMBERS} do")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise FileError(
                "is compressed, which torch.save never does, and is refused"
            )
        if sum(member.file_size for member in members) > size:
            raise FileError("claims to hold more than it does, and is refused")
        self.archive, self.size = archive, size
        pickles = [m.filename for m in members if m.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise FileError(f"has {len(pickles)} members data.pkl; it must have one")
        self.folder = pickles[0].removesuffix("data.pkl")
        self.names = {member.filename: member for member in members}
        self._storages: dict[Storage, np.ndarray] = {}

    def pickle(self) -> bytes:
        member = self.names[f"{self.folder}data.pkl"]
        if member.file_size > LONGEST_PICKLE:
            raise FileError(f"describes its tensors in {member.file_size} bytes")
        order = self.names.get(f"{self.folder}byteorder")
        if order is not None and self.archive.read(order) != b"little":
            raise FileError("was written on a big-endian machine, which is not read")
        return self.archive.read(member)

    def storage(self, storage: Storage) -> np.ndarray:
        """The numbers of a storage; each is read once."""
        if storage not in self._storages:
            member = self.names.get(f"{self.folder}data/{storage.key}")
            dtype = _DTYPES.get(storage.kind)
            if member is None or dtype is None:
                raise FileError(f"has no numbers {storage.kind} {storage.key[:20]!r}")
            if member.file_size != storage.length * dtype.itemsize:
                raise FileError(f"has numbers {storage.key!r} of another length")
            data = self.archive.read(member)
            self._storages[storage] = np.frombuffer(data, dtype)
        return self._storages[storage]


def _tensors(archive: _Archive) -> tuple[Tensors, list[str]]:
    found: Tensors = {}
    others: list[str] = []
    budget = MOST_COPIES * archive.size
    for name, value in _entries(pickle_machine.load(archive.pickle())).items():
        if not isinstance(value, Strided):
            others.append(name)
            continue
        found[name] = _view(value, archive)
        budget -= found[name].nbytes
        if budget < 0:
            raise FileError("has tensors that claim more than it holds, and is refused")
    if not found:
        raise FileError("holds no tensors")
    return found, others


def _entries(content: Any) -> Mapping[str, Any]:
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        raise FileError("holds no dictionary of tensors")
    if not all(isinstance(n, str) and n.isprintable() for n in content):
        raise FileError("has entries without a name")
    return content


def _view(tensor: Strided, archive: _Archive) -> np.ndarray:
    numbers = archive.storage(tensor.storage)
    count = math.prod(tensor.shape)
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
    if count > len(numbers) or (count and last >= len(numbers)):
        raise FileError("has a tensor that reaches beyond its numbers")
    if not count:
        return np.zeros(0, numbers.dtype)
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    start = numbers[tensor.offset :]
    view = np.lib.stride_tricks.as_strided(start, tensor.shape, strides)
    view.flags.writeable = False
    return view
