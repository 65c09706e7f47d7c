"""How figures look, and their files: colour-blind safe, readable in black and white.

Figures are matplotlib's, which `save` writes as PNG, SVG or PDF; the same data make the
same file. Nothing here opens a window.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

from planprior import places

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000"),
)
"""Okabe and Ito's palette, whose yellow is too pale for lines."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1)), (0, (6, 2, 1, 2)))
MARKERS = "osD^vPX*<>p"
SUFFIXES = (".png", ".svg", ".pdf")
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "planprior",
    "pdf.fonttype": 42,
}
PANEL = (3.4, 2.5)


def check(path: str | Path | None = None) -> None:
    """Check that figures can be made, and written to `path`.

    Raises:
        ValueError: The name has another ending than .png, .svg or .pdf, or nothing can
            be written there.
        ModuleNotFoundError: matplotlib is not installed.
    """
    if path is not None and Path(path).suffix.lower() not in SUFFIXES:
        endings = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise ValueError(f"output is {str(path)!r}; its name must end in {endings}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "figures need the package matplotlib; run: pip install 'planprior[plot]'"
        )
    if path is not None:
        places.require_place("output", path)


def save(figure: Any, path: str | Path) -> Path:
    """Write a figure; a file of this name is replaced once the new one is whole.

    Args:
        figure: A figure of matplotlib.
        path: Where to; ends in .png, .svg or .pdf. Its folder is made if need be.

    Returns:
        The path.
    """
    check(path)
    path = Path(path)
    dated = {".png": "Software", ".svg": "Date", ".pdf": "CreationDate"}
    with places.replacing(path) as aside, styled():
        figure.savefig(
            aside,
            bbox_inches="tight",
            metadata={dated[path.suffix.lower()]: None},
        )
    return path


def write_svg(figure: Any, file: BytesIO) -> None:
    """Write a figure as SVG whose letters are shapes, so that it needs no font."""
    import matplotlib

    with styled(), matplotlib.rc_context({"svg.fonttype": "path"}):
        metadata = {"Date": None}
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=metadata)


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of all figures here."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def panels_of(
    count: int, *, columns: int = 3, size: tuple[float, float] = PANEL
) -> Any:
    """A figure and its axes, as many as asked for."""
    from matplotlib.figure import Figure

    columns = 2 if count in (2, 4) else min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def legend(figure: Any, axes: Iterable[Any]) -> None:
    """One legend for all axes, each name once: beside one panel, below several."""
    axes = list(axes)
    found = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if not found:
        return
    width, height = figure.get_size_inches()
    entry = 0.55 + 0.072 * max(map(len, found))
    columns = 1
    if len(axes) == 1:
        place = "outside right upper"
        figure.set_size_inches(width + entry, height)
    else:
        place = "outside lower center"
        columns = max(1, min(len(found), int(width / entry)))
        rows = -(-len(found) // columns)
        figure.set_size_inches(width, height + 0.19 * rows)
    figure.legend(
        found.values(), found.keys(), loc=place, ncols=columns, handlelength=2.8
    )


def literal(text: str) -> str:
    """Text that matplotlib shows letter by letter.

    Between two `$` it would read a formula, and leave what begins with `_` out of
    legends.
    """
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def short(number: float | int, _: Any = None) -> str:
    """A number of steps as axes show it: 500k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


class Look(NamedTuple):
    """How the lines of one method look in every panel."""

    color: str
    linestyle: Any
    marker: str


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for every label: colour, dash and marker change, for grey prints.

    Their numbers have no divisor in common, so that no two of hundreds look alike.
    """
    return {
        label: Look(
            COLOURS[i % len(COLOURS)],
            DASHES[i % len(DASHES)],
            MARKERS[i % len(MARKERS)],
        )
        for i, label in enumerate(dict.fromkeys(labels))
    }


def step_axis(ax: Any, ends: Sequence[float]) -> None:
    """Make the horizontal axis one of environment steps, up to the last of the ends."""
    ax.xaxis.set_major_formatter(short)
    ax.set_xlabel("env steps")
    # With room for markers at 0, and for scores published at the end of ours alone.
    end = max(ends) or 1
    ax.set_xlim(-0.015 * end, 1.06 * end)
