"""The one style of all plots: colours, fonts, grids, legends; files written whole."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sb_margins.files import write_whole

# Okabe and Ito's colours (2008), safe for colour-blind readers; yellow is too pale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
BLUE, ORANGE = COLOURS[:2]
GREY = "#555555"
# Curves differ in dashes too, for print in black.
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = "os^DvP"
ACROSS = 3  # panels in a row

SETTINGS: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "sb_margins",
}
# Without dates and versions: the same data gives the same bytes.
METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


@contextmanager
def drawing(
    path: str | Path,
    width: float,
    height: float,
    down: int = 1,
    across: int = 1,
    **axes: Any,
) -> Iterator[tuple[Any, list[Any]]]:
    """Yield a figure (sizes in inches) and its axes row by row; write it at the end.

    A figure of one column is about 5 inches wide: its text stays readable when a
    telephone shrinks it to 390 pixels.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(down, across, squeeze=False, **axes)
        yield figure, list(grid.flat)
        with write_whole(path) as temporary:
            kind = METADATA.get(temporary.suffix.lower())
            figure.savefig(temporary, dpi=150, metadata=kind)


@contextmanager
def panels(
    path: str | Path, names: Sequence[str], *, share: str = "", height: float = 2.5
) -> Iterator[tuple[Any, list[Any]]]:
    """``drawing`` with a titled panel for each system; ``share`` an axis: x, or all."""
    from matplotlib.ticker import MaxNLocator

    across = min(ACROSS, len(names))
    down = -(-len(names) // across)
    size = (3.2 * across + (1.2 if across == 1 else 0), height * down + 0.7)
    shared = {"sharex": bool(share), "sharey": share == "all"}
    with drawing(path, *size, down, across, **shared) as (fig, grid):
        for number, axes in enumerate(grid):
            axes.set_visible(number < len(names))
            if share and number + across >= len(names):
                axes.tick_params(labelbottom=True)
        for axes, name in zip(grid, names, strict=False):
            axes.set_title("\n".join(textwrap.wrap(name, 32)))
            axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        yield fig, grid[: len(names)]


def label_outer(grid: Sequence[Any], x: str, y: str) -> None:
    """Label the left panels' vertical axes and the lowest panels' horizontal ones."""
    for number, axes in enumerate(grid):
        if number % ACROSS == 0:
            axes.set_ylabel(y)
        if number + ACROSS >= len(grid):
            axes.set_xlabel(x)


def look(number: int) -> tuple[str, Any, str]:
    """Colour, dashes and marker of a series; the latter change when colours repeat."""
    shifted = number + number // len(COLOURS)
    colour = COLOURS[number % len(COLOURS)]
    return colour, DASHES[shifted % len(DASHES)], MARKERS[shifted % len(MARKERS)]


def handle(label: str, colour: str, dash: Any = "-", marker: str = "") -> Any:
    """A legend's entry that is no curve of the plot."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, ls=dash, marker=marker, ms=5, label=label)


def legend_below(figure: Any, handles: Sequence[Any], columns: int = 0) -> None:
    """A legend under all panels; in one column when the figure is narrow."""
    if not columns:
        columns = 1 if figure.get_figwidth() < 6 else len(handles)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, handlelength=3
    )
