"""Additive angular margin softmax (ArcFace)."""

from __future__ import annotations

from torch import Tensor

from sb_margins import functional as fn
from sb_margins.losses.base import HardestMixin


class AAMSoftmax(HardestMixin):
    """``-log softmax`` with ``s cos(theta_y + m)`` for the target.

    Past theta + m = pi the target goes on as ``cos - m sin m``. Equal to SpeechBrain's
    ``LogSoftmaxWrapper(AdditiveAngularMargin)``, except that the margin can be moved.

    Reference: Deng et al., "ArcFace", CVPR 2019.

    Arguments
    ---------
    margin : float
        m, in radians. Default 0.2.
    scale : float
        s. Default 30.
    easy_margin : bool
        No margin for angles beyond 90 degrees. Default False.
    top_k : int
        How many of the hardest non-targets get a penalty. Default 0, none.
    top_margin : float
        Taken from their angles, in radians. Default 0.06.

    Example
    -------
    >>> import torch
    >>> cosines = torch.tensor([[0.8, 0.3, 0.65, -0.1]])
    >>> AAMSoftmax(margin=0.2, scale=30)(cosines, torch.tensor([0]))
    tensor(0.4950)
    """

    angular = True
    ranges = {**HardestMixin.ranges, **HardestMixin.ANGLES}

    def __init__(
        self,
        margin: float = 0.2,
        scale: float = 30.0,
        easy_margin: bool = False,
        top_k: int = 0,
        top_margin: float = 0.06,
    ) -> None:
        super().__init__(scale, top_k, top_margin)
        self.margin = self.sensible("margin", margin)
        self.easy_margin = bool(easy_margin)

    def target(self, score: Tensor) -> Tensor:
        """``cos(theta + margin)``, [B]."""
        return fn.angular_margin(
            score, margin=self.margin, easy_margin=self.easy_margin
        )
