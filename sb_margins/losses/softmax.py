"""Softmax and its normalised form."""

from __future__ import annotations

from sb_margins.losses.base import MarginLoss


class Softmax(MarginLoss):
    """Cross entropy of linear logits: ``-log softmax(x . w + b)_y``.

    Arguments
    ---------
    scale : float
        Multiplies the logits. Default 1.

    Example
    -------
    >>> import torch
    >>> Softmax()(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor(1.3863)
    """

    accepts = ("linear",)

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)


class NormSoftmax(MarginLoss):
    """Cross entropy of scaled cosines: ``-log softmax(s cos)_y``.

    Reference: Wang et al., "NormFace", ACM Multimedia 2017.

    Arguments
    ---------
    scale : float
        s. Default 30.

    Example
    -------
    >>> import torch
    >>> cosines = torch.tensor([[0.8, 0.3, 0.65, -0.1]])
    >>> NormSoftmax(scale=30)(cosines, torch.tensor([0]))
    tensor(0.0110)
    """

    accepts = ("cosine",)

    def __init__(self, scale: float = 30.0) -> None:
        super().__init__(scale)
