"""Random embeddings, trials, and their scores one by one."""

from __future__ import annotations

import numpy as np
import torch

from sb_margins.data.trials import Trials
from sb_margins.verification.embeddings import Embeddings

RNG = np.random.default_rng(0)


def some(count: int = 60, size: int = 8) -> Embeddings:
    matrix = RNG.standard_normal((count, size)).astype(np.float32)
    return Embeddings([f"u{i}" for i in range(count)], matrix)


def pairs(embeddings: Embeddings, count: int = 300) -> Trials:
    at = RNG.integers(0, len(embeddings), (count, 2))
    at = at[at[:, 0] != at[:, 1]]  # near 0, a distance from a product is coarse
    names = embeddings.ids
    return Trials([names[a] for a, _ in at], [names[b] for _, b in at])


def loop(similarity, embeddings, trials):
    rows = torch.from_numpy(embeddings.matrix)
    sides = (embeddings.rows(side) for side in (trials.enrol, trials.test))
    return np.array(
        [float(similarity(rows[a], rows[b])) for a, b in zip(*sides, strict=True)]
    )
