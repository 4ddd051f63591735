"""Scores equal those of plain loops, for every similarity, list and normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity
from sb_margins.verification import scoring
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.normalisation import Normaliser, speaker_means
from sb_margins.verification.plda import PLDASimilarity, train_plda
from sb_margins.verification.scoring import score_trials

RNG = np.random.default_rng(0)


def some(count: int = 60, size: int = 8) -> Embeddings:
    matrix = RNG.standard_normal((count, size)).astype(np.float32)
    return Embeddings([f"u{i}" for i in range(count)], matrix)


def pairs(embeddings: Embeddings, count: int = 300) -> Trials:
    at = RNG.integers(0, len(embeddings), (count, 2))
    at = at[at[:, 0] != at[:, 1]]  # near 0, a distance from a product is coarse
    names = embeddings.ids
    return Trials([names[a] for a, _ in at], [names[b] for _, b in at])


def loop(similarity, embeddings, trials):
    rows = torch.from_numpy(embeddings.matrix)
    sides = (embeddings.rows(side) for side in (trials.enrol, trials.test))
    return np.array(
        [float(similarity(rows[a], rows[b])) for a, b in zip(*sides, strict=True)]
    )


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    "similarity",
    [
        None,
        CosineSimilarity(),
        PoincareSimilarity(curvature=3.0),
        torch.nn.CosineSimilarity(dim=-1),
        lambda a, b: -(a - b).square().sum(-1),  # no matrix: broadcasts
    ],
)
def test_block_products_equal_the_loop(monkeypatch, similarity, dense, device):
    monkeypatch.setattr(scoring, "DENSE", 0.0 if dense else 2.0)
    monkeypatch.setattr(scoring, "CHUNK", 64)
    monkeypatch.setattr(scoring, "CELLS", 500)
    embeddings = some()
    trials = pairs(embeddings)
    found = score_trials(embeddings, trials, similarity, device=device)
    expected = loop(similarity or torch.nn.CosineSimilarity(-1), embeddings, trials)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert found.dtype == np.float32


def test_models_are_means_of_their_utterances():
    embeddings = Embeddings(
        ["a", "b", "t"], np.array([[2, 0], [0, 1], [1, 0]], np.float32)
    )
    # A model may be called as an utterance is; the test side is the utterance.
    trials = Trials(["t", "a"], ["t", "t"], None, {"t": ("a", "b")})
    found = score_trials(embeddings, trials)
    np.testing.assert_allclose(found, [np.sqrt(0.5), 1.0], rtol=1e-6)
    plain = score_trials(embeddings, trials, lambda a, b: (a * b).sum(-1))
    np.testing.assert_allclose(plain, [1.0, 2.0])


def test_mean_subtraction():
    embeddings = some()
    trials = pairs(embeddings)
    mean = embeddings.matrix.mean(axis=0)
    moved = Embeddings(embeddings.ids, embeddings.matrix - mean)
    before = embeddings.matrix.copy()
    np.testing.assert_allclose(
        score_trials(embeddings, trials, mean=mean),
        score_trials(moved, trials),
        atol=1e-6,
    )
    np.testing.assert_array_equal(embeddings.matrix, before)


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
    assert len(normaliser._known) == len(set(trials.enrol) | set(trials.test))
    monkeypatch.setattr(normaliser, "_statistics", None)  # not needed again
    again = score_trials(embeddings, trials, normaliser=normaliser)
    np.testing.assert_array_equal(first, again)


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
    means = speaker_means(cohort, speakers, unit=False)
    np.testing.assert_allclose(means[1], cohort.matrix[[1, 6]].mean(0), rtol=1e-5)
    with pytest.raises(UserError, match="no score normalisation 'ass'"):
        Normaliser("ass", cohort.matrix)
    with pytest.raises(UserError, match="at least two"):
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


def test_wrong_input_is_told():
    embeddings = some()
    with pytest.raises(UserError, match="2 of 3 utterances .*: x, y"):
        score_trials(embeddings, Trials(["u1", "x"], ["u1", "y"]))
    with pytest.raises(UserError, match="1 of 2 utterances .*: x"):
        score_trials(embeddings, Trials(["m"], ["u1"], None, {"m": ("x",)}))
    with pytest.raises(UserError, match="callable"):
        score_trials(embeddings, pairs(embeddings), "cosine")
    with pytest.raises(UserError, match="NaN or infinite, the first for"):
        score_trials(embeddings, pairs(embeddings), lambda a, b: (a * b).sum(-1) / 0)
    with pytest.raises(UserError, match="twice"):
        Embeddings(["a", "a"], np.ones((2, 2), np.float32))
    with pytest.raises(UserError, match="expected"):
        Embeddings(["a"], np.ones((2, 2), np.float32))


def test_embedding_files(tmp_path):
    embeddings = some(5)
    embeddings.save(tmp_path / "e.npz")
    first = (tmp_path / "e.npz").read_bytes()
    again = Embeddings.load(tmp_path / "e.npz")
    assert again.ids == embeddings.ids
    np.testing.assert_array_equal(again.matrix, embeddings.matrix)
    again.save(tmp_path / "e.npz")
    assert (tmp_path / "e.npz").read_bytes() == first
    np.savez(tmp_path / "bad.npz", ids=np.array(["a"]))
    with pytest.raises(UserError, match="bad.npz has the arrays ids; an .npz of"):
        Embeddings.load(tmp_path / "bad.npz")
    np.savez(tmp_path / "nan.npz", ids=np.array(["a"]), matrix=np.full((1, 2), np.nan))
    with pytest.raises(UserError, match="1 of 1 embeddings .* NaN or infinite: a"):
        Embeddings.load(tmp_path / "nan.npz")


def test_plda_equals_speechbrain():
    from speechbrain.processing.PLDA_LDA import Ndx, StatObject_SB, fast_PLDA_scoring

    size, rank = 6, 4
    factors = RNG.standard_normal((size, rank))
    root = RNG.standard_normal((size, size))
    sigma, mean = root @ root.T + np.eye(size), RNG.standard_normal(size)
    enrol, test = some(7, size), some(9, size)

    def stats(e: Embeddings, prefix: str) -> StatObject_SB:
        names = np.array([prefix + n for n in e.ids], dtype="|O")
        none = np.array([None] * len(e))
        ones = np.ones((len(e), 1))
        return StatObject_SB(names, names, none, none, ones, e.matrix.astype(float))

    one, two = stats(enrol, "e"), stats(test, "t")
    ndx = Ndx(models=one.modelset, testsegs=two.modelset)
    theirs = fast_PLDA_scoring(one, two, ndx, mean, factors, sigma).scoremat
    ours = PLDASimilarity(mean, factors, sigma)
    a, b = (torch.from_numpy(e.matrix) for e in (enrol, test))
    np.testing.assert_allclose(ours.matrix(a, b), theirs, atol=1e-9)
    paired = ours(a[:, None].expand(-1, 9, -1), b[None].expand(7, -1, -1))
    np.testing.assert_allclose(paired, theirs, atol=1e-9)


def test_plda_beats_the_cosine_where_it_should():
    """Sessions vary along directions that tell nothing of the speaker."""
    from sb_margins.verification.metrics import eer

    rng = np.random.default_rng(1)
    scale = np.array([1, 1, 1, 5, 5, 5.0])

    def make(count):
        speakers = np.repeat(np.arange(count), 8)
        means = rng.standard_normal((count, 6))[speakers]
        noise = 0.5 * scale * rng.standard_normal((len(speakers), 6))
        ids = [f"s{s}/u{i}" for i, s in enumerate(speakers)]
        return Embeddings(ids, (means + noise).astype(np.float32)), speakers

    train, who = make(80)
    plda = train_plda(train, dict(zip(train.ids, map(str, who), strict=True)), rank=6)
    test, who = make(20)
    a, b = np.triu_indices(len(who), 1)
    trials = Trials(
        [test.ids[i] for i in a], [test.ids[i] for i in b], (who[a] == who[b]) * 1
    )
    plain = eer(score_trials(test, trials), trials.labels)
    better = eer(score_trials(test, trials, plda), trials.labels)
    assert better < 0.7 * plain
    with pytest.raises(UserError, match="more utterances than dimensions"):
        train_plda(Embeddings(["a"], np.ones((1, 4), np.float32)), {"a": "s"})
    with pytest.raises(UserError, match="no speaker is known"):
        train_plda(test, {})
