"""Scores of a batch against a range of classes, and their gradients.

A tile of scores [B, n] is one matrix product, ``left @ right.T``, and a few passes in
place. ``left`` [B, K] comes from the embeddings by ordinary autograd. ``right`` [n, K]
comes from the weight a range of classes at a time, with its gradient by hand: nothing
of size [C, D] is made beside the weight and its gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sb_margins.poincare import clip, clip_radius, distance
from sb_margins.precision import (
    SMALL_NORM,
    full_precision,
    normalize,
    on_cpu,
    safe_norm,
)

TILE_NUMBERS = 1 << 19  # numbers of a tile on a CPU at most: 2 MiB, for its cache
BUFFERS = 0.25  # of [B, C]: the memory of all buffers of a tile on a CPU, at most
ACCELERATOR_TILE = 1 << 16  # classes
RESOLVED = 16  # times eps: what a matrix product resolves in cosh(d) - 1


def class_ranges(
    batch: int,
    size: int,
    classes: int,
    device: torch.device,
    stored: bool = False,
    slopes: bool = False,
    tile: int | None = None,
) -> list[tuple[int, int]]:
    """Where the tiles begin and end: the one rule for their size.

    On a CPU a tile and what is computed with it stay in the cache. ``stored``: its
    scores have their own place. ``slopes``: they come with a second tile, of slopes.
    """
    if tile is None:
        tile = ACCELERATOR_TILE
        if on_cpu(device):
            second = batch * slopes
            per_class = size + (max(size, second) if stored else size + batch + second)
            numbers = TILE_NUMBERS if stored else TILE_NUMBERS // 4
            tile = min(numbers // batch, int(BUFFERS * batch * classes / per_class))
            tile = max(256, tile // 64 * 64)
    return [(low, min(low + tile, classes)) for low in range(0, classes, tile)]


class Buffers:
    """Memory by name, used again for every tile: on a CPU fresh memory is slow."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._memory: dict[str, Tensor] = {}

    def __call__(self, name: str, rows: int, columns: int) -> Tensor:
        """An uninitialised [rows, columns]; what was in memory of its name is lost."""
        size = rows * columns
        if name not in self._memory or self._memory[name].numel() < size:
            self._memory[name] = self._like.new_empty(size)
        return self._memory[name][:size].view(rows, columns)


Factors = tuple[Tensor, ...]  # numbers per class, each [n]


class LinearSpace:
    """Scores ``x . w``. What a geometry says about both sides of the product."""

    right_is_weight = True
    sign = 1.0  # of d(score) / d(product)
    slopes = False  # whether d(score) / d(product) needs a second tile
    reach: float | None = None  # the largest |score|, where there is one

    def points(self, x: Tensor) -> Tensor:
        """Embeddings or rows of the weight, ready for :meth:`pair`."""
        return x

    def pair(self, points: Tensor, others: Tensor) -> Tensor:
        """Scores [B] of matched points, to all digits also where they are close."""
        return (points * others).sum(1)

    def left(self, points: Tensor) -> Tensor:
        """The embeddings' side of the product, [B, K]."""
        return points

    def norms(self, rows: Tensor) -> Tensor | None:
        """Norms of the rows [n] where they matter; forward keeps them for backward."""
        return None

    def factors(self, norms: Tensor) -> Factors:
        """What :meth:`right` and :meth:`scores_` need of the norms."""
        return ()

    def all_factors(self, norms: Tensor) -> Factors:
        """The same and what :meth:`to_weight_` needs."""
        return self.factors(norms)

    def right(self, rows: Tensor, factors: Factors, buffers: Buffers) -> Tensor:
        """The classes' side of the product, [n, K]."""
        return rows

    def scores_(self, product: Tensor, factors: Factors, slopes: Any) -> None:
        """The product to the scores, in place."""

    def to_product(
        self, grad: Tensor, factors: Factors, slopes: Any, out: Tensor
    ) -> Tensor:
        """Gradient of the scores to that of the product, without :attr:`sign`."""
        return grad

    def to_weight_(
        self,
        grad: Tensor,
        rows: Tensor,
        factors: Factors,
        out: Tensor,
        buffers: Buffers,
    ) -> None:
        """Gradient of :meth:`right` to that of the rows, into out [n, D]."""
        raise NotImplementedError


class CosineSpace(LinearSpace):
    """Scores ``x . w / (|x| |w|)``; 1 / |w| multiplies the tile, not the weight."""

    right_is_weight = False
    reach = 1.0

    def points(self, x: Tensor) -> Tensor:
        return normalize(x)

    def norms(self, rows: Tensor) -> Tensor:
        return safe_norm(rows).clamp_min_(SMALL_NORM)

    def factors(self, norms: Tensor) -> Factors:
        return (norms.reciprocal(),)

    def all_factors(self, norms: Tensor) -> Factors:
        inverse = norms.reciprocal()
        return inverse, inverse.masked_fill(norms <= SMALL_NORM, 0.0)

    def scores_(self, product: Tensor, factors: Factors, slopes: Any) -> None:
        product.mul_(factors[0])

    def to_product(self, grad, factors, slopes, out) -> Tensor:
        return torch.mul(grad, factors[0], out=out)

    def to_weight_(self, grad, rows, factors, out, buffers) -> None:
        """The part across w; all of it where w has no direction."""
        inverse, or_zero = factors
        along = torch.mul(rows, grad, out=buffers("along", *rows.shape)).sum(1)
        along.mul_(or_zero).mul_(inverse)
        torch.addcmul(grad, rows, along.unsqueeze(1), value=-1, out=out)


