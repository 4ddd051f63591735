"""The Poincaré ball: points, distances, and their safe forms.

Two metrics. ``unit`` is what the authors of HAM-Softmax released: vectors are ball
coordinates clipped to norm (1 - 1e-5) / sqrt(c), measured by the distance of
curvature -1 whatever c is. ``curvature`` is the textbook ball of curvature -c: vectors
are tangents at the origin, sent to the ball by the exponential map. There the ball
coordinates are never formed (they lose the radius beyond distance 6 in float32); with
polar radii a = 2 sqrt(c) |u|, b = 2 sqrt(c) |w| and the angle t between u and w,

    T = (1 - e^-2a) (1 - e^-2b) sin^2(t / 2) + (e^-a - e^-b)^2
    sqrt(c) d = a + b + log((T + sqrt(T (T + 4 e^-a-b))) / 2 + e^-a-b),

the hyperbolic law of cosines, bounded for any radius.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sb_margins.precision import SMALL_NORM, exact_product, normalize, safe_norm

EDGE = 1e-5  # of the ball, as released
RESOLUTION = 8  # times eps: what a product of matrices resolves in T


def clip_radius(curvature: float) -> float:
    """Largest norm in the unit metric.

    Arguments
    ---------
    curvature : float
        c > 1.

    Returns
    -------
    float
        ``(1 - 1e-5) / sqrt(c)``.

    Example
    -------
    >>> round(clip_radius(4.0), 6)
    0.499995
    """
    return (1 - EDGE) / curvature**0.5


class _Norm(torch.autograd.Function):
    """The norm for any finite vector; its slope at the origin is 0."""

    @staticmethod
    def forward(ctx, x):
        norm = safe_norm(x).unsqueeze(-1)
        tiny = torch.finfo(x.dtype).tiny
        ctx.save_for_backward(x / norm.clamp_min(tiny))
        return norm

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


def norm(x: Tensor) -> Tensor:
    """Differentiable Euclidean norm, finite (with its gradient) for finite vectors.

    Arguments
    ---------
    x : torch.Tensor
        Shape [..., D].

    Returns
    -------
    torch.Tensor
        Shape [..., 1].

    Example
    -------
    >>> norm(torch.tensor([3e30, 4e30]))
    tensor([5.0000e+30])
    """
    return _Norm.apply(x)


def clip(x: Tensor, *, radius: float) -> Tensor:
    """Vectors longer than a radius brought back to it; others untouched.

    Arguments
    ---------
    x : torch.Tensor
        Shape [..., D].
    radius : float
        The largest norm.

    Returns
    -------
    torch.Tensor
        Shape [..., D]. Beyond the radius no gradient flows along x.

    Example
    -------
    >>> clip(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), radius=1.0)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    return _Clip.apply(x, radius)


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, radius):
        norm = safe_norm(x).unsqueeze(-1)
        clipped = shrink(x, norm, radius)
        ctx.save_for_backward(clipped, norm)
        ctx.radius = radius
        return clipped

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return shrink_grad(grad, *ctx.saved_tensors, ctx.radius), None


def shrink(x: Tensor, norm: Tensor, radius: float) -> Tensor:
    """What :func:`clip` computes, from the norms [..., 1] of x [..., D].

    Example
    -------
    >>> x = torch.tensor([[3.0, 4.0]])
    >>> shrink(x, x.norm(dim=1, keepdim=True), 1.0)
    tensor([[0.6000, 0.8000]])
    """
    return x * (radius / norm.clamp_min(radius))


def shrink_grad(grad: Tensor, clipped: Tensor, norm: Tensor, radius: float) -> Tensor:
    """Gradient of :func:`clip`, from the clipped vectors and the norms before.

    Example
    -------
    >>> grad, clipped = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 0.0]])
    >>> shrink_grad(grad, clipped, torch.tensor([[2.0]]), 1.0)
    tensor([[0.0000, 1.5000]])
    """
    along = (clipped * grad).sum(-1, keepdim=True) / radius**2
    along.masked_fill_(norm <= radius, 0.0)
    across = torch.addcmul(grad, clipped, along, value=-1)
    return across.mul_(radius / norm.clamp_min(radius))


