"""Figures of training over epochs: of one run, and of several systems side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sb_margins.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    drawing,
    handle,
    label_outer,
    legend_below,
    panels,
)

Rows = Sequence[Mapping[str, float]]  # one per epoch; epoch 0: the untrained network
# What the training crops look like to the classifier: legend, colour, line.
SCORES = {
    "target_score": ("to the target's prototype", BLUE, "-"),
    "hardest_score": ("to the nearest other", ORANGE, "--"),
}


def plot_training(rows: Rows, path: str | Path, title: str = "") -> None:
    """Draw a run: loss and margin, dev EER and accuracy, scores to the prototypes.

    Of the columns ``loss``, ``margin``, ``EER``, ``accuracy``, ``target_score`` and
    ``hardest_score`` those are drawn that ``rows`` have.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    def column(name: str, first: int = 0) -> tuple[list[float], list[float]]:
        have = [r for r in rows if name in r and r["epoch"] >= first]
        return [r["epoch"] for r in have], [r[name] for r in have]

    scores = [name for name in SCORES if column(name)[0]]
    down = 3 if scores else 2
    with drawing(path, 5.2, 2.4 * down + 0.6, down, sharex=True) as (figure, grid):
        axes = grid[0]
        axes.plot(*column("loss"), color=BLUE, marker="o", ms=3)
        axes.set_ylabel("training loss (nats)", color=BLUE)
        axes.set_ylim(bottom=0)
        margins = column("margin", first=1)
        if margins[0] and max(margins[1]) > 0:
            side = axes.twinx()
            side.plot(*margins, color=GREY, ls=":", lw=2)
            side.set_ylabel("margin (dotted)", color=GREY)
            side.set_ylim(bottom=0)
            side.grid(False)
        axes = grid[1]
        epochs, eers = column("EER")
        axes.plot(epochs, eers, color=ORANGE, marker="o", ms=3, label="dev EER")
        if eers:
            best = int(np.argmin(eers))
            axes.annotate(
                f"best {eers[best]:.1%}",
                (epochs[best], eers[best]),
                (0, 9),
                textcoords="offset points",
                ha="center",
                color=ORANGE,
            )
        shares = column("accuracy")
        axes.plot(
            *shares, "--", color=BLUE, marker="s", ms=3, label="training accuracy"
        )
        axes.set(ylabel="share of trials, of crops", ylim=(0, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend()
        for name in scores:
            label, colour, dash = SCORES[name]
            grid[2].plot(
                *column(name), dash, color=colour, marker="o", ms=3, label=label
            )
            grid[2].set_ylabel("cosine, or − distance")
            grid[2].legend()
        grid[-1].set_xlabel("epoch")
        grid[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.suptitle(title, fontsize=10)


def plot_learning(
    systems: Mapping[str, Sequence[Rows]],
    path: str | Path,
    *,
    baseline: str,
    key: str = "EER",
) -> None:
    """A panel for each system: a share over epochs (``EER`` of dev, or ``accuracy``).

    Lines are means over the system's runs, bands go from the lowest to the highest;
    the baseline is dotted in every other panel.
    """
    from matplotlib.ticker import MaxNLocator

    colour = ORANGE if key == "EER" else BLUE
    unit = "dev EER (%)" if key == "EER" else f"{key} (%)"
    base = bands(systems[baseline], key)
    with panels(path, list(systems), share=True) as (figure, grid):
        top = 0.0
        for axes, (name, runs) in zip(grid, systems.items(), strict=True):
            epochs, mean, low, high = bands(runs, key)
            top = max(top, *high)
            axes.fill_between(epochs, low, high, color=colour, alpha=0.25, lw=0)
            axes.plot(epochs, mean, color=colour, lw=1.8)
            if name != baseline:
                axes.plot(*base[:2], color=GREY, lw=1.3, ls=":")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[0].set_ylim(0, 1.05 * top or 1.0)
        label_outer(grid, "epoch", unit)
        dotted = handle(f"that of {baseline}", GREY, ":")
        legend_below(figure, [handle(unit, colour), dotted])


def bands(
    runs: Sequence[Rows], key: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Epochs, and the mean, lowest and highest per cent over runs."""
    values: dict[float, list[float]] = {}
    for row in (row for rows in runs for row in rows if key in row):
        values.setdefault(row["epoch"], []).append(100 * row[key])
    epochs = sorted(values)
    mean, low, high = (
        np.array([of(values[e]) for e in epochs]) for of in (np.mean, np.min, np.max)
    )
    return np.array(epochs), mean, low, high
