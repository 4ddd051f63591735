"""Confidence intervals by resampling speakers, and whether two systems differ.

Trials share speakers, so they are not independent: resampling trials gives intervals
that are far too narrow. Here every replicate draws as many speakers as there are, with
replacement. A speaker drawn m times counts m times: a target trial weighs m, a
non-target trial of speakers a and b weighs m_a * m_b.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError, listed
from sb_margins.verification.embeddings import lookup
from sb_margins.verification.points import OperatingPoints, as_array, as_scores

Metric = Callable[[OperatingPoints], float]

SEED = 1986


def metric_named(name: str) -> Metric:
    """The function behind ``"eer"`` or ``"min_dcf(p_target=0.01)"``.

    Arguments
    ---------
    name : str
        A key of ``metrics.summary``.

    Returns
    -------
    callable
        From ``OperatingPoints`` to the value.

    Raises
    ------
    UserError
        For another name.

    Example
    -------
    >>> points = OperatingPoints.of([0.9, 0.4, 0.5, 0.1], [1, 1, 0, 0])
    >>> metric_named("min_dcf(p_target=0.05)")(points)
    0.5
    """
    if name == "eer":
        return lambda points: points.eer()
    if name.startswith("min_dcf(p_target=") and name.endswith(")"):
        p_target = float(name[len("min_dcf(p_target=") : -1])
        return lambda points: points.min_dcf(p_target)
    raise UserError(f"no metric '{name}'. There are: eer, min_dcf(p_target=0.01), ...")


def speakers_of(
    trials: Trials, speakers: Mapping[str, str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The speakers of both sides of each trial, numbered.

    Arguments
    ---------
    trials : Trials
        With labels.
    speakers : mapping of str to str, optional
        The speaker of each utterance. Default: names like ``id10270/x/1.wav`` tell it
        by their first part; of other names, those joined by target trials are one
        speaker.

    Returns
    -------
    tuple of numpy.ndarray
        [N] int64 for the enrolled and the test side.

    Example
    -------
    >>> trials = Trials(["a", "a"], ["b", "c"], np.array([1, 0]))
    >>> [side.tolist() for side in speakers_of(trials)]
    [[0, 0], [0, 1]]
    """
    names = sorted(set(trials.enrol) | set(trials.test))
    number = {name: i for i, name in enumerate(names)}
    enrol, test = lookup(number, trials.enrol), lookup(number, trials.test)
    told = _told(names, trials, speakers)
    if told is not None:
        ids = {s: i for i, s in enumerate(dict.fromkeys(told))}
        group = np.array([ids[s] for s in told])
        sides = group[enrol], group[test]
        # Paths are believed only if the labels agree.
        if speakers is not None or trials.labels is None:
            return sides
        if ((sides[0] == sides[1]) == (trials.labels == 1)).all():
            return sides
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if trials.labels is None:
        raise UserError("trials without labels do not tell who is who")
    same = trials.labels == 1
    ones = np.ones(int(same.sum()), np.int8)
    shape = (len(names), len(names))
    graph = coo_matrix((ones, (enrol[same], test[same])), shape=shape)
    group = connected_components(graph, directed=False)[1].astype(np.int64)
    return group[enrol], group[test]


def _told(
    names: list[str], trials: Trials, speakers: Mapping[str, str] | None
) -> list[str] | None:
    """The speaker of each name, or None when the names do not tell."""
    firsts = [trials.models.get(name, (name,))[0] for name in names]
    if speakers is not None:
        told = [speakers.get(first) for first in firsts]
        unknown = [first for first, t in zip(firsts, told, strict=True) if t is None]
        if unknown:
            raise UserError(
                f"no speaker is known for {len(unknown)}: {listed(unknown)}"
            )
        return [t for t in told if t is not None]
    if not all("/" in first for first in firsts):
        return None
    return [first.split("/")[0] for first in firsts]


