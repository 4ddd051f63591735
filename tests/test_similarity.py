"""Similarities: pairs, matrices, broadcasting, larger for the same voice."""

import pytest
import torch

from sb_margins.classifiers import CosineClassifier, PoincareClassifier
from sb_margins.errors import UserError
from sb_margins.head import Head
from sb_margins.losses import HAMSoftmax
from sb_margins.similarity import (
    CosineSimilarity,
    PoincareSimilarity,
    Similarity,
    similarity_from,
    similarity_of,
)

ALL = {
    "cosine": CosineSimilarity(),
    "unit": PoincareSimilarity(3.0),
    "textbook": PoincareSimilarity(0.7, metric="curvature"),
    "clipped": PoincareSimilarity(0.7, metric="curvature", clip_norm=1.0),
}


@pytest.mark.parametrize("name", ALL)
def test_pairs_and_matrix(name):
    torch.manual_seed(0)
    similarity = ALL[name]
    a, b = torch.randn(4, 8), torch.randn(5, 8)
    matrix = similarity.matrix(a, b)
    assert matrix.shape == (4, 5)
    pairs = similarity(a[:, None], b[None])
    torch.testing.assert_close(matrix, pairs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(similarity(b[:4], a), similarity(a, b[:4]))
    assert (similarity(a, a) >= similarity(a, b[:4])).all()
    assert similarity(a[:, None], a[:, None]).shape == (4, 1)  # as ECAPA's [B, 1, D]
    assert similarity(a.half(), b[0].half()).dtype == torch.float32


def test_agrees_with_the_classifier():
    classify = PoincareClassifier(8, 5, 3.0)
    torch.nn.init.normal_(classify.weight)
    x = torch.randn(4, 8)
    expected = classify(x).squeeze(1)
    got = ALL["unit"].matrix(x, classify.weight.detach())
    torch.testing.assert_close(got, expected)


def test_bad_settings():
    with pytest.raises(ValueError, match="more than 1"):
        PoincareSimilarity(0.5)


@pytest.mark.parametrize("name", ALL)
def test_prepared_rows_score_as_rows_do(name):
    torch.manual_seed(0)
    similarity, (a, b) = ALL[name], torch.randn(2, 6, 8)
    ready = [similarity.prepare(x) for x in (a, b)]
    torch.testing.assert_close(similarity.prepared_pairs(*ready), similarity(a, b))
    matrix = similarity.prepared_matrix(*ready)
    torch.testing.assert_close(matrix, similarity.matrix(a, b))


@pytest.mark.parametrize("name", ALL)
def test_centre(name):
    torch.manual_seed(0)
    similarity, rows = ALL[name], torch.randn(5, 8)
    centre = similarity.centre(rows)
    torch.testing.assert_close(centre, similarity.prepare(rows).mean(0))
    torch.testing.assert_close(similarity.centre(rows.flip(0)), centre)
    assert torch.equal(similarity.centre(rows[:1]), rows[0])
    # nearer to the rows than they are to each other
    among = similarity.matrix(rows, rows)[~torch.eye(5, dtype=torch.bool)]
    assert similarity(centre, rows).mean() > among.mean()


def test_each_utterance_counts_equally_for_the_cosine():
    rows = torch.tensor([[100.0, 0.0], [0.0, 1.0]])
    centre = CosineSimilarity().centre(rows)
    torch.testing.assert_close(centre, torch.tensor([0.5, 0.5]))


def test_points_beyond_the_edge_are_clipped_before_the_mean():
    ball = PoincareSimilarity(4.0)  # radius 1/2
    centre = ball.centre(torch.tensor([[30.0, 0.0], [0.0, 0.1]]))
    torch.testing.assert_close(centre, torch.tensor([0.25, 0.05]), rtol=2e-5, atol=0)


@pytest.mark.parametrize("name", ALL)
def test_settings_make_the_same_similarity(name):
    similarity = ALL[name]
    again = similarity_from(similarity.settings())
    assert type(again) is type(similarity) and again.settings() == similarity.settings()
    a, b = torch.randn(2, 4, 8)
    assert torch.equal(again(a, b), similarity(a, b))
    assert similarity_from(similarity) is similarity


def test_similarity_from_names_and_functions():
    for given in (None, "cosine", torch.nn.CosineSimilarity(dim=-1)):
        assert isinstance(similarity_from(given), CosineSimilarity)
    assert similarity_from("poincare").curvature == 5.0

    def dot(a, b):
        return (a * b).sum(-1)

    own = similarity_from(dot)
    a, b = torch.randn(4, 8), torch.randn(3, 8)
    torch.testing.assert_close(own(a, b[:1]), dot(a, b[:1]))
    torch.testing.assert_close(own.matrix(a, b), a @ b.T)
    torch.testing.assert_close(own.centre(a), a.mean(0))
    assert own.settings() == {"name": "dot"}

    class Doubled(torch.nn.Module):
        def forward(self, a, b):
            return 2 * dot(a, b)

        def matrix(self, a, b):
            return 2 * a @ b.T

    doubled = similarity_from(Doubled())
    torch.testing.assert_close(doubled.matrix(a, b), 2 * a @ b.T)
    assert doubled.settings() == {"name": "Doubled"}


@pytest.mark.parametrize(
    "given, message",
    [
        ("cosin", "'cosin' is unknown. Did you mean 'cosine'"),
        ({"name": "dot"}, "'dot' is unknown.* There are: cosine, poincare"),
        ({"curvature": 2.0}, "similarity '' is unknown"),
        ({"name": "cosine", "curvature": 2.0}, "similarity 'cosine': .*curvature"),
        ({"name": "poincare", "curvature": 0.5}, "more than 1"),
        (7, "callable with two tensors"),
    ],
)
def test_wrong_similarities_are_told(given, message):
    with pytest.raises(UserError, match=message):
        similarity_from(given)


def test_similarity_of_heads():
    ball = PoincareClassifier(4, 2, 0.7, metric="curvature", clip_norm=2.0)
    assert similarity_of(ball).settings() == {
        "name": "poincare",
        "curvature": pytest.approx(0.7),
        "metric": "curvature",
        "clip_norm": 2.0,
    }
    head = Head(PoincareClassifier(4, 2, 3.0), HAMSoftmax())
    assert similarity_of(head).settings()["curvature"] == 3.0
    assert isinstance(similarity_of(CosineClassifier(4, 2)), CosineSimilarity)
    with pytest.raises(NotImplementedError):
        Similarity()(torch.ones(1, 2), torch.ones(1, 2))
