"""A scorer: names, units, quality measures, and scores as log-likelihood ratios."""

from __future__ import annotations

import numpy as np
import pytest
from random_trials import pairs, some

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity
from sb_margins.verification.calibration import Calibration
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.normalisation import Normaliser
from sb_margins.verification.plda import PLDASimilarity
from sb_margins.verification.scorer import Scorer
from sb_margins.verification.scoring import score_trials


def test_names_and_units():
    embeddings, mean = some(4), np.zeros(8)
    plda = PLDASimilarity(np.zeros(2), np.eye(2), np.eye(2))
    cohort = np.eye(5, 8)
    for similarity, name, unit in (
        (CosineSimilarity(), "cosine", "cosine"),
        (PoincareSimilarity(3.0), "poincare", "negative Poincaré distance"),
        (plda, "PLDA", "PLDA score (log-likelihood ratio, nats)"),
    ):
        scorer = Scorer(embeddings, similarity)
        assert (scorer.name, scorer.unit(False)) == (name, unit)
        assert scorer.unit(True) == "log-likelihood ratio (nats)"
        assert scorer.normalisation == "none"
        scorer = Scorer(embeddings, similarity, "cpu", mean, Normaliser("s", cohort))
        assert scorer.name == f"{name}, mean subtracted"
        assert scorer.normalisation == "s-norm (cohort 5)"
        assert scorer.unit(False).startswith("s-norm score")


def test_measures_are_of_both_sides():
    matrix = np.array([[3, 4], [0.6, 0.8], [6, 8], [0, 0]], np.float32)
    seconds = {"a": 1.0, "b": np.e, "c": 2.0, "zero": 0.0}
    embeddings = Embeddings(list(seconds), matrix, seconds=seconds)
    scorer = Scorer(embeddings, CosineSimilarity())
    trials = Trials(["a", "m", "zero"], ["b", "a", "zero"], None, {"m": ("a", "c")})
    both = scorer.quality(trials, ["magnitude", "duration"])
    logs = np.log([1, 1, 1e-3]), np.log([np.e, 3, 1e-3])
    np.testing.assert_allclose(both["log seconds, smaller"], logs[0], atol=1e-6)
    np.testing.assert_allclose(both["log seconds, larger"], logs[1], atol=1e-6)
    # The model is the mean direction of a and c: of length 1.
    logs = np.log([1, 1, 1e-12]), np.log([5, 5, 1e-12])
    np.testing.assert_allclose(both["log magnitude, smaller"], logs[0], atol=1e-6)
    np.testing.assert_allclose(both["log magnitude, larger"], logs[1], atol=1e-6)
    one = Trials(["a"], ["b"])
    swapped = scorer.quality(Trials(["b"], ["a"]), ["magnitude", "duration"])
    assert swapped == scorer.quality(one, ["duration", "magnitude"])
    assert list(scorer.quality(one, ["duration"])) == [
        *("log seconds, smaller", "log seconds, larger")
    ]
    assert scorer.quality(one, []) == {}
    with pytest.raises(UserError, match="cohort needs a normalisation"):
        scorer.quality(one, ["cohort"])
    with pytest.raises(UserError, match="no duration is known for 2"):
        Scorer(some(4), CosineSimilarity()).quality(
            Trials(["u0"], ["u1"]), ["duration"]
        )


def test_cohort_means_are_measures_of_what_was_scored():
    embeddings, cohort = some(), some(40).matrix
    normaliser = Normaliser("as", cohort, 7)
    scorer = Scorer(embeddings, CosineSimilarity(), normaliser=normaliser)
    trials = pairs(embeddings, 50)
    scorer.score(trials)
    found = scorer.quality(trials, ["cohort"])
    sides = (normaliser.cohort_means(side) for side in (trials.enrol, trials.test))
    one, two = sides
    np.testing.assert_array_equal(found["cohort mean, smaller"], np.minimum(one, two))
    np.testing.assert_array_equal(found["cohort mean, larger"], np.maximum(one, two))


def test_scores_are_calibrated_on_one_of_the_lists():
    embeddings = some()
    scorer = Scorer(embeddings, CosineSimilarity())
    lists = {name: pairs(embeddings, 200) for name in ("dev", "test")}
    scores = {name: scorer.score(trials) for name, trials in lists.items()}
    for name, trials in lists.items():
        expected = score_trials(embeddings, trials)
        np.testing.assert_array_equal(scores[name], expected)
    noise = np.random.default_rng(0).standard_normal(len(lists["dev"]))
    lists["dev"].labels = (scores["dev"] + 0.3 * noise > 0.1).astype(int)
    for p_target in (0.05, 0.2):
        calibration, llrs = scorer.calibrate(
            lists, scores, "dev", ["magnitude"], p_target
        )
        quality = {name: scorer.quality(t, ["magnitude"]) for name, t in lists.items()}
        expected = Calibration.fit(
            scores["dev"], lists["dev"].labels, quality["dev"], p_target=p_target
        )
        assert calibration == expected and len(calibration.measures) == 2
        for name in lists:
            applied = expected.apply(scores[name], quality[name])
            np.testing.assert_array_equal(llrs[name], applied)
    plain = scorer.calibrate(lists, scores, "dev")[0]
    assert plain == Calibration.fit(scores["dev"], lists["dev"].labels)
