"""Thresholds and calibration that a model folder carries."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from sb_margins.errors import UserError
from sb_margins.inference import calibrate_llr, calibrate_thresholds
from sb_margins.inference.thresholds import (
    Threshold,
    checked_calibration,
    checked_thresholds,
    choose,
    describe,
)


def test_thresholds_do_what_they_say():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(1, 1, 3000), rng.normal(-1, 1, 30000)])
    labels = np.repeat([1, 0], [3000, 30000])
    found = calibrate_thresholds(scores, labels, "made up")
    assert abs(found["eer"].far - found["eer"].miss) < 0.002
    assert 0.009 < found["far1"].far <= 0.01
    assert 0.0009 < found["far0.1"].far <= 0.001
    assert found["eer"].value < found["far1"].value < found["far0.1"].value
    assert found["far1"].miss == pytest.approx(
        (scores[:3000] <= found["far1"].value).mean()
    )
    assert found["eer"].data == "made up (3000 target, 30000 non-target)"


def test_few_trials_are_told():
    found = calibrate_thresholds([2, 1, 0, -1], [1, 1, 0, 0], "toy")
    assert "too few non-target trials" in found["far1"].data
    assert "too few" not in found["eer"].data


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        ([1, 2], [1, 1], "target and non-target"),
        ([1, 2], [0, 0], "target and non-target"),
        ([1], [1, 0], "1 scores but 2 labels"),
        ([float("nan"), 1], [1, 0], "NaN or infinite"),
    ],
)
def test_thresholds_need_sound_scores(scores, labels, message):
    with pytest.raises(UserError, match=message):
        calibrate_thresholds(scores, labels, "x")


def test_llr_is_calibrated():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(1, 1, 20000), rng.normal(-1, 1, 20000)])
    found = calibrate_llr(scores, np.repeat([1, 0], 20000), "made up")
    # For unit Gaussians at +-1 the log-likelihood ratio of x is 2 x.
    assert found["scale"] == pytest.approx(2, abs=0.1)
    assert found["offset"] == pytest.approx(0, abs=0.1)


def test_points_by_hand():
    scores, labels = np.arange(10), [0, 0, 0, 1, 0, 1, 0, 1, 1, 1]
    point = calibrate_thresholds(scores, labels, "x")["eer"]
    above, target = scores > point.value, np.array(labels, bool)
    assert point.far == above[~target].mean()
    assert point.miss == (~above)[target].mean()
    assert (point.far, point.miss) == (0.2, 0.2)
    assert asdict(point) == {
        "value": point.value,
        "far": 0.2,
        "miss": 0.2,
        "data": "x (5 target, 5 non-target)",
    }


def test_when_false_alarms_are_few():
    labels = np.repeat([1, 0], [10, 499])
    scores = np.linspace(1, 0, 509)
    assert "too few" in calibrate_thresholds(scores, labels, "x")["far1"].data
    labels = np.repeat([1, 0], [10, 500])
    points = calibrate_thresholds(np.linspace(1, 0, 510), labels, "x")
    assert "too few" not in points["far1"].data
    assert "place 0.1 % well" in points["far0.1"].data


def test_llr_refuses_scores_upside_down():
    with pytest.raises(UserError):
        calibrate_llr([0, 1, 2, 3, 4, 5], [1, 1, 1, 0, 0, 0], "x")


def test_choosing():
    points = {"eer": {"value": 1}, "far1": {"value": 2.5}}
    assert choose(points, None) == 1.0 and choose(points, "far1") == 2.5
    assert choose(points, 0.25) == choose({}, "0.25") == 0.25
    assert choose({"far1": {"value": 1}}, None) is None
    with pytest.raises(UserError, match="has: eer, far1.*Did you mean 'far1'"):
        choose(points, "far2")
    with pytest.raises(UserError, match="has: none"):
        choose({}, "eer")
    for odd in (float("inf"), "nan"):
        with pytest.raises(UserError, match="finite"):
            choose(points, odd)


def test_what_a_threshold_means():
    point = asdict(Threshold(1, 0.01, 0.2, "dev"))
    told = describe({"far1": point, "eer": {"value": 0}}, "far1")
    assert told == "far1: false alarms 1 %, misses 20 % on dev"
    assert describe({"eer": {"value": 0, "far": 0.5}}) == (
        "eer: false alarms 50 % on unknown data"
    )
    assert describe({"eer": point}, 0.3) == "given by you"


@pytest.mark.parametrize(
    "given",
    [
        1,
        [],
        {"eer": 1},
        {"eer": {}},
        {"eer": {"value": np.nan}},
        {"eer": {"value": 1, "data": np.nan}},
    ],
)
def test_odd_thresholds_are_refused(given):
    assert checked_thresholds(None) == {}
    assert checked_thresholds({"eer": {"value": 1}}) == {"eer": {"value": 1}}
    with pytest.raises(UserError, match="finite numbers"):
        checked_thresholds(given)


@pytest.mark.parametrize(
    "given", [1, {}, {"scale": 1.0}, {"scale": np.inf, "offset": 0}, {"offset": 1}]
)
def test_odd_calibrations_are_refused(given):
    assert checked_calibration(None) is None
    assert checked_calibration({"scale": 1, "offset": 0})["scale"] == 1
    with pytest.raises(UserError, match="finite scale and offset"):
        checked_calibration(given)


def test_a_target_on_the_threshold_is_missed():
    scores, labels = [0.5, 0.5, 0.5, 0.1, 0.1], [1, 1, 0, 0, 0]
    for threshold in calibrate_thresholds(scores, labels, "toy").values():
        accepted = np.array(scores) > threshold.value
        truth = np.array(labels) == 1
        assert threshold.miss == np.mean(~accepted[truth])
        assert threshold.far == np.mean(accepted[~truth])


@pytest.mark.parametrize("rate", [float("nan"), -0.1, 1.1, "x"])
@pytest.mark.parametrize("name", ["far", "miss"])
def test_error_rates_are_shares(name, rate):
    given = {"eer": {"value": 0.5, "far": 0.0, "miss": 1.0}}
    assert checked_thresholds(given) == given
    given["eer"][name] = rate
    with pytest.raises(UserError, match="between 0 and 1"):
        checked_thresholds(given)


def test_a_threshold_does_not_change():
    threshold = calibrate_thresholds([0.9, 0.1], [1, 0], "toy")["eer"]
    with pytest.raises(AttributeError):
        threshold.value = 0.0