@dataclass(frozen=True)
class Interval:
    """A value and the interval that holds it with the wanted confidence.

    Arguments
    ---------
    value : float
        On all trials.
    low, high : float
        Percentiles over the replicates.

    Example
    -------
    >>> Interval(0.02, 0.01, 0.03).high
    0.03
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """System A minus system B on the same trials.

    Arguments
    ---------
    value, low, high : float
        The difference and its interval; below 0, A is better.
    p_value : float
        Two-sided: how often resampling would turn the sign.

    Example
    -------
    >>> Difference(-0.01, -0.02, -0.001, 0.03).significant
    True
    """

    value: float
    low: float
    high: float
    p_value: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


class SortedTrials:
    """Scores sorted once, to be counted again with other weights.

    Arguments
    ---------
    scores, labels : array-like or torch.Tensor
        [N] each.
    sides : pair of numpy.ndarray
        From ``speakers_of``.

    Example
    -------
    >>> sides = np.array([0, 0]), np.array([0, 1])
    >>> trials = SortedTrials(np.array([0.9, 0.1]), np.array([1, 0]), sides)
    >>> trials.points(np.array([2, 1])).targets
    2
    """

    def __init__(self, scores: Any, labels: Any, sides: Sequence[np.ndarray]) -> None:
        score, label = as_scores(scores), as_array(labels).reshape(-1).astype(bool)
        self.full = full = OperatingPoints.of(score, label)
        one, two = (np.asarray(side) for side in sides)
        targets, nontargets = np.flatnonzero(label), np.flatnonzero(~label)
        targets = targets[np.argsort(score[targets], kind="stable")]
        nontargets = nontargets[np.argsort(score[nontargets], kind="stable")]
        self.speaker = one[targets]
        self.pair = one[nontargets], two[nontargets]
        # How many sorted trials of each class every threshold rejects.
        self.rejected = full.misses, full.nontargets - full.false_alarms

    def points(self, times: np.ndarray) -> OperatingPoints:
        """Counts when speaker s was drawn ``times[s]`` times."""
        weights = times[self.speaker], times[self.pair[0]] * times[self.pair[1]]
        sums = [np.concatenate([[0], np.cumsum(w)]) for w in weights]
        misses, passed = (s[at] for s, at in zip(sums, self.rejected, strict=True))
        targets, nontargets = (int(s[-1]) for s in sums)
        return OperatingPoints(
            self.full.thresholds, misses, nontargets - passed, targets, nontargets
        )


def draws(speakers: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """How often each speaker is in each bootstrap replicate.

    Arguments
    ---------
    speakers, replicates, seed : int

    Yields
    ------
    numpy.ndarray
        [speakers] counts that sum to ``speakers``.

    Example
    -------
    >>> [int(times.sum()) for times in draws(5, replicates=2, seed=0)]
    [5, 5]
    """
    rng = np.random.default_rng(seed)
    share = np.full(speakers, 1 / speakers)
    for _ in range(replicates):
        yield rng.multinomial(speakers, share)


def _check(
    scores: Any, sides: Sequence[np.ndarray], replicates: int, confidence: float
) -> int:
    count = np.asarray(as_array(scores)).size
    if len(sides) != 2 or any(np.asarray(s).shape != (count,) for s in sides):
        raise UserError(
            f"speakers must be two arrays of {count} numbers (one per trial and side), "
            "as speakers_of gives them"
        )
    if replicates < 2 or not 0 < confidence < 1:
        raise UserError("need replicates >= 2 and a confidence between 0 and 1")
    speakers = int(max(np.max(sides[0]), np.max(sides[1]))) + 1
    if speakers < 2:
        raise UserError("a bootstrap over speakers needs at least two speakers")
    return speakers


def bootstrap(
    scores: Any,
    labels: Any,
    speakers: Sequence[np.ndarray],
    *,
    metrics: Sequence[str] = ("eer", "min_dcf(p_target=0.01)"),
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = SEED,
) -> dict[str, Interval]:
    """Intervals of metrics by a bootstrap over speakers.

    Arguments
    ---------
    scores, labels : array-like
        [N] each.
    speakers : pair of numpy.ndarray
        [N] speaker numbers of both sides, from ``speakers_of``.
    metrics : sequence of str
        ``"eer"`` and ``"min_dcf(p_target=...)"``.
    replicates : int
        How many resamplings.
    confidence : float
        Share of replicates inside of the interval.
    seed : int
        The same seed gives the same intervals.

    Returns
    -------
    dict of str to Interval

    Example
    -------
    >>> scores, labels = [0.9, 0.8, 0.6, 0.2, 0.1, 0.7], [1, 1, 1, 0, 0, 0]
    >>> sides = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 1, 2, 0])
    >>> found = bootstrap(scores, labels, sides, replicates=50)["eer"]
    >>> found.low <= found.value <= found.high
    True
    """
    count = _check(scores, speakers, replicates, confidence)
    ranked = SortedTrials(scores, labels, speakers)
    functions = {name: metric_named(name) for name in metrics}
    values: dict[str, list[float]] = {name: [] for name in functions}
    for times in draws(count, replicates, seed):
        points = ranked.points(times)
        if not (points.targets and points.nontargets):
            continue  # a draw of one speaker again and again has no non-targets
        for name, function in functions.items():
            values[name].append(function(points))
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    found = {}
    for name, function in functions.items():
        low, high = np.percentile(values[name], tails)
        found[name] = Interval(function(ranked.full), float(low), float(high))
    return found


def paired_bootstrap(
    scores_a: Any,
    scores_b: Any,
    labels: Any,
    speakers: Sequence[np.ndarray],
    *,
    metric: str = "eer",
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = SEED,
) -> Difference:
    """Whether two systems differ on the same trials: both see the same draws.

    Arguments
    ---------
    scores_a, scores_b : array-like
        [N] each, of the same trials in the same order.
    labels : array-like
        [N].
    speakers : pair of numpy.ndarray
        [N] speaker numbers of both sides, from ``speakers_of``.
    metric : str
        ``"eer"`` or ``"min_dcf(p_target=...)"``.
    replicates, confidence, seed
        As in ``bootstrap``.

    Returns
    -------
    Difference
        A minus B.

    Example
    -------
    >>> labels = [1, 1, 1, 0, 0, 0]
    >>> sides = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 1, 2, 1, 2, 0])
    >>> good, bad = [3, 3, 3, 1, 1, 1], [1, 1, 1, 3, 3, 3]
    >>> paired_bootstrap(good, bad, labels, sides, replicates=50).significant
    True
    """
    count = _check(scores_a, speakers, replicates, confidence)
    if as_array(scores_b).size != as_array(scores_a).size:
        raise UserError(
            f"{as_array(scores_a).size} and {as_array(scores_b).size} scores: a paired "
            "comparison needs the same trials"
        )
    one, two = (SortedTrials(s, labels, speakers) for s in (scores_a, scores_b))
    function = metric_named(metric)
    drawn = []
    for times in draws(count, replicates, seed):
        first, second = one.points(times), two.points(times)
        if first.targets and first.nontargets:
            drawn.append(function(first) - function(second))
    differences = np.array(drawn)
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]
    low, high = np.percentile(differences, tails)
    # With one added to both, as a p-value of nought would claim too much.
    side = min((differences <= 0).sum(), (differences >= 0).sum())
    return Difference(
        function(one.full) - function(two.full),
        float(low),
        float(high),
        float(min(1.0, 2 * (side + 1) / (len(differences) + 1))),
    )
