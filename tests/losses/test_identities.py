"""What must hold between the losses, numbered as in the reference (section 4).

Identity 17 (adaptive accumulation) is about training and is tested there.
"""

import math

import pytest
import torch

from sb_margins.classifiers import (
    AdjustedCosineClassifier,
    CosineClassifier,
    PoincareClassifier,
)
from sb_margins.functional import balanced_bias, combined_margin
from sb_margins.losses import (
    AMSoftmax,
    ASSoftmax,
    HAMSoftmax,
    HSoftmax,
    NormSoftmax,
    RealAMSoftmax,
    SphereFace2,
)
from sb_margins.poincare import (
    clip,
    clip_radius,
    distance,
    exp_map,
    tangent_distance,
    tangent_matrix,
)

FORMS = ("zero", "clamp", "drop")
CLASSES = 9


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


def cosines(n=40, classes=CLASSES):
    scores = torch.rand(n, classes, dtype=torch.float64) * 1.9 - 0.95
    return scores, torch.randint(0, classes, (n,))


def value_and_grad(loss, scores, labels):
    scores = scores.clone().requires_grad_()
    losses = loss(scores, labels, reduction="none")
    return losses.detach(), torch.autograd.grad(losses.sum(), scores)[0]


def close(a, b, tol=1e-10):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


def violated(scores, labels, margin=0.2):
    own = scores.gather(1, labels[:, None])
    return (scores >= own - margin).scatter(1, labels[:, None], False)


@pytest.mark.parametrize("form", FORMS)
def test_01_all_violating_is_am(form):
    scores, labels = cosines()
    expected = value_and_grad(AMSoftmax(margin=2.0), scores, labels)
    got = value_and_grad(RealAMSoftmax(margin=2.0, satisfied=form), scores, labels)
    close(got[0], expected[0])
    close(got[1], expected[1])


def test_02_all_satisfied():
    scores, labels = cosines()
    losses = {f: RealAMSoftmax(satisfied=f) for f in FORMS}
    for loss in losses.values():
        loss.margin = -2.0
    got = {f: value_and_grad(x, scores, labels)[0] for f, x in losses.items()}
    close(got["clamp"], torch.full_like(got["clamp"], math.log(CLASSES)))
    close(got["drop"], torch.zeros_like(got["drop"]))
    z = 30 * (scores.gather(1, labels[:, None]).squeeze(1) + 2)
    close(got["zero"], torch.log1p((CLASSES - 1) * torch.exp(-z)))


@pytest.mark.parametrize("margin", [-0.3, 0.0, 0.2, 0.7])
def test_03_order_of_the_forms(margin):
    scores, labels = cosines()
    losses = [AMSoftmax(), *(RealAMSoftmax(satisfied=f) for f in ("drop", "clamp"))]
    for loss in losses:
        loss.margin = margin
    am, drop, clamp = (loss(scores, labels, reduction="none") for loss in losses)
    assert (drop <= am + 1e-12).all() and (am <= clamp + 1e-12).all()
    assert (clamp >= math.log(CLASSES) - 1e-12).all()
    if margin == 0:
        right = scores.argmax(1) == labels
        assert ((drop == 0) == right).all()


def test_04_zero_is_am_with_satisfied_cosines_zeroed():
    scores, labels = cosines()
    keep = violated(scores, labels).scatter(1, labels[:, None], True)
    got = RealAMSoftmax()(scores, labels, reduction="none")
    expected = AMSoftmax()(scores * keep, labels, reduction="none")
    close(got, expected)


@pytest.mark.parametrize("form", FORMS)
def test_05_satisfied_get_no_gradient(form):
    scores, labels = cosines()
    loss = RealAMSoftmax(satisfied=form)
    grad = value_and_grad(loss, scores, labels)[1]
    others = ~violated(scores, labels).scatter(1, labels[:, None], True)
    assert (grad[others] == 0).all() and others.any()
    assert (value_and_grad(AMSoftmax(), scores, labels)[1][others] != 0).any()
    # all satisfied: the target is pulled by "zero" only
    loss.margin = -2.0
    pull = value_and_grad(loss, scores, labels)[1].gather(1, labels[:, None])
    z = 30 * (scores.gather(1, labels[:, None]) + 2)
    k = CLASSES - 1
    pulled = -30 * k * torch.exp(-z) / (1 + k * torch.exp(-z))
    close(pull, pulled if form == "zero" else torch.zeros_like(pull))


