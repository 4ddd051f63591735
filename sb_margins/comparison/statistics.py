"""Metrics of the systems with their uncertainty, and which differences are significant.

Speakers are resampled under the same draws for all systems, runs independently of
them and in pairs: two systems with one seed started from the same weights. With folds,
speakers are resampled within each, and values, never scores, are pooled: the scores of
two models have different scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import norm as normal, t as student

from sb_margins.verification.bootstrap import SEED, percentiles, resample, sign_p_value
from sb_margins.verification.metrics import Metric

LEVEL = 0.05
# The least that a statement of significance needs; docs/comparison.md says why.
LEAST = {"test speakers": 20, "runs of a system": 3, "updates of a run": 300}
POWER = 0.8
STREAM = 1000  # between the seeds of lists without common speakers; more than folds


@dataclass(frozen=True)
class Part:
    """Trials of which no speaker is in another part, as judged by some runs.

    ``runs`` are the scores [N] of each run of each system; ``labels`` [N] and ``sides``
    (the speakers) are of the trials. Lists that share speakers number them alike,
    ``among`` so many, and have one ``stream`` of draws; others are drawn by themselves.
    """

    runs: dict[str, dict[Any, np.ndarray]]
    labels: np.ndarray
    sides: Sequence[np.ndarray]
    among: int = 0
    stream: int = 0


@dataclass(frozen=True)
class Drawn:
    """M metrics of K runs: on all trials [K, M] and on draws [R, K, M] of speakers.

    ``row_of`` numbers the runs by system, and by part with run. Some draws are NaN.
    """

    row_of: dict[str, dict[tuple[int, Any], int]]
    full: np.ndarray
    drawn: np.ndarray


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
    Holm's correction; ``error`` is the standard error of ``change``. ``visible`` is the
    smallest change that is significant in 80 % of such comparisons, be it the largest
    of its family. All are NaN when the two have no common run.
    """

    change: float
    low: float
    high: float
    p_value: float
    p_holm: float = math.nan
    error: float = math.nan
    visible: float = math.nan

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

    @property
    def reversed(self) -> Difference:
        """The reference minus the system."""
        change = 1 + self.change  # of 0: the system makes no errors
        share = 1 / change if change else math.nan
        return replace(
            self,
            change=-self.change * share,
            low=-self.high,
            high=-self.low,
            error=self.error * share,
            visible=self.visible * share,
        )


@dataclass(frozen=True)
class Statistics:
    """Of one trial list: by system and metric, and by contrast and metric."""

    estimates: dict[str, dict[str, Estimate]]
    differences: dict[tuple[str, str], dict[str, Difference]]
    draws: Drawn

    def between(self, system: str, reference: str) -> dict[str, Difference]:
        """The difference of two, whichever of them was the reference."""
        if (system, reference) in self.differences:
            return self.differences[system, reference]
        other = self.differences.get((reference, system), {})
        return {name: one.reversed for name, one in other.items()}


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
    parts: Sequence[Part],
    families: Sequence[Sequence[tuple[str, str]]],
    metrics: Sequence[Metric],
    replicates: int,
) -> Statistics:
    """Estimates of all systems, and the differences of (system, reference) pairs.

    Holm's correction is over all contrasts and metrics of a family.
    """
    keys: list[tuple[str, Any]] = []  # of each row: system, and fold with run
    fold_of, values, draws = [], [], []
    for number, part in enumerate(parts):
        pairs = [(system, run) for system, named in part.runs.items() for run in named]
        full, drawn = resample(
            [part.runs[system][run] for system, run in pairs],
            part.labels,
            part.sides,
            metrics,
            replicates=replicates,
            seed=SEED + number + STREAM * part.stream,
            among=part.among or 1 + max(int(side.max()) for side in part.sides),
        )
        keys += [(system, (number, run)) for system, run in pairs]
        fold_of += [number] * len(pairs)
        values.append(full)
        draws.append(drawn)
    full, every = np.concatenate(values), np.concatenate(draws, axis=1)
    drawn = possible(every)
    folds = np.array(fold_of)
    row_of: dict[str, dict[tuple[int, Any], int]] = {}
    for row, (system, run) in enumerate(keys):
        row_of.setdefault(system, {})[run] = row
    estimates: dict[str, dict[str, Estimate]] = {}
    for system, named in row_of.items():
        rows = list(named.values())
        estimates[system] = {
            metric.name: estimate(full[rows, m], drawn[:, rows, m], folds[rows])
            for m, metric in enumerate(metrics)
        }

    def compare(system: str, reference: str, m: int) -> Difference:
        common = [run for run in row_of[system] if run in row_of[reference]]
        one = [row_of[system][run] for run in common]
        two = [row_of[reference][run] for run in common]
        both = full[one, m], full[two, m], drawn[:, one, m], drawn[:, two, m]
        return difference(*both, folds[one])

    differences = corrected(families, metrics, compare)
    return Statistics(estimates, differences, Drawn(row_of, full, every))


