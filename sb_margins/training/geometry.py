"""Where embeddings and prototypes lie: what goes wrong in a ball shows here first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sb_margins.classifiers import PoincareClassifier


def edge_distance(classifier: PoincareClassifier, vectors: Tensor) -> Tensor:
    """How far vectors are from the edge of the ball, as a share of its radius.

    Arguments
    ---------
    classifier : PoincareClassifier
        The unit metric's ball ends where it clips; the textbook ball's at
        1 / sqrt(c), where ``vectors`` are tangents at the origin.
    vectors : torch.Tensor
        [N, D].

    Returns
    -------
    torch.Tensor
        [N] in [0, 1]: 1 at the centre, 0 at the edge.

    Example
    -------
    >>> ball = PoincareClassifier(2, 3, curvature=4.0)
    >>> edge_distance(ball, torch.tensor([[0.0, 0.0], [0.25, 0.0], [9.0, 0.0]]))
    tensor([1.0000, 0.5000, 0.0000])
    """
    c = torch.as_tensor(classifier.curvature).to(vectors.device).detach()
    if classifier.metric == "unit":
        radius = (1 - 1e-5) / c.sqrt()
        return (1 - vectors.norm(dim=1) / radius).clamp_min(0)
    # 1 - tanh(z), without its cancellation
    return 2 / ((2 * c.sqrt() * vectors.norm(dim=1)).exp() + 1)


def _balls(head: Any) -> list[tuple[str, PoincareClassifier]]:
    parts = getattr(head.classifier, "classifiers", None)
    named = [("", head.classifier)]
    if parts is not None:
        named = [(f"{i}.", part) for i, part in enumerate(parts)]
    return [(n, part) for n, part in named if isinstance(part, PoincareClassifier)]


@torch.no_grad()
def of_embeddings(head: Any, embeddings: Tensor) -> dict[str, Tensor]:
    """Mean norm of a batch, and for a ball its mean distance from the edge.

    Arguments
    ---------
    head : Head
        Whose classifier scores them.
    embeddings : torch.Tensor
        [B, D].

    Returns
    -------
    dict of str to torch.Tensor
        0-dim, on the device.

    Example
    -------
    >>> from sb_margins.select import head
    >>> sorted(of_embeddings(head("ham", 4, 3), torch.zeros(2, 4)))
    ['embedding_edge', 'embedding_norm']
    """
    vectors = embeddings.detach().float()
    found = {"embedding_norm": vectors.norm(dim=1).mean()}
    for prefix, ball in _balls(head):
        clipped = vectors if ball.metric == "unit" else ball.clipped(vectors)
        found[f"{prefix}embedding_edge"] = edge_distance(ball, clipped).mean()
    return found


@torch.no_grad()
def of_prototypes(head: Any) -> dict[str, float]:
    """For a ball, the classes' mean and least distance from its edge.

    Example
    -------
    >>> from sb_margins.select import head
    >>> of_prototypes(head("aam", 4, 3)), sorted(of_prototypes(head("h", 4, 3)))
    ({}, ['prototype_edge', 'prototype_edge_min'])
    """
    found: dict[str, float] = {}
    for prefix, ball in _balls(head):
        edges = edge_distance(ball, ball.weight.detach().float())
        found[f"{prefix}prototype_edge"] = float(edges.mean())
        found[f"{prefix}prototype_edge_min"] = float(edges.min())
    return found
