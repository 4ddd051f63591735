"""Each loss against its equation written naively, SpeechBrain's, and gradcheck."""

import math

import pytest
import torch
import torch.nn.functional as F
from losses_grid import FEWER_PAIRS, build, is_tiled

from sb_margins import losses as L
from sb_margins.classifiers import (
    AdjustedCosineClassifier,
    CosineClassifier,
    LinearClassifier,
)
from sb_margins.functional import lift
from sb_margins.head import Head

B, C = 24, 11


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def hot(labels):
    return F.one_hot(labels, C).bool()


def naive_ce(z, labels):
    return -z.log_softmax(1).gather(1, labels[:, None]).squeeze(1)


def with_target(cos, labels, target):
    return torch.where(hot(labels), target(cos), cos)


def arc(cos, m):
    theta = torch.acos(cos)
    return torch.where(
        theta + m <= math.pi, torch.cos(theta + m), cos - m * math.sin(m)
    )


def sphere(cos, m1):
    theta = torch.acos(cos)
    k = torch.floor(m1 * theta / math.pi)
    return (-1) ** k * torch.cos(m1 * theta) - 2 * k


def naive_ram(cos, labels, form, s=30.0, m=0.2):
    total = torch.ones(len(cos), dtype=cos.dtype)
    own = cos.gather(1, labels[:, None])
    v = s * (cos - own + m)
    zero = torch.exp(-s * (own - m)).expand_as(v)
    dropped = {"zero": zero, "clamp": torch.ones_like(v), "drop": torch.zeros_like(v)}
    terms = torch.where(v >= 0, v.exp(), dropped[form]).masked_fill(hot(labels), 0.0)
    return torch.log(total + terms.sum(1))


def naive_as(z, labels, delta):
    p = z.softmax(1)
    own = p.gather(1, labels[:, None])
    return naive_ce(z.masked_fill((own - p > delta) & ~hot(labels), -math.inf), labels)


def naive_top(cos, labels, k, m, target):
    best = cos.masked_fill(hot(labels), -2.0).topk(k, 1).indices
    hard = torch.zeros_like(hot(labels)).scatter(1, best, True)
    return with_target(
        torch.where(hard, torch.cos(torch.acos(cos) - m), cos), labels, target
    )


def naive_sphereface2(cos, labels, b, m=0.2, r=32.0, t=1.0, lam=0.7):
    """The paper's equation for type C, times its r; b as in the paper."""
    g = 2 * ((cos + 1) / 2) ** t - 1
    own = lam / r * torch.log(1 + torch.exp(-r * (g - m) - b))
    other = (1 - lam) / r * torch.log(1 + torch.exp(r * (g + m) + b))
    return r * torch.where(hot(labels), own, other).sum(1)


AAM = {"m": 0.2}
CASES = {
    "softmax": (L.Softmax(), lambda c, y: naive_ce(c, y)),
    "norm": (L.NormSoftmax(), lambda c, y: naive_ce(30 * c, y)),
    "am": (
        L.AMSoftmax(),
        lambda c, y: naive_ce(30 * with_target(c, y, lambda t: t - 0.2), y),
    ),
    "aam": (
        L.AAMSoftmax(),
        lambda c, y: naive_ce(30 * with_target(c, y, lambda t: arc(t, 0.2)), y),
    ),
    "aam-0.9": (
        L.AAMSoftmax(0.9, 20.0),
        lambda c, y: naive_ce(20 * with_target(c, y, lambda t: arc(t, 0.9)), y),
    ),
    "aam-easy": (
        L.AAMSoftmax(easy_margin=True),
        lambda c, y: naive_ce(
            30 * with_target(c, y, lambda t: torch.where(t > 0, arc(t, 0.2), t)), y
        ),
    ),
    "aam-top3": (
        L.AAMSoftmax(top_k=3),
        lambda c, y: naive_ce(30 * naive_top(c, y, 3, 0.06, lambda t: arc(t, 0.2)), y),
    ),
    "a-4": (
        L.ASoftmax(4, anneal=0.0),
        lambda c, y: naive_ce(30 * with_target(c, y, lambda t: sphere(t, 4)), y),
    ),
    "a-3-annealed": (
        L.ASoftmax(3, anneal=5.0),
        lambda c, y: naive_ce(
            30 * with_target(c, y, lambda t: (5 * t + sphere(t, 3)) / 6), y
        ),
    ),
    "combined": (
        L.CombinedMargin(2, 0.1, 0.05),
        lambda c, y: naive_ce(30 * with_target(c, y, combined), y),
    ),
    **{
        f"ram-{form}": (
            L.RealAMSoftmax(satisfied=form),
            lambda c, y, form=form: naive_ram(c, y, form),
        )
        for form in ("zero", "clamp", "drop")
    },
    "as": (L.ASSoftmax(0.1), lambda c, y: naive_as(30 * c, y, 0.1)),
    "as-am": (
        L.ASSoftmax(0.9, base=L.AMSoftmax(0.1)),
        lambda c, y: naive_as(30 * with_target(c, y, lambda t: t - 0.1), y, 0.9),
    ),
    "sphereface2": (L.SphereFace2(), lambda c, y: naive_sphereface2(c, y, 0.0)),
    "h": (L.HSoftmax(), lambda c, y: naive_ce(30 * c, y)),
    "ham": (
        L.HAMSoftmax(0.3, 10.0),
        lambda c, y: naive_ce(10 * with_target(c, y, lambda t: t - 0.3), y),
    ),
}


