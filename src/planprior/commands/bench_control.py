"""`planprior bench --control`: the rates that a machine sustains at control."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from rich.table import Table

from planprior.commands import printing
from planprior.tables import as_json


def run(options: Any) -> int:
    """Measure the grid of every agent and of every further size; tell."""
    from planprior import runtime

    grid = _grid(options)
    runtime.configure(precision=options.precision)
    rows = [*_told_meanwhile(_rows(options, grid))]
    machine = runtime.describe()
    if options.json:
        print(as_json({"machine": machine, "budgets": rows}))
    else:
        _tell(machine, rows)
    return 0


def _grid(options: Any) -> Any:
    from planprior.checked import find
    from planprior.control_budgets import Grid
    from planprior.methods import SIZES

    for name in options.control_sizes:
        find(SIZES, name, "control_sizes")
    for name in ("control_samples", "control_iterations"):
        given = getattr(options, name)
        if not given or min(given) < 1:
            told = " ".join(map(str, given)) or "empty"
            raise ValueError(f"{name} is {told}; it must be numbers of at least 1")
    if options.control_episodes < 0:
        raise ValueError(
            f"control_episodes is {options.control_episodes}; it must be at least 0"
        )
    return Grid(options.control_samples, options.control_iterations)


def _rows(options: Any, grid: Any) -> Iterator[dict[str, Any]]:
    from planprior import control_budgets
    from planprior.acting import Agent

    agents = [Agent.load(folder) for folder in options.control]
    for agent, folder in zip(agents, options.control, strict=True):
        with closing(_env(agent, folder)) as env:
            found = control_budgets.budgets(
                agent, env, grid, episodes=options.control_episodes, seed=0
            )
            yield from (_row(agent, one) for one in found)
    for size in options.control_sizes:
        found = control_budgets.rates(agents[0], size, grid)
        yield from (_row(agents[0], one) for one in found)


def _told_meanwhile(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """It takes minutes."""
    console = printing.console(stderr=True, soft_wrap=True)
    for row in rows:
        told = zip(COLUMNS, cells(row), strict=True)
        console.print(", ".join(f"{name} {cell}" for name, cell in told if cell))
        yield row


def _env(agent: Any, folder: str) -> Any:
    from planprior.envs.registry import make_env

    if not agent.info["task"]:
        raise ValueError(
            f"{folder}: the agent has no task; import it again with --task"
        )
    return make_env(agent.info["task"], 0)


def _row(agent: Any, found: Any) -> dict[str, Any]:
    from planprior.control_budgets import row

    return {name: agent.info[name] for name in ("task", "method")} | row(found)


COLUMNS = (
    *("task", "method", "size", "samples", "iterations", "ms, median", "ms, 95 %"),
    *("Hz sustained", "return", "kept"),
)


def _tell(machine: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    console = printing.console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for one in rows:
        table.add_row(*cells(one))
    console.print(
        f"{machine['cpu_cores']} core(s) of {machine['cpu']}, {machine['device']}, jax "
        f"{machine['versions']['jax']}, {machine['date'][:10]}",
        soft_wrap=True,
    )  # fmt: skip
    console.print(table)
    console.print(
        "sustained: 19 of 20 plans are finished in time; kept: of the return with the "
        "agent's own planner, over the same episodes, without clock or delay",
        soft_wrap=True,
    )


def cells(one: dict[str, Any]) -> list[str]:
    """A row as text."""
    told = [str(one[name]) for name in ("task", "method", "size")]
    told += [str(one["samples"]), str(one["iterations"])]
    told += [f"{one['milliseconds']:.2f}", f"{one['slowest']:.2f}", f"{one['hz']:.0f}"]
    told.append("" if one["return"] is None else f"{one['return']:.1f}")
    return [*told, "" if one["kept"] is None else f"{one['kept']:.0%}"]
