"""Files that someone asked for: checked before work is done, whole once there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def require_place(name: str, path: str | Path) -> None:
    """Check that a file can be written, before time is spent on it.

    A folder that is yet to be made is not made here.

    Args:
        name: The option that names the file, for the message.
        path: The file.

    Raises:
        ValueError: It cannot.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        there = next(p for p in path.absolute().parents if p.exists())
        # Permissions tell too little: of root's, or of a file system that is read-only.
        probe = _aside(there / path.name)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"{name} is {str(path)!r}; it must be where a file can be written: {reason}"
        ) from None


def _aside(path: Path) -> Path:
    """A name beside, with the same ending, for what is not whole yet."""
    return path.with_name(f".{path.stem}.part{os.getpid()}{path.suffix.lower()}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write, which takes the place of `path` once it is whole.

    Raises:
        OSError: It cannot be written; the sentence names `path`.
    """
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} cannot be written: {reason}") from error
    finally:
        with suppress(OSError):
            aside.unlink()
