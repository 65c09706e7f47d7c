"""`planprior export`: one agent as a folder that can be carried anywhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from planprior.commands import printing


@dataclass(frozen=True)
class Export:
    """Write one agent of a run into a folder of its own, of a few megabytes.

    On request with programs for other runtimes in it, which have the weights inside and
    need no planprior; runtimes.json describes them.

    Attributes:
        run: Run folder, one of its checkpoints, or an agent's folder.
        folder: Where to; an agent that is there is replaced.
        checkpoint: best (by evaluation), latest, or the environment steps of one.
        member: Which agent of a population.
        onnx: Add policy.onnx: the policy's action without noise.
        stablehlo: Add policy.stablehlo and plan.stablehlo: the same, and one plan.
        platforms: What StableHLO programs are for: cpu, cuda, rocm, tpu, or several.
        samples: Of the exported plan, instead of the agent's own.
        iterations: Of the exported plan, instead of the agent's own.
        ahead: Let the exported plan begin where the action under way leads to, a
            further input, as the controller does to make up for a period of delay.
    """

    run: Annotated[Positional[str], arg(metavar="PATH")]
    folder: Positional[Path]
    checkpoint: str = "best"
    member: int = 0
    onnx: bool = False
    stablehlo: bool = False
    platforms: tuple[str, ...] = ("cpu",)
    samples: int | None = None
    iterations: int | None = None
    ahead: bool = False


def run(options: Export) -> int:
    """Export, and say what it came to."""
    from planprior import runtime
    from planprior.acting import Agent
    from planprior.commands.eval import parse_checkpoint
    from planprior.exporters import manifest
    from planprior.exporting import Learner, export

    check_folder(options.folder)
    which = parse_checkpoint(options.checkpoint)
    wanted = manifest.Wanted(
        options.stablehlo, options.onnx, options.platforms, options.samples,
        options.iterations, options.ahead,
    )  # fmt: skip
    wanted.check()
    runtime.configure()
    agent = Agent.load(options.run, checkpoint=which, member=options.member)
    files = manifest.files(agent, wanted)
    run = Path(options.run)
    is_run = (run / "checkpoints").is_dir()
    learner, origin = Learner.of(agent.state), run if is_run else None
    export(agent, learner, options.folder, origin, files)
    _tell(agent.info, options, files)
    return 0


def check_folder(folder: Path) -> None:
    """Check that an agent can be written there: the folder is made aside and renamed.

    Raises:
        ValueError: It has no name of its own, such as "", "." or "..".
    """
    if folder.name in ("", ".."):
        raise ValueError(
            f"folder is {str(folder)!r}; it must have a name of its own, such as agent/"
        )


def _tell(info: dict[str, Any], options: Export, files: dict[str, bytes]) -> None:
    from planprior.exporters import stablehlo
    from planprior.runtime import format_bytes

    folder, platforms = options.folder, options.platforms
    console = printing.console(soft_wrap=True)
    size = format_bytes(sum(file.stat().st_size for file in folder.iterdir()))
    console.print(
        f"{_named(info)}: {size} in {folder}; look at it with: planprior eval {folder}"
    )
    if files:
        console.print(f"for other runtimes: {', '.join(files)}")
    if options.stablehlo and stablehlo.device_for(platforms) is None:
        console.print(
            "the StableHLO programs were not compared with the agent: nothing here "
            f"runs what is for {', '.join(platforms)}"
        )


def _named(info: dict[str, Any]) -> str:
    from planprior.exporting import experience

    return f"{info['task'] or 'no task'}, {info['method']}, {experience(info)}"
