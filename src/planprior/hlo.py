"""What a compiled program does on its device, read from XLA's optimised text.

On a GPU every instruction of the entry computation, and of the loops it runs, that is
not mere bookkeeping is one kernel (or one call of a library): the count is close to the
number of launches, which is what small networks cost there. What kernels read and write
is what large populations cost. On a CPU the count says into how many pieces the
compiler has cut the program.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# Instructions that start nothing: they name, group or order others.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call "
    "after-all partition-id replica-id opt-barrier domain add-dependency "
    "async-update async-done copy-done".split()
)
_PICKS = frozenset(["slice", "dynamic-slice", "gather"])
"""What reads no more of its first operand than it makes."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_RESULT = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s([a-z][a-z0-9\-]*)\(")
_OPERANDS = re.compile(r"%([\w.\-]+)|^(\d+)")
_CALLED = re.compile(
    r"(?:body|to_apply|branch_computations|calls)=\{?((?:%?[\w.\-]+(?:, )?)+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """One instruction of a computation.

    Attributes:
        name: What others call it by.
        opcode: What it does.
        size: Bytes of what it makes.
        operands: Names of what it reads; the number of a parameter.
        called: Computations that it runs, or is made of.
        times: How often it runs them.
        root: Whether its computation returns it.
    """

    name: str
    opcode: str
    size: int
    operands: tuple[str, ...]
    called: tuple[str, ...]
    times: int
    root: bool


Computation = Mapping[str, Instruction]


def count_kernels(text: str) -> Counter[str]:
    """Count what a program starts, by opcode.

    Args:
        text: `jax.stages.Compiled.as_text()`.

    A loop whose number of rounds XLA does not know counts once.
    """
    return Counter(instruction.opcode for _, instruction in _started(*parse(text)))


def moved_bytes(text: str) -> int:
    """Sum what all kernels read and write, as if nothing stayed in a cache.

    Of an array in which a kernel looks some entries up, or writes some, only these
    count.

    Args:
        text: As for `count_kernels`.
    """
    computations, entry = parse(text)
    started = _started(computations, entry)
    return sum(_moved(computations, inside, one) for inside, one in started)


def _started(
    computations: Mapping[str, Computation], name: str
) -> Iterator[tuple[Computation, Instruction]]:
    """Every kernel as often as it starts, with the computation that it is part of."""
    inside = computations.get(name, {})
    for one in inside.values():
        if one.opcode not in _FREE:
            yield inside, one
        elif one.called:
            of_a_round = [x for c in one.called for x in _started(computations, c)]
            for _ in range(one.times):
                yield from of_a_round


def _moved(
    computations: Mapping[str, Computation], inside: Computation, kernel: Instruction
) -> int:
    fused = computations.get(kernel.called[0], {}) if kernel.called else {}
    if kernel.opcode != "fusion" or not fused:
        fused = {kernel.name: kernel._replace(root=True)}
        parameters = {name: name for name in kernel.operands}
    else:
        parameters = {
            kernel.operands[int(one.operands[0])]: one.name
            for one in fused.values()
            if one.opcode == "parameter"
        }
    sizes = {x.name: x.size for x in (*inside.values(), *fused.values())}
    read = sum(
        _read(fused, parameter, inside[name].size)
        for name, parameter in parameters.items()
        if name in inside
    )
    return read + sum(_written(sizes, one) for one in fused.values() if one.root)


def _read(fused: Computation, parameter: str, size: int) -> int:
    """Bytes of a parameter that a kernel looks at."""
    total = 0
    for user in fused.values():
        if parameter not in user.operands or user.opcode == "parameter":
            continue
        first = parameter == user.operands[0]
        if first and user.opcode in _PICKS:
            total += user.size
        elif not (first and user.opcode == "dynamic-update-slice"):
            return size
    return min(total, size)


def _written(sizes: Mapping[str, int], root: Instruction) -> int:
    if root.opcode == "dynamic-update-slice":
        return sizes[root.operands[1]]
    return root.size


def parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """Of a program's text: instructions of every computation, and which is the entry.

    Args:
        text: As for `count_kernels`.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            name = header[2]
            computations[name] = {}
            entry = name if header[1] else entry
        elif name and (result := _RESULT.match(line)):
            one = _instruction(line[result.end() :], result[2], bool(result[1]))
            computations[name][one.name] = one
    return computations, entry


def _instruction(line: str, name: str, root: bool) -> Instruction:
    found = _OPCODE.search(" " + line)
    opcode, start = (found[1], found.end() - 1) if found else ("", len(line))
    operands = tuple(a or b for a, b in _OPERANDS.findall(line[start:].split(")")[0]))
    names = ", ".join(_CALLED.findall(line[start:]))
    called = tuple(n.strip().lstrip("%") for n in names.split(",") if n.strip())
    trips = _TRIPS.search(line)
    times = int(trips[1]) if trips else 1
    size = sum(_array_bytes(*array) for array in _ARRAY.findall(line[:start]))
    return Instruction(name, opcode, size, operands, called, times, root)


def _array_bytes(kind: str, bits: str, shape: str) -> int:
    entries = math.prod(int(n) for n in shape.split(",") if n)
    return entries if kind == "pred" else entries * int(bits) // 8
