"""Losses on the embeddings of a batch, and the centre loss, against references."""

import importlib
import sys

import pytest
import torch
import torch.nn.functional as F

from sb_margins import select
from sb_margins.classifiers import CentreClassifier, CosineClassifier
from sb_margins.errors import UserError
from sb_margins.head import Head
from sb_margins.losses import CentreLoss, MetricLearningLoss, Softmax
from sb_margins.pairs import BatchEmbeddings, BatchPrototypes

library = pytest.importorskip("pytorch_metric_learning")
for part in ("distances", "losses", "miners"):
    importlib.import_module(f"pytorch_metric_learning.{part}")
D, SPEAKERS, EACH = 5, 4, 3


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(4)


def batch():
    """Embeddings [speakers, each, D], and the speakers of their rows."""
    x = torch.randn(SPEAKERS, EACH, D, dtype=torch.float64)
    labels = torch.tensor([7, 2, 9, 4]).repeat_interleave(EACH)
    return x, labels


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def naive_ge2e(x, w=10.0):
    """Wan et al. 2018, equations 1, 5, 6, 8 and 9 (softmax), their mean."""
    e = F.normalize(x, dim=-1)
    total = 0.0
    for j in range(SPEAKERS):
        for i in range(EACH):
            without = (e[j].sum(0) - e[j, i]) / (EACH - 1)
            centres = [without if k == j else e[k].mean(0) for k in range(SPEAKERS)]
            s = torch.tensor([w * cosine(e[j, i], c) for c in centres])
            total += float(s.logsumexp(0) - s[j])
    return total / (SPEAKERS * EACH)


def naive_angular(x, w=10.0):
    """Chung et al. 2020, equations 5, 9 and 6."""
    prototypes = x[:, 1:].mean(1)
    s = torch.tensor([[w * cosine(x[j, 0], c) for c in prototypes] for j in range(4)])
    return float((s.logsumexp(1) - s.diagonal()).mean())


@pytest.mark.parametrize("name", ["ge2e", "angular_prototypical"])
def test_prototypes_of_the_batch(name):
    head = select.head(name, D, 10).double()
    x, labels = batch()
    naive = (naive_ge2e if name == "ge2e" else naive_angular)(x)
    assert head(x.flatten(0, 1), labels).item() == pytest.approx(naive, rel=1e-6)
    if name == "ge2e":  # the order of rows does not matter
        order = torch.randperm(len(labels))
        value = head(x.flatten(0, 1)[order], labels[order])
        assert value.item() == pytest.approx(naive, rel=1e-6)
        assert head.correct.shape == (SPEAKERS * EACH,)
    rows = x.flatten(0, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: head(e, labels), (rows,))
    assert head.correct.dtype == torch.bool and not torch.isnan(head(rows, labels))
    head(rows, labels).backward()
    assert head.classifier.scale.grad is not None


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_odd_batches(leave_one_out):
    classify = BatchPrototypes(D, 10, leave_one_out=leave_one_out)
    head = Head(classify, Softmax())
    x = torch.zeros(4, D, requires_grad=True)  # no directions
    head(x, torch.tensor([0, 1, 0, 1])).backward()
    assert torch.isfinite(x.grad).all()
    alone = head(torch.randn(4, D), torch.zeros(4))
    assert alone == 0, "one speaker alone has no loss"
    with pytest.raises(UserError, match="only one utterance"):
        head(torch.randn(3, D), torch.tensor([0, 0, 1]))
    with pytest.raises(UserError, match="label 10 is out of range"):
        head(torch.randn(2, D), torch.tensor([10, 10]))
    with pytest.raises(UserError, match="input_size is 5"):
        head(torch.randn(2, D + 1), torch.tensor([1, 1]))
    with pytest.raises(UserError, match="NaN"):
        head(torch.full((2, D), float("nan")), torch.tensor([1, 1]))


