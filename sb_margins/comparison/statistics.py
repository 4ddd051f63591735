"""Metrics of the systems with their uncertainty, and which differences are significant.

Speakers are resampled under the same draws for all systems, seeds independently of
them and in pairs: two systems with one seed started from the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm as normal, t as student

from sb_margins.verification.bootstrap import SEED, percentiles, resample, sign_p_value
from sb_margins.verification.metrics import Metric

LEVEL = 0.05
# The least that a statement of significance needs; docs/comparison.md says why.
LEAST = {"test speakers": 20, "runs of a system": 3, "updates of a run": 300}
# Scores [N] of each run (a seed) of each system.
Runs = Mapping[str, Mapping[Any, np.ndarray]]


@dataclass(frozen=True)
class Estimate:
    """A metric of one system: mean and standard deviation (n - 1) over its runs.

    ``low`` and ``high`` are the 95 % interval of the mean over speakers; ``spread`` is
    NaN for a single run.
    """

    mean: float
    spread: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A metric of one system minus that of its reference.

    ``change`` is relative to the reference; ``low`` and ``high`` are the 95 % interval
    of the difference over speakers and runs; p-values are two-sided, before and after
    Holm's correction. All are NaN when the two have no common run.
    """

    change: float
    low: float
    high: float
    p_value: float
    p_holm: float = math.nan

    @property
    def significant(self) -> bool:
        return self.p_holm < LEVEL

    @property
    def better(self) -> bool:
        """Significantly lower: all metrics here are error rates or costs."""
        return self.significant and self.change < 0

    @property
    def worse(self) -> bool:
        return self.significant and self.change > 0


@dataclass(frozen=True)
class Statistics:
    """Of one trial list: by system and metric, and by contrast and metric."""

    estimates: dict[str, dict[str, Estimate]]
    differences: dict[tuple[str, str], dict[str, Difference]]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for many comparisons (1979); NaN does not count.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(len(p), np.nan)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = largest
    return [float(value) for value in corrected]


def too_few(counts: Mapping[str, int]) -> str:
    """Which of the numbers of ``LEAST`` are too small, in words; empty if none is.

    >>> too_few({"test speakers": 4, "runs of a system": 9, "updates of a run": 299})
    'test speakers: 4 (needed: 20); updates of a run: 299 (needed: 300)'
    """
    return "; ".join(
        f"{name}: {counts[name]} (needed: {least})"
        for name, least in LEAST.items()
        if counts[name] < least
    )


def analyse(
    runs: Runs,
    labels: np.ndarray,
    sides: Sequence[np.ndarray],
    contrasts: Sequence[tuple[str, str]],
    metrics: Sequence[Metric],
    replicates: int,
) -> Statistics:
    """Estimates of all systems, and the differences of (system, reference) pairs.

    Holm's correction is over all contrasts and metrics.
    """
    flat = [(system, run) for system, named in runs.items() for run in named]
    row_of = {key: row for row, key in enumerate(flat)}
    scores = [runs[system][run] for system, run in flat]
    full, drawn = resample(scores, labels, sides, metrics, replicates=replicates)
    estimates: dict[str, dict[str, Estimate]] = {}
    for system, named in runs.items():
        rows = [row_of[system, run] for run in named]
        estimates[system] = {
            metric.name: estimate(full[rows, m], drawn[:, rows, m])
            for m, metric in enumerate(metrics)
        }
    pairs: dict[tuple[str, str], dict[str, Difference]] = {}
    for system, reference in contrasts:
        common = [run for run in runs[system] if run in runs[reference]]
        one = [row_of[system, run] for run in common]
        two = [row_of[reference, run] for run in common]
        pairs[system, reference] = {
            metric.name: difference(
                full[one, m], full[two, m], drawn[:, one, m], drawn[:, two, m]
            )
            for m, metric in enumerate(metrics)
        }
    corrected = iter(holm([d.p_value for row in pairs.values() for d in row.values()]))
    differences = {
        contrast: {k: replace(d, p_holm=next(corrected)) for k, d in row.items()}
        for contrast, row in pairs.items()
    }
    return Statistics(estimates, differences)


def estimate(full: np.ndarray, drawn: np.ndarray) -> Estimate:
    """From the values of n runs on all trials [n] and on the draws [R, n]."""
    spread = float(full.std(ddof=1)) if len(full) > 1 else math.nan
    return Estimate(float(full.mean()), spread, *percentiles(drawn.mean(1)))


def difference(
    full: np.ndarray,
    reference: np.ndarray,
    drawn: np.ndarray,
    reference_drawn: np.ndarray,
    seed: int = SEED,
) -> Difference:
    """From the values of n paired runs on all trials [n] and on the draws [R, n].

    Runs are resampled apart from speakers, which counts what a run does to some
    speakers only in both: p-values are a little too large rather than too small.
    """
    n = len(full)
    if not n:
        return Difference(math.nan, math.nan, math.nan, math.nan)
    deviation = full - reference
    deviation = deviation - deviation.mean()
    pick = np.random.default_rng(seed).integers(n, size=(len(drawn), n))
    # The mean of n drawn runs varies by (n - 1) / n too little: the rescaled
    # bootstrap of Rao and Wu (1988). Few runs say little about their own spread:
    # Student's t for the normal distribution.
    few = max(n - 1, 1)
    stretch = math.sqrt(n / few) * student.ppf(0.975, few) / normal.ppf(0.975)
    of_runs = deviation[pick].mean(1) * stretch
    means = (drawn - reference_drawn).mean(1) + of_runs
    base = reference.mean()
    change = float((full.mean() - base) / base) if base else math.nan
    return Difference(change, *percentiles(means), sign_p_value(means))
