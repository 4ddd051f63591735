"""Which non-targets are kept, and the exponentials of their logits, in place.

Every loss here is ``log(1 + sum of exp(z_j - z_t) over the kept j)``. This module
turns a block of logits (some rows, some classes) into those exponentials, for the
dense evaluator (``dense.py``) and for the tiled one (``tiled.py``) alike.

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

from sb_margins.precision import on_cpu

LN2 = math.log(2)
FLOOR = -65.0  # bits
INVISIBLE = 3e-20  # just above 2^FLOOR
FAINT = 1e-16  # a row whose non-targets weigh less sends them no gradient


class Keep(NamedTuple):
    """Which non-targets count.

    ``all``; ``violating``: those whose logit reaches the target's after its margin
    (Real AM-Softmax); ``sparse``: those not more than ``delta`` behind the target in
    probability (AS-Softmax).

    Example
    -------
    >>> Keep("sparse", delta=0.1).kind
    'sparse'
    """

    kind: str = "all"
    delta: float = 1.0


ALL = Keep()


class Column(NamedTuple):
    """Where the targets are in a block: column [b, 1], and whether they are in it.

    On a CPU, ``spots`` says it in less: their places in the block laid out flat.
    """

    at: Tensor
    inside: Tensor | None = None
    spots: Tensor | None = None

    @staticmethod
    def tiles(labels: Tensor, ranges: list[tuple[int, int]]) -> list[Column]:
        """The targets of labels [b] in each range of classes.

        Example
        -------
        >>> [c.spots for c in Column.tiles(torch.tensor([0, 3]), [(0, 2), (2, 4)])]
        [tensor([0]), tensor([3])]
        """
        if not on_cpu(labels.device):  # lengths that a GPU alone knows
            return [Column.of(labels, low, high) for low, high in ranges]
        labels, order = labels.sort()
        ends = torch.searchsorted(labels, torch.tensor([high for _, high in ranges]))
        columns, start = [], 0
        for (low, high), end in zip(ranges, ends.tolist(), strict=True):
            at = labels[start:end] - low
            spots = order[start:end] * (high - low) + at
            columns.append(Column(at, None, spots))
            start = end
        return columns

    @staticmethod
    def of(labels: Tensor, low: int, high: int) -> Column:
        """The targets of labels [b] in the classes from low to high.

        Example
        -------
        >>> Column.of(torch.tensor([0, 3]), 2, 4).inside
        tensor([[False],
                [ True]])
        """
        labels = labels[:, None]
        inside = (labels >= low) & (labels < high)
        return Column((labels - low).clamp(0, high - low - 1), inside)

    def fill_(self, block: Tensor, value: float) -> None:
        """Write a value over the targets of a block [b, n], contiguous for ``spots``.

        Example
        -------
        >>> block = torch.zeros(2, 2)
        >>> Column(torch.tensor([[0], [1]])).fill_(block, 1.0)
        >>> block
        tensor([[1., 0.],
                [0., 1.]])
        """
        if self.spots is not None:
            block.view(-1).index_fill_(0, self.spots, value)
        elif self.inside is None:
            block.scatter_(1, self.at, value)
        else:
            old = block.gather(1, self.at)
            block.scatter_(1, self.at, old.masked_fill_(self.inside, value))


def best_(z: Tensor, column: Column) -> Tensor:
    """Put the targets of a block out of the way and return the best other logit.

    Arguments
    ---------
    z : torch.Tensor
        Logits [b, n]; the targets' become the lowest number there is.
    column : Column
        Where the targets are.

    Returns
    -------
    torch.Tensor
        Shape [b, 1].

    Example
    -------
    >>> best_(torch.tensor([[3.0, 1.0, 2.0]]), Column(torch.tensor([[0]])))
    tensor([[2.]])
    """
    column.fill_(z, torch.finfo(z.dtype).min)
    return z.amax(1, keepdim=True)


def shift_of(best: Tensor, cut: Tensor, keep: Keep, bounded: bool) -> Tensor:
    """What to subtract from a row before exp.

    Arguments
    ---------
    best : torch.Tensor
        Best non-target logit of the block, bits, [b, 1].
    cut : torch.Tensor
        The target's logit after its margin, bits, [b, 1].
    keep : Keep
        The rule.
    bounded : bool
        Whether exponentials are known to stay in range without a maximum.

    Returns
    -------
    torch.Tensor
        Shape [b, 1].

    Example
    -------
    >>> best, cut = torch.tensor([[5.0]]), torch.tensor([[7.0]])
    >>> shift_of(best, cut, Keep("violating"), False)
    tensor([[7.]])
    """
    if keep.kind == "violating":
        return cut if bounded else torch.maximum(best, cut)
    return torch.zeros_like(best) if bounded else best


def exp_(
    z: Tensor,
    shift: Tensor,
    cut: Tensor,
    keep: Keep,
    bounded: bool,
    spare: Tensor | None = None,
) -> Tensor:
    """Logits to ``2^(z - shift)`` of the kept non-targets, 0 elsewhere, in place.

    For ``sparse`` all are kept here; :func:`sparsify_` follows.

    Arguments
    ---------
    z : torch.Tensor
        Logits in bits, [b, n], after :func:`best_`.
    shift, cut : torch.Tensor
        As in :func:`shift_of`, [b, 1].
    keep : Keep
        The rule.
    bounded : bool
        As in :func:`shift_of`.
    spare : torch.Tensor, optional
        Room for [b, n]; with it, those kept are counted (not for ``all``).

    Returns
    -------
    torch.Tensor
        How many were kept, [b, 1]; of no meaning without ``spare``.

    Example
    -------
    >>> z, one = torch.tensor([[0.0, 2.0]]), torch.ones(1, 1)
    >>> exp_(z, one, one, Keep("violating"), True, torch.empty(1, 2)), z
    (tensor([[1.]]), tensor([[0., 2.]]))
    """
    number = shift
    if keep.kind == "violating":
        z.sub_(cut)
        if bounded:
            torch.threshold_(z.exp2_(), 1 - torch.finfo(z.dtype).eps, 0.0)
            return number if spare is None else count_kept(z, spare)
        torch.threshold_(z, -1e-30, torch.finfo(z.dtype).min)
        if spare is not None:  # before what is invisible goes
            kept = torch.clamp(z, -1.0, 0.0, out=spare).sum(1, keepdim=True)
            number = kept + z.shape[1]
        z.sub_(shift - cut)
    elif bounded:
        z.exp2_()
        return number
    else:
        z.sub_(shift)
    torch.threshold_(z.clamp_min_(FLOOR).exp2_(), INVISIBLE, 0.0)
    return number


def sparse_row(
    total: Tensor, shift: Tensor, top: Tensor, cut: Tensor, delta: float, bounded: bool
) -> tuple[Tensor, Tensor]:
    """What a row is multiplied by so that AS-Softmax keeps what is at least 1.

    A class stays iff ``p_t - p_j <= delta``, that is
    ``e_j >= e_t - delta * (e_t + sum of all e)``.

    Arguments
    ---------
    total : torch.Tensor
        Sum over all non-targets of ``2^(z - top)``, [b, 1].
    shift : torch.Tensor
        What the block was shifted by, [b, 1] (or [b, blocks]).
    top : torch.Tensor
        What ``total`` is relative to, [b, 1].
    cut : torch.Tensor
        The target's logit, [b, 1].
    delta : float
        0 to 1.
    bounded : bool
        As in :func:`shift_of`.

    Returns
    -------
    row : torch.Tensor
        Shape of ``shift``.
    whole : torch.Tensor
        Whether all non-targets of the row stay, however small, [b, 1].

    Example
    -------
    >>> zero = torch.zeros(1, 1)
    >>> sparse_row(torch.ones(1, 1), zero, zero, zero, 0.25, True)
    (tensor([[2.]]), tensor([[False]]))
    """
    target = (cut - top).exp2()
    edge = target - delta * (total + target)
    reach = 53.0 if bounded else -FLOOR
    whole = edge <= 2.0**-reach
    edge = torch.where(whole, torch.ones_like(edge), edge)
    row = ((shift - top).exp2() / edge).clamp_min(1e-30)
    return torch.where(whole, torch.full_like(row, 2.0**reach), row), whole


def sparsify_(e: Tensor, row: Tensor) -> Tensor:
    """Scale the rows and drop what is below 1, in place.

    Arguments
    ---------
    e : torch.Tensor
        Exponentials [b, n].
    row : torch.Tensor
        From :func:`sparse_row`, [b, 1].

    Returns
    -------
    torch.Tensor
        ``e`` itself.

    Example
    -------
    >>> sparsify_(torch.tensor([[0.4, 0.5]]), torch.tensor([[2.0]]))
    tensor([[0., 1.]])
    """
    return torch.threshold_(e.mul_(row), 1 - 4 * torch.finfo(e.dtype).eps, 0.0)


def count_kept(e: Tensor, spare: Tensor) -> Tensor:
    """How many exponentials of each row were kept, all of those being at least 1.

    Arguments
    ---------
    e : torch.Tensor
        Exponentials [b, n], 0 where dropped.
    spare : torch.Tensor
        Room for [b, n].

    Returns
    -------
    torch.Tensor
        Shape [b, 1].

    Example
    -------
    >>> count_kept(torch.tensor([[0.0, 2.0, 1.0]]), torch.empty(1, 3))
    tensor([[2.]])
    """
    return torch.clamp_max(e, 1.0, out=spare).sum(1, keepdim=True)


class Kept(NamedTuple):
    """What an evaluator returns for each row, all [B].

    ``lse``: log of the sum of exp over the kept non-targets (-inf when none);
    ``target``: the target's score; ``best``: the best non-target logit, without
    gradient; ``number``: how many non-targets were kept, or None for all.

    Example
    -------
    >>> Kept(torch.zeros(2), torch.ones(2), torch.zeros(2), None).target
    tensor([1., 1.])
    """

    lse: Tensor
    target: Tensor
    best: Tensor
    number: Tensor | None


def row_weight(g: Tensor, total: Tensor, scale: float) -> Tensor:
    """Gradient of each exponential: ``g * scale / total``, 0 where nothing was kept.

    Arguments
    ---------
    g, total : torch.Tensor
        Gradient towards the lse and the sum of exponentials, [B].
    scale : float
        Of the logits.

    Returns
    -------
    torch.Tensor
        Shape [B].

    Example
    -------
    >>> row_weight(torch.ones(2), torch.tensor([2.0, 0.0]), 30.0)
    tensor([15.,  0.])
    """
    live = (total > 0) & (g.abs() > FAINT)
    ones = torch.ones_like(total)
    return torch.where(live, g * scale, 0.0) / torch.where(live, total, ones)
