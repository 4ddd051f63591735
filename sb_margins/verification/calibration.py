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

from sb_margins.errors import UserError, listed
from sb_margins.files import read_text, write_json
from sb_margins.verification.points import (
    as_scores,
    prior_costs,
    split_scores,
    target_mask,
)


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
        quality: Mapping[str, np.ndarray] | None = None,
        *,
        p_target: float = 0.05,
    ) -> Calibration:
        """Fit on development trials: scores [N], labels [N], quality measures [N].

        Classes are weighted as if targets had the prior ``p_target``: there the map is
        best. Raises when larger scores do not mean the same speaker.
        """
        from sklearn.linear_model import LogisticRegression

        target, nontarget = split_scores(scores, labels)
        miss, fa = prior_costs(p_target)
        measures = tuple(quality or ())
        columns = _columns(scores, quality, measures)
        label = target_mask(labels, len(columns))
        weight = np.where(label, miss / target.size, fa / nontarget.size) * len(label)
        centre, scale = columns.mean(axis=0), columns.std(axis=0)
        scale[scale < 1e-12] = np.inf  # a constant has no weight
        # A little ridge keeps separable trials from infinite weights.
        model = LogisticRegression(C=1e4, max_iter=1000, tol=1e-8)
        model.fit((columns - centre) / scale, label, sample_weight=weight)
        weights = model.coef_[0] / scale
        if weights[0] <= 0:
            raise UserError(
                "the calibration found that larger scores mean different speakers. "
                "Check the labels (1 = same speaker) and the similarity"
            )
        bias = model.intercept_[0] - weights @ centre - np.log(miss / fa)
        return cls(float(bias), tuple(map(float, weights)), measures, float(p_target))

    def apply(
        self, scores: Any, quality: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Scores [N] (and quality measures) to log-likelihood ratios [N], in nats."""
        columns = _columns(scores, quality, self.measures)
        return columns @ np.array(self.weights) + self.bias

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

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


def _columns(
    scores: Any, quality: Mapping[str, np.ndarray] | None, measures: Sequence[str]
) -> np.ndarray:
    """[N, 1 + M] float64: scores and the named quality measures."""
    given = quality or {}
    missing = [name for name in measures if name not in given]
    if missing:
        raise UserError(f"the calibration needs quality measures: {listed(missing)}")
    columns = [as_scores(scores), *(as_scores(given[name]) for name in measures)]
    return np.stack(columns, axis=1).astype(np.float64)
