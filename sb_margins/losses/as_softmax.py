"""Adaptive sparse softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sb_margins import functional as fn
from sb_margins.errors import UserError
from sb_margins.labels import as_labels, as_rows
from sb_margins.losses.base import MarginLoss
from sb_margins.losses.nontargets import Keep
from sb_margins.losses.pairing import check_scores
from sb_margins.precision import full_precision, upcast


class ASSoftmax(MarginLoss):
    """Softmax without the classes that are already far behind in probability.

    With p the softmax of the scaled scores, non-target j is dropped when
    ``p_y - p_j > delta``; a sample with none left has loss 0. ``delta=1`` is plain
    softmax; 0.1 (the paper's) is a weak demand for verification: a margin of
    ``(2 / s) artanh(delta)``, 0.007 in cosine at s = 30; 0.995 makes it 0.2. ``base``
    lets the same test act on the logits of any margin. ``stats["zero_loss"]`` is the
    share of samples without loss, ``stats["kept"]`` that of classes kept.

    Reference: Lv et al., "Adaptive Sparse Softmax", IEEE TASLP 2025,
    arXiv 2508.03175.

    Arguments
    ---------
    delta : float
        0 to 1. Default 0.1.
    scale : float
        s; with a base, the base's counts. Default 30.
    base : MarginLoss, optional
        Whose margin the target's logit gets first. Default none.

    Raises
    ------
    ValueError
        For a delta outside [0, 1], or a base that drops classes by itself.

    Example
    -------
    >>> logits, label = torch.tensor([[2.0, 1.5, 0.0, -1.0]]), torch.tensor([0])
    >>> [round(float(ASSoftmax(d, scale=1)(logits, label)), 4) for d in (0.1, 0.3, 1)]
    [0.0, 0.4741, 0.5831]
    """

    accepts: tuple[str, ...] = ("cosine", "poincare", "linear")
    base: Any

    def __init__(
        self, delta: float = 0.1, scale: float = 30.0, base: MarginLoss | None = None
    ) -> None:
        super().__init__(scale)
        self.delta = self.sensible("delta", delta)
        self.base = base
        if base is not None:
            if base.keep().kind != "all" or base.top_k:
                raise UserError(
                    f"ASSoftmax over {type(base).__name__} makes no sense: it chooses "
                    "among the non-targets itself; give base= a plain margin such as "
                    "AMSoftmax, AAMSoftmax or HAMSoftmax"
                )
            self.accepts, self.scale = base.accepts, base.scale

    @property
    def margin(self) -> float:
        """The base's margin (0 without one); schedules may set it."""
        return float(getattr(self.base, "margin", 0.0))

    @margin.setter
    def margin(self, value: float) -> None:
        if not hasattr(self.base, "margin"):
            raise UserError(
                "ASSoftmax has no margin of its own; give it one with "
                "base=AMSoftmax(margin=...)"
            )
        self.base.margin = float(value)

    def target(self, score: Tensor) -> Tensor:
        """The base's target, or the score itself, [B]."""
        return score if self.base is None else self.base.target(score)

    def keep(self) -> Keep:
        """Those not further behind than delta."""
        return Keep("sparse", delta=self.delta) if self.delta < 1 else Keep()


class MultiLabelASSoftmax(MarginLoss):
    """AS-Softmax for samples that belong to several classes.

    With P the positive classes, N the others, p the softmax of the scaled scores:

        L = log(1 + sum of exp(o_i), i in N kept) + log(1 + sum of exp(-o_t), t in P
        kept)

    (several speakers at once; tags; a text of several topics). A class counts as
    present when its score is above 0. i is dropped when ``min p_P - p_i >= delta`` and
    t when ``p_t - max p_N >= delta``.

    Reference: as :class:`ASSoftmax`.

    Arguments
    ---------
    delta : float
        0 to 1. Default 0.1.
    scale : float
        Multiplies the scores. Default 1.

    Example
    -------
    >>> loss = MultiLabelASSoftmax(delta=1.0)
    >>> loss(torch.zeros(1, 3), torch.tensor([[1, 0, 1]]))
    tensor(1.7918)
    """

    accepts = ("cosine", "poincare", "linear")
    multi_label = True

    def __init__(self, delta: float = 0.1, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.delta = self.sensible("delta", delta)

    def forward(
        self,
        outputs: Tensor,
        targets: Tensor,
        length: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The loss of a batch, as :meth:`MarginLoss.forward`.

        But the targets are 1 for the classes a sample belongs to, else 0, in the shape
        of the scores; class numbers will do where each sample has one.
        """
        check_scores(self, outputs)
        scores = upcast(as_rows(outputs, "scores"))
        positive = self.positive(scores, targets)
        self.check.values(scores)
        with full_precision(scores.device):
            z = scores * self.scale
            p = z.detach().softmax(-1)
            worst = p.masked_fill(~positive, 2.0).amin(-1, keepdim=True)
            rival = p.masked_fill(positive, -2.0).amax(-1, keepdim=True)
            delta = self.delta if self.delta < 1 else math.inf  # all are kept
            keep_n = ~positive & (worst - p < delta)
            keep_p = positive & (p - rival < delta)
            losses = _log1p_sum(z, keep_n) + _log1p_sum(-z, keep_p)
            count = (keep_n | keep_p).to(z.dtype)
            self.stats = {
                "zero_loss": (count.sum(-1) == 0).to(z.dtype).mean(),
                "kept": count.mean(),
            }
            return fn.reduce(losses, reduction)

    def positive(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Which classes the samples belong to, bool [B, C], for scores [B, C]."""
        if targets.dim() == 1 or targets.shape[-1] == 1:
            labels = as_labels(targets, len(scores)).unsqueeze(1)
            labels = self.check.labels(labels, scores.shape[1])
            return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, labels, True)
        positive = as_rows(targets, "targets") > 0
        if positive.shape != scores.shape:
            raise UserError(
                f"targets must have one 0 or 1 per score, {list(scores.shape)}, "
                f"not {list(positive.shape)}"
            )
        return positive


def _log1p_sum(z: Tensor, keep: Tensor) -> Tensor:
    """``log(1 + sum of exp(z) over the kept)``, [B]."""
    lowest = torch.finfo(z.dtype).min
    z = torch.cat([z.masked_fill(~keep, lowest), z.new_zeros(len(z), 1)], 1)
    return z.logsumexp(-1)
