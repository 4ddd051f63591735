"""The tiled evaluator against the dense one, and what only it does."""

import copy
import pickle

import pytest
import torch
from losses_grid import GEOMETRY, PAIRS, build, prototypes

from sb_margins.classifiers import (
    AdjustedCosineClassifier,
    CosineClassifier,
    LinearClassifier,
    PoincareClassifier,
)
from sb_margins.head import Head
from sb_margins.losses import (
    AAMSoftmax,
    AMSoftmax,
    ASSoftmax,
    CentreLoss,
    HAMSoftmax,
    MarginLoss,
    MultiLabelASSoftmax,
    NormSoftmax,
    RealAMSoftmax,
    Softmax,
    SphereFace2,
)
from sb_margins.pairs import BatchEmbeddings

B, D, C = 13, 9, 41


def batch(classifier, model, dtype=torch.float64):
    """Some samples right, some wrong, some beyond every margin."""
    labels = torch.randint(0, C, (B,))
    own = prototypes(model)[labels]
    pull = 2.0 * torch.rand(B, 1, dtype=dtype)
    x = own * pull + 0.5 * own.std() * torch.randn(B, D, dtype=dtype)
    x[:2] = 3 * own[:2]
    return x, labels


def step(function, model, x):
    x = x.clone().requires_grad_()
    model.zero_grad()
    loss = function(x)
    loss.backward()
    grads = [p.grad.double().clone() for p in model.parameters()]
    return [loss.detach().double(), x.grad.double(), *grads]


