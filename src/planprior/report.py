"""One page of HTML about runs: curves, tables, diagnostics, films, configuration.

It needs no network and no other file: figures and films are inside. It is made from
run folders and tables alone.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from planprior import comparison, figures, plots, results, run_plots
from planprior.comparison import Comparison
from planprior.results import Run
from planprior.tables import flattened

_Groups = Mapping[tuple[str, str], Sequence[Run]]

FILMS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}
DMCONTROL = "dmcontrol"
"""The benchmark whose returns are out of 1000, as published tables name it."""

LARGEST_FILM = 30_000_000
"""Bytes of a film that is put into the page; larger ones are named only."""

CSS = """
:root { --ink: #1b1f24; --soft: #5b6570; --line: #dfe3e8; --tint: #f5f7f9;
  --blue: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: white; line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; } header p { color: var(--soft); margin: .2rem 0; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
nav a { margin-right: 1.1rem; color: var(--blue); text-decoration: none; }
nav { margin: 1rem 0 0; } p.note { color: var(--soft); font-size: .88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; }
th, td { padding: .32rem .8rem .32rem 0; text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } .left { text-align: left; }
figure { margin: .5rem 0; } figure img { max-width: 100%; height: auto; }
.films { display: flex; flex-wrap: wrap; gap: 1rem; }
.films video, .films img { width: 320px; max-width: 100%; border-radius: 6px;
  border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .85rem; }
details { margin: .5rem 0; background: var(--tint); border-radius: 6px;
  padding: .5rem .9rem; } summary { cursor: pointer; font-weight: 600; }
.verdict { padding: .05rem .5rem; border-radius: 9px; background: var(--tint); }
.higher { background: #d8efe6; } .lower { background: #fbe3d3; }
@media print { nav { display: none; } h2 { break-after: avoid; }
  figure, table { break-inside: avoid; } }
"""


def page(
    runs: Sequence[Run],
    *,
    against: Sequence[str] = (),
    published: Path | None = None,
    title: str = "",
    seed: int = 0,
) -> str:
    """The whole page.

    Args:
        runs: Runs to report on.
        against: Published methods to compare with; the usual ones if empty.
        published: Folder with full published curves, instead of the package's table.
        title: Title; made of tasks and methods if empty.
        seed: Of the bootstrap.
    """
    groups = results.groups(runs)
    known = {task: results.published(task, published) for task, _ in groups}
    without = comparison.require_published(against, known)
    compared = {
        key: comparison.compare(
            of, comparison.choose(known[key[0]], against, of[0].method), key[1]
        )
        for key, of in groups.items()
    }
    sections = {
        "Summary": _summary(groups),
        "Curves": _curves(groups, compared),
        "Published": _published(compared, without),
        "Several tasks": _several(groups, seed),
        "Prior weight": _sweeps(runs),
        "Diagnostics": _diagnostics(groups),
        "Films": _films(runs),
        "Configuration": _configuration(runs),
    }
    return _document(title or _title(groups), sections)


def _document(title: str, sections: Mapping[str, str]) -> str:
    shown = {name: body for name, body in sections.items() if body}
    links = "".join(f'<a href="#{_anchor(n)}">{escape(n)}</a>' for n in shown)
    body = "".join(
        f'<section id="{_anchor(name)}"><h2>{escape(name)}</h2>{text}</section>\n'
        for name, text in shown.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>"
        f"<header><h1>{escape(title)}</h1><p>Returns are means over evaluation "
        "episodes; steps are environment steps; intervals are 95 % over seeds.</p>"
        f"<nav>{links}</nav></header>\n{body}</main></body></html>\n"
    )


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _title(groups: Mapping[tuple[str, str], Any]) -> str:
    tasks, labels = (list(dict.fromkeys(names)) for names in zip(*groups, strict=True))
    shown = [
        f"{', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
        for names in (labels, tasks)
    ]
    return " on ".join(shown)


# --- Pieces of HTML -------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A table of texts, which are escaped; the first columns are flush left."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=left' * (i < left)}>{_cell(text)}</{tag}>"
            for i, text in enumerate(cells)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{line("th", head)}</tr>{body}</table></div>'


def _cell(text: str) -> str:
    if text in comparison.VERDICTS:
        return f'<span class="verdict {text.split()[0]}">{escape(text)}</span>'
    return escape(text)


def _figure(figure: Any, caption: str) -> str:
    svg = io.BytesIO()
    figures.write_svg(figure, svg)
    data = base64.b64encode(svg.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


# --- Sections -------------------------------------------------------------------------


def _summary(groups: _Groups) -> str:
    head = ("task", "method", "seeds", "env steps", "planner", "policy", "hours")
    rows = [_summary_row(*key, of) for key, of in groups.items()]
    cuts = [
        f"{label} on {task}: {cut}"
        for (task, label), of in groups.items()
        if (cut := comparison.cut_short(of, "the curve ends"))
    ]
    notes = "".join(f'<p class="note">{escape(cut)}.</p>' for cut in cuts)
    return _table(head, rows, left=2) + notes


def _summary_row(task: str, label: str, runs: Sequence[Run]) -> tuple[str, ...]:
    curve = results.summarise(runs)
    last = curve.env_steps[-1]
    digits = 3 if curve.metric == "success" else 1
    at = curve.at(last)
    assert at is not None  # a curve tells its own points
    end = np.array([last])
    policy = results.values_at(runs, end, "policy_returns")
    hours = results.values_at(runs, end, "seconds") / 3600
    return (
        task,
        label,
        str(len(runs)),
        f"{last:,.0f}",
        comparison.text(at, digits),
        "–" if np.isnan(policy).all() else f"{np.nanmean(policy):.{digits}f}",
        "–" if np.isnan(hours).all() else f"{np.nanmean(hours):.2f}",
    )


def _curves(
    groups: _Groups,
    compared: Mapping[tuple[str, str], Sequence[Comparison]],
) -> str:
    panels = comparison.panels(groups, compared)
    page = _figure(plots.learning_curves(panels), "Return against environment steps.")
    timed: dict[str, dict[str, Sequence[Run]]] = {}
    for (task, label), runs in groups.items():
        if any(run.seconds is not None for run in runs):
            timed.setdefault(task, {})[label] = runs
    if timed:
        page += _figure(plots.wall_clock(timed), "Return against wall time.")
    return page


def _published(
    compared: Mapping[tuple[str, str], Sequence[Comparison]], without: Sequence[str]
) -> str:
    parts = []
    for found in compared.values():
        for one in found:
            ours, theirs = one.ours, one.theirs
            head = ("env steps", ours.label, theirs.label, "difference", "verdict")
            rows = [comparison.cells(row, one.digits) for row in one.rows]
            notes = "; ".join(results.caveats(theirs)) or "nothing known"
            parts += [
                f"<h3>{escape(ours.task)}: {escape(ours.label)} against "
                f"{escape(theirs.label)}</h3>",
                _table(head, rows) if rows else "<p>No budget in common.</p>",
                f'<p class="note">{escape(theirs.label)}: {escape(notes)}.</p>',
            ]
    if not parts:
        return ""
    return (
        '<p class="note">Student’s intervals of means, Welch’s of differences; each '
        "verdict is about one budget and says no more than its interval.</p>"
        + "".join(parts)
        + "".join(f'<p class="note">{escape(sentence)}.</p>' for sentence in without)
    )


def _several(groups: _Groups, seed: int) -> str:
    """Interquartile means, where there are several tasks of the same scale."""
    comparable, unit = _of_one_scale(groups)
    kept = plots.of_every_task(comparable)
    if len({task for task, _ in kept}) < 2:
        return ""
    rng = np.random.default_rng(seed)
    budget = float(min(run.env_steps[-1] for of in kept.values() for run in of))
    scores = plots.final_scores(kept, budget, 1000.0)
    if not scores:
        return ""
    figure = plots.aggregates(scores, budget=budget, unit=unit, rng=rng)
    return _figure(
        figure,
        "Interquartile mean, stratified bootstrap; where a task has one run there is "
        "no interval.",
    )


def _of_one_scale(groups: _Groups) -> tuple[_Groups, str]:
    """Success rates where every run has them, else DMControl's returns out of 1000.

    Returns of other suites have scales of their own, task by task.
    """
    rates = {key: results.as_metric(of, "success") for key, of in groups.items()}
    if all(len(rates[key]) == len(of) for key, of in groups.items()):
        return rates, "success rate"
    returns = {
        (task, label): of
        for (task, label), of in groups.items()
        if any(curve.benchmark == DMCONTROL for curve in results.published(task))
        and len(results.as_metric(of, "return")) == len(of)
    }
    return returns, "return / 1000"


def _sweeps(runs: Sequence[Run]) -> str:
    parts = []
    for method in dict.fromkeys(run.method for run in runs):
        groups = results.sweeps([run for run in runs if run.method == method])
        of = [run for same in groups.values() for run in same]
        if of:
            budget = float(min(run.env_steps[-1] for run in of))
            caption = f"{method}: return against the prior weight."
            parts.append(_figure(plots.sweep(of, [budget]), caption))
    return "".join(parts)


def _diagnostics(groups: _Groups) -> str:
    """Of the first seed of every method: the others have the same pictures."""
    parts = []
    for (task, label), runs in groups.items():
        run = runs[0]
        log = results.read_log(run)
        if log:
            figure = run_plots.diagnostics(run, log, results.read_values(run))
            caption = f"{label} on {task}, seed {run.seed}."
            parts.append(_figure(figure, caption))
    return "".join(parts)


def _folders(runs: Sequence[Run]) -> list[Path]:
    return list(dict.fromkeys(Path(run.path).parent for run in runs))


def _films(runs: Sequence[Run]) -> str:
    parts = []
    for folder in _folders(runs):
        if not (folder / "config.json").exists():
            continue
        for path in sorted(folder.iterdir()):
            kind = FILMS.get(path.suffix.lower())
            if kind:
                parts.append(_film(path, kind))
    return f'<div class="films">{"".join(parts)}</div>' if parts else ""


def _film(path: Path, kind: str) -> str:
    name = escape(f"{path.parent.name}/{path.name}")
    if path.stat().st_size > LARGEST_FILM:
        return f"<figure><figcaption>{name} is too large to embed</figcaption></figure>"
    data = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    shown = (
        f'<img alt="{name}" src="{data}">'
        if kind.startswith("image")
        else f'<video controls loop muted playsinline src="{data}"></video>'
    )
    return f"<figure>{shown}<figcaption>{name}</figcaption></figure>"


def _configuration(runs: Sequence[Run]) -> str:
    parts = []
    for folder in _folders(runs):
        config = results.read_config(folder)
        if not config:
            continue
        machine, resumed = config.get("machine", {}), config.get("resumed", [])
        told = {"folder": str(folder), **flattened({"machine": machine})}
        for start in resumed:
            at = f"resumed at {start['step']:,} env steps"
            told[at] = f"{start.get('date')}: {start.get('command')}"
        rest = {k: v for k, v in config.items() if k not in ("machine", "resumed")}
        parts.append(
            f"<details><summary>{escape(folder.resolve().name)}</summary>"
            f"<h3>Machine and versions</h3>{_facts(told)}"
            f"<h3>Configuration</h3>{_facts(flattened(rest))}</details>"
        )
    return "".join(parts)


def _facts(values: Mapping[str, Any]) -> str:
    rows = [(name, str(value)) for name, value in values.items()]
    return _table(("name", "value"), rows, left=2)
