"""The mean relative change over trial lists, as papers report it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from sb_margins.comparison.statistics import (
    Difference,
    Statistics,
    corrected,
    difference,
    pooled,
    possible,
)
from sb_margins.verification.metrics import Metric

UNKNOWN = Difference(*[math.nan] * 4)


def mean_changes(
    lists: Mapping[str, Statistics],
    families: Sequence[Sequence[tuple[str, str]]],
    metrics: Sequence[Metric],
) -> dict[tuple[str, str], dict[str, Difference]]:
    """The differences of (system, reference) pairs, averaged over lists.

    Every value is divided by what the reference has on its list, all runs and folds
    together, so that the mean over lists of the difference is the mean relative change;
    it is then judged like that of one list. A draw of speakers counts for all lists
    that have them, lists without common speakers are drawn by themselves, and a run is
    the same run on all of them.
    """

    def compare(system: str, reference: str, m: int) -> Difference:
        rows = [
            [
                {run: row for (_, run), row in one.draws.row_of[name].items()}
                for name in (system, reference)
            ]
            for one in lists.values()
        ]
        common = [
            run
            for run in rows[0][0]
            if all(run in named for both in rows for named in both)
        ]
        numbers = {fold: k for k, fold in enumerate(sorted({f for f, _ in common}))}
        folds = np.array([numbers[fold] for fold, _ in common])
        full, drawn = [], []
        for both, one in zip(rows, lists.values(), strict=True):
            at = [[named[run] for run in common] for named in both]
            values = one.draws.full[:, m][at]
            scale = float(pooled(values[1], folds)) if common else 0.0
            if not scale:
                return UNKNOWN
            full.append(values / scale)
            drawn.append(one.draws.drawn[:, :, m][:, at] / scale)
        one, two = np.mean(full, axis=0)
        draws = possible(np.mean(drawn, axis=0))
        return difference(one, two, draws[:, 0], draws[:, 1], folds)

    return corrected(families, metrics, compare)
