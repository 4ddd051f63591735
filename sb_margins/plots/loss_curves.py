"""The margin explorer: what a loss and its gradient are at each target cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb_margins.errors import UserError
from sb_margins.head import Head
from sb_margins.plots.style import COLOURS, DASHES, GREY
from sb_margins.poincare import clip_radius, distance, tangent_distance

MOST_CURVES = 12
FLOOR = 1e-5  # of the logarithmic panels
LENGTH = 1.0  # of textbook tangent vectors without a clip_norm
LINEAR = 30.0  # |x| |w| of a linear classifier: comparable with s = 30


@dataclass(frozen=True)
class Curve:
    """Loss and gradient of one head.

    Arguments
    ---------
    cosine : numpy.ndarray
        [N], of the angle between embedding and the target's class weight.
    loss : numpy.ndarray
        [N], nats.
    slope : numpy.ndarray
        [N], minus the derivative by the target's cosine, nats.

    Example
    -------
    >>> Curve(np.zeros(1), np.ones(1), np.ones(1)).loss.tolist()
    [1.0]
    """

    cosine: np.ndarray
    loss: np.ndarray
    slope: np.ndarray


def scores_of(cosines: Tensor, classifier: Any) -> Tensor:
    """The scores that a classifier gives at these cosines.

    Cosines as they are; linear logits with a product of norms of 30; on the ball,
    negative distances between points at its edge (the textbook ball: of tangent
    length ``clip_norm``, or 1).

    Arguments
    ---------
    cosines : torch.Tensor
        [...].
    classifier : Classifier or JointClassifier

    Returns
    -------
    torch.Tensor
        [...], for a joint classifier with one more dimension before the last.

    Example
    -------
    >>> from sb_margins.classifiers import PoincareClassifier
    >>> ball = PoincareClassifier(2, 2, curvature=5.0)
    >>> scores_of(torch.tensor([1.0, 0.0, -1.0]), ball)
    tensor([-0.0000, -1.4506, -1.9248])
    """
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
    if classifier.metric == "unit":
        radius = clip_radius(float(classifier.curvature))
        return -distance(radius * at, radius * pole)
    length = classifier.clip_norm or LENGTH
    c = float(classifier.curvature)
    return -tangent_distance(length * at, length * pole, curvature=c)


def loss_curve(head: Head, nontargets: Mapping[float, int], points: int = 801) -> Curve:
    """Loss and gradient against the target's cosine, the non-targets held.

    Arguments
    ---------
    head : Head
        Only its loss and its geometry matter.
    nontargets : mapping of float to int
        How many non-targets are at each cosine.
    points : int
        Of the curve.

    Returns
    -------
    Curve

    Example
    -------
    >>> from sb_margins import select
    >>> curve = loss_curve(select.head("am", 2, 2), {0.0: 1}, points=3)
    >>> curve.loss.round(2).tolist()
    [36.0, 6.0, 0.0]
    """
    target = torch.linspace(-1, 1, points, dtype=torch.float64, requires_grad=True)
    held = [c for c, count in nontargets.items() for _ in range(count)]
    others = torch.tensor(held, dtype=torch.float64).expand(points, -1)
    scores = scores_of(torch.cat([target[:, None], others], 1), head.classifier)
    labels = torch.zeros(points, dtype=torch.long)
    losses = head.loss(scores, labels, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), target)
    x, y = target.detach().numpy(), losses.detach().numpy()
    return Curve(x, y, -slope.numpy())


def plot_losses(
    curves: Mapping[str, Curve],
    path: str | Path,
    *,
    nontargets: Mapping[float, int],
    title: str = "",
) -> None:
    """Draw loss and gradient, plain above and logarithmic below, to a PNG.

    Arguments
    ---------
    curves : mapping of str to Curve
        What the legend calls each; at most 12.
    path : str or Path
        The PNG file.
    nontargets : mapping of float to int
        As in ``loss_curve``; marked on the axis.
    title : str
        Heading.

    Raises
    ------
    UserError
        For no curve, or more than can be told apart.

    Example
    -------
    >>> x = np.linspace(-1, 1, 9)
    >>> path = getfixture("tmp_path") / "loss.png"
    >>> plot_losses({"am": Curve(x, 1 - x, x)}, path, nontargets={0.0: 1})
    >>> path.is_file()
    True
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from sb_margins.plots.style import save

    if not 0 < len(curves) <= MOST_CURVES:
        raise UserError(
            f"{len(curves)} curves cannot be told apart in one picture: draw 1 to "
            f"{MOST_CURVES}"
        )
    rows = -(-len(curves) // 3)
    fig = Figure(figsize=(9, 7.2 + 0.25 * rows), layout="constrained")
    FigureCanvasAgg(fig)
    grid = fig.subplots(2, 2, sharex=True)
    top = max(_upper(curve.loss, curve.cosine) for curve in curves.values())
    steep = max(_upper(curve.slope, curve.cosine) for curve in curves.values())
    for number, (name, curve) in enumerate(curves.items()):
        look: dict[str, Any] = {"color": colour(number), "ls": dash(number), "lw": 1.8}
        for row in (0, 1):
            label = name if row == 0 else None
            grid[row][0].plot(
                curve.cosine, _shown(curve.loss, row), label=label, **look
            )
            grid[row][1].plot(curve.cosine, _shown(curve.slope, row), **look)
    for row, scale in enumerate(("", ", logarithmic")):
        grid[row][0].set_ylabel(f"loss (nats{scale})")
        grid[row][1].set_ylabel(f"−dL / d cos (nats{scale})")
    grid[0][0].set_ylim(-0.02 * top, 1.05 * top)
    grid[0][1].set_ylim(-0.02 * steep, 1.05 * steep)
    for axes, most in ((grid[1][0], top), (grid[1][1], steep)):
        axes.set_yscale("log")
        axes.set_ylim(FLOOR, 3 * max(most, 1))
        axes.set_xlabel("cosine between the embedding and its own class")
    grid[0][0].set_title("loss", fontsize=10)
    grid[0][1].set_title("pull of the own class", fontsize=10)
    for axes in grid.flat:
        axes.set_xlim(-1, 1)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.6)
        for cosine in nontargets:
            axes.axvline(cosine, color=GREY, lw=0.8, ls=(0, (1, 3)), zorder=0)
    fig.suptitle(title or "Losses", fontsize=11)
    fig.legend(
        loc="outside lower center",
        ncols=min(3, len(curves)),
        fontsize=8,
        frameon=False,
        handlelength=3.5,
    )
    save(fig, path)


