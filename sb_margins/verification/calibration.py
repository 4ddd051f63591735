"""Scores to log-likelihood ratios, by logistic regression on development trials.

Calibrated scores can be cut where a prior says (``metrics.bayes_threshold``) and mean
the same for every list. Quality measures (duration, magnitude of the embedding, mean
cohort score) let the map know which trials are hard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.errors import UserError
from sb_margins.files import read_text, write_text
from sb_margins.verification.points import (
    as_array,
    as_scores,
    prior_costs,
    split_scores,
)
from sb_margins.verification.scoring import Indexed


@dataclass(frozen=True)
class Calibration:
    """An affine map from a score (and quality measures) to a log-likelihood ratio.

    ``bias`` is in nats; ``weights`` are of the score, then of each of the quality
    ``measures``; ``p_target`` is the prior at which it was fitted.
    """

    bias: float
    weights: tuple[float, ...]
    measures: tuple[str, ...] = ()
    p_target: float = 0.5

    @classmethod
    def fit(
        cls,
        scores: Any,
        labels: Any,
        quality: np.ndarray | None = None,
        *,
        measures: Sequence[str] = (),
        p_target: float = 0.05,
    ) -> Calibration:
        """Fit on development trials: scores [N], labels [N], quality [N, M].

        Classes are weighted as if targets had the prior ``p_target``: there the map is
        best. Raises when larger scores do not mean the same speaker.
        """
        from sklearn.linear_model import LogisticRegression

        target, nontarget = split_scores(scores, labels)
        prior_costs(p_target, 1.0, 1.0)
        columns = _columns(scores, quality, len(measures))
        label = as_array(labels).reshape(-1).astype(bool)
        weight = np.where(
            label, p_target / target.size, (1 - p_target) / nontarget.size
        ) * len(label)
        centre, scale = columns.mean(axis=0), columns.std(axis=0)
        scale[scale < 1e-12] = 1.0
        # A little ridge keeps separable trials from infinite weights.
        model = LogisticRegression(C=1e4, max_iter=1000, tol=1e-8)
        model.fit((columns - centre) / scale, label, sample_weight=weight)
        weights = model.coef_[0] / scale
        if weights[0] <= 0:
            raise UserError(
                "the calibration found that larger scores mean different speakers. "
                "Check the labels (1 = same speaker) and the similarity"
            )
        logit = np.log(p_target / (1 - p_target))
        bias = model.intercept_[0] - weights @ centre - logit
        return cls(
            float(bias), tuple(map(float, weights)), tuple(measures), float(p_target)
        )

    def apply(self, scores: Any, quality: np.ndarray | None = None) -> np.ndarray:
        """Scores [N] (and quality [N, M]) to log-likelihood ratios [N], in nats."""
        columns = _columns(scores, quality, len(self.measures))
        return columns @ np.array(self.weights) + self.bias

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what ``save`` wrote."""
        try:
            values = json.loads(read_text(path))
            return cls(
                float(values["bias"]),
                tuple(map(float, values["weights"])),
                tuple(values["measures"]),
                float(values["p_target"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"cannot read a calibration from {path}: {error}") from None


def _columns(scores: Any, quality: np.ndarray | None, measures: int) -> np.ndarray:
    score = as_scores(scores).astype(np.float64)[:, None]
    if quality is None:
        quality = np.empty((len(score), 0))
    quality = np.asarray(quality, np.float64)
    if quality.shape != (len(score), measures):
        raise UserError(
            f"quality measures have shape {list(quality.shape)}, expected "
            f"[{len(score)}, {measures}]: one row per trial, one column per name"
        )
    if not np.isfinite(quality).all():
        raise UserError("some quality measures are NaN or infinite")
    return np.concatenate([score, quality], axis=1)


def quality_measures(
    index: Indexed,
    *,
    seconds: Mapping[str, float] | None = None,
    magnitude: bool = True,
    cohort_mean: np.ndarray | None = None,
) -> tuple[np.ndarray, list[str]]:
    """How hard a trial is: the smaller and the larger value of both sides.

    ``seconds`` are durations by name (of a model: their sum) and the magnitude is the
    length of the embedding, both as logarithms; ``cohort_mean`` [U] is the mean cohort
    score of each row of the ``index``. Returns [N, M] and the names of the M columns.
    """
    sources: dict[str, np.ndarray] = {}
    if seconds is not None:
        unknown = [name for name in index.names if name not in seconds]
        if unknown:
            raise UserError(f"no duration is known for {len(unknown)} utterances")
        durations = np.array([seconds[name] for name in index.names], np.float64)
        sources["log seconds"] = np.log(np.maximum(durations, 1e-3))
    if magnitude:
        norms = np.linalg.norm(index.matrix.astype(np.float64), axis=1)
        sources["log magnitude"] = np.log(np.maximum(norms, 1e-12))
    if cohort_mean is not None:
        sources["cohort mean"] = np.asarray(cohort_mean, np.float64)
    columns, names = [], []
    for name, values in sources.items():
        sides = values[index.enrol], values[index.test]
        columns += [np.minimum(*sides), np.maximum(*sides)]
        names += [f"{name}, smaller", f"{name}, larger"]
    stacked = np.stack(columns, 1) if columns else np.empty((len(index.enrol), 0))
    return stacked, names
