"""Exponentials in single precision stay in range, whatever scale, margin and scores."""

import copy
import math

import pytest
import torch

from sb_margins.classifiers import (
    AdjustedCosineClassifier,
    CosineClassifier,
    PoincareClassifier,
)
from sb_margins.head import Head
from sb_margins.losses import (
    AMSoftmax,
    ASSoftmax,
    HAMSoftmax,
    NormSoftmax,
    RealAMSoftmax,
    SphereFace2,
)

SIZE, CLASSES = 8, 600


def poles(classifier, spread=1e-3, near=CLASSES // 2):
    """Classes around two opposite points; embeddings at them, right and wrong."""
    pole = torch.zeros(SIZE, dtype=torch.float64)
    pole[0] = 1.0
    signs = torch.ones(CLASSES, 1, dtype=torch.float64)
    signs[near:] = -1
    weight = signs * pole + spread * torch.randn(CLASSES, SIZE, dtype=torch.float64)
    with torch.no_grad():
        classifier.double().weight.copy_(weight)
    x = torch.stack([pole, -pole, pole, -pole, pole + 0.7 * pole.roll(1)])
    return x, torch.tensor([0, 1, CLASSES - 1, CLASSES - 2, 5])


def step(head, x, labels):
    x = x.clone().requires_grad_()
    losses = head(x, labels, reduction="none")
    weight = head.classifier.weight
    grads = torch.autograd.grad(losses.sum(), (x, weight))
    return [losses.detach().double(), *(g.double() for g in grads)]


def compare(classifier, loss, tile, spread=1e-3, rtol=2e-5, near=300):
    torch.manual_seed(0)
    x, labels = poles(classifier, spread, near)
    single = Head(copy.deepcopy(classifier).float(), loss, tile=tile)
    got = step(single, x.float(), labels)
    split = Head(classifier, loss)

    class Dense(torch.nn.Module):
        classifier = split.classifier

        def forward(self, x, labels, reduction):
            return loss(self.classifier(x), labels, reduction=reduction)

    expected = step(Dense(), x, labels)
    torch.testing.assert_close(got[0], expected[0], rtol=rtol, atol=1e-4)
    for a, b in zip(got[1:], expected[1:], strict=True):
        assert torch.isfinite(a).all()
        assert (a - b).norm() <= 2e-3 * b.norm() + 1e-6


@pytest.mark.parametrize("tile", [None, 7])
@pytest.mark.parametrize("scale", [30.0, 36.0, 36.1, 44.0, 64.0, 90.0, 200.0])
def test_cosines(scale, tile, branch):
    for loss in (
        NormSoftmax(scale),
        AMSoftmax(0.5, scale),
        ASSoftmax(0.999999, scale),
        RealAMSoftmax(0.2, scale, "clamp"),
        RealAMSoftmax(0.2, scale, "zero"),
        SphereFace2(0.2, scale),
    ):
        compare(CosineClassifier(SIZE, CLASSES), loss, tile)


@pytest.mark.parametrize("scale", [0.01, 64.0, 1000.0])
@pytest.mark.parametrize("bias", [-3.0, 0.3, 3.0])
def test_decisions_of_their_own(scale, bias, branch):
    """Sums of softplus from 1e-18 to 2,400,000."""
    classifier = AdjustedCosineClassifier(SIZE, CLASSES, bias=bias)
    loss = SphereFace2(0.2, scale)
    compare(classifier, loss, 7)
    x, labels = poles(classifier)
    z = scale * classifier(x)[:, 0]
    own = torch.nn.functional.one_hot(labels, CLASSES) > 0
    right = 0.7 * torch.nn.functional.softplus(0.2 * scale - z, threshold=700)
    wrong = 0.3 * torch.nn.functional.softplus(0.2 * scale + z, threshold=700)
    expected = torch.where(own, right, wrong).sum(1)
    for head in (Head(classifier, loss, tile=7), Head(classifier, loss)):
        value = head(x, labels, reduction="none")
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("margin", [-1.5, 0.3, 0.4, 1.0, 2.0])
def test_large_margins(margin, branch):
    """Real-AM subtracts the target's score, margin and all, before its exponentials."""
    for form in ("clamp", "drop"):
        loss = RealAMSoftmax(scale=36.0, satisfied=form)
        loss.margin = margin
        compare(CosineClassifier(SIZE, CLASSES), loss, 64)


@pytest.mark.parametrize("tile", [None, 7])
@pytest.mark.parametrize("scale", [5.0, 12.0, 14.0, 20.0, 60.0])
def test_distances(scale, tile, branch):
    """Largest distance 6.2: 13 times it, or more, leaves the range without a shift."""
    for loss in (HAMSoftmax(0.2, scale), RealAMSoftmax(0.2, scale, "clamp")):
        compare(PoincareClassifier(SIZE, CLASSES, 1.2), loss, tile, 0.2, 1e-4)
        # the first embedding is far from all
        compare(PoincareClassifier(SIZE, CLASSES, 1.2), loss, tile, 0.2, 1e-4, 0)


@pytest.mark.parametrize("loss", [RealAMSoftmax(0.2, 200, "drop"), ASSoftmax(0.9, 200)])
def test_rivals_far_above_a_target_near_zero(loss, branch):
    """The target's logit is small, e^(its rivals') is beyond single precision."""
    classifier = CosineClassifier(SIZE, CLASSES)
    x, _ = poles(classifier, spread=0, near=300)
    classifier.weight.data[0] = torch.eye(SIZE)[2]
    value = Head(classifier.float(), loss)(x[:1].float(), torch.tensor([0]))
    assert value.item() == pytest.approx(200 * (1 + loss.margin) + math.log(299))
