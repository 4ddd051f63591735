"""How alike two embeddings are: cosine, or negative Poincaré distance.

Larger means same speaker. ``forward`` compares matched embeddings, as SpeechBrain's
``SpeakerRecognition.verify_batch`` calls it; ``matrix`` compares all pairs by one
matrix product. Both are a first step, `prepare`, on each embedding alone, and a second
one on pairs: who scores many trials prepares each embedding once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sb_margins.classifiers import PoincareClassifier
from sb_margins.errors import UserError, nearest
from sb_margins.poincare import clip, clip_radius, distance, tangent_distance
from sb_margins.precision import full_precision, normalize, upcast


class Similarity(nn.Module):
    """What all similarities share; a subclass has `prepared_pairs` at least."""

    def prepare(self, x: Tensor) -> Tensor:
        """What `prepared_pairs` and `prepared_matrix` take of embeddings [..., D]."""
        return upcast(x)

    def prepared_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities [...] of matched embeddings that `prepare` made."""
        raise NotImplementedError

    def prepared_matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities [N, M] of all pairs of [N, D] and [M, D] that `prepare` made."""
        return self.prepared_pairs(a[:, None], b[None])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities [...] of matched embeddings [..., D], which may broadcast."""
        with full_precision(a.device):
            return self.prepared_pairs(self.prepare(a), self.prepare(b))

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities [N, M] of all pairs of [N, D] and [M, D], by one product."""
        with full_precision(a.device):
            return self.prepared_matrix(self.prepare(a), self.prepare(b))

    def centre(self, rows: Tensor) -> Tensor:
        """One embedding [D] for a speaker who has several, [N, D].

        The mean of the embeddings as `prepare` makes them: of length 1 for cosines,
        clipped for the Poincaré ball (where it lies deeper inside the less they agree,
        as Einstein's midpoint does); the embedding itself when N is 1. Measured on
        real speech in docs/verification.md.

        Example
        -------
        >>> CosineSimilarity().centre(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        tensor([0.5000, 0.5000])
        """
        return rows[0] if len(rows) == 1 else self.prepare(rows).mean(dim=0)

    def settings(self) -> dict[str, Any]:
        """Its name and settings, plain values: `similarity_from` makes it of them."""
        return {"name": type(self).__name__}


class CosineSimilarity(Similarity):
    """Cosine of the angle between embeddings, -1 to 1.

    Example
    -------
    >>> similarity = CosineSimilarity()
    >>> similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
    tensor([0.6000])
    >>> similarity.matrix(torch.eye(2), torch.ones(1, 2))
    tensor([[0.7071],
            [0.7071]])
    """

    def prepare(self, x: Tensor) -> Tensor:
        """Embeddings of length 1; a zero one stays zero, its cosines are 0."""
        return normalize(upcast(x))

    def prepared_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines of embeddings of length 1."""
        return (a * b).sum(-1)

    def prepared_matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines of all pairs of embeddings of length 1."""
        return a @ b.t()

    def settings(self) -> dict[str, Any]:
        """``{"name": "cosine"}``."""
        return {"name": "cosine"}


class PoincareSimilarity(Similarity):
    """Negative Poincaré distance between embeddings, 0 or less.

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
    >>> similarity = PoincareSimilarity(curvature=2.0)
    >>> similarity(torch.tensor([[0.1, 0.2]]), torch.tensor([[-0.3, 0.05]]))
    tensor([-0.8905])
    >>> similarity.matrix(torch.eye(2) / 4, -torch.eye(2) / 4)
    tensor([[-1.0217, -0.7374],
            [-0.7374, -1.0217]])
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
        self._classifier()  # checks the settings

    def prepare(self, x: Tensor) -> Tensor:
        """Embeddings clipped as in training."""
        x = upcast(x)
        if self.metric == "unit":
            return clip(x, radius=clip_radius(self.curvature))
        return x if self.clip_norm is None else clip(x, radius=self.clip_norm)

    def prepared_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """Negative distances of clipped embeddings."""
        if self.metric == "unit":
            return -distance(a, b)
        return -tangent_distance(a, b, curvature=self.curvature)

    def prepared_matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """Negative distances of all pairs of clipped embeddings."""
        return self._classifier().scores(a, b, None)

    def settings(self) -> dict[str, Any]:
        """Name, curvature, metric and clipping."""
        return {
            "name": "poincare",
            "curvature": self.curvature,
            "metric": self.metric,
            "clip_norm": self.clip_norm,
        }

    def _classifier(self) -> PoincareClassifier:
        """A classifier without weights: nothing is drawn from the random generator."""
        with torch.random.fork_rng(devices=[]):
            return PoincareClassifier(1, 2, self.curvature, self.metric, self.clip_norm)

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"curvature={self.curvature:g}, metric={self.metric}"


class _Callable(Similarity):
    """A user's own function of two tensors, or module with ``forward``/``matrix``."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def prepared_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        return self.function(a, b)

    def prepared_matrix(self, a: Tensor, b: Tensor) -> Tensor:
        matrix = getattr(self.function, "matrix", None)
        return super().prepared_matrix(a, b) if matrix is None else matrix(a, b)

    def settings(self) -> dict[str, Any]:
        kind = self.function if hasattr(self.function, "__name__") else None
        return {"name": getattr(kind or type(self.function), "__name__", "unknown")}


def similarity_from(given: Any = None) -> Similarity:
    """The similarity that settings, a name or an object stand for.

    Arguments
    ---------
    given : object
        None or ``"cosine"``; ``"poincare"``; what `Similarity.settings` returned; a
        similarity; ``torch.nn.CosineSimilarity``; or any function of two tensors
        [..., D] whose result [...] is larger for the same speaker.

    Raises
    ------
    UserError
        For anything else.

    Example
    -------
    >>> similarity_from({"name": "poincare", "curvature": 3.0})
    PoincareSimilarity(curvature=3, metric=unit)
    >>> similarity_from()
    CosineSimilarity()
    """
    if isinstance(given, Similarity):
        return given
    if given is None or isinstance(given, nn.CosineSimilarity):
        return CosineSimilarity()
    known = {"cosine": CosineSimilarity, "poincare": PoincareSimilarity}
    if isinstance(given, str):
        given = {"name": given}
    if isinstance(given, Mapping):
        settings = {str(key): value for key, value in given.items()}
        name = str(settings.pop("name", ""))
        if name not in known:
            raise UserError(
                f"similarity '{name}' is unknown.{nearest(name, known)} There are: "
                f"{', '.join(known)}; any other is to be given as an object, or by a "
                "model that has it"
            )
        try:
            return known[name](**settings)
        except TypeError as error:
            raise UserError(f"similarity '{name}': {error}") from error
    if not callable(given):
        raise UserError(
            "a similarity must be callable with two tensors, one of "
            f"sb_margins.similarity for one, not {type(given).__name__}"
        )
    return _Callable(given)


def similarity_of(head: nn.Module) -> Similarity:
    """How embeddings trained under a head are to be compared.

    By negative Poincaré distance with the curvature, metric and clipping of a
    `PoincareClassifier`, by the cosine for any other.

    Arguments
    ---------
    head : torch.nn.Module
        A `sb_margins.head.Head`, or its classifier.

    Example
    -------
    >>> similarity_of(PoincareClassifier(4, 2, curvature=3.0)).curvature
    3.0
    """
    classifier: Any = getattr(head, "classifier", head)
    if getattr(classifier, "geometry", "") != "poincare":
        return CosineSimilarity()
    return PoincareSimilarity(
        float(classifier.curvature), classifier.metric, classifier.clip_norm
    )
