"""How the scores of target and non-target trials lie, with the thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.reporting.style import COLOURS, DASHES, figure, save
from sb_margins.verification.points import split_scores


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
    everything = np.concatenate([target, nontarget]).astype(np.float64)
    low, high = np.quantile(everything, [0.0005, 0.9995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    room = 0.03 * (high - low)
    edges = np.linspace(low - room, high + room, 81)
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
