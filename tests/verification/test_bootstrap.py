"""Intervals over speakers: coverage, pairing, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.verification import bootstrap as bootstrapping, metrics
from sb_margins.verification.bootstrap import (
    Difference,
    SortedTrials,
    bootstrap,
    draws,
    paired_bootstrap,
    percentiles,
    resample,
    sign_p_value,
    speakers_of,
)
from sb_margins.verification.metrics import EER


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


def test_a_replicate_is_the_corpus_with_speakers_repeated(monkeypatch):
    scores, labels, (a, b) = corpus(0, speakers=6, each=3)
    times = np.array([2, 0, 1, 3, 0, 1])
    weight = np.where(labels, times[a], times[a] * times[b])
    repeated = np.repeat(scores, weight), np.repeat(labels, weight)
    some = metrics.standard_metrics()
    monkeypatch.setattr(bootstrapping, "draws", lambda *_: iter([times] * 3))
    _, drawn = resample([scores], labels, (a, b), some, replicates=3)
    points = metrics.OperatingPoints.of(*repeated)
    assert drawn[1, 0] == pytest.approx([metric(points) for metric in some], abs=1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_weighted_trials_are_repeated_trials(seed):
    """With ties, with few trials of either class, with weights of 0."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(4, 60))
    scores = rng.integers(0, 5 + 3 * seed, size) / 7
    labels = rng.random(size) < rng.choice([0.2, 0.5, 0.8])
    labels[:2] = True, False
    weights = rng.integers(0, 4, size)
    weights[:2] = 1
    ranked = SortedTrials(scores, labels)
    points = ranked.points(weights)
    repeated = np.repeat(scores, weights), np.repeat(labels, weights)
    full = metrics.OperatingPoints.of(*repeated)
    for metric in metrics.standard_metrics((0.01, 0.5)):
        assert metric(points) == pytest.approx(metric(full), abs=1e-12)
    assert points.eer("rocch") == pytest.approx(full.eer("rocch"), abs=1e-12)


def test_intervals_hold_the_value_and_repeat():
    scores, labels, sides = corpus(1)
    some = metrics.standard_metrics()[:2]
    one = bootstrap(scores, labels, sides, some, replicates=100)
    assert one == bootstrap(scores, labels, sides, some, replicates=100)
    assert one != bootstrap(scores, labels, sides, some, replicates=100, seed=3)
    for interval in one.values():
        assert interval.low < interval.value < interval.high
    assert one["eer"].value == metrics.eer(scores, labels)


def test_limits_are_the_percentiles_of_the_draws():
    scores, labels, sides = corpus(4, speakers=12)
    full, drawn = resample([scores], labels, sides, [EER], replicates=60, seed=5)
    assert full.shape == (1, 1) and drawn.shape == (60, 1, 1)
    found = bootstrap(
        scores, labels, sides, [EER], replicates=60, confidence=0.8, seed=5
    )["eer"]
    values = drawn[:, 0, 0]
    assert (found.low, found.high) == pytest.approx(np.percentile(values, [10, 90]))
    assert percentiles(values) == pytest.approx(np.percentile(values, [2.5, 97.5]))


def test_draws_of_one_speaker_only_are_left_out():
    """With two speakers half of the draws have no non-target trial."""
    scores, labels = [0.9, 0.4, 0.1, 0.5], [1, 1, 0, 0]
    sides = np.array([0, 1, 0, 1]), np.array([0, 1, 1, 0])
    _, drawn = resample([scores], labels, sides, [EER], replicates=200, seed=1)
    times = list(draws(2, 200, 1))
    assert len(drawn) == sum(one.all() for one in times) < 150
    assert all(one.sum() == 2 for one in times)


