"""One way to call every scheduler of SpeechBrain and of torch."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.checkpoints import DEFAULT_SAVE_HOOKS, get_default_hook
from torch.optim import Optimizer, lr_scheduler

PER_BATCH = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)


class LearningRate:
    """Steps a scheduler when its kind is stepped: at each batch or at each epoch's end.

    * SpeechBrain's ``scheduler(optimizer)`` and ``on_batch_end(optimizer)``: before
      each batch. Batches are counted, not updates, so that a schedule's length in
      epochs holds for any accumulation.
    * SpeechBrain's ``scheduler(epoch)``, ``scheduler(metric)`` and
      ``scheduler([optimizer], epoch, loss)``: at the end of an epoch. The metric is the
      dev EER, or the training loss when there are no dev trials.
    * torch's, given as ``!name:torch.optim.lr_scheduler...``: ``OneCycleLR`` and
      ``CyclicLR`` after each batch, the others at the end of an epoch.
    """

    def __init__(self, scheduler: Any = None):
        self.scheduler = scheduler
        self._kind = self._kind_of(scheduler)

    @staticmethod
    def _kind_of(scheduler: Any) -> str:
        if scheduler is None:
            return "none"
        if isinstance(scheduler, (partial, type)):
            return "torch"
        if hasattr(scheduler, "on_batch_end"):
            return "on_batch_end"
        names = list(inspect.signature(scheduler).parameters)
        if len(names) == 3:
            return "plateau"
        if names[0] in ("opt", "optimizer"):
            return "updates" if len(names) == 2 else "batch"
        return "epoch" if "epoch" in names[0] else "metric"

    def attach(self, optimizer: Optimizer) -> None:
        """Build a torch scheduler, which wants its optimizer first."""
        self.optimizer = optimizer
        if self._kind == "torch":
            self.scheduler = self.scheduler(optimizer)

    @property
    def recoverable(self) -> Any:
        """What a checkpoint must hold; None when the scheduler has no state."""
        known = get_default_hook(self.scheduler, DEFAULT_SAVE_HOOKS)
        return None if known is None else self.scheduler

    def _is(self, kinds: Any) -> bool:
        return isinstance(self.scheduler, kinds)

    def before_batch(self, batches: int) -> None:
        """Put the rate where it belongs for batch number ``batches`` (from 1)."""
        if self._kind == "batch":
            self.scheduler(self.optimizer)
        elif self._kind == "updates":
            self.scheduler(self.optimizer, batches)
        elif self._kind == "on_batch_end":
            self.scheduler.on_batch_end(self.optimizer)

    def after_batch(self) -> None:
        """Step torch's schedulers that count batches."""
        if self._is(PER_BATCH):
            self.scheduler.step()

    def after_epoch(self, epoch: int, metric: float) -> None:
        """Step the schedulers that count epochs, or watch a metric."""
        new = None
        if self._kind == "plateau":
            _, new = self.scheduler([self.optimizer], epoch, metric)
        elif self._kind == "epoch":
            _, new = self.scheduler(epoch)
        elif self._kind == "metric":
            _, new = self.scheduler(metric)
        elif self._is(lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(metric)
        elif self._is(lr_scheduler.LRScheduler) and not self._is(PER_BATCH):
            self.scheduler.step()
        if new is not None:
            update_learning_rate(self.optimizer, new)
