"""Metrics against exact arithmetic, SpeechBrain, scikit-learn, and broken input."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch

from sb_margins.errors import UserError
from sb_margins.verification import metrics
from sb_margins.verification.bootstrap import (
    CONFIDENCE,
    REPLICATES,
    Difference,
    Interval,
)
from sb_margins.verification.calibration import Calibration


def cases(count: int, ties: bool):
    """Small sets of all kinds of balance and overlap."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(2, 60))
        labels = rng.random(size) < rng.uniform(0.1, 0.9)
        labels[:2] = [True, False]
        scores = rng.standard_normal(size) + rng.uniform(-1, 3) * labels
        if ties:
            scores = np.round(scores * rng.integers(1, 4)) / 4
        yield scores.astype(np.float32), labels


def rational_points(scores, labels):
    """(FAR, FRR) at every threshold, counted the slow way, as fractions."""
    target, nontarget = scores[labels], scores[~labels]
    cuts = [-np.inf, *np.unique(scores)]
    return [
        (
            Fraction(int((nontarget > t).sum()), len(nontarget)),
            Fraction(int((target <= t).sum()), len(target)),
        )
        for t in cuts
    ]


def rational_eer(points):
    best = min(abs(far - frr) for far, frr in points)
    means = [(far + frr) / 2 for far, frr in points if abs(far - frr) == best]
    return sum(means) / len(means)


def rational_rocch(points):
    """The lowest crossing of FAR = FRR by any mixture of two points."""
    found = [far for far, frr in points if far == frr]
    for (fa, ma), (fb, mb) in combinations(points, 2):
        one, two = fa - ma, fb - mb
        if one > 0 > two:
            found.append(ma + one / (one - two) * (mb - ma))
    return min(found)


@pytest.mark.parametrize("ties", [True, False])
def test_exact_rational_arithmetic(ties):
    for scores, labels in cases(100, ties):
        points = rational_points(scores, labels)
        assert metrics.eer(scores, labels) == float(rational_eer(points))
        rocch = metrics.eer(scores, labels, method="rocch")
        assert rocch == pytest.approx(float(rational_rocch(points)), abs=1e-12)
        for prior in (Fraction(1, 100), Fraction(1, 20), Fraction(9, 10)):
            cost = min(prior * frr + (1 - prior) * far for far, frr in points)
            cost /= min(prior, 1 - prior)
            found = metrics.min_dcf(scores, labels, p_target=float(prior))
            assert found == pytest.approx(float(cost), rel=1e-13, abs=1e-15)


def test_speechbrain_eer_where_one_threshold_is_best():
    from speechbrain.utils.metric_stats import EER

    alone = 0
    for scores, labels in cases(120, ties=False):
        target, nontarget = (torch.tensor(scores[x]) for x in (labels, ~labels))
        exact = [abs(a - b) for a, b in rational_points(scores, labels)]
        if exact.count(min(exact)) == 1:
            alone += 1
            theirs = EER(target, nontarget)[0]
            assert metrics.eer(scores, labels) == pytest.approx(theirs, abs=1e-7)
    assert alone > 60


@pytest.mark.parametrize("p_target", [0.01, 0.05, 0.5])
def test_speechbrain_min_dcf(p_target):
    from speechbrain.utils.metric_stats import minDCF

    for scores, labels in cases(40, ties=False):
        target, nontarget = (torch.tensor(scores[x]) for x in (labels, ~labels))
        theirs = minDCF(target, nontarget, p_target=p_target)[0]
        theirs /= min(p_target, 1 - p_target)
        # SpeechBrain never tries to accept everything, which costs 1.
        found = metrics.min_dcf(scores, labels, p_target=p_target)
        assert found == pytest.approx(min(1.0, theirs), abs=1e-6)


@pytest.mark.parametrize("ties", [True, False])
def test_scikit_learn_det_curve(ties):
    from sklearn.metrics import det_curve

    for scores, labels in cases(60, ties):
        fpr, fnr, thresholds = det_curve(labels, scores)
        far, frr, _ = metrics.det_curve(scores, labels)
        # They accept at the threshold, we above it: theirs is ours one score lower.
        at = np.searchsorted(np.unique(scores), thresholds)
        np.testing.assert_allclose(far[at], fpr, atol=1e-12)
        np.testing.assert_allclose(frr[at], fnr, atol=1e-12)


def test_scikit_learn_isotonic_gives_the_same_min_cllr():
    from sklearn.isotonic import IsotonicRegression

    for scores, labels in cases(40, ties=True):
        scores = scores.astype(np.float64)
        posterior = IsotonicRegression().fit_transform(scores, labels.astype(float))
        with np.errstate(divide="ignore"):
            llr = np.log(posterior) - np.log1p(-posterior)
        llr -= np.log(labels.mean() / (1 - labels.mean()))
        one = np.logaddexp(0, -llr[labels]).mean()
        two = np.logaddexp(0, llr[~labels]).mean()
        expected = (one + two) / 2 / np.log(2)
        assert metrics.min_cllr(scores, labels) == pytest.approx(expected, abs=1e-9)