def possible(draws: np.ndarray) -> np.ndarray:
    """The draws [R, ...] in which no value is NaN."""
    return draws[~np.isnan(draws).any(axis=tuple(range(1, draws.ndim)))]


def corrected(
    families: Sequence[Sequence[tuple[str, str]]],
    metrics: Sequence[Metric],
    compare: Callable[[str, str, int], Difference],
) -> dict[tuple[str, str], dict[str, Difference]]:
    """The differences of all contrasts, with Holm's correction within each family.

    ``compare`` takes a system, its reference and the number of a metric.
    """
    differences: dict[tuple[str, str], dict[str, Difference]] = {}
    for contrasts in families:
        family = [
            (contrast, metric.name, compare(*contrast, m))
            for contrast in contrasts
            for m, metric in enumerate(metrics)
        ]
        corrected = holm([found.p_value for *_, found in family])
        # Holm's first step: the level for the largest difference of a family.
        needed = normal.ppf(1 - LEVEL / 2 / max(1, len(family))) + normal.ppf(POWER)
        for (contrast, name, found), p_holm in zip(family, corrected, strict=True):
            differences.setdefault(contrast, {})[name] = replace(
                found, p_holm=p_holm, visible=float(needed) * found.error
            )
    return differences


def pooled(values: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The mean over folds of the means over the runs [..., n] on each: [...]."""
    means = [values[..., folds == fold].mean(-1) for fold in np.unique(folds)]
    return np.mean(means, axis=0)


def estimate(full: np.ndarray, drawn: np.ndarray, folds: Any = 0) -> Estimate:
    """From the values of n runs on all trials [n] and on the draws [R, n].

    ``folds`` [n] numbers the fold of each run.
    """
    folds = np.broadcast_to(folds, full.shape)
    spread = float(full.std(ddof=1)) if len(full) > 1 else math.nan
    mean = float(pooled(full, folds))
    return Estimate(mean, spread, *percentiles(pooled(drawn, folds)))


def difference(
    full: np.ndarray,
    reference: np.ndarray,
    drawn: np.ndarray,
    reference_drawn: np.ndarray,
    folds: Any = 0,
    seed: int = SEED,
) -> Difference:
    """From the values of n paired runs on all trials [n] and on the draws [R, n].

    ``folds`` [n] numbers the fold of each run. Runs are resampled apart from speakers.
    Within a fold, this counts what a run does to some speakers only in both: p-values
    are a little too large rather than too small. Runs on different folds differ by
    their speakers, too: what the draws explain of that is taken off.
    """
    n = len(full)
    if not n:
        return Difference(math.nan, math.nan, math.nan, math.nan)
    folds = np.broadcast_to(folds, full.shape)
    gap = full - reference
    deviation = gap - gap.mean()
    pick = np.random.default_rng(seed).integers(n, size=(len(drawn), n))
    # The mean of n drawn runs varies by (n - 1) / n too little: the rescaled
    # bootstrap of Rao and Wu (1988). Few runs say little about their own spread:
    # Student's t for the normal distribution.
    few = max(n - 1, 1)
    stretch = math.sqrt(n / few) * student.ppf(0.975, few) / normal.ppf(0.975)
    gaps = drawn - reference_drawn
    stretch *= math.sqrt(_unexplained(deviation, gaps, folds))
    of_runs = deviation[pick].mean(1) * stretch
    means = pooled(gaps, folds) + of_runs
    base = float(pooled(reference, folds))
    change = float(pooled(gap, folds)) / base if base else math.nan
    error = float(means.std()) / base if base else math.nan
    return Difference(change, *percentiles(means), sign_p_value(means), error=error)


def _unexplained(deviation: np.ndarray, gaps: np.ndarray, folds: np.ndarray) -> float:
    """The share of the squared deviations [n] of runs that is not their speakers'.

    Of what the draws [R, n] say that speakers contribute, (n - 2) / (n - 1) is taken
    off: with few runs both are uncertain, and a share of 0 would claim too much.
    """
    total = float((deviation**2).sum())
    if not total:
        return 1.0
    names, of_fold = np.unique(folds, return_inverse=True)
    means = np.stack([gaps[:, folds == name].mean(1) for name in names], axis=1)
    means = (means - means.mean(0))[:, of_fold]
    speakers = ((means - means.mean(1, keepdims=True)) ** 2).sum(1).mean()
    sure = max(0.0, 1 - 1 / max(len(deviation) - 1, 1))
    return max(0.0, 1 - sure * float(speakers) / total)
