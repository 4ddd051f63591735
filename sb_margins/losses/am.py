"""Additive margin softmax."""

from __future__ import annotations

from torch import Tensor

from sb_margins import functional as fn
from sb_margins.losses.base import HardestMixin


class AMSoftmax(HardestMixin):
    """``-log softmax`` with ``s (cos_y - m)`` for the target, ``s cos_j`` elsewhere.

    Reference: Wang et al., "Additive Margin Softmax for Face Verification", 2018.

    Arguments
    ---------
    margin : float
        m, in units of cosine. Default 0.2.
    scale : float
        s. Default 30.
    top_k : int
        How many of the hardest non-targets get a penalty. Default 0, none.
    top_margin : float
        Added to their cosines. Default 0.06.

    Example
    -------
    >>> import torch
    >>> cosines = torch.tensor([[0.5, 0.45, 0.1, 0.35]])
    >>> AMSoftmax(margin=0.2, scale=30)(cosines, torch.tensor([0]))
    tensor(4.5591)
    """

    def __init__(
        self,
        margin: float = 0.2,
        scale: float = 30.0,
        top_k: int = 0,
        top_margin: float = 0.06,
    ) -> None:
        super().__init__(scale, top_k, top_margin)
        self.margin = self.sensible("margin", margin)

    def target(self, score: Tensor) -> Tensor:
        """``score - margin``, [B]."""
        return fn.additive_margin(score, margin=self.margin)
