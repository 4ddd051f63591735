"""Softmax losses on Poincaré distances."""

from __future__ import annotations

from torch import Tensor

from sb_margins import functional as fn
from sb_margins.losses.base import MarginLoss


class HSoftmax(MarginLoss):
    """Hyperbolic softmax: ``log(1 + sum of exp(s (d_y - d_j)))``.

    d is the Poincaré distance of a :class:`~sb_margins.classifiers.PoincareClassifier`
    (its scores are -d). The authors use c = 5.

    Reference: Fang and He, arXiv 2601.19709 (released code).

    Arguments
    ---------
    scale : float
        s. Default 30.

    Example
    -------
    >>> import torch
    >>> distances = torch.tensor([[0.84011034, 1.33079965, 1.77183965]])
    >>> HSoftmax(scale=30)(-distances, torch.tensor([1]))
    tensor(14.7207)
    """

    accepts = ("poincare",)

    def __init__(self, scale: float = 30.0) -> None:
        super().__init__(scale)


class HAMSoftmax(MarginLoss):
    """Hyperbolic softmax with an additive margin: ``d_y + m`` for the target.

    The authors use c = 3.

    Reference: Fang and He, arXiv 2601.19709 (released code).

    Arguments
    ---------
    margin : float
        m, in units of distance. Default 0.2.
    scale : float
        s. Default 30.

    Example
    -------
    >>> import torch
    >>> distances = torch.tensor([[0.84011034, 1.33079965, 1.77183965]])
    >>> HAMSoftmax(margin=0.2, scale=30)(-distances, torch.tensor([1]))
    tensor(20.7207)
    """

    accepts = ("poincare",)
    ranges = {**MarginLoss.ranges, "margin": (0, 10, "in distance")}

    def __init__(self, margin: float = 0.2, scale: float = 30.0) -> None:
        super().__init__(scale)
        self.margin = self.sensible("margin", margin)

    def target(self, score: Tensor) -> Tensor:
        """``-d - margin``, [B]."""
        return fn.additive_margin(score, margin=self.margin)
