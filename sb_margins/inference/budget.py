"""Limits on what building a model may take."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sb_margins.errors import UserError

MAX_ELEMENTS = 500_000_000  # 2 GB of float32; ECAPA with 1024 channels has 21 million
MAX_CALLS = 10_000  # ECAPA makes about five hundred
MAX_SECONDS = 60.0


class MemoryBudget(TorchDispatchMode):
    """Inside this context, tensors that are made are counted and too many refused.

    A few lines of YAML can ask for a layer of a terabyte. Creation calls are looked
    at before they run.

    Example
    -------
    >>> with MemoryBudget():
    ...     _ = torch.nn.Linear(10**6, 10**6)
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: refused: the model would take more than ...
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.calls = 0
        self.until = time.monotonic() + MAX_SECONDS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.calls += 1
        size = args[0] if args else ()
        if isinstance(size, (list, tuple, torch.Size)) and all(
            isinstance(n, int) for n in size
        ):
            self.elements += math.prod(size)
        if self.elements > MAX_ELEMENTS or self.calls > MAX_CALLS:
            raise UserError(
                f"refused: the model would take more than {MAX_ELEMENTS:.0e} values or "
                f"{MAX_CALLS} tensors; its YAML is not credible"
            )
        if time.monotonic() > self.until:
            raise UserError(
                f"refused: building the model takes over {MAX_SECONDS:.0f} s"
            )
        return func(*args, **(kwargs or {}))
