"""Scores of trial lists by block products, for any similarity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.verification.embeddings import Embeddings, lookup

# Trials in one gather: small enough that both sides stay in the processor's cache.
CHUNK = 2048
# Cells in one block product of a dense list.
CELLS = 1 << 24
# A cell of a block product costs about a hundredth of a gathered trial.
DENSE = 0.01


class Cosine:
    """Cosine similarity, with what only has to be done once done once.

    Example
    -------
    >>> Cosine().matrix(torch.eye(2), torch.ones(1, 2))
    tensor([[0.7071],
            [0.7071]])
    """

    def prepare(self, x: Tensor) -> Tensor:
        """Rows of unit length (a zero row stays zero: its cosines are 0)."""
        return torch.nn.functional.normalize(x, dim=-1)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """[..., D] and [..., D] to cosines [...]."""
        return self.prepared_pairs(self.prepare(a), self.prepare(b))

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """[N, D] and [M, D] to cosines [N, M]."""
        return self.prepare(a) @ self.prepare(b).T

    def prepared_pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines of rows that ``prepare`` made."""
        return (a * b).sum(dim=-1)

    def prepared_matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines of all pairs of rows that ``prepare`` made."""
        return a @ b.T


class _Plain:
    """Any similarity with ``forward(a, b)`` and ``matrix(a, b)``, unprepared."""

    def __init__(self, similarity: Any) -> None:
        self.prepared_pairs = similarity
        self.prepared_matrix: Callable[[Tensor, Tensor], Tensor] = getattr(
            similarity, "matrix", lambda a, b: similarity(a[:, None], b[None])
        )

    def prepare(self, x: Tensor) -> Tensor:
        return x


def is_cosine(similarity: Any) -> bool:
    """Whether a similarity is the cosine: ours, torch's, or None (the default).

    Example
    -------
    >>> is_cosine(None), is_cosine(torch.nn.CosineSimilarity(dim=-1))
    (True, True)
    """
    return similarity is None or type(similarity).__name__ in (
        "Cosine",
        "CosineSimilarity",
    )


def resolve(similarity: Any) -> Any:
    """The object that scores: ``prepare``, ``prepared_pairs``, ``prepared_matrix``.

    Example
    -------
    >>> from sb_margins.similarity import CosineSimilarity
    >>> hasattr(resolve(CosineSimilarity()), "prepared_matrix")
    True
    """
    if is_cosine(similarity):
        return Cosine()
    if hasattr(similarity, "prepared_matrix"):
        return similarity
    if not callable(similarity):
        raise UserError(
            f"a similarity must be callable with two tensors, not {similarity!r}"
        )
    return _Plain(similarity)


@dataclass
class Indexed:
    """Trials as row numbers into one matrix of embeddings.

    Arguments
    ---------
    matrix : numpy.ndarray
        [U, D] float32: the utterances and models that the trials name.
    names : list of str
        [U].
    enrol, test : numpy.ndarray
        [N] int64 rows.

    Example
    -------
    >>> one = np.zeros(1, np.int64)
    >>> Indexed(np.zeros((2, 3), np.float32), ["a", "b"], one, one + 1).test
    array([1])
    """

    matrix: np.ndarray
    names: list[str]
    enrol: np.ndarray
    test: np.ndarray


def index_trials(
    embeddings: Embeddings, trials: Trials, similarity: Any = None
) -> Indexed:
    """Rows for both sides of each trial; a model's row is the mean of its utterances.

    For the cosine the mean is over embeddings of unit length; for other similarities
    over the embeddings as they are (for the Poincare ball: in its tangent space).

    Arguments
    ---------
    embeddings : Embeddings
    trials : Trials
    similarity : callable, optional
        What the rows are for; default: the cosine.

    Returns
    -------
    Indexed

    Raises
    ------
    UserError
        When utterances have no embedding (all are named).

    Example
    -------
    >>> embeddings = Embeddings(["a", "b"], np.eye(2, dtype=np.float32))
    >>> trials = Trials(["m"], ["b"], None, {"m": ("a", "b")})
    >>> index = index_trials(embeddings, trials)
    >>> index.names, index.matrix.tolist()
    (['b', 'model m'], [[0.0, 1.0], [0.5, 0.5]])
    """
    row_of = embeddings.row_of
    matrix, names = embeddings.matrix, embeddings.ids
    used = {n for n in set(trials.enrol) if n in trials.models} if trials.models else ()
    if used:
        models = sorted(used)
        try:
            means = [_mean(embeddings, trials.models[m], similarity) for m in models]
        except KeyError:
            trials.check(embeddings.ids, "the embeddings")
            raise
        first = len(names)
        row_of = row_of | {name: first + k for k, name in enumerate(models)}
        matrix = np.concatenate([matrix, np.stack(means)])
        names = names + [model_name(m) for m in models]
    try:
        enrol = lookup(row_of, trials.enrol)
        # The test side is always an utterance, also if a model is called the same.
        test = lookup(embeddings.row_of, trials.test)
    except KeyError:
        trials.check(embeddings.ids, "the embeddings")
        raise
    needed = np.zeros(len(names), bool)
    needed[enrol] = needed[test] = True
    if not needed.all():
        new = np.cumsum(needed) - 1
        enrol, test, kept = new[enrol], new[test], np.flatnonzero(needed)
        matrix, names = matrix[kept], [names[k] for k in kept]
    return Indexed(matrix, names, enrol, test)


def model_name(model: str) -> str:
    """What an enrolled model is called among utterances.

    Example
    -------
    >>> model_name("id00800-enroll")
    'model id00800-enroll'
    """
    return f"model {model}"


def _mean(
    embeddings: Embeddings, members: tuple[str, ...], similarity: Any
) -> np.ndarray:
    rows = embeddings.matrix[[embeddings.row_of[m] for m in members]]
    if is_cosine(similarity):
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows.mean(axis=0)


def score_trials(
    embeddings: Embeddings,
    trials: Trials,
    similarity: Any = None,
    *,
    mean: np.ndarray | None = None,
    normaliser: Any = None,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Score every trial; larger means the same speaker.

    Arguments
    ---------
    embeddings : Embeddings
        Of every utterance that the trials need.
    trials : Trials
    similarity : callable, optional
        ``forward(a, b)`` of rows [..., D] to [...] and ``matrix(a [N, D], b [M, D])``
        to [N, M]: ``CosineSimilarity``, ``PoincareSimilarity``, ``PLDASimilarity``.
        Default: the cosine.
    mean : numpy.ndarray, optional
        [D], subtracted from all embeddings first (the mean of a cohort or of
        development data; for Euclidean embeddings).
    normaliser : normalisation.Normaliser, optional
        z-, t-, s- or AS-norm against a cohort.
    device : str or torch.device
        Where the products are computed.

    Returns
    -------
    numpy.ndarray
        [N] float32.

    Raises
    ------
    UserError
        When embeddings are missing or scores are not finite.

    Example
    -------
    >>> embeddings = Embeddings(["a", "b"], np.eye(2, dtype=np.float32))
    >>> score_trials(embeddings, Trials(["a", "a"], ["a", "b"])).tolist()
    [1.0, 0.0]
    """
    index = index_trials(embeddings, trials, similarity)
    if mean is not None:
        index.matrix = index.matrix - np.asarray(mean, np.float32)
    scorer = resolve(similarity)
    with torch.inference_mode():
        rows = scorer.prepare(torch.from_numpy(index.matrix).to(device))
        enrol = torch.from_numpy(index.enrol).to(device)
        test = torch.from_numpy(index.test).to(device)
        pairs = index.enrol.size
        sides = [np.count_nonzero(np.bincount(s)) for s in (index.enrol, index.test)]
        if pairs > DENSE * sides[0] * sides[1]:
            scores = _dense(scorer, rows, index)
        else:
            scores = _sparse(scorer, rows, enrol, test)
    result = scores.float().cpu().numpy()
    if normaliser is not None:
        result = normaliser.apply(index, result, scorer, mean=mean, device=device)
    bad = np.flatnonzero(~np.isfinite(result))
    if bad.size:
        pair = f"{trials.enrol[bad[0]]} {trials.test[bad[0]]}"
        raise UserError(
            f"{bad.size} of {result.size} scores are NaN or infinite, the first for "
            f"{pair}"
        )
    return result


