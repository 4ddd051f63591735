"""Float32 whatever surrounds it, and norms and casts that stay finite.

A cosine rounded to bfloat16 is off by 0.004, one from a TF32 product by 0.0005; times
a scale of 30 either is part of a margin. So classifiers and losses cast their inputs
up and compute with autocast and TF32 off; gradients are cast back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

SMALL_NORM = 1e-12  # below this a vector has no direction (as F.normalize has it)

_pretend = False


def on_cpu(device: torch.device) -> bool:
    """Whether values can be read without a wait, and caches are a CPU's.

    Every branch that depends on the kind of device asks here.
    """
    return device.type == "cpu" and not _pretend


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device; from the CPU to a GPU nothing waits for the device."""
    device = torch.device(device)
    if x.device.type == "cpu" and device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def to_host(x: Tensor) -> Callable[[], Tensor]:
    """Begin to copy to the CPU; what is given back waits for the copy, and gives it."""
    if x.device.type != "cuda":
        return x.cpu
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait


@contextmanager
def accelerator_branches() -> Iterator[None]:
    """Take the branches of accelerators on a CPU as well: for tests."""
    global _pretend
    before, _pretend = _pretend, True
    try:
        yield
    finally:
        _pretend = before


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Autocast off, and no TF32 in CUDA's matrix products."""
    available = torch.amp.is_autocast_available(device.type)  # not on "meta"
    autocast = available and torch.is_autocast_enabled(device.type)
    with torch.autocast(device.type, enabled=False) if autocast else nullcontext():
        if device.type != "cuda":
            yield
            return
        with _without_tf32():
            yield


@contextmanager
def _without_tf32() -> Iterator[None]:
    """TF32 off for CUDA's matrix products, by the old switch and by the new one.

    PyTorch 2.9 has a new switch beside ``allow_tf32``. Writing the old one sets both;
    writing the new one alone makes every reader of the old one raise.
    """
    matmul = torch.backends.cuda.matmul
    new = getattr(matmul, "fp32_precision", None)
    before = matmul.allow_tf32 if new is None else new == "tf32"
    matmul.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32 = before
        if new is not None:
            matmul.fp32_precision = new


class _ExactProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        with full_precision(a.device):
            return a @ b.t()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        with full_precision(grad.device):
            return grad @ b, grad.t() @ a


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` of [N, K] and [M, K] in full precision, in backward too."""
    return _ExactProduct.apply(a, b)


class _Upcast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.dtype = x.dtype
        kind = x.device.type
        # float16 autocast has a GradScaler, which lowers its scale when it sees
        # infinity: hidden from it, gradients would be cut off at every step
        ctx.saturate = not (
            torch.amp.is_autocast_available(kind)
            and torch.is_autocast_enabled(kind)
            and torch.get_autocast_dtype(kind) == torch.float16
        )
        return x.float()

    @staticmethod
    def backward(ctx, grad):
        if ctx.saturate:
            top = torch.finfo(ctx.dtype).max
            grad = grad.clamp(-top, top)
        return grad.to(ctx.dtype)


def upcast(x: Tensor) -> Tensor:
    """Half precision (and integers) to float32; float32 and float64 as they are.

    The gradient comes back in the dtype of ``x``, cut off at its largest number; but
    under float16 autocast as infinity, for the GradScaler to see.
    """
    if x.dtype in (torch.float32, torch.float64):
        return x
    if not x.dtype.is_floating_point:
        return x.float()
    return _Upcast.apply(x)


def safe_norm(x: Tensor) -> Tensor:
    """Euclidean norm over the last dimension, for entries from 1e-38 to 1e37.

    Squares of 1e30 overflow float32 and squares of 1e-30 vanish, so vectors are
    divided by their largest entry first (on a CPU only when there are such vectors).
    No gradient flows.
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
    """``x / max(|x|, 1e-12)``, [..., D], differentiable, for any finite input."""
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
        # the part across x, over its norm; all of it where x has no direction
        along = (unit * grad).sum(-1, keepdim=True)
        along = torch.where(norm > SMALL_NORM, along, 0.0)
        return torch.addcmul(grad, along, unit, value=-1).div_(norm)
