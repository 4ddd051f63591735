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

from sb_margins.nontargets import (
    ALL,
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
from sb_margins.precision import on_cpu

BLOCK = 1 << 17  # numbers per block of rows: stays in a core's cache


class _Rows(torch.autograd.Function):
    """Scores in, :class:`Kept` out; only the scores are kept for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        labels: Tensor,
        scale: float,
        keep: Keep,
        margin: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        index = labels[:, None]
        target = scores.gather(1, index)
        bits = scale / LN2
        cut = margin(target.squeeze(1)).unsqueeze(1) * bits
        size = _block_rows(scores)
        z_all, spare = scores.new_empty(2, min(size, len(scores)), scores.shape[1])
        parts = []
        for i in range(0, len(scores), size):
            block = scores[i : i + size]
            z, b = z_all[: len(block)], slice(i, i + size)
            torch.mul(block, bits, out=z)
            best = best_(z, Column(index[b]))
            shift = shift_of(best, cut[b], keep, False)
            room = spare[: len(block)]
            number = exp_(z, shift, cut[b], keep, False, room)
            total = z.sum(1, keepdim=True)
            row = torch.ones_like(total)
            if keep.kind == "sparse":
                top = torch.maximum(shift, cut[b])
                inner = total * (shift - top).exp2()
                row, whole = sparse_row(inner, shift, top, cut[b], keep.delta, False)
                total = sparsify_(z, row).sum(1, keepdim=True)
                number = count_kept(z, room)
                number = number.masked_fill_(whole, scores.shape[1] - 1)
            parts.append((best, shift, total, row, number))
        best, shift, total, row, number = (
            torch.cat(p) for p in zip(*parts, strict=True)
        )
        ctx.save_for_backward(scores, index, cut, shift, total, row)
        ctx.scale, ctx.keep = scale, keep
        lse = (total.log() - row.log() + shift * LN2).squeeze(1)
        best, number = best.squeeze(1) * LN2, number.squeeze(1)
        ctx.mark_non_differentiable(best, number)
        return lse, target.squeeze(1), best, number

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor, g_target: Tensor, *_: Any) -> tuple:
        scores, index, cut, shift, total, row = ctx.saved_tensors
        weight = row_weight(g, total.squeeze(1), ctx.scale).unsqueeze(1)
        grad = torch.empty_like(scores)
        size = _block_rows(scores)
        for i in range(0, len(scores), size):
            b = slice(i, i + size)
            z = torch.mul(scores[b], ctx.scale / LN2, out=grad[b])
            Column(index[b]).fill_(z, torch.finfo(z.dtype).min)
            exp_(z, shift[b], cut[b], ctx.keep, False)
            if ctx.keep.kind == "sparse":
                sparsify_(z, row[b])
            z.mul_(weight[b])
        grad.scatter_(1, index, g_target.unsqueeze(1))
        return grad, None, None, None, None


def _block_rows(scores: Tensor) -> int:
    """Rows per block: few on a CPU, for its cache; all at once elsewhere."""
    if not on_cpu(scores.device):
        return max(1, len(scores))
    return max(1, BLOCK // scores.shape[1])


def kept_lse(
    scores: Tensor,
    labels: Tensor,
    *,
    scale: float = 1.0,
    keep: Keep = ALL,
    margin: Callable[[Tensor], Tensor] = lambda score: score,
) -> Kept:
    """Log-sum-exp of the scaled scores of the kept non-targets.

    Backward needs no more than one [B, C], the gradient itself.

    Arguments
    ---------
    scores : torch.Tensor
        float32 or float64, [B, C].
    labels : torch.Tensor
        int64 [B], in range.
    scale : float
        Multiplies the scores. Default 1.
    keep : Keep
        Which non-targets count. Default all.
    margin : callable
        Target scores [B] to the same after their margin; what is compared.

    Returns
    -------
    Kept
        Differentiable in ``lse`` and ``target``.

    Example
    -------
    >>> scores = torch.tensor([[0.8, 0.3, 0.65, -0.1]])
    >>> rule = Keep("violating")
    >>> found = kept_lse(
    ...     scores,
    ...     torch.tensor([0]),
    ...     scale=30.0,
    ...     keep=rule,
    ...     margin=lambda score: score - 0.2,
    ... )
    >>> found.lse, found.number
    (tensor([19.5000]), tensor([1.]))
    """
    lse, target, best, number = _Rows.apply(scores, labels, scale, keep, margin)
    return Kept(lse, target, best, None if keep.kind == "all" else number)
