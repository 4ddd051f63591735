"""What a training owes to its surroundings: other processes, compilers, signals."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, NoReturn

import torch
from speechbrain.utils.distributed import ddp_all_reduce
from torch.nn.parallel import DistributedDataParallel as DDP

from sb_margins.training.accumulation import WindowedBrain
from sb_margins.training.stopping import Interrupted, StopRequest

ASK_EVERY = 10  # updates after which the processes of a DDP training agree to save


def in_group() -> bool:
    """Whether this process is a rank of a DDP training.

    Example
    -------
    >>> in_group()
    False
    """
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def leave_group(code: int) -> NoReturn:
    """Leave the process group and end this process at once.

    DDP keeps gloo's threads alive even after ``destroy_process_group``. One that still
    holds a tensor while the interpreter ends calls ``std::terminate``: a training that
    was finished and saved would look like a crash. So the interpreter does not end, the
    process does.

    Arguments
    ---------
    code : int
        The exit code.

    Example
    -------
    >>> leave_group(0)  # doctest: +SKIP
    """
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class ProcessBrain(WindowedBrain):
    """A Brain that stops when asked to, compiles the encoder, and runs DDP on CPUs.

    Arguments
    ---------
    *args, **kwargs
        As ``speechbrain.Brain``.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.stop = StopRequest()
        # Before --compile and DDP wrap them: whole utterances of all lengths would
        # be compiled again and again, and DDP talks in each forward.
        self.plain_modules = dict(self.modules.items())
        self.rank = torch.distributed.get_rank() if self.distributed_launch else 0
        self._windows = 0

    def before_saving(self) -> None:
        """Raise when the state must not be saved; a subclass knows."""

    def fit(self, epoch_counter: Any, train_set: Any, **kwargs: Any) -> None:
        """As SpeechBrain's ``fit``; the first Ctrl-C saves and stops, the second kills.

        Raises
        ------
        Interrupted
            After the checkpoint was saved.
        """
        with self.stop:
            super().fit(epoch_counter, train_set, **kwargs)

    def _should_save_intra_epoch_ckpt(self, last: float, steps: int) -> bool:
        # Gradients are no part of a checkpoint: save between windows only.
        if self.micro or self.checkpointer is None:
            return False
        self._windows += 1
        due, stop = self._due(last, steps), self.stop.asked
        if self.distributed_launch:  # all must do the same, and asking costs time
            if self._windows % ASK_EVERY:
                return False
            wishes = torch.tensor([due and self.rank == 0, stop], device=self.device)
            wishes = ddp_all_reduce(wishes.int(), torch.distributed.ReduceOp.MAX)
            due, stop = wishes.bool().tolist()
        if due or stop:
            self.before_saving()
        if stop:
            self._save_intra_epoch_ckpt()
            raise Interrupted
        return due

    def _due(self, last: float, steps: int) -> bool:
        minutes, every = self.ckpt_interval_minutes, self.ckpt_interval_steps
        return 0 < minutes < (time.time() - last) / 60 or 0 < every <= steps

    def _compile(self) -> None:
        if not self.compile or self.compile_module_keys is not None:
            return super()._compile()
        # The head brings its own kernels, and the features are cheap.
        self.modules["embedding_model"] = torch.compile(
            self.modules["embedding_model"],
            mode=self.compile_mode,
            fullgraph=self.compile_using_fullgraph,
            dynamic=self.compile_using_dynamic_shape_tracing,
        )

    def _wrap_distributed(self) -> None:
        if not self.distributed_launch or torch.device(self.device).type != "cpu":
            return super()._wrap_distributed()
        # SpeechBrain synchronises batch norms, which torch can on a GPU only.
        for name, module in self.modules.items():
            if any(p.requires_grad for p in module.parameters()):
                unused = self.find_unused_parameters
                self.modules[name] = DDP(module, find_unused_parameters=unused)

    def share_buffers(self) -> None:
        """Give all processes the running statistics of the first one's encoder."""
        if self.distributed_launch:
            for buffer in self.plain_modules["embedding_model"].buffers():
                torch.distributed.broadcast(buffer, 0)
