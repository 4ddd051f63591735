"""Operating points: the errors at every threshold, counted once.

A trial is accepted when its score is *above* the threshold, as SpeechBrain does.
Misses and false alarms are step functions of the threshold that change only at
scores, so one sort and two running sums hold everything that EER, minDCF, Cllr, DET
curves and thresholds need. Counts are integers: ties are exact and the order of the
input does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sb_margins.errors import UserError, listed, nearest

EER_METHODS = ("mean", "rocch")


def as_array(values: Any) -> np.ndarray:
    """[N] numbers of an array, a list or a tensor (bf16 and half become float32)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()
    return np.asarray(values).ravel()


def as_scores(scores: Any) -> np.ndarray:
    """[N] finite floats: float32 stays float32, all else becomes float64."""
    score = as_array(scores)
    if score.dtype != np.float32:
        score = score.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(score))
    if bad.size:
        raise UserError(
            f"{bad.size} of {score.size} scores are NaN or infinite, at index "
            f"{listed(bad.astype(str).tolist())}, from 0. A broken model or silent "
            "audio makes them: find the cause, do not drop them"
        )
    return score


def target_mask(labels: Any, count: int) -> np.ndarray:
    """[count] bool, of 1 for target and 0 for non-target trials."""
    label = as_array(labels)
    if label.size != count:
        raise UserError(f"{count} scores but {label.size} labels: give one each")
    odd = label[~np.isin(label, (0, 1))]
    if odd.size:
        found = listed(np.unique(odd).astype(str).tolist())
        raise UserError(f"labels must be 1 (target) or 0 (non-target), found {found}")
    return label.astype(bool)


