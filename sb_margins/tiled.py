"""The tiled evaluator: walks over the classes, keeps one [B, C] or none.

Forward writes the unnormalised exponentials over the scores and keeps them
(``store``), or keeps only sums and makes each tile again in backward. Backward makes
no elementwise pass over [B, C]: 1/sum and the incoming gradient scale the embeddings'
side of the two products instead. Rows that keep no non-target are left out of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sb_margins.nontargets import (
    LN2,
    Column,
    Keep,
    Kept,
    best_,
    count_kept,
    exp_,
    row_weight,
    shift_of,
    sparse_row,
    sparsify_,
)
from sb_margins.precision import island, on_cpu
from sb_margins.tiles import LinearTiles

FEW = 0.75  # below this share of active rows the others are left out


class Plan(NamedTuple):
    """How to evaluate: the tiles, their options, the loss's decisions, the storage.

    Example
    -------
    >>> from sb_margins.tiles import CosineTiles
    >>> Plan(CosineTiles, {}, 30.0, Keep(), lambda score: score - 0.2, 2048).store
    True
    """

    kind: type[LinearTiles]
    options: dict[str, Any]
    scale: float
    keep: Keep
    margin: Callable[[Tensor], Tensor]
    tile: int
    store: bool = True

    def ranges(self, classes: int) -> list[tuple[int, int]]:
        """Where the tiles begin and end."""
        lows = range(0, classes, self.tile)
        return [(low, min(low + self.tile, classes)) for low in lows]


class _Run:
    """One evaluation: buffers, and the steps that forward and backward share."""

    def __init__(
        self, plan: Plan, tiles: LinearTiles, labels: Tensor, cut: Tensor
    ) -> None:
        self.plan, self.tiles, self.labels, self.cut = plan, tiles, labels, cut
        self.batch, self.classes = len(labels), len(tiles.weight)
        self.bounded = is_bounded(self.tiles, plan, cut)
        self._buffers: dict[str, Tensor] = {}

    @cached_property
    def columns(self) -> list[Column]:
        """Where the targets are, for each tile."""
        return Column.tiles(self.labels, self.plan.ranges(self.classes))

    def buffer(self, name: str, n: int) -> Tensor:
        """A [B, n] piece of memory, the same for every tile."""
        if name not in self._buffers:
            size = self.batch * min(self.plan.tile, self.classes)
            self._buffers[name] = self.cut.new_empty(size)
        return self._buffers[name][: self.batch * n].view(self.batch, n)

    def logits_(self, low: int, high: int, z: Tensor) -> Tensor:
        """Scores of one tile in z, the targets' out of the way; its best."""
        spare = self.buffer("spare", high - low) if self.tiles.spare else None
        self.tiles.logits_(low, high, z, spare)
        return best_(z, self.columns[low // self.plan.tile])

    def own(self, low: int, high: int) -> Tensor:
        """1 where a row's target is in the tile, else 0, [B, 1]."""
        labels = self.labels[:, None]
        return ((labels >= low) & (labels < high)).to(self.cut.dtype)

    def exp_(self, z: Tensor, shift: Tensor, count: bool = False) -> Tensor:
        """The exponentials of the kept, in z; how many, when asked."""
        room = self.buffer("room", z.shape[1]) if count else None
        return exp_(z, shift, self.cut, self.plan.keep, self.bounded, room)

    def chain_(self, z: Tensor, low: int, high: int) -> Tensor:
        """Times the slope of the scores, in z."""
        spare = self.buffer("spare", high - low) if self.tiles.spare else None
        return self.tiles.chain(z, low, high, spare, z)


def is_bounded(tiles: LinearTiles, plan: Plan, cut: Tensor) -> bool:
    """Whether exp of the logits stays within float32 without a row maximum.

    Scores within [-reach, reach] times the scale must span less than e^72, and for
    Real-AM so must their distance from the target's after its margin.

    Example
    -------
    >>> from sb_margins.tiles import CosineTiles
    >>> x = torch.ones(1, 2)
    >>> plan = Plan(CosineTiles, {}, 30.0, Keep(), lambda score: score, 2048)
    >>> is_bounded(CosineTiles(CosineTiles.prepare(x, x, None), 30.0), plan, x)
    True
    """
    if tiles.reach is None:
        return False
    if plan.keep.kind == "all":
        return tiles.reach * plan.scale <= (36 if tiles.sign > 0 else 80)
    if tiles.sign < 0:
        return False
    margin = plan.margin(cut.new_zeros(1))  # additive: the same for all targets
    if not on_cpu(cut.device):
        return False
    return tiles.reach * plan.scale <= 36 and abs(float(margin)) * plan.scale <= 12


class _Tiled(torch.autograd.Function):
    """Embeddings and weight in, :class:`Kept` out."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, labels: Any, plan: Plan):
        kind, options, keep = plan.kind, plan.options, plan.keep
        with island(x.device, kind.exact):
            state = kind.prepare(x, weight, bias, **options)
            tiles = kind(state, plan.scale / LN2, fresh=True, **options)
            own = None if bias is None else bias[labels]
            target = tiles.target(x, weight.index_select(0, labels), own)
            cut = plan.margin(target).unsqueeze(1) * (plan.scale / LN2)
            run = _Run(plan, tiles, labels, cut)
            stored = x.new_empty(run.batch * run.classes) if plan.store else None
            parts = _first_pass(run, stored)
            if keep.kind == "sparse":
                parts = _second_pass(run, stored, parts)
        best = torch.cat(parts.best, 1).amax(1) * LN2
        shifts, totals = torch.cat(parts.shift, 1), torch.cat(parts.total, 1)
        rows = torch.cat(parts.row, 1) if parts.row else None
        heights = shifts if rows is None else shifts - rows.log2()
        lowest = torch.finfo(x.dtype).min
        top = torch.where(totals > 0, heights, lowest).amax(1, keepdim=True)
        top = torch.where(top > lowest, top, 0.0)
        share = (heights - top).clamp_max(0).exp2()
        total = (totals * share).sum(1)
        number = torch.cat(parts.number, 1).sum(1) if parts.number else best
        ctx.plan, ctx.even = plan, _even(run, len(parts.best))
        ctx.extra = [t is not None for t in (bias, stored, rows)]
        ctx.size = len(state)
        saved = [t for t in (bias, stored, rows) if t is not None]
        ctx.save_for_backward(x, labels, cut, shifts, share, total, *state, *saved)
        ctx.mark_non_differentiable(best, number)
        return total.log() + top.squeeze(1) * LN2, target, best, number

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, g_target: Tensor, *_: Any):
        plan: Plan = ctx.plan
        x, labels, cut, shifts, share, total, *rest = ctx.saved_tensors
        state, saved = rest[: ctx.size], iter(rest[ctx.size :])
        bias, stored, rows = (next(saved) if there else None for there in ctx.extra)
        tiles = plan.kind(state, plan.scale / LN2, fresh=False, **plan.options)
        run = _Run(plan, tiles, labels, cut)
        weight = row_weight(g, total, plan.scale * tiles.sign).unsqueeze(1)
        with island(x.device, plan.kind.exact):
            active = _active(weight, plan.keep)
            dleft, dw, db = _products(
                run, weight, shifts, share, rows, stored, active, bias, ctx.even
            )
            del run, active  # their buffers: the peak is yet to come
            own = tiles.weight.index_select(0, labels)
            dx, down = tiles.target_grad(x, own, g_target, dleft)
            dw.index_add_(0, labels, down)
            if db is not None:
                db.index_add_(0, labels, g_target)
        return dx, dw, db, None, None


class _Parts:
    """What each tile leaves: lists of [B, 1]."""

    def __init__(self) -> None:
        self.best: list[Tensor] = []
        self.shift: list[Tensor] = []
        self.total: list[Tensor] = []
        self.row: list[Tensor] = []
        self.number: list[Tensor] = []


def _place(run: _Run, stored: Tensor | None, low: int, high: int) -> Tensor:
    """Where a tile's numbers go: their own place, or the one buffer."""
    if stored is None:
        return run.buffer("tile", high - low)
    piece = stored[run.batch * low : run.batch * high]
    return piece.view(run.batch, high - low)


def _first_pass(run: _Run, stored: Tensor | None) -> _Parts:
    parts, keep = _Parts(), run.plan.keep
    for low, high in run.plan.ranges(run.classes):
        z = _place(run, stored, low, high)
        best = run.logits_(low, high, z)
        shift = shift_of(best, run.cut, keep, run.bounded)
        counts = keep.kind == "violating"
        number = run.exp_(z, shift, counts)
        parts.best.append(best)
        parts.shift.append(shift)
        parts.total.append(z.sum(1, keepdim=True))
        if counts:
            parts.number.append(number)
        if stored is not None and keep.kind != "sparse":
            run.chain_(z, low, high)
    return parts


def _second_pass(run: _Run, stored: Tensor | None, first: _Parts) -> _Parts:
    """AS-Softmax: the sums are known, so now it is known what to drop."""
    parts, delta = _Parts(), run.plan.keep.delta
    parts.best, parts.shift = first.best, first.shift
    if run.bounded:
        top = torch.zeros_like(run.cut)
    else:
        top = torch.cat([*first.shift, run.cut], 1).amax(1, keepdim=True)
    pairs = list(zip(first.total, first.shift, strict=True))
    sums = torch.cat([t * (s - top).exp2() for t, s in pairs], 1).sum(1, keepdim=True)
    again = stored is None or run.tiles.spare  # the slopes are gone: make them anew
    ranges = run.plan.ranges(run.classes)
    for (low, high), shift in zip(ranges, first.shift, strict=True):
        e = _place(run, stored, low, high)
        if again:
            run.logits_(low, high, e)
            run.exp_(e, shift)
        row, whole = sparse_row(sums, shift, top, run.cut, delta, run.bounded)
        parts.row.append(row)
        parts.total.append(sparsify_(e, row).sum(1, keepdim=True))
        number = count_kept(e, run.buffer("room", high - low))
        others = high - low - run.own(low, high)
        parts.number.append(torch.where(whole, others, number))
        if stored is not None:
            run.chain_(e, low, high)
    return parts


def _even(run: _Run, tiles: int) -> bool:
    """Whether all tiles of a row have the same shift."""
    return tiles == 1 or run.bounded


def _active(weight: Tensor, keep: Keep) -> Tensor | None:
    """Rows with a gradient, when they are few; finding them would stop a GPU."""
    if keep.kind == "all" or not on_cpu(weight.device):
        return None
    rows = weight.squeeze(1).nonzero().squeeze(1)
    return rows if len(rows) <= FEW * len(weight) else None


def _products(
    run: _Run,
    weight: Tensor,
    shifts: Tensor,
    share: Tensor,
    rows: Tensor | None,
    stored: Tensor | None,
    active: Tensor | None,
    bias: Tensor | None,
    even: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of the left side, the weight and the bias from the non-targets."""
    tiles, plan = run.tiles, run.plan
    left, w = tiles.left, tiles.weight
    dleft, dw = torch.zeros_like(left), torch.empty_like(w)
    db = None if bias is None else torch.empty_like(bias)
    if active is not None and len(active) == 0:
        return dleft, dw.zero_(), None if db is None else db.zero_()
    if active is not None:
        left, weight, share = left[active], weight[active], share[active]
    part = torch.zeros_like(left)
    scaled = left * weight
    size = min(plan.tile, run.classes)
    dright = left.new_empty(size, left.shape[1])
    for i, (low, high) in enumerate(plan.ranges(run.classes)):
        m = _place(run, stored, low, high)
        if stored is None:
            run.logits_(low, high, m)
            run.exp_(m, shifts[:, i : i + 1])
            if rows is not None:
                sparsify_(m, rows[:, i : i + 1])
            run.chain_(m, low, high)
        if active is not None:
            m = m[active]
        factor = weight
        if not even:
            factor = weight * share[:, i : i + 1]
            scaled = left * factor
        right = tiles.right(low, high)
        if even:
            part.addmm_(m, right)
        else:
            part.addcmul_(torch.mm(m, right), share[:, i : i + 1])
        if db is not None:
            torch.mv(m.t(), factor.squeeze(1), out=db[low:high])
        if tiles.direct:
            torch.mm(m.t(), scaled, out=dw[low:high])
        else:
            d = torch.mm(m.t(), scaled, out=dright[: high - low])
            tiles.weight_grad_(low, high, d, dw[low:high])
    part.mul_(weight)
    if active is None:
        return part, dw, db
    return dleft.index_copy_(0, active, part), dw, db


def tiled_kept(
    x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, plan: Plan
) -> Kept:
    """What :func:`~sb_margins.dense.kept_lse` returns, from the embeddings.

    Arguments
    ---------
    x : torch.Tensor
        Embeddings [B, D], float32 or float64.
    weight : torch.Tensor
        [C, D], same dtype.
    bias : torch.Tensor or None
        [C].
    labels : torch.Tensor
        int64 [B], in range.
    plan : Plan
        How.

    Returns
    -------
    Kept
        Differentiable in ``lse`` and ``target``.

    Example
    -------
    >>> from sb_margins.tiles import CosineTiles
    >>> x = torch.eye(3, 4)
    >>> plan = Plan(CosineTiles, {}, 30.0, Keep(), lambda score: score, 2)
    >>> tiled_kept(x, x, None, torch.arange(3), plan).lse
    tensor([0.6931, 0.6931, 0.6931])
    """
    lse, target, best, number = _Tiled.apply(x, weight, bias, labels, plan)
    return Kept(lse, target, best, None if plan.keep.kind == "all" else number)
