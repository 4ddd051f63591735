"""How many batches make one update: AS-Speed of the AS-Softmax paper."""

from __future__ import annotations

import json
import math
from pathlib import Path

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from sb_margins.errors import UserError


@register_checkpoint_hooks
class AdaptiveAccumulation:
    """steps = round(lambda * N / (N - N_zero)), up to ``maximum``.

    N_zero of the last window's N samples had a loss of exactly zero
    (https://arxiv.org/abs/2508.03175; the authors' code counts the next window's first
    batch instead). As in their code, windows never shrink and grow by one at most.
    They begin with ``minimum``, and losses that are never zero keep it; ``strength`` is
    lambda: larger accumulates sooner.

    Example
    -------
    >>> accumulation = AdaptiveAccumulation(maximum=8)
    >>> [accumulation.after_window(samples=16, zero=zero) for zero in (0, 8, 16)]
    [1, 2, 3]
    """

    def __init__(self, strength: float = 1.0, maximum: int = 8, minimum: int = 1):
        if not 1 <= minimum <= maximum or strength <= 0:
            raise UserError(
                "adaptive accumulation needs 1 <= minimum <= maximum and strength > 0"
                f" (got {minimum}, {maximum} and {strength})"
            )
        self.strength = strength
        self.maximum = maximum
        self.minimum = minimum
        self.window = minimum

    def after_window(self, samples: float, zero: float) -> int:
        """The next window's length, from the samples of the one that ended."""
        left = samples - zero
        wanted = math.inf if left <= 0 else self.strength * samples / left
        grown = min(self.maximum, self.window + 1, wanted + 0.5)
        self.window = max(self.window, int(grown))
        return self.window

    @mark_as_saver
    def _save(self, path: str) -> None:
        Path(path).write_text(json.dumps({"window": self.window}), encoding="utf-8")

    @mark_as_loader
    def _load(self, path: str, end_of_epoch: bool) -> None:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))["window"]
        self.window = max(self.minimum, min(self.maximum, int(saved)))