def _sparse(scorer: Any, rows: Tensor, enrol: Tensor, test: Tensor) -> Tensor:
    """Gather both sides of a few thousand trials at a time."""
    scores = torch.empty(len(enrol), dtype=torch.float32, device=rows.device)
    chunk = CHUNK if rows.device.type == "cpu" else 64 * CHUNK
    for start in range(0, len(enrol), chunk):
        at = slice(start, start + chunk)
        # index_select: four times as fast on a CPU as rows[...].
        left, right = (rows.index_select(0, side[at]) for side in (enrol, test))
        scores[at] = scorer.prepared_pairs(left, right)
    return scores


def _dense(scorer: Any, rows: Tensor, index: Indexed) -> Tensor:
    """One product per block of enrolled rows, then the trials' cells."""
    enrol_rows, enrol_at = np.unique(index.enrol, return_inverse=True)
    test_rows, test_at = np.unique(index.test, return_inverse=True)
    order = np.argsort(enrol_at, kind="stable")
    sorted_at = enrol_at[order]
    scores = torch.empty(len(order), dtype=torch.float32, device=rows.device)
    tests = rows[torch.from_numpy(test_rows).to(rows.device)]
    height = max(1, CELLS // len(test_rows))
    for start in range(0, len(enrol_rows), height):
        block = torch.from_numpy(enrol_rows[start : start + height]).to(rows.device)
        cells = scorer.prepared_matrix(rows[block], tests)
        low, high = np.searchsorted(sorted_at, (start, start + height))
        trials = order[low:high]
        flat = (enrol_at[trials] - start) * len(test_rows) + test_at[trials]
        picked = cells.reshape(-1)[torch.from_numpy(flat).to(rows.device)]
        scores[torch.from_numpy(trials).to(rows.device)] = picked.float()
    return scores
