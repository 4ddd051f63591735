"""Classifiers: shapes, SpeechBrain's names, decisions."""

import pytest
import torch
from losses_grid import CLASSIFIERS

from sb_margins.classifiers import (
    CosineClassifier,
    LinearClassifier,
    PoincareClassifier,
)
from sb_margins.errors import UserError
from sb_margins.poincare import exp_map
from sb_margins.precision import accelerator_branches
from sb_margins.tiles import class_ranges


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shapes(name):
    classify = CLASSIFIERS[name](6, 5)
    parts = 2 if name == "joint" else 1
    for x in (torch.randn(3, 6), torch.randn(3, 1, 6), torch.randn(3, 6).bfloat16()):
        scores = classify(x)
        assert scores.shape == (3, parts, 5) and scores.dtype == torch.float32
    assert "out_neurons" in str(classify) or name == "joint"
    with pytest.raises(ValueError, match="must be"):
        classify(torch.randn(2, 3, 6))


def test_speechbrain_names():
    weight = CosineClassifier(input_size=6, out_neurons=5).weight
    assert weight.shape == (5, 6)
    assert list(LinearClassifier(6, 5, bias=False).state_dict()) == ["weight"]


def test_linear_weights_begin_as_torch_linear():
    weight = LinearClassifier(16, 500).weight
    assert 0.24 < weight.abs().max() <= 0.25  # 1 / sqrt(16)


def test_linear_is_linear():
    classify = LinearClassifier(6, 5)
    torch.nn.init.normal_(classify.bias)
    x = torch.randn(3, 6)
    expected = torch.nn.functional.linear(x, classify.weight, classify.bias)
    torch.testing.assert_close(classify(x).squeeze(1), expected)


def test_sub_centres_take_the_best():
    classify = CosineClassifier(6, 5, sub_centers=3)
    x = torch.randn(4, 6)
    plain = CosineClassifier(6, 15)
    plain.load_state_dict(classify.state_dict())
    expected = plain(x).view(4, 5, 3).amax(-1)
    torch.testing.assert_close(classify(x).squeeze(1), expected)


@pytest.mark.parametrize("name", ["linear", "cosine", "ball-unit3"])
def test_many_classes_go_in_tiles(name):
    """Several tiles on a CPU give what the one of an accelerator gives."""
    classify = CLASSIFIERS[name](6, 700).double()
    torch.nn.init.normal_(classify.weight, std=0.3)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)

    def run():
        scores = classify(x)
        parameters = (x, *classify.parameters())
        return scores, *torch.autograd.grad(scores.square().sum(), parameters)

    device = torch.device("cpu")
    assert len(class_ranges(4, 6, 700, device)) > 1
    several = run()
    with accelerator_branches():
        assert class_ranges(4, 6, 700, device) == [(0, 700)]
        torch.testing.assert_close(run(), several, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("slopes", [False, True])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("batch, classes", [(16, 9000), (128, 5994), (256, 17982)])
def test_tiles_are_as_large_as_cache_and_memory_allow(batch, classes, stored, slopes):
    """2 MiB a stored tile, half a MiB another; buffers at most 1/4 of [B, C]."""
    size = 192
    ranges = class_ranges(batch, size, classes, torch.device("cpu"), stored, slopes)
    assert [low for low, _ in ranges[1:]] == [high for _, high in ranges[:-1]]
    assert ranges[0][0] == 0 and ranges[-1][1] == classes
    tile = ranges[0][1]

    def fits(tile):
        side = size * tile  # the classes' side of the product, and its gradient
        slope = batch * tile if slopes else 0
        buffers = side + (max(side, slope) if stored else side + batch * tile + slope)
        cache = (1 << 21) if stored else (1 << 19)
        return 4 * batch * tile <= cache and buffers <= batch * classes / 4

    assert tile % 64 == 0 and (fits(tile) or tile == 256) and not fits(tile + 64)


def test_broadcast_reference():
    """The authors' formula, [B, C, D] and all."""
    classify = PoincareClassifier(6, 9, 3.0).double()
    torch.nn.init.normal_(classify.weight, std=0.4)
    x = torch.randn(5, 6, dtype=torch.float64)
    r = (1 - 1e-5) / 3**0.5

    def project(u):
        return u * (r / u.norm(dim=-1, keepdim=True).clamp_min(1e-5)).clamp_max(1)

    a, b = project(x)[:, None], project(classify.weight)[None]
    room = (1 - a.square().sum(-1)) * (1 - b.square().sum(-1))
    d = torch.acosh(1 + 2 * (a - b).square().sum(-1) / room)
    torch.testing.assert_close(-classify(x).squeeze(1), d, rtol=1e-10, atol=1e-10)


def test_textbook_metric_and_feature_clipping():
    classify = PoincareClassifier(6, 9, 0.5, metric="curvature", clip_norm=1.0).double()
    torch.nn.init.normal_(classify.weight, std=0.4)
    x = 3 * torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(classify(7 * x), classify(x))
    x = x / x.norm(dim=1, keepdim=True)
    a = exp_map(x, curvature=0.5)[:, None] * 0.5**0.5
    b = exp_map(classify.weight, curvature=0.5)[None] * 0.5**0.5
    room = (1 - a.square().sum(-1)) * (1 - b.square().sum(-1))
    d = torch.acosh(1 + 2 * (a - b).square().sum(-1) / room) / 0.5**0.5
    torch.testing.assert_close(-classify(x).squeeze(1), d, rtol=1e-9, atol=1e-9)


def test_learned_curvature():
    classify = PoincareClassifier(6, 9, 0.5, metric="curvature", learnable=True)
    assert classify.curvature.item() == pytest.approx(0.5)
    classify(torch.randn(5, 6)).sum().backward()
    assert classify.log_curvature.grad.abs() > 0
    assert set(classify.state_dict()) == {"weight", "log_curvature"}


def test_one_dimension_is_enough_and_none_is_not():
    for classifier in (CosineClassifier, PoincareClassifier):
        assert classifier(1, 3)(torch.ones(2, 1)).shape == (2, 1, 3)
        with pytest.raises(UserError):
            classifier(0, 3)


def test_prototypes_begin_near_the_origin():
    torch.manual_seed(0)
    classify = PoincareClassifier(64, 500)
    assert classify.curvature == 5
    weight = classify.weight
    assert 0.9e-3 < weight.std().item() < 1.1e-3


def test_two_sub_centres_take_the_better():
    classifier = CosineClassifier(2, 2, sub_centers=2)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    scores = classifier(torch.tensor([[0.6, 0.8], [-0.6, -0.8]]))
    expected = torch.tensor([[[0.8, -0.6]], [[-0.6, 0.8]]])
    torch.testing.assert_close(scores, expected)
