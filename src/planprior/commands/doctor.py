"""`planprior doctor`: what this machine has, and what it lacks."""

import dataclasses
from dataclasses import dataclass

from rich.table import Table

from planprior.commands import printing
from planprior.commands.check_env import MARKS
from planprior.tables import as_json


@dataclass(frozen=True)
class Doctor:
    """Examine this machine: Python, JAX, device, memory, simulators, OpenGL.

    The exit status is 1 where something is broken.

    Attributes:
        json: Print one JSON object and nothing else.
        gl_timeout: Seconds that each OpenGL library may take to draw a picture.
    """

    json: bool = False
    gl_timeout: float = 30.0


def run(options: Doctor) -> int:
    """Examine and tell."""
    from planprior.doctor import examine

    if options.gl_timeout <= 0:
        raise ValueError(f"gl_timeout is {options.gl_timeout}; it must be above 0")
    facts = examine(options.gl_timeout)
    broken = any(fact.level == "broken" for fact in facts)
    if options.json:
        told = {"broken": broken, "facts": [dataclasses.asdict(fact) for fact in facts]}
        print(as_json(told))
        return int(broken)
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for fact in facts:
        todo = f"\n→ {fact.todo}" if fact.todo else ""
        table.add_row(MARKS[fact.level], fact.topic, fact.value + todo)
    printing.console().print(table)
    return int(broken)