def exp_map(v: Tensor, *, curvature: float | Tensor) -> Tensor:
    """Exponential map at the origin: ``tanh(sqrt(c) |v|) v / (sqrt(c) |v|)``.

    Arguments
    ---------
    v : torch.Tensor
        Tangent vectors, [..., D].
    curvature : float or torch.Tensor
        c > 0; the ball has curvature -c.

    Returns
    -------
    torch.Tensor
        Ball coordinates, [..., D], of norm at most 1 / sqrt(c).

    Example
    -------
    >>> exp_map(torch.tensor([0.5, 0.0]), curvature=1.0)
    tensor([0.4621, 0.0000])
    """
    root = curvature**0.5
    length = norm(v)
    return torch.where(
        length > SMALL_NORM, torch.tanh(root * length) / root, length
    ) * (normalize(v))


class Matched(NamedTuple):
    """Matched points of the ball, and what their distance of curvature -1 is made of.

    ``cosh d = 1 + 2 t``, t from the difference of the points: relatively exact for
    close ones, too.

    Example
    -------
    >>> pair = Matched.of(torch.tensor([[0.1, 0.2]]), torch.tensor([[-0.3, 0.05]]))
    >>> pair.distance(), pair.gradients(torch.ones(1))[0]
    (tensor([0.8905]), tensor([[1.9202, 0.8631]]))
    """

    x: Tensor
    w: Tensor
    diff: Tensor
    gx: Tensor
    gw: Tensor
    t: Tensor

    @staticmethod
    def of(x: Tensor, w: Tensor) -> Matched:
        """Of points x and w, norm < 1, both [..., D]."""
        diff = x - w
        gx = 1 / (1 - x.square().sum(-1, keepdim=True))
        gw = 1 / (1 - w.square().sum(-1, keepdim=True))
        t = gx * gw * diff.square().sum(-1, keepdim=True)
        return Matched(x, w, diff, gx, gw, t)

    def distance(self) -> Tensor:
        """Distances [...]."""
        return 2 * torch.asinh(self.t.sqrt()).squeeze(-1)

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of the distances [...] to those of x and w, 0 for equal points."""
        slope = (self.t * (self.t + 1)).sqrt()
        same = slope == 0  # no direction is steepest
        rate = 2 * grad.unsqueeze(-1) / slope.masked_fill(same, 1)
        rate.masked_fill_(same, 0.0)
        across = self.diff * (rate * self.gx * self.gw)
        along = rate * self.t
        dw = torch.addcmul(-across, self.w, along * self.gw)
        return across.addcmul_(self.x, along * self.gx), dw


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        pair = Matched.of(x, w)
        ctx.save_for_backward(*pair)
        return pair.distance()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return Matched(*ctx.saved_tensors).gradients(grad)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Distance of matched points of the ball of curvature -1.

    Relatively exact for close points too; the gradient is 0 where they are equal.

    Arguments
    ---------
    x, y : torch.Tensor
        Ball coordinates, norm < 1, [..., D]; broadcast against each other.

    Returns
    -------
    torch.Tensor
        Shape [...].

    Example
    -------
    >>> distance(torch.tensor([0.1, 0.2]), torch.tensor([-0.3, 0.05]))
    tensor(0.8905)
    """
    return _Distance.apply(*torch.broadcast_tensors(x, y))


