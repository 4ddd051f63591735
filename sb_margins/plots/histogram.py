"""How the scores of target and non-target trials lie, with the thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.plots.style import COLOURS, DASHES, figure, save
from sb_margins.verification.points import split_scores


def score_bins(target: np.ndarray, nontarget: np.ndarray, count: int) -> np.ndarray:
    """Bin edges from the lowest to the highest scores but for a few outliers.

    Each class has its own outliers: there are far fewer target trials.

    Arguments
    ---------
    target, nontarget : numpy.ndarray
        Scores of both classes.
    count : int
        Bins.

    Returns
    -------
    numpy.ndarray
        [count + 1].

    Example
    -------
    >>> score_bins(np.array([0.8, 1.0]), np.zeros(1000), 2).round(2).tolist()
    [-0.03, 0.5, 1.03]
    """
    ends = [np.quantile(s.astype(float), [0.0005, 0.9995]) for s in (target, nontarget)]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    if low == high:
        low, high = low - 0.5, high + 0.5
    room = 0.03 * (high - low)
    return np.linspace(low - room, high + room, count + 1)


def plot_histogram(
    scores: Any,
    labels: Any,
    path: str | Path,
    *,
    thresholds: Mapping[str, float] | None = None,
    title: str = "",
    unit: str = "score",
) -> None:
    """Draw the densities of both classes' scores to a PNG.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.
    path : str or Path
        The PNG file.
    thresholds : mapping of str to float, optional
        Vertical lines and what the legend calls them.
    title : str
        Heading.
    unit : str
        What a score is, e.g. ``"cosine"``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.png"
    >>> plot_histogram([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0], path)
    >>> path.is_file()
    True
    """
    target, nontarget = split_scores(scores, labels)
    edges = score_bins(target, nontarget, 80)
    fig, axes = figure(6.4, 4.0)
    sides = (
        ("non-target", nontarget, COLOURS[1]),
        ("target", target, COLOURS[0]),
    )
    for name, values, colour in sides:
        inside = np.clip(values, edges[0], edges[-1])
        density = np.histogram(inside, edges)[0] / values.size / (edges[1] - edges[0])
        label = f"{name} ({values.size:,} trials)"
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(density, edges, color=colour, lw=1.4, label=label)
    for number, (name, value) in enumerate((thresholds or {}).items()):
        # A threshold beyond the scores is told in the legend, not drawn.
        drawn = edges[0] <= value <= edges[-1]
        axes.axvline(
            value if drawn else np.nan,
            color="black",
            ls=DASHES[(number + 1) % len(DASHES)],
            lw=1.3,
            label=f"{name}: {value:.3g}" + ("" if drawn else " (outside)"),
        )
    axes.set(
        xlim=(edges[0], edges[-1]),
        xlabel=unit,
        ylabel=f"density (per unit of {unit.split(' (')[0]})",
    )
    axes.set_ylim(bottom=0)
    axes.set_title(title or "Scores of the trials", fontsize=10)
    fig.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    save(fig, path)
