"""Points in the plane or on the Poincaré disc that keep distances as well as can be."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def disc_map(
    distances: np.ndarray, radii: np.ndarray, *, steps: int = 300
) -> tuple[np.ndarray, float]:
    """Points of the Poincaré disc (curvature -1) for points of a hyperbolic space.

    Begins at the directions of the exact low-rank solution (hydra: eigenvectors of
    cosh of the distances; Keller-Ressel and Nargang, 2020) and the true distances
    from the origin; then minimises the relative stress
    sum (d - d')^2 / sum d^2 over all pairs and, with the weight of all of them, over
    the distances from the origin.

    Arguments
    ---------
    distances : numpy.ndarray
        [N, N] hyperbolic distances.
    radii : numpy.ndarray
        [N] hyperbolic distances from the origin.
    steps : int
        Of Adam.

    Returns
    -------
    tuple
        Coordinates [N, 2] of norm below 1, and the square root of the stress: the
        share of the distances that the picture gets wrong.

    Example
    -------
    >>> line = np.array([-1.0, 0.0, 2.0])
    >>> places, stress = disc_map(np.abs(line[:, None] - line), np.abs(line))
    >>> stress < 0.01, np.hypot(*places.T).round(2).tolist()
    (True, [0.46, 0.0, 0.76])
    """
    r = np.asarray(radii, float)
    # The law of cosines, in the form that does not overflow.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        cosine = (
            np.cosh(r)[:, None] * np.cosh(r) - np.cosh(np.minimum(distances, 300))
        ) / (np.sinh(r)[:, None] * np.sinh(r))
    cosine = np.nan_to_num(np.clip(cosine, -1, 1))
    start = _leading(cosine)
    length = np.maximum(np.hypot(*start.T), 1e-9)[:, None]
    tangent = start / length * np.maximum(r, 1e-3)[:, None]

    def stress(x: Tensor, d: Tensor, weight: Tensor) -> Tensor:
        a = x.square().sum(1).add(1e-12).sqrt()
        unit = x / a[:, None]
        half = (unit[:, None] - unit).square().sum(-1) / 4  # sin^2(angle / 2)
        # sinh^2(d / 2) = sinh^2((a - b) / 2) + sinh a sinh b sin^2(angle / 2)
        s = torch.sinh((a[:, None] - a) / 2).square()
        s = s + torch.sinh(a)[:, None] * torch.sinh(a) * half
        found = 2 * torch.asinh((s + 1e-12).sqrt())
        pairs = ((found - d).square() * weight).sum()
        pairs = pairs / (d.square() * weight).sum().clamp_min(1e-9)
        home = torch.as_tensor(r)
        return pairs + (a - home).square().sum() / home.square().sum().clamp_min(1e-9)

    x = _descend(tangent, distances, stress, steps)
    length = np.maximum(np.hypot(*x.T), 1e-12)[:, None]
    places = x / length * np.minimum(np.tanh(length / 2), 1 - 1e-12)
    return places, _wrong(_disc_distances(places), distances)


def plane_map(distances: np.ndarray, *, steps: int = 300) -> tuple[np.ndarray, float]:
    """Points of the plane: metric multidimensional scaling by stress.

    Arguments
    ---------
    distances : numpy.ndarray
        [N, N], e.g. angles.
    steps : int
        Of Adam.

    Returns
    -------
    tuple
        Coordinates [N, 2], and the square root of the relative stress.

    Example
    -------
    >>> line = np.array([0.0, 1.0, 3.0])
    >>> plane_map(np.abs(line[:, None] - line))[1] < 0.01
    True
    """
    square = distances**2
    centred = square - square.mean(0) - square.mean(1)[:, None] + square.mean()
    start = _leading(-centred / 2)

    def stress(x: Tensor, d: Tensor, weight: Tensor) -> Tensor:
        found = (x[:, None] - x).square().sum(-1).add(1e-12).sqrt()
        whole = (d.square() * weight).sum().clamp_min(1e-9)
        return ((found - d).square() * weight).sum() / whole

    x = _descend(start, distances, stress, steps)
    apart = np.hypot(*(x[:, None] - x).transpose(2, 0, 1))
    return x, _wrong(apart, distances)


def _leading(gram: np.ndarray) -> np.ndarray:
    """The two leading principal coordinates of a Gram matrix; signs are fixed."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    found = vectors[:, [-1, -2]] * np.sqrt(np.maximum(values[[-1, -2]], 0))
    largest = found[np.abs(found).argmax(0), [0, 1]]
    return found * np.where(largest < 0, -1.0, 1.0)


def _descend(start, distances, stress, steps):  # type: ignore[no-untyped-def]
    d = torch.as_tensor(np.asarray(distances, float))
    weight = 1 - torch.eye(len(d), dtype=d.dtype)
    # Nudged apart: equal points have no direction to move in.
    nudge = np.random.default_rng(1986).normal(size=start.shape)
    x = torch.tensor(start + 1e-4 * nudge, dtype=torch.float64, requires_grad=True)
    size = float(d.mean()) or 1.0
    optimiser = torch.optim.Adam([x], lr=0.03 * size)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = stress(x, d, weight)
        loss.backward()
        optimiser.step()
        falling.step()
    return x.detach().numpy()


def _disc_distances(x: np.ndarray) -> np.ndarray:
    gap = ((x[:, None] - x) ** 2).sum(-1)
    room = 1 - (x**2).sum(1)
    return 2 * np.arcsinh(np.sqrt(gap / (room[:, None] * room)))


def _wrong(found: np.ndarray, distances: np.ndarray) -> float:
    whole = float((distances**2).sum())
    return float(np.sqrt(((found - distances) ** 2).sum() / whole)) if whole else 0.0