class AdjustedCosineSpace(CosineSpace):
    """Scores ``g(cos)`` with ``g(z) = 2 ((z + 1) / 2)^t - 1``; g' is a second tile."""

    slopes = True

    def __init__(self, t: float) -> None:
        self.t = t

    def adjust(self, cosines: Tensor) -> Tensor:
        """``g`` of cosines."""
        return 2 * ((cosines + 1) / 2).clamp_min(0).pow(self.t) - 1

    def pair(self, points: Tensor, others: Tensor) -> Tensor:
        return self.adjust(super().pair(points, others))

    def scores_(self, product: Tensor, factors: Factors, slopes: Any) -> None:
        half = product.mul_(factors[0]).add_(1).div_(2).clamp_(min=0)
        torch.pow(half, self.t - 1, out=slopes)
        half.mul_(slopes).mul_(2).sub_(1)
        slopes.mul_(self.t)

    def to_product(self, grad, factors, slopes, out) -> Tensor:
        return torch.mul(grad, slopes, out=out).mul_(factors[0])


class UnitBallSpace(LinearSpace):
    """Negative Poincaré distances in the unit metric.

    The product is cosh d itself: with g = 1 / (1 - |.|^2) and h = g |.|^2 of the
    clipped points,

        cosh d = 1 + 2 g_x g_w |x - w|^2
               = -4 (g_x x) . (g_w w) + (2 + 4 h_x) h_w + (1 + 2 h_x)

    and d = log(u + R) with u = cosh d, R = sqrt(u^2 - 1) and dd/du = 1/R.
    """

    right_is_weight = False
    sign = -1.0
    slopes = True

    def __init__(self, curvature: float) -> None:
        self.radius = clip_radius(curvature)
        self.reach = 4 * math.atanh(self.radius)

    def points(self, x: Tensor) -> Tensor:
        return clip(x, radius=self.radius)

    def pair(self, points: Tensor, others: Tensor) -> Tensor:
        return -distance(points, others)

    def left(self, points: Tensor) -> Tensor:
        square = points.square().sum(1, keepdim=True)
        g = (1 - square).reciprocal()
        h = g * square
        return torch.cat([-4 * g * points, 2 + 4 * h, 1 + 2 * h], 1)

    def norms(self, rows: Tensor) -> Tensor:
        return safe_norm(rows)

    def factors(self, norms: Tensor) -> Factors:
        """alpha with alpha w = g w of the clipped w, and h."""
        square = norms.clamp_max(self.radius).square_()
        g = (1 - square).reciprocal_()
        shrink = norms.clamp_min(self.radius).reciprocal_().mul_(self.radius)
        return shrink.mul_(g), square.mul_(g)

    def all_factors(self, norms: Tensor) -> Factors:
        """Inside the radius alpha = g and dg/dw = dh/dw = 2 g^2 w; beyond it
        dalpha/dw = -(alpha / |w|) w / |w|, and h is constant."""
        alpha, h = self.factors(norms)
        beyond, far = norms > self.radius, norms.clamp_min(self.radius)
        inside = (1 + h).square_().mul_(2)
        radial = torch.where(beyond, -alpha / far, inside)
        other = torch.where(beyond, 1 / far, 1.0)
        return alpha, h, radial, other, inside.masked_fill_(beyond, 0.0)

    def right(self, rows: Tensor, factors: Factors, buffers: Buffers) -> Tensor:
        alpha, h = factors[:2]
        n, size = rows.shape
        right = buffers("right", n, size + 2)
        torch.mul(rows, alpha.unsqueeze(1), out=right[:, :size])
        right[:, size] = h
        right[:, size + 1] = 1
        return right

    def scores_(self, product: Tensor, factors: Factors, slopes: Any) -> None:
        """The product to -d; R goes to ``slopes``.

        cosh d is kept off 1, where the rounding of the product would become a
        gradient without bound.
        """
        u = product.clamp_(min=1 + RESOLVED * torch.finfo(product.dtype).eps)
        torch.addcmul(u.new_full((), -1.0), u, u, out=slopes).sqrt_()
        u.add_(slopes).log_()

    def to_product(self, grad, factors, slopes, out) -> Tensor:
        return torch.div(grad, slopes, out=out)

    def to_weight_(self, grad, rows, factors, out, buffers) -> None:
        """Through alpha w and h."""
        alpha, _, radial, other, dh_dw = factors
        n, size = rows.shape
        dv, dh = grad[:, :size], grad[:, size]
        # the tile's right side has been used: its place is free
        along = torch.mul(rows, dv, out=buffers("right", n, size)).sum(1)
        along.mul_(other).mul_(radial).addcmul_(dh_dw, dh)
        torch.mul(dv, alpha.unsqueeze(1), out=out)
        out.addcmul_(rows, along.unsqueeze(1))


