"""Around a run: signals, process groups, memory, chatter, errors from outside."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from speechbrain.utils.distributed import infer_device

from sb_margins.errors import UserError

AGAIN = "The same command then continues from the last checkpoint"
# What gloo and NCCL say when a process at the other end is gone.
LOST = ("Connection closed by peer", "Connection reset by peer", "gloo/", "NCCL")
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# <malloc.h>: the names in the environment and the numbers of mallopt's parameters
MALLOC = {
    "MALLOC_MMAP_MAX_": (-4, 0),  # no mapping of its own for a large tensor
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),  # freed memory stays with the process
}


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop and has saved a checkpoint."""


class StopRequest:
    """Notes SIGINT (Ctrl-C) and SIGTERM (schedulers, torchrun) while it is entered.

    A second SIGINT does what it always does. Outside of the main thread no signal is
    noted.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                break
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def in_group() -> bool:
    """Whether this process is a rank of a DDP run."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def world_size() -> int:
    """The number of processes that train together."""
    return torch.distributed.get_world_size() if in_group() else 1


def backend_flags() -> list[str]:
    """Under torchrun on a machine without GPUs: the flags to train on its CPUs."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 0))
    gpus = torch.cuda.device_count()
    if not ranks or ranks <= gpus:
        return []
    if gpus:
        raise UserError(
            f"{ranks} processes need {ranks} GPUs, and this machine has {gpus}: lower "
            "--nproc_per_node, or use --device cpu --distributed_backend gloo"
        )
    return ["--device=cpu", "--distributed_backend=gloo"]


def reading_processes(wanted: int | None, device: str) -> int:
    """How many processes read audio: as wanted, or none on a CPU and up to 8 a GPU."""
    if wanted is not None:
        return wanted
    if torch.device(device).type == "cpu":  # they would take cores from the steps
        return 0
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(8, (os.cpu_count() or 1) // ranks)


def leave_group(code: int) -> NoReturn:
    """Leave the process group and end this process at once.

    DDP keeps gloo's threads alive even after ``destroy_process_group``. One that still
    holds a tensor while the interpreter ends calls ``std::terminate``: a finished run
    would look like a crash. So the interpreter does not end, the process does.
    """
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def quiet() -> None:
    """Keep libraries' chatter off the screen; warnings and errors stay."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.disable(logging.INFO)
    # SpeechBrain warns at every start that torchvision is missing.
    logger = logging.getLogger("speechbrain.utils.train_logger")
    logger.addFilter(lambda record: "torchvision" not in record.getMessage())
    warnings.filterwarnings("ignore", category=FutureWarning)


def keep_memory(device: str | None = "cpu") -> bool:
    """Keep what a step on the CPU frees for the next step (glibc; else does nothing).

    By default glibc gives every large tensor back to the system when it is freed, and
    the next step pays for a page fault in every 4 KiB of it: 10 to 15 % of a CPU step
    of ECAPA-TDNN. The environment's own ``MALLOC_...`` settings win.
    """
    if torch.device(device or infer_device()).type != "cpu":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # no glibc
        return False
    wanted = [pair for name, pair in MALLOC.items() if name not in os.environ]
    taken = [mallopt(*pair) == 1 for pair in wanted]
    return any(taken)


def is_full_disk(error: BaseException) -> bool:
    """Whether an error means that the disk was too full to write a file."""
    if isinstance(error, OSError):
        return error.errno in FULL_DISK
    # torch.save reports its C++ writer instead of the system's error.
    texts = ("PytorchStreamWriter", "inline_container", "write failed")
    return isinstance(error, RuntimeError) and any(t in str(error) for t in texts)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn a dead worker, a full disk, exhausted memory into a UserError."""
    try:
        yield
    except UserError as error:
        text = str(error)
        if "in DataLoader worker" in text:  # torch put the worker's traceback there
            text = text.strip().splitlines()[-1].split("UserError: ", 1)[-1]
            raise UserError(text) from None
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the device's memory is exhausted: lower batch_size or sentence_len, or "
            f"use --precision bf16 ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, RuntimeError) as error:
        if is_full_disk(error):
            raise UserError(
                f"the disk is full ({error}). Free some space. {AGAIN}"
            ) from error
        if in_group() and any(text in str(error) for text in LOST):
            raise UserError(
                "another process of this run ended, so this one does too; look above "
                f"for its reason. {AGAIN}"
            ) from error
        if "DataLoader worker" in str(error):
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"a process that reads audio died: {reason} Memory usually ran out: "
                f"lower num_workers (0 reads in the main process). {AGAIN}"
            ) from error
        raise
