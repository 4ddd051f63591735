"""Intervals over speakers: coverage, pairing, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.verification import metrics
from sb_margins.verification.bootstrap import (
    SortedTrials,
    bootstrap,
    metric_named,
    paired_bootstrap,
    speakers_of,
)


def corpus(seed: int, speakers: int = 40, each: int = 6, noise: float = 1.0):
    """Trials of a toy verifier whose speakers are easier or harder."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(speakers), each)
    hard = rng.gamma(2.0, 0.5, speakers)
    a, b = np.triu_indices(len(ids), 1)
    keep = (ids[a] == ids[b]) | (rng.random(len(a)) < 0.1)
    a, b = ids[a[keep]], ids[b[keep]]
    labels = a == b
    scores = 3 * labels - labels * hard[a] + rng.standard_normal(len(a))
    scores += noise * rng.standard_normal(len(a)) * 0.1
    return scores, labels, (a, b)


def test_a_replicate_is_the_corpus_with_speakers_repeated():
    scores, labels, (a, b) = corpus(0, speakers=6, each=3)
    times = np.array([2, 0, 1, 3, 0, 1])
    points = SortedTrials(scores, labels, (a, b)).points(times)
    weight = np.where(labels, times[a], times[a] * times[b])
    repeated = np.repeat(scores, weight), np.repeat(labels, weight)
    for name in ("eer", "min_dcf(p_target=0.05)"):
        expected = metric_named(name)(metrics.OperatingPoints.of(*repeated))
        assert metric_named(name)(points) == pytest.approx(expected, abs=1e-12)


def test_intervals_hold_the_value_and_repeat():
    scores, labels, sides = corpus(1)
    one = bootstrap(scores, labels, sides, replicates=100)
    assert one == bootstrap(scores, labels, sides, replicates=100)
    assert one != bootstrap(scores, labels, sides, replicates=100, seed=3)
    for interval in one.values():
        assert interval.low < interval.value < interval.high
    assert one["eer"].value == metrics.eer(scores, labels)


def test_speakers_matter_more_than_trials():
    """Speakers differ in difficulty, so resampling trials would be too sure."""
    scores, labels, sides = corpus(2)
    found = bootstrap(scores, labels, sides, metrics=["eer"], replicates=200)["eer"]
    rng = np.random.default_rng(0)
    eers = []
    for _ in range(200):
        at = rng.integers(0, len(scores), len(scores))
        eers.append(metrics.eer(scores[at], labels[at]))
    naive = np.subtract(*np.percentile(eers, [97.5, 2.5]))
    assert found.high - found.low > 1.3 * naive


def test_intervals_cover_the_truth():
    truth = metrics.eer(*corpus(99, speakers=600, each=4)[:2])
    inside = 0
    for seed in range(40):
        scores, labels, sides = corpus(seed, speakers=60, each=4)
        found = bootstrap(
            scores, labels, sides, metrics=["eer"], replicates=100, confidence=0.9
        )["eer"]
        inside += found.low <= truth <= found.high
    assert 30 <= inside <= 40  # 36 expected


def test_paired_comparison_sees_what_intervals_hide():
    scores, labels, sides = corpus(3)
    rng = np.random.default_rng(0)
    worse = scores + 0.8 * rng.standard_normal(len(scores))
    found = paired_bootstrap(worse, scores, labels, sides, replicates=200)
    assert found.value > 0 and found.significant and found.p_value < 0.05
    alone = [
        bootstrap(s, labels, sides, metrics=["eer"], replicates=200)["eer"]
        for s in (scores, worse)
    ]
    assert alone[1].low < alone[0].high  # the two intervals overlap
    same = paired_bootstrap(scores, scores, labels, sides, replicates=50)
    assert same.value == 0 and not same.significant and same.p_value == 1.0


def test_speakers_from_manifest_path_or_targets():
    by_path = Trials(
        ["s1/x/1.wav", "s1/x/1.wav"], ["s1/y/2.wav", "s2/z/1.wav"], np.array([1, 0])
    )
    assert [s.tolist() for s in speakers_of(by_path)] == [[0, 0], [0, 1]]
    plain = Trials(["a", "b", "a"], ["b", "c", "d"], np.array([1, 1, 0]))
    assert [s.tolist() for s in speakers_of(plain)] == [[0, 0, 0], [0, 0, 1]]
    told = speakers_of(plain, {"a": "s", "b": "s", "c": "t", "d": "u"})
    assert [s.tolist() for s in told] == [[0, 0, 0], [0, 1, 2]]
    # A folder that is not the speaker is not believed.
    folders = Trials(["wav/a", "wav/a"], ["wav/b", "wav/c"], np.array([1, 0]))
    assert [s.tolist() for s in speakers_of(folders)] == [[0, 0], [0, 1]]


def test_wrong_settings_are_told():
    scores, labels, sides = corpus(0, speakers=4)
    with pytest.raises(UserError, match="two arrays"):
        bootstrap(scores, labels, (sides[0],))
    with pytest.raises(UserError, match="replicates"):
        bootstrap(scores, labels, sides, replicates=1)
    with pytest.raises(UserError, match="no metric"):
        bootstrap(scores, labels, sides, metrics=["err"])
    with pytest.raises(UserError, match="two speakers"):
        bootstrap(scores, labels, (sides[0] * 0, sides[1] * 0))
    with pytest.raises(UserError, match="same trials"):
        paired_bootstrap(scores, scores[1:], labels, sides)