def colour(number: int) -> str:
    """The colour of the n-th curve.

    Example
    -------
    >>> colour(0) == colour(6)
    True
    """
    return COLOURS[number % len(COLOURS)]


def dash(number: int) -> Any:
    """The dashes of the n-th curve: other ones when its colour comes again.

    Example
    -------
    >>> dash(0) == dash(6)
    False
    """
    return DASHES[(number + number // len(COLOURS)) % len(DASHES)]


def _upper(values: np.ndarray, cosine: np.ndarray) -> float:
    """The largest value that matters: distances are infinitely steep at cosine 1."""
    inside = np.abs(cosine) < 0.98
    return max(float(values[inside].max()), FLOOR)


def _shown(values: np.ndarray, logarithmic: int) -> np.ndarray:
    return np.where(values > 0, values, np.nan) if logarithmic else values


def describe_nontargets(nontargets: Mapping[float, int]) -> str:
    """Non-targets in words.

    Example
    -------
    >>> describe_nontargets({0.3: 1, 0.0: 100})
    '1 at cosine 0.3, 100 at 0'
    """
    parts = [f"{n} at {c:g}" for c, n in nontargets.items()]
    return ", ".join(parts).replace(" at ", " at cosine ", 1)


def parse_nontargets(words: str | Sequence[str]) -> dict[float, int]:
    """Read ``0.3,0x100``: one non-target at cosine 0.3 and a hundred at 0.

    Arguments
    ---------
    words : str or sequence of str
        Cosines, each with ``xCOUNT`` when there are several.

    Returns
    -------
    dict of float to int

    Raises
    ------
    UserError
        For what is not a cosine or a count.

    Example
    -------
    >>> parse_nontargets("0.3,0x100")
    {0.3: 1, 0.0: 100}
    """
    if isinstance(words, str):
        words = words.split(",")
    found: dict[float, int] = {}
    for word in words:
        cosine, _, times = word.strip().partition("x")
        try:
            value, count = float(cosine), int(times or 1)
        except ValueError:
            value, count = 2.0, 0
        if not -1 <= value <= 1 or not 1 <= count <= 100_000:
            raise UserError(
                f"--nontargets: '{word}' is not COSINE or COSINExCOUNT, the cosine "
                "between -1 and 1, e.g. 0.3,0x100"
            )
        found[value] = found.get(value, 0) + count
    return found
