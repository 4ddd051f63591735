"""PLDA equals SpeechBrain's, and helps where it should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_trials import RNG, some

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.plda import PLDASimilarity, train_plda
from sb_margins.verification.scoring import score_trials


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
    for count, speakers in ((4, "ab"), (5, "a")):  # too few utterances, speakers
        few = some(count, 4)
        names = {n: speakers[i % len(speakers)] for i, n in enumerate(few.ids)}
        with pytest.raises(UserError, match=f"there are {count} utterances"):
            train_plda(few, names)
    few = some(12, 4)
    two = {n: "ab"[i % 2] for i, n in enumerate(few.ids)}  # enough of both
    assert isinstance(train_plda(few, two, rank=2), PLDASimilarity)
    with pytest.raises(UserError, match="no speaker is known"):
        train_plda(test, {})


def test_models_are_means_and_scores_can_be_normalised():
    from sb_margins.verification.normalisation import Normaliser

    embeddings = some(30, 6)
    plda = PLDASimilarity(np.zeros(6), np.eye(6), np.eye(6))
    trials = Trials(["m"], ["u7"], None, {"m": ("u0", "u1", "u2")})
    rows = torch.from_numpy(embeddings.matrix)
    expected = float(plda(rows[:3].mean(0), rows[7]))
    found = score_trials(embeddings, trials, plda)
    np.testing.assert_allclose(found, [expected], rtol=1e-5)
    against = plda.matrix(rows[:3].mean(0)[None], rows[10:])[0]
    normaliser = Normaliser("z", embeddings.matrix[10:])
    found = score_trials(embeddings, trials, plda, normaliser=normaliser)
    expected = (expected - float(against.mean())) / float(against.std())
    np.testing.assert_allclose(found, [expected], rtol=1e-4)
