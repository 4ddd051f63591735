"""A CUDA device that is only pretended: what waits for it, what is copied, launched.

PyTorch's ``FakeTensorMode`` computes shapes, dtypes and devices of CUDA tensors without
any memory; the CPU's tensors stay real. A dispatch mode on top counts what a step asks
of the device. Autograd's engine needs a driver for a CUDA graph, so `backward` walks
the graph in Python. What cannot be seen this way: values, streams, pinned memory.
"""

from __future__ import annotations

import ctypes
import sys
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}
WAITS |= {"_unique2", "unique_dim", "unique_consecutive"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
NO_LAUNCH = set(
    "device detach view _unsafe_view expand t transpose permute slice select unsqueeze "
    "squeeze alias as_strided split split_with_sizes unbind empty empty_like new_empty "
    "empty_strided new_empty_strided _reshape_alias lift_fresh diagonal narrow unfold "
    "view_as_real view_as_complex set_ resize_ chunk".split()
)


def place():
    """The innermost line of this package (or SpeechBrain) that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/sb_margins/" in name or "/speechbrain/" in name:
            return f"{'/'.join(name.split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class Device(TorchDispatchMode):
    """Counts, by place: ``waits`` (copies to the host among them), blocking
    ``copies`` to the device, and ``launches`` of kernels."""

    def __init__(self):
        super().__init__()
        self.clear()

    def clear(self):
        self.waits, self.copies, self.launches = Counter(), Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        tensors = [
            a for a in tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)
        ]
        fakes = [a for a in tensors if isinstance(a, FakeTensor)]
        target = kwargs.get("device")
        to = None if target is None else torch.device(target).type
        if not fakes and to != "cuda":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if torch.is_inference_mode_enabled() and func.namespace == "aten":
            if func._can_decompose():  # inference mode leaves that to the modes
                with self:
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
        real = [t for t in tensors if not isinstance(t, FakeTensor)]
        quick = kwargs.get("non_blocking", False)
        if fakes and name in WAITS:
            self.waits[f"{name} {place()}"] += 1
            return self._value(name, fakes[0])
        if fakes and to == "cpu":
            if not quick:
                self.waits[f"copy to the CPU {place()}"] += 1
            dtype = kwargs.get("dtype") or fakes[0].dtype
            with unset_fake_temporarily():
                return torch.ones(tuple(fakes[0].shape), dtype=dtype)
        if name == "copy_":
            quick = kwargs.get("non_blocking", len(args) > 2 and args[2])
            if not isinstance(args[0], FakeTensor):
                if not quick:
                    self.waits[f"copy to the CPU {place()}"] += 1
                return args[0]
            to = "cuda"
        if fakes and name in INDEXING:
            index = []
            for i in args[1]:
                if i is None or i.dtype != torch.bool:
                    index.append(i)
                else:
                    self.waits[f"mask {place()}"] += 1
                    index += self._value("nonzero", i).unbind(1)
            args = (args[0], index, *args[2:])
            real = [i for i in index if i is not None and not isinstance(i, FakeTensor)]
            to = "cuda"
        if real and to == "cuda" and not quick:
            self.copies[f"{name} {place()}"] += 1
        if name not in NO_LAUNCH:
            self.launches[place()] += 1
        return func(*args, **kwargs)

    @staticmethod
    def _value(name, x):
        """Some value in place of one that only a device could say."""
        if name == "nonzero":
            shape = max(1, x.numel() // 2), x.dim()
            return torch.zeros(shape, dtype=torch.long, device="cuda")
        if name in ("equal", "is_nonzero"):
            return True
        assert name == "_local_scalar_dense", name
        return True if x.dtype == torch.bool else 1.0 if x.is_floating_point() else 1


def allow_cuda_devices():
    """Let PyTorch's bindings name CUDA devices where it is built without CUDA.

    They look for a device guard before they dispatch. ``FakeTensorMode`` puts one that
    does nothing in place of CUDA's when there is no GPU, but a build without CUDA has
    none to replace: it is given that of another device without hardware, "lazy".
    """
    cuda, lazy = 1, 17  # c10::DeviceType
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = "_ZN3c104impl26device_guard_impl_registryE"
    guards = (ctypes.c_void_p * (lazy + 1)).in_dll(library, registry)
    guards[cuda] = guards[cuda] or guards[lazy]
    torch._C._ensureCUDADeviceGuardSet()


def _tolist(self):
    """One wait, not one for each number."""
    return self.cpu().tolist()


@contextmanager
def pretended_gpu():
    """Within, device "cuda" is there, pretended; gives the `Device` that counts."""
    allow_cuda_devices()
    device = Device()
    properties = mock.Mock(total_memory=80 << 30)
    empty = torch.empty

    class Event:
        """Waits are counted, unless the event was asked before whether it is over."""

        def __init__(self, **options):
            self.over = False

        def record(self):
            pass

        def query(self):
            self.over = True
            return True

        def synchronize(self):
            if not self.over:
                device.waits[f"event {place()}"] += 1

        def elapsed_time(self, other):
            return 1.0

    def pinned(*size, pin_memory=False, **options):
        return torch.zeros(*size, **options) if pin_memory else empty(*size, **options)

    with ExitStack() as stack:
        for name, value in {
            "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
            "torch.cuda.is_bf16_supported": lambda *a, **k: True,
            "torch.cuda.is_current_stream_capturing": lambda: False,
            "torch.cuda.get_device_properties": lambda device: properties,
            "torch.cuda.Event": Event,
            "torch.empty": pinned,
            "torch.cuda.synchronize": lambda: None,
            "torch.cuda.empty_cache": lambda: None,
            "torch.cuda.reset_peak_memory_stats": lambda: None,
            "torch.cuda.memory_allocated": lambda: 0,
            "torch.cuda.max_memory_allocated": lambda: 1 << 20,
        }.items():
            stack.enter_context(mock.patch(name, value))
        for owner, name, value in (
            (FakeTensor, "tolist", _tolist),
            # page-locked memory needs a driver
            (torch.Tensor, "pin_memory", lambda self: self),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(device)
        yield device


def to_gpu(module, dtype=None):
    """A module on the pretended device: parameters and buffers, no other tensors."""

    def made(value):
        kind = value.dtype if dtype is None or not value.is_floating_point() else dtype
        return torch.empty(value.shape, dtype=kind, device="cuda")

    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                new = torch.nn.Parameter(made(value), value.requires_grad)
                part._parameters[name] = new
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = made(value)
    return module


def backward(loss):
    """Gradients of a scalar, by autograd's graph walked in Python.

    Each gradient is checked to have its tensor's dtype and device; what was broadcast
    is reduced, as the engine does.
    """
    root = loss.grad_fn
    waiting, stack, seen = Counter(), [root], {root}
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                waiting[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    gradients = defaultdict(dict)
    ready = [root]
    with torch.no_grad():
        gradients[root][loss.output_nr] = torch.ones_like(loss)
        while ready:
            node = ready.pop()
            given = gradients.pop(node, {})
            if hasattr(node, "variable"):
                _accumulate(node.variable, given.get(0))
                continue
            for (after, number), grad in zip(
                node.next_functions, _apply(node, given), strict=False
            ):
                if after is None:
                    continue
                if grad is not None:
                    old = gradients[after].get(number)
                    gradients[after][number] = grad if old is None else old + grad
                waiting[after] -= 1
                if not waiting[after]:
                    ready.append(after)


def _apply(node, given):
    """The gradients of a node's inputs."""
    wanted = node._input_metadata
    grads = [given.get(i) for i in range(max(1, len(wanted)))]
    for i, like in enumerate(wanted):
        grad = grads[i]
        if grad is None:
            continue
        if grad.shape != like.shape:
            grad = grad.sum_to_size(tuple(like.shape))
        assert grad.device == like.device, (node, grad.device, like.device)
        grads[i] = grad.to(like.dtype)
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        for i, like in enumerate(wanted):
            if grads[i] is None:
                shape, dtype = tuple(like.shape), like.dtype
                grads[i] = torch.zeros(shape, dtype=dtype, device=like.device)
        result = node.apply(*grads)
    else:
        result = node(*grads)
    return result if isinstance(result, tuple) else (result,)


def _accumulate(leaf, grad):
    if grad is None:
        return
    grad = grad.sum_to_size(leaf.shape)
    assert (grad.dtype, grad.device) == (leaf.dtype, leaf.device)
    leaf.grad = grad if leaf.grad is None else leaf.grad + grad
