"""What must hold for any scores: order, monotone maps, swapping, bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sb_margins.verification import metrics

METHODS = ("mean", "rocch")


@st.composite
def trials(draw):
    """Scores on a coarse grid (many ties) and labels of both classes."""
    size = draw(st.integers(2, 40))
    grid = draw(st.integers(1, 50))
    scores = draw(st.lists(st.integers(0, grid), min_size=size, max_size=size))
    labels = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    labels[0], labels[1] = True, False
    return np.array(scores, np.float64), np.array(labels)


@settings(max_examples=80, deadline=None)
@given(trials(), st.randoms(use_true_random=False))
def test_order_does_not_matter(data, random):
    scores, labels = data
    order = list(range(len(scores)))
    random.shuffle(order)
    for method in METHODS:
        assert metrics.eer(scores, labels, method) == metrics.eer(
            scores[order], labels[order], method
        )
    assert metrics.min_dcf(scores, labels) == metrics.min_dcf(
        scores[order], labels[order]
    )
    assert metrics.min_cllr(scores, labels) == metrics.min_cllr(
        scores[order], labels[order]
    )


@settings(max_examples=80, deadline=None)
@given(trials())
def test_monotone_maps_change_nothing(data):
    scores, labels = data
    before = metrics.summary(scores, labels)
    after = metrics.summary(np.exp(scores / 10) - 7, labels)
    for name in before:
        if name != "eer_threshold":
            assert before[name] == after[name]


@settings(max_examples=80, deadline=None)
@given(trials())
def test_swapping_the_classes_changes_nothing(data):
    scores, labels = data
    for method in METHODS:
        assert metrics.eer(scores, labels, method) == pytest.approx(
            metrics.eer(-scores, ~labels, method), abs=1e-12
        )
    for p_target in (0.01, 0.3):
        assert metrics.min_dcf(scores, labels, p_target=p_target) == pytest.approx(
            metrics.min_dcf(-scores, ~labels, p_target=1 - p_target), abs=1e-12
        )
    assert metrics.min_cllr(scores, labels) == pytest.approx(
        metrics.min_cllr(-scores, ~labels), abs=1e-9
    )
    assert metrics.cllr(scores, labels) == pytest.approx(
        metrics.cllr(-scores, ~labels), abs=1e-12
    )


@settings(max_examples=80, deadline=None)
@given(trials(), st.floats(0.001, 0.999))
def test_bounds(data, p_target):
    scores, labels = data
    eer = metrics.eer(scores, labels)
    rocch = metrics.eer(scores, labels, "rocch")
    assert 0 <= eer <= 1
    assert 0 <= rocch <= 0.5  # mixing in blind decisions reaches a half
    assert 0 <= metrics.min_dcf(scores, labels, p_target=p_target) <= 1
    assert (
        metrics.act_dcf(scores, labels, p_target=p_target)
        >= metrics.min_dcf(scores, labels, p_target=p_target) - 1e-12
    )
    lowest = metrics.min_cllr(scores, labels)
    assert 0 <= lowest <= 1 + 1e-12
    assert metrics.cllr(scores, labels) >= lowest - 1e-12
    far, frr, thresholds = metrics.det_curve(scores, labels)
    assert (np.diff(far) <= 0).all() and (np.diff(frr) >= 0).all()
    assert (np.diff(thresholds) > 0).all()
    assert (far[0], frr[0], far[-1], frr[-1]) == (1, 0, 0, 1)


@settings(max_examples=80, deadline=None)
@given(trials(), st.integers(2, 4))
def test_copies_of_all_trials_change_nothing(data, times):
    scores, labels = data
    once = metrics.summary(scores, labels)
    often = metrics.summary(np.tile(scores, times), np.tile(labels, times))
    for name in ("eer", "eer_rocch", "min_dcf(p_target=0.01)", "min_cllr"):
        assert once[name] == pytest.approx(often[name], abs=1e-12)
