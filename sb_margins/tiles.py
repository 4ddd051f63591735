"""Scores of a batch against a range of classes, and their gradients by hand.

A tile is [B, n]: one matrix product ``left @ right.T`` and a few passes in place. For
backward a tile of gradients towards that product gives, again by products, those of
``left`` (the embeddings' side) and ``right`` (the classes' side).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sb_margins.poincare import Matched, clip_radius, shrink, shrink_grad
from sb_margins.precision import SMALL_NORM, on_cpu, safe_norm, tangent

RESOLVED = 16  # times eps: what a product resolves in cosh(d) - 1


class LinearTiles:
    """``x . w_j + b_j``.

    Arguments
    ---------
    state : sequence of torch.Tensor
        From :meth:`prepare`; what backward needs again.
    scale : float
        Multiplies the scores.

    Example
    -------
    >>> x, weight = torch.ones(1, 2), torch.eye(2)
    >>> tiles = LinearTiles(LinearTiles.prepare(x, weight, None), 3.0)
    >>> tiles.logits_(0, 2, torch.empty(1, 2), None)
    tensor([[3., 3.]])
    """

    sign = 1.0  # of d(logit) / d(product)
    spare = False  # whether logits_ leaves something in a second tile
    exact = False  # whether TF32 would spoil the product
    direct = True  # whether right is the weight itself
    reach: float | None = None  # largest |score|, where there is one

    def __init__(self, state: Any, scale: float, **_: Any) -> None:
        self.left, self.weight, *rest = state
        self.bias = rest[0] if rest else None
        self.scale = scale

    @staticmethod
    def prepare(x: Tensor, weight: Tensor, bias: Tensor | None, **_: Any) -> tuple:
        """The tensors of one evaluation: [B, K] for the left side, the weight, ..."""
        return (x, weight) if bias is None else (x, weight, bias)

    def target(self, x: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Scores of the embeddings against the rows of their own classes, [B]."""
        score = (self.left * rows).sum(1)
        return score if bias is None else score + bias

    def target_grad(
        self, x: Tensor, rows: Tensor, grad: Tensor, dleft: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the gradients of :meth:`target` and of left: those of x and rows."""
        dleft.addcmul_(rows, grad.unsqueeze(1))
        return self.left_grad(x, dleft), self.left * grad.unsqueeze(1)

    def logits_(self, low: int, high: int, z: Tensor, spare: Tensor | None) -> Tensor:
        """Write the scaled scores of the classes low..high into z [B, n]."""
        torch.mm(self.left, self.right(low, high).t(), out=z)
        if self.bias is not None:
            z.add_(self.bias[low:high])
        return z.mul_(self.scale) if self.scale != 1 else z

    def right(self, low: int, high: int) -> Tensor:
        """The classes' side of the product, [n, K]."""
        return self.weight[low:high]

    def chain(self, e: Tensor, low: int, high: int, spare: Any, out: Tensor) -> Tensor:
        """Gradient towards the scores to that towards the product (no sign)."""
        return e

    def weight_grad_(self, low: int, high: int, grad: Tensor, out: Tensor) -> None:
        """Gradient of right [n, K] to that of the weight [n, D]."""
        out.copy_(grad)

    def left_grad(self, x: Tensor, grad: Tensor) -> Tensor:
        """Gradient of left [B, K] to that of the embeddings x [B, D]."""
        return grad


class CosineTiles(LinearTiles):
    """``x . w_j / (|x| |w_j|)``; 1/|w_j| multiplies the tile, not the weight.

    Example
    -------
    >>> x, weight = torch.tensor([[3.0, 4.0]]), 2 * torch.eye(2)
    >>> tiles = CosineTiles(CosineTiles.prepare(x, weight, None), 1.0)
    >>> tiles.logits_(0, 2, torch.empty(1, 2), None)
    tensor([[0.6000, 0.8000]])
    """

    reach = 1.0
    direct = False

    def __init__(
        self, state: Any, scale: float, *, fresh: bool = True, **_: Any
    ) -> None:
        self.left, self.weight, self.norm, self.inverse = state
        self.scale, self.fresh = scale, fresh
        self._spare: Tensor | None = None
        self._scaled: Tensor | None = None
        # whether some w may have no direction (a GPU is not asked: it would wait)
        ask = not fresh and on_cpu(self.inverse.device)
        self._lost = not ask or self.inverse.amax().item() >= 1 / SMALL_NORM

    @staticmethod
    def prepare(x: Tensor, weight: Tensor, bias: Any, **_: Any) -> tuple:
        """Unit embeddings, the weight, the norms of x, room for those of w.

        The norms of w are taken tile by tile, just before the tile's product: one
        trip of the weight from memory less.
        """
        norm = safe_norm(x).clamp_min_(SMALL_NORM).unsqueeze(1)
        return x / norm, weight, norm, weight.new_empty(len(weight))

    def target(self, x: Tensor, rows: Tensor, bias: Any) -> Tensor:
        """Cosines of the embeddings with the rows of their own classes, [B]."""
        return (self.left * rows).sum(1) / safe_norm(rows).clamp_min_(SMALL_NORM)

    def target_grad(
        self, x: Tensor, rows: Tensor, grad: Tensor, dleft: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the gradients of :meth:`target` and of left: those of x and rows."""
        norm = safe_norm(rows).clamp_min_(SMALL_NORM).unsqueeze(1)
        unit, grad = rows / norm, grad.unsqueeze(1)
        dleft.addcmul_(unit, grad)
        return self.left_grad(x, dleft), tangent(self.left * grad, unit, norm)

    def logits_(self, low: int, high: int, z: Tensor, spare: Any) -> Tensor:
        """Write the scaled cosines of the classes low..high into z [B, n]."""
        w, inverse = self.weight[low:high], self.inverse[low:high]
        if self.fresh:
            torch.clamp_min(safe_norm(w), SMALL_NORM, out=inverse).reciprocal_()
        if self._scaled is None:
            self._scaled = self.left * self.scale
        torch.mm(self._scaled, w.t(), out=z)
        return z.mul_(inverse)

    def chain(self, e: Tensor, low: int, high: int, spare: Any, out: Tensor) -> Tensor:
        """Gradient towards the cosines to that towards ``x^ . w``."""
        return torch.mul(e, self.inverse[low:high], out=out)

    def weight_grad_(self, low: int, high: int, grad: Tensor, out: Tensor) -> None:
        """Leave the part across w."""
        w, inverse = self.weight[low:high], self.inverse[low:high]
        if self._spare is None or len(self._spare) < len(w):
            self._spare = torch.empty_like(grad)
        along = torch.mul(w, grad, out=self._spare[: len(w)]).sum(1)
        along.mul_(inverse)
        if self._lost:
            along.masked_fill_(inverse >= 1 / SMALL_NORM, 0.0)
        along.mul_(inverse)
        torch.addcmul(grad, w, along.unsqueeze(1), value=-1, out=out)

    def left_grad(self, x: Tensor, grad: Tensor) -> Tensor:
        """Leave the part across x, over its norm."""
        return tangent(grad, self.left, self.norm)


class UnitBallTiles(LinearTiles):
    """Negative Poincaré distances in the unit metric.

    The product is cosh d itself: with g = 1 / (1 - |.|^2) and h = g |.|^2,

        cosh d = 1 + 2 g_x g_w |x - w|^2
               = -4 (g_x x) . (g_w w) + 2 (g_x + h_x) h_w + (1 + 2 h_x)

    and d = log(u + R), R = sqrt(u^2 - 1), dd/du = 1/R.

    Example
    -------
    >>> x, weight = torch.tensor([[0.1, 0.2]]), torch.tensor([[-0.3, 0.05]])
    >>> state = UnitBallTiles.prepare(x, weight, None, curvature=2.0)
    >>> tiles = UnitBallTiles(state, 1.0, curvature=2.0)
    >>> tiles.logits_(0, 1, torch.empty(1, 1), torch.empty(1, 1))
    tensor([[-0.8905]])
    """

    sign = -1.0
    spare = True
    exact = True
    direct = False

    def __init__(
        self, state: Any, scale: float, *, curvature: float, fresh: bool = True
    ) -> None:
        self.left, self.weight, self.norm, self.norm_w = state
        self.radius = clip_radius(curvature)
        self.scale, self.fresh = scale, fresh
        self._buffer: Tensor | None = None
        self._made: tuple[Tensor, Tensor] | None = None  # of the last right side
        self._minus_one = self.left.new_full((), -1.0)

    @property
    def reach(self) -> float:  # type: ignore[override]
        """The largest distance there is between clipped points."""
        return 4 * math.atanh(self.radius)

    @staticmethod
    def _factors(norm: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """alpha with g x' = alpha x, and h."""
        square = norm.clamp_max(radius).square_()
        g = (1 - square).reciprocal_()
        return norm.clamp_min(radius).reciprocal_().mul_(radius).mul_(g), square.mul_(g)

    @staticmethod
    def prepare(  # type: ignore[override]
        x: Tensor, weight: Tensor, bias: Any, *, curvature: float
    ) -> tuple:
        """The left side, the weight, and per-row numbers of both."""
        norm = safe_norm(x)
        alpha, h = UnitBallTiles._factors(norm, clip_radius(curvature))
        h = h.unsqueeze(1)
        left = torch.cat([-4 * alpha.unsqueeze(1) * x, 2 + 4 * h, 1 + 2 * h], 1)
        return left, weight, norm, weight.new_empty(len(weight))

    def target(self, x: Tensor, rows: Tensor, bias: Any) -> Tensor:
        """Negative distances to the rows of the own classes, exact for close ones."""
        norm = self.norm.unsqueeze(1)
        return -self._matched(x, norm, rows, safe_norm(rows).unsqueeze(1)).distance()

    def target_grad(
        self, x: Tensor, rows: Tensor, grad: Tensor, dleft: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From the gradients of :meth:`target` and of left: those of x and rows."""
        norm, norm_w = self.norm.unsqueeze(1), safe_norm(rows).unsqueeze(1)
        pair = self._matched(x, norm, rows, norm_w)
        dx, drows = pair.gradients(-grad)
        dx = shrink_grad(dx, pair.x, norm, self.radius)
        drows = shrink_grad(drows, pair.w, norm_w, self.radius)
        return dx.add_(self.left_grad(x, dleft)), drows

    def _matched(self, x: Tensor, norm: Tensor, w: Tensor, norm_w: Tensor) -> Matched:
        x, w = shrink(x, norm, self.radius), shrink(w, norm_w, self.radius)
        return Matched.of(x, w)

    def _room(self, n: int) -> Tensor:
        if self._buffer is None or len(self._buffer) < n:
            self._buffer = self.weight.new_empty(n, self.weight.shape[1] + 2)
        return self._buffer[:n]

    def right(self, low: int, high: int) -> Tensor:
        """[n, D + 2]: alpha w, h, 1."""
        n, size = high - low, self.weight.shape[1]
        right = self._room(n)
        w, norm = self.weight[low:high], self.norm_w[low:high]
        if self.fresh:
            norm.copy_(safe_norm(w))
        self._made = alpha, h = self._factors(norm, self.radius)
        torch.mul(w, alpha.unsqueeze(1), out=right[:, :size])
        right[:, size] = h
        right[:, size + 1] = 1
        return right

    def logits_(self, low: int, high: int, z: Tensor, spare: Any) -> Tensor:
        """Write -scale d into z, and R into spare, both [B, n]."""
        torch.mm(self.left, self.right(low, high).t(), out=z)
        z.clamp_(min=1 + RESOLVED * torch.finfo(z.dtype).eps)
        torch.addcmul(self._minus_one, z, z, out=spare).sqrt_()
        return z.add_(spare).log_().mul_(-self.scale)

    def chain(self, e: Tensor, low: int, high: int, spare: Any, out: Tensor) -> Tensor:
        """Gradient towards -d to that towards cosh d, without its sign."""
        return torch.div(e, spare, out=out)

    def weight_grad_(self, low: int, high: int, grad: Tensor, out: Tensor) -> None:
        """Through the clipping and g, h of each class, after its :meth:`right`."""
        w, size = self.weight[low:high], self.weight.shape[1]
        # the tile's right side has been used: its place is free
        spare = self._room(high - low)[:, :size]
        dv, dh = grad[:, :size], grad[:, size]
        self._through(w, self.norm_w[low:high], self._made, dv, dh, spare, out)

    def left_grad(self, x: Tensor, grad: Tensor) -> Tensor:
        """Through the clipping and g, h of each embedding."""
        size = x.shape[1]
        dv, dh = grad[:, :size], -grad[:, size] - grad[:, size + 1] / 2
        out = torch.empty_like(x)
        made = self._factors(self.norm, self.radius)
        self._through(x, self.norm, made, dv, dh, torch.empty_like(x), out)
        return out.mul_(-4)

    def _through(
        self, x: Tensor, norm: Tensor, made: Any, dv: Any, dh: Any, spare: Any, out: Any
    ) -> None:
        """Gradients of alpha x [n, D] and h [n] to that of x, in out."""
        alpha, h = made
        along = torch.mul(x, dv, out=spare).sum(1)
        g, far = 1 + h, norm.clamp_min(self.radius)
        outside = (along / far).mul_(alpha).div_(far).neg_()
        inside = g.square_().mul_(2).mul_(along.add_(dh))
        beta = torch.where(norm > self.radius, outside, inside)
        torch.mul(dv, alpha.unsqueeze(1), out=out)
        out.addcmul_(x, beta.unsqueeze(1))
