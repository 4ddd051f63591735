"""Classes spread over processes: what these tell each other.

A rank holds C / W of the classes and sees the embeddings of all W batches: it is one
more tile of a walk over the classes. Everything that crosses processes is a method of
:class:`Ranks`, which gives back what it got where there is only one process.

Gradients are those of the mean loss over the ranks. DDP averages the encoder's over
them, so embeddings get theirs W times on the way back (:meth:`Ranks.gather`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sb_margins.errors import UserError

OVER = "sb_margins_ranks"  # attribute of a parameter that holds a rank's classes only


class Ranks:
    """The processes that share C classes, as this one sees them; one by default."""

    def __init__(self, classes: int = 0, rank: int = 0, size: int = 1) -> None:
        self.classes, self.rank, self.size = classes, rank, size

    def range(self, rank: int) -> tuple[int, int]:
        """The classes of a rank, low to high: neighbours, as many as the others'."""
        low, high = (self.classes * r // self.size for r in (rank, rank + 1))
        return low, high

    # -- tiles meet -----------------------------------------------------------

    def maximum(self, x: Tensor) -> Tensor:
        """The largest of all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(x, dist.ReduceOp.MAX)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def hardest(
        self, scores: Tensor, labels: Tensor, k: int
    ) -> tuple[Tensor, Tensor | None]:
        """The best non-targets of this rank that are among the best k of all.

        Of scores [B, C / W] and labels [B]: positions [B, k], and which count (None:
        all). Fewer than k where there are fewer.
        """
        at, held = self.held(labels, scores.shape[1])
        rivals = put_(scores.clone(), at[:, None], held, -torch.inf)
        k = min(k, (self.classes or scores.shape[1]) - 1)
        values, at = rivals.topk(min(k, rivals.shape[1]), dim=1)
        if self.size == 1:
            return at, None
        missing = k - values.shape[1]  # of a rank with few classes
        values = nn.functional.pad(values, (0, missing), value=-torch.inf)
        every = torch.cat(self._gathered(values.contiguous()), 1)
        chosen = every.topk(k, dim=1).indices - self.rank * k
        column = torch.arange(at.shape[1], device=at.device)
        return at, (chosen[:, :, None] == column).any(1)

    # -- batches meet ---------------------------------------------------------

    def batch(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of all ranks, B in all; labels counted from this rank's classes."""
        if self.size == 1:
            return x, labels
        return self.gather(x), self.gather(labels) - self.range(self.rank)[0]

    def held(self, labels: Tensor, classes: int) -> tuple[Tensor, Tensor | None]:
        """Labels brought into 0..classes, and which were there (None: all)."""
        if self.size == 1:
            return labels, None
        return labels.clamp(0, classes - 1), (labels >= 0) & (labels < classes)

    def gather(self, x: Tensor) -> Tensor:
        """Every rank's rows [b, ...] one after the other, [B, ...]; differentiable."""
        return x if self.size == 1 else _Gather.apply(x, self)

    def sum_own(self, x: Tensor, held: Tensor | None) -> Tensor:
        """Own rows [b] of the sum over ranks of those x [B] held; differentiable."""
        if held is None:
            return x
        return _SumOwn.apply(torch.where(held, x, 0.0), self)

    def own(self, x: Tensor) -> Tensor:
        """This rank's rows [b, ...] of all, [B, ...]."""
        return x if self.size == 1 else x.chunk(self.size)[self.rank]

    def gather_gradient(self, grad: Tensor) -> Tensor:
        """Of own rows' losses [b]: that of the mean over the ranks, [B]."""
        if self.size == 1:
            return grad
        return torch.cat(self._gathered(grad.contiguous())).div_(self.size)

    def _gathered(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x)
        return parts

    # -- whole tensors, for checkpoints ---------------------------------------

    def rows(self, whole: Tensor, rank: int | None = None) -> Tensor:
        """A rank's rows (this one's) of a tensor with some rows for each class."""
        low, high = self.range(self.rank if rank is None else rank)
        each = len(whole) // self.classes
        return whole[low * each : high * each]

    def whole(self, x: Tensor) -> Tensor:
        """On rank 0 the rows of all, on its CPU; elsewhere x. All ranks must call."""
        x = x.detach()
        if self.rank:
            dist.send(x.contiguous(), 0)
            return x
        low, high = self.range(0)
        each = len(x) // (high - low)
        whole = torch.empty(each * self.classes, *x.shape[1:], dtype=x.dtype)
        self.rows(whole).copy_(x)
        for rank in range(1, self.size):  # one at a time: no memory for all on a GPU
            part = self.rows(whole, rank)
            there = torch.empty_like(part, device=x.device)
            dist.recv(there, rank)
            part.copy_(there)
        return whole


ALONE = Ranks()


def put_(x: Tensor, index: Tensor, held: Tensor | None, value: Any) -> Tensor:
    """A number or [B, 1] into x [B, n] at index [B, 1], in place; in rows held only."""
    if held is not None:  # another rank has the others' targets
        value = torch.where(held.unsqueeze(1), value, x.gather(1, index))
    return x.scatter_(1, index, value)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return torch.cat(ranks._gathered(x.contiguous()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ranks = ctx.ranks
        parts = list(grad.contiguous().chunk(ranks.size))
        out = torch.empty_like(parts[0])
        dist.reduce_scatter(out, parts)
        return out.mul_(ranks.size), None


class _SumOwn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        parts = list(x.chunk(ranks.size))
        out = torch.empty_like(parts[0])
        dist.reduce_scatter(out, parts)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.gather_gradient(grad), None


def spread(classifier: nn.Module, classes: int) -> Ranks:
    """Cut a classifier down to this process's classes.

    Parameters with a row (or several) for each class keep their own; the others stay
    whole, alike everywhere, and get the gradient of all ranks. Whole weights can be
    loaded afterwards as before.
    """
    ranks = Ranks(classes, dist.get_rank(), dist.get_world_size())
    if classes < ranks.size:
        raise UserError(
            f"class_parallel: {classes} classes for {ranks.size} processes; start "
            "fewer, or leave class_parallel out"
        )
    cut = []
    for name, parameter in classifier.named_parameters():
        if parameter.dim():
            parameter.data = ranks.rows(parameter.data).clone()
            setattr(parameter, OVER, ranks)
            cut.append(name)
        elif parameter.requires_grad:
            parameter.register_hook(lambda grad: ranks.sum(grad.clone()))

    def cut_state(module: Any, state: dict, prefix: str, *rest: Any) -> None:
        for key in (prefix + name for name in cut):
            if key in state and len(state[key]) % classes == 0:
                state[key] = ranks.rows(state[key])

    classifier.register_load_state_dict_pre_hook(cut_state)
    return ranks


def ranks_of(parameter: Tensor) -> Ranks | None:
    """The ranks that a parameter's rows are spread over, None when it is whole."""
    return getattr(parameter, OVER, None)


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Norm of all gradients together, those of other ranks' classes included."""
    whole: list[Tensor] = []
    parts: list[Tensor] = []
    ranks = ALONE
    for parameter in parameters:
        if parameter.grad is not None:
            over = ranks_of(parameter)
            (whole if over is None else parts).append(parameter.grad)
            ranks = over or ranks
    norm = torch.nn.utils.get_total_norm
    if not parts:
        return norm(whole)
    squares = norm(whole).square().to(parts[0]), norm(parts).square()
    return (squares[0] + ranks.sum(squares[1])).sqrt()
