"""What a compiled program starts on its device, counted in XLA's optimised text.

On a GPU every instruction of the entry computation, and of the loops it runs, that is
not mere bookkeeping is one kernel (or one call of a library): the count is close to the
number of launches, which is what small networks cost there. On a CPU the same count
says into how many pieces the compiler has cut the program.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

# Instructions that start nothing: they name, group or order others.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call "
    "after-all partition-id replica-id opt-barrier domain add-dependency "
    "async-update async-done copy-done".split()
)
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_OPCODE = re.compile(r"\s([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(
    r"(?:body|to_apply|branch_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Instruction(NamedTuple):
    """One instruction of a computation.

    Attributes:
        opcode: What it does.
        called: Computations whose instructions it runs.
        times: How often.
    """

    opcode: str
    called: tuple[str, ...]
    times: int


def count_kernels(text: str) -> Counter[str]:
    """Count what a program starts, by opcode.

    Args:
        text: `jax.stages.Compiled.as_text()`.

    A loop whose number of rounds XLA does not know counts once.
    """
    computations, entry = _parse(text)
    return _count(computations, entry)


def _count(computations: Mapping[str, list[Instruction]], name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for instruction in computations.get(name, ()):
        if instruction.opcode not in _FREE:
            total[instruction.opcode] += 1
        for called in instruction.called:
            for opcode, number in _count(computations, called).items():
                total[opcode] += number * instruction.times
    return total


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    entry = name = ""
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif line.startswith("  ") and name and " = " in line:
            computations[name].append(_instruction(line))
    return computations, entry


def _instruction(line: str) -> Instruction:
    found = _OPCODE.search(" " + line.partition(" = ")[2])
    opcode = found[1] if found else ""
    # What fusions, reductions and sorts call is part of their own kernel.
    runs = opcode in ("while", "call", "conditional")
    names = ", ".join(_CALLED.findall(line)) if runs else ""
    trips = _TRIPS.search(line)
    called = tuple(n.strip().lstrip("%") for n in names.split(",") if n.strip())
    return Instruction(opcode, called, int(trips[1]) if trips else 1)
