"""PLDA: SpeechBrain's model, scored without a matrix of all pairs.

Only for Euclidean embeddings. SpeechBrain's ``fast_PLDA_scoring`` fills a matrix of all
enrolled x all test utterances (150 GiB of doubles for VoxCeleb1-E); the same formula
on the trials' pairs alone is one matrix product over utterances and one sum per trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb_margins.errors import UserError
from sb_margins.similarity import Similarity
from sb_margins.verification.bootstrap import speakers_for
from sb_margins.verification.embeddings import Embeddings


class PLDASimilarity(Similarity):
    """Log-likelihood ratio of a trained PLDA, for ``score_trials``.

        x' Psi y + (x' Phi x + y' Phi y) / 2 + constant

    ``mean`` [D], ``factors`` [D, R] (``F`` of SpeechBrain's PLDA) and the residual
    covariance ``sigma`` [D, D].
    """

    def __init__(
        self, mean: np.ndarray, factors: np.ndarray, sigma: np.ndarray
    ) -> None:
        super().__init__()
        inner = factors.T @ np.linalg.inv(sigma) @ factors
        eye = np.eye(factors.shape[1])
        between = factors @ factors.T
        total = np.linalg.inv(between + sigma)
        rest = np.linalg.inv(between + sigma - between @ total @ between)
        self._mean = torch.from_numpy(np.asarray(mean, np.float64))
        self._phi = torch.from_numpy(total - rest)
        self._psi = torch.from_numpy(total @ between @ rest)
        alone, both = (np.linalg.slogdet(k * inner + eye)[1] for k in (1, 2))
        self._constant = float(alone - both / 2)

    def prepare(self, x: Tensor) -> Tensor:
        """Centred embeddings [..., D], float64, and half their own quadratic form."""
        x = x.double() - self._mean.to(x.device)
        own = ((x @ self._phi.to(x.device)) * x).sum(dim=-1, keepdim=True) / 2
        return torch.cat([x, own], dim=-1)

    def prepared_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """Log-likelihood ratios [...] of what `prepare` made."""
        cross = ((a[..., :-1] @ self._psi.to(a.device)) * b[..., :-1]).sum(dim=-1)
        return cross + a[..., -1] + b[..., -1] + self._constant

    def prepared_matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """Log-likelihood ratios [N, M] of all pairs."""
        cross = a[:, :-1] @ self._psi.to(a.device) @ b[:, :-1].T
        return cross + a[:, -1:] + b[:, -1] + self._constant

    def centre(self, rows: Tensor) -> Tensor:
        """The mean of the embeddings."""
        return rows.mean(dim=0)

    def settings(self) -> dict[str, Any]:
        """Its name; it cannot be made from that."""
        return {"name": "PLDA"}


def train_plda(
    embeddings: Embeddings, speakers: Mapping[str, str], *, rank: int = 100
) -> PLDASimilarity:
    """Train SpeechBrain's PLDA on embeddings of known speakers, ten steps of EM.

    ``rank`` is the dimension of the speaker space, at most that of the embeddings.
    """
    from speechbrain.processing.PLDA_LDA import PLDA, StatObject_SB

    count, size = embeddings.matrix.shape
    names = np.array(speakers_for(embeddings.ids, speakers), dtype="|O")
    if count <= size or len(set(names)) < 2:
        raise UserError(
            f"PLDA needs more utterances than dimensions and several speakers; there "
            f"are {count} utterances of {len(set(names))} speakers in {size} dimensions"
        )
    nothing = np.array([None] * count)
    stats = StatObject_SB(
        modelset=names,
        segset=np.array(embeddings.ids, dtype="|O"),
        start=nothing,
        stop=nothing,
        stat0=np.ones((count, 1)),
        stat1=embeddings.matrix.astype(np.float64),
    )
    plda = PLDA(rank_f=min(rank, size), nb_iter=10)
    plda.plda(stats)
    return PLDASimilarity(plda.mean, plda.F, plda.Sigma)
