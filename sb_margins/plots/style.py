"""One look for all pictures: Okabe and Ito's colours, told apart by everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Colour-blind safe, in the order of use (Okabe and Ito, 2008); no yellow: too pale.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#555555"
# Curves differ in dashes too, for print in black.
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))


def figure(width: float = 6.0, height: float = 4.5) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a screen.

    Arguments
    ---------
    width, height : float
        Inches.

    Returns
    -------
    tuple
        ``matplotlib.figure.Figure`` and ``Axes``.

    Example
    -------
    >>> fig, axes = figure()
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(fig)
    axes = fig.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return fig, axes


def save(fig: Any, path: str | Path) -> None:
    """Write the picture; the same figure gives the same bytes.

    Arguments
    ---------
    fig : matplotlib.figure.Figure
    path : str or Path
        ``.png`` (or what matplotlib writes).

    Example
    -------
    >>> save(figure()[0], getfixture("tmp_path") / "empty.png")
    """
    fig.savefig(
        path,
        dpi=150,
        metadata={"Software": None} if str(path).endswith(".png") else None,
    )
