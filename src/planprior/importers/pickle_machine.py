"""A reader of the pickles that `torch.save` writes, in which nothing can be called.

A pickle is a program for a stack machine whose instructions can import and call
anything. Python's own reader carries them out; this one is another machine, with the
few instructions that a file of tensors needs, in which a name from the file is never
imported: it is looked up in a table of things that are made here, stands as inert
`Named`, or is refused. The standard library only splits the bytes into instructions.
"""

import io
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class FileError(ValueError):
    """A file that is no checkpoint, is damaged, or asks for more than one needs."""


class Named(NamedTuple):
    """A name of the file's, or what came of calling one: it does nothing.

    Attributes:
        name: Module and name.
    """

    name: str


class Storage(NamedTuple):
    """What the pickle says of one block of numbers, which lies outside it.

    Attributes:
        kind: Name of its type, e.g. `torch.FloatStorage`.
        key: Which block.
        length: Numbers in it.
    """

    kind: str
    key: str
    length: int


class Strided(NamedTuple):
    """A tensor: a view of a storage.

    Attributes:
        storage: The numbers.
        offset: Of the first one.
        shape: Sizes.
        strides: Numbers between neighbours, per axis.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


META = Named("a tensor on the meta device")
"""What stands for a tensor without numbers."""

_MOST_ARGUMENTS = 16
_FOREIGN = "names {!r}, which no file of tensors needs, and is refused"
_BROKEN = "has a pickle that is damaged"


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > 8:
        raise FileError("has a tensor whose sizes are no short list")
    if not all(type(value) is int and value >= 0 for value in values):
        raise FileError("has a tensor whose sizes are no whole numbers of at least 0")
    return tuple(values)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Strided:
    if not isinstance(storage, Storage):
        raise FileError("has a tensor without numbers")
    (first,) = _numbers((offset,))
    found = Strided(storage, first, _numbers(shape), _numbers(strides))
    if len(found.shape) != len(found.strides):
        raise FileError("has a tensor with more sizes than strides, or fewer")
    return found


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


MAKERS: dict[str, Callable[..., Any]] = {
    # Empty, and called with nothing: its entries follow, as those of a dictionary do.
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_meta_tensor_no_storage": lambda *_: META,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _tensor,
}
"""What a name in the file makes when it is called. Nothing else makes anything."""


def _expect(value: Any, kinds: tuple[type, ...]) -> Any:
    if not isinstance(value, kinds):
        raise FileError(_BROKEN)
    return value


def _put(mapping: Any, key: Any, value: Any) -> None:
    # No tuples: to hash one that nests another twice, 60 deep, would take for ever.
    _expect(mapping, (dict,))[_expect(key, (str, int))] = value


def _name(module: Any, name: Any) -> Named:
    module, name = _expect(module, (str,))[:80], _expect(name, (str,))[:80]
    full = f"{module}.{name}"
    if full not in MAKERS and not full.startswith("torch."):
        raise FileError(_FOREIGN.format(full))
    return Named(full)


def load(data: bytes) -> Any:
    """Build what a pickle describes, out of containers, numbers, text and the above.

    Args:
        data: The pickle. Time and memory are in proportion to its length.

    Raises:
        FileError: It is damaged, or names what no file of tensors needs.
    """
    try:
        return _Machine().run(data)
    except FileError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        # What a wrong instruction does to an honest machine: an empty stack, a mark
        # that is not there, a call with the wrong number of arguments.
        raise FileError(_BROKEN) from None


class _Machine:
    """A stack, marks on it, and a memory of numbered values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        file = io.BytesIO(data)
        while True:
            name, read = _CODES[file.read(1)]
            if name == "STOP":
                return self.pop(1)[0]
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _LITERALS:
                self.stack.append(read(file))
            elif name in _INSTRUCTIONS:
                _INSTRUCTIONS[name](self, read(file))
            else:
                raise FileError(_FOREIGN.format(f"the instruction {name}"))

    def pop(self, count: int) -> list[Any]:
        """Take the topmost values off, the deepest first."""
        if count > len(self.stack) - (self.marks[-1] if self.marks else 0):
            raise FileError(_BROKEN)
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_mark(self) -> list[Any]:
        """Take everything above the last mark off."""
        taken = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return taken

    def append(self, values: list[Any]) -> None:
        _expect(self.stack[-1], (list,)).extend(values)

    def put(self, values: list[Any]) -> None:
        for key, value in zip(values[::2], values[1::2], strict=True):
            _put(self.stack[-1], key, value)

    def call(self) -> None:
        """Call a name: only what `MAKERS` has makes something."""
        named, arguments = self.pop(2)
        name = _expect(named, (Named,)).name
        maker = MAKERS.get(name, lambda *_: Named(name))
        if len(_expect(arguments, (tuple,))) > _MOST_ARGUMENTS:
            raise FileError(_BROKEN)
        self.stack.append(maker(*arguments))

    def storage(self) -> None:
        """Take a storage's description, ('storage', type, key, device, count)."""
        word, kind, key, _, count = _expect(self.pop(1)[0], (tuple,))
        if word != "storage" or type(count) is not int or count < 0:
            raise FileError(_BROKEN)
        kind = _expect(kind, (Named,)).name
        self.stack.append(Storage(kind, _expect(key, (str,)), count))


def _instructions() -> Iterator[tuple[str, Callable[[_Machine, Any], Any]]]:
    """What each instruction does to the machine."""

    def push(machine: _Machine, value: Any) -> None:
        machine.stack.append(value)

    for name in ("BINPUT", "LONG_BINPUT", "PUT"):
        yield name, lambda m, index: m.memo.__setitem__(index, m.stack[-1])
    for name in ("BINGET", "LONG_BINGET", "GET"):
        yield name, lambda m, index: push(m, m.memo[index])
    for name in ("PROTO", "FRAME"):
        yield name, lambda m, _: None
    for count in (1, 2, 3):
        yield f"TUPLE{count}", lambda m, _, n=count: push(m, tuple(m.pop(n)))
    for name in ("REDUCE", "NEWOBJ"):
        yield name, lambda m, _: m.call()
    yield "MEMOIZE", lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1])
    yield "MARK", lambda m, _: m.marks.append(len(m.stack))
    yield "TUPLE", lambda m, _: push(m, tuple(m.pop_mark()))
    yield "APPEND", lambda m, _: m.append(m.pop(1))
    yield "APPENDS", lambda m, _: m.append(m.pop_mark())
    yield "SETITEM", lambda m, _: m.put(m.pop(2))
    yield "SETITEMS", lambda m, _: m.put(m.pop_mark())
    yield "GLOBAL", lambda m, pair: push(m, _name(*pair))
    yield "STACK_GLOBAL", lambda m, _: push(m, _name(*m.pop(2)))
    yield "BINPERSID", lambda m, _: m.storage()
    # The state of a dictionary or a placeholder: of no use, and nothing is set.
    yield "BUILD", lambda m, _: m.pop(1)


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE"),
}
_INSTRUCTIONS = dict(_instructions())


def _two_lines(file: io.BytesIO) -> tuple[str, str]:
    """Read module and name; the library would undo escapes, and warn of odd ones."""
    module, name = (file.readline().decode("ascii").rstrip("\n") for _ in range(2))
    return module, name


_CODES: dict[bytes, tuple[str, Callable[[io.BytesIO], Any]]] = {
    code.code.encode("latin-1"): (
        code.name,
        code.arg.reader if code.arg else lambda _: None,
    )
    for code in pickletools.opcodes
}
_CODES[b"c"] = ("GLOBAL", _two_lines)
