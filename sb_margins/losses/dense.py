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
)
from sb_margins.precision import on_cpu

BLOCK = 1 << 17  # numbers per block of rows: stays in a core's cache


class _TakeTargets(torch.autograd.Function):
    """The targets' scores, and all scores; backward writes into their gradient."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        return scores.gather(1, index).squeeze(1), scores.view_as(scores)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, target: Tensor, scores: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        # _Rows made this gradient, gave it to nobody else, and left these entries 0
        return scores.scatter_(1, index, target.unsqueeze(1)), None


class _Rows(torch.autograd.Function):
    """Scores to lse, best and number (see :class:`Kept`)."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, index: Tensor, cut: Tensor, scale: float, keep: Keep
    ) -> tuple[Tensor, Tensor, Tensor]:
        cut = cut.unsqueeze(1) / LN2
        size = _block_rows(scores)
        logits, spare = scores.new_empty(2, min(size, len(scores)), scores.shape[1])
        parts = []
        for i in range(0, len(scores), size):
            b = slice(i, i + size)
            n = len(index[b])
            z = torch.mul(scores[b], scale / LN2, out=logits[:n])
            z.scatter_(1, index[b], torch.finfo(z.dtype).min)
            best = z.amax(1, keepdim=True)
            shift = shift_of(best, cut[b], keep, False)
            number = exponentials_(z, shift, cut[b], keep, False, spare[:n])
            total = z.sum(1, keepdim=True)
            factor = torch.ones_like(total)
            if keep.kind == "sparse":
                top = torch.maximum(shift, cut[b])
                every = total * (shift - top).exp2()
                factor, whole = sparse_factor(
                    every, shift, top, cut[b], keep.delta, False
                )
                total = drop_small_(z, factor).sum(1, keepdim=True)
                number = count_kept(z, spare[:n])
                number.masked_fill_(whole, scores.shape[1] - 1)
            parts.append(
                (best, shift, total, factor, best if number is None else number)
            )
        best, shift, total, factor, number = map(torch.cat, zip(*parts, strict=True))
        ctx.save_for_backward(scores, index, cut, shift, total, factor)
        ctx.scale, ctx.keep = scale, keep
        lse = total.log() - factor.log() + shift * LN2
        if keep.kind == "each":
            lse, number = number, best
        best, number = best.squeeze(1) * LN2, number.squeeze(1)
        ctx.mark_non_differentiable(best, number)
        return lse.squeeze(1), best, number

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_lse: Tensor, *_: Any) -> tuple:
        scores, index, cut, shift, total, factor = ctx.saved_tensors
        weight = row_weight(grad_lse, total.squeeze(1), ctx.scale, ctx.keep)
        weight = weight.unsqueeze(1)
        grad = torch.empty_like(scores)
        size = _block_rows(scores)
        for i in range(0, len(scores), size):
            b = slice(i, i + size)
            z = torch.mul(scores[b], ctx.scale / LN2, out=grad[b])
            z.scatter_(1, index[b], torch.finfo(z.dtype).min)
            exponentials_(z, shift[b], cut[b], ctx.keep, False)
            if ctx.keep.kind == "sparse":
                drop_small_(z, factor[b])
            z.mul_(weight[b])
        return grad, None, None, None, None


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
) -> Kept:
    """The kept non-targets of scores [B, C] (float32 or float64) with labels [B].

    ``margin`` turns the targets' scores [B] into the same after their margin. Backward
    needs no more than one [B, C], the gradient itself.
    """
    index = labels.unsqueeze(1)
    target, scores = _TakeTargets.apply(scores, index)
    logit = margin(target) * scale
    cut = keep.cut(logit, scale)
    lse, best, number = _Rows.apply(scores, index, cut, scale, keep)
    counts = keep.kind not in ("all", "each")
    return Kept(lse, target, logit, best, number if counts else None)
