"""Figures with their uncertainty, and which differences are more than luck."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sb_margins.comparison.results import Comparison, System
from sb_margins.verification.bootstrap import (
    SEED,
    percentiles,
    resample,
    sign_p_value,
)
from sb_margins.verification.metrics import standard_metrics

METRICS = standard_metrics((0.01,))[:2]  # EER, minDCF(0.01)


@dataclass(frozen=True)
class Figure:
    """One metric of one system on one list.

    Arguments
    ---------
    mean : float
        Over seeds.
    spread : float
        Standard deviation over seeds (n - 1); NaN with one seed.
    low, high : float
        95 % interval of the mean over the speakers.
    change : float
        Relative to the baseline's mean; NaN for the baseline.
    difference_low, difference_high : float
        95 % interval of the difference to the baseline, over speakers and seeds.
    p_value : float
        Of the difference, two-sided, before correction; NaN for the baseline.
    p_holm : float
        After Holm's correction.

    Example
    -------
    >>> Figure(0.1, 0.01, 0.08, 0.12, -0.2, -0.03, -0.01, 0.001, 0.01).better
    True
    """

    mean: float
    spread: float
    low: float
    high: float
    change: float = float("nan")
    difference_low: float = float("nan")
    difference_high: float = float("nan")
    p_value: float = float("nan")
    p_holm: float = float("nan")

    @property
    def significant(self) -> bool:
        """Whether the difference survives the correction at 0.05."""
        return bool(self.p_holm < 0.05)

    @property
    def better(self) -> bool:
        """Significantly lower than the baseline."""
        return self.significant and self.change < 0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for many comparisons (Holm, 1979).

    Arguments
    ---------
    p_values : sequence of float
        NaN stays NaN and does not count.

    Returns
    -------
    list of float
        Comparable with the level wanted for all together.

    Example
    -------
    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(len(p), np.nan)
    order = [i for i in np.argsort(p) if not np.isnan(p[i])]
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        corrected[i] = running
    return [float(value) for value in corrected]


def figures(
    comparison: Comparison, name: str, *, replicates: int = 2000, seed: int = SEED
) -> dict[str, dict[str, Figure]]:
    """Every system's figures on one trial list.

    The interval resamples speakers. The difference to the baseline resamples speakers
    and, independently, seeds, a seed being drawn for both systems at once: they started
    from the same weights. The spread of drawn seeds is scaled to be unbiased (the
    rescaled bootstrap of Rao and Wu, 1988). That counts what a seed does to some
    speakers only in both: p-values are a little too large rather than too small.
    Holm's correction is over all systems and metrics of the list.

    Arguments
    ---------
    comparison : Comparison
    name : str
        Of the list.
    replicates : int
    seed : int

    Returns
    -------
    dict of str to dict of str to Figure
        By the system's label and the metric.

    Example
    -------
    >>> from types import SimpleNamespace as Fake
    >>> from sb_margins.comparison.variants import Variant
    >>> from sb_margins.data.trials import Trials
    >>> trials = Trials(list("abcabc"), list("defefd"), np.array([1, 1, 1, 0, 0, 0]))
    >>> sides = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 1, 2, 0])
    >>> scores = {"test": np.array([3.0, 2.0, 0.5, 1.0, 0.0, 0.2])}
    >>> one = Fake(cell=Fake(seed=1), scores=scores, best={"EER": 0.1})
    >>> systems = [System(Variant("am"), [one])]
    >>> plan, lists = Fake(baseline="am"), {"test": trials}
    >>> told = Comparison(plan, None, systems, lists, {"test": sides})
    >>> round(figures(told, "test", replicates=50)["am"]["eer"].mean, 3)
    0.333
    """
    systems, base = comparison.systems, comparison.baseline
    labels = comparison.trials[name].labels
    assert labels is not None
    flat = [(s, r) for s in systems for r in s.results]
    full, drawn = resample(
        [r.scores[name] for _, r in flat],
        labels,
        comparison.sides[name],
        METRICS,
        replicates=replicates,
        seed=seed,
    )
    at = {s.variant: [i for i, (t, _) in enumerate(flat) if t is s] for s in systems}
    keys, found = [], []
    for system in systems:
        for m, metric in enumerate(METRICS):
            own = at[system.variant]
            keys.append((system.variant.label, metric.name))
            values = full[own, m]
            low, high = percentiles(drawn[:, own, m].mean(1))
            spread = values.std(ddof=1) if len(values) > 1 else float("nan")
            row = [float(values.mean()), float(spread), low, high]
            if system is not base:
                pairs = _pairs(system, base, at)
                row += _difference(full[:, m], drawn[:, :, m], pairs, seed)
            found.append(row)
    p = holm([row[7] if len(row) > 7 else float("nan") for row in found])
    result: dict[str, dict[str, Figure]] = {}
    for (label, key), row, corrected in zip(keys, found, p, strict=True):
        figure = replace(Figure(*row), p_holm=corrected)
        result.setdefault(label, {})[key] = figure
    return result


def _pairs(system: System, base: System, at: dict) -> tuple[list[int], list[int]]:
    """Rows of the seeds that both systems have."""
    own = dict(
        zip((r.cell.seed for r in system.results), at[system.variant], strict=True)
    )
    its = dict(zip((r.cell.seed for r in base.results), at[base.variant], strict=True))
    both = [seed for seed in own if seed in its]
    return [own[seed] for seed in both], [its[seed] for seed in both]


def _difference(
    full: np.ndarray,
    drawn: np.ndarray,
    pairs: tuple[list[int], list[int]],
    seed: int,
) -> list[float]:
    """Relative change, interval of the difference, p-value."""
    one, two = pairs
    if not one:
        return [float("nan")] * 4
    n = len(one)
    luck = full[one] - full[two]
    luck = luck - luck.mean()  # of each seed
    pick = np.random.default_rng(seed).integers(n, size=(len(drawn), n))
    # A draw of n seeds spreads by (n - 1) / n too little: much, with three of them.
    spread = luck[pick].mean(1) * math.sqrt(n / max(n - 1, 1))
    means = (drawn[:, one] - drawn[:, two]).mean(1) + spread
    low, high = percentiles(means)
    base = full[two].mean()
    change = (full[one].mean() - base) / base if base else float("nan")
    return [float(change), low, high, sign_p_value(means)]
