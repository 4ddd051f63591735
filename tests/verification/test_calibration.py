"""Calibration: right for what is already right, better for what is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sb_margins.errors import UserError
from sb_margins.verification import metrics
from sb_margins.verification.calibration import Calibration


def llrs(seed: int, count: int = 20_000):
    """Scores that are their own log-likelihood ratios."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.3
    return rng.standard_normal(count) * 2 + np.where(labels, 2, -2), labels


@pytest.mark.parametrize("p_target", [0.01, 0.5])
def test_an_affine_map_is_undone(p_target):
    scores, labels = llrs(0)
    fitted = Calibration.fit(0.05 * scores + 0.3, labels, p_target=p_target)
    test, test_labels = llrs(1)
    found = fitted.apply(0.05 * test + 0.3)
    assert np.abs(found - test).mean() < 0.2
    assert metrics.cllr(found, test_labels) < 1.02 * metrics.min_cllr(test, test_labels)
    assert metrics.cllr(0.05 * test + 0.3, test_labels) > 0.8  # before


def test_quality_measures_help_when_short_trials_are_noisier():
    rng = np.random.default_rng(0)

    def make(count):
        labels = rng.random(count) < 0.5
        short = rng.random(count) < 0.5
        scores = np.where(labels, 1.0, -1.0) - 2.0 * short  # short scores are low
        return scores + rng.standard_normal(count), labels, {"short": short * 1.0}

    scores, labels, quality = make(5000)
    plain = Calibration.fit(scores, labels)
    told = Calibration.fit(scores, labels, quality)
    scores, labels, quality = make(5000)
    assert metrics.cllr(told.apply(scores, quality), labels) < 0.85 * metrics.cllr(
        plain.apply(scores), labels
    )


def weighted_cross_entropy(fitted, scores, labels, quality, p_target):
    """What a calibration at a prior minimises, up to its ridge."""
    logit = fitted.apply(scores, quality) + np.log(p_target / (1 - p_target))
    miss = np.logaddexp(0, -logit[labels]).mean()
    return p_target * miss + (1 - p_target) * np.logaddexp(0, logit[~labels]).mean()


@pytest.mark.parametrize("p_target", [0.01, 0.3])
def test_no_other_map_is_better_at_the_prior(p_target):
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < 0.3
    scores = rng.standard_normal(4000) + np.where(labels, 1.5, -0.5)
    scores[labels] += rng.exponential(1, labels.sum())  # so that the prior matters
    quality = {"noise": rng.standard_normal(4000), "constant": np.full(4000, 7.0)}
    fitted = Calibration.fit(scores, labels, quality, p_target=p_target)
    assert fitted.p_target == p_target and fitted.measures == ("noise", "constant")
    assert fitted.weights[2] == 0
    given = scores, labels, quality, p_target
    least = weighted_cross_entropy(fitted, *given)
    for step in (-0.02, 0.02):
        more_bias = replace(fitted, bias=fitted.bias + step)
        assert weighted_cross_entropy(more_bias, *given) > least
        for k in range(2):
            weights = np.array(fitted.weights)
            weights[k] += step
            assert (
                weighted_cross_entropy(replace(fitted, weights=tuple(weights)), *given)
                > least
            )


@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_the_scale_of_scores_does_not_matter(scale):
    scores, labels = llrs(2, 3000)
    one, other = (
        Calibration.fit(scores, labels),
        Calibration.fit(scale * scores, labels),
    )
    assert other.bias == pytest.approx(one.bias, abs=1e-4)
    assert other.weights[0] * scale == pytest.approx(one.weights[0], rel=1e-4)


def test_the_map_is_that_of_a_plain_regression():
    """Against scikit-learn's own weighting of classes, on the scores as they are."""
    from sklearn.linear_model import LogisticRegression

    scores, labels = llrs(5, 2000)
    for p in (0.05, 0.4):
        weight = {True: p / labels.sum(), False: (1 - p) / (~labels).sum()}
        weight = {label: len(labels) * share for label, share in weight.items()}
        plain = LogisticRegression(C=1e9, class_weight=weight, tol=1e-10)
        plain.fit(scores[:, None], labels)
        fitted = Calibration.fit(scores, labels, p_target=p)
        assert fitted.weights[0] == pytest.approx(plain.coef_[0, 0], rel=1e-3)
        expected = plain.intercept_[0] - np.log(p / (1 - p))
        assert fitted.bias == pytest.approx(expected, abs=2e-3)


def test_the_prior_is_5_percent_unless_given():
    scores, labels = llrs(4, 300)
    fitted = Calibration.fit(scores, labels)
    assert fitted == Calibration.fit(scores, labels, p_target=0.05)
    assert fitted != Calibration.fit(scores, labels, p_target=0.06)


def test_tensors_of_any_precision():
    scores, labels = llrs(3, 300)
    given = torch.tensor(scores, dtype=torch.bfloat16), torch.tensor(labels)
    assert Calibration.fit(*given) == Calibration.fit(given[0].float().numpy(), labels)


def test_a_map_by_hand(tmp_path):
    fitted = Calibration(-1.0, (2.0, 0.5), ("m",), 0.1)
    quality = {"other": np.array([9.0, 9.0]), "m": np.array([2.0, 4.0])}
    assert fitted.apply([0.5, 1.0], quality).tolist() == [1.0, 3.0]
    with pytest.raises(UserError, match="needs quality measures: m$"):
        fitted.apply([0.5, 1.0])


def test_separable_trials_stay_finite():
    fitted = Calibration.fit([5.0, 4.0, 1.0, 0.0], [1, 1, 0, 0])
    assert np.isfinite(fitted.apply([5.0, 0.0])).all()
    assert fitted.apply([5.0])[0] > 0 > fitted.apply([0.0])[0]


def test_files(tmp_path):
    fitted = Calibration.fit([3, 2, 1, 2, 1, 0], [1, 1, 1, 0, 0, 0])
    fitted.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == fitted
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(UserError, match="cannot read a calibration"):
        Calibration.load(tmp_path / "c.json")


def test_wrong_input_is_told():
    scores, labels = llrs(0, 100)
    with pytest.raises(UserError, match="larger scores mean different speakers"):
        Calibration.fit(-scores, labels)
    with pytest.raises(UserError, match="larger scores mean different speakers"):
        Calibration.fit(np.ones(100), labels)
    with pytest.raises(UserError, match="p_target"):
        Calibration.fit(scores, labels, p_target=0)
    with pytest.raises(UserError, match="NaN"):
        Calibration.fit(scores, labels, {"a": np.full(100, np.nan)})
    with pytest.raises(UserError, match="non-target"):
        Calibration.fit(scores, np.ones(100))
