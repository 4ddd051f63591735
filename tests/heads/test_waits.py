"""A step of every head waits for nothing on an accelerator, and mixes no devices.

The accelerator is pretended: PyTorch's ``FakeTensorMode`` on the meta device computes
shapes, dtypes and devices only, and raises when a value would have to be read.
"""

from contextlib import contextmanager

import pytest
import torch
from losses_grid import CLASSIFIERS, FEWER_PAIRS, GEOMETRY, LOSSES, is_tiled
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from sb_margins.head import Head


class NoBlockingCopies(TorchDispatchMode):
    """Refuses copies between devices that wait for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        copy = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if copy and not kwargs.get("non_blocking"):
            source = args[0] if len(args) == 1 else args[1]
            assert out.device == source.device, "a blocking copy between devices"
        return out


@contextmanager
def accelerator(monkeypatch):
    """Within, tensors on "meta" behave as an accelerator's that must not wait."""
    make = torch.tensor

    def tensor(data, *args, device=None, **kwargs):
        assert device is None or torch.device(device).type == "cpu", "a blocking copy"
        return make(data, *args, **kwargs)

    def new_tensor(self, data, **kwargs):
        return tensor(data, device=kwargs.pop("device", self.device), **kwargs)

    monkeypatch.setattr(torch, "tensor", tensor)
    monkeypatch.setattr(torch.Tensor, "new_tensor", new_tensor)
    with FakeTensorMode(allow_non_fake_inputs=True), NoBlockingCopies():
        yield torch.device("meta")


def test_what_waits_is_refused(monkeypatch):
    with accelerator(monkeypatch) as device:
        x = torch.empty(3, device=device)
        for wait in (x.max().item, lambda: x[x.argmax()], lambda: bool(x.any())):
            with pytest.raises(DataDependentOutputException):
                wait()
        with pytest.raises(DynamicOutputShapeException):
            x.nonzero()
        with pytest.raises(FakeTensorDeviceMismatchError):
            x + torch.ones(3)
        for copy in (lambda: x.new_tensor(-1.0), lambda: torch.ones(3).to(device)):
            with pytest.raises(AssertionError, match="blocking"):
                copy()


HOW = {
    "recomputed": torch.float32,
    "in tiles": torch.float16,
    "split": torch.bfloat16,
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("classifier, loss", FEWER_PAIRS)
def test_a_step_waits_for_nothing(classifier, loss, how, monkeypatch):
    model = CLASSIFIERS[classifier](8, 100).to("meta")
    cost = LOSSES[GEOMETRY[classifier]][loss]()
    if how == "recomputed" and classifier != "joint" and not is_tiled(model, cost):
        return  # the same as split
    tile = 64 if how == "in tiles" else None
    head = Head(model, cost, store=how != "recomputed", tile=tile)
    with accelerator(monkeypatch) as device:
        labels = torch.zeros(16, dtype=torch.long, device=device)
        x = torch.empty(16, 8, dtype=HOW[how], device=device, requires_grad=True)
        value = cost(model(x), labels) if how == "split" else head(x, labels)
        assert value.dtype == torch.float32 and value.device == device
        value.backward()
        for leaf in (x, *model.parameters()):
            assert leaf.grad is not None and leaf.grad.dtype == leaf.dtype
