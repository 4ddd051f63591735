"""Settings of a loss with several values: metrics against the value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from sb_margins.comparison.results import Comparison, System
from sb_margins.comparison.statistics import Estimate
from sb_margins.plots.curves import Sweep, plot_sweep
from sb_margins.verification.metrics import EER

FEWEST_VALUES = 3  # of two, a table says as much

Estimates = Mapping[str, Mapping[str, Estimate]]  # by system and metric


def swept(comparison: Comparison) -> Iterator[tuple[str, str, dict[str, list[System]]]]:
    """Loss, setting, and its systems by their other settings, values in order."""
    for loss in comparison.losses:
        systems = comparison.settings_of(loss)
        for setting in dict(systems[0].variant.settings):
            lines: dict[str, list[System]] = {}
            for system in systems:
                given = system.variant.settings
                others = ", ".join(f"{k}={v}" for k, v in given if k != setting)
                lines.setdefault(others or loss, []).append(system)
            if max(map(len, lines.values())) >= FEWEST_VALUES:
                yield loss, setting, lines


def draw_sweeps(
    comparison: Comparison, lists: Mapping[str, Estimates], folder: Path
) -> list[tuple[str, str, Path]]:
    """A figure for each swept setting: loss, setting, path."""
    figures = []
    base = comparison.baseline
    for loss, setting, lines in swept(comparison):
        path = folder / f"sweep_{loss}_{setting}.png"
        drawn = {
            name: {
                label: _sweep(systems, setting, estimates)
                for label, systems in lines.items()
            }
            for name, estimates in lists.items()
        }
        levels = {
            name: {base.label: 100 * estimates[base.label][EER.name].mean}
            for name, estimates in lists.items()
            if base.variant.loss != loss
        }
        plot_sweep(drawn, path, f"{setting} of {loss}", EER.heading, levels)
        figures.append((loss, setting, path))
    return figures


def _sweep(systems: list[System], setting: str, estimates: Estimates) -> Sweep:
    ordered = sorted(systems, key=lambda s: _order(dict(s.variant.settings)[setting]))
    found = [estimates[s.label][EER.name] for s in ordered]
    return Sweep(
        [dict(s.variant.settings)[setting] for s in ordered],
        [100 * one.mean for one in found],
        [100 * one.low for one in found],
        [100 * one.high for one in found],
    )


def _order(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