def split_scores(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores of target trials [P] and of non-target trials [Q], checked."""
    score = as_scores(scores)
    label = target_mask(labels, score.size)
    target, nontarget = score[label], score[~label]
    if not target.size or not nontarget.size:
        raise UserError(
            f"metrics need target and non-target trials; there are {target.size} "
            f"target and {nontarget.size} non-target trials. Check the labels: "
            "1 = same speaker"
        )
    return target, nontarget


def prior_costs(
    p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> tuple[float, float]:
    """Cost times prior of a miss and of a false alarm, checked."""
    if not 0 < p_target < 1:
        raise UserError(f"p_target must lie between 0 and 1, not {p_target}")
    if not (c_miss > 0 and c_fa > 0 and np.isfinite([c_miss, c_fa]).all()):
        raise UserError(f"costs must be positive, not c_miss={c_miss}, c_fa={c_fa}")
    return c_miss * p_target, c_fa * (1 - p_target)


@dataclass(frozen=True)
class OperatingPoints:
    """Counts of errors at every threshold that makes a difference.

    Arguments
    ---------
    thresholds : numpy.ndarray
        [K + 1] ascending: ``-inf`` (accept all), then the K distinct scores.
    misses : numpy.ndarray
        [K + 1] target trials with a score at or below the threshold.
    false_alarms : numpy.ndarray
        [K + 1] non-target trials with a score above it.
    targets, nontargets : int
        How many trials (sums of weights in a bootstrap).

    Example
    -------
    >>> points = OperatingPoints.of([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0])
    >>> points.misses.tolist(), points.false_alarms.tolist()
    ([0, 0, 1, 1, 2], [2, 1, 1, 0, 0])
    >>> points.eer(), points.min_dcf(p_target=0.5)
    (0.5, 0.5)
    """

    thresholds: np.ndarray
    misses: np.ndarray
    false_alarms: np.ndarray
    targets: int
    nontargets: int

    @classmethod
    def of(cls, scores: Any, labels: Any) -> OperatingPoints:
        """Sort the scores and count, O(N log N).

        Arguments
        ---------
        scores : array-like or torch.Tensor
            [N] finite scores; larger means the same speaker.
        labels : array-like or torch.Tensor
            [N], 1 for target trials, 0 for non-target trials.

        Returns
        -------
        OperatingPoints
        """
        target, nontarget = split_scores(scores, labels)
        target.sort()
        nontarget.sort()
        # The stable sort finds the two sorted runs and merges them in linear time.
        score = np.concatenate([target, nontarget])
        order = np.argsort(score, kind="stable")
        is_target = order < target.size
        score = score[order]
        last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
        small = np.int32 if score.size <= np.iinfo(np.int32).max else np.int64
        misses = np.cumsum(is_target, dtype=small)[last]
        false_alarms = (nontarget.size - 1 - last + misses).astype(small)
        return cls(
            np.concatenate([[-np.inf], score[last]]).astype(score.dtype),
            np.concatenate([[0], misses]).astype(small),
            np.concatenate([[nontarget.size], false_alarms]).astype(small),
            target.size,
            nontarget.size,
        )

    # -- EER --------------------------------------------------------------------

    def _gap(self) -> np.ndarray:
        """(FAR - FRR) * targets * nontargets: exact, falls along the thresholds."""
        fa, miss = self.false_alarms.astype(np.int64), self.misses.astype(np.int64)
        return fa * self.targets - miss * self.nontargets

    def _nearest(self) -> tuple[int, int]:
        """The first and the last point with the smallest abs(FAR - FRR)."""
        size = np.abs(self._gap())
        return int(size.argmin()), size.size - 1 - int(size[::-1].argmin())

    def eer(self, method: str = "mean") -> float:
        """The equal error rate; see ``sb_margins.verification.metrics.eer``."""
        if method == "rocch":  # where the hull meets FAR = FRR
            misses = np.interp(0, -self._gap()[self.hull], self.misses[self.hull])
            return float(misses / self.targets)
        if method != "mean":
            raise UserError(
                f"no EER method '{method}'.{nearest(method, EER_METHODS)} "
                f"There are: {', '.join(EER_METHODS)}"
            )
        errors = sum(
            int(self.false_alarms[k]) * self.targets
            + int(self.misses[k]) * self.nontargets
            for k in self._nearest()
        )
        return errors / (4 * self.targets * self.nontargets)

    def eer_threshold(self) -> float:
        """The lowest threshold with the smallest abs(FAR - FRR)."""
        return self.cut(self._nearest()[0])

    def far_threshold(self, far: float) -> float:
        """The lowest threshold with at most this share of false alarms."""
        if not 0 <= far <= 1:
            raise UserError(f"far must lie between 0 and 1, not {far}")
        # In counts, so that far=0.1 of 10 non-targets is one of them.
        allowed = int(np.floor(far * self.nontargets * (1 + 1e-12)))
        return self.cut(int(np.argmax(self.false_alarms <= allowed)))

    # -- detection costs --------------------------------------------------------

    def costs(self, p_target: float, c_miss: float, c_fa: float) -> np.ndarray:
        """[K + 1] detection costs, divided by that of the better blind decision."""
        miss, fa = prior_costs(p_target, c_miss, c_fa)
        blind = min(miss, fa)
        cost = self.misses * (miss / blind / self.targets)
        cost += self.false_alarms * (fa / blind / self.nontargets)
        return cost

    def min_dcf(self, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """The least cost; see ``sb_margins.verification.metrics.min_dcf``."""
        return float(self.costs(p_target, c_miss, c_fa).min())

    def min_dcf_threshold(
        self, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
    ) -> float:
        """The lowest threshold with the least cost."""
        return self.cut(int(np.argmin(self.costs(p_target, c_miss, c_fa))))

    def act_dcf(self, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
        """Cost of the Bayes decision; see ``sb_margins.verification.metrics``."""
        miss, fa = prior_costs(p_target, c_miss, c_fa)
        rejected = self.thresholds <= np.log(fa / miss)
        return float(self.costs(p_target, c_miss, c_fa)[rejected][-1])

    # -- log-likelihood ratios --------------------------------------------------

    def cllr(self) -> float:
        """Cost of the scores as log-likelihood ratios, in bits."""
        return _cllr(
            self.thresholds[1:].astype(np.float64),
            np.diff(self.misses) / self.targets,
            -np.diff(self.false_alarms) / self.nontargets,
        )

    def min_cllr(self) -> float:
        """Cllr of the best monotone map: one ratio for each segment of the hull."""
        target = np.diff(self.misses[self.hull]) / self.targets
        nontarget = -np.diff(self.false_alarms[self.hull]) / self.nontargets
        # A segment without one of the classes has infinite evidence and costs nothing.
        mixed = (target > 0) & (nontarget > 0)
        target, nontarget = target[mixed], nontarget[mixed]
        return _cllr(np.log(target) - np.log(nontarget), target, nontarget)

    # -- thresholds and hull ----------------------------------------------------

    def cut(self, k: int) -> float:
        """A threshold that gives point k: midway to the next score."""
        t = self.thresholds.astype(np.float64)
        if k == 0:
            return float(np.nextafter(self.thresholds[1], -np.inf))
        if k + 1 == len(t):
            return float(t[k])
        middle = (t[k] + t[k + 1]) / 2
        return float(middle if middle < t[k + 1] else t[k])

    @cached_property
    def hull(self) -> np.ndarray:
        """Indices of the points on the convex hull of the ROC (its best mixtures)."""
        from scipy.optimize import isotonic_regression

        targets = np.diff(self.misses).astype(np.float64)
        weight = targets - np.diff(self.false_alarms)
        keep = np.flatnonzero(weight)  # a bootstrap leaves trials out
        fit = isotonic_regression(targets[keep] / weight[keep], weights=weight[keep])
        starts = np.append(keep[fit.blocks[:-1]], len(self.thresholds) - 1)
        starts[0] = 0
        return starts


def _cllr(llr: np.ndarray, target: np.ndarray, nontarget: np.ndarray) -> float:
    """Mean cost in bits of ratios held by shares of the targets and non-targets."""
    miss = target @ np.logaddexp(0, -llr)
    fa = nontarget @ np.logaddexp(0, llr)
    return float((miss + fa) / 2 / np.log(2))
