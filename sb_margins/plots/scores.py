"""The pictures of scored trial lists: a histogram of each, DET curves of all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sb_margins.plots.det import plot_det
from sb_margins.plots.histogram import plot_histogram
from sb_margins.verification.metrics import OperatingPoints, standard_metrics


def plot_scores(
    lists: Mapping[str, tuple[np.ndarray, np.ndarray]],
    folder: Path,
    system: str,
    *,
    p_target: float = 0.01,
    unit: str = "score",
) -> None:
    """Draw scores [N] and labels [N] of lists into ``folder``; no lists: nothing."""
    for name, (scores, labels) in lists.items():
        plot_histogram(
            scores,
            labels,
            folder / f"histogram_{name}.png",
            thresholds=marked_thresholds(scores, labels, p_target),
            title=f"{name}: {system}",
            unit=unit,
        )
    if lists:
        title = f"Detection error trade-off: {system}"
        plot_det(lists, folder / "det.png", title=title, p_target=p_target)


def marked_thresholds(
    scores: np.ndarray, labels: np.ndarray, p_target: float
) -> dict[str, float]:
    """The thresholds that a histogram marks, by the label of their metric."""
    points = OperatingPoints.of(scores, labels)
    return {
        metric.label: metric.threshold(points)
        for metric in standard_metrics([p_target])
        if metric.threshold
    }
