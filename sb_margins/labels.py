"""Shapes and values of a batch: checked at once, or without a wait for the device.

On a CPU a bad label is reported by the call that has it. On an accelerator looking at a
label would stop the pipeline, and not looking would end in a device assert; so labels
are clamped into range, the verdict is copied out in the background, and the error is
raised by the next call (or by :meth:`InputCheck.flush`).
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sb_margins.errors import UserError
from sb_margins.precision import on_cpu

ORIGIN = "sb_margins_origin"  # attribute of a classifier's scores


def mark_origin(scores: Tensor, classifier: Any) -> Tensor:
    """Note on scores the geometry and the name of the classifier that made them."""
    setattr(scores, ORIGIN, (classifier.geometry, type(classifier).__name__))
    return scores


def as_rows(x: Tensor, name: str) -> Tensor:
    """[B, 1, N] or [B, N] to [B, N]; other shapes and empty batches are refused."""
    if x.dim() == 3 and x.shape[1] == 1:
        x = x.squeeze(1)
    if x.dim() != 2:
        shape = list(x.shape)
        raise UserError(f"{name} must be [batch, N] or [batch, 1, N], not {shape}")
    if x.shape[0] == 0:
        raise UserError(f"empty batch: {name} have no rows; drop empty batches")
    return x


def as_embeddings(x: Tensor, size: int) -> Tensor:
    """[B, D] or [B, 1, D] to [B, D], D being ``size``."""
    x = as_rows(x, "embeddings")
    if x.shape[1] != size:
        raise UserError(
            f"embeddings have {x.shape[1]} numbers, but input_size is {size}; give the "
            "classifier the encoder's output size"
        )
    return x


def as_labels(targets: Tensor, batch: int) -> Tensor:
    """Class numbers of any dtype, [B] or [B, 1], to int64 [B]."""
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    if targets.dim() != 1 or targets.shape[0] != batch:
        shape = list(targets.shape)
        raise UserError(
            f"targets must be class numbers, one for each of {batch} rows, "
            f"[batch] or [batch, 1], not {shape}"
        )
    return targets.long()


class _Verdict(NamedTuple):
    """Whether a batch is bad and its label furthest out, on their way to the host."""

    host: Tensor
    copied: torch.cuda.Event | None
    classes: int  # 0 when it is about values


class InputCheck:
    """Says what is wrong with the values of a batch."""

    def __init__(self) -> None:
        self._pending: deque[_Verdict] = deque()

    def __deepcopy__(self, memo: dict) -> InputCheck:
        return InputCheck()

    def __reduce__(self) -> tuple:
        return (InputCheck, ())

    def labels(self, labels: Tensor, classes: int) -> Tensor:
        """The labels, int64 [B], within range.

        Raises UserError on a CPU for these, on an accelerator for an earlier batch.
        """
        if on_cpu(labels.device):
            for label in labels.aminmax():
                if not 0 <= int(label) < classes:
                    raise _label_error(int(label), classes)
            return labels
        self.flush(wait=False)
        outside = (labels < 0) | (labels >= classes)
        wrong = torch.where(outside, labels, 0)
        furthest = wrong.abs().argmax(0, keepdim=True)
        # indexing with it would read it: a wait
        self._post(outside.any(), wrong.gather(0, furthest).squeeze(0), classes)
        return labels.clamp(0, classes - 1)

    def values(self, values: Tensor) -> None:
        """Check that embeddings or scores are finite; raises as :meth:`labels` does."""
        values = values.detach()
        if on_cpu(values.device):
            if not math.isfinite(values.sum().item()):  # then look closely
                if not bool(torch.isfinite(values).all()):
                    raise _values_error()
            return
        broken = ~torch.isfinite(values).all()
        self._post(broken, broken.long(), 0)

    def flush(self, wait: bool = True) -> None:
        """Raise for earlier batches on an accelerator, if any was bad.

        ``wait=False`` leaves those whose verdict is not there yet.
        """
        while self._pending:
            verdict = self._pending[0]
            if verdict.copied is not None:
                if not wait and not verdict.copied.query():
                    return
                verdict.copied.synchronize()
            self._pending.popleft()
            bad, label = verdict.host.tolist()
            if bad and verdict.classes:
                raise _label_error(label, verdict.classes)
            if bad:
                raise _values_error()

    def _post(self, bad: Tensor, label: Tensor, classes: int) -> None:
        """Copy a verdict out in the background; nothing waits for it here."""
        verdict = torch.stack([bad.long(), label])
        if verdict.device.type == "cpu":  # the branches of accelerators, under test
            self._pending.append(_Verdict(verdict, None, classes))
        elif verdict.device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():
                return
            host = torch.empty(2, dtype=torch.long, pin_memory=True)
            host.copy_(verdict, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            self._pending.append(_Verdict(host, copied, classes))


def _label_error(label: int, classes: int) -> UserError:
    return UserError(
        f"label {label} is out of range for {classes} classes (0 to {classes - 1}); "
        "set out_neurons to the number of training speakers"
    )


def _values_error() -> UserError:
    return UserError(
        "the embeddings or scores hold NaN or infinity; lower the learning rate, clip "
        "the gradients, or look for silent or corrupt audio in the batch"
    )
