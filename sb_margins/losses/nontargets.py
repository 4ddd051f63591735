"""Which non-targets are kept, and the exponentials of their logits, in place.

Softmax losses are ``log(1 + sum of exp(z_j - z_t) over the kept j)``. Here a block of
logits (some rows, some classes) becomes those exponentials, for the dense evaluator
(``losses/dense.py``) and for the walk over tiles (``heads/walk.py``) alike. One-vs-all
losses are a sum of ``softplus(z_j - cut)``: the block becomes its slopes, which are
probabilities, and the sums are returned.

Three facts about CPUs shape it. ``exp2`` can be four times as fast as ``exp``, so
logits are in units of ln 2 ("bits") in here. ``exp`` below -87 and products of denormal
numbers are 100 times slower than others, so exponents stop at 2^-65 (3e-20, invisible
beside 1). Boolean masks are slow while a scalar threshold is free, so a row is shifted
or scaled until its threshold is the same number in all rows.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sb_margins.ranks import ALONE, Ranks

LN2 = math.log(2)
FLOOR = -65.0  # bits
INVISIBLE = 3e-20  # just above 2^FLOOR
FAINT = 1e-16  # a row whose non-targets weigh less sends them no gradient


class Keep(NamedTuple):
    """Which non-targets count.

    ``all``; ``violating``: those whose logit reaches the target's after its margin
    (Real AM-Softmax); ``sparse``: those not more than ``delta`` behind the target in
    probability (AS-Softmax); ``each``: all, each in a decision of its own, its score
    raised by ``margin`` (SphereFace2).

    Example
    -------
    >>> Keep("sparse", delta=0.1).kind
    'sparse'
    """

    kind: str = "all"
    delta: float = 1.0
    margin: float = 0.0

    def cut(self, logit: Tensor, scale: float) -> Tensor:
        """The logits that non-targets are compared with, [B]: the targets', or fixed.

        ``logit``: the targets' after their margin, [B].
        """
        if self.kind == "each":
            return torch.full_like(logit, -self.margin * scale)
        return logit.detach()


class Kept(NamedTuple):
    """What an evaluator finds for each row, all [B].

    ``lse``: log of the sum of exp over the kept non-targets (-inf when none), or for
    ``each`` the sum of softplus;
    ``target``: the target's score; ``logit``: the same after its margin, times the
    scale; ``best``: the best non-target logit, without gradient; ``number``: how many
    non-targets were kept, or None where all count.
    """

    lse: Tensor
    target: Tensor
    logit: Tensor
    best: Tensor
    number: Tensor | None


def shift_of(best: Tensor, cut: Tensor, keep: Keep, in_range: bool) -> Tensor:
    """What to subtract from the logits of a row so that their exponentials stay finite.

    ``best`` [b, 1] is the best of the block, ``cut`` [b, 1] of :meth:`Keep.cut`.
    ``in_range``: exponentials are known to be finite without a maximum.
    """
    if keep.kind == "each":
        return torch.zeros_like(best)
    if keep.kind == "violating":
        return cut if in_range else torch.maximum(best, cut)
    return torch.zeros_like(best) if in_range else best


def exponentials_(
    z: Tensor,
    shift: Tensor,
    cut: Tensor,
    keep: Keep,
    in_range: bool,
    spare: Tensor | None = None,
) -> Tensor | None:
    """Logits [b, n] to ``2^(z - shift)`` of the kept, 0 elsewhere, in place.

    With ``spare`` (memory for [b, n]) the violating are counted: [b, 1]. For ``sparse``
    all are kept here, :func:`sparse_factor` and :func:`drop_small_` follow. For
    ``each`` they become probabilities, and their softplus is added up instead: [b, 1].
    """
    number = None
    if keep.kind == "each":
        z.sub_(cut).clamp_min_(FLOOR)
        if spare is not None:
            torch.logaddexp2(z, z.new_zeros(()), out=spare)
            number = spare.sum(1, keepdim=True) * LN2
        torch.threshold_(z.mul_(LN2).sigmoid_(), INVISIBLE, 0.0)
        return number
    if keep.kind == "violating":
        z.sub_(cut)
        if in_range:  # the kept are those of at least 2^0
            torch.threshold_(z.exp2_(), 1 - torch.finfo(z.dtype).eps, 0.0)
            return None if spare is None else count_kept(z, spare)
        torch.threshold_(z, -1e-30, torch.finfo(z.dtype).min)
        if spare is not None:  # before those too small to be seen become 0
            below = torch.clamp(z, -1.0, 0.0, out=spare).sum(1, keepdim=True)
            number = below + z.shape[1]
        z.sub_(shift - cut)
    elif in_range:
        z.exp2_()
        return None
    else:
        z.sub_(shift)
    torch.threshold_(z.clamp_min_(FLOOR).exp2_(), INVISIBLE, 0.0)
    return number


def sparse_factor(
    total: Tensor,
    shift: Tensor,
    top: Tensor,
    cut: Tensor,
    delta: float,
    in_range: bool,
) -> tuple[Tensor, Tensor]:
    """What a row is multiplied by, so that AS-Softmax keeps what is at least 1.

    A class stays iff ``p_t - p_j <= delta``, that is
    ``e_j >= e_t - delta * (e_t + sum of all e)``. ``total``: the sum over all
    non-targets of ``2^(z - top)``. Also: whether all stay, however small. All [b, 1].
    """
    target = (cut - top).exp2()
    edge = target - delta * (total + target)
    span = 53.0 if in_range else -FLOOR  # bits from the largest to the smallest
    whole = edge <= 2.0**-span
    edge = torch.where(whole, torch.ones_like(edge), edge)
    factor = ((shift - top).exp2() / edge).clamp_min(1e-30)
    return torch.where(whole, torch.full_like(factor, 2.0**span), factor), whole


def drop_small_(e: Tensor, factor: Tensor) -> Tensor:
    """Exponentials [b, n] times the rows' factors; those below 1 become 0, in place."""
    return torch.threshold_(e.mul_(factor), 1 - 4 * torch.finfo(e.dtype).eps, 0.0)


