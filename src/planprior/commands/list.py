"""`planprior list`: what there is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from planprior import settings
from planprior.commands import printing

What = Literal["all", "tasks", "methods", "sizes", "settings"]


@dataclass(frozen=True)
class List:
    """Show what there is: tasks, methods, model sizes, settings.

    Attributes:
        what: Which of these: all, tasks, methods, sizes or settings.
        like: Only names that contain this, in capitals or not.
    """

    what: Positional[Annotated[What, arg(metavar="WHAT")]] = "all"
    like: str = ""


def run(options: List) -> int:
    """Print tables of what there is."""
    # Names are there to be typed: none is cut off, nor folded where nobody looks.
    width = None if Console().is_terminal else 200
    console = printing.console(width=width)
    tables: dict[str, Callable[[str], Table]] = {
        "tasks": _tasks,
        "methods": _methods,
        "sizes": _sizes,
        "settings": _settings,
    }
    wanted = [options.what] if options.what != "all" else list(tables)[:3]
    shown = [tables[name](options.like.lower()) for name in wanted]
    if not any(table.row_count for table in shown):
        what = "name" if options.what == "all" else f"name of {options.what}"
        raise ValueError(f"like is {options.like!r}, which is in no {what}")
    for table in shown:
        console.print(table)
    if options.what == "all":
        console.print("planprior list settings shows every setting of an agent.")
    return 0


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, no_wrap=i == 0)
    return table


def _tasks(like: str) -> Table:
    from planprior.envs.registry import list_tasks

    table = _table("task")
    for task in list_tasks():
        if like in task.lower():
            table.add_row(task)
    return table


def _methods(like: str) -> Table:
    from planprior.methods import METHODS

    table = _table("method", "what it is", "source")
    for name, method in METHODS.items():
        if like in name.lower():
            table.add_row(name, method.summary, method.source)
    return table


def _sizes(like: str) -> Table:
    from planprior.methods import SIZES

    table = _table(
        "size", "encoder", "width", "latent", "Q heads", "samples", "iterations"
    )
    for name, size in SIZES.items():
        if like in name.lower():
            net, planner = size.network, size.planner
            numbers = (net.encoder_dim, net.mlp_dim, net.latent_dim, size.num_heads)
            numbers += (planner.num_samples, planner.iterations)
            table.add_row(name, *map(str, numbers))
    return table


def _settings(like: str) -> Table:
    table = _table("setting", "values", "default", "meaning")
    others: dict[str, list[str]] = {}
    for alias, name in settings.TDMPC2_NAMES.items():
        if alias != name.rpartition(".")[2]:
            others.setdefault(name, []).append(alias)
    for name, setting in settings.table().items():
        if like in name.lower():
            kind = setting.kind
            values = ", ".join(kind) if isinstance(kind, tuple) else kind.__name__
            aliases = "".join(f" (TD-MPC2: {alias})" for alias in others.get(name, ()))
            table.add_row(name, values, str(setting.default), setting.help + aliases)
    return table
