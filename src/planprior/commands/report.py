"""`planprior report`: one page of HTML about runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from planprior.commands import printing


@dataclass(frozen=True)
class Report:
    """Write one page of HTML about runs, which needs no network and no other file.

    It has a summary, learning curves beside published ones, verdicts, diagnostics,
    films (.mp4, .webm and .gif in the run folders), configuration and versions.

    Attributes:
        runs: Run folders, folders of them, or CSV tables.
        output: Where to; ends in .html.
        against: Published methods to compare with; by default the method's own curve,
            TD-MPC2 and BMPC.
        task: Task of tables that do not say; of others only these runs are shown.
        published: Folder with full published curves, instead of the package's table.
        title: Title of the page; made of methods and tasks by default.
        seed: Of the bootstrap.
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="[PATH [PATH ...]]")]
    output: Path = Path("report.html")
    against: tuple[str, ...] = ()
    task: str = ""
    published: Path | None = None
    title: str = ""
    seed: int = 0


def run(options: Report) -> int:
    """Write the page; one of this name is replaced once the new one is whole."""
    from planprior import figures, places, report, results
    from planprior.checked import require_seed

    output = options.output
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"output is {str(output)!r}; its name must end in .html")
    figures.check()
    places.require_place("output", output)
    require_seed(options.seed)
    page = report.page(
        results.read(options.runs, task=options.task),
        against=options.against,
        published=options.published,
        title=options.title,
        seed=options.seed,
    )
    with places.replacing(output) as aside:
        aside.write_text(page, encoding="utf-8")
    size = len(page) / 1e6
    printing.console().print(f"report: {output} ({size:.1f} MB)", soft_wrap=True)
    return 0
