"""ResNet with temporal statistics pooling against naive float64, masks and edges."""

import math

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d

from sb_margins.resnet import VARIANCE_FLOOR, BasicBlock, ResNetTSP, statistics_pooling

SMALL = {"input_size": 20, "channels": (4, 8, 8, 8), "lin_neurons": 6}


def network(seed=0, **settings):
    """A small network with settled batch-norm statistics, in evaluation mode."""
    torch.manual_seed(seed)
    net = ResNetTSP(**SMALL | settings)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 60, net_input(settings)) * 3 + 1)
    return net.eval()


def net_input(settings):
    return settings.get("input_size", SMALL["input_size"])


def naive(rows, frames):
    """Mean and standard deviation of each row, by loops over Python's floats."""
    out = []
    for row, count in zip(rows.tolist(), frames, strict=True):
        values = row[:count]
        mean = math.fsum(values) / count
        squares = math.fsum((v - mean) ** 2 for v in values)
        out.append([mean, math.sqrt(squares / max(count - 1, 1) + VARIANCE_FLOOR)])
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("dtype, near", [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_pooling_is_the_naive_one(dtype, near):
    torch.manual_seed(0)
    x = (torch.randn(7, 25, dtype=torch.float64) * 5 + 3).to(dtype)
    x[6] = 4.25  # constant
    frames = [25, 1, 2, 3, 24, 25, 25]
    expected = naive(x.double(), frames)
    given = torch.tensor(frames)[:, None]
    found = statistics_pooling(x, given)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=near, atol=near)
    whole = [row for row, count in enumerate(frames) if count == 25]
    torch.testing.assert_close(statistics_pooling(x)[whole], found[whole])
    torch.testing.assert_close(  # what most tools call the standard deviation
        statistics_pooling(x)[:6, 1].double(), x[:6].double().std(-1), rtol=1e-5, atol=0
    )


def test_half_precision_is_pooled_in_float32():
    x = (torch.randn(2, 3, 50) + 30).bfloat16()
    found = statistics_pooling(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, statistics_pooling(x.float()))


def test_gradients_of_the_pooling():
    torch.manual_seed(1)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    frames = torch.tensor([5, 2])[:, None, None]
    assert torch.autograd.gradcheck(statistics_pooling, x)
    assert torch.autograd.gradcheck(lambda x: statistics_pooling(x, frames), x)


def test_a_block_is_two_convolutions_and_a_way_around():
    torch.manual_seed(2)
    block = BasicBlock(3, 5, stride=2).double().eval()
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)

    def norm(x, bn):
        return batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)

    for bn in (m for m in block.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
    inner = conv2d(x, block.conv1.weight, stride=2, padding=1)
    inner = norm(inner, block.bn1).clamp(min=0)
    inner = norm(conv2d(inner, block.conv2.weight, padding=1), block.bn2)
    around, around_norm = block.shortcut
    around = norm(conv2d(x, around.weight, stride=2), around_norm)
    expected = (inner + around).clamp(min=0)
    assert expected.shape == (2, 5, 5, 4)
    torch.testing.assert_close(block(x), expected)
    same = BasicBlock(3, 3).double().eval()
    inner = same.bn2(same.conv2(same.bn1(same.conv1(x)).relu()))
    torch.testing.assert_close(same(x), (inner + x).relu())


@pytest.mark.parametrize("size", [20, 23, 80])
def test_a_padded_batch_gives_what_single_utterances_give(size):
    net = network(input_size=size)
    lengths = [61, 60, 33, 8, 1]
    rows = [torch.randn(n, size) for n in lengths]
    batch = torch.full((5, 61, size), 9.0)
    for row, speech in enumerate(rows):
        batch[row, : len(speech)] = speech
    with torch.no_grad():
        alone = torch.cat([net(speech[None]) for speech in rows])
        together = net(batch, torch.tensor(lengths) / 61)
        batch[2, 33:] = -1e4
        again = net(batch, torch.tensor(lengths) / 61)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(again, together)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("frames", [1, 2, 9, 40])
@pytest.mark.parametrize("level", [0.0, -100.0, 1e4])
def test_silence_and_single_frames_have_finite_gradients(training, frames, level):
    net = network().train(training)
    feats = torch.full((3, frames, 20), level, requires_grad=True)
    for lengths in (None, torch.tensor([1.0, 0.4, 0.0])):
        embeddings = net(feats, lengths)
        assert embeddings.shape == (3, 6) and embeddings.isfinite().all()
        embeddings.square().sum().backward()
        assert feats.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in net.parameters())


def test_under_autocast():
    net, feats = network(), torch.randn(2, 50, 20)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = net(feats, torch.tensor([1.0, 0.5])).float()
    with torch.no_grad():
        exact = net(feats, torch.tensor([1.0, 0.5]))
    assert torch.nn.functional.cosine_similarity(rough, exact).min() > 0.99
