"""Many systems side by side: a small panel for each, all with the same axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.plots.histogram import score_bins
from sb_margins.plots.style import COLOURS, GREY, save
from sb_margins.verification.points import split_scores

ACROSS = 3


def grid_of(count: int, *, sharey: bool = True) -> tuple[Any, list[Any]]:
    """A figure with a panel for each of ``count`` systems.

    Arguments
    ---------
    count : int
        1 or more.
    sharey : bool
        Whether all have the same vertical axis.

    Returns
    -------
    tuple
        The figure and its axes, row by row; empty places are left out.

    Example
    -------
    >>> len(grid_of(4)[1])
    4
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(ACROSS, count)
    down = -(-count // across)
    width = 3.2 * across + (1.2 if across == 1 else 0)
    fig = Figure(figsize=(width, 2.5 * down + 0.7), layout="constrained")
    FigureCanvasAgg(fig)
    every = fig.subplots(down, across, sharex=sharey, sharey=sharey, squeeze=False)
    for number, axes in enumerate(every.flat):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        if number >= count:
            axes.set_visible(False)
        elif sharey and number + across >= count:
            axes.tick_params(labelbottom=True)
    return fig, list(every.flat)[:count]


def plot_learning(
    systems: Mapping[str, Sequence[Sequence[Mapping[str, float]]]],
    path: str | Path,
    *,
    baseline: str,
    key: str = "EER",
) -> None:
    """Draw a figure of the history over epochs to a PNG, a panel a system.

    Lines are means over seeds, bands go from the lowest to the highest seed; the
    baseline is in every panel, in grey.

    Arguments
    ---------
    systems : mapping of str to sequences of rows
        The histories of each system's seeds.
    path : str or Path
        The PNG file.
    baseline : str
        One of the systems.
    key : str
        ``"EER"`` (default) or ``"accuracy"``: a share.

    Example
    -------
    >>> rows = [{"epoch": 0, "EER": 0.4}, {"epoch": 1, "EER": 0.3}]
    >>> path = getfixture("tmp_path") / "learning.png"
    >>> plot_learning({"am": [rows], "ham": [rows]}, path, baseline="am")
    >>> path.is_file()
    True
    """
    from matplotlib.ticker import MaxNLocator

    fig, panels = grid_of(len(systems))
    base = _bands(systems[baseline], key)
    colour = COLOURS[1] if key == "EER" else COLOURS[0]
    unit = "dev EER (%)" if key == "EER" else f"{key} (%)"
    top = 0.0
    for number, (axes, (name, histories)) in enumerate(
        zip(panels, systems.items(), strict=True)
    ):
        epochs, mean, low, high = _bands(histories, key)
        top = max(top, *(100 * high))
        axes.fill_between(epochs, 100 * low, 100 * high, color=colour, alpha=0.25, lw=0)
        axes.plot(epochs, 100 * mean, color=colour, lw=1.8)
        if name != baseline:
            axes.plot(base[0], 100 * base[1], color=GREY, lw=1.3, ls=":")
        axes.set_title(_wrapped(name), fontsize=9)
        if number % ACROSS == 0:
            axes.set_ylabel(unit)
        if number + ACROSS >= len(panels):
            axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylim(0, 1.05 * top or 1.0)
    _legend(fig, [(unit, colour, "-"), (f"that of {baseline}", GREY, ":")])
    save(fig, path)


def _bands(
    histories: Sequence[Sequence[Mapping[str, float]]], key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Epochs, mean, lowest and highest value over seeds."""
    values: dict[float, list[float]] = {}
    for rows in histories:
        for row in rows:
            if key in row:
                values.setdefault(row["epoch"], []).append(row[key])
    epochs = sorted(values)
    found = [np.array([f(values[e]) for e in epochs]) for f in (np.mean, min, max)]
    return np.array(epochs), found[0], found[1], found[2]


def plot_histograms(
    systems: Mapping[str, tuple[np.ndarray, np.ndarray, float, str]],
    path: str | Path,
) -> None:
    """Draw the densities of target and non-target scores to a PNG, a panel a system.

    Arguments
    ---------
    systems : mapping of str to tuple
        Scores [N], labels [N], threshold, and what a score is (``"cosine"``).
    path : str or Path
        The PNG file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.png"
    >>> scores, labels = np.array([0.9, 0.4, 0.5, 0.1]), np.array([1, 1, 0, 0])
    >>> plot_histograms({"am": (scores, labels, 0.45, "cosine")}, path)
    >>> path.is_file()
    True
    """
    fig, panels = grid_of(len(systems), sharey=False)
    for number, (axes, (name, told)) in enumerate(
        zip(panels, systems.items(), strict=True)
    ):
        scores, labels, threshold, unit = told
        target, nontarget = split_scores(scores, labels)
        edges = score_bins(target, nontarget, 60)
        for values, colour, dash in (
            (nontarget, COLOURS[1], "--"),
            (target, COLOURS[0], "-"),
        ):
            counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
            density = counts / values.size / (edges[1] - edges[0])
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.25)
            axes.stairs(density, edges, color=colour, ls=dash, lw=1.3)
        axes.axvline(threshold, color="black", lw=1.0, ls=":")
        axes.set_title(_wrapped(name), fontsize=9)
        axes.set_xlabel(unit, fontsize=8)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        if number % ACROSS == 0:
            axes.set_ylabel("density", fontsize=8)
    _legend(
        fig,
        [
            ("target trials", COLOURS[0], "-"),
            ("non-target trials", COLOURS[1], "--"),
            ("EER threshold", "black", ":"),
        ],
    )
    save(fig, path)


def _legend(fig: Any, told: Sequence[tuple[str, str, str]]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=c, ls=d, lw=1.8, label=t) for t, c, d in told]
    narrow = fig.get_figwidth() < 6
    fig.legend(
        handles=lines,
        loc="outside lower center",
        ncols=1 if narrow else len(lines),
        fontsize=8,
        frameon=False,
        handlelength=3,
    )


def _wrapped(name: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(name, 32))
