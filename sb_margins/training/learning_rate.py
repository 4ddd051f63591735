"""One way to call every scheduler of SpeechBrain and of torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.checkpoints import (
    DEFAULT_LOAD_HOOKS,
    DEFAULT_SAVE_HOOKS,
    Checkpointer,
    get_default_hook,
)
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler


def _load(scheduler: Any, path: Path, end_of_epoch: bool) -> None:
    vars(scheduler).update(torch.load(path, weights_only=True))


def slow_down(optimizer: Optimizer, parameters: Iterable[Tensor], rate: float) -> None:
    """Give some parameters ``rate`` times the learning rate of the others.

    Schedulers set one rate for all groups, so it is lowered while the optimizer steps.
    """
    slow = {id(p) for p in parameters}
    for group in list(optimizer.param_groups):
        moved = [p for p in group["params"] if id(p) in slow]
        if moved:
            group["params"] = [p for p in group["params"] if id(p) not in slow]
            optimizer.add_param_group({**group, "params": moved, "rate": rate})

    def before(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["scheduled_lr"] = group["lr"]
            group["lr"] = group["lr"] * group.get("rate", 1.0)

    def after(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group.pop("scheduled_lr")

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


class LearningRate:
    """Steps a scheduler when its kind is stepped: before a batch or after an epoch.

    * SpeechBrain's ``scheduler(optimizer)`` and ``on_batch_end(optimizer)``: before
      each batch. Batches are counted, not updates, so that a schedule's length in
      epochs holds for any accumulation.
    * SpeechBrain's ``scheduler(epoch)``, ``scheduler(metric)`` and
      ``scheduler([optimizer], epoch, loss)``: after an epoch. The metric is the dev
      EER, or the training loss when there are no dev trials.
    * torch's, given as ``!name:torch.optim.lr_scheduler...``: ``OneCycleLR`` and
      ``CyclicLR`` between batches, the others after an epoch.
    """

    def __init__(self, scheduler: Any = None):
        self.scheduler = scheduler
        self.kind = ""

    def attach(self, optimizer: Optimizer) -> None:
        """Build a torch scheduler, which wants its optimizer first."""
        self.optimizer = optimizer
        if isinstance(self.scheduler, (partial, type)):
            self.scheduler = self.scheduler(optimizer)
        self.kind = self._kind()

    def _kind(self) -> str:
        scheduler = self.scheduler
        if scheduler is None:
            return "none"
        if isinstance(scheduler, (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)):
            return "torch, batches"
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            return "torch, metric"
        if isinstance(scheduler, lr_scheduler.LRScheduler):
            return "torch, epochs"
        if hasattr(scheduler, "on_batch_end"):
            return "on_batch_end"
        names = list(inspect.signature(scheduler).parameters)
        if len(names) == 3:
            return "optimizers, epoch, loss"
        if names[0] in ("opt", "optimizer"):
            return "optimizer" if len(names) == 1 else "optimizer, batches"
        return "epoch" if "epoch" in names[0] else "metric"

    def add_to(self, checkpointer: Checkpointer) -> None:
        """Have the state of the scheduler, if it has one, saved and loaded."""
        scheduler = self.scheduler
        if get_default_hook(scheduler, DEFAULT_SAVE_HOOKS) is None:
            return
        # SpeechBrain's InverseSquareRootScheduler can save, but not load.
        load = None if get_default_hook(scheduler, DEFAULT_LOAD_HOOKS) else _load
        checkpointer.add_recoverable("lr_annealing", scheduler, custom_load_hook=load)

    def before_batch(self, batches: int) -> None:
        """Put the rate where it belongs for batch number ``batches`` (from 1)."""
        if self.kind == "optimizer":
            self.scheduler(self.optimizer)
        elif self.kind == "optimizer, batches":
            self.scheduler(self.optimizer, batches)
        elif self.kind == "on_batch_end":
            self.scheduler.on_batch_end(self.optimizer)
        elif self.kind == "torch, batches" and batches > 1:
            self.scheduler.step()

    def after_epoch(self, epoch: int, metric: float) -> None:
        """Step the schedulers that count epochs, or watch a metric."""
        new = None
        if self.kind == "optimizers, epoch, loss":
            _, new = self.scheduler([self.optimizer], epoch, metric)
        elif self.kind == "epoch":
            _, new = self.scheduler(epoch)
        elif self.kind == "metric":
            _, new = self.scheduler(metric)
        elif self.kind == "torch, metric":
            self.scheduler.step(metric)
        elif self.kind == "torch, epochs":
            self.scheduler.step()
        if new is not None:
            update_learning_rate(self.optimizer, new)
