"""PLDA: SpeechBrain's model, scored without a matrix of all pairs.

Only for Euclidean embeddings. SpeechBrain's ``fast_PLDA_scoring`` fills a matrix of all
enrolled x all test utterances (150 GiB of doubles for VoxCeleb1-E); the same formula
on the trials' pairs alone is one matrix product over utterances and one sum per trial.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from sb_margins.errors import UserError
from sb_margins.verification.embeddings import Embeddings


class PLDASimilarity:
    """Log-likelihood ratio of a trained PLDA, for ``score_trials``.

        x' Psi y + (x' Phi x + y' Phi y) / 2 + constant

    Arguments
    ---------
    mean : numpy.ndarray
        [D].
    factors : numpy.ndarray
        [D, R], ``F`` of SpeechBrain's PLDA.
    sigma : numpy.ndarray
        [D, D], residual covariance.

    Example
    -------
    >>> plda = PLDASimilarity(np.zeros(2), np.eye(2), np.eye(2))
    >>> x = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    >>> plda(x[:1], x[:1]).item() > 0 > plda(x[:1], x[1:]).item()
    True
    """

    def __init__(
        self, mean: np.ndarray, factors: np.ndarray, sigma: np.ndarray
    ) -> None:
        precision = np.linalg.inv(sigma)
        inner = factors.T @ precision @ factors
        eye = np.eye(factors.shape[1])
        _, alpha1 = np.linalg.slogdet(inner + eye)
        _, alpha2 = np.linalg.slogdet(2 * inner + eye)
        between = factors @ factors.T
        total = np.linalg.inv(between + sigma)
        rest = np.linalg.inv(between + sigma - between @ total @ between)
        self._mean = torch.from_numpy(np.asarray(mean, np.float64))
        self._phi = torch.from_numpy(total - rest)
        self._psi = torch.from_numpy(total @ between @ rest)
        self._constant = float(alpha1 - alpha2 / 2)

    def _own(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.double() - self._mean.to(x.device)
        phi = self._phi.to(x.device)
        return x, ((x @ phi) * x).sum(dim=-1) / 2

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Rows [..., D] and [..., D] to log-likelihood ratios [...], float64."""
        (a, one), (b, two) = self._own(a), self._own(b)
        cross = ((a @ self._psi.to(a.device)) * b).sum(dim=-1)
        return cross + one + two + self._constant

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """[N, D] and [M, D] to log-likelihood ratios [N, M], float64."""
        (a, one), (b, two) = self._own(a), self._own(b)
        cross = a @ self._psi.to(a.device) @ b.T
        return cross + one[:, None] + two + self._constant


def train_plda(
    embeddings: Embeddings,
    speakers: Mapping[str, str],
    *,
    rank: int = 100,
    iterations: int = 10,
) -> PLDASimilarity:
    """Train SpeechBrain's PLDA on labelled embeddings.

    Arguments
    ---------
    embeddings : Embeddings
        Of training data, several utterances per speaker.
    speakers : mapping of str to str
        The speaker of each utterance.
    rank : int
        Dimension of the speaker space; at most that of the embeddings.
    iterations : int
        EM steps.

    Returns
    -------
    PLDASimilarity

    Raises
    ------
    UserError
        When there are too few utterances for the covariance to be invertible.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> x = np.repeat(rng.standard_normal((20, 3)), 5, 0)
    >>> x = (x + 0.3 * rng.standard_normal((100, 3))).astype(np.float32)
    >>> ids = [str(i) for i in range(100)]
    >>> plda = train_plda(
    ...     Embeddings(ids, x), {i: str(int(i) // 5) for i in ids}, rank=2
    ... )
    >>> plda.matrix(torch.zeros(2, 3), torch.zeros(4, 3)).shape
    torch.Size([2, 4])
    """
    from speechbrain.processing.PLDA_LDA import PLDA, StatObject_SB

    count, size = embeddings.matrix.shape
    unknown = [name for name in embeddings.ids if name not in speakers]
    if unknown:
        raise UserError(f"no speaker is known for {len(unknown)} utterances")
    told = np.array([speakers[name] for name in embeddings.ids], dtype="|O")
    if count <= size or len(set(told)) < 2:
        raise UserError(
            f"PLDA needs more utterances than dimensions and several speakers; there "
            f"are {count} utterances of {len(set(told))} speakers in {size} dimensions"
        )
    nothing = np.array([None] * count)
    stats = StatObject_SB(
        modelset=told,
        segset=np.array(embeddings.ids, dtype="|O"),
        start=nothing,
        stop=nothing,
        stat0=np.ones((count, 1)),
        stat1=embeddings.matrix.astype(np.float64),
    )
    plda = PLDA(rank_f=min(rank, size), nb_iter=iterations)
    plda.plda(stats)
    return PLDASimilarity(plda.mean, plda.F, plda.Sigma)