def test_06_gradients_sum_to_zero():
    scores, labels = cosines()
    for loss in (AMSoftmax(), *(RealAMSoftmax(satisfied=f) for f in FORMS[1:])):
        total = value_and_grad(loss, scores, labels)[1].sum(1)
        close(total, torch.zeros_like(total))
    losses, grad = value_and_grad(RealAMSoftmax(), scores, labels)
    z = 30 * (scores.gather(1, labels[:, None]).squeeze(1) - 0.2)
    satisfied = CLASSES - 1 - violated(scores, labels).sum(1)
    close(grad.sum(1), -30 * satisfied * torch.exp(-z) / losses.exp())


def test_07_clamp_gradient_on_violators():
    scores, labels = cosines()
    losses, grad = value_and_grad(RealAMSoftmax(satisfied="clamp"), scores, labels)
    v = 30 * (scores - scores.gather(1, labels[:, None]) + 0.2)
    hit = violated(scores, labels)
    expected = 30 * v.exp() / losses.exp()[:, None]
    close(grad[hit], expected[hit])


def test_08_scale_invariance_and_half_precision():
    classify = CosineClassifier(8, 5)
    x, labels = torch.randn(6, 8), torch.randint(0, 5, (6,))
    loss = RealAMSoftmax()
    expected = loss(classify(x), labels)
    with torch.no_grad():
        classify.weight.mul_(torch.tensor([[1e-3], [7.0], [1.0], [1e4], [0.5]]))
    close(loss(classify(x * 37.0), labels), expected, 1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        half = x.to(dtype)
        close(loss(classify(half), labels), loss(classify(half.float()), labels), 0)


def test_09_am_from_normface():
    scores, labels = cosines()
    plain = NormSoftmax()(scores, labels, reduction="none")
    got = AMSoftmax(0.2)(scores, labels, reduction="none")
    close(got, torch.log1p(math.exp(6.0) * torch.expm1(plain)))


def test_10_delta_one_is_cross_entropy():
    scores, labels = cosines()
    got = value_and_grad(ASSoftmax(1.0, scale=7.0), scores, labels)
    expected = value_and_grad(NormSoftmax(7.0), scores, labels)
    close(got[0], expected[0])
    close(got[1], expected[1])
    ce = torch.nn.functional.cross_entropy(7 * scores, labels, reduction="none")
    close(got[0], ce)


def test_11_grows_with_delta():
    scores, labels = cosines()
    before = torch.zeros(len(labels), dtype=torch.float64)
    for delta in (0.0, 0.1, 0.3, 0.5, 0.9, 0.99, 1.0):
        now = ASSoftmax(delta, scale=5.0)(scores, labels, reduction="none")
        assert (now >= before - 1e-12).all()
        before = now


def test_12_delta_zero_asks_for_the_argmax():
    scores, labels = cosines()
    losses = ASSoftmax(0.0, scale=5.0)(scores, labels, reduction="none")
    assert ((losses == 0) == (scores.argmax(1) == labels)).all()
    tie = torch.zeros(1, 3, dtype=torch.float64)
    assert ASSoftmax(0.0)(tie, torch.tensor([0])).item() == pytest.approx(math.log(3))


def test_13_14_15_kept_classes():
    scores, labels = cosines(200)
    delta, scale = 0.15, 6.0
    losses, grad = value_and_grad(ASSoftmax(delta, scale), scores, labels)
    p = (scale * scores).softmax(1)
    own = p.gather(1, labels[:, None])
    others = p.scatter(1, labels[:, None], -1.0)
    done = others.amax(1) < own.squeeze(1) - delta
    assert done.any() and not done.all()
    assert ((losses == 0) == done).all() and (grad[done] == 0).all()  # 13
    keep = own - p <= delta
    expected = (scale * scores).masked_fill(~keep, -math.inf).softmax(1)
    expected = scale * (expected - torch.eye(CLASSES, dtype=p.dtype)[labels])
    close(grad, expected)  # 14
    assert keep.gather(1, labels[:, None]).all()  # 15
    moved = ASSoftmax(delta, scale)(scores + 5.0, labels, reduction="none")
    close(moved, losses)


def test_16_finished_samples():
    scores, labels = cosines(200)
    o = 6 * scores
    losses = ASSoftmax(0.15, 6.0)(scores, labels, reduction="none")
    own = o.gather(1, labels[:, None]).squeeze(1)
    gap = own - o.amin(1)
    assert (gap[losses == 0] >= math.log(CLASSES * 0.15 + 1) - 1e-12).all()


def test_18_nothing_is_dropped_at_the_start():
    classes = 2000
    scores = 0.05 * torch.randn(20, classes, dtype=torch.float64)
    labels = torch.randint(0, classes, (20,))
    loss = ASSoftmax(0.1)
    close(loss(scores, labels), NormSoftmax()(scores, labels))
    assert loss.stats["kept"] == 1 and loss.stats["zero_loss"] == 0


def ball_scores(curvature=3.0, classes=CLASSES, n=30):
    classify = PoincareClassifier(6, classes, curvature).double()
    torch.nn.init.normal_(classify.weight, std=0.2)
    x = torch.randn(n, 6, dtype=torch.float64) * 0.3
    return classify(x), torch.randint(0, classes, (n,))


def test_19_ham_from_h():
    scores, labels = ball_scores()
    plain = HSoftmax()(scores, labels, reduction="none")
    close(HAMSoftmax(0.0)(scores, labels, reduction="none"), plain)
    before = plain
    for margin in (0.1, 0.2, 0.4):
        now = HAMSoftmax(margin)(scores, labels, reduction="none")
        close(now, torch.log1p(math.exp(30 * margin) * torch.expm1(plain)), 1e-9)
        assert (now > before).all()
        before = now


@pytest.mark.parametrize("classes", [1211, 5994])
def test_20_initial_loss(classes):
    x, labels = 8 * torch.randn(16, 192), torch.randint(0, classes, (16,))
    h = HSoftmax()(PoincareClassifier(192, classes, 5.0)(x), labels)
    assert h.item() == pytest.approx(math.log(classes), abs=0.1)
    ham = HAMSoftmax(0.2)(PoincareClassifier(192, classes, 3.0)(x), labels)
    expected = math.log1p((classes - 1) * math.exp(6.0))
    assert ham.item() == pytest.approx(expected, abs=0.1)
    if classes == 5994:
        assert h.item() == pytest.approx(8.70, abs=0.1)
        assert ham.item() == pytest.approx(14.70, abs=0.1)


def points(n=20, d=4):
    return (
        0.8
        * torch.rand(n, 1, dtype=torch.float64)
        * torch.nn.functional.normalize(torch.randn(n, d, dtype=torch.float64), dim=-1)
    )


def mobius_add(x, y):
    xy = (x * y).sum(-1, keepdim=True)
    x2, y2 = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    top = (1 + 2 * xy + y2) * x + (1 - x2) * y
    return top / (1 + 2 * xy + x2 * y2)


def test_21_a_metric():
    x, y, z = points(), points(), points()
    d = distance(x, y)
    assert (d >= 0).all()
    close(d, distance(y, x))
    assert (d <= distance(x, z) + distance(z, y) + 1e-12).all()
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    close(distance(x @ turn, y @ turn), d)
    close(distance(mobius_add(z, x), mobius_add(z, y)), d, 1e-9)
    u = (x - y).square().sum(-1)
    u = u / ((1 - x.square().sum(-1)) * (1 - y.square().sum(-1)))
    close(d, torch.acosh(1 + 2 * u), 1e-9)
    close(d, 2 * torch.atanh(mobius_add(-x, y).norm(dim=-1)), 1e-9)


@pytest.mark.parametrize("curvature", [0.3, 1.0, 4.0])
def test_22_scaling(curvature):
    u, v = points(), points()
    root = curvature**0.5
    d = tangent_distance(u, v, curvature=curvature)
    close(d, tangent_distance(root * u, root * v, curvature=1.0) / root)
    zero = torch.zeros_like(v)
    got = tangent_distance(zero, v, curvature=curvature)
    close(got, 2 * v.norm(dim=-1))
    inside = (
        root * exp_map(u, curvature=curvature),
        root * exp_map(v, curvature=curvature),
    )
    close(d, distance(*inside) / root, 1e-9)
    matrix = tangent_matrix(u, v, curvature=curvature)
    close(matrix.diagonal(), d, 1e-9)


@pytest.mark.parametrize("curvature", [1e-2, 1e-4, 1e-6])
def test_23_flat_limit(curvature):
    u, v = points(), points()
    d = tangent_distance(u, v, curvature=curvature)
    assert (d - 2 * (u - v).norm(dim=-1)).abs().max() < 4 * curvature


def test_24_25_clipping():
    classify = PoincareClassifier(6, 5, 3.0).double()
    torch.nn.init.normal_(classify.weight, std=0.3)
    x = torch.randn(7, 6, dtype=torch.float64) * 5
    x.requires_grad_()
    scores = classify(x)
    close(classify(3.7 * x), scores)
    grad = torch.autograd.grad(scores.logsumexp(-1).sum(), x)[0]
    assert (grad * x).sum(-1).abs().max() < 1e-12 and grad.abs().max() > 1e-3
    radius = clip_radius(3.0)
    inside = 0.1 * torch.randn(7, 6, dtype=torch.float64)
    assert torch.equal(clip(inside, radius=radius), inside)
    assert clip(x, radius=radius).norm(dim=-1).max() <= radius + 1e-15


def test_26_boundary_formula():
    x = torch.nn.functional.normalize(torch.randn(9, 5, dtype=torch.float64), dim=-1)
    w = torch.nn.functional.normalize(torch.randn(6, 5, dtype=torch.float64), dim=-1)
    ball = PoincareClassifier(5, 6, 3.0).double()
    cosine = CosineClassifier(5, 6).double()
    ball.weight.data, cosine.weight.data = 2 * w, w
    r, cos = clip_radius(3.0), cosine(x).squeeze(1)
    half = torch.sqrt((1 - cos) / 2)
    close(torch.sinh(-ball(x).squeeze(1) / 2), 2 * r * half / (1 - r * r))
    assert torch.equal(ball(x).argmax(-1), cosine(x).argmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_27_finite_at_a_prototype(dtype):
    for options in ({"curvature": 3.0}, {"curvature": 1.0, "metric": "curvature"}):
        ball = PoincareClassifier(4, 3, **options).to(dtype)
        torch.nn.init.normal_(ball.weight, std=0.2)
        x = ball.weight.detach().clone().requires_grad_()
        HAMSoftmax()(ball(x), torch.arange(3)).backward()
        assert torch.isfinite(x.grad).all() and torch.isfinite(ball.weight.grad).all()


def test_28_one_vs_all_without_margins_is_logistic_regression():
    scores, labels = cosines()
    hot = torch.nn.functional.one_hot(labels, CLASSES).double()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        7 * scores, hot, reduction="none"
    )
    got = SphereFace2(0.0, 7.0, 0.5)(scores, labels, reduction="none")
    close(2 * got, expected.sum(1), 1e-8)


def test_29_no_adjustment_is_the_cosine():
    plain, adjusted = CosineClassifier(6, 5), AdjustedCosineClassifier(6, 5, t=1)
    adjusted.load_state_dict({**plain.state_dict(), "bias": torch.tensor(0.0)})
    x = torch.randn(7, 6)
    close(adjusted(x), plain(x), 1e-6)
    bent = AdjustedCosineClassifier(6, 5, t=4)
    bent.load_state_dict(adjusted.state_dict())
    assert torch.equal(bent(x).argmax(-1), plain(x).argmax(-1))
    ends = torch.tensor([-1.0, 1.0])
    assert torch.equal(bent.adjusted(ends).detach(), ends)


@pytest.mark.parametrize(
    "classes, balance, scale",
    [(2, 0.7, 32.0), (2, 0.7, 99.0), (5994, 0.7, 32.0), (9, 0.05, 32.0)],
)
def test_30_the_first_bias_has_the_least_loss(classes, balance, scale):
    settings = {"margin": 0.2, "scale": scale, "balance": balance}
    b = balanced_bias(classes, t=3, **settings)
    loss, label = SphereFace2(**settings), torch.tensor([0])

    def at(bias):
        scores = torch.full((1, classes), -0.75 + bias, dtype=torch.float64)
        return loss(scores, label).item()

    assert at(b) < min(at(b - 0.01), at(b + 0.01))


def test_31_decisions_of_their_own_grow_with_the_margin():
    scores, labels = cosines()
    before = torch.zeros(len(labels), dtype=torch.float64)
    for margin in (0.0, 0.1, 0.3, 1.0):
        now = SphereFace2(margin)(scores, labels, reduction="none")
        assert (now > before).all()
        before = now


def test_no_margin_is_the_cosine():
    cosine = torch.linspace(-1, 1, 11, dtype=torch.float64)
    close(combined_margin(cosine), cosine, 1e-7)


def test_multiplied_angles_at_the_ends():
    """cos(m theta) at theta = pi, and for cosines that rounding put beyond 1."""
    for m1 in (2, 3, 4):
        ends = torch.tensor([1.0, -1.0, 1 + 1e-7, -1 - 1e-7], dtype=torch.float64)
        value = combined_margin(ends, m1=m1)
        expected = torch.tensor([1.0, 1.0 - 2 * m1] * 2, dtype=torch.float64)
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)


def test_more_rivals_than_there_are_are_all_of_them():
    scores, labels = torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([0])
    found = AMSoftmax(top_k=9, top_margin=0.25).others(scores, labels)
    torch.testing.assert_close(found, torch.tensor([[0.9, 0.75, 0.35]]))
