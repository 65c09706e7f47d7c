"""`planprior compare`: runs beside published curves, with a verdict per budget."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from planprior.commands import printing
from planprior.tables import as_json

if TYPE_CHECKING:
    from planprior.comparison import Comparison
    from planprior.intervals import Estimate
    from planprior.results import Curve, Run


@dataclass(frozen=True)
class Compare:
    """Compare runs with published learning curves, at equal environment steps.

    Every budget has the mean and 95 % interval of both, their difference with its
    interval, and a verdict that says no more than that interval does.

    Attributes:
        runs: Run folders, folders of them, or CSV tables with the columns step,
            episode_reward and seed, of any program.
        against: Published methods, e.g. BMPC, SimbaV2 or TD-MPC2@bmpc (by source);
            by default the method's own curve, TD-MPC2 and BMPC.
        task: Task of tables that do not say; of others only these runs are compared.
        name: Name of the method of tables that do not say.
        budgets: Environment steps to compare at; a few round ones by default.
        published: Folder with full published curves, instead of the package's table.
        output: Write a figure to this file (.png, .svg or .pdf).
        json: Print a JSON array, of one object a comparison, and nothing else.
    """

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="[PATH [PATH ...]]")]
    against: tuple[str, ...] = ()
    task: str = ""
    name: str = ""
    budgets: tuple[int, ...] = ()
    published: Path | None = None
    output: Path | None = None
    json: bool = False


def run(options: Compare) -> int:
    """Print tables, verdicts and caveats; draw the figure where asked to."""
    from planprior import comparison, figures, results

    if any(budget < 1 for budget in options.budgets):
        raise ValueError(f"budgets is {options.budgets}; each must be at least 1")
    if options.output:
        figures.check(options.output)
    runs = results.read(options.runs, task=options.task, method=options.name)
    groups = results.groups(runs)
    known = {task: results.published(task, options.published) for task, _ in groups}
    without = comparison.require_published(options.against, known)
    found = [
        (of, _compare(of, label, known[task], options))
        for (task, label), of in groups.items()
    ]
    if options.output:
        _draw(found, groups, options.output)
    if options.json:
        print(as_json([_plain(c) for _, made in found for c in made]))
        return 0
    # Where there is no terminal to fit, tables are as wide as what they say.
    width = None if Console().is_terminal else 1000
    console = printing.console(width=width)
    for of, comparisons in found:
        if not comparisons:
            first = of[0]
            there = comparison.told_published(known[first.task])
            console.print(f"{first.method} on {first.task}: {there}", soft_wrap=True)
            continue
        cut = "" if options.budgets else comparison.cut_short(of)
        _tell(console, of, comparisons, cut)
    for sentence in without:
        console.print(sentence, soft_wrap=True)
    if options.output:
        console.print(f"figure: {options.output}", soft_wrap=True)
    return 0


def _compare(
    runs: "list[Run]", label: str, known: "list[Curve]", options: Compare
) -> "list[Comparison]":
    from planprior import comparison

    rivals = comparison.choose(known, options.against, runs[0].method)
    return comparison.compare(runs, rivals, label, options.budgets)


def _draw(found: Any, groups: Any, output: Path) -> None:
    from planprior import comparison, figures, plots

    made = (comparisons for _, comparisons in found)
    panels = comparison.panels(groups, dict(zip(groups, made, strict=True)))
    figures.save(plots.learning_curves(panels), output)


def _tell(
    console: Console, runs: "list[Run]", comparisons: "list[Comparison]", cut: str
) -> None:
    from planprior import comparison, results

    for compared in comparisons:
        console.print(_table(compared))
    if cut:
        console.print(f"{cut} (--budgets asks for others)", soft_wrap=True)
    console.print("protocols:")
    told = {comparisons[0].ours.label: [comparison.protocol(runs[0])]}
    told |= {c.theirs.label: results.caveats(c.theirs) for c in comparisons}
    for label, texts in told.items():
        console.print(
            f"  {label}: {'; '.join(texts) or 'nothing known'}", soft_wrap=True
        )
    console.print(
        "  95 % intervals over seeds (Student's t; of differences, Welch's), each for "
        "one budget alone.\n",
        soft_wrap=True,
    )


def _table(compared: "Comparison") -> Table:
    from planprior import comparison

    ours, theirs = compared.ours, compared.theirs
    table = Table(
        title=f"{ours.task}: {ours.label} against {theirs.label}",
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
        header_style="bold",
    )
    for column in ("env steps", ours.label, theirs.label, "difference"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for row in compared.rows:
        table.add_row(*comparison.cells(row, compared.digits))
    if not compared.rows:
        table.add_row("", "", "", "", "no budget, or no measure, in common")
    return table


def _plain(compared: "Comparison") -> dict[str, Any]:
    from planprior import results

    def told(x: "Estimate | None") -> dict[str, Any] | None:
        if x is None:
            return None
        ends = {"low": x.low, "high": x.high} if x.has_interval else {}
        return {"mean": x.mean, **ends, "seeds": x.seeds}

    return {
        "task": compared.ours.task,
        "method": compared.ours.label,
        "against": compared.theirs.method,
        "source": compared.theirs.source,
        "caveats": results.caveats(compared.theirs),
        "budgets": [
            {
                "env_steps": row.env_steps,
                "ours": told(row.ours),
                "theirs": told(row.theirs),
                "difference": told(row.gap),
                "verdict": row.verdict,
            }
            for row in compared.rows
        ],
    }
