"""Points in the plane or on the Poincaré disc, from their distances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Stress = Callable[[Tensor, Tensor, Tensor], Tensor]


def disc_map(
    distances: np.ndarray, radii: np.ndarray, *, steps: int = 300
) -> tuple[np.ndarray, float]:
    """Places [N, 2] on the disc (curvature -1), and the share of distances missed.

    From hyperbolic distances [N, N] and distances from the origin [N]. Begins at the
    directions of the exact low-rank solution (hydra: eigenvectors of cosh of the
    distances; Keller-Ressel and Nargang, 2020) and the true radii; then minimises the
    relative stress sum (d - d')^2 / sum d^2 over all pairs plus that over the radii.
    """
    r = np.asarray(radii, float)
    # The law of cosines; where it overflows, the angle is wide open or 0.
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        cosine = (
            np.cosh(r)[:, None] * np.cosh(r) - np.cosh(np.minimum(distances, 300))
        ) / (np.sinh(r)[:, None] * np.sinh(r))
    start = _leading(np.nan_to_num(np.clip(cosine, -1, 1)))
    length = np.maximum(np.hypot(*start.T), 1e-9)[:, None]
    tangent = start / length * np.maximum(r, 1e-3)[:, None]
    home = torch.as_tensor(r)

    def stress(x: Tensor, d: Tensor, weight: Tensor) -> Tensor:
        a = x.square().sum(1).add(1e-12).sqrt()
        unit = x / a[:, None]
        half = (unit[:, None] - unit).square().sum(-1) / 4  # sin^2(angle / 2)
        # sinh^2(d / 2) = sinh^2((a - b) / 2) + sinh a sinh b sin^2(angle / 2)
        s = torch.sinh((a[:, None] - a) / 2).square()
        s = s + torch.sinh(a)[:, None] * torch.sinh(a) * half
        mapped = 2 * torch.asinh((s + 1e-12).sqrt())
        pairs = ((mapped - d).square() * weight).sum()
        pairs = pairs / (d.square() * weight).sum().clamp_min(1e-9)
        return pairs + (a - home).square().sum() / home.square().sum().clamp_min(1e-9)

    x = _descend(tangent, distances, stress, steps)
    length = np.maximum(np.hypot(*x.T), 1e-12)[:, None]
    places = x / length * np.minimum(np.tanh(length / 2), 1 - 1e-12)
    return places, _missed(disc_distances(places), distances)


def plane_map(distances: np.ndarray, *, steps: int = 300) -> tuple[np.ndarray, float]:
    """Places [N, 2] in the plane (metric multidimensional scaling), and the stress."""
    square = distances**2
    centred = square - square.mean(0) - square.mean(1)[:, None] + square.mean()

    def stress(x: Tensor, d: Tensor, weight: Tensor) -> Tensor:
        mapped = (x[:, None] - x).square().sum(-1).add(1e-12).sqrt()
        whole = (d.square() * weight).sum().clamp_min(1e-9)
        return ((mapped - d).square() * weight).sum() / whole

    x = _descend(_leading(-centred / 2), distances, stress, steps)
    apart = np.hypot(*(x[:, None] - x).transpose(2, 0, 1))
    return x, _missed(apart, distances)


def _leading(gram: np.ndarray) -> np.ndarray:
    """The two leading principal coordinates of a Gram matrix; signs are fixed."""
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    leading = vectors[:, [-1, -2]] * np.sqrt(np.maximum(values[[-1, -2]], 0))
    largest = leading[np.abs(leading).argmax(0), [0, 1]]
    return leading * np.where(largest < 0, -1.0, 1.0)


def _descend(
    start: np.ndarray, distances: np.ndarray, stress: Stress, steps: int
) -> np.ndarray:
    d = torch.as_tensor(np.asarray(distances, float))
    weight = 1 - torch.eye(len(d), dtype=d.dtype)
    # Nudged apart: equal points have no direction to move in.
    nudge = np.random.default_rng(1986).normal(size=start.shape)
    x = torch.tensor(start + 1e-4 * nudge, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([x], lr=0.03 * (float(d.mean()) or 1.0))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        stress(x, d, weight).backward()
        optimiser.step()
        schedule.step()
    return x.detach().numpy()


def disc_distances(x: np.ndarray) -> np.ndarray:
    """Hyperbolic distances [N, N] between points of the disc [N, 2]."""
    gap = ((x[:, None] - x) ** 2).sum(-1)
    to_edge = 1 - (x**2).sum(1)
    return 2 * np.arcsinh(np.sqrt(gap / (to_edge[:, None] * to_edge)))


def _missed(mapped: np.ndarray, distances: np.ndarray) -> float:
    whole = float((distances**2).sum())
    return float(np.sqrt(((mapped - distances) ** 2).sum() / whole)) if whole else 0.0
