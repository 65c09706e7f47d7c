"""`planprior control`: an agent at a fixed rate, in a simulator in real time."""

from dataclasses import dataclass
from typing import Annotated, Any

from rich.table import Table
from tyro.conf import Positional, arg

from planprior.commands import printing
from planprior.tables import as_json


@dataclass(frozen=True)
class Control:
    """Drive the simulator of an agent's task in real time, and say how it went.

    Attributes:
        run: Run folder, one of its checkpoints, or an agent's folder.
        hz: Actions per second; by default as many as a simulated second has.
        seconds: How long to drive.
        max_rate: The most that an entry of the action may change per second.
        seed: Of the episodes and of what is random in planning.
        checkpoint: best (by evaluation), latest, or the environment steps of one.
        member: Which agent of a population.
        compare: Play the same episodes without a clock too, which takes a while.
        json: Print one JSON object and nothing else.
    """

    run: Annotated[Positional[str], arg(metavar="PATH")]
    hz: float | None = None
    seconds: float = 30.0
    max_rate: float | None = None
    seed: int = 0
    checkpoint: str = "best"
    member: int = 0
    compare: bool = True
    json: bool = False


def run(options: Control) -> int:
    """Drive, compare, and tell."""
    from planprior import runtime
    from planprior.acting import Agent
    from planprior.commands.eval import parse_checkpoint
    from planprior.envs.registry import make_env
    from planprior.envs.rows import close_all

    if not options.seconds > 0:
        raise ValueError(f"seconds is {options.seconds}; it must be above 0")
    which = parse_checkpoint(options.checkpoint)
    runtime.configure()
    agent = Agent.load(
        options.run, checkpoint=which, member=options.member, seed=options.seed
    )
    if not agent.info["task"]:
        raise ValueError(
            f"{options.run}: the agent has no task; import it again with --task"
        )
    env = make_env(agent.info["task"], options.seed)
    try:
        told = _driven(agent, env, options)
    finally:
        close_all([env], agent.info["task"])
    if options.json:
        print(as_json(told))
    else:
        tell(told)
    return 0


def _driven(agent: Any, env: Any, options: Control) -> dict[str, Any]:
    from planprior.controller import Controller
    from planprior.realtime import drive, untimed

    hz = 1 / env.step_seconds if options.hz is None else options.hz
    limits = {"max_rate": options.max_rate, "seed": options.seed}
    with Controller(agent, hz, **limits) as controller:
        driven = drive(controller, env, seconds=options.seconds, seed=options.seed)
        told = controller.report()
    count = len(driven.returns) if options.compare else 0
    return told | {
        "task": agent.info["task"],
        "hz": hz,
        "real_time": hz * env.step_seconds,
        "seconds": driven.seconds,
        "lateness_ms": driven.lateness.summary(),
        "returns": driven.returns,
        "untimed_returns": untimed(agent, env, episodes=count, seed=options.seed),
    }


def tell(told: dict[str, Any]) -> None:
    """Print what happened."""
    console = printing.console(soft_wrap=True)
    console.print(
        f"{told['task']} at {told['hz']:g} Hz for {told['seconds']:.1f} s "
        f"({told['real_time']:.2f} times real time): {told['actions']} actions, "
        f"{told['missed']} missed deadlines"
    )
    console.print(_latencies(told))
    used = {name: n for name, n in told["sources"].items() if n}
    console.print(
        "actions from: " + ", ".join(f"{name} {n}" for name, n in used.items())
    )
    if told["error"]:
        console.print(f"the planner stopped: {told['error']}")
    console.print(_returns(told))


def _latencies(told: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("milliseconds", "p50", "p95", "p99", "max"):
        table.add_column(column)
    for name, key in (
        ("observation to plan", "latency_ms"),
        ("call of act", "call_ms"),
        ("action after it was due", "lateness_ms"),
    ):
        times = (told[key][column] for column in ("p50", "p95", "p99", "max"))
        table.add_row(name, *("–" if x is None else f"{x:.2f}" for x in times))
    return table


def _returns(told: dict[str, Any]) -> str:
    timed, untimed = told["returns"], told["untimed_returns"]
    if not timed:
        return "no episode ended; drive for more --seconds to see its return"
    mean = sum(timed) / len(timed)
    text = f"return {mean:.1f} ({len(timed)} episodes)"
    if untimed:
        free = sum(untimed) / len(untimed)
        share = f", {100 * mean / free:.1f} % of it" if free > 0 else ""
        text += f", un-timed {free:.1f}{share}"
    return text
