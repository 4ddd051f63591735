"""Finite loss and gradients for every finite input; clear errors for the rest."""

from functools import partial

import pytest
import torch
from losses_grid import FEWER_PAIRS, GEOMETRY, LOSSES, PAIRS, build, prototypes

from sb_margins.classifiers import CosineClassifier
from sb_margins.head import Head
from sb_margins.labels import InputCheck
from sb_margins.losses import AMSoftmax, MultiLabelASSoftmax
from sb_margins.precision import accelerator_branches

D = 6
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def inputs(w, labels, classes, dtype):
    """Embeddings that have hurt somebody's loss, by name."""
    own, other = w[labels], w[(labels + 1) % classes]
    unit = own / own.norm(dim=1, keepdim=True)
    noise = torch.randn(len(labels), D)
    edge = unit / 3**0.5  # of the unit metric with c = 3
    found = {
        "random": noise,
        "batch of one": noise[:1],
        "parallel": 3.7 * own,
        "antipodal": -2.0 * own,
        "a prototype": own.clone(),
        "another prototype": other.clone(),
        "zero": torch.zeros_like(noise),
        "1e-30": 1e-30 * noise,
        "on the edge": edge,
        "inside the edge": edge * (1 - 1e-6),
        "beyond the edge": edge * 1.001,
        "all satisfied": 30.0 * unit,
    }
    if dtype != torch.float16:
        found |= {"1e30": 1e30 * noise, "1e30 parallel": 1e30 * unit}
    return {name: x.to(dtype) for name, x in found.items()}


def finite(x, run, model):
    x = x.clone().requires_grad_()
    model.zero_grad()
    loss = run(x)
    loss.backward()
    parts = [loss, x.grad, *(p.grad for p in model.parameters())]
    return all(bool(torch.isfinite(p).all()) for p in parts)


