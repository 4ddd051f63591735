"""Confidence intervals by resampling speakers, and whether two systems differ.

Trials share speakers, so they are not independent: resampling trials gives intervals
that are far too narrow. Here every replicate draws as many speakers as there are, with
replacement. A speaker drawn m times counts m times: a target trial weighs m, a
non-target trial of speakers a and b weighs m_a * m_b.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError, listed
from sb_margins.verification.metrics import EER, Metric
from sb_margins.verification.points import OperatingPoints, as_scores, target_mask

SEED = 1986
REPLICATES = 1000
CONFIDENCE = 0.95
Sides = Sequence[np.ndarray]  # the speaker numbers [N] of both sides of the trials


def speakers_by_path(names: Sequence[str]) -> dict[str, str]:
    """The first part of names like ``id10270/x/1.wav``; none if one has no parts."""
    if not all("/" in name for name in names):
        return {}
    return {name: name.split("/")[0] for name in names}


def speakers_for(names: Sequence[str], speakers: Mapping[str, str]) -> list[str]:
    """The speaker of each utterance, or one error for all whose is not known."""
    unknown = [name for name in names if name not in speakers]
    if unknown:
        raise UserError(f"no speaker is known for {len(unknown)}: {listed(unknown)}")
    return [speakers[name] for name in names]


def speakers_of(
    trials: Trials, speakers: Mapping[str, str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The speakers of both sides of each trial, numbered: [N] int64 each.

    The ``known_speakers_of``, else names joined by target trials are of one speaker.
    """
    known = known_speakers_of(trials, speakers)
    return guessed_speakers_of(trials) if known is None else known


def guessed_speakers_of(trials: Trials) -> tuple[np.ndarray, np.ndarray]:
    """Names joined by target trials are of one speaker: often too many speakers."""
    _, enrol, test = trials.numbered
    group = trials.groups()[1]
    return group[enrol], group[test]


