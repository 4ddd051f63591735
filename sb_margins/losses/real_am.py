"""Real additive margin softmax."""

from __future__ import annotations

from torch import Tensor

from sb_margins import functional as fn
from sb_margins.errors import UserError, nearest
from sb_margins.losses.base import MarginLoss
from sb_margins.losses.nontargets import Keep

FORMS = ("zero", "clamp", "drop")


class RealAMSoftmax(MarginLoss):
    """AM-Softmax that acts only on the non-targets which violate the margin.

    With ``v_j = s (cos_j - cos_y + m)``, non-target j is satisfied when v_j < 0 and
    sends no gradient to its class. Three readings of what it still adds to the loss:

    ``"zero"`` (default) is the authors' released code: its logit becomes 0, so K
    satisfied ones add ``K exp(-s (cos_y - m))``: nothing once the target's logit is
    well above ln K, a pull on the target before.
    ``"clamp"`` is ``exp(max(0, v_j))``: each adds 1, so the loss never falls below
    ln C, and the denominator takes about ``ln(C) / s`` away from the margin (0.29 for
    5994 speakers at s = 30): use m of 0.4 or more.
    ``"drop"`` leaves the term out, as the authors' slides put it: loss and gradient
    are exactly 0 when every margin holds.

    Reference: Li, Nai and Wang, "Real Additive Margin Softmax for Speaker
    Verification", ICASSP 2022, arXiv 2110.09116.

    Arguments
    ---------
    margin : float
        m, in units of the score. Default 0.2.
    scale : float
        s. Default 30.
    satisfied : str
        ``"zero"``, ``"clamp"`` or ``"drop"``. Default ``"zero"``; on Poincaré scores,
        where a logit of 0 is distance 0, only the other two make sense.

    Raises
    ------
    ValueError
        For another word.

    Example
    -------
    >>> import torch
    >>> cosines, label = torch.tensor([[0.9, 0.1, 0.0, -0.3]]), torch.tensor([0])
    >>> [
    ...     round(float(RealAMSoftmax(satisfied=form)(cosines, label)), 4)
    ...     for form in ("zero", "clamp", "drop")
    ... ]
    [0.0, 1.3863, 0.0]
    """

    accepts: tuple[str, ...] = ("cosine", "poincare")
    ranges = {**MarginLoss.ranges, "margin": (0, 10, "in cosine or distance")}

    def __init__(
        self, margin: float = 0.2, scale: float = 30.0, satisfied: str = "zero"
    ) -> None:
        super().__init__(scale)
        if satisfied not in FORMS:
            raise UserError(
                f"satisfied='{satisfied}' is none of {', '.join(FORMS)}."
                f"{nearest(str(satisfied), FORMS)}"
            )
        self.margin, self.satisfied = self.sensible("margin", margin), satisfied
        if satisfied == "zero":
            self.accepts = ("cosine",)

    def target(self, score: Tensor) -> Tensor:
        """``score - margin``, [B]."""
        return fn.additive_margin(score, margin=self.margin)

    def keep(self) -> Keep:
        """Those that violate the margin."""
        return Keep("violating")
