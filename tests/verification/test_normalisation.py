"""z-, t-, s- and AS-norm equal the recipe's loops, on every kind of device."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from random_trials import RNG, loop, pairs, some
from torch.nn.functional import normalize

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity
from sb_margins.verification import normalisation
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.normalisation import (
    Normaliser,
    draw_cohort,
    speaker_means,
    top_statistics,
)
from sb_margins.verification.scoring import score_trials


def speechbrain_loop(method, embeddings, trials, cohort, top, mean=0.0):
    """The recipe's formulas, per trial."""
    similarity = torch.nn.CosineSimilarity(dim=-1, eps=1e-6)
    many = torch.from_numpy(cohort - mean)
    rows = torch.from_numpy(embeddings.matrix - mean)
    scores = []
    for a, b in zip(
        embeddings.rows(trials.enrol), embeddings.rows(trials.test), strict=True
    ):
        score, parts = similarity(rows[a], rows[b]), {}
        for side, row in (("z", rows[a]), ("t", rows[b])):
            against = similarity(row[None], many)
            against = torch.topk(against, k=top).values
            parts[side] = (score - against.mean()) / against.std()
        parts["s"] = parts["as"] = 0.5 * (parts["z"] + parts["t"])
        scores.append(float(parts[method]))
    return np.array(scores)


@pytest.mark.parametrize("method", ["z", "t", "s", "as"])
def test_normalisation_equals_the_recipe(method, device):
    embeddings, cohort = some(), some(40).matrix
    trials = pairs(embeddings, 50)
    top = 7 if method == "as" else 40
    found = score_trials(
        embeddings, trials, normaliser=Normaliser(method, cohort, 7), device=device
    )
    expected = speechbrain_loop(method, embeddings, trials, cohort, top)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    mean = cohort.mean(axis=0)
    found = score_trials(
        embeddings, trials, normaliser=Normaliser(method, cohort, 7), mean=mean
    )
    expected = speechbrain_loop(method, embeddings, trials, cohort, top, mean)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_statistics_are_made_once_per_utterance(monkeypatch):
    embeddings, normaliser = some(), Normaliser("as", some(40).matrix, 7)
    trials = pairs(embeddings, 400)
    first = score_trials(embeddings, trials, normaliser=normaliser)
    monkeypatch.setattr(normalisation, "top_statistics", None)  # not needed again
    again = score_trials(embeddings, trials, normaliser=normaliser)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("top_k", [2, 7, 19, 20])
def test_top_statistics_on_a_cpu_and_on_an_accelerator(branch, top_k):
    scores = torch.from_numpy(RNG.standard_normal((6, 20)))
    means, stds = top_statistics(scores, top_k)
    top = np.sort(scores.numpy(), axis=1)[:, 20 - top_k :]
    np.testing.assert_allclose(means, top.mean(axis=1))
    np.testing.assert_allclose(stds, top.std(axis=1, ddof=1))


def test_cohort_means_are_those_of_the_top(monkeypatch):
    embeddings, cohort = some(), some(40).matrix
    monkeypatch.setattr(normalisation, "CELLS", 3 * 40)  # several blocks
    normaliser = Normaliser("as", cohort, 7)
    score_trials(embeddings, pairs(embeddings, 400), normaliser=normaliser)
    rows = [normalize(torch.from_numpy(m), dim=-1) for m in (embeddings.matrix, cohort)]
    expected = (rows[0] @ rows[1].T).topk(7).values.mean(1).numpy()
    found = normaliser.cohort_means(["u3", "u0"])
    np.testing.assert_allclose(found, expected[[3, 0]], rtol=1e-5)


@pytest.mark.parametrize("method", ["z", "t", "s", "as"])
def test_new_utterances_are_learned_beside_known_ones(method):
    """A second list, half of whose utterances were in the first."""
    embeddings, cohort = some(), some(40).matrix
    normaliser = Normaliser(method, cohort, 7)
    score_trials(embeddings, Trials(["u0"], ["u1"]), normaliser=normaliser)
    trials = Trials(["u1", "u2", "u0"], ["u0", "u1", "u3"])
    found = score_trials(embeddings, trials, normaliser=normaliser)
    fresh = score_trials(embeddings, trials, normaliser=Normaliser(method, cohort, 7))
    np.testing.assert_allclose(found, fresh, rtol=1e-5)


