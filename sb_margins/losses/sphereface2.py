"""One-vs-all margins: every class decides for itself."""

from __future__ import annotations

from torch import Tensor

from sb_margins import functional as fn
from sb_margins.losses.base import MarginLoss
from sb_margins.losses.nontargets import Keep, Kept


class SphereFace2(MarginLoss):
    """Binary classification for each class, with an additive margin on both sides.

    With u_j = g(cos_j) + b, the scores of an
    :class:`~sb_margins.classifiers.AdjustedCosineClassifier` (b / r in the paper's
    letters), and lambda the balance,

        L = lambda log(1 + exp(-r (u_y - m)))
            + (1 - lambda) sum over j != y of log(1 + exp(r (u_j + m)))

    Classes do not compete: every one of them must be far enough from the point 0, on
    its side. The paper has 1 / r before it and its code 50 / r, which Adam does not
    see; this is the form for speakers. Its other margins (angular ones) are not here.
    On a :class:`~sb_margins.classifiers.CosineClassifier` t is 1 and b is 0.

    Reference: Wen et al., "SphereFace2", ICLR 2022, arXiv 2108.01513 (type C); for
    speakers Han et al., "Exploring binary classification loss for speaker
    verification", ICASSP 2023.

    Arguments
    ---------
    margin : float
        m, in units of the score. Default 0.2.
    scale : float
        r. Default 32.
    balance : float
        lambda, 0.01 to 0.99. Default 0.7.

    Example
    -------
    >>> import torch
    >>> scores = torch.tensor([[0.8, 0.3, -0.65, -0.1]])
    >>> SphereFace2(margin=0.2, scale=32)(scores, torch.tensor([0]))
    tensor(5.7720)
    """

    accepts = ("adjusted", "cosine")
    ranges = {**MarginLoss.ranges, "balance": (0.01, 0.99, "0.7 is usual")}

    def __init__(
        self, margin: float = 0.2, scale: float = 32.0, balance: float = 0.7
    ) -> None:
        super().__init__(scale)
        self.margin = self.sensible("margin", margin)
        self.balance = self.sensible("balance", balance)

    def target(self, score: Tensor) -> Tensor:
        """``score - margin``, [B]."""
        return fn.additive_margin(score, margin=self.margin)

    def keep(self) -> Keep:
        """All, each by itself, its score raised by the margin."""
        return Keep("each", margin=self.margin)

    def per_sample(self, kept: Kept, classes: int) -> Tensor:
        """Per-sample losses [B]: the target's and the sum of the others'."""
        self.stats = self._measure(kept, classes)
        return fn.binary_loss(kept.lse, kept.logit, balance=self.balance)