def combined(cos):
    angle = 2 * torch.acos(cos) + 0.1
    k = torch.floor(angle / math.pi)
    return (-1) ** k * torch.cos(angle) - 2 * k - 0.05


@pytest.mark.parametrize("name", CASES)
def test_naive(name):
    loss, naive = CASES[name]
    cos = (torch.rand(B, C, dtype=torch.float64) * 1.9 - 0.95).requires_grad_()
    labels = torch.randint(0, C, (B,))
    got, expected = loss(cos, labels, reduction="none"), naive(cos, labels)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    grads = [torch.autograd.grad(x.sum(), cos)[0] for x in (got, expected)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)
    single = loss(cos.float().unsqueeze(1), labels.unsqueeze(1), reduction="batch")
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("t, b, m, r", [(3, 9.75, 0.2, 32), (1.7, -4.0, 0.4, 40)])
def test_sphereface2_of_embeddings(t, b, m, r):
    """The paper's equation with adjustment and bias, and its gradients."""
    model = AdjustedCosineClassifier(6, C, t=t, bias=b / r).double()
    loss = L.SphereFace2(m, r, 0.7)
    x = torch.randn(B, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, C, (B,))
    cos = F.normalize(x) @ F.normalize(model.weight).t()
    naive = naive_sphereface2(cos, labels, r * model.bias, m, r, t)
    leaves = (x, model.weight, model.bias)
    expected = [naive, *torch.autograd.grad(naive.sum(), leaves)]
    for head in (Head(model, loss, tile=4), Head(model, loss, store=False)):
        value = head(x, labels, "none")
        got = [value, *torch.autograd.grad(value.sum(), leaves)]
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
        best = (r * model(x)[:, 0]).masked_fill(hot(labels), -1e9).amax(1).mean() / r
        torch.testing.assert_close(head.stats["hardest_score"], best.detach())
    frozen = AdjustedCosineClassifier(6, C, learnable=False)
    assert [p.requires_grad for p in frozen.parameters()] == [True, False]


@pytest.mark.parametrize("margin", [0.06, 0.5, 1.2])
def test_lifted_rivals(margin):
    """cos(theta - m), and where theta < m the tangent line of slope 1 from (m, 1)."""
    cos = torch.linspace(-1, 1, 401, dtype=torch.float64, requires_grad=True)
    theta = torch.acos(cos.detach())
    lifted = lift(cos, margin=margin, angular=True)
    line = 1 + cos.detach() - math.cos(margin)
    expected = torch.where(theta > margin, torch.cos(theta - margin), line)
    torch.testing.assert_close(lifted.detach(), expected, rtol=0, atol=1e-7)
    slope = torch.autograd.grad(lifted.sum(), cos)[0]
    assert (slope[theta < margin] == 1).all() and torch.isfinite(slope).all()
    assert torch.equal(lift(cos, margin=margin, angular=False), cos + margin)