@pytest.mark.parametrize("spread, flat", [(1e-8, True), (1e-3, False)])
def test_flat_cohorts_are_refused_and_narrow_ones_are_not(spread, flat):
    def scores(a, b):  # the first number of a row, times the first of a cohort's
        return a[..., 0] * b[..., 0]

    embeddings = Embeddings(["a", "b"], np.ones((2, 2), np.float32))
    cohort = np.array([[0, 1], [spread, 1]], np.float32)
    run = lambda: score_trials(  # noqa: E731
        embeddings, Trials(["a"], ["b"]), scores, normaliser=Normaliser("z", cohort)
    )
    if flat:
        with pytest.raises(UserError, match="alike for a: the cohort"):
            run()
    else:
        assert np.isfinite(run()).all()


def test_speaker_means_are_centres():
    embeddings = some(10)
    embeddings.matrix *= 0.3
    speakers = {name: f"s{i % 3}" for i, name in enumerate(embeddings.ids)}
    for similarity in (CosineSimilarity(), PoincareSimilarity(3.0)):
        found = speaker_means(embeddings, speakers, similarity)
        rows = torch.from_numpy(embeddings.matrix)
        expected = torch.stack([similarity.centre(rows[s::3]) for s in range(3)])
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert found.dtype == np.float32


def test_names_for_a_table():
    cohort = np.eye(50, 4, dtype=np.float32)
    assert Normaliser("as", cohort, 10).name == "as-norm (top 10 of 50)"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Normaliser("as", cohort, 50).top_k == 50
        assert Normaliser("z", cohort).top_k == 50  # whatever the default is
    assert Normaliser("as", cohort, 2).top_k == 2
    assert Normaliser("z", cohort, 1).name == "z-norm (cohort 50)"


def test_poincare_scores_are_normalised_too():
    embeddings, cohort = some(), some(40).matrix
    trials = pairs(embeddings, 20)
    similarity = PoincareSimilarity(curvature=3.0)
    found = score_trials(
        embeddings, trials, similarity, normaliser=Normaliser("z", cohort)
    )
    rows = torch.from_numpy(embeddings.matrix)
    against = similarity.matrix(rows, torch.from_numpy(cohort))
    at = embeddings.rows(trials.enrol)
    expected = loop(similarity, embeddings, trials) - against.mean(1)[at].numpy()
    expected /= against.std(1)[at].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_cohorts():
    cohort = some(10)
    with pytest.warns(UserWarning, match="top_k=400, but the cohort has 10"):
        assert Normaliser("as", cohort.matrix).top_k == 10
    speakers = {name: str(i % 5) for i, name in enumerate(cohort.ids)}
    means = speaker_means(cohort, speakers, lambda a, b: (a * b).sum(-1))
    np.testing.assert_allclose(means[1], cohort.matrix[[1, 6]].mean(0), rtol=1e-5)
    with pytest.raises(UserError, match="no score normalisation 'ass'"):
        Normaliser("ass", cohort.matrix)
    with pytest.raises(UserError, match="needs two embeddings"):
        Normaliser("z", cohort.matrix[:1])
    with pytest.raises(UserError, match="top_k"):
        Normaliser("as", cohort.matrix, 1)
    with pytest.raises(UserError, match="NaN"):
        Normaliser("z", np.full((3, 8), np.nan))
    with pytest.raises(UserError, match="no speaker is known for 10"):
        speaker_means(cohort, {})
    embeddings = some()
    with pytest.raises(UserError, match="4 dimensions, the embeddings 8"):
        score_trials(
            embeddings, pairs(embeddings), normaliser=Normaliser("z", some(5, 4).matrix)
        )
    with pytest.raises(UserError, match="all cohort scores are alike"):
        score_trials(
            embeddings,
            pairs(embeddings),
            normaliser=Normaliser("z", np.ones((5, 8), np.float32)),
        )


def test_a_cohort_is_drawn_without_replacement():
    for count, wanted in ((10, 0), (10, 10), (10, 11), (10, -1)):
        assert draw_cohort(count, wanted, 1).tolist() == list(range(count))
    for wanted in (1, 9, 60):
        rows = draw_cohort(61, wanted, 3)
        assert len(rows) == wanted == len(set(rows.tolist()))
        assert (np.diff(rows) > 0).all() and 0 <= rows[0] and rows[-1] < 61
        np.testing.assert_array_equal(rows, draw_cohort(61, wanted, 3))
    assert (draw_cohort(61, 9, 3) != draw_cohort(61, 9, 4)).any()
