"""`planprior import`: an agent from another program's checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from planprior.commands import printing
from planprior.commands.export import check_folder

Program = Literal["tdmpc2", "bmpc", "tdmpc_square"]


@dataclass(frozen=True)
class Import:
    """Make an agent of a checkpoint that another program published.

    Nothing in the file is run, and PyTorch is not needed. Sizes come from the file.

    Attributes:
        program: Which program wrote it: tdmpc2, bmpc or tdmpc_square.
        file: The checkpoint (.pt).
        folder: Where the agent goes; an agent that is there is replaced.
        task: What it was trained for; needed to evaluate or film it later.
        episode_length: Decisions of an episode, where no task says; the discount
            follows from it.
        verbose: Name every tensor.
    """

    program: Positional[Annotated[Program, arg(metavar="PROGRAM")]]
    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    task: str = ""
    episode_length: int = 500
    verbose: bool = False


def run(options: Import) -> int:
    """Import, and account for every tensor."""
    from planprior.exporting import save_published
    from planprior.importers import published

    check_folder(options.folder)
    agent = published.read(
        options.file,
        options.program,
        _spec(options.task),
        episode_length=options.episode_length,
    )
    info = published.describe(agent, options.file, options.program)
    save_published(agent, options.folder, info)
    _tell(agent, options)
    return 0


def _spec(task: str) -> Any:
    if not task:
        return None
    from planprior.envs.registry import task_spec

    return task_spec(task)


def _tell(agent: Any, options: Import) -> None:
    console = printing.console(soft_wrap=True)
    spec, report, heads = agent.spec, agent.report, agent.config.critic
    console.print(
        f"{options.folder}: {agent.method}, size {agent.size}, "
        f"{spec.observation_dim} observations, {spec.action_dim} actions, "
        f"{heads.num_heads} {heads.kind.upper()} heads, discount "
        f"{float(agent.hypers.discount):g}"
    )
    console.print(
        f"{len(report.used)} tensors used, {len(report.repeated)} that list the heads "
        f"again, {len(report.skipped)} entries without numbers, none left over"
    )
    if options.verbose:
        for name in ("used", "repeated", "skipped"):
            console.print(f"{name}: {' '.join(getattr(report, name))}")
    if not options.task:
        console.print(
            "no --task was given: the agent can act, but planprior eval has no "
            "environment for it"
        )
