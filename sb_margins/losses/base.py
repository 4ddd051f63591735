"""What every loss is: a margin on the target's score, and a rule for the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sb_margins import functional as fn
from sb_margins.errors import UserError
from sb_margins.labels import InputCheck, as_labels, as_rows
from sb_margins.losses.dense import dense_kept
from sb_margins.losses.nontargets import Keep, Kept
from sb_margins.losses.pairing import check_scores
from sb_margins.precision import full_precision, upcast
from sb_margins.ranks import ALONE, Ranks


class MarginLoss(nn.Module):
    """Base of the losses: ``log(1 + sum of exp(z_j - z_t) over the kept j != y)``.

    A loss says what the margin does to the target's score (:meth:`target`) and which
    non-targets are kept (:meth:`keep`). ``scale``, ``margin`` and ``delta`` are plain
    numbers, read at each call, so that a schedule can move them. After each call
    ``stats`` holds detached scalars on the device of the scores; nothing waits for it.

    Arguments
    ---------
    scale : float
        Multiplies the scores, more than 0.

    Raises
    ------
    ValueError
        When a setting is out of its range.

    Example
    -------
    >>> from sb_margins.losses import AMSoftmax
    >>> loss = AMSoftmax(margin=0.2, scale=30)
    >>> loss(torch.tensor([[0.8, 0.3, 0.65, -0.1]]), torch.tensor([0]))
    tensor(1.7014)
    """

    accepts: tuple[str, ...] = ("cosine",)
    #: What a setting may be, and in which unit.
    ranges: Mapping[str, tuple[float, float, str]] = {
        "scale": (0.01, 1e3, "30 is usual"),
        "margin": (0, 2, "in cosine"),
        "top_margin": (0, 2, "in cosine"),
        "delta": (0, 1, "it compares probabilities"),
    }
    satisfied = "drop"
    top_k = 0

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = self.sensible("scale", scale)
        self.stats: dict[str, Tensor] = {}
        self.check = InputCheck()

    def sensible(self, setting: str, value: float) -> float:
        """The value, refused when it is out of the setting's range."""
        low, high, unit = self.ranges[setting]
        if not low <= value <= high:
            most = f"{high:g} ({unit})"
            raise UserError(f"{setting} is {value}: it must be {low:g} to {most}")
        return float(value)

    def target(self, score: Tensor) -> Tensor:
        """The target's score [B] after its margin, differentiable."""
        return score

    def keep(self) -> Keep:
        """Which non-targets count; all, unless a loss says otherwise."""
        return Keep()

    def others(self, scores: Tensor, labels: Tensor, ranks: Ranks = ALONE) -> Tensor:
        """The scores the non-targets are judged by, [B, C]; as they are, usually.

        With ``ranks`` the scores of this one's classes.
        """
        return scores

    def per_sample(self, kept: Kept, classes: int) -> Tensor:
        """Per-sample losses [B] from what an evaluator found among C classes."""
        satisfied = None if kept.number is None else classes - 1 - kept.number
        self.stats = self._measure(kept, classes)
        return fn.total_loss(kept.lse, kept.logit, satisfied, self.satisfied)

    def _measure(self, kept: Kept, classes: int) -> dict[str, Tensor]:
        with torch.no_grad():
            stats = {
                "target_score": kept.target.mean(),
                "hardest_score": kept.best.mean() / self.scale,
            }
            if kept.number is not None:
                done = kept.number == 0
                stats["zero_loss"] = done.to(kept.target.dtype).mean()
                stats["kept"] = kept.number.mean() / (classes - 1)
            elif hasattr(self, "delta"):  # delta = 1: nothing is ever dropped
                none = torch.zeros_like(stats["target_score"])
                stats |= {"zero_loss": none, "kept": none + 1}
        return stats

    def forward(
        self,
        outputs: Tensor,
        targets: Tensor,
        length: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The loss of a batch of scores; a drop-in for ``LogSoftmaxWrapper``.

        Arguments
        ---------
        outputs : torch.Tensor
            A classifier's scores, [B, 1, C] or [B, C], any floating dtype.
        targets : torch.Tensor
            Class numbers, [B, 1] or [B], any dtype.
        length : torch.Tensor, optional
            Relative lengths; a whole utterance has one label, so they do not matter.
        reduction : str
            ``"mean"`` (default), ``"sum"``, or ``"none"`` / ``"batch"`` for [B].

        Returns
        -------
        torch.Tensor
            float32 (float64 for float64 scores), a scalar or [B].

        Raises
        ------
        ValueError
            For labels out of range, an empty batch, scores that are not finite.
        """
        check_scores(self, outputs)
        scores = upcast(as_rows(outputs, "scores"))
        if scores.shape[1] < 2:
            raise UserError("scores of fewer than 2 classes: nothing to tell apart")
        labels = as_labels(targets, len(scores))
        labels = self.check.labels(labels, scores.shape[1])
        with full_precision(scores.device):
            kept = self.dense(scores, labels)
            self.check.values(kept.lse.clamp_min(0) + kept.target)
            losses = self.per_sample(kept, scores.shape[1])
            return fn.reduce(losses, reduction)

    def dense(self, scores: Tensor, labels: Tensor, ranks: Ranks = ALONE) -> Kept:
        """The dense evaluator on this loss's decisions; scores [B, C], labels [B]."""
        return dense_kept(
            self.others(scores, labels, ranks),
            labels,
            scale=self.scale,
            keep=self.keep(),
            margin=self.target,
            ranks=ranks,
        )

    def extra_repr(self) -> str:
        """The settings, for print."""
        names = ("margin", "scale", "delta", "satisfied", "top_k")
        own = {n: getattr(self, n, None) for n in names}
        if not hasattr(self, "margin") or self.satisfied == "drop":
            own.pop("satisfied")
        return ", ".join(f"{n}={v}" for n, v in own.items() if v not in (None, 0))


class HardestMixin(MarginLoss):
    """The inter-top-K penalty (Zhao et al. 2022), for margins on cosines.

    The ``top_k`` non-targets nearest to each embedding are made harder by
    ``top_margin``: ``cos(theta - top_margin)`` for angular margins, ``+ top_margin``
    for additive ones.
    """

    angular = False
    ANGLES = dict.fromkeys(
        ("margin", "m2", "top_margin"), (0, math.pi / 2, "in radians")
    )

    def __init__(self, scale: float, top_k: int, top_margin: float) -> None:
        super().__init__(scale)
        if top_k < 0:
            raise UserError(f"top_k is {top_k}: it must be 0 (off) or more")
        self.top_k = int(top_k)
        self.top_margin = self.sensible("top_margin", top_margin)

    def others(self, scores: Tensor, labels: Tensor, ranks: Ranks = ALONE) -> Tensor:
        """Scores with the hardest non-targets lifted, [B, C]."""
        if not self.top_k:
            return scores
        hardest = ranks.hardest(scores.detach(), labels, self.top_k)
        lift: Any = {"margin": self.top_margin, "angular": self.angular}
        return fn.lift_at(scores, *hardest, **lift)