NEED_MORE = {  # wrappers, bases, and losses of another kind of input
    *("BaseLossWrapper", "BaseMetricLossFunction", "CrossBatchMemory"),
    *("EmbeddingRegularizerMixin", "GenericPairLoss", "ManifoldLoss"),
    *("MultipleLosses", "SelfSupervisedLoss", "VICRegLoss", "WeightRegularizerMixin"),
}
NAMES = [n for n, c in vars(library.losses).items() if isinstance(c, type)]


@pytest.mark.parametrize("name", sorted({*NAMES} - NEED_MORE))
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_every_loss_of_the_library(name):
    options = {"margin": 0.4, "Tn": 10} if name == "RankedListLoss" else {}
    head = Head(
        BatchEmbeddings(D, 10),
        MetricLearningLoss(name, options, input_size=D, out_neurons=10),
    )
    x, labels = batch()
    x = x.flatten(0, 1).float().requires_grad_()
    head(x, labels).backward()
    assert torch.isfinite(x.grad).all()
    for weight in head.parameters():
        assert weight.grad is not None


def test_a_loss_with_its_miner_and_distance():
    options = {"margin": 0.3, "distance": "CosineSimilarity"}
    ours = MetricLearningLoss("TripletMarginLoss", options, "BatchHardMiner")
    theirs = library.losses.TripletMarginLoss(
        margin=0.3, distance=library.distances.CosineSimilarity()
    )
    x, labels = batch()
    x = x.flatten(0, 1)
    mined = library.miners.BatchHardMiner()(x, labels)
    assert torch.equal(ours(x[:, None], labels[:, None]), theirs(x, labels, mined))
    assert not torch.equal(ours(x, labels), theirs(x, labels))
    with pytest.raises(UserError, match="one number for a batch"):
        ours(x, labels, reduction="none")


def test_correct_is_the_nearest_other():
    head = Head(BatchEmbeddings(2, 9), MetricLearningLoss())
    x = torch.tensor([[1.0, 0.0], [9.0, 1.0], [0.0, 1.0], [0.1, 3.0], [1.0, 1.1]])
    head(x, torch.tensor([3, 3, 5, 5, 3]))
    assert head.correct.tolist() == [True, True, True, True, False]


def test_without_the_library(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(UserError, match=r"pip install 'sb-margins\[metric\]'"):
        select.head("metric", 4, 3)
    assert select.settings("metric")["metric_loss"] == "TripletMarginLoss"


def test_centre_loss_on_top_of_another():
    head = select.head("centre", D, 10, base_loss="am", centre_weight=0.5).double()
    x, labels = batch()
    x = x.flatten(0, 1)
    cosines, centres = head.classifier.classifiers
    apart = (x - centres.weight[labels]).square().sum(1) / 2
    expected = head.loss.losses[0](cosines(x), labels) + 0.5 * apart.mean()
    torch.testing.assert_close(head(x, labels), expected)
    torch.testing.assert_close(head.loss(head.classifier(x), labels), expected)
    assert torch.equal(head.correct, cosines(x)[:, 0].argmax(1) == labels)
    each = head(x, labels, reduction="none")
    torch.testing.assert_close(each.mean(), expected)
    grads = torch.autograd.grad(head(x, labels), centres.weight)[0]
    rows = torch.autograd.grad(0.5 * apart.mean(), centres.weight)[0]
    torch.testing.assert_close(grads, rows)
    plain = select.head("centre", D, 10, base_options={"scale": 2.0})
    assert plain.loss.losses[0].scale == 2.0 and plain.loss.weights == [1.0, 0.003]
    with pytest.raises(UserError, match="'softmax' has no setting 'margin'"):
        select.head("centre", D, 10, base_options={"margin": 2.0})


def test_centres_are_no_cosines():
    classify = CentreClassifier(D, 10)
    x = classify.weight.detach()[[3, 8]] + 0.01
    assert classify(x).argmax(-1).flatten().tolist() == [3, 8]
    with pytest.raises(UserError, match="CentreLoss on CosineClassifier"):
        CentreLoss()(CosineClassifier(D, 10)(x), torch.tensor([3, 8]))