class Together(NamedTuple):
    """What tiles leave together, [B, 1] each but ``share``."""

    best: Tensor  # the best non-target logit, bits
    top: Tensor  # the largest height, bits
    total: Tensor  # sum over the kept of 2^(logit - top)
    number: Tensor | None  # how many were kept, unless all; of "each": softplus
    share: Tensor  # 2^(height - top) of each tile here, at most 1, [B, tiles]


def together(
    best: Tensor,
    height: Tensor,
    total: Tensor,
    number: Tensor | None,
    ranks: Ranks = ALONE,
) -> Together:
    """Tiles brought together, those of other ranks too. All [B, tiles].

    ``total`` counts in units of 2^height of its tile. The only place where tiles meet,
    but for the sum that AS-Softmax needs before it drops (:func:`sum_of_all`).
    """
    lowest = torch.finfo(total.dtype).min
    reached = torch.where(total > 0, height, lowest)
    most = torch.cat([x.amax(1, keepdim=True) for x in (best, reached)], 1)
    best, top = ranks.maximum(most).split(1, 1)
    top = torch.where(top > lowest, top, 0.0)  # nothing kept at all
    share = (height - top).clamp_max(0).exp2()
    counted = [total * share] if number is None else [total * share, number]
    sums = torch.cat([x.sum(1, keepdim=True) for x in counted], 1)
    total, *numbers = ranks.sum(sums).split(1, 1)
    return Together(best, top, total, numbers[0] if numbers else None, share)


def sum_of_all(
    total: Tensor, shift: Tensor, cut: Tensor, in_range: bool, ranks: Ranks = ALONE
) -> tuple[Tensor, Tensor]:
    """The sum of all exponentials in units of 2^top, and top, [B, 1] each.

    ``total`` of tiles in units of 2^shift, both [B, tiles]; ``cut`` [B, 1].
    """
    top = torch.zeros_like(cut)
    if not in_range:
        top = ranks.maximum(torch.maximum(shift.amax(1, keepdim=True), cut))
    every = (total * (shift - top).exp2()).sum(1, keepdim=True)
    return ranks.sum(every), top


def count_kept(e: Tensor, spare: Tensor) -> Tensor:
    """How many of each row are not 0, all others being at least 1, [b, 1]."""
    return torch.clamp_max(e, 1.0, out=spare).sum(1, keepdim=True)


def row_weight(grad: Tensor, total: Tensor, scale: float, keep: Keep) -> Tensor:
    """Gradient of the exponentials of each row, [B]: 0 where nothing was kept."""
    if keep.kind == "each":
        return grad * scale
    live = (total > 0) & (grad.abs() > FAINT)
    return torch.where(live, grad * scale, 0.0) / torch.where(live, total, 1.0)
