"""Gradient accumulation in whole windows, of fixed or adaptive length.

SpeechBrain steps when ``step % factor == 0``: the remainder of an epoch is lost and
the factor cannot change without tearing a window apart. Here a window is counted,
its gradient is the mean over its batches, and what is left at an epoch's end is
used with the right scale.
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_all_reduce

from sb_margins.errors import UserError

SCALER_TRIES = 30
logger = logging.getLogger(__name__)


@register_checkpoint_hooks
class AdaptiveAccumulation:
    """How many batches make one update: AS-Speed of the AS-Softmax paper.

    steps = round(lambda * N / (N - N_zero)), between ``minimum`` and ``maximum``,
    where N_zero of the window's N samples had a loss of exactly zero
    (https://arxiv.org/abs/2508.03175). Losses that are never zero keep ``minimum``.

    Arguments
    ---------
    strength : float
        lambda; larger accumulates sooner.
    maximum : int
        Most batches in one update.
    minimum : int
        Fewest, and the number to begin with.

    Raises
    ------
    UserError
        When the numbers leave no choice.

    Example
    -------
    >>> accumulation = AdaptiveAccumulation(maximum=8)
    >>> accumulation.after_window(samples=16, zero=8)
    2
    >>> accumulation.after_window(samples=16, zero=16)
    8
    >>> accumulation.after_window(samples=16, zero=0)
    1
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
        self.window = int(max(self.minimum, min(self.maximum, wanted + 0.5)))
        return self.window

    @mark_as_saver
    def _save(self, path: str) -> None:
        Path(path).write_text(json.dumps({"window": self.window}), encoding="utf-8")

    @mark_as_loader
    def _load(self, path: str, end_of_epoch: bool) -> None:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))["window"]
        self.window = max(self.minimum, min(self.maximum, int(saved)))


class WindowedBrain(sb.Brain):
    """A Brain that accumulates in whole windows and never steps on NaN.

    ``hparams.accumulation`` (an ``AdaptiveAccumulation`` with a maximum above 1) makes
    the windows adaptive; without it they hold ``grad_accumulation_factor`` batches. A
    subclass sets ``steps_per_epoch`` and counts samples in ``window_samples``, and
    those without loss in ``window_zero``. No batch waits for the device: losses stay
    there (``Tally``), and only an update looks at its gradient's norm.
    """

    steps_per_epoch: int
    micro = 0  # batches in the window so far
    window = 1  # batches that the window will hold
    window_samples: float = 0.0
    window_zero: torch.Tensor | float = 0.0

    def fit_batch(self, batch: Any) -> torch.Tensor:
        """One batch: forward, backward, and at the window's end an update.

        Arguments
        ---------
        batch : CropBatch
            With ``ids``.

        Returns
        -------
        torch.Tensor
            The detached loss, on its device.
        """
        adaptive = getattr(self.hparams, "accumulation", None)
        if adaptive is not None and adaptive.maximum == 1:
            adaptive = None
        if self.micro == 0:
            self.window = self.grad_accumulation_factor
            if adaptive is not None:
                self.window = adaptive.window
        last = self.step >= self.steps_per_epoch
        should_step = last or self.micro + 1 >= self.window
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            scaled = self.scaler.scale(loss / self.window)
            scaled.backward()
        self.micro += 1
        if should_step:
            if self.micro < self.window:
                for parameter in self.modules.parameters():
                    if parameter.grad is not None:
                        parameter.grad.mul_(self.window / self.micro)
            self.optimizers_step()
            if adaptive is not None:
                self._adapt(adaptive)
            self.window_samples, self.window_zero = 0.0, 0.0
            self.micro = 0
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach()

    def update_average(self, loss: torch.Tensor, avg_loss: float) -> float:
        """SpeechBrain's running mean waits for every loss; the tally does not."""
        return avg_loss

    def _adapt(self, adaptive: AdaptiveAccumulation) -> None:
        """Decide the next window; every rank sees the sums over all ranks."""
        sums = torch.tensor(
            [float(self.window_samples), float(self.window_zero)], device=self.device
        )
        sums = ddp_all_reduce(sums, torch.distributed.ReduceOp.SUM)
        adaptive.after_window(*sums.tolist())

    def optimizers_step(self) -> None:
        """Clip, and step unless the gradient is not finite."""
        self.scaler.unscale_(self.optimizer)
        limit = self.max_grad_norm if self.max_grad_norm > 0 else math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.modules.parameters(), limit)
        finite = bool(torch.isfinite(norm))
        if finite or self.scaler.is_enabled():  # the scaler skips such steps itself
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if finite:
            self.optimizer_step += 1
            self.nonfinite_count = 0
        else:
            self._skipped()

    def _skipped(self) -> None:
        self.nonfinite_count += 1
        patience = self.nonfinite_patience
        if self.scaler.is_enabled():  # it finds its scale by trying
            patience += SCALER_TRIES
        else:
            logger.warning(
                "step %d: the gradient is not finite; this update is skipped", self.step
            )
        if self.nonfinite_count > patience:
            raise UserError(
                f"{self.nonfinite_count} updates in a row were not finite, so training "
                "stops; the last checkpoint is good. Lower lr, or use --precision fp32"
            )
