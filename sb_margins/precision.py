"""The float32 island: where classifiers and losses compute, whatever autocast says.

A cosine rounded to bfloat16 is off by 0.004, times a scale of 30 that is a margin
lost. So inputs are cast up, autocast is off inside, and gradients are cast back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

SMALL_NORM = 1e-12  # below this a vector has no direction (as F.normalize has it)

_pretend = False


def on_cpu(device: torch.device) -> bool:
    """Whether values can be read without a wait, and caches are a CPU's.

    Every branch that depends on the kind of device asks here.

    Example
    -------
    >>> on_cpu(torch.device("cpu")), on_cpu(torch.device("cuda"))
    (True, False)
    """
    return device.type == "cpu" and not _pretend


@contextmanager
def accelerator_branches() -> Iterator[None]:
    """Take the branches of accelerators on a CPU as well: for tests.

    Example
    -------
    >>> with accelerator_branches():
    ...     on_cpu(torch.device("cpu"))
    False
    """
    global _pretend
    before, _pretend = _pretend, True
    try:
        yield
    finally:
        _pretend = before


@contextmanager
def island(device: torch.device, exact: bool = False) -> Iterator[None]:
    """Autocast off; with ``exact``, TF32 kept out of CUDA matrix products too.

    Arguments
    ---------
    device : torch.device
        Where the tensors are.
    exact : bool
        Whether products need all 24 bits (Poincaré distances do). Default False.

    Yields
    ------
    None

    Example
    -------
    >>> with torch.autocast("cpu", torch.bfloat16), island(torch.device("cpu")):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    exact = exact and device.type == "cuda"
    known = torch.amp.is_autocast_available(device.type)  # the meta device has none
    if not exact and not (known and torch.is_autocast_enabled(device.type)):
        yield
        return
    with torch.autocast(device.type, enabled=False):
        if not exact:
            yield
            return
        matmul: Any = torch.backends.cuda.matmul
        new = hasattr(matmul, "fp32_precision")  # torch 2.9 and later
        name, value = ("fp32_precision", "ieee") if new else ("allow_tf32", False)
        before = getattr(matmul, name)
        setattr(matmul, name, value)
        try:
            yield
        finally:
            setattr(matmul, name, before)


class _ExactProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        with island(a.device, exact=True):
            return a @ b.t()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        with island(grad.device, exact=True):
            return grad @ b, grad.t() @ a


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` without TF32, in backward too.

    Arguments
    ---------
    a, b : torch.Tensor
        Shapes [N, K] and [M, K].

    Returns
    -------
    torch.Tensor
        Shape [N, M].

    Example
    -------
    >>> exact_product(torch.ones(1, 2), torch.eye(2))
    tensor([[1., 1.]])
    """
    return _ExactProduct.apply(a, b)


class _Upcast(torch.autograd.Function):
    """To float32; the gradient going back saturates instead of overflowing."""

    @staticmethod
    def forward(ctx, x):
        ctx.dtype = x.dtype
        return x.float()

    @staticmethod
    def backward(ctx, grad):
        top = torch.finfo(ctx.dtype).max
        return grad.clamp(-top, top).to(ctx.dtype)


def upcast(x: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 stay as they are.

    Arguments
    ---------
    x : torch.Tensor
        Any floating dtype; integers become float32.

    Returns
    -------
    torch.Tensor
        float32 or float64, same shape. Its gradient comes back in the dtype of
        ``x``, clipped to the finite range of that dtype.

    Example
    -------
    >>> upcast(torch.ones(2, dtype=torch.float16)).dtype
    torch.float32
    """
    if x.dtype in (torch.float32, torch.float64):
        return x
    if not x.dtype.is_floating_point:
        return x.float()
    return _Upcast.apply(x)


def safe_norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last dimension, for entries from 1e-38 to 1e37.

    Squares of 1e30 overflow float32 and squares of 1e-30 vanish, so vectors are
    divided by their largest entry first. No gradient flows.

    Arguments
    ---------
    x : torch.Tensor
        Shape [..., D].

    Returns
    -------
    torch.Tensor
        Shape [...].

    Example
    -------
    >>> safe_norm(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
    tensor([5.0000e+30, 0.0000e+00])
    """
    x = x.detach()
    norm = torch.linalg.vector_norm(x, dim=-1)
    if on_cpu(x.device) and norm.numel():
        least, most = norm.aminmax()
        if least.item() > 1e-15 and most.item() < 1e15:  # false for NaN, too
            return norm
    top = x.abs().amax(-1, keepdim=True)
    scaled = x / top.clamp_min(torch.finfo(x.dtype).tiny)
    return torch.linalg.vector_norm(scaled, dim=-1) * top.squeeze(-1)


def normalize(x: Tensor) -> Tensor:
    """Vectors of length 1, differentiable, for any finite input.

    Arguments
    ---------
    x : torch.Tensor
        Shape [..., D].

    Returns
    -------
    torch.Tensor
        ``x / max(|x|, 1e-12)``, shape [..., D].

    Example
    -------
    >>> normalize(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    return _Normalize.apply(x)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        norm = safe_norm(x).clamp_min(SMALL_NORM).unsqueeze(-1)
        unit = x / norm
        ctx.save_for_backward(unit, norm)
        return unit

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        unit, norm = ctx.saved_tensors
        return tangent(grad, unit, norm)


def tangent(grad: Tensor, unit: Tensor, norm: Tensor) -> Tensor:
    """Gradient of ``x / max(|x|, 1e-12)``: the part across x, divided by its norm.

    Arguments
    ---------
    grad : torch.Tensor
        Gradient towards the unit vectors, shape [..., D].
    unit : torch.Tensor
        The unit vectors, shape [..., D].
    norm : torch.Tensor
        The clamped norms, shape [..., 1].

    Returns
    -------
    torch.Tensor
        Gradient towards x, shape [..., D].

    Example
    -------
    >>> one = torch.ones(1, 1)
    >>> tangent(torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 0.0]]), one)
    tensor([[0., 3.]])
    """
    along = (unit * grad).sum(-1, keepdim=True)
    along = torch.where(norm > SMALL_NORM, along, torch.zeros_like(along))
    return torch.addcmul(grad, along, unit, value=-1).div_(norm)
