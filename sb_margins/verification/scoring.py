"""Scores of trial lists by block products, for any similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.precision import full_precision, on_cpu
from sb_margins.similarity import Similarity, similarity_from
from sb_margins.verification.embeddings import Embeddings, lookup

# Trials in one gather: on a CPU so few that both sides stay in its cache.
CHUNK = {"cpu": 2048, "accelerator": 131_072}
# Cells in one block product of a dense list.
CELLS = 1 << 24
# A cell of a block product costs about a hundredth of a gathered trial.
DENSE = 0.01


@dataclass
class Indexed:
    """Trials as row numbers, ``enrol`` and ``test`` [N], into one matrix [U, D].

    ``names`` [U] are those of the utterances, or of models as `model_name` makes them.
    """

    matrix: np.ndarray
    names: list[str]
    enrol: np.ndarray
    test: np.ndarray


def model_name(model: str) -> str:
    """The name of an enrolled model among those of utterances."""
    return f"model {model}"


def index_trials(
    embeddings: Embeddings,
    trials: Trials,
    similarity: Any = None,
    mean: np.ndarray | None = None,
) -> Indexed:
    """Rows for both sides of each trial, less the ``mean``.

    A model's row is the similarity's centre of its utterances. Only rows that trials
    need are kept. A UserError names all utterances that have no embedding.
    """
    row_of, names, matrix = embeddings.row_of, embeddings.ids, embeddings.matrix
    if mean is not None:
        matrix = matrix - np.asarray(mean, np.float32)
    models = sorted(trials.models.keys() & set(trials.enrol)) if trials.models else []
    try:
        # The test side is always an utterance, also if a model has the same name.
        test = lookup(row_of, trials.test)
        members = [lookup(row_of, trials.models[model]) for model in models]
        row_of = row_of | {model: len(names) + k for k, model in enumerate(models)}
        enrol = lookup(row_of, trials.enrol)
    except KeyError:
        trials.check(embeddings.ids, "the embeddings")
        raise
    if models:
        centre = similarity_from(similarity).centre
        centres = [centre(torch.from_numpy(matrix[rows])).numpy() for rows in members]
        matrix = np.concatenate([matrix, np.stack(centres).astype(np.float32)])
        names = names + [model_name(model) for model in models]
    needed = np.zeros(len(names), bool)
    needed[enrol] = needed[test] = True
    if not needed.all():
        new = np.cumsum(needed) - 1
        enrol, test, kept = new[enrol], new[test], np.flatnonzero(needed)
        matrix, names = matrix[kept], [names[k] for k in kept]
    return Indexed(matrix, names, enrol, test)


def score_trials(
    embeddings: Embeddings,
    trials: Trials,
    similarity: Any = None,
    *,
    mean: np.ndarray | None = None,
    normaliser: Any = None,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Scores [N] float32 of all trials; larger means the same speaker.

    ``similarity`` is anything that `similarity_from` takes, or a ``PLDASimilarity``;
    default: the one that the embeddings are made for, else the cosine. ``mean`` [D] (of
    a cohort or of development data; for Euclidean embeddings) is subtracted from all
    embeddings first; ``normaliser`` is a ``Normaliser`` against a cohort. Raises when
    embeddings are missing or scores are not finite.
    """
    compare = similarity_from(
        embeddings.similarity if similarity is None else similarity
    )
    index = index_trials(embeddings, trials, compare, mean)
    with torch.inference_mode(), full_precision(torch.device(device)):
        rows = compare.prepare(torch.from_numpy(index.matrix).to(device))
        sides = [np.count_nonzero(np.bincount(s)) for s in (index.enrol, index.test)]
        dense = index.enrol.size > DENSE * sides[0] * sides[1]
        scores = (_by_blocks if dense else _by_pairs)(compare, rows, index)
    result = scores.float().cpu().numpy()
    if normaliser is not None:
        result = normaliser.apply(index, result, compare, mean=mean, device=device)
    bad = np.flatnonzero(~np.isfinite(result))
    if bad.size:
        pair = f"{trials.enrol[bad[0]]} {trials.test[bad[0]]}"
        raise UserError(
            f"{bad.size} of {result.size} scores are NaN or infinite, the first for "
            f"{pair}"
        )
    return result


def _by_pairs(compare: Similarity, rows: Tensor, index: Indexed) -> Tensor:
    """Gather both sides of a few thousand trials at a time."""
    enrol, test = (
        torch.from_numpy(s).to(rows.device) for s in (index.enrol, index.test)
    )
    scores = torch.empty(len(enrol), dtype=torch.float32, device=rows.device)
    chunk = CHUNK["cpu" if on_cpu(rows.device) else "accelerator"]
    for start in range(0, len(enrol), chunk):
        at = slice(start, start + chunk)
        # index_select: four times as fast on a CPU as rows[...].
        left, right = (rows.index_select(0, side[at]) for side in (enrol, test))
        scores[at] = compare.prepared_pairs(left, right)
    return scores


def _by_blocks(compare: Similarity, rows: Tensor, index: Indexed) -> Tensor:
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
        cells = compare.prepared_matrix(rows[block], tests)
        low, high = np.searchsorted(sorted_at, (start, start + height))
        trials = order[low:high]
        flat = (enrol_at[trials] - start) * len(test_rows) + test_at[trials]
        picked = cells.reshape(-1)[torch.from_numpy(flat).to(rows.device)]
        scores[torch.from_numpy(trials).to(rows.device)] = picked.float()
    return scores
