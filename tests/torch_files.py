"""Checkpoints as PyTorch writes them, altered in every way that a test needs."""

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden"
FILES = sorted(FOLDER.glob("*.pt"))


def members(path: Path) -> dict[str, bytes]:
    """What a file holds, by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(content: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_pickle(path: Path, change: Callable[[bytes], bytes]) -> bytes:
    """A file whose pickle is changed, and whose checksums are right again."""
    content = members(path)
    name = next(name for name in content if name.endswith("data.pkl"))
    return zipped(content | {name: change(content[name])})


def only_pickle(data: bytes) -> bytes:
    return zipped({"x/data.pkl": data})


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: bytes flipped, cut, doubled, moved, or made extreme."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        i, j = sorted(int(x) for x in rng.integers(0, max(len(changed), 1), 2))
        length = min(j - i, int(rng.integers(1, 64)))
        match int(rng.integers(0, 6)):
            case 0:
                changed[i : i + 1] = bytes([int(rng.integers(256))])
            case 1:
                del changed[i : i + length]
            case 2:
                changed[i:i] = changed[j : j + length]
            case 3:
                changed[i : i + length] = b"\xff" * length
            case 4:
                changed[i : i + length] = bytes(length)
            case _:
                del changed[j:]
    return bytes(changed)


def malicious(name: str, argument: object = "touch /tmp/never") -> bytes:
    """A pickle that would call `name` in Python's own reader."""
    module, _, function = name.rpartition(".")
    call = f"c{module}\n{function}\n".encode() + pickle.dumps((argument,), 2)[2:-1]
    return b"\x80\x02" + call + b"R."