def test_all_scores_equal_is_a_coin():
    scores, labels = np.zeros(10), np.arange(10) < 3
    for method in ("mean", "rocch"):
        assert metrics.eer(scores, labels, method=method) == 0.5
    assert metrics.min_dcf(scores, labels) == 1.0
    assert metrics.min_cllr(scores, labels) == pytest.approx(1.0)


def test_equally_near_thresholds_are_averaged():
    # FAR, FRR: (1, 0), (1/2, 0), (1/2, 1), (0, 1): gaps 1/2 twice.
    scores, labels = [1.0, 2.0, 3.0], [0, 1, 0]
    assert metrics.eer(scores, labels) == 0.5
    assert metrics.eer([-s for s in scores], [1 - x for x in labels]) == 0.5


def test_tensors_lists_and_half_precision():
    scores, labels = [0.5, 0.25, 0.75, 0.0], [1, 0, 1, 0]
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        given = torch.tensor(scores, dtype=dtype, requires_grad=True)
        assert metrics.eer(given, torch.tensor(labels)) == 0.0
    assert metrics.eer(np.array(scores)[:, None], np.array(labels, bool)) == 0.0
    # float64 scores that float32 cannot tell apart.
    assert metrics.eer([1.0, 1.0 + 1e-12], [0, 1]) == 0.0


@pytest.mark.parametrize("given", ["float32", "float64", "float16", "int32", "int8"])
def test_scores_keep_their_precision(given):
    points = metrics.OperatingPoints.of(np.array([2, 0, 1], given), [1, 0, 0])
    assert points.thresholds.dtype == (given if given == "float32" else "float64")
    assert points.thresholds.tolist() == [-np.inf, 0, 1, 2]


def test_input_is_left_alone():
    scores, labels = np.array([3.0, 1.0, 2.0]), np.array([1, 0, 0])
    metrics.summary(scores, labels)
    assert scores.tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "scores, labels, told",
    [
        ([0.1, np.nan, np.inf, 0.2], [1, 0, 1, 0], "2 of 4 .* 1, 2, from 0"),
        ([0.1, -np.inf], [1, 0], "1 of 2"),
        ([0.1, 0.2], [1, 1], "2 target and 0 non-target"),
        ([0.1, 0.2], [0, 0], "0 target and 2 non-target"),
        ([], [], "0 target and 0 non-target"),
        ([0.1, 0.2, 0.3], [1, 0], "3 scores but 2 labels"),
        ([0.1, 0.2], [1, 2], "found 2$"),
    ],
)
def test_broken_input_is_told(scores, labels, told):
    for function in (metrics.eer, metrics.min_dcf, metrics.cllr, metrics.det_curve):
        with pytest.raises(UserError, match=told):
            function(scores, labels)


def test_wrong_settings_are_told():
    scores, labels = [0.1, 0.2], [0, 1]
    with pytest.raises(UserError, match="Did you mean 'rocch'"):
        metrics.eer(scores, labels, method="roch")
    for p_target in (0.0, 1.0):
        with pytest.raises(UserError, match="p_target"):
            metrics.min_dcf(scores, labels, p_target=p_target)
    for costs in ({"c_fa": 0.0}, {"c_miss": 0.0}, {"c_miss": np.inf}):
        with pytest.raises(UserError, match="costs must be positive"):
            metrics.min_dcf(scores, labels, **costs)
    with pytest.raises(UserError, match="not both"):
        metrics.threshold_at(scores, labels, far=0.1, prior=0.1)
    with pytest.raises(UserError, match="between 0 and 1"):
        metrics.threshold_at(scores, labels, far=1.5)


def test_thresholds_give_what_they_promise():
    for scores, labels in cases(60, ties=True):
        scores = scores.astype(np.float64)
        target, nontarget = scores[labels], scores[~labels]
        for far in (0.0, 0.05, 0.3, 1.0):
            cut = metrics.threshold_at(scores, labels, far=far)
            assert (nontarget > cut).mean() <= far + 1e-12
            lower = np.append(-np.inf, np.unique(scores))
            lower = lower[lower < cut]
            if len(lower) > 1:  # the next lower cut breaks the promise
                assert (nontarget > lower[-2]).mean() > far
        cut = metrics.threshold_at(scores, labels, prior=0.05)
        cost = 0.05 * (target <= cut).mean() + 0.95 * (nontarget > cut).mean()
        expected = metrics.min_dcf(scores, labels, p_target=0.05)
        assert cost / 0.05 == pytest.approx(expected)
        cut = metrics.threshold_at(scores, labels)
        gap = abs((nontarget > cut).mean() - (target <= cut).mean())
        assert gap == pytest.approx(
            float(min(abs(a - b) for a, b in rational_points(scores, labels)))
        )


