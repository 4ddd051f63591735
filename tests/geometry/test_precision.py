"""Full precision inside, whatever is set outside; casts and norms of anything."""

import pytest
import torch

from sb_margins.classifiers import CosineClassifier
from sb_margins.head import Head
from sb_margins.losses import AMSoftmax
from sb_margins.precision import full_precision, normalize, safe_norm, upcast


def test_full_precision_keeps_autocast_out():
    a = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with full_precision(a.device):
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16
    with full_precision(torch.device("meta")):  # a device without autocast
        pass


@pytest.fixture
def matmul():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    yield matmul
    matmul.allow_tf32 = before


@pytest.mark.parametrize("old", [True, False])
def test_tf32_is_off_inside_and_as_before_outside(matmul, old):
    """SpeechBrain turns TF32 on by the old switch, and may read it at any time."""
    matmul.allow_tf32 = old
    new = getattr(matmul, "fp32_precision", None)
    with full_precision(torch.device("cuda")):
        assert matmul.allow_tf32 is False
        if new is not None:
            assert matmul.fp32_precision == "ieee"
    assert matmul.allow_tf32 is old and getattr(matmul, "fp32_precision", None) == new


def test_tf32_by_the_new_switch_alone(matmul):
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("PyTorch before 2.9")
    try:
        for value in ("tf32", "ieee", "none"):
            matmul.fp32_precision = value
            with full_precision(torch.device("cuda")):
                assert matmul.fp32_precision == "ieee" and not matmul.allow_tf32
            assert matmul.fp32_precision == value
    finally:
        matmul.allow_tf32 = False


def test_norms_of_anything(branch):
    x = torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0, 0], [3, 4]])
    assert safe_norm(x[:0]).shape == (0,)
    for rows in (x, x[:1], x[1:2], x[3:]):
        expected = rows.double().norm(dim=-1).float()
        torch.testing.assert_close(safe_norm(rows), expected, rtol=1e-6, atol=0)
    x.requires_grad_()
    normalize(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_upcast():
    assert upcast(torch.ones(2, dtype=torch.int64)).dtype == torch.float32
    for dtype in (torch.float16, torch.bfloat16):
        assert upcast(torch.ones(2, dtype=dtype)).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        x = torch.ones(2, dtype=dtype)
        assert upcast(x) is x


def test_half_precision_gradients_saturate_without_a_scaler():
    x = torch.ones(2, dtype=torch.float16, requires_grad=True)
    (upcast(x) * torch.tensor([1e30, -1e30])).sum().backward()
    top = torch.finfo(torch.float16).max
    assert x.grad.tolist() == [top, -top]


def test_a_gradient_scaler_sees_what_float16_cannot_hold():
    """Under float16 autocast infinity goes through, and lowers GradScaler's scale."""
    head = Head(CosineClassifier(4, 3), AMSoftmax())
    for scale, finite in ((1.0, True), (1e9, False)):
        x = torch.randn(2, 4, dtype=torch.float16, requires_grad=True)
        with torch.autocast("cpu", torch.float16):
            loss = head(x, torch.tensor([0, 1]))
        (loss * scale).backward()
        assert bool(torch.isfinite(x.grad).all()) == finite
