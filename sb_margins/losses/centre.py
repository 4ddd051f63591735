"""The centre loss, beside another loss."""

from __future__ import annotations

from torch import Tensor, nn

from sb_margins import functional as fn
from sb_margins.labels import InputCheck, as_labels, as_rows
from sb_margins.losses.pairing import check_scores
from sb_margins.precision import upcast


class CentreLoss(nn.Module):
    """``|x - c_y|^2 / 2``: minus the target's score; other classes do not matter.

    The scores come from a :class:`~sb_margins.classifiers.CentreClassifier`. Its own
    best is all embeddings in one point; with a classifier's loss, and a weight lambda
    in a :class:`JointLoss`, it draws each class together.

    Reference: Wen et al., "A Discriminative Feature Learning Approach for Deep Face
    Recognition", ECCV 2016.

    Example
    -------
    >>> import torch
    >>> CentreLoss()(torch.tensor([[-0.5, -2.0], [-8.0, 0.0]]), torch.tensor([0, 1]))
    tensor(0.2500)
    """

    accepts = ("centres",)

    def __init__(self) -> None:
        super().__init__()
        self.stats: dict[str, Tensor] = {}
        self.check = InputCheck()

    def forward(
        self,
        outputs: Tensor,
        targets: Tensor,
        length: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The loss of a batch, as :meth:`MarginLoss.forward`."""
        check_scores(self, outputs)
        scores = upcast(as_rows(outputs, "scores"))
        labels = self.check.labels(as_labels(targets, len(scores)), scores.shape[1])
        target = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
        self.stats = {"target_score": target.detach().mean()}
        return fn.reduce(-target, reduction)
