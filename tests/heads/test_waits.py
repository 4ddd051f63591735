"""A step of every head waits for nothing on a GPU, and mixes no devices.

The GPU is pretended, see helpers/pretended_gpu.py.
"""

import pytest
import torch
from losses_grid import CLASSIFIERS, FEWER_PAIRS, GEOMETRY, LOSSES, is_tiled
from pretended_gpu import backward, pretended_gpu, to_gpu

from sb_margins.head import Head


def test_what_waits_is_counted():
    with pretended_gpu() as device:
        x = torch.empty(3, 4, device="cuda")
        for wait in (
            x.max().item,
            x.tolist,
            lambda: x[x[0, 0].long()],
            lambda: bool(x.any()),
            x.nonzero,
            lambda: x[x > 0],
            x.cpu,
            lambda: torch.empty(3, 4).copy_(x),
        ):
            device.clear()
            wait()
            assert device.waits.total() == 1 and not device.copies
        for copy in (
            lambda: x.new_tensor(-1.0),
            lambda: torch.tensor([1.0], device="cuda"),
            lambda: torch.ones(3).to("cuda"),
            lambda: x.copy_(torch.ones(3, 4)),
            lambda: x[torch.tensor([1, 2])],
        ):
            device.clear()
            copy()
            assert device.copies.total() == 1 and not device.waits
        device.clear()
        torch.ones(3).to("cuda", non_blocking=True)
        assert not device.copies and device.launches.total() == 1
        with pytest.raises(RuntimeError, match="device"):
            x + torch.ones(4)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HOW = ["stored", "recomputed", "split"]


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("classifier, loss", FEWER_PAIRS)
def test_a_step_waits_for_nothing(classifier, loss, precision):
    dtype = DTYPES[precision]
    for number, how in enumerate(HOW):
        cost = LOSSES[GEOMETRY[classifier]][loss]()
        model = CLASSIFIERS[classifier](8, 100)
        if how == "recomputed" and not (classifier == "joint" or is_tiled(model, cost)):
            continue  # the same as stored
        tile = 64 if number == list(DTYPES).index(precision) else None
        with pretended_gpu() as device:
            head = Head(to_gpu(model), cost, store=how != "recomputed", tile=tile)
            labels = torch.zeros(16, dtype=torch.long, device="cuda")
            x = torch.empty(16, 8, dtype=dtype, device="cuda", requires_grad=True)
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                value = cost(model(x), labels) if how == "split" else head(x, labels)
            backward(value)
            stats = cost.stats if how == "split" else {**head.stats, "": head.correct}
        assert value.dtype == torch.float32
        for tensor in (value, *stats.values()):
            assert tensor.device.type == "cuda"
        assert not device.waits and not device.copies, (how, device.waits)
        for leaf in (x, *model.parameters()):
            assert leaf.grad is not None and leaf.grad.dtype == leaf.dtype