def in_two(model, cost, labels, x):
    return cost(model(x), labels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classifier, loss", PAIRS)
def test_finite(classifier, loss, dtype):
    torch.manual_seed(0)
    single = dtype == torch.float32
    if not single and (classifier, loss) not in FEWER_PAIRS:
        return
    for classes in (2, 7) if single else (7,):
        model, cost = build(classifier, loss, D, classes)
        labels = torch.tensor([0, classes - 1, classes // 2])
        for name, x in inputs(prototypes(model), labels, classes, dtype).items():
            y = labels[: len(x)]
            runs = {}
            if single or classifier == "joint":
                runs["split"] = partial(in_two, model, cost, y)
            for store in (True, False) if classes > 2 and single else (True,):
                head = Head(model, cost, store=store, tile=3)
                runs[f"head {store}"] = partial(head, targets=y)
            for how, run in runs.items():
                with torch.autocast("cpu", torch.bfloat16, dtype != torch.float64):
                    assert finite(x, run, model), (name, how, classes)


@pytest.mark.parametrize("classifier, loss", PAIRS[::4])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e15, 1e30])
def test_finite_for_any_weight(classifier, loss, size):
    model, cost = build(classifier, loss, D, 5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_().mul_(size)
    x, labels = torch.randn(4, D), torch.tensor([0, 4, 1, 1])
    if GEOMETRY[classifier] == "linear" and size > 1e20:
        pytest.skip("logits beyond float32 are no finite input")
    assert finite(x, lambda e: cost(model(e), labels), model)
    assert finite(x, lambda e: Head(model, cost)(e, labels), model)


@pytest.mark.parametrize("target", [True, False])
@pytest.mark.parametrize("loss", LOSSES["cosine"])
def test_exact_cosines(loss, target):
    """Scores of exactly 1 and -1 (no sample, or every sample satisfied)."""
    cost = LOSSES["cosine"][loss]()
    own, other = (1.0, -1.0) if target else (-1.0, 1.0)
    scores = torch.full((3, 4), other)
    scores[:, 0] = own
    assert finite(scores, lambda s: cost(s, torch.zeros(3)), torch.nn.Identity())


BAD = {
    "label 4 is out of range for 4 classes": lambda x, y: (x, y.clone().fill_(4)),
    "label -1 is out of range": lambda x, y: (x, y - 1),
    "empty batch": lambda x, y: (x[:0], y[:0]),
    "NaN or infinity": lambda x, y: (x.clone().fill_(float("nan")), y),
    "one for each of 3 rows": lambda x, y: (x, y[:2]),
    r"\[batch, N\] or \[batch, 1, N\]": lambda x, y: (x[None, None], y),
}


@pytest.mark.parametrize("words", BAD)
@pytest.mark.parametrize("geometry", GEOMETRY)
def test_bad_input_is_told(geometry, words):
    model, cost = build(geometry, next(iter(LOSSES[GEOMETRY[geometry]])), D, 4)
    x, labels = BAD[words](torch.randn(3, D), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match=words):
        Head(model, cost)(x, labels)
    with pytest.raises(ValueError, match=words):
        cost(model(x), labels)


def test_infinite_embeddings_and_sizes_are_told():
    head = Head(CosineClassifier(D, 4), AMSoftmax())
    with pytest.raises(ValueError, match="infinity"):
        head(torch.full((2, D), float("inf")), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="input_size is 6"):
        head(torch.randn(2, D + 1), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="fewer than 2 classes"):
        AMSoftmax()(torch.zeros(2, 1), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="one 0 or 1 per score"):
        MultiLabelASSoftmax()(torch.zeros(2, 3), torch.zeros(2, 2))


def test_a_verdict_on_its_way_is_waited_for_only_by_flush():
    """On an accelerator nothing waits; a later call, or flush, reports."""

    class Copied:
        done = False

        def query(self):
            return self.done

        def synchronize(self):
            self.done = True

    check, copied = InputCheck(), Copied()
    with accelerator_branches():
        labels = check.labels(torch.tensor([0, 9, 1]), 4)
        assert labels.tolist() == [0, 3, 1]
        check._pending[0] = check._pending[0]._replace(copied=copied)
        check.labels(torch.tensor([0]), 4)  # not known yet
        check.values(torch.tensor([float("inf")]))
        with pytest.raises(ValueError, match="label 9 is out of range for 4 classes"):
            check.flush()
        assert copied.done
        with pytest.raises(ValueError, match="NaN"):
            check.labels(torch.tensor([0]), 4)
        check.flush()


def test_an_accelerator_learns_of_bad_input_later():
    head = Head(CosineClassifier(D, 4), AMSoftmax())
    with accelerator_branches():
        assert torch.isfinite(head(torch.randn(2, D), torch.tensor([0, 4])))
        with pytest.raises(ValueError, match="label 4 is out of range for 4 classes"):
            head(torch.randn(2, D), torch.tensor([0, 1]))
        head(torch.randn(2, D), torch.tensor([-3, 1]))
        with pytest.raises(ValueError, match="label -3 is out of range for 4 classes"):
            head.check.flush()
        head(torch.full((2, D), float("nan")), torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="NaN or infinity"):
            head.check.flush()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_labels_out_of_range_on_a_gpu():
    head = Head(CosineClassifier(D, 4), AMSoftmax()).cuda()
    head(torch.randn(2, D, device="cuda"), torch.tensor([0, 7], device="cuda"))
    with pytest.raises(ValueError, match="label 7"):
        head.check.flush()


SETTINGS = [
    ("AMSoftmax", {"scale": 0}, "scale is 0: it must be 0.01 to 1000"),
    ("NormSoftmax", {"scale": float("inf")}, "scale"),
    ("AMSoftmax", {"scale": float("nan")}, "scale"),
    ("AMSoftmax", {"margin": -0.1}, "margin is -0.1: it must be 0 to 2 .in cosine"),
    ("AMSoftmax", {"margin": 2.1}, "margin"),
    ("AMSoftmax", {"top_margin": -0.1}, "top_margin"),
    ("AAMSoftmax", {"margin": 20}, "it must be 0 to 1.5708 .in radians"),
    ("AAMSoftmax", {"margin": float("nan")}, "margin"),
    ("AAMSoftmax", {"top_margin": 1.6}, "in radians"),
    ("RealAMSoftmax", {"margin": -0.1}, "margin"),
    ("HAMSoftmax", {"margin": -0.1}, "margin"),
    ("HAMSoftmax", {"margin": 10.1}, "in distance"),
    ("CombinedMargin", {"m2": 1.6}, "m2 is 1.6.*in radians"),
    ("CombinedMargin", {"m3": 2.1}, "m3 is 2.1.*in cosine"),
    ("ASSoftmax", {"delta": -0.1}, "delta"),
    ("AMSoftmax", {"top_k": -1}, "top_k"),
    ("SphereFace2", {"balance": 0}, "balance is 0: it must be 0.01 to 0.99"),
    (
        "MetricLearningLoss",
        {"name": "TripletLoss"},
        "no TripletLoss .* or 'TupletMarginLoss'",
    ),
    ("MetricLearningLoss", {"options": {"m": 1}}, "TripletMarginLoss: .*'m'"),
    ("MetricLearningLoss", {"miner": "Hard"}, "no Hard among its miners"),
    (
        "AdjustedCosineClassifier",
        {"input_size": 4, "out_neurons": 3, "t": 0.5},
        "t is 0.5: it must be 1",
    ),
    (
        "BatchPrototypes",
        {"input_size": 4, "out_neurons": 3, "utterances_per_speaker": 1},
        "pairs of one speaker need 2",
    ),
    ("JointLoss", {"losses": [object()], "weights": []}, "1 losses with 0 weights"),
    ("RealAMSoftmax", {"satisfied": "clam"}, "Did you mean 'clamp'"),
    ("ASSoftmax", {"delta": 1.5}, "delta"),
    ("CombinedMargin", {"m1": 1.5}, "m1"),
    ("ASoftmax", {"anneal": -1}, "anneal"),
    ("JointLoss", {"losses": [], "weights": []}, "weight"),
    ("LinearClassifier", {"input_size": 4, "out_neurons": 1}, "at least 2"),
    ("LinearClassifier", {"input_size": 0, "out_neurons": 3}, "input_size"),
    (
        "CosineClassifier",
        {"input_size": 4, "out_neurons": 3, "sub_centers": 0},
        "sub_centers",
    ),
    (
        "PoincareClassifier",
        {"input_size": 4, "out_neurons": 3, "curvature": 1.0},
        "c must be more than 1",
    ),
    (
        "PoincareClassifier",
        {"input_size": 4, "out_neurons": 3, "curvature": 0, "metric": "curvature"},
        "more than 0",
    ),
    (
        "PoincareClassifier",
        {"input_size": 4, "out_neurons": 3, "metric": "lorentz"},
        "neither",
    ),
    (
        "PoincareClassifier",
        {"input_size": 4, "out_neurons": 3, "learnable": True},
        "metric='curvature'",
    ),
    (
        "PoincareClassifier",
        {
            "input_size": 4,
            "out_neurons": 3,
            "metric": "curvature",
            "clip_norm": 0.0,
        },
        "clip_norm",
    ),
    ("JointClassifier", {"classifiers": []}, "one or more"),
]


@pytest.mark.parametrize("name, given, words", SETTINGS)
def test_bad_settings_are_told(name, given, words):
    import sb_margins

    with pytest.raises(ValueError, match=words):
        getattr(sb_margins, name)(**given)


def test_bases_and_margins_that_make_no_sense():
    from sb_margins import ASSoftmax, HSoftmax, JointLoss, NormSoftmax, RealAMSoftmax

    with pytest.raises(ValueError, match="ASSoftmax over RealAMSoftmax"):
        ASSoftmax(base=RealAMSoftmax())
    with pytest.raises(ValueError, match="no margin of its own"):
        ASSoftmax().margin = 0.2
    joint = JointLoss([NormSoftmax(), HSoftmax()], [0.5, 0.5])
    with pytest.raises(ValueError, match="none of the joint losses has a margin"):
        joint.margin = 0.1
    with pytest.raises(ValueError, match="2, classes"):
        joint(torch.zeros(3, 1, 4), torch.zeros(3))