@pytest.mark.parametrize("scale", [30.0, 64.0])
def test_a_tie_violates_the_margin(scale):
    """Satisfied is v < 0: at exactly 0 the non-target still counts."""
    loss = L.RealAMSoftmax(0.0, scale, "drop")
    value = loss(torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([0]))
    assert value.item() == pytest.approx(math.log(2))
    assert loss.stats["kept"] == 0.5


@pytest.mark.parametrize("form", ["drop", "clamp"])
def test_a_rival_just_short_of_the_margin_satisfies_it(form):
    cosines, label = torch.tensor([[0.5, 0.299]]), torch.tensor([0])
    value = L.RealAMSoftmax(0.2, 30.0, form)(cosines, label)
    assert value.item() == pytest.approx(0.0 if form == "drop" else math.log(2))


def test_multi_label_naive():
    scores = torch.randn(B, C, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(B, C) < 0.3
    targets[:, 0], targets[:, 1] = True, False
    loss = L.MultiLabelASSoftmax(0.1)
    got = loss(scores, targets.int(), reduction="none")
    rows = []
    for o, pos in zip(scores, targets, strict=True):
        p = o.softmax(0)
        neg = [i for i in range(C) if not pos[i] and p[pos].min() - p[i] < 0.1]
        own = [t for t in range(C) if pos[t] and p[t] - p[~pos].max() < 0.1]
        rows.append(
            torch.log1p(o[neg].exp().sum()) + torch.log1p((-o[own]).exp().sum())
        )
    torch.testing.assert_close(got, torch.stack(rows))
    assert 0 < loss.stats["kept"] < 1
    assert torch.autograd.gradcheck(lambda s: loss(s, targets), (scores,))


def test_a_sample_of_many_labels_without_loss_is_counted():
    scores, targets = torch.zeros(3, 4), torch.zeros(3, 4)
    targets[:, :2] = 1
    scores[0, :2] = 20.0  # both targets are far ahead
    loss = L.MultiLabelASSoftmax(0.1)
    value = loss(scores, targets, reduction="none")
    assert value[0] == 0 and (value[1:] > 1).all()
    assert loss.stats["zero_loss"] == pytest.approx(1 / 3)
    assert loss.stats["kept"] == pytest.approx(2 / 3)


def test_the_scale_of_many_labels_multiplies_the_scores():
    scores, targets = torch.rand(B, C), (torch.rand(B, C) < 0.3).int()
    value = L.MultiLabelASSoftmax(0.3, scale=4.0)(scores, targets)
    torch.testing.assert_close(value, L.MultiLabelASSoftmax(0.3)(4 * scores, targets))


def test_combined_contains_the_others():
    cos = torch.rand(B, C, dtype=torch.float64) * 2 - 1
    cos[0, 0], cos[1, 1] = 1.0, -1.0
    labels = torch.arange(B) % C
    for parts, loss in (
        ((1, 0.0, 0.2), L.AMSoftmax(0.2)),
        ((1, 0.2, 0.0), L.AAMSoftmax(0.2)),
        ((4, 0.0, 0.0), L.ASoftmax(4, anneal=0.0)),
    ):
        got = L.CombinedMargin(*parts)(cos, labels, reduction="none")
        assert torch.equal(got, loss(cos, labels, reduction="none"))


@pytest.mark.parametrize("easy", [False, True])
@pytest.mark.parametrize("margin, scale", [(0.2, 30.0), (0.5, 10.0)])
def test_equal_to_speechbrain(margin, scale, easy):
    losses = pytest.importorskip("speechbrain.nnet.losses")
    ecapa = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN")
    theirs = ecapa.Classifier(input_size=16, out_neurons=C)
    ours = CosineClassifier(input_size=16, out_neurons=C)
    ours.load_state_dict(theirs.state_dict())
    x, labels = torch.randn(B, 1, 16), torch.randint(0, C, (B, 1))
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-6)
    inner = losses.AdditiveAngularMargin(margin, scale, easy)
    pairs = [(losses.LogSoftmaxWrapper(inner), L.AAMSoftmax(margin, scale, easy))]
    if not easy:
        inner = losses.AngularMargin(margin, scale)
        pairs.append((losses.LogSoftmaxWrapper(inner), L.AMSoftmax(margin, scale)))
    for their, our in pairs:
        expected, got = their(theirs(x), labels, None), our(ours(x), labels, None)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        expected.backward()
        got.backward()
        torch.testing.assert_close(
            ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-5
        )
        ours.zero_grad()
        theirs.zero_grad()


