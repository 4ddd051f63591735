"""The dense evaluator: from all scores [B, C], a few rows at a time.

It serves the split ``classifier`` / ``compute_cost`` modules of a stock recipe. Only
the scores are kept for backward, and the gradient is written in place: no one-hot, no
mask, no second [B, C].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from sb_margins.precision import on_cpu
from sb_margins.ranks import ALONE, Ranks, put_

BLOCK = 1 << 17  # numbers per block of rows: stays in a core's cache


class _TakeTargets(torch.autograd.Function):
    """The targets' scores, and all scores; backward writes into their gradient."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, index: Tensor, held: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index, held)
        return scores.gather(1, index).squeeze(1), scores.view_as(scores)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, target: Tensor, scores: Tensor) -> tuple[Tensor, None, None]:
        # _Rows made this gradient, gave it to nobody else, and left these entries 0
        index, held = ctx.saved_tensors
        return put_(scores, index, held, target.unsqueeze(1)), None, None


class _Rows(torch.autograd.Function):
    """Scores to lse, best and number (see :class:`Kept`)."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        index: Tensor,
        held: Tensor | None,
        cut: Tensor,
        scale: float,
        keep: Keep,
        ranks: Ranks,
    ) -> tuple[Tensor, Tensor, Tensor]:
        cut = cut.unsqueeze(1) / LN2
        size = _block_rows(scores) if held is None else len(scores)
        logits, spare = scores.new_empty(2, min(size, len(scores)), scores.shape[1])
        parts = []
        for i in range(0, len(scores), size):
            b = slice(i, i + size)
            n = len(index[b])
            z = torch.mul(scores[b], scale / LN2, out=logits[:n])
            put_(z, index[b], held, torch.finfo(z.dtype).min)
            best = z.amax(1, keepdim=True)
            shift = shift_of(best, cut[b], keep, False)
            number = exponentials_(z, shift, cut[b], keep, False, spare[:n])
            total = z.sum(1, keepdim=True)
            factor = torch.ones_like(total)
            if keep.kind == "sparse":
                every, top = sum_of_all(total, shift, cut[b], False, ranks)
                factor, whole = sparse_factor(
                    every, shift, top, cut[b], keep.delta, False
                )
                total = drop_small_(z, factor).sum(1, keepdim=True)
                number = count_kept(z, spare[:n])
                others = scores.shape[1] - (1 if held is None else held[:, None].int())
                number = torch.where(whole, others, number)
            parts.append(
                (best, shift, total, factor, best if number is None else number)
            )
        best, shift, total, factor, number = map(torch.cat, zip(*parts, strict=True))
        height = shift - factor.log2()
        found = together(best, height, total, number, ranks)
        best, number = found.best, found.best if found.number is None else found.number
        ctx.save_for_backward(
            *(scores, index, held, cut, shift, found.total, factor, found.share)
        )
        ctx.scale, ctx.keep, ctx.ranks = scale, keep, ranks
        lse = found.total.log() + found.top * LN2
        if keep.kind == "each":
            lse, number = number, best
        best = best * LN2
        lse, best, number = (ranks.own(x.squeeze(1)) for x in (lse, best, number))
        ctx.mark_non_differentiable(best, number)
        return lse, best, number

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_lse: Tensor, *_: Any) -> tuple:
        scores, index, held, cut, shift, total, factor, share = ctx.saved_tensors
        grad_lse = ctx.ranks.gather_gradient(grad_lse)
        weight = row_weight(grad_lse, total.squeeze(1), ctx.scale, ctx.keep)
        weight = weight.unsqueeze(1) * share
        grad = torch.empty_like(scores)
        size = _block_rows(scores) if held is None else len(scores)
        for i in range(0, len(scores), size):
            b = slice(i, i + size)
            z = torch.mul(scores[b], ctx.scale / LN2, out=grad[b])
            put_(z, index[b], held, torch.finfo(z.dtype).min)
            exponentials_(z, shift[b], cut[b], ctx.keep, False)
            if ctx.keep.kind == "sparse":
                drop_small_(z, factor[b])
            z.mul_(weight[b])
        return grad, *[None] * 6


def _block_rows(scores: Tensor) -> int:
    """Rows per block: few on a CPU, for its cache; all at once elsewhere."""
    if on_cpu(scores.device):
        return max(1, BLOCK // scores.shape[1])
    return len(scores)


def dense_kept(
    scores: Tensor,
    labels: Tensor,
    *,
    scale: float,
    keep: Keep,
    margin: Callable[[Tensor], Tensor],
    ranks: Ranks = ALONE,
) -> Kept:
    """The kept non-targets of scores [B, C] (float32 or float64) with labels [B].

    ``margin`` turns the targets' scores [B] into the same after their margin. Backward
    needs no more than one [B, C], the gradient itself. With ``ranks`` the scores are
    of all their embeddings and this one's classes, as in :func:`tiled_kept`.
    """
    at, held = ranks.held(labels, scores.shape[1])
    index = at.unsqueeze(1)
    target, scores = _TakeTargets.apply(scores, index, held)
    target = ranks.sum_own(target, held)
    logit = margin(target) * scale
    cut = ranks.gather(keep.cut(logit, scale))
    lse, best, number = _Rows.apply(scores, index, held, cut, scale, keep, ranks)
    counts = keep.kind not in ("all", "each")
    return Kept(lse, target, logit, best, number if counts else None)
