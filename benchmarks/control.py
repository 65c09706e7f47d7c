"""Whether a controller keeps its promises: alone, and while other processes work.

    .venv/bin/python benchmarks/control.py RUN --into results/control.md

Drives the agent's simulator in real time twice, first with nothing beside it that was
started here, then beside processes that keep every core busy, and writes a table:
latencies, missed deadlines, where actions came from, the return, and that of the same
episodes without clock and delay. It says how busy the machine was already.
"""

import argparse
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from planprior import host, runtime
from planprior.acting import Agent
from planprior.checkpoint import write_text_atomic
from planprior.controller import Controller
from planprior.envs.registry import make_env
from planprior.realtime import drive, untimed

BEGIN, END = "<!-- loop: written by benchmarks/control.py -->", "<!-- end of loop -->"
KEPT = 0.95
"""Share of the un-timed return that a controller is to keep."""


def burn() -> None:
    while True:
        sum(range(10_000))


def busy(stack: ExitStack, count: int) -> None:
    # JAX has threads by now, which a fork would not survive.
    context = multiprocessing.get_context("spawn")
    for _ in range(count):
        process = context.Process(target=burn, daemon=True)
        process.start()
        stack.callback(process.kill)


def others() -> float:
    """How many cores' worth of processes want to run, by the system's own average."""
    return os.getloadavg()[0]


def measure(agent: Agent, options: argparse.Namespace, load: int) -> dict[str, Any]:
    env = make_env(agent.info["task"], options.seed)
    with ExitStack() as stack:
        stack.callback(env.close)
        controller = stack.enter_context(Controller(agent, options.hz))
        load_before = others()
        busy(stack, load)
        driven = drive(controller, env, seconds=options.seconds, seed=options.seed)
        report = controller.report()
    del report["histogram"]
    return report | {
        "busy_processes": load,
        "load_before": load_before,
        "seconds": driven.seconds,
        "lateness_ms": driven.lateness.summary(),
        "returns": driven.returns,
    }


# --- The page -------------------------------------------------------------------------


def milliseconds(summary: dict[str, float]) -> str:
    return " / ".join(f"{summary[name]:.1f}" for name in ("p50", "p95", "p99", "max"))


def sources(run: dict[str, Any]) -> str:
    used = {name: count for name, count in run["sources"].items() if count}
    return ", ".join(f"{name} {count}" for name, count in used.items())


def counted(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def share(run: dict[str, Any], free: Sequence[float]) -> float:
    """Of the un-timed return, over the same episodes."""
    return float(np.mean(run["returns"]) / np.mean(free[: len(run["returns"])]))


def kept(run: dict[str, Any], free: Sequence[float]) -> str:
    if not run["returns"]:
        return "no episode ended"
    count = len(run["returns"])
    timed, untimed = np.mean(run["returns"]), np.mean(free[:count])
    return f"{timed:.1f} of {untimed:.1f}, {share(run, free):.1%} ({count} episodes)"


def rows(free: Sequence[float]) -> dict[str, Callable[[dict[str, Any]], str]]:
    return {
        "load average before": lambda run: f"{run['load_before']:.1f}",
        "actions": lambda run: f"{run['actions']} in {run['seconds']:.1f} s",
        "missed deadlines, all reported": lambda run: str(run["missed"]),
        "actions from": sources,
        "observation to plan, ms": lambda run: milliseconds(run["latency_ms"]),
        "call of `act`, ms": lambda run: milliseconds(run["call_ms"]),
        "action after it was due, ms": lambda run: milliseconds(run["lateness_ms"]),
        "return beside the un-timed one": lambda run: kept(run, free),
    }


def verdicts(alone: dict[str, Any], free: Sequence[float], hz: float) -> list[str]:
    """The claims about the first run, each with what was found."""
    period, p99 = 1e3 / hz, alone["latency_ms"]["p99"]
    told = share(alone, free) if alone["returns"] else 0.0
    actions = round(alone["seconds"] * hz)
    found = {
        f"p99 of a plan under {period:g} ms": (p99 < period, f"{p99:.1f} ms"),
        f"{hz:g} Hz held": (
            alone["actions"] >= actions - 1, f"{alone['actions']} of {actions} actions"
        ),
        f"at least {KEPT:.0%} of the un-timed return": (told >= KEPT, f"{told:.1%}"),
        "every action accounted for": (
            sum(alone["sources"].values()) == alone["actions"],
            f"{alone['missed']} missed deadlines reported",
        ),
    }  # fmt: skip
    return [
        f"* {claim}: {'yes' if holds else '**no**'} ({value})"
        for claim, (holds, value) in found.items()
    ]


def page(told: dict[str, Any]) -> str:
    machine, runs, free = told["machine"], told["runs"], told["untimed"]
    busy = [
        f"beside {counted(run['busy_processes'], 'busy process', 'busy processes')}"
        for run in runs[1:]
    ]
    header = f"| {' | '.join(['', 'nothing else started', *busy])} |"
    body = [
        f"| {name} | {' | '.join(cell(run) for run in runs)} |"
        for name, cell in rows(free).items()
    ]
    commit = machine["git_commit"] or "unknown"
    lines = [
        f"`{told['command']}`",
        "",
        f"{told['task']}, {told['method']}, size {told['size']}; "
        f"{counted(machine['cpu_cores'], 'core')} of {machine['cpu']}, "
        f"{machine['device']}, jax "
        f"{machine['versions']['jax']}, Python {machine['versions']['python']}; "
        f"{machine['date'][:16]}, commit {commit[:7]}. "
        "Times are p50 / p95 / p99 / max.",
        "",
        header,
        f"| {' | '.join(['---'] * (len(runs) + 1))} |",
        *body,
        "",
        "Of the first:",
        "",
        *verdicts(runs[0], free, told["hz"]),
    ]
    return "\n".join(lines)


def insert(path: Path, text: str) -> None:
    """Replace what stands between the marks."""
    old = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(old):
        raise ValueError(f"{path} has no lines {BEGIN!r} and {END!r}")
    block = f"{BEGIN}\n\n{text}\n\n{END}"
    write_text_atomic(path, pattern.sub(lambda _: block, old, count=1))


def command(options: argparse.Namespace) -> str:
    """The command without the folders of this machine."""
    words = [options.run.name, f"--hz {options.hz:g} --seconds {options.seconds:g}"]
    return " ".join(["python benchmarks/control.py", *words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--hz", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--into", type=Path, help="a page with the marks of a loop")
    parser.add_argument("--json", type=Path, help="everything measured goes here too")
    options = parser.parse_args()
    runtime.configure()
    agent = Agent.load(options.run, seed=options.seed)
    runs = [measure(agent, options, load) for load in (0, host.cores())]
    count = max(1, *(len(run["returns"]) for run in runs))
    env = make_env(agent.info["task"], options.seed)
    told = {name: agent.info[name] for name in ("task", "method", "size")} | {
        "command": command(options),
        "hz": options.hz,
        "machine": runtime.describe(),
        "runs": runs,
        "untimed": untimed(agent, env, episodes=count, seed=options.seed),
    }
    env.close()
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    if options.into:
        insert(options.into, page(told))
    print(page(told))


if __name__ == "__main__":
    main()
