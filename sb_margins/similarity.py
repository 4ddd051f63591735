"""How alike two embeddings are: cosine, or negative Poincaré distance.

Larger means same speaker. ``forward`` compares matched embeddings, as SpeechBrain's
``SpeakerRecognition.verify_batch`` calls it; ``matrix`` compares all pairs by one
matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sb_margins.classifiers import PoincareClassifier
from sb_margins.poincare import clip, clip_radius, distance, tangent_distance
from sb_margins.precision import island, normalize, upcast


class CosineSimilarity(nn.Module):
    """Cosine of the angle between embeddings.

    Example
    -------
    >>> import torch
    >>> similarity = CosineSimilarity()
    >>> similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.6000])
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines of matched embeddings.

        Arguments
        ---------
        a, b : torch.Tensor
            Embeddings [..., D], broadcast against each other.

        Returns
        -------
        torch.Tensor
            Shape [...], -1 to 1.
        """
        with island(a.device):
            return (normalize(upcast(a)) * normalize(upcast(b))).sum(-1)

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines of all pairs.

        Arguments
        ---------
        a, b : torch.Tensor
            Embeddings [N, D] and [M, D].

        Returns
        -------
        torch.Tensor
            Shape [N, M].

        Example
        -------
        >>> import torch
        >>> CosineSimilarity().matrix(torch.eye(2), torch.ones(1, 2))
        tensor([[0.7071],
                [0.7071]])
        """
        with island(a.device):
            return normalize(upcast(a)) @ normalize(upcast(b)).t()


class PoincareSimilarity(nn.Module):
    """Negative Poincaré distance between embeddings.

    Arguments
    ---------
    curvature : float
        c, as the classifier of the training had it. Default 5.
    metric : str
        ``"unit"`` (default) or ``"curvature"``, see
        :class:`~sb_margins.classifiers.PoincareClassifier`.
    clip_norm : float, optional
        Feature clipping (textbook metric only).

    Example
    -------
    >>> import torch
    >>> similarity = PoincareSimilarity(curvature=2.0)
    >>> similarity(torch.tensor([[0.1, 0.2]]), torch.tensor([[-0.3, 0.05]]))
    tensor([-0.8905])
    """

    def __init__(
        self,
        curvature: float = 5.0,
        metric: str = "unit",
        clip_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.curvature, self.metric = float(curvature), metric
        self.clip_norm = clip_norm
        self._ball()  # the same demands

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Negative distances of matched embeddings.

        Arguments
        ---------
        a, b : torch.Tensor
            Embeddings [..., D], broadcast against each other.

        Returns
        -------
        torch.Tensor
            Shape [...], 0 or less.
        """
        with island(a.device, exact=True):
            a, b = self._ready(a), self._ready(b)
            if self.metric == "unit":
                return -distance(a, b)
            return -tangent_distance(a, b, curvature=self.curvature)

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """Negative distances of all pairs, by one matrix product.

        Arguments
        ---------
        a, b : torch.Tensor
            Embeddings [N, D] and [M, D].

        Returns
        -------
        torch.Tensor
            Shape [N, M].

        Example
        -------
        >>> import torch
        >>> PoincareSimilarity(curvature=2.0).matrix(
        ...     torch.eye(2) / 4, -torch.eye(2) / 4
        ... )
        tensor([[-1.0217, -0.7374],
                [-0.7374, -1.0217]])
        """
        with island(a.device, exact=True):
            a, b = self._ready(a), upcast(b)
            ball = self._ball()
            return ball.scores(a, ball.clipped(b), None)

    def _ball(self) -> PoincareClassifier:
        """A classifier without weights: nothing is drawn from the random generator."""
        with torch.device("meta"):
            return PoincareClassifier(1, 2, self.curvature, self.metric, self.clip_norm)

    def _ready(self, x: Tensor) -> Tensor:
        x = upcast(x)
        if self.metric == "unit":
            return clip(x, radius=clip_radius(self.curvature))
        return x if self.clip_norm is None else clip(x, radius=self.clip_norm)