class Tiles:
    """The classes of one evaluation in a space, a range of them at a time."""

    def __init__(
        self,
        space: LinearSpace,
        left: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        scale: float = 1.0,
        norms: Tensor | None = None,
    ) -> None:
        self.space, self.weight, self.scale = space, weight, scale
        self.left, self.bias = left, bias
        self.buffers = Buffers(weight)
        self.norms = weight.new_empty(len(weight)) if norms is None else norms
        self._is_forward = norms is None
        self._range: tuple[int, int] | None = None  # whose factors these are:
        self._factors: Factors = ()
        # a scale of the product is one of its left side, but not a scale of distances
        self._scaled: Tensor | None = None
        if scale == 1 or space.slopes:
            self._scaled = left

    def factors(self, low: int, high: int) -> Factors:
        """The factors of a range of classes; only those of the last one are kept."""
        if self._range != (low, high):
            space = self.space
            make = space.factors if self._is_forward else space.all_factors
            self._range, self._factors = (low, high), make(self.norms[low:high])
        return self._factors

    def scores_(
        self, low: int, high: int, out: Tensor, slopes: Tensor | None
    ) -> Tensor:
        """Scale times the scores of the classes low..high, into out [B, n]."""
        rows = self.weight[low:high]
        if self._is_forward:  # norms just before the product: one trip to memory
            norms = self.space.norms(rows)
            if norms is not None:
                self.norms[low:high] = norms
        if self._scaled is None:
            self._scaled = self.left * self.scale
        factors = self.factors(low, high)
        right = self.space.right(rows, factors, self.buffers)
        torch.mm(self._scaled, right.t(), out=out)
        if self.bias is not None:
            out.add_(self.bias[low:high] * self.scale)
        self.space.scores_(out, factors, slopes)
        if self.space.slopes:
            out.mul_(self.space.sign * self.scale)
        return out

    def to_product(
        self, grad: Tensor, low: int, high: int, slopes: Tensor | None, out: Tensor
    ) -> Tensor:
        """Gradient of a tile of scores to that of its product, without the sign."""
        return self.space.to_product(grad, self.factors(low, high), slopes, out)

    def right(self, low: int, high: int) -> Tensor:
        """The classes' side of the product, [n, K]."""
        rows = self.weight[low:high]
        return self.space.right(rows, self.factors(low, high), self.buffers)

    def weight_grad_(
        self, grad: Tensor, left: Tensor, low: int, high: int, out: Tensor
    ) -> None:
        """From the product's gradient [B, n], times left [B, K]: that of the rows."""
        if self.space.right_is_weight:
            torch.mm(grad.t(), left, out=out)
            return
        rows = self.weight[low:high]
        # the tile's slopes have been used: their place is free
        dright = self.buffers("slopes", len(rows), left.shape[1])
        torch.mm(grad.t(), left, out=dright)
        self.space.to_weight_(dright, rows, self.factors(low, high), out, self.buffers)


class _AllScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, left, weight, bias, space, ranges):
        tiles = Tiles(space, left, weight, bias)
        out = left.new_empty(len(left), len(weight))
        slopes = torch.empty_like(out) if space.slopes else None
        with full_precision(left.device):
            for low, high in ranges:
                part = None if slopes is None else slopes[:, low:high]
                tiles.scores_(low, high, out[:, low:high], part)
        ctx.space, ctx.ranges, ctx.biased = space, ranges, bias is not None
        ctx.save_for_backward(left, weight, tiles.norms, slopes)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        left, weight, norms, slopes = ctx.saved_tensors
        tiles = Tiles(ctx.space, left, weight, norms=norms)
        signed = left * ctx.space.sign
        dleft, dweight = torch.zeros_like(left), torch.empty_like(weight)
        with full_precision(grad.device):
            for low, high in ctx.ranges:
                out = tiles.buffers("tile", len(left), high - low)
                part = None if slopes is None else slopes[:, low:high]
                m = tiles.to_product(grad[:, low:high], low, high, part, out)
                dleft.addmm_(m, tiles.right(low, high))
                tiles.weight_grad_(m, signed, low, high, dweight[low:high])
        dbias = grad.sum(0) if ctx.biased else None
        return dleft.mul_(ctx.space.sign), dweight, dbias, None, None


def all_scores(
    space: LinearSpace, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Scores [B, C] of embeddings [B, D] in a space; backward keeps little else."""
    batch, size = x.shape
    ranges = class_ranges(batch, size, len(weight), x.device)
    return _AllScores.apply(space.left(space.points(x)), weight, bias, space, ranges)
