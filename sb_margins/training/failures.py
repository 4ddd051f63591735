"""What breaks a training from outside, told in one sentence each."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sb_margins.errors import UserError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
AGAIN = "The same command then continues from the last checkpoint"


def is_full_disk(error: BaseException) -> bool:
    """Whether an error means that a file could not be written for want of room.

    Example
    -------
    >>> is_full_disk(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    # torch.save tells of its C++ writer instead of the system's error.
    words = ("PytorchStreamWriter", "inline_container", "write failed")
    return isinstance(error, RuntimeError) and any(w in str(error) for w in words)


@contextmanager
def plainly_told() -> Iterator[None]:
    """Turn a dead worker, a full disk, exhausted memory into a UserError.

    Raises
    ------
    UserError
        With what to do.

    Example
    -------
    >>> with plainly_told():
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: the disk is full (...). Free some space...
    """
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
        if "DataLoader worker" in str(error):
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"a process that reads audio died: {reason} Memory usually ran out: "
                f"lower num_workers (0 reads in the main process). {AGAIN}"
            ) from error
        raise
