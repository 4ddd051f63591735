"""DET curves on normal-deviate axes: one line per system or list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.errors import UserError
from sb_margins.plots.style import GREY, drawing, handle, legend_below, look
from sb_margins.verification.points import OperatingPoints

# Per cent.
TICKS = (0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99)
MOST_POINTS = 2000
RULE_OF_30 = 30  # fewer errors are mostly chance (Doddington)


def plot_det(
    curves: Mapping[str, tuple[Any, Any]],
    path: str | Path,
    *,
    title: str = "",
    p_target: float = 0.01,
) -> None:
    """Draw detection error trade-off curves, each from (scores, labels).

    Marks are the EER (circle) and the minDCF point at ``p_target`` (diamond). A curve
    is thin where it rests on fewer than 30 errors of a kind.
    """
    if not curves:
        raise UserError("a DET plot needs at least one curve")
    with drawing(path, 5.2, 5.6 + 0.2 * len(curves)) as (figure, (axes,)):
        handles, marked = [], []
        for number, (name, (scores, labels)) in enumerate(curves.items()):
            points = OperatingPoints.of(scores, labels)
            colour, dash, _ = look(number)
            far, frr, firm = thinned(points)
            for width, kept in ((0.8, with_neighbours(~firm)), (2.0, firm)):
                x, y = (probit(np.where(kept, rate, np.nan)) for rate in (far, frr))
                axes.plot(x, y, color=colour, ls=dash, lw=width)
            eer, cost = points.eer(), points.min_dcf(p_target)
            label = f"{name}: EER {100 * eer:.2f} %, minDCF({p_target:g}) {cost:.3f}"
            handles.append(handle(label, colour, dash))
            best = int(np.argmin(points.costs(p_target, 1.0, 1.0)))
            # Half an error stands for none, which has no place on these axes.
            fa = max(points.false_alarms[best].item(), 0.5) / points.nontargets
            miss = max(points.misses[best].item(), 0.5) / points.targets
            for at, marker in (((eer, eer), "o"), ((fa, miss), "D")):
                place = probit(np.array(at)[:, None])
                axes.plot(*place, marker, ms=6, mfc="w", mec=colour, mew=1.6, zorder=3)
            marked += [fa, miss, max(eer, 0.5 / (points.targets + points.nontargets))]
        low = max(2e-6, min(0.002, 0.5 * min(marked)))
        high = min(0.995, max(0.2, 1.3 * max(marked)))
        limits = probit(np.array([low, high]))
        ticks = tick_rates(low, high)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(probit(np.array(ticks)), [f"{100 * t:g}" for t in ticks])
        axes.plot(limits, limits, color=GREY, lw=0.6, ls=":")
        axes.set(
            xlim=limits,
            ylim=limits,
            aspect="equal",
            xlabel="false alarms (% of non-target trials)",
            ylabel="misses (% of target trials)",
            title=title or "Detection error trade-off",
        )
        handles += [
            handle("EER", GREY, "", "o"),
            handle(f"minDCF point, p_target = {p_target:g}", GREY, "", "D"),
            handle(f"fewer than {RULE_OF_30} errors: uncertain", GREY),
        ]
        for mark in handles[-3:]:
            mark.set(markerfacecolor="w", linewidth=0.8)
        legend_below(figure, handles)


def probit(share: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    # 0 and 1 lie at infinity: keep them far outside of the axes, but drawable.
    return ndtri(np.clip(share, 1e-9, 1 - 1e-9))


def tick_rates(low: float, high: float) -> list[float]:
    """Round rates between the limits, none too near to the one before."""
    gap = 0.06 * float(np.diff(probit(np.array([low, high])))[0])
    kept: list[float] = []
    for tick in (t / 100 for t in TICKS):
        before, place = probit(np.array([kept[-1] if kept else 1e-9, tick]))
        if low <= tick <= high and place - before > gap:
            kept.append(tick)
    return kept


def with_neighbours(mask: np.ndarray) -> np.ndarray:
    """The mask, grown by one point to both sides, so that lines join."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    return grown


def thinned(points: OperatingPoints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """far, frr and whether both rest on 30 errors, at no more points than pixels."""
    far = points.false_alarms / points.nontargets
    frr = points.misses / points.targets
    firm = (points.false_alarms >= RULE_OF_30) & (points.misses >= RULE_OF_30)
    if len(far) > 4 * MOST_POINTS:
        # Along both axes, evenly in what is drawn.
        keep = []
        for values in (probit(far), -probit(frr)):
            grid = np.linspace(values.min(), values.max(), MOST_POINTS)
            keep.append(np.searchsorted(-values, -grid).clip(0, len(values) - 1))
        at = np.unique(np.concatenate(keep))
        far, frr, firm = far[at], frr[at], firm[at]
    return far, frr, firm