def polar(u: Tensor, root: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Polar radius of tangent vectors, and the bounded numbers made of it.

    Arguments
    ---------
    u : torch.Tensor
        Shape [..., D].
    root : float or torch.Tensor
        sqrt(c).

    Returns
    -------
    a : torch.Tensor
        ``2 sqrt(c) |u|``, [..., 1].
    al : torch.Tensor
        ``1 - e^-2a``, [..., 1].
    p : torch.Tensor
        ``e^-a - 1``, [..., 1].
    e : torch.Tensor
        ``e^-a``, [..., 1].

    Example
    -------
    >>> [round(float(v), 4) for v in polar(torch.tensor([0.5]), 1.0)]
    [1.0, 0.8647, -0.6321, 0.3679]
    """
    a = 2 * root * norm(u)
    return a, -torch.expm1(-2 * a), torch.expm1(-a), torch.exp(-a)


def tangent_distance(
    u: Tensor, v: Tensor, *, curvature: float | Tensor = 1.0
) -> Tensor:
    """Textbook distance of the points that matched tangent vectors map to.

    Arguments
    ---------
    u, v : torch.Tensor
        Tangent vectors at the origin, [..., D]; broadcast against each other.
    curvature : float or torch.Tensor
        c > 0.

    Returns
    -------
    torch.Tensor
        Shape [...]; ``d(0, exp(v)) = 2 |v|``.

    Example
    -------
    >>> tangent_distance(torch.zeros(2), torch.tensor([3.0, 4.0]))
    tensor(10.)
    """
    root = curvature**0.5
    (a, al, _, p), (b, be, _, q) = polar(u, root), polar(v, root)
    gap = normalize(u) - normalize(v)
    half = 0.25 * gap.square().sum(-1, keepdim=True)  # sin^2(angle / 2)
    near = torch.minimum(a, b)
    radial = (torch.expm1(-(a - b).abs()) * torch.exp(-near)).square()
    t = al * be * half + radial
    return _distance_of(t, a, b, p * q).squeeze(-1) / root


def _distance_of(t: Tensor, a: Tensor, b: Tensor, pq: Tensor) -> Tensor:
    """sqrt(c) d from T; no gradient through T where it is 0."""
    none = t <= 0
    t = torch.where(none, 0.0, t)
    r = torch.where(none, 1.0, t * (t + 4 * pq)).sqrt()
    r = torch.where(none, 0.0, r)
    # a + b + log(...) cancels for close points near the origin: log1p there
    low = a + b < 40
    ratio = torch.where(low, t + r, 0.0) / (2 * torch.where(low, pq, 1.0))
    tiny = torch.finfo(t.dtype).tiny
    far = a + b + torch.log(((t + r) / 2 + pq).clamp_min(tiny))
    far = torch.maximum(far, (a - b).abs())  # what is left when T underflows
    return torch.where(low, torch.log1p(ratio), far)


def tangent_matrix(u: Tensor, v: Tensor, *, curvature: float | Tensor = 1.0) -> Tensor:
    """Textbook distances of all pairs, by one matrix product.

    Arguments
    ---------
    u : torch.Tensor
        Tangent vectors [B, D].
    v : torch.Tensor
        Tangent vectors [C, D].
    curvature : float or torch.Tensor
        c > 0.

    Returns
    -------
    torch.Tensor
        Shape [B, C].

    Example
    -------
    >>> tangent_matrix(torch.zeros(1, 2), torch.eye(2))
    tensor([[2., 2.]])
    """
    root = curvature**0.5
    (a, al, p, ea), (b, be, q, eb) = polar(u, root), polar(v, root)
    one_u, one_v = torch.ones_like(a), torch.ones_like(b)
    x = torch.cat([-0.5 * al * normalize(u), 0.5 * al, p * p, -2 * p, one_u], 1)
    w = torch.cat([be * normalize(v), be, one_v, q, q * q], 1)
    t = exact_product(x, w)
    pq = ea * eb.t()
    resolved = RESOLUTION * torch.finfo(t.dtype).eps * (al * be.t()).detach()
    t = torch.where(t > resolved, t, 0.0)
    return _distance_of(t, a, b.t(), pq) / root
