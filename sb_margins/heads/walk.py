"""The tiled evaluator: walks over the classes, keeps one [B, C] or none.

Forward turns each tile of logits into the exponentials of its kept non-targets, in
place, and either stores them or keeps only their sums and makes each tile again in
backward. Backward makes no elementwise pass over [B, C]: the exponentials go into two
matrix products as they are, and 1 / sum and the incoming gradient scale the embeddings'
side of them instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sb_margins.losses.nontargets import (
    LN2,
    Keep,
    Kept,
    count_kept,
    drop_small_,
    exponentials_,
    row_weight,
    shift_of,
    sparse_factor,
    sum_of_all,
    together,
)
from sb_margins.precision import full_precision, on_cpu
from sb_margins.ranks import ALONE, Ranks
from sb_margins.tiles import LinearSpace, Tiles

FEW = 0.75  # below this share of rows with a gradient the others are left out


class Plan(NamedTuple):
    """How to evaluate."""

    space: LinearSpace
    scale: float
    keep: Keep
    ranges: list[tuple[int, int]]  # of the classes of each tile
    store: bool
    ranks: Ranks = ALONE  # that hold other classes


class Sums(NamedTuple):
    """What the tiles of a walk leave, together."""

    best: Tensor  # the best non-target logit, bits, [B, 1]
    top: Tensor  # the largest height, bits, [B, 1]
    total: Tensor  # sum over the kept of 2^(logit - top), [B, 1]
    number: Tensor | None  # how many were kept, unless all; of "each": softplus, [B, 1]
    shift: Tensor  # of each tile's exponents, bits, [B, tiles]
    factor: Tensor | None  # of each tile's exponentials (AS-Softmax), [B, tiles]
    share: Tensor  # 2^(height - top) of each tile, at most 1, [B, tiles]


class Walk:
    """One walk over the classes, forward or backward."""

    def __init__(
        self,
        plan: Plan,
        left: Tensor,
        labels: Tensor,
        cut: Tensor,
        tiles: Tiles,
        stored: Tensor | None,
        in_range: bool,
    ) -> None:
        self.plan, self.left, self.tiles, self.stored = plan, left, tiles, stored
        self.labels, self.cut = labels, cut  # cut: see Keep.cut, in bits, [B, 1]
        self.in_range = in_range
        self._positions: list[Tensor] | None = None  # of the targets in each tile

    def forward(self) -> Sums:
        """The walk: the logits of each tile become exponentials, and leave their sums.

        A tile's exponentials are relative to its own shift, so that they stay finite;
        its total counts in units of 2^height, and the heights bring the tiles together.
        """
        keep, in_range = self.plan.keep, self.in_range
        sparse, counts = keep.kind == "sparse", keep.kind in ("violating", "each")
        best, shift, total, number = [], [], [], []  # one [B, 1] per tile
        for i in range(len(self.plan.ranges)):
            tile = self.logits(i)
            best.append(tile.amax(1, keepdim=True))
            shift.append(shift_of(best[i], self.cut, keep, in_range))
            spare = self._buffer("spare", i) if counts else None
            kept = exponentials_(tile, shift[i], self.cut, keep, in_range, spare)
            total.append(tile.sum(1, keepdim=True))
            if kept is not None:
                number.append(kept)
            if self.stored is not None and not sparse:
                self.times_slope_(tile, i)
        bests, shifts, totals = (torch.cat(x, 1) for x in (best, shift, total))
        numbers = torch.cat(number, 1) if counts else None
        heights, factors = shifts, None
        if sparse:
            totals, numbers, factors = self._drop_far(shifts, totals)
            heights = shifts - factors.log2()
        all_tiles = together(bests, heights, totals, numbers, self.plan.ranks)
        return Sums(*all_tiles[:-1], shifts, factors, all_tiles.share)

    def _drop_far(
        self, shifts: Tensor, totals: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """AS-Softmax's second walk: with the sum of all known, drop what is far behind.

        Totals, numbers and factors, all [B, tiles]. The stored exponentials are still
        there, unless their slopes are gone (the next tile's replaced them).
        """
        plan, cut = self.plan, self.cut
        every, top = sum_of_all(totals, shifts, cut, self.in_range, plan.ranks)
        factors, whole = sparse_factor(
            every, shifts, top, cut, plan.keep.delta, self.in_range
        )
        total, number = [], []
        for i, (low, high) in enumerate(plan.ranges):
            if self.stored is None or plan.space.slopes:
                tile = self.logits(i)
                shift = shifts[:, i : i + 1]
                exponentials_(tile, shift, cut, plan.keep, self.in_range)
            else:
                tile = self._place(i)
            total.append(drop_small_(tile, factors[:, i : i + 1]).sum(1, keepdim=True))
            kept = count_kept(tile, self._buffer("spare", i))
            number.append(torch.where(whole, self._others(low, high), kept))
            if self.stored is not None:
                self.times_slope_(tile, i)
        return torch.cat(total, 1), torch.cat(number, 1), factors

    def backward(
        self, sums: Sums, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of left, the classes' weight and bias.

        ``weight`` [B, 1] is the gradient of the exponentials of each row.
        """
        tiles, left, share = self.tiles, self.left, sums.share
        dw = torch.empty_like(tiles.weight)
        dbias = None if bias is None else torch.empty_like(bias)
        active = _active_rows(weight, self.plan.keep)
        if active is not None:
            left, weight, share = left[active], weight[active], share[active]
        if len(weight) == 0:
            dbias = None if dbias is None else dbias.zero_()
            return torch.zeros_like(self.left), dw.zero_(), dbias
        # tiles of the same height: their common factor waits until the end
        same = self.in_range or len(self.plan.ranges) == 1
        if len(self.plan.ranges) == 1:
            weight = weight * share  # 1, unless other ranks have larger ones
        part, factor = torch.zeros_like(left), weight
        scaled = left * weight
        for i, (low, high) in enumerate(self.plan.ranges):
            e = self._place(i) if self.stored is not None else self._again(i, sums)
            if active is not None:
                e = e[active]
            right = tiles.right(low, high)
            if same:
                part.addmm_(e, right)
            else:
                part.addcmul_(e @ right, share[:, i : i + 1])
                factor = weight * share[:, i : i + 1]
                scaled = left * factor
            if dbias is not None:
                torch.mv(e.t(), factor.squeeze(1), out=dbias[low:high])
            tiles.weight_grad_(e, scaled, low, high, dw[low:high])
        part.mul_(weight)
        if active is None:
            return part, dw, dbias
        return torch.zeros_like(self.left).index_copy_(0, active, part), dw, dbias

    def _again(self, i: int, sums: Sums) -> Tensor:
        """A tile of exponentials times slopes that forward did not store."""
        e = self.logits(i)
        shift = sums.shift[:, i : i + 1]
        exponentials_(e, shift, self.cut, self.plan.keep, self.in_range)
        if sums.factor is not None:
            drop_small_(e, sums.factor[:, i : i + 1])
        return self.times_slope_(e, i)

    def logits(self, i: int) -> Tensor:
        """Tile i's logits, bits, [B, n]; the targets' at the lowest number there is."""
        low, high = self.plan.ranges[i]
        slopes = self._buffer("slopes", i) if self.plan.space.slopes else None
        z = self.tiles.scores_(low, high, self._place(i), slopes)
        self._fill_targets_(z, i, torch.finfo(z.dtype).min)
        return z

    def times_slope_(self, e: Tensor, i: int) -> Tensor:
        """Exponentials of tile i times d(score) / d(product), in place."""
        low, high = self.plan.ranges[i]
        slopes = self._buffer("slopes", i) if self.plan.space.slopes else None
        return self.tiles.to_product(e, low, high, slopes, e)

    def _fill_targets_(self, z: Tensor, i: int, value: float) -> None:
        low, high = self.plan.ranges[i]
        if on_cpu(z.device):
            if self._positions is None:
                self._positions = _flat_positions(self.labels, self.plan.ranges)
            z.view(-1).index_fill_(0, self._positions[i], value)
            return
        # how many targets lie in a tile only the accelerator knows: all rows are
        # written, those whose target lies elsewhere with what they had
        column = (self.labels[:, None] - low).clamp(0, high - low - 1)
        old = z.gather(1, column)
        z.scatter_(1, column, old.masked_fill_(self._inside(low, high), value))

    def _inside(self, low: int, high: int) -> Tensor:
        """Whether the target of each row lies in the classes low..high, [B, 1]."""
        labels = self.labels[:, None]
        return (labels >= low) & (labels < high)

    def _others(self, low: int, high: int) -> Tensor:
        """How many non-targets the classes low..high hold for each row, [B, 1]."""
        return high - low - self._inside(low, high).to(self.cut.dtype)

    def _place(self, i: int) -> Tensor:
        """Where tile i's numbers are: their own memory, or the one that all share."""
        if self.stored is None:
            return self._buffer("tile", i)
        low, high = self.plan.ranges[i]
        batch = len(self.left)
        return self.stored[batch * low : batch * high].view(batch, high - low)

    def _buffer(self, name: str, i: int) -> Tensor:
        low, high = self.plan.ranges[i]
        return self.tiles.buffers(name, len(self.left), high - low)


def stays_in_range(plan: Plan, cut: Tensor) -> bool:
    """Whether exponentials stay finite and visible in float32 without a row maximum.

    Scores lie within [-reach, reach], negative distances within [-reach, 0]. e^-80 and
    e^80 are within float32, and so is a sum of e^(36 + 40) over 300,000 classes.
    """
    if plan.keep.kind == "each":  # probabilities
        return True
    reach = plan.space.reach
    if reach is None:
        return False
    nats = reach * plan.scale
    if plan.keep.kind == "all":
        return nats <= (36 if plan.space.sign > 0 else 80)
    # the others compare with the target's logit: it is read, without a wait on a CPU
    if nats > 36 or not on_cpu(cut.device):
        return False
    return cut.abs().amax().item() * LN2 <= 40


def _flat_positions(labels: Tensor, ranges: list[tuple[int, int]]) -> list[Tensor]:
    """For each tile the positions of its targets in its numbers laid out flat."""
    labels, rows = labels.sort()
    edges = [ranges[0][0], *(high for _, high in ranges)]
    at = torch.searchsorted(labels, torch.tensor(edges)).tolist()
    return [
        rows[start:end] * (high - low) + (labels[start:end] - low)
        for (low, high), start, end in zip(ranges, at, at[1:], strict=False)
    ]


def _active_rows(weight: Tensor, keep: Keep) -> Tensor | None:
    """Rows with a gradient when few; to find them an accelerator would wait."""
    if keep.kind == "all" or not on_cpu(weight.device):
        return None
    rows = weight.squeeze(1).nonzero().squeeze(1)
    return rows if len(rows) <= FEW * len(weight) else None


class _SumOfExponentials(torch.autograd.Function):
    """Left, weight and bias to lse, best and number (see :class:`Kept`)."""

    @staticmethod
    def forward(
        ctx: Any,
        left: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        cut: Tensor,
        plan: Plan,
    ) -> tuple[Tensor, Tensor, Tensor]:
        cut = cut.unsqueeze(1) / LN2
        in_range = stays_in_range(plan, cut)
        stored = left.new_empty(len(left) * len(weight)) if plan.store else None
        tiles = Tiles(plan.space, left, weight, bias, plan.scale / LN2)
        with full_precision(left.device):
            sums = Walk(plan, left, labels, cut, tiles, stored, in_range).forward()
        ctx.plan, ctx.in_range = plan, in_range
        ctx.save_for_backward(
            *(left, weight, bias, labels, cut, tiles.norms, stored), *sums
        )
        lse = (sums.total.log() + sums.top * LN2).squeeze(1)
        best = sums.best.squeeze(1) * LN2
        number = best if sums.number is None else sums.number.squeeze(1)
        if plan.keep.kind == "each":
            lse, number = number, best
        lse, best, number = (plan.ranks.own(x) for x in (lse, best, number))
        ctx.mark_non_differentiable(best, number)
        return lse, best, number

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_lse: Tensor, *_: Any) -> tuple:
        plan: Plan = ctx.plan
        grad_lse = plan.ranks.gather_gradient(grad_lse)
        left, weight, bias, labels, cut, norms, stored, *sums = ctx.saved_tensors
        sums = Sums(*sums)
        tiles = Tiles(plan.space, left, weight, bias, plan.scale / LN2, norms)
        total, slope = sums.total.squeeze(1), plan.scale * plan.space.sign
        rows = row_weight(grad_lse, total, slope, plan.keep)
        dcut = None
        if plan.keep.kind == "each":  # total is that of all ranks, and on each
            dcut = -grad_lse * total / plan.ranks.size
        walk = Walk(plan, left, labels, cut, tiles, stored, ctx.in_range)
        with full_precision(left.device):
            return *walk.backward(sums, rows.unsqueeze(1), bias), None, dcut, None


