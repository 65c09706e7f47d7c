"""`planprior export`: one agent as a folder that can be carried anywhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tyro.conf import Positional


@dataclass(frozen=True)
class Export:
    """Write one agent of a run into a folder of its own, of a few megabytes.

    Attributes:
        run: Run folder, one of its checkpoints, or an agent's folder.
        folder: Where to; an agent that is there is replaced.
        checkpoint: best (by evaluation), latest, or the environment steps of one.
        member: Which agent of a population.
    """

    run: Positional[Path]
    folder: Positional[Path]
    checkpoint: str = "best"
    member: int = 0


def run(options: Export) -> int:
    """Export, and say what it came to."""
    from planprior.acting import Agent
    from planprior.commands.eval import parse_checkpoint
    from planprior.exporting import Learner, export

    which = parse_checkpoint(options.checkpoint)
    agent = Agent.load(options.run, checkpoint=which, member=options.member)
    is_run = (options.run / "checkpoints").is_dir()
    export(
        agent, Learner.of(agent.state), options.folder, options.run if is_run else None
    )
    _tell(agent.info, options.folder)
    return 0


def _tell(info: dict[str, Any], folder: Path) -> None:
    from planprior.runtime import format_bytes

    size = format_bytes(sum(file.stat().st_size for file in folder.iterdir()))
    said = f"{info['task'] or 'no task'}, {info['method']}"
    said += f", at {info.get('step') or 0:,} env steps"
    Console(highlight=False).print(
        f"{said}: {size} in {folder}; look at it with: planprior eval {folder}",
        soft_wrap=True,
        markup=False,
    )
