"""The maths of the margin rules: pure functions, keyword-only options.

Two small decisions make a loss: what the margin does to the target's score (the
``*_margin`` functions, ordinary autograd on B numbers) and which non-targets are kept
(``nontargets.Keep``). :func:`total_loss` puts them together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def additive_margin(score: Tensor, *, margin: float) -> Tensor:
    """AM-Softmax and HAM-Softmax: ``score - margin``, [B].

    Arguments
    ---------
    score : torch.Tensor
        Target scores (cosines, or negative distances), [B].
    margin : float
        In units of the score.

    Example
    -------
    >>> additive_margin(torch.tensor([0.75]), margin=0.25)
    tensor([0.5000])
    """
    return score - margin


def sine(cosine: Tensor) -> Tensor:
    """Sine of an angle from its cosine, ``sqrt(max(1 - cosine^2, eps))``.

    With eps of the dtype its slope is finite at 0 and pi; the shape is the cosine's.

    Arguments
    ---------
    cosine : torch.Tensor
        Any shape.

    Example
    -------
    >>> sine(torch.tensor([0.6]))
    tensor([0.8000])
    """
    eps = torch.finfo(cosine.dtype).eps
    return ((1 - cosine) * (1 + cosine)).clamp_min(eps).sqrt()


def angular_margin(
    cosine: Tensor, *, margin: float, easy_margin: bool = False
) -> Tensor:
    """AAM-Softmax (ArcFace): ``cos(theta + margin)``, [B].

    Where theta + margin passes pi the curve would turn, so it goes on as the straight
    line ``cosine - margin sin(margin)``; with ``easy_margin``, angles beyond 90 degrees
    get no margin instead.

    Arguments
    ---------
    cosine : torch.Tensor
        Target cosines, [B].
    margin : float
        In radians.
    easy_margin : bool
        Default False.

    Example
    -------
    >>> angular_margin(torch.tensor([0.0]), margin=math.pi / 6)
    tensor([-0.5000])
    """
    phi = cosine * math.cos(margin) - sine(cosine) * math.sin(margin)
    if easy_margin:
        return torch.where(cosine > 0, phi, cosine)
    line = cosine - margin * math.sin(margin)
    return torch.where(cosine > -math.cos(margin), phi, line)


def combined_margin(
    cosine: Tensor, *, m1: int = 1, m2: float = 0.0, m3: float = 0.0
) -> Tensor:
    """``cos(m1 theta + m2) - m3``: SphereFace, ArcFace, CosFace in one, [B].

    For m1 = 1 it goes on past pi as :func:`angular_margin` does; for m1 > 1 as
    SphereFace's monotone ``(-1)^k cos(m1 theta + m2) - 2k``.

    Arguments
    ---------
    cosine : torch.Tensor
        Target cosines, [B].
    m1 : int
        Multiplies the angle. Default 1.
    m2 : float
        Added to the angle, radians. Default 0.
    m3 : float
        Taken from the cosine. Default 0.

    Example
    -------
    >>> combined_margin(torch.tensor([0.5]), m1=2, m3=0.25)
    tensor([-0.7500])
    """
    if m1 == 1:
        return angular_margin(cosine, margin=m2) - m3
    # cos(n t) and sin(n t) / sin t by Chebyshev's recurrences: no arc cosine, so
    # the slopes are finite at both ends
    below, cos_n = torch.ones_like(cosine), cosine
    under, ratio = torch.zeros_like(cosine), torch.ones_like(cosine)
    for _ in range(m1 - 1):
        below, cos_n = cos_n, 2 * cosine * cos_n - below
        under, ratio = ratio, 2 * cosine * ratio - under
    value = cos_n
    if m2:
        value = cos_n * math.cos(m2) - sine(cosine) * ratio * math.sin(m2)
    angle = m1 * torch.acos(cosine.detach().clamp(-1, 1)) + m2
    turns = torch.floor(angle / math.pi)
    if not m2:
        turns = turns.clamp_max(m1 - 1)  # theta = pi belongs to the last branch
    sign = 1 - 2 * torch.remainder(turns, 2)
    return sign * value - 2 * turns - m3


def lift(cosine: Tensor, *, margin: float, angular: bool) -> Tensor:
    """The inter-top-K penalty: a hard non-target made harder by a margin.

    ``cos(theta - margin)`` (angular) or ``cosine + margin``, of the cosine's shape.
    Past theta = margin the former goes on as a line of slope 1.

    Arguments
    ---------
    cosine : torch.Tensor
        Cosines of the hardest non-targets, any shape.
    margin : float
        Radians, or cosine.
    angular : bool
        Which of the two.

    Example
    -------
    >>> lift(torch.tensor([0.0]), margin=math.pi / 6, angular=True)
    tensor([0.5000])
    """
    if not angular:
        return cosine + margin
    phi = cosine * math.cos(margin) + sine(cosine) * math.sin(margin)
    return torch.where(cosine < math.cos(margin), phi, 1 + cosine - math.cos(margin))


def lift_at(
    scores: Tensor,
    index: Tensor,
    among: Tensor | None = None,
    *,
    margin: float,
    angular: bool,
) -> Tensor:
    """Scores lifted at some places of each row: its hardest non-targets, [B, C].

    Arguments
    ---------
    scores : torch.Tensor
        Cosines, [B, C].
    index : torch.Tensor
        The places, int64, [B, K].
    among : torch.Tensor, optional
        Which of them, bool, [B, K]. Default all.
    margin, angular
        As in :func:`lift`.

    Example
    -------
    >>> lift_at(
    ...     torch.tensor([[0.5, 0.25]]), torch.tensor([[1]]), margin=0.5, angular=False
    ... )
    tensor([[0.5000, 0.7500]])
    """
    old = scores.gather(1, index)
    raised = lift(old, margin=margin, angular=angular)
    if among is not None:
        raised = torch.where(among, raised, old)
    return scores.scatter(1, index, raised)


def total_loss(
    lse: Tensor,
    target: Tensor,
    satisfied: Tensor | None = None,
    satisfied_as: str = "drop",
) -> Tensor:
    """The one equation: ``log(1 + sum of exp(z_j - z_t) over the kept j)``, [B].

    Arguments
    ---------
    lse : torch.Tensor
        Log of the sum of exp(z_j) over the kept non-targets, [B]; -inf for none.
    target : torch.Tensor
        The target's logit after its margin, z_t, [B].
    satisfied : torch.Tensor, optional
        How many non-targets were not kept, [B].
    satisfied_as : str
        What each of those adds to the sum: ``"drop"`` nothing, ``"clamp"`` 1 (as if
        z_j = z_t, without gradient), ``"zero"`` exp(-z_t) (as if z_j = 0).

    Example
    -------
    >>> total_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([0.6931])
    """
    others = torch.zeros_like(target)  # log of what is added beside the kept
    if satisfied is not None and satisfied_as == "zero":
        lse = torch.logaddexp(lse, satisfied.log())
    elif satisfied is not None and satisfied_as == "clamp":
        others = satisfied.log1p()
    return torch.logaddexp(lse - target, others)


def binary_loss(others: Tensor, target: Tensor, *, balance: float) -> Tensor:
    """The equation of one-vs-all losses, [B].

    ``balance log(1 + exp(-z_t)) + (1 - balance) sum of log(1 + exp(z_j))``

    Arguments
    ---------
    others : torch.Tensor
        The sum of log(1 + exp(z_j)) over the non-targets, after their margin, [B].
    target : torch.Tensor
        The target's logit after its margin, z_t, [B].
    balance : float
        lambda, the weight of the target, 0 to 1.

    Example
    -------
    >>> binary_loss(torch.tensor([2.0]), torch.tensor([0.0]), balance=0.5)
    tensor([1.3466])
    """
    missed = torch.nn.functional.softplus(-target, threshold=40)
    return balance * missed + (1 - balance) * others


def balanced_bias(
    classes: int, *, t: float, margin: float, scale: float, balance: float
) -> float:
    """SphereFace2's first b: the one with the least loss while all cosines are 0.

    There the target and the C - 1 others pull at it with the same force. In units of
    the score: the paper's b, divided by the scale.

    Arguments
    ---------
    classes : int
        C.
    t, margin, scale, balance : float
        As in :class:`~sb_margins.losses.SphereFace2` and its classifier.

    Example
    -------
    >>> round(balanced_bias(5994, t=3, margin=0.2, scale=32, balance=0.7), 4)
    0.3047
    """
    g = 2 * 0.5**t - 1
    share = balance / ((1 - balance) * (classes - 1))
    # sigmoid(b + other) = share * sigmoid(-b - target): a quadratic equation in e^b
    other, target = scale * (g + margin), scale * (g - margin)
    root = math.sqrt((1 - share) ** 2 + 4 * share * math.exp(target - other))
    half = 1 - share + root
    if share > 1:  # the same number, without the cancellation
        half = 4 * share * math.exp(target - other) / (root - 1 + share)
    return (math.log(2 * share) - other - math.log(half)) / scale


def reduce(losses: Tensor, reduction: str = "mean") -> Tensor:
    """Per-sample losses to a scalar, or left as they are.

    Arguments
    ---------
    losses : torch.Tensor
        Shape [B].
    reduction : str
        ``"mean"``, ``"sum"``, or ``"none"`` and ``"batch"`` (SpeechBrain's word) for
        one number per sample.

    Raises
    ------
    ValueError
        For any other word.

    Example
    -------
    >>> reduce(torch.tensor([1.0, 3.0]))
    tensor(2.)
    """
    if reduction == "mean":
        return losses.mean()
    if reduction == "sum":
        return losses.sum()
    if reduction in ("none", "batch"):
        return losses
    raise ValueError(f"reduction '{reduction}' is none of mean, sum, batch, none")
