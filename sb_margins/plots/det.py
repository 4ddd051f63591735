"""DET curves on probit axes: one line per system or list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.errors import UserError
from sb_margins.plots.style import COLOURS, DASHES, GREY, figure, save
from sb_margins.verification.points import OperatingPoints

# Per cent.
TICKS = (0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 60, 80, 90, 95, 98, 99)
MOST_POINTS = 2000


def plot_det(
    curves: Mapping[str, tuple[Any, Any]],
    path: str | Path,
    *,
    title: str = "",
    p_target: float = 0.01,
) -> None:
    """Draw detection error trade-off curves to a PNG.

    The marks are the EER (circle) and the minDCF point (diamond). Where a curve rests
    on fewer than 30 errors of a kind it is thin: there it is mostly luck (Doddington's
    rule of 30).

    Arguments
    ---------
    curves : mapping of str to (scores, labels)
        What the legend calls each curve, and its trials.
    path : str or Path
        The PNG file.
    title : str
        Heading.
    p_target : float
        Prior of the marked minDCF point.

    Example
    -------
    >>> path = getfixture("tmp_path") / "det.png"
    >>> plot_det({"test": ([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0])}, path)
    >>> path.is_file()
    True
    """
    from matplotlib.lines import Line2D

    if not curves:
        raise UserError("plot_det needs at least one curve")
    fig, axes = figure(5.8, 6.2)
    seen: list[float] = []
    for number, (name, (scores, labels)) in enumerate(curves.items()):
        points = OperatingPoints.of(scores, labels)
        look: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "ls": DASHES[number % len(DASHES)],
        }
        far, frr, firm = _thinned(points)
        eer, cost = points.eer(), points.min_dcf(p_target)
        for lw, shown in ((0.8, _with_neighbours(~firm)), (2.0, firm)):
            x, y = (np.where(shown, rate, np.nan) for rate in (far, frr))
            axes.plot(_probit(x), _probit(y), lw=lw, **look)
        label = f"{name}: EER {100 * eer:.2f} %, minDCF({p_target:g}) {cost:.3f}"
        axes.plot([], [], lw=2.0, label=label, **look)
        best = int(np.argmin(points.costs(p_target, 1.0, 1.0)))
        # Half an error stands for none, which has no place on these axes.
        fa = max(points.false_alarms[best].item(), 0.5) / points.nontargets
        miss = max(points.misses[best].item(), 0.5) / points.targets
        _mark(axes, eer, eer, "o", look["color"])
        _mark(axes, fa, miss, "D", look["color"])
        seen += [fa, miss, max(eer, 0.5 / (points.targets + points.nontargets))]
    low = max(2e-6, min(0.002, 0.5 * min(seen)))
    high = min(0.995, max(0.2, 1.3 * max(seen)))
    limits = _probit(np.array([low, high]))
    ticks = _ticks(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(_probit(np.array(ticks)), [f"{100 * t:g}" for t in ticks])
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.plot(limits, limits, color=GREY, lw=0.6, ls=":")
    axes.set_xlabel("false alarms (% of non-target trials)")
    axes.set_ylabel("misses (% of target trials)")
    axes.set_title(title or "Detection error trade-off", fontsize=10)
    handles = axes.get_legend_handles_labels()[0]
    for marker, text in (("o", "EER"), ("D", f"minDCF point, p_target = {p_target:g}")):
        handles.append(
            Line2D([], [], color=GREY, marker=marker, ls="", ms=5, mfc="w", label=text)
        )
    handles.append(
        Line2D([], [], color=GREY, lw=0.8, label="fewer than 30 errors: uncertain")
    )
    fig.legend(handles=handles, loc="outside lower center", fontsize=8, frameon=False)
    save(fig, path)


def _mark(axes: Any, far: float, frr: float, marker: str, colour: str) -> None:
    x, y = _probit(np.array([far])), _probit(np.array([frr]))
    axes.plot(x, y, marker, ms=6, mfc="w", mec=colour, mew=1.6, zorder=3)


def _probit(share: np.ndarray) -> np.ndarray:
    from scipy.special import ndtri

    # 0 and 1 lie at infinity: keep them far outside of the axes, but drawable.
    return ndtri(np.clip(share, 1e-9, 1 - 1e-9))


def _ticks(low: float, high: float) -> list[float]:
    """Round rates inside of the limits, none too near to the one before."""
    room = 0.055 * float(_probit(np.array([high]))[0] - _probit(np.array([low]))[0])
    kept: list[float] = []
    for tick in (t / 100 for t in TICKS):
        place = _probit(np.array([tick, kept[-1] if kept else 1e-9]))
        if low <= tick <= high and place[0] - place[1] > room:
            kept.append(tick)
    return kept


def _with_neighbours(mask: np.ndarray) -> np.ndarray:
    """The mask, grown by one point to both sides, so that lines join."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    return grown


def _thinned(points: OperatingPoints) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """far, frr and whether both rest on 30 errors, at no more points than pixels."""
    far = points.false_alarms / points.nontargets
    frr = points.misses / points.targets
    firm = (points.false_alarms >= 30) & (points.misses >= 30)
    if len(far) > 4 * MOST_POINTS:
        # Along both axes, evenly in what is drawn.
        keep = []
        for values in (_probit(far), -_probit(frr)):
            grid = np.linspace(values.min(), values.max(), MOST_POINTS)
            keep.append(np.searchsorted(-values, -grid).clip(0, len(values) - 1))
        at = np.unique(np.concatenate(keep))
        far, frr, firm = far[at], frr[at], firm[at]
    return far, frr, firm
