"""z-, t-, s- and AS-norm: how unusual a score is against a cohort of impostors.

    z:   (s - mean_e) / std_e        statistics of the enrolled side's cohort scores
    t:   (s - mean_t) / std_t        of the test side's
    s:   (z + t) / 2
    as:  s with the statistics of the top k cohort scores of each side

Statistics depend on one utterance, not on a trial: they are computed once for each, by
one product with the cohort (Matejka et al., Interspeech 2017; SpeechBrain's recipe
computes them per trial).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb_margins.errors import UserError, nearest
from sb_margins.precision import full_precision, on_cpu
from sb_margins.similarity import Similarity, similarity_from
from sb_margins.verification.bootstrap import speakers_for
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.scoring import Indexed

METHODS = ("z", "t", "s", "as")
# Cohort scores computed at once: 24 MiB with a cohort of 6,000.
CELLS = 6_000_000
# Standard deviation of cohort scores below which they are all alike.
FLAT = 1e-7


def draw_cohort(count: int, wanted: int, seed: int) -> np.ndarray:
    """Sorted rows of a cohort: so many of ``count``, or all where that is 0 or more."""
    if not 0 < wanted < count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False))


def speaker_means(
    embeddings: Embeddings, speakers: Mapping[str, str], similarity: Any = None
) -> np.ndarray:
    """Centres [S, D] of speakers in sorted order: a cohort none of them dominates."""
    names = np.array(speakers_for(embeddings.ids, speakers))
    rows = torch.from_numpy(embeddings.matrix[np.argsort(names, kind="stable")])
    counts = np.unique(names, return_counts=True)[1].tolist()
    centre = similarity_from(similarity).centre
    return torch.stack([centre(some) for some in rows.split(counts)]).float().numpy()


class Normaliser:
    """Score normalisation against one cohort.

    ``method`` is z, t, s or as; ``cohort`` [C, D] are embeddings of impostors or their
    ``speaker_means``; for AS-norm the ``top_k`` highest cohort scores count (more than
    there are: all, with a warning). Statistics are remembered by utterance name, so
    that several lists share them: use one normaliser for one model and similarity.
    """

    def __init__(self, method: str, cohort: Any, top_k: int = 400) -> None:
        if method not in METHODS:
            raise UserError(
                f"no score normalisation '{method}'.{nearest(method, METHODS)} "
                f"There are: {', '.join(METHODS)}"
            )
        self.cohort = np.ascontiguousarray(cohort, np.float32)
        if self.cohort.ndim != 2 or len(self.cohort) < 2:
            raise UserError(
                f"a cohort needs two embeddings [C, D], not {list(self.cohort.shape)}"
            )
        if not np.isfinite(self.cohort).all():
            raise UserError("some embeddings of the cohort are NaN or infinite")
        size = len(self.cohort)
        self.method, self.top_k = method, size
        if method == "as":
            if top_k < 2:
                raise UserError(f"top_k must be at least 2, not {top_k}")
            if top_k > size:
                told = f"top_k={top_k}, but the cohort has {size}: all of it is used"
                warnings.warn(told, stacklevel=2)
            self.top_k = min(top_k, size)
        self._known: dict[str, tuple[float, float]] = {}

    @property
    def name(self) -> str:
        """What was done, for a table: ``as-norm (top 10 of 50)``."""
        size = len(self.cohort)
        top = f"top {self.top_k} of {size}" if self.method == "as" else f"cohort {size}"
        return f"{self.method}-norm ({top})"

    def apply(
        self,
        index: Indexed,
        scores: np.ndarray,
        similarity: Similarity,
        *,
        mean: np.ndarray | None = None,
        device: str | torch.device = "cpu",
    ) -> np.ndarray:
        """Normalised scores [N] float32 of trials; ``score_trials`` calls this.

        ``mean`` [D] is already subtracted from ``index.matrix``.
        """
        sides = {"z": [index.enrol], "t": [index.test]}.get(
            self.method, [index.enrol, index.test]
        )
        rows = np.unique(np.concatenate(sides))
        self._learn(index, rows, similarity, mean, device)
        stats = np.full((len(index.names), 2), np.nan, np.float32)
        stats[rows] = [self._known[index.names[r]] for r in rows]
        total = np.zeros(len(scores), np.float32)
        for side in sides:
            total += (scores - stats[side, 0]) / stats[side, 1]
        return total / len(sides)

    def cohort_means(self, names: list[str]) -> np.ndarray:
        """Mean (top-k) cohort score [len(names)] of utterances already normalised."""
        return np.array([self._known[name][0] for name in names], np.float32)

    def _learn(
        self,
        index: Indexed,
        rows: np.ndarray,
        similarity: Similarity,
        mean: np.ndarray | None,
        device: str | torch.device,
    ) -> None:
        """Cohort statistics of the rows whose names are new."""
        new = [r for r in rows if index.names[r] not in self._known]
        if not new:
            return
        cohort = self.cohort if mean is None else self.cohort - mean
        if cohort.shape[1] != index.matrix.shape[1]:
            raise UserError(
                f"the cohort has {cohort.shape[1]} dimensions, the embeddings "
                f"{index.matrix.shape[1]}: make both with the same model"
            )
        height = max(1, CELLS // len(cohort))
        kind = torch.device(device)
        with torch.inference_mode(), full_precision(kind):
            others = similarity.prepare(torch.from_numpy(cohort).to(kind))
            for start in range(0, len(new), height):
                at = new[start : start + height]
                some = similarity.prepare(torch.from_numpy(index.matrix[at]).to(kind))
                scores = similarity.prepared_matrix(some, others).float()
                means, stds = top_statistics(scores, self.top_k)
                for row, mean_of, std in zip(at, means, stds, strict=True):
                    name = index.names[row]
                    if std < FLAT:
                        raise UserError(
                            f"all cohort scores are alike for {name}: the cohort or "
                            "the model is broken"
                        )
                    self._known[name] = mean_of, std


def top_statistics(scores: Tensor, top_k: int) -> tuple[list[float], list[float]]:
    """Mean and (unbiased) standard deviation of the ``top_k`` largest of each row."""
    if top_k < scores.shape[1]:
        if on_cpu(scores.device):
            # numpy's vectorised selection: eight times torch.topk on a CPU.
            edge = scores.shape[1] - top_k
            top = np.partition(scores.numpy(), edge, axis=1)[:, edge:]
            scores = torch.from_numpy(top)
        else:
            scores = scores.topk(top_k, dim=1, sorted=False).values
    std, mean = torch.std_mean(scores, dim=1)
    return mean.tolist(), std.tolist()
