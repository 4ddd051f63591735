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
from sb_margins.files import write_text
from sb_margins.verification.points import as_scores, prior_costs, split_scores
from sb_margins.verification.scoring import Indexed


@dataclass(frozen=True)
class Calibration:
    """An affine map from a score (and quality measures) to a log-likelihood ratio.

    Arguments
    ---------
    bias : float
        Nats.
    weights : tuple of float
        Of the score, then of each quality measure.
    measures : tuple of str
        Names of the quality measures.
    p_target : float
        The prior at which it was fitted.

    Example
    -------
    >>> Calibration(-1.0, (2.0,)).apply([0.5, 1.0]).tolist()
    [0.0, 1.0]
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
        """Fit on development trials with scikit-learn's logistic regression.

        Arguments
        ---------
        scores : array-like
            [N].
        labels : array-like
            [N].
        quality : numpy.ndarray, optional
            [N, M], from ``quality_measures``.
        measures : sequence of str
            Names of the M columns.
        p_target : float
            Classes are weighted as if targets had this prior: where it shall be
            right.

        Returns
        -------
        Calibration

        Raises
        ------
        UserError
            When larger scores do not mean the same speaker.

        Example
        -------
        >>> calibration = Calibration.fit([3, 2, 1, 2, 1, 0], [1, 1, 1, 0, 0, 0])
        >>> calibration.weights[0] > 0
        True
        """
        from sklearn.linear_model import LogisticRegression

        target, nontarget = split_scores(scores, labels)
        prior_costs(p_target, 1.0, 1.0)
        columns = _columns(scores, quality, len(measures))
        label = np.asarray(labels).reshape(-1).astype(bool)
        weight = np.where(
            label, p_target / target.size, (1 - p_target) / nontarget.size
        ) * len(label)
        centre, scale = columns.mean(axis=0), columns.std(axis=0)
        scale[scale < 1e-12] = 1.0
        # A touch of ridge keeps separable trials from infinite weights.
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
        """Write it as JSON.

        Example
        -------
        >>> path = getfixture("tmp_path") / "calibration.json"
        >>> Calibration(-1.0, (2.0,)).save(path)
        >>> Calibration.load(path) == Calibration(-1.0, (2.0,))
        True
        """
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what ``save`` wrote."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(
                float(found["bias"]),
                tuple(map(float, found["weights"])),
                tuple(found["measures"]),
                float(found["p_target"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
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
    """What is known of a trial's difficulty: the smaller and the larger of both sides.

    Arguments
    ---------
    index : scoring.Indexed
        The trials, from ``scoring.index_trials``.
    seconds : mapping of str to float, optional
        Durations of the utterances (of a model: their sum); used as logarithms.
    magnitude : bool
        Use the length of the embeddings, as a logarithm.
    cohort_mean : numpy.ndarray, optional
        [U] mean cohort score of each row of the index.

    Returns
    -------
    tuple
        [N, M] float64, and the names of the M columns.

    Example
    -------
    >>> matrix = np.array([[3.0, 4.0], [0.0, 1.0]], dtype=np.float32)
    >>> index = Indexed(matrix, ["a", "b"], np.array([0]), np.array([1]))
    >>> quality, names = quality_measures(index)
    >>> names, quality.round(3).tolist()
    (['log magnitude, smaller', 'log magnitude, larger'], [[0.0, 1.609]])
    """
    sources: dict[str, np.ndarray] = {}
    if seconds is not None:
        unknown = [name for name in index.names if name not in seconds]
        if unknown:
            raise UserError(f"no duration is known for {len(unknown)} utterances")
        told = np.array([seconds[name] for name in index.names], np.float64)
        sources["log seconds"] = np.log(np.maximum(told, 1e-3))
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