def known_speakers_of(
    trials: Trials, speakers: Mapping[str, str] | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """The speakers of both sides of each trial, numbered: [N] int64 each, or None.

    ``speakers`` maps each utterance to its speaker (that of a model is the one of its
    first utterance). Without it, the first parts of names are the speakers, if the
    labels agree.
    """
    names, enrol, test = trials.numbered
    utterances = [trials.models.get(name, (name,))[0] for name in names]
    known = speakers_by_path(utterances) if speakers is None else speakers
    if known or speakers is not None:
        number: dict[str, int] = {}
        spoken = speakers_for(utterances, known)
        group = np.array([number.setdefault(who, len(number)) for who in spoken])
        sides = group[enrol], group[test]
        believed = speakers is not None or trials.labels is None
        if believed or ((sides[0] == sides[1]) == trials.labels).all():
            return sides
    return None


@dataclass(frozen=True)
class Interval:
    """A value on all trials, and percentiles of it over the replicates."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Interval):
    """System A minus system B on the same trials, with its interval and p-value."""

    p_value: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


class SortedTrials:
    """Scores sorted once, to be counted again with other weights of the trials."""

    def __init__(self, scores: Any, labels: Any) -> None:
        self.full = full = OperatingPoints.of(scores, labels)
        order = np.argsort(as_scores(scores), kind="stable")
        is_target = target_mask(labels, len(order))[order]
        self.targets, self.nontargets = order[is_target], order[~is_target]
        # How many sorted trials of each class every threshold rejects.
        self.rejected = full.misses, full.nontargets - full.false_alarms
        # The thresholds above which a target is next, and the last one.
        self.corners = np.flatnonzero(np.diff(full.misses, append=full.targets + 1))

    def points(self, weights: np.ndarray) -> OperatingPoints:
        """Counts where trials weigh ``weights`` [N], integers.

        Only the thresholds that an EER, a least cost or a hull can need: the corners,
        between which false alarms fall and misses stay, and all where FAR = FRR.
        """
        sums = []
        for trials in (self.targets, self.nontargets):
            sums.append(np.zeros(len(trials) + 1, np.int64))
            np.cumsum(weights.take(trials), out=sums[-1][1:])
        targets, nontargets = (int(s[-1]) for s in sums)

        def count(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            misses, passed = (
                s[r[at]] for s, r in zip(sums, self.rejected, strict=True)
            )
            return misses, nontargets - passed

        misses, false_alarms = count(self.corners)
        # The first corner has no miss, so FAR falls below FRR after it.
        cross = int(np.argmax(misses * nontargets > false_alarms * targets))
        left, right = np.split(self.corners, [cross])
        at = np.concatenate([left, np.arange(left[-1] + 1, right[0]), right])
        points = count(at)
        return OperatingPoints(self.full.thresholds[at], *points, targets, nontargets)


def draws(speakers: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """How often [speakers] each speaker is in each bootstrap replicate."""
    rng = np.random.default_rng(seed)
    share = np.full(speakers, 1 / speakers)
    for _ in range(replicates):
        yield rng.multinomial(speakers, share)


def resample(
    systems: Sequence[Any],
    labels: Any,
    sides: Sides,
    metrics: Sequence[Metric],
    *,
    replicates: int = REPLICATES,
    seed: int = SEED,
    among: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """M metrics of K systems' scores [N] under the same draws of speakers.

    Returns the values on all trials [K, M] and on each draw [R, K, M]; a draw of one
    speaker again and again has no non-target trials and is left out. Speakers are drawn
    ``among`` so many, of which only some are in the trials; impossible draws are then
    NaN: lists that share speakers keep their draws side by side.
    """
    if replicates < 2:
        raise UserError(f"a bootstrap needs at least 2 replicates, not {replicates}")
    speakers = among or 1 + max(int(np.max(side)) for side in sides)
    if speakers < 2:
        raise UserError("a bootstrap over speakers needs at least two speakers")
    ranked = [SortedTrials(scores, labels) for scores in systems]
    one, two = sides
    is_target = target_mask(labels, len(one))
    full = np.array([[metric(system.full) for metric in metrics] for system in ranked])
    drawn = []
    for times in draws(speakers, replicates, seed):
        weights = times[one] * np.where(is_target, 1, times[two])
        if weights[is_target].any() and weights[~is_target].any():
            points = [system.points(weights) for system in ranked]
            drawn.append([[metric(p) for metric in metrics] for p in points])
        elif among:
            drawn.append([[math.nan] * len(metrics)] * len(ranked))
    return full, np.array(drawn).reshape(-1, len(systems), len(metrics))


def percentiles(
    values: np.ndarray, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The limits that leave out half of 1 - ``confidence`` of the values each."""
    if not 0 < confidence < 1:
        raise UserError(f"confidence must lie between 0 and 1, not {confidence}")
    low, high = np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


def sign_p_value(differences: np.ndarray) -> float:
    """Two-sided: how often resampled differences have the other sign.

    One is added to both counts: a p-value of 0 would claim too much.
    """
    side = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (side + 1) / (len(differences) + 1)))


def bootstrap(
    scores: Any,
    labels: Any,
    sides: Sides,
    metrics: Sequence[Metric],
    *,
    confidence: float = CONFIDENCE,
    **drawing: int,
) -> dict[str, Interval]:
    """Intervals of metrics, by name; ``replicates`` and ``seed`` as in ``resample``."""
    (full,), drawn = resample([scores], labels, sides, metrics, **drawing)
    return {
        metric.name: Interval(float(value), *percentiles(values, confidence))
        for metric, value, values in zip(metrics, full, drawn[:, 0].T, strict=True)
    }


def paired_bootstrap(
    scores_a: Any,
    scores_b: Any,
    labels: Any,
    sides: Sides,
    metric: Metric = EER,
    *,
    confidence: float = CONFIDENCE,
    **drawing: int,
) -> Difference:
    """A minus B on the same trials in the same order, under the same draws."""
    full, drawn = resample([scores_a, scores_b], labels, sides, [metric], **drawing)
    differences = drawn[:, 0, 0] - drawn[:, 1, 0]
    return Difference(
        float(full[0, 0] - full[1, 0]),
        *percentiles(differences, confidence),
        sign_p_value(differences),
    )