def saved_sizes(run):
    """How many numbers each tensor holds that is kept for backward, sorted."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (saved.append(t.numel()), t)[1], lambda t: t
    ):
        run()
    return sorted(saved)


@pytest.mark.parametrize("classifier, loss", PAIRS)
def test_equals_dense(classifier, loss, branch):
    torch.manual_seed(1)
    model, cost = build(classifier, loss, D, C, torch.float64)
    x, labels = batch(classifier, model)
    expected = step(lambda e: cost(model(e), labels), model, x)
    stats, right = dict(cost.stats), model(x)[:, 0].argmax(-1) == labels
    single = copy.deepcopy(model).float()
    for store in (True, False):
        for tile in (None, 7, 25):
            head = Head(model, cost, store=store, tile=tile)
            got = step(lambda e, h=head: h(e, labels), model, x)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
            assert torch.equal(head.correct, right)
            for name, value in stats.items():
                torch.testing.assert_close(
                    head.stats[name], value, atol=1e-2, rtol=1e-6
                )
            if "as" in loss or "drop" in loss or classifier == "ball-learned":
                continue  # float32 may keep another borderline class
            half = Head(single, cost, store=store, tile=tile)
            got = step(lambda e, h=half: h(e, labels), single, x.float())
            for a, b in zip(got, expected, strict=True):
                error = (a - b).norm() / b.norm().clamp_min(1e-3)
                assert error < (1e-3 if "textbook" in classifier else 1e-5)


def test_accepts_what_the_modules_accept():
    head = Head(CosineClassifier(D, C), AMSoftmax())
    x, labels = torch.randn(B, 1, D), torch.randint(0, C, (B, 1))
    assert torch.equal(head(x, labels.float()), head(x[:, 0], labels[:, 0].int()))
    assert head(x).shape == (B, 1, C)
    each = head(x, labels, reduction="none")
    torch.testing.assert_close(each.mean(), head(x, labels))
    assert head.correct.shape == (B,) and not head.stats["target_score"].requires_grad


def test_ties_are_wrong():
    head = Head(CosineClassifier(4, 3), NormSoftmax())
    head(torch.zeros(2, 4), torch.tensor([0, 1]))
    assert not head.correct.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("classifier, loss", [p for p in PAIRS if p[0] != "joint"][::3])
def test_autocast_changes_nothing(classifier, loss, dtype):
    torch.manual_seed(2)
    model, cost = build(classifier, loss, D, C)
    head = Head(model, cost)
    x, labels = torch.randn(B, D).to(dtype), torch.randint(0, C, (B,))
    expected = step(lambda e: head(e, labels), model, x.float())

    def half(function):
        with torch.autocast("cpu", torch.bfloat16):
            return function()

    for run in (lambda e: head(e, labels), lambda e: cost(model(e), labels)):
        got = step(lambda e, r=run: half(lambda: r(e)), model, x)
        assert head(x, labels).dtype == torch.float32
        torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[2], expected[2], rtol=1e-4, atol=1e-5)
        rounding = torch.finfo(dtype).eps + 1e-5
        error = (got[1] - expected[1]).abs().max() / expected[1].abs().max()
        assert error <= 2 * rounding


@pytest.mark.parametrize("form", ["drop", "zero", "as"])
def test_rows_without_loss_are_skipped(form, branch):
    cost = ASSoftmax(0.1) if form == "as" else RealAMSoftmax(satisfied=form)
    head = Head(CosineClassifier(D, C), cost)
    with torch.no_grad():
        head.classifier.weight.copy_(torch.linalg.qr(torch.randn(C, C))[0][:, :D])
    labels = torch.randint(0, C, (B,))
    x = head.classifier.weight.detach()[labels].clone()
    x[0] = -x[0]
    x.requires_grad_()
    head(x, labels).backward()
    zero = head.stats["zero_loss"]
    assert 0 < zero < 1
    dense = step(
        lambda e: cost(head.classifier(e), labels), head.classifier, x.detach()
    )
    torch.testing.assert_close(x.grad.double(), dense[1], rtol=1e-4, atol=1e-6)
    if form != "zero":
        idle = x.grad.abs().amax(1) == 0
        assert idle.double().mean() == pytest.approx(float(zero))


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("tile", [1, 5, 7, C])
def test_kept_are_counted_where_tiles_meet(tile, store, branch):
    """All non-targets kept: each sample has C - 1, wherever its target lies."""
    labels = torch.arange(C)
    for loss in (ASSoftmax(0.5, 200.0), ASSoftmax(0.5, 5.0), RealAMSoftmax(2.1)):
        head = Head(CosineClassifier(D, C), loss, store=store, tile=tile)
        head(-head.classifier.weight.detach(), labels)
        assert head.stats["kept"] == 1


def test_store_by_budget():
    model = CosineClassifier(D, C)
    x = torch.randn(B, D)
    labels = torch.zeros(B, dtype=torch.long)
    for budget, stored in ((4 * B * C, True), (4 * B * C - 1, False), (None, True)):
        head = Head(model, AMSoftmax(), budget=budget)
        assert (B * C in saved_sizes(lambda h=head: h(x, labels))) == stored
    with pytest.raises(ValueError, match="store"):
        Head(model, AMSoftmax(), store="always")


def test_memory_is_one_matrix_or_none():
    """Nothing of size [B, C] but the stored tile; nothing when recomputing."""
    sizes = {}
    for store in (True, False):
        head = Head(CosineClassifier(8, 4000), AAMSoftmax(), store=store, tile=200)
        x, labels = torch.randn(64, 8), torch.randint(0, 4000, (64,))
        sizes[store] = saved_sizes(lambda h=head, x=x, y=labels: h(x, y))[-2:]
    assert sizes[True][-1] == 64 * 4000 and sizes[True][0] < 64 * 4000
    assert sizes[False][-1] <= 4000 * 8


def test_second_backward_and_copies():
    head = Head(CosineClassifier(D, C), RealAMSoftmax(satisfied="drop"), store=True)
    x, labels = torch.randn(B, D, requires_grad=True), torch.randint(0, C, (B,))
    loss = head(x, labels)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, x)[0], first)
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(other(x, labels), loss)
        assert other.state_dict().keys() == {"classifier.weight"}


def test_joint_parameters_are_shared_once():
    model, cost = build("joint", "eham", D, C)
    head = Head(model, cost)
    assert len(list(head.parameters())) == 2
    other = copy.deepcopy(head)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    x, labels = torch.randn(B, D), torch.randint(0, C, (B,))
    assert not torch.equal(other(x, labels), head(x, labels))
    torch.testing.assert_close(head(x, labels), cost(model(x), labels))
    assert "0.kept" in head.stats


@pytest.mark.parametrize("scale", [30.0, 140.0])
@pytest.mark.parametrize("curvature", [1.2, 3.0])
def test_no_denormals(scale, curvature):
    """On a CPU products of denormal numbers are 100 times slower."""
    head = Head(
        PoincareClassifier(D, C, curvature), HAMSoftmax(scale=scale), store=True
    )
    torch.nn.init.normal_(head.classifier.weight)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t), t)[1], lambda t: t
    ):
        head(torch.randn(B, D), torch.randint(0, C, (B,)))
    stored = next(t for t in kept if t.numel() == B * C).abs()
    assert (stored > 0).any()
    assert ((stored == 0) | (stored > 1e-36)).all()


@pytest.mark.parametrize(
    "model, loss, words",
    [
        (PoincareClassifier(D, C), AAMSoftmax(), "AAMSoftmax on PoincareClassifier"),
        (CosineClassifier(D, C), HAMSoftmax(), "HAMSoftmax on CosineClassifier"),
        (LinearClassifier(D, C), AMSoftmax(), "AMSoftmax on LinearClassifier"),
        (CosineClassifier(D, C), Softmax(), "Softmax on CosineClassifier"),
        (PoincareClassifier(D, C), RealAMSoftmax(), "satisfied='drop'"),
        (
            PoincareClassifier(D, C),
            ASSoftmax(base=AMSoftmax()),
            "ASSoftmax on PoincareClassifier",
        ),
        (CosineClassifier(D, C), CentreLoss(), "distances to centres"),
        (AdjustedCosineClassifier(D, C), AAMSoftmax(), "adjusted cosines"),
        (BatchEmbeddings(D, C), AMSoftmax(), "AMSoftmax on BatchEmbeddings"),
        (torch.nn.Linear(D, C), AMSoftmax(), "AMSoftmax on Linear"),
        (CosineClassifier(D, C), torch.nn.Identity(), "Identity on CosineClassifier"),
    ],
)
def test_pairs_without_sense_are_refused(model, loss, words):
    with pytest.raises(ValueError, match="(?s).*" + words):
        Head(model, loss)
    if hasattr(model, "geometry"):
        scores, labels = model(torch.randn(2, D)), torch.tensor([0, 1])
        if isinstance(loss, MarginLoss):  # the two modules of a stock recipe
            with pytest.raises(ValueError, match="(?s).*" + words):
                loss(scores, labels)


def test_geometries_are_all_swept():
    swept = {"linear", "cosine", "adjusted", "poincare", "joint"}
    assert set(GEOMETRY.values()) == swept


def test_several_labels_per_sample():
    """Rows of 0 and 1, or class numbers where each sample has one."""
    head = Head(LinearClassifier(D, C), MultiLabelASSoftmax(0.9))
    x, labels = torch.randn(B, D), torch.randint(0, C, (B,))
    rows = torch.nn.functional.one_hot(labels, C)
    expected = step(lambda e: head.loss(head.classifier(e), rows), head.classifier, x)
    for targets in (labels, labels[:, None], rows):
        got = step(lambda e, y=targets: head(e, y), head.classifier, x)
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)
        best = head(x)[:, 0].argmax(1)
        assert torch.equal(head.correct, best == labels)
    rows[:, 0] = 1  # everybody has the first class as well
    head(x, rows)
    assert torch.equal(head.correct, (best == labels) | (best == 0))
    with pytest.raises(ValueError, match="label 41 is out of range"):
        head(x, labels * 0 + C)


def test_a_large_one_vs_all_head(branch):
    """Tiled is dense for many classes."""
    torch.manual_seed(0)
    model, cost = AdjustedCosineClassifier(8, 20_000, bias=0.3), SphereFace2()
    x, labels = torch.randn(16, 8).double(), torch.randint(0, 20_000, (16,))
    model.double()
    expected = step(lambda e: cost(model(e), labels), model, x)
    for store in (True, False):
        got = step(lambda e, s=store: Head(model, cost, store=s)(e, labels), model, x)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10 * b.abs().max())
