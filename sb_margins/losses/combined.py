"""SphereFace, ArcFace and CosFace in one, and SphereFace by itself."""

from __future__ import annotations

from torch import Tensor

from sb_margins import functional as fn
from sb_margins.errors import UserError
from sb_margins.losses.base import HardestMixin


class CombinedMargin(HardestMixin):
    """``-log softmax`` with ``s (cos(m1 theta_y + m2) - m3)`` for the target.

    ``(1, 0, m)`` is :class:`AMSoftmax`, ``(1, m, 0)`` :class:`AAMSoftmax`, ``(m, 0,
    0)`` :class:`ASoftmax` without annealing. Past pi the target goes on as in those.

    Reference: Deng et al., "ArcFace", CVPR 2019, equation 4.

    Arguments
    ---------
    m1 : int
        Multiplies the angle, 1 or more. Default 1.
    m2 : float
        Added to the angle, radians. Default 0.2.
    m3 : float
        Taken from the cosine. Default 0.1.
    scale : float
        s. Default 30.
    anneal : float
        lambda: the target is ``(lambda cos + margined) / (1 + lambda)``; a schedule
        may lower it during training. Default 0.
    top_k, top_margin
        As in :class:`AAMSoftmax`.

    Raises
    ------
    ValueError
        When m1 is not a whole number of 1 or more, or anneal is negative.

    Example
    -------
    >>> import torch
    >>> cosines, label = torch.tensor([[0.8, 0.3, 0.65, -0.1]]), torch.tensor([0])
    >>> CombinedMargin(1, 0.0, 0.2)(cosines, label)
    tensor(1.7014)
    """

    angular = True
    ranges = {
        **HardestMixin.ranges,
        **HardestMixin.ANGLES,
        "m3": (0, 2, "in cosine"),
    }

    def __init__(
        self,
        m1: int = 1,
        m2: float = 0.2,
        m3: float = 0.1,
        scale: float = 30.0,
        anneal: float = 0.0,
        top_k: int = 0,
        top_margin: float = 0.06,
    ) -> None:
        super().__init__(scale, top_k, top_margin)
        if int(m1) != m1 or m1 < 1:
            raise UserError(f"m1 is {m1}: it multiplies the angle, 1, 2, 3, ...")
        if anneal < 0:
            raise UserError(f"anneal is {anneal}: it must be 0 (off) or more")
        self.m1 = int(m1)
        self.m2, self.m3 = self.sensible("m2", m2), self.sensible("m3", m3)
        self.anneal = float(anneal)

    def target(self, score: Tensor) -> Tensor:
        """``cos(m1 theta + m2) - m3``, mixed with the cosine when annealed, [B]."""
        hard = fn.combined_margin(score, m1=self.m1, m2=self.m2, m3=self.m3)
        if not self.anneal:
            return hard
        return (self.anneal * score + hard) / (1 + self.anneal)


class ASoftmax(CombinedMargin):
    """SphereFace: ``(-1)^k cos(m1 theta) - 2k`` for the target, annealed.

    Hard to train at once: start with ``anneal`` at 1000 and lower it (SphereFace ends
    at 5).

    Reference: Liu et al., "SphereFace", CVPR 2017.

    Arguments
    ---------
    m1 : int
        Multiplies the angle. Default 4.
    scale : float
        s. Default 30.
    anneal : float
        lambda, see :class:`CombinedMargin`. Default 5.

    Example
    -------
    >>> import torch
    >>> cosines = torch.tensor([[1.0, 0.3, 0.65, -0.1]])
    >>> loss = ASoftmax(m1=2, scale=4, anneal=0)
    >>> loss(cosines, torch.tensor([0]))
    tensor(0.2774)
    """

    def __init__(self, m1: int = 4, scale: float = 30.0, anneal: float = 5.0) -> None:
        super().__init__(m1, 0.0, 0.0, scale, anneal)
