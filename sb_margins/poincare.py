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

import torch
from torch import Tensor

from sb_margins.precision import exact_product, normalize, safe_norm

EDGE = 1e-5  # of the ball, as released
RESOLUTION = 8  # times eps: what a product of matrices resolves in T


def clip_radius(curvature: float) -> float:
    """Largest norm in the unit metric, ``(1 - 1e-5) / sqrt(c)`` with c > 1."""
    return (1 - EDGE) / curvature**0.5


def norm(x: Tensor) -> Tensor:
    """Euclidean norm [..., 1] of any finite vector; its gradient at the origin is 0."""
    return (x * normalize(x.detach())).sum(-1, keepdim=True)


class _Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, radius):
        norm = safe_norm(x).unsqueeze(-1)
        clipped = x * (radius / norm.clamp_min(radius))
        ctx.save_for_backward(clipped, norm)
        ctx.radius = radius
        return clipped

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (clipped, norm), radius = ctx.saved_tensors, ctx.radius
        along = (clipped * grad).sum(-1, keepdim=True) / radius**2
        along.masked_fill_(norm <= radius, 0.0)
        across = torch.addcmul(grad, clipped, along, value=-1)
        return across.mul_(radius / norm.clamp_min(radius)), None


def clip(x: Tensor, *, radius: float) -> Tensor:
    """Vectors [..., D] longer than a radius brought back to it, others untouched.

    Beyond the radius no gradient flows along x.
    """
    return _Clip.apply(x, radius)


def exp_map(v: Tensor, *, curvature: float | Tensor) -> Tensor:
    """Exponential map at the origin: ``tanh(sqrt(c) |v|) v / (sqrt(c) |v|)``.

    Tangent vectors [..., D] to points of the ball of curvature -c.
    """
    root = curvature**0.5
    return torch.tanh(root * norm(v)) / root * normalize(v)


class _Distance(torch.autograd.Function):
    """``cosh d = 1 + 2 t``, t from the difference of the points.

    With g = 1 / (1 - |.|^2), t = g_x g_w |x - w|^2 and dd/dt = 1 / sqrt(t (t + 1)).
    """

    @staticmethod
    def forward(ctx, x, w):
        gx = 1 / (1 - x.square().sum(-1, keepdim=True))
        gw = 1 / (1 - w.square().sum(-1, keepdim=True))
        t = gx * gw * (x - w).square().sum(-1, keepdim=True)
        ctx.save_for_backward(x, w, gx, gw, t)
        return 2 * torch.asinh(t.sqrt()).squeeze(-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, w, gx, gw, t = ctx.saved_tensors
        slope = (t * (t + 1)).sqrt()
        same = slope == 0  # no direction is steepest
        rate = 2 * grad.unsqueeze(-1) / slope.masked_fill(same, 1)
        rate.masked_fill_(same, 0.0)
        across = (x - w).mul_(rate * gx * gw)
        along = rate * t
        dw = torch.addcmul(-across, w, along * gw)
        return across.addcmul_(x, along * gx), dw


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Distance [...] of matched points [..., D] of the ball of curvature -1, norm < 1.

    Relatively exact for close points too; the gradient is 0 where they are equal.
    """
    return _Distance.apply(*torch.broadcast_tensors(x, y))


def _polar(u: Tensor, root: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Polar radius a of tangent vectors, 1 - e^-2a, e^-a - 1 and e^-a, all [..., 1]."""
    a = 2 * root * norm(u)
    return a, -torch.expm1(-2 * a), torch.expm1(-a), torch.exp(-a)


def _distance_from(t: Tensor, a: Tensor, b: Tensor, pq: Tensor) -> Tensor:
    """sqrt(c) d from T and pq = e^-a-b; no gradient through T where it is 0."""
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


def tangent_distance(u: Tensor, v: Tensor, *, curvature: float | Tensor) -> Tensor:
    """Textbook distance [...] of the points that matched tangent vectors map to."""
    root = curvature**0.5
    (a, al, _, p), (b, be, _, q) = _polar(u, root), _polar(v, root)
    gap = normalize(u) - normalize(v)
    half = 0.25 * gap.square().sum(-1, keepdim=True)  # sin^2(angle / 2)
    near = torch.minimum(a, b)
    radial = (torch.expm1(-(a - b).abs()) * torch.exp(-near)).square()
    t = al * be * half + radial
    return _distance_from(t, a, b, p * q).squeeze(-1) / root


def tangent_matrix(u: Tensor, v: Tensor, *, curvature: float | Tensor) -> Tensor:
    """Textbook distances [B, C] of all pairs of tangent vectors, by one product."""
    root = curvature**0.5
    (a, al, p, ea), (b, be, q, eb) = _polar(u, root), _polar(v, root)
    one_u, one_v = torch.ones_like(a), torch.ones_like(b)
    x = torch.cat([-0.5 * al * normalize(u), 0.5 * al, p * p, -2 * p, one_u], 1)
    w = torch.cat([be * normalize(v), be, one_v, q, q * q], 1)
    t = exact_product(x, w)
    pq = ea * eb.t()
    resolved = RESOLUTION * torch.finfo(t.dtype).eps * (al * be.t()).detach()
    t = torch.where(t > resolved, t, 0.0)
    return _distance_from(t, a, b.t(), pq) / root
