"""`planprior check-env`: look at an environment before training in it."""

import dataclasses
from dataclasses import dataclass

from rich.table import Table
from tyro.conf import Positional

from planprior.commands import printing
from planprior.tables import as_json

MARKS = {"good": "ok", "advice": "advice", "broken": "BROKEN"}


@dataclass(frozen=True)
class CheckEnv:
    """Look at an environment with random actions: what is wrong, and what to do.

    The exit status is 1 where something is broken.

    Attributes:
        task: A task, as `planprior train` takes it.
        steps: Decisions to play in each of two environments.
        seed: Of actions and environments.
        json: Print one JSON object and nothing else.
    """

    task: Positional[str]
    steps: int = 2000
    seed: int = 0
    json: bool = False


def run(options: CheckEnv) -> int:
    """Check and tell."""
    from planprior.checked import require_seed
    from planprior.envs.check import ENVS, check
    from planprior.envs.registry import make_pool, resolve

    if options.steps < 10:
        raise ValueError(f"steps is {options.steps}; it must be at least 10")
    require_seed(options.seed)
    task = resolve(options.task)
    spec, findings = check(
        lambda: make_pool(task, ENVS, options.seed, workers=0),
        _agent,
        options.steps,
        options.seed,
    )
    levels = [finding.level for finding in findings]
    if options.json:
        told = {
            "task": task,
            "spec": spec and dataclasses.asdict(spec),
            "broken": levels.count("broken"),
            "advice": levels.count("advice"),
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        print(as_json(told))
    else:
        _tell(task, findings)
    return int("broken" in levels)


def _agent(spec):
    """What `planprior train` would do by default."""
    from planprior.config import Config
    from planprior.envs.check import Agent
    from planprior.hypers import discount_for

    config = Config()
    return Agent(
        discount=discount_for(spec.episode_length),
        horizon=config.horizon,
        symlog_max=config.network.symlog_max,
        num_bins=config.network.num_bins,
    )


def _tell(task: str, findings: list) -> None:
    # Cells too are printed as they are: what is in brackets is no markup.
    console = printing.console()
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in findings:
        todo = f"\n→ {finding.todo}" if finding.todo else ""
        table.add_row(MARKS[finding.level], finding.topic, finding.seen + todo)
    console.print(task)
    console.print(table)
    broken = sum(finding.level == "broken" for finding in findings)
    if not broken:
        console.print(f"train in it with: planprior train {task}", soft_wrap=True)