def test_a_difference_is_of_the_same_draws():
    scores, labels, sides = corpus(6, speakers=12)
    other = scores + np.random.default_rng(1).standard_normal(len(scores))
    dcf = metrics.standard_metrics((0.3,))[1]
    found = paired_bootstrap(
        other, scores, labels, sides, dcf, replicates=80, confidence=0.9, seed=7
    )
    one, two = (
        resample([s], labels, sides, [dcf], replicates=80, seed=7)[1][:, 0, 0]
        for s in (other, scores)
    )
    limits = np.percentile(one - two, [5, 95])
    assert (found.low, found.high) == pytest.approx(limits)
    expected = metrics.min_dcf(other, labels, p_target=0.3)
    expected -= metrics.min_dcf(scores, labels, p_target=0.3)
    assert found.value == expected
    fewer = min((one <= two).sum(), (one >= two).sum())
    assert found.p_value == min(1, 2 * (fewer + 1) / 81)


@pytest.mark.parametrize(
    "differences, expected",
    [([1] * 19, 0.1), ([-1] * 9, 0.2), ([1, -1, 0], 1.0), ([1, 1, 1, -1], 0.8)],
)
def test_p_values_by_hand(differences, expected):
    assert sign_p_value(np.array(differences)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "low, high, significant",
    [(-1, 1, False), (0, 1, False), (-1, 0, False), (0.1, 1, True), (-1, -0.1, True)],
)
def test_an_interval_without_0_is_significant(low, high, significant):
    assert Difference(0.0, low, high, 0.5).significant is significant


def test_speakers_matter_more_than_trials():
    """Speakers differ in difficulty, so resampling trials would be too sure."""
    scores, labels, sides = corpus(2)
    found = bootstrap(scores, labels, sides, metrics=[EER], replicates=200)["eer"]
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
            scores, labels, sides, metrics=[EER], replicates=100, confidence=0.9
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
        bootstrap(s, labels, sides, metrics=[EER], replicates=200)["eer"]
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
    with pytest.raises(UserError, match="no speaker is known for 2: c, d"):
        speakers_of(plain, {"a": "s", "b": "s"})
    enrolled = Trials(["m", "m"], ["b", "d"], np.array([1, 0]), {"m": ("a", "b")})
    told = speakers_of(enrolled, {"a": "s", "b": "s", "d": "u"})
    assert [s.tolist() for s in told] == [[0, 0], [0, 1]]
    with pytest.raises(UserError, match="without labels"):
        speakers_of(Trials(["a"], ["b"]))
    open_list = Trials(["s1/a", "s1/a"], ["s1/b", "s2/c"])
    assert [s.tolist() for s in speakers_of(open_list)] == [[0, 0], [0, 1]]
    # Paths join more than targets do, where the labels agree with them.
    apart = Trials(
        ["s1/a", "s1/a", "s1/b"], ["s1/d", "s2/c", "s2/c"], np.array([1, 0, 0])
    )
    assert [s.tolist() for s in speakers_of(apart)] == [[0, 0, 0], [0, 1, 1]]
    # A folder that is not the speaker is not believed.
    folders = Trials(["wav/a", "wav/a"], ["wav/b", "wav/c"], np.array([1, 0]))
    assert [s.tolist() for s in speakers_of(folders)] == [[0, 0], [0, 1]]


def test_wrong_settings_are_told():
    scores, labels, sides = corpus(0, speakers=4)
    with pytest.raises(UserError, match="replicates"):
        bootstrap(scores, labels, sides, [EER], replicates=1)
    assert bootstrap(scores, labels, sides, [EER], replicates=2)
    for confidence in (0, 1, 95):
        with pytest.raises(UserError, match="confidence must lie between 0 and 1"):
            bootstrap(scores, labels, sides, [EER], confidence=confidence)
    with pytest.raises(UserError, match="two speakers"):
        bootstrap(scores, labels, (sides[0] * 0, sides[1] * 0), [EER])
    with pytest.raises(UserError, match="scores but .* labels"):
        paired_bootstrap(scores, scores[1:], labels, sides)
