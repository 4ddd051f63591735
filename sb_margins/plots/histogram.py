"""Densities of the scores of target and non-target trials, with thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.plots.style import (
    BLUE,
    DASHES,
    ORANGE,
    drawing,
    handle,
    label_outer,
    legend_below,
    panels,
)
from sb_margins.verification.points import split_scores


def score_bins(target: np.ndarray, nontarget: np.ndarray, count: int) -> np.ndarray:
    """Bin edges [count + 1] from the lowest to the highest scores but a few outliers.

    Each class has its own outliers: there are far fewer target trials.
    """
    ends = [np.quantile(s.astype(float), [0.0005, 0.9995]) for s in (target, nontarget)]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    if low == high:
        low, high = low - 0.5, high + 0.5
    border = 0.03 * (high - low)
    return np.linspace(low - border, high + border, count + 1)


def plot_histogram(
    scores: Any,
    labels: Any,
    path: str | Path,
    *,
    thresholds: Mapping[str, float] | None = None,
    title: str = "",
    unit: str = "score",
) -> None:
    """Draw both densities; ``thresholds`` are vertical lines, named in the legend."""
    with drawing(path, 5.2, 4.2) as (figure, (axes,)):
        edges, counts = _densities(axes, scores, labels, 80)
        handles = [
            handle(f"target ({counts[0]:,} trials)", BLUE),
            handle(f"non-target ({counts[1]:,} trials)", ORANGE, "--"),
        ]
        for number, (name, value) in enumerate((thresholds or {}).items()):
            inside = edges[0] <= value <= edges[-1]
            dash = DASHES[(number + 2) % len(DASHES)]
            if inside:
                axes.axvline(value, color="black", ls=dash, lw=1.3)
            label = f"{name}: {value:.3g}" + ("" if inside else " (outside)")
            handles.append(handle(label, "black", dash))
        axes.set_xlabel(unit)
        axes.set_ylabel(f"density (per unit of {unit.split(' (')[0]})")
        axes.set_title(title or "Scores of the trials")
        legend_below(figure, handles)


def plot_histograms(
    systems: Mapping[str, tuple[np.ndarray, np.ndarray, float, str]], path: str | Path
) -> None:
    """A panel for each system: scores [N], labels [N], EER threshold, score unit."""
    with panels(path, list(systems)) as (figure, grid):
        label_outer(grid, "", "density")
        for axes, one in zip(grid, systems.values(), strict=True):
            scores, labels, threshold, unit = one
            _densities(axes, scores, labels, 60)
            axes.axvline(threshold, color="black", lw=1.0, ls=":")
            axes.set_xlabel(unit)
        handles = [
            handle("target trials", BLUE),
            handle("non-target trials", ORANGE, "--"),
            handle("EER threshold", "black", ":"),
        ]
        legend_below(figure, handles)


def _densities(
    axes: Any, scores: Any, labels: Any, count: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Draw both classes; bin edges, numbers of target and non-target trials."""
    target, nontarget = split_scores(scores, labels)
    edges = score_bins(target, nontarget, count)
    for values, colour, dash in ((nontarget, ORANGE, "--"), (target, BLUE, "-")):
        heights = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        density = heights / values.size / (edges[1] - edges[0])
        axes.stairs(density, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(density, edges, color=colour, ls=dash, lw=1.4)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    return edges, (target.size, nontarget.size)
