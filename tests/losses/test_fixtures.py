"""The numbers of the reference, one by one (scale 30, margin 0.2)."""

import pytest
import torch

from sb_margins.classifiers import PoincareClassifier
from sb_margins.losses import (
    AMSoftmax,
    ASSoftmax,
    HAMSoftmax,
    HSoftmax,
    NormSoftmax,
    RealAMSoftmax,
)
from sb_margins.poincare import distance, tangent_distance

COSINES = [[0.8, 0.3, 0.65, -0.1], [0.5, 0.45, 0.1, 0.35], [0.1, 0.05, 0.3, -0.2]]
COSINES += [[0.9, 0.1, 0.0, -0.3]]
COLUMNS = {
    "norm": (NormSoftmax(), [0.011048047, 0.210459691, 6.003027555, 0.0]),
    "am": (AMSoftmax(), [1.701435791, 4.559139851, 12.000559378, 1.6e-8]),
    "clamp": (
        RealAMSoftmax(satisfied="clamp"),
        [2.012458578, 4.569530784, 12.000565213, 1.386294361],
    ),
    "drop": (
        RealAMSoftmax(satisfied="drop"),
        [1.701413278, 4.559113895, 12.000559072, 0.0],
    ),
    "zero": (RealAMSoftmax(), [1.701413284, 4.559115188, 12.000682405, 2e-9]),
}


def double(rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("dtype, tol", [(torch.float64, 6e-10), (torch.float32, 2e-5)])
def test_cosine_losses(name, dtype, tol, device):
    loss, expected = COLUMNS[name]
    cosines = torch.tensor(COSINES, dtype=dtype, device=device)
    got = loss(cosines, torch.zeros(4, dtype=int, device=device), reduction="none")
    torch.testing.assert_close(got.cpu().double(), double(expected), rtol=0, atol=tol)


@pytest.mark.parametrize(
    "logits, target, delta, expected, kept",
    [
        ([1.2, 1.5, 1.0, -0.35], 1, 0.1, 0.0, 0),
        ([1.2, 1.5, 1.0, -0.35], 1, 0.3, 0.853286555, 2),
        ([1.2, 1.5, 1.0, -0.35], 1, 1.0, 0.918123470, 3),
        ([2.5, 3.5, 0.4, 0.3], 2, 0.1, 3.474105734, 3),
        ([2.5, 3.5, 0.4, 0.3], 2, 0.3, 3.474105734, 3),
        ([2.5, 3.5, 0.4, 0.3], 2, 1.0, 3.474105734, 3),
        ([2.5, 3.5, 0.4, 0.3], 0, 0.1, 1.313261688, 1),
        ([2.5, 3.5, 0.4, 0.3], 0, 0.3, 1.374105734, 3),
        ([2.0, 1.5, 0.0, -1.0], 0, 0.1, 0.0, 0),
        ([2.0, 1.5, 0.0, -1.0], 0, 0.3, 0.474076984, 1),
        ([2.0, 1.5, 0.0, -1.0], 0, 1.0, 0.583138664, 3),
    ],
)
def test_as_softmax(logits, target, delta, expected, kept):
    loss = ASSoftmax(delta, scale=1)
    got = loss(double([logits]), torch.tensor([target]))
    assert got.item() == pytest.approx(expected, abs=1e-9)
    assert loss.stats["kept"].item() == pytest.approx(kept / 3)


CENTRES = [[0.3, 0.0], [0.0, 0.4], [-0.2, -0.1]]


def poincare(curvature):
    classify = PoincareClassifier(2, 3, curvature=curvature).double()
    classify.weight.data = double(CENTRES)
    return classify(double([[2.0, 1.0]]))


def test_h_and_ham():
    five, three = poincare(5.0), poincare(3.0)
    expected = double([[[0.51831143, 1.04313785, 1.41731154]]])
    torch.testing.assert_close(-five, expected, rtol=0, atol=6e-9)
    expected = double([[[0.84011034, 1.33079965, 1.77183965]]])
    torch.testing.assert_close(-three, expected, rtol=0, atol=6e-9)
    zero, one = torch.tensor([0]), torch.tensor([1])
    assert HSoftmax()(five, one).item() == pytest.approx(15.74479281, abs=6e-9)
    assert HSoftmax()(three, one).item() == pytest.approx(14.72067962, abs=6e-9)
    ham = HAMSoftmax()
    assert ham(three, zero).item() == pytest.approx(1.6316e-4, abs=5e-9)
    assert ham(three, one).item() == pytest.approx(20.72067921, abs=6e-9)


def test_distances():
    x, w = double([0.1, 0.2]), double([-0.3, 0.05])
    assert distance(x, w).item() == pytest.approx(0.8904738209, abs=1e-10)

    def tangent(point):  # the vector that exp_map sends there, c = 3
        root = 3**0.5
        n = point.norm()
        return torch.atanh(root * n) * point / (root * n)

    got = tangent_distance(tangent(x), tangent(w), curvature=3.0)
    assert got.item() == pytest.approx(0.9715201098, abs=1e-10)
