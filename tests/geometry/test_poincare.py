"""The ball's primitives: accuracy over radii, extremes, gradients."""

import mpmath
import pytest
import torch

from sb_margins import poincare as ball
from sb_margins.precision import normalize

mpmath.mp.dps = 60


def reference(u, v, c):
    """Hyperbolic law of cosines with 60 digits."""
    u, v = ([mpmath.mpf(float(t)) for t in w] for w in (u, v))
    root = mpmath.sqrt(mpmath.mpf(float(c)))
    nu, nv = (mpmath.sqrt(sum(t * t for t in w)) for w in (u, v))
    cos = sum(a * b for a, b in zip(u, v, strict=True)) / (nu * nv)
    a, b = 2 * root * nu, 2 * root * nv
    arg = mpmath.cosh(a) * mpmath.cosh(b) - mpmath.sinh(a) * mpmath.sinh(b) * cos
    return float(mpmath.acosh(arg) / root)


@pytest.mark.parametrize("radius", [1e-3, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 40.0])
@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_tangent_distance_is_exact_at_any_radius(radius, c):
    torch.manual_seed(0)
    u, v = (radius * normalize(torch.randn(6, 8)) * torch.rand(6, 1) for _ in "uv")
    exact = torch.tensor([reference(a, b, c) for a, b in zip(u, v, strict=True)])
    pair = ball.tangent_distance(u, v, curvature=c)
    matrix = ball.tangent_matrix(u, v, curvature=c).diagonal()
    torch.testing.assert_close(pair, exact, rtol=3e-6, atol=1e-9)
    torch.testing.assert_close(matrix, exact, rtol=5e-6, atol=1e-5 * min(radius, 1.0))


def test_clip_takes_any_leading_dimensions():
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    for shape in (x, x.reshape(6, 5), x.reshape(3, 2, 1, 5)):
        out = ball.clip(shape, radius=2.0)
        expected = shape * (2.0 / shape.norm(dim=-1, keepdim=True)).clamp_max(1)
        torch.testing.assert_close(out, expected)
        (gradient,) = torch.autograd.grad(out.square().sum() + out.sum(), x)
        (wanted,) = torch.autograd.grad(expected.square().sum() + expected.sum(), x)
        torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("radius", [1e-3, 1.0, 5.0, 12.0, 20.0])
def test_gradients_in_single_precision(radius):
    torch.manual_seed(1)
    u, w = (radius * normalize(torch.randn(n, 32)) for n in (8, 50))
    found = []
    for dtype in (torch.float64, torch.float32):
        a, b = (t.to(dtype).requires_grad_() for t in (u, w))
        loss = (-3 * ball.tangent_matrix(a, b, curvature=1.0)).logsumexp(1).mean()
        found.append([g.double() for g in torch.autograd.grad(loss, (a, b))])
    for exact, single in zip(*found, strict=True):
        assert (single - exact).norm() / exact.norm() < 5e-5


def test_close_points_keep_their_digits():
    x = torch.tensor([[0.3, -0.2]], requires_grad=True)
    y = torch.tensor([[0.3, -0.2 + 3e-7]], requires_grad=True)
    wide = ball.distance(x.double(), y.double())
    torch.testing.assert_close(ball.distance(x, y).double(), wide, rtol=1e-5, atol=0)
    u = x.detach() * 3
    v = u * 1.001
    wide = ball.tangent_distance(u.double(), v.double(), curvature=1.0)
    near = ball.tangent_distance(u, v, curvature=1.0).double()
    torch.testing.assert_close(near, wide, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite(dtype):
    rows = [
        [0, 0],
        [1e-30, 0],
        [0.1, 0.2],
        [-0.1, -0.2],
        [3, 4],
        [1e4, 0],
        [1e30, 1e30],
    ]
    u = torch.tensor(rows, dtype=dtype)
    for make in (
        lambda a, b: ball.tangent_distance(a[:, None], b[None], curvature=1.0),
        lambda a, b: ball.tangent_matrix(a, b, curvature=1.0),
        lambda a, b: ball.distance(
            ball.clip(a, radius=0.5)[:, None], ball.clip(b, radius=0.5)[None]
        ),
    ):
        a, b = u.clone().requires_grad_(), u.clone().requires_grad_()
        d = make(a, b)
        assert torch.isfinite(d).all() and (d >= 0).all()
        d.sum().backward()
        assert torch.isfinite(a.grad).all() and torch.isfinite(b.grad).all()
        # further out a product of matrices cannot tell equal from near
        assert (d.diagonal()[:5] <= 1e-6).all()


def test_gradcheck():
    x, y = (0.4 * torch.rand(3, 4, dtype=torch.float64) for _ in "xy")
    x.requires_grad_()
    y.requires_grad_()
    c = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ball.distance, (x, y))
    assert torch.autograd.gradcheck(
        lambda a, b, k: ball.tangent_distance(a, b, curvature=k), (x, y, c)
    )
    assert torch.autograd.gradcheck(
        lambda a, b, k: ball.tangent_matrix(a, b, curvature=k), (x, y, c)
    )
    assert torch.autograd.gradcheck(lambda a, k: ball.exp_map(a, curvature=k), (x, c))
    assert torch.autograd.gradcheck(lambda a: ball.clip(a, radius=0.3), (x,))
    assert torch.autograd.gradcheck(normalize, (x,))
    assert torch.autograd.gradcheck(ball.norm, (x,))
