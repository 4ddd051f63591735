"""Several losses over one embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from sb_margins.errors import UserError
from sb_margins.losses.base import MarginLoss
from sb_margins.losses.pairing import check_scores


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

    def _get(self, name: str) -> float:
        found = [getattr(x, name) for x in self.losses if hasattr(x, name)]
        if not found:
            raise UserError(f"none of the joint losses has a {name}")
        return float(found[0])

    def _set(self, name: str, value: float) -> None:
        self._get(name)
        for loss in self.losses:
            if hasattr(loss, name):
                setattr(loss, name, float(value))

    @property
    def margin(self) -> float:
        """The first loss's margin; setting it sets all."""
        return self._get("margin")

    @margin.setter
    def margin(self, value: float) -> None:
        self._set("margin", value)

    @property
    def scale(self) -> float:
        """The first loss's scale; setting it sets all."""
        return self._get("scale")

    @scale.setter
    def scale(self, value: float) -> None:
        self._set("scale", value)

    def combine(self, parts: Sequence[Tensor]) -> Tensor:
        """The weighted sum, and the statistics of the parts.

        Arguments
        ---------
        parts : sequence of torch.Tensor
            One loss (or [B] losses) each.

        Returns
        -------
        torch.Tensor
            Of the shape of the parts.
        """
        losses: list[Any] = list(self.losses)
        self.stats = {
            f"{i}.{k}": v for i, x in enumerate(losses) for k, v in x.stats.items()
        }
        total = self.weights[0] * parts[0]
        for weight, part in zip(self.weights[1:], parts[1:], strict=True):
            total = total + weight * part
        return total

    def forward(
        self,
        outputs: Tensor,
        targets: Tensor,
        length: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The loss of a batch of stacked scores.

        Arguments
        ---------
        outputs : torch.Tensor
            Shape [B, number of losses, C].
        targets, length, reduction
            As in :meth:`MarginLoss.forward`.

        Returns
        -------
        torch.Tensor
            A scalar or [B].

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
