"""Scores equal those of plain loops, for every similarity, list and normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_trials import loop, pairs, some

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity
from sb_margins.verification import scoring
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.scoring import index_trials, model_name, score_trials


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
    monkeypatch.setattr(scoring, "CHUNK", {"cpu": 64, "accelerator": 64})
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


def test_the_mean_is_subtracted_before_models_are_centred():
    embeddings = Embeddings(
        ["a", "b", "t"], np.array([[3, 1], [1, 4], [2, 1]], np.float32)
    )
    trials = Trials(["m"], ["t"], None, {"m": ("a", "b")})
    found = score_trials(embeddings, trials, mean=np.array([1.0, 1.0]))
    # [2, 0] and [0, 3] have the mean direction [1, 1]; the test side is [1, 0]
    np.testing.assert_allclose(found, [np.sqrt(0.5)], rtol=1e-6)


@pytest.mark.parametrize("similarity", [None, PoincareSimilarity(3.0)])
def test_models_are_the_similarity_s_centres(similarity):
    embeddings = some(12)
    embeddings.matrix *= 0.3  # some inside the ball's edge, some not
    members = ("u0", "u3", "u5")
    trials = Trials(["m", "u1"], ["u7", "u8"], None, {"m": members, "unused": ("x",)})
    found = score_trials(embeddings, trials, similarity)
    compare = similarity or CosineSimilarity()
    rows = torch.from_numpy(embeddings.matrix)
    centre = compare.prepare(rows[[0, 3, 5]]).mean(0)
    expected = [float(compare(centre, rows[7])), float(compare(rows[1], rows[8]))]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    three = {"a": ("u1", "u2"), "b": ("u4",), "c": ("u5", "u6", "u7")}
    found = score_trials(
        embeddings, Trials(["c", "b", "a"], ["u9"] * 3, None, three), similarity
    )
    expected = [
        compare(compare.centre(rows[r]), rows[9]) for r in ([5, 6, 7], [4], [1, 2])
    ]
    np.testing.assert_allclose(found, torch.stack(expected), atol=1e-5)
    alone = Trials(["m"], ["u7"], None, {"m": ("u0",)})
    one = score_trials(embeddings, alone, similarity)
    same = score_trials(embeddings, Trials(["u0"], ["u7"]), similarity)
    np.testing.assert_array_equal(one, same)


def test_embeddings_bring_their_similarity():
    embeddings = some(20)
    embeddings.matrix *= 0.2
    trials = pairs(embeddings, 30)
    ball = PoincareSimilarity(3.0)
    expected = score_trials(embeddings, trials, ball)
    kept = Embeddings(embeddings.ids, embeddings.matrix, similarity=ball.settings())
    np.testing.assert_array_equal(score_trials(kept, trials), expected)
    cosines = score_trials(kept, trials, "cosine")
    np.testing.assert_array_equal(cosines, score_trials(embeddings, trials))


def test_the_first_score_that_is_not_finite_is_named():
    embeddings = some(5)
    embeddings.matrix[[2, 3]] = 0

    def quotient(a, b):
        return (a * b).sum(-1) / b.norm(dim=-1)

    trials = Trials(["u0", "u1", "u4"], ["u1", "u2", "u3"])
    with pytest.raises(UserError, match="2 of 3 scores .* the first for u1 u2$"):
        score_trials(embeddings, trials, quotient)


def test_only_rows_that_trials_need_are_kept():
    embeddings = some(6)
    trials = Trials(["m", "u4"], ["u4", "u0"], None, {"m": ("u1", "u2")})
    index = index_trials(embeddings, trials)
    assert index.names == ["u0", "u4", model_name("m")]
    assert [index.names[i] for i in index.enrol] == ["model m", "u4"]
    assert [index.names[i] for i in index.test] == ["u4", "u0"]
    np.testing.assert_array_equal(index.matrix[:2], embeddings.matrix[[0, 4]])


@pytest.mark.parametrize(
    "enrol, test, trials, way",
    [
        (2, 1000, 1000, "_by_blocks"),
        (1000, 2, 1000, "_by_blocks"),
        (100, 100, 500, "_by_blocks"),
        (300, 300, 300, "_by_pairs"),
    ],
)
def test_dense_lists_go_by_blocks(monkeypatch, enrol, test, trials, way):
    other = {"_by_blocks": "_by_pairs", "_by_pairs": "_by_blocks"}[way]
    monkeypatch.setattr(scoring, other, None)
    embeddings = some(enrol + test, 4)
    at = np.arange(trials)
    names = embeddings.ids
    listed = Trials(
        [names[i] for i in at % enrol], [names[enrol + i] for i in at % test]
    )
    assert len(score_trials(embeddings, listed)) == trials


@pytest.mark.parametrize("height", [1, 2, 5, 1000])
def test_blocks_of_any_height(monkeypatch, height):
    embeddings = some(11)
    trials = pairs(embeddings, 60)
    rows = torch.from_numpy(embeddings.matrix)
    index = index_trials(embeddings, trials)
    monkeypatch.setattr(scoring, "CELLS", height * len(set(trials.test)))
    compare = CosineSimilarity()
    prepared = compare.prepare(torch.from_numpy(index.matrix))
    blocks = scoring._by_blocks(compare, prepared, index)
    sides = (embeddings.rows(side) for side in (trials.enrol, trials.test))
    expected = compare(*(rows[side] for side in sides))
    torch.testing.assert_close(blocks, expected)
    torch.testing.assert_close(scoring._by_pairs(compare, prepared, index), expected)


def test_wrong_input_is_told():
    embeddings = some()
    with pytest.raises(UserError, match="2 of 3 utterances .*: x, y"):
        score_trials(embeddings, Trials(["u1", "x"], ["u1", "y"]))
    with pytest.raises(UserError, match="1 of 2 utterances .*: x"):
        score_trials(embeddings, Trials(["m"], ["u1"], None, {"m": ("x",)}))
    with pytest.raises(UserError, match="callable"):
        score_trials(embeddings, pairs(embeddings), 7)
    with pytest.raises(UserError, match="NaN or infinite, the first for"):
        score_trials(embeddings, pairs(embeddings), lambda a, b: (a * b).sum(-1) / 0)
    with pytest.raises(UserError, match="twice"):
        Embeddings(["a", "a"], np.ones((2, 2), np.float32))
    with pytest.raises(UserError, match="expected"):
        Embeddings(["a"], np.ones((2, 2), np.float32))
