"""Figures of training over epochs: of one run, and of several systems side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    drawing,
    handle,
    label_outer,
    legend_below,
    look,
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


@dataclass(frozen=True)
class Curve:
    """A column of the histories, times ``factor``, and how it is drawn."""

    key: str
    label: str
    colour: str = BLUE
    dash: Any = "-"
    factor: float = 1.0


def plot_learning(
    systems: Mapping[str, Sequence[Rows]],
    path: str | Path,
    curves: Sequence[Curve],
    unit: str,
    *,
    baseline: str = "",
    full: float = 0.0,
) -> None:
    """A panel for each system: columns of its runs' histories over epochs.

    Lines are means over the system's runs, bands go from the lowest to the highest. The
    first curve of ``baseline`` is dotted in every other panel, and all have one scale;
    without one each has its own. A thin line marks ``full``, the epoch at whose end the
    margin is full.
    """
    from matplotlib.ticker import MaxNLocator

    with panels(path, list(systems), share="all" if baseline else "x") as (fig, grid):
        top = 0.0
        for axes, (name, runs) in zip(grid, systems.items(), strict=True):
            if full:
                axes.axvline(full, color=GREY, lw=0.8)
            highest = 0.0
            for curve in curves:
                epochs, mean, low, high = bands(runs, curve)
                highest = max(highest, *high, 0.0)
                colour, dash = curve.colour, curve.dash
                axes.fill_between(epochs, low, high, color=colour, alpha=0.25, lw=0)
                axes.plot(epochs, mean, color=colour, ls=dash, lw=1.8)
            top = max(top, highest)
            if baseline and name != baseline:
                base = bands(systems[baseline], curves[0])
                axes.plot(*base[:2], color=GREY, lw=1.3, ls=":")
            if not baseline:
                axes.set_ylim(0, 1.05 * highest or 1.0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if baseline:
            grid[0].set_ylim(0, 1.05 * top or 1.0)
        label_outer(grid, "epoch", unit)
        handles = [handle(c.label, c.colour, c.dash) for c in curves]
        if baseline:
            handles.append(handle(f"that of {baseline}", GREY, ":"))
        if full:
            handles.append(handle("the margin is full", GREY))
        legend_below(fig, handles)


def bands(
    runs: Sequence[Rows], curve: Curve
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Epochs, and a curve's mean, lowest and highest value over runs."""
    values: dict[float, list[float]] = {}
    for row in (row for rows in runs for row in rows if curve.key in row):
        values.setdefault(row["epoch"], []).append(curve.factor * row[curve.key])
    epochs = sorted(values)
    mean, low, high = (
        np.array([of(values[e]) for e in epochs]) for of in (np.mean, np.min, np.max)
    )
    return np.array(epochs), mean, low, high


@dataclass(frozen=True)
class Sweep:
    """A metric against the values [N] of a setting: means with their intervals."""

    values: Sequence[Any]
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


def plot_sweep(
    lists: Mapping[str, Mapping[str, Sweep]],
    path: str | Path,
    setting: str,
    unit: str,
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """A panel for each trial list, a line for each combination of other settings.

    ``references`` are levels to compare with, by list and name.
    """
    with panels(path, list(lists), share="x") as (figure, grid):
        handles: dict[str, Any] = {}
        for axes, (name, lines) in zip(grid, lists.items(), strict=True):
            places, step = _places([v for line in lines.values() for v in line.values])
            for number, (label, line) in enumerate(lines.items()):
                colour, dash, mark = look(number)
                shift = 0.12 * step * (number - (len(lines) - 1) / 2)
                x = [places[value] + shift for value in line.values]
                errors = np.abs(np.array([line.lows, line.highs]) - line.means)
                axes.errorbar(
                    x, line.means, errors, color=colour, ls=dash, marker=mark, capsize=3
                )
                handles[label] = handle(label, colour, dash, mark)
            for reference, level in (references or {}).get(name, {}).items():
                axes.axhline(level, color=GREY, ls=":", lw=1.3)
                handles[reference] = handle(reference, GREY, ":")
            axes.set_xticks(list(places.values()), [str(v) for v in places])
            axes.set_ylim(bottom=0)
        label_outer(grid, setting, unit)
        legend_below(figure, list(handles.values()))


def _places(values: Sequence[Any]) -> tuple[dict[Any, float], float]:
    """Where each value stands, and the least distance.

    Numbers have a scale unless some lie too close for their labels; all others stand
    side by side.
    """
    different = list(dict.fromkeys(values))
    if all(type(value) in (int, float) for value in different):
        different.sort()
        step = min(np.diff(different))
        if step > 0.08 * (different[-1] - different[0]):
            return {value: float(value) for value in different}, float(step)
    return {value: float(place) for place, value in enumerate(different)}, 1.0
