"""Similarities: pairs, matrices, broadcasting, larger for the same voice."""

import pytest
import torch

from sb_margins.classifiers import PoincareClassifier
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity

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