class _TakeRows(torch.autograd.Function):
    """The targets' rows of the weight, and the weight; backward adds to its grad."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(labels)
        return weight.index_select(0, labels), weight.view_as(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, rows: Tensor, weight: Tensor) -> tuple[Tensor, None]:
        (labels,) = ctx.saved_tensors
        # the walk made this gradient and gave it to nobody else: no second [C, D]
        return weight.index_add_(0, labels, rows), None


def tiled_kept(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    plan: Plan,
    margin: Callable[[Tensor], Tensor],
) -> Kept:
    """The kept non-targets of embeddings x [B, D] against a weight [C, D].

    With ``plan.ranks`` x are the embeddings of all of them, the weight has the classes
    of this one, where labels count from 0, and what is found is of its own rows.
    ``margin`` turns the targets' scores [B] into the same after their margin.
    """
    points = plan.space.points(x)
    at, held = plan.ranks.held(labels, len(weight))
    rows, weight = _TakeRows.apply(weight, at)
    target = plan.space.pair(points, plan.space.points(rows))
    raised = None
    if bias is not None and bias.dim() == 0:  # one for all classes
        target, raised, bias = target + bias, bias * plan.scale, None
    elif bias is not None:
        target = target + bias[at]
    target = plan.ranks.sum_own(target, held)
    logit = margin(target) * plan.scale
    cut = plan.ranks.gather(plan.keep.cut(logit, plan.scale))
    if raised is not None:  # what the others are compared with moves, instead of each
        cut = cut - raised
    lse, best, number = _SumOfExponentials.apply(
        plan.space.left(points), weight, bias, labels, cut, plan
    )
    if raised is not None:
        best = best + raised.detach()
    counts = plan.keep.kind not in ("all", "each")
    return Kept(lse, target, logit, best, number if counts else None)
