"""Shapes and labels of a training step: checked at once, or without a device sync.

On the CPU a bad label is told in the call that has it. On an accelerator looking at a
label would stop the pipeline, and not looking would end in a device assert; so labels
are clamped into range, the verdict is copied out in the background, and the ValueError
is raised by the next call (or by :meth:`InputCheck.flush`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sb_margins.errors import UserError
from sb_margins.precision import on_cpu


def as_rows(x: Tensor, name: str) -> Tensor:
    """[B, 1, N] or [B, N] to [B, N].

    Arguments
    ---------
    x : torch.Tensor
        What the user gave.
    name : str
        How to call it in a message.

    Returns
    -------
    torch.Tensor
        Shape [B, N].

    Raises
    ------
    ValueError
        When the shape is neither, or the batch is empty.

    Example
    -------
    >>> as_rows(torch.zeros(4, 1, 3), "scores").shape
    torch.Size([4, 3])
    """
    if x.dim() == 3 and x.shape[1] == 1:
        x = x.squeeze(1)
    if x.dim() != 2:
        shape = list(x.shape)
        raise UserError(f"{name} must be [batch, N] or [batch, 1, N], not {shape}")
    if x.shape[0] == 0:
        raise UserError(f"empty batch: {name} have no rows; drop empty batches")
    return x


def as_labels(targets: Tensor, batch: int) -> Tensor:
    """Class numbers of any dtype, [B] or [B, 1], to int64 [B].

    Arguments
    ---------
    targets : torch.Tensor
        Integers, or floats that hold integers.
    batch : int
        How many there must be.

    Returns
    -------
    torch.Tensor
        int64, shape [B].

    Raises
    ------
    ValueError
        When their number is not that of the batch.

    Example
    -------
    >>> as_labels(torch.tensor([[1.0], [0.0]]), 2)
    tensor([1, 0])
    """
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    if targets.dim() != 1 or targets.shape[0] != batch:
        shape = list(targets.shape)
        raise UserError(
            f"targets must be class numbers, one for each of {batch} rows, "
            f"[batch] or [batch, 1], not {shape}"
        )
    return targets.long()


class Done:
    """The event of a copy that is done.

    Example
    -------
    >>> Done().query()
    True
    """

    def query(self) -> bool:
        """Whether it is."""
        return True

    def synchronize(self) -> None:
        """Nothing to wait for."""


class InputCheck:
    """Says what is wrong with the values of a batch.

    Example
    -------
    >>> check = InputCheck()
    >>> check.labels(torch.tensor([0, 1]), 2)
    tensor([0, 1])
    >>> check.labels(torch.tensor([0, 2]), 2)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: label 2 is out of range for 2 classes ...
    """

    def __init__(self) -> None:
        self._pending: list[tuple[Tensor, Any, int]] = []

    def __deepcopy__(self, memo: dict) -> InputCheck:
        return InputCheck()

    def __reduce__(self) -> tuple:
        return (InputCheck, ())

    def labels(self, labels: Tensor, classes: int) -> Tensor:
        """Check the labels of a batch.

        Arguments
        ---------
        labels : torch.Tensor
            int64, shape [B].
        classes : int
            How many classes there are.

        Returns
        -------
        torch.Tensor
            The labels, within range, shape [B].

        Raises
        ------
        ValueError
            On the CPU for this batch; on an accelerator for an earlier one.

        Example
        -------
        >>> InputCheck().labels(torch.tensor([2]), 3)
        tensor([2])
        """
        if on_cpu(labels.device):
            for label in labels.aminmax():
                if not 0 <= int(label) < classes:
                    _raise_label(int(label), classes)
            return labels
        wild = (labels < 0) | (labels >= classes)
        self.flush(wait=False)
        wrong = torch.where(wild, labels, torch.zeros_like(labels))
        worst = wrong.abs().argmax(0, keepdim=True)
        self._post(wild.any(), wrong.gather(0, worst).squeeze(0), classes)
        return labels.clamp(0, classes - 1)

    def values(self, values: Tensor) -> None:
        """Check that numbers are finite.

        Arguments
        ---------
        values : torch.Tensor
            Embeddings or scores, any shape.

        Raises
        ------
        ValueError
            On the CPU for these; on an accelerator for earlier ones.

        Example
        -------
        >>> InputCheck().values(torch.ones(2))
        """
        values = values.detach()
        if on_cpu(values.device):
            if not math.isfinite(values.sum().item()):  # then look closely
                if not bool(torch.isfinite(values).all()):
                    _raise_values()
            return
        broken = ~torch.isfinite(values).all()
        self._post(broken, broken.long(), 0)

    def flush(self, wait: bool = True) -> None:
        """Raise for earlier batches on an accelerator, if any was bad.

        Arguments
        ---------
        wait : bool
            Whether to wait for those still running. Default True.

        Raises
        ------
        ValueError
            When an earlier batch had a bad label or a value that is not finite.

        Example
        -------
        >>> InputCheck().flush()
        """
        while self._pending and (wait or self._pending[0][1].query()):
            host, event, classes = self._pending.pop(0)
            event.synchronize()
            if host[0]:
                if classes:
                    _raise_label(int(host[1]), classes)
                _raise_values()

    def _post(self, bad: Tensor, detail: Tensor, classes: int) -> None:
        """Copy a verdict out in the background; nothing waits for it here."""
        if bad.device.type == "cpu":  # the tests' accelerator
            event: Any = Done()
            self._pending.append((torch.stack([bad.long(), detail]), event, classes))
            return
        if bad.device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return
        host = torch.empty(2, dtype=torch.long, pin_memory=True)
        host.copy_(torch.stack([bad.long(), detail]), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((host, event, classes))


def _raise_label(label: int, classes: int) -> None:
    raise UserError(
        f"label {label} is out of range for {classes} classes (0 to {classes - 1}); "
        "set out_neurons to the number of training speakers"
    )


def _raise_values() -> None:
    raise UserError(
        "the embeddings or scores hold NaN or infinity; lower the learning rate, clip "
        "the gradients, or look for silent or corrupt audio in the batch"
    )
