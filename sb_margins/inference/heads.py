"""From a training head to the similarity that its embeddings were trained for."""

from __future__ import annotations

from typing import Any

from torch import nn

from sb_margins.similarity import CosineSimilarity, PoincareSimilarity


def similarity_of(head: nn.Module) -> nn.Module:
    """How embeddings trained under a head are to be compared.

    Arguments
    ---------
    head : torch.nn.Module
        A `sb_margins.head.Head`, or its classifier.

    Returns
    -------
    torch.nn.Module
        Negative Poincaré distance with the classifier's curvature, metric and
        clipping, or the cosine for any other classifier.

    Example
    -------
    >>> from sb_margins.classifiers import CosineClassifier, PoincareClassifier
    >>> similarity_of(PoincareClassifier(4, 2, curvature=3.0)).curvature
    3.0
    >>> similarity_of(CosineClassifier(4, 2))
    CosineSimilarity()
    """
    classifier: Any = getattr(head, "classifier", head)
    if getattr(classifier, "geometry", "") != "poincare":
        return CosineSimilarity()
    return PoincareSimilarity(
        float(classifier.curvature), classifier.metric, classifier.clip_norm
    )
