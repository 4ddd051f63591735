"""The loss and its gradient at each cosine of the target: computed, and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb_margins.errors import UserError
from sb_margins.head import Head
from sb_margins.plots.style import GREY, drawing, legend_below, look
from sb_margins.poincare import clip_radius, distance, tangent_distance

MOST_CURVES = 12
FLOOR = 1e-5  # lower end of the logarithmic panels
TANGENT_LENGTH = 1.0  # of textbook tangent vectors without a clip_norm
LINEAR = 30.0  # |x| |w| of a linear classifier: comparable with s = 30


@dataclass(frozen=True)
class Curve:
    """Cosines to the target's class [N], loss (nats) and minus its derivative."""

    cosine: np.ndarray
    loss: np.ndarray
    slope: np.ndarray


def scores_of(cosines: Tensor, classifier: Any) -> Tensor:
    """The scores that a classifier gives at these cosines [...].

    Cosines as they are, or adjusted; linear logits with a product of norms of 30; on
    the ball, negative distances between points at its edge (the textbook ball: of
    tangent length ``clip_norm``, or 1). A joint classifier has one more dimension
    before the last.
    """
    if hasattr(classifier, "with_labels"):
        raise UserError(
            f"there is no curve to draw for {type(classifier).__name__}: its scores "
            "depend on the embeddings of a batch or on their length, not on cosines"
        )
    if classifier.geometry == "adjusted":
        return classifier.adjusted(cosines)
    if classifier.geometry == "joint":
        parts = [scores_of(cosines, part) for part in classifier.classifiers]
        return torch.stack(parts, -2)
    if classifier.geometry == "linear":
        return LINEAR * cosines
    if classifier.geometry != "poincare":
        return cosines
    sine = (1 - cosines.square()).clamp_min(1e-12).sqrt()
    at = torch.stack([cosines, torch.where(cosines.abs() == 1, 0.0, sine)], -1)
    pole = torch.zeros_like(at)
    pole[..., 0] = 1
    curvature = float(classifier.curvature)
    if classifier.metric == "unit":
        radius = clip_radius(curvature)
        return -distance(radius * at, radius * pole)
    length = classifier.clip_norm or TANGENT_LENGTH
    return -tangent_distance(length * at, length * pole, curvature=curvature)


def loss_curve(head: Head, nontargets: Mapping[float, int], points: int = 801) -> Curve:
    """Loss and gradient of a head (its weights do not matter).

    ``nontargets`` says how many non-targets are held at which cosine.
    """
    target = torch.linspace(-1, 1, points, dtype=torch.float64, requires_grad=True)
    held = [cosine for cosine, count in nontargets.items() for _ in range(count)]
    others = torch.tensor(held, dtype=torch.float64).expand(points, -1)
    scores = scores_of(torch.cat([target[:, None], others], 1), head.classifier)
    labels = torch.zeros(points, dtype=torch.long)
    losses = head.loss(scores, labels, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), target)
    return Curve(target.detach().numpy(), losses.detach().numpy(), -slope.numpy())


def line_style(number: int, count: int) -> dict[str, Any]:
    """Later curves are thinner, so that equal ones can be seen below them."""
    colour, dash, _ = look(number)
    width = 3.4 - 2.0 * number / max(count - 1, 1)
    return {"color": colour, "ls": dash, "lw": width}


def plot_losses(
    curves: Mapping[str, Curve],
    path: str | Path,
    *,
    nontargets: Mapping[float, int],
    title: str = "",
) -> None:
    """Draw losses and gradients, linear above and logarithmic below."""
    if not 0 < len(curves) <= MOST_CURVES:
        raise UserError(
            f"{len(curves)} curves cannot be told apart in one plot: draw 1 to "
            f"{MOST_CURVES}"
        )
    rows = -(-len(curves) // 2)
    with drawing(path, 6.8, 6.4 + 0.25 * rows, 2, 2, sharex=True) as (figure, grid):
        quantities = {"loss": "loss", "slope": "−dL / d cos"}
        titles = ("loss", "gradient on the target class")
        for column, (name, label) in enumerate(quantities.items()):
            linear, log = grid[column], grid[column + 2]
            top = max(_largest(getattr(c, name), c.cosine) for c in curves.values())
            for number, (system, curve) in enumerate(curves.items()):
                style = line_style(number, len(curves))
                # Without the ends, where distances are infinitely steep.
                x, y = curve.cosine[1:-1], getattr(curve, name)[1:-1]
                linear.plot(x, y, label=system, **style)
                log.plot(x, np.where(y > 0, y, FLOOR), **style)
                if (y <= 0).any():
                    log.text(-0.97, 1.2 * FLOOR, "0 is drawn here", color=GREY, size=8)
            linear.set(ylabel=f"{label} (nats)", ylim=(-0.02 * top, 1.05 * top))
            linear.set_title(titles[column])
            log.set(ylabel=f"{label} (nats, logarithmic)", yscale="log")
            log.set_ylim(0.7 * FLOOR, 3 * max(top, 1))
            log.set_xlabel("cosine to the target class")
        for axes in grid:
            axes.set(xlim=(-1, 1), xticks=[-1, -0.5, 0, 0.5, 1])
            for cosine in nontargets:
                axes.axvline(cosine, color=GREY, lw=0.8, ls=(0, (1, 3)), zorder=0)
        figure.suptitle(title or "Losses")
        handles = grid[0].get_legend_handles_labels()[0]
        legend_below(figure, handles, min(2, len(curves)))


def _largest(values: np.ndarray, cosine: np.ndarray) -> float:
    """The largest value that matters: distances are infinitely steep at cosine 1."""
    return max(float(values[np.abs(cosine) < 0.98].max()), FLOOR)


def describe_nontargets(nontargets: Mapping[float, int]) -> str:
    """``"1 at cosine 0.3, 100 at 0"``."""
    parts = [f"{count} at {cosine:g}" for cosine, count in nontargets.items()]
    return ", ".join(parts).replace(" at ", " at cosine ", 1)


def parse_nontargets(parts: list[str]) -> dict[float, int]:
    """Read ``0.3 0x100``: one non-target at cosine 0.3 and a hundred at 0."""
    counts: dict[float, int] = {}
    for part in parts:
        text, _, times = part.strip().partition("x")
        try:
            cosine, count = float(text), int(times or 1)
        except ValueError:
            cosine, count = 2.0, 0
        if not -1 <= cosine <= 1 or not 1 <= count <= 100_000:
            raise UserError(
                f"--nontargets: '{part}' is not COSINE or COSINExCOUNT, the cosine "
                "between -1 and 1, e.g. 0.3,0x100"
            )
        counts[cosine] = counts.get(cosine, 0) + count
    return counts
