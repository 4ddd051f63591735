"""Several losses over one embedding."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sb_margins.errors import UserError
from sb_margins.losses.base import MarginLoss
from sb_margins.losses.pairing import check_scores


def _shared(name: str) -> property:
    """A setting that is the first loss's to read, and that of all to set."""

    def having(joint: JointLoss) -> list[Any]:
        losses = [loss for loss in joint.losses if hasattr(loss, name)]
        if not losses:
            raise UserError(f"none of the joint losses has a {name}")
        return losses

    def set_all(joint: JointLoss, value: float) -> None:
        for loss in having(joint):
            setattr(loss, name, float(value))

    return property(lambda joint: float(getattr(having(joint)[0], name)), set_all)


class JointLoss(nn.Module):
    """``sum of weight_i loss_i``, each on its own scores of the same embedding.

    The scores come from a :class:`~sb_margins.classifiers.JointClassifier`. The HAM
    authors' joint objective is 0.3 Real-AM on cosines + 0.7 HAM on the ball.
    ``margin`` and ``scale`` read the first loss's and set those of all that have one.

    Reference: Fang and He, arXiv 2601.19709 (released code).

    Arguments
    ---------
    losses : sequence of MarginLoss
        One per geometry.
    weights : sequence of float
        One per loss.

    Raises
    ------
    ValueError
        When there is none, or the numbers differ.

    Example
    -------
    >>> import torch
    >>> from sb_margins.losses import HSoftmax, NormSoftmax
    >>> loss = JointLoss([NormSoftmax(), HSoftmax()], [0.3, 0.7])
    >>> loss(torch.zeros(5, 2, 4), torch.tensor([0, 1, 2, 3, 0]))
    tensor(1.3863)
    """

    accepts = ("joint",)
    margin, scale = _shared("margin"), _shared("scale")

    def __init__(self, losses: Sequence[MarginLoss], weights: Sequence[float]) -> None:
        super().__init__()
        if not losses or len(losses) != len(weights):
            raise UserError(
                f"{len(losses)} losses with {len(weights)} weights: give one weight "
                "for each loss"
            )
        self.losses = nn.ModuleList(losses)
        self.weights = [float(w) for w in weights]
        self.stats: dict[str, Tensor] = {}

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """The weighted sum of one loss (or [B] losses) each, and their statistics."""
        losses: list[Any] = list(self.losses)
        self.stats = {
            f"{i}.{k}": v for i, x in enumerate(losses) for k, v in x.stats.items()
        }
        weighted = [w * part for w, part in zip(self.weights, parts, strict=True)]
        return functools.reduce(torch.add, weighted)

    def forward(
        self,
        outputs: Tensor,
        targets: Tensor,
        length: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The loss of scores [B, number of losses, C]; see :meth:`MarginLoss.forward`.

        Raises
        ------
        ValueError
            For scores of another shape, and whatever the parts refuse.
        """
        check_scores(self, outputs)
        if outputs.dim() != 3 or outputs.shape[1] != len(self.losses):
            raise UserError(
                f"scores must be [batch, {len(self.losses)}, classes] for this joint "
                f"loss, not {list(outputs.shape)}; use a JointClassifier"
            )
        parts = [
            loss(outputs[:, i], targets, length, reduction)
            for i, loss in enumerate(self.losses)
        ]
        return self.combine(parts)