def test_thresholds_between_neighbouring_floats_and_at_the_ends():
    low, high = 1.0, float(np.nextafter(1.0, 2.0))
    points = metrics.OperatingPoints.of([high, low], [1, 0])
    assert points.cut(1) == low and points.cut(2) == high
    assert points.cut(0) < low and points.cut(0) == np.nextafter(low, 0)
    # Here the middle is rounded up, to the next score.
    points = metrics.OperatingPoints.of([np.nextafter(high, 2), high], [1, 0])
    assert points.cut(1) == high
    assert metrics.threshold_at([3.0, 1.0, 2.0], [1, 0, 0], far=1) == np.nextafter(1, 0)
    assert metrics.threshold_at([3.0, 1.0, 2.0], [1, 0, 0], far=0) == 2.5


def test_calibrated_scores():
    rng = np.random.default_rng(0)
    labels = rng.random(20_000) < 0.5
    # Two normal distributions, 4 apart, variance 4: the score is its own LLR.
    scores = rng.standard_normal(20_000) * 2 + np.where(labels, 2, -2)
    assert metrics.cllr(scores, labels) == pytest.approx(
        metrics.min_cllr(scores, labels), abs=0.01
    )
    for p_target in (0.05, 0.5):
        actual = metrics.act_dcf(scores, labels, p_target=p_target)
        least = metrics.min_dcf(scores, labels, p_target=p_target)
        assert least <= actual < least + 0.03
        shifted = metrics.act_dcf(scores + 4, labels, p_target=p_target)
        assert shifted > actual + 0.1
    found = metrics.summary(scores, labels, calibrated=True)
    assert found["cllr"] >= found["min_cllr"]
    assert found["act_dcf(p_target=0.01)"] >= found["min_dcf(p_target=0.01)"]


def test_actual_cost_by_hand():
    """At p = 0.5 the threshold is 0: one of two non-targets is above it."""
    scores, labels = [2.0, 0.5, -1.0, 0.2], [1, 1, 0, 0]
    assert metrics.act_dcf(scores, labels, p_target=0.5) == 0.5
    assert metrics.act_dcf([2.0, 0.5, -1.0, -0.2], labels, p_target=0.5) == 0.0
    # log(fa / miss) = log 99 is above all scores: every target is missed
    assert metrics.act_dcf(scores, labels, p_target=0.01) == 1.0


def test_defaults_are_the_usual_costs():
    scores, labels = [0.9, 0.2, 0.8, 0.1], [1, 1, 0, 0]
    points = metrics.OperatingPoints.of(scores, labels)
    for name in ("min_dcf", "act_dcf"):
        cost = getattr(metrics, name)
        expected = cost(scores, labels, p_target=0.01, c_miss=1.0, c_fa=1.0)
        assert cost(scores, labels) == expected
    for name in ("min_dcf", "act_dcf", "min_dcf_threshold"):
        for p in (0.01, 0.3, 0.5, 0.7):
            method = getattr(points, name)
            assert method(p) == method(p, 1.0, 1.0)


def test_messages_name_a_few_of_many():
    scores = [float("nan")] * 27 + [0.1]
    with pytest.raises(UserError, match=r"index 0, 1, .* 19, \.\.\. \(and 7 more\), "):
        metrics.eer(scores, [0, 1] * 14)
    with pytest.raises(UserError, match="found 2, 3, 4, 5$"):
        metrics.eer([0.1] * 6, [0, 1, 2, 3, 4, 5])


def test_results_cannot_be_changed():
    points = metrics.OperatingPoints.of([1.0, 0.0], [1, 0])
    one = (points, metrics.EER, Interval(0, 0, 0), Difference(0, 0, 0, 1))
    for value in (*one, Calibration(0.0, (1.0,))):
        with pytest.raises(FrozenInstanceError):
            setattr(value, fields(value)[0].name, None)


def test_defaults_of_reports():
    assert metrics.P_TARGETS == (0.01, 0.05)
    assert (REPLICATES, CONFIDENCE) == (1000, 0.95)


def test_a_share_of_false_alarms_is_counted_exactly():
    """0.29 * 100 is 28.999999999999996 in floats: 29 of 100 are allowed."""
    scores, labels = np.arange(101.0), np.arange(101) == 100
    for share in (0.07, 0.14, 0.28, 0.29, 0.55, 0.57, 0.58):
        cut = metrics.threshold_at(scores, labels, far=share)
        assert (scores[:-1] > cut).sum() == round(100 * share)
    assert (scores[:-1] > metrics.threshold_at(scores, labels, far=0.2899)).sum() == 28