@pytest.mark.parametrize("classifier, loss", FEWER_PAIRS)
def test_gradcheck(classifier, loss):
    model, cost = build(classifier, loss, 4, 5, torch.float64)
    for part in (cost, *getattr(cost, "losses", ()), getattr(cost, "base", None)):
        if part is not None and hasattr(part, "scale"):
            part.scale = 4.0  # finite differences want a gentle slope
    labels = torch.tensor([0, 4, 2])
    x = (0.6 * torch.randn(3, 4, dtype=torch.float64)).requires_grad_()
    head = Head(model, cost, store=False, tile=2)
    names, values = zip(*model.named_parameters(), strict=True)

    def split(x, *values):
        given = dict(zip(names, values, strict=True))
        return cost(torch.func.functional_call(model, given, (x,)), labels)

    def tiled(x, *values):
        given = {f"classifier.{n}": v for n, v in zip(names, values, strict=True)}
        return torch.func.functional_call(head, given, (x, labels))

    assert torch.autograd.gradcheck(split, (x, *values), atol=1e-6)
    # the parts of a joint classifier are called as modules of their own
    if classifier != "joint" and is_tiled(model, cost):
        assert torch.autograd.gradcheck(tiled, (x, *values), atol=1e-6)


def test_margins_act_at_once():
    """SpeechBrain's AAM freezes its constants; ours can be scheduled."""
    cos, labels = torch.rand(B, C) - 0.5, torch.randint(0, C, (B,))
    for loss in (L.AMSoftmax(), L.AAMSoftmax(), L.RealAMSoftmax(), L.HAMSoftmax()):
        before = loss(cos, labels)
        loss.margin, loss.scale = 0.4, 10.0
        after = type(loss)(margin=0.4, scale=10.0)(cos, labels)
        assert torch.equal(loss(cos, labels), after) and not torch.equal(after, before)
    loss = L.ASSoftmax(0.9, base=L.AMSoftmax())
    loss.margin, loss.delta = 0.4, 0.5
    assert loss.base.margin == 0.4
    joint = L.JointLoss([L.RealAMSoftmax(), L.HAMSoftmax()], [0.3, 0.7])
    joint.margin, joint.scale = 0.1, 20.0
    assert [x.margin for x in joint.losses] == [0.1, 0.1] and joint.scale == 20.0


def test_reductions_and_label_types():
    classify, loss = LinearClassifier(4, 3), L.Softmax()
    scores = classify(torch.randn(5, 1, 4))
    labels = torch.tensor([0, 2, 1, 1, 0])
    each = loss(scores, labels, reduction="none")
    assert each.shape == (5,)
    assert torch.equal(loss(scores, labels, None, "batch"), each)
    assert torch.equal(loss(scores, labels, reduction="sum"), each.sum())
    assert torch.equal(loss(scores, labels), each.mean())
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float32):
        assert torch.equal(loss(scores, labels.to(dtype)[:, None]), each.mean())
    with pytest.raises(ValueError, match="reduction"):
        loss(scores, labels, reduction="median")


@pytest.mark.parametrize(
    "name", ["am", "ram-zero", "ram-clamp", "as", "as-am", "sphereface2"]
)
def test_blocks_of_rows(name, monkeypatch):
    """The dense evaluator takes a few rows at a time."""
    loss = CASES[name][0]
    cos = (torch.rand(B, C, dtype=torch.float64) * 1.9 - 0.95).requires_grad_()
    labels = torch.randint(0, C, (B,))

    def run():
        losses = loss(cos, labels, reduction="none")
        return losses.detach(), torch.autograd.grad(losses.sum(), cos)[0], loss.stats

    whole = run()
    monkeypatch.setattr("sb_margins.losses.dense.BLOCK", 5 * C)
    parts = run()
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
