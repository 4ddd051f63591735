"""Signals, torchrun without GPUs, errors from outside."""

import errno
import os
import signal

import pytest
import torch

from sb_margins.errors import UserError
from sb_margins.training.process import (
    StopRequest,
    backend_flags,
    is_full_disk,
    readable_errors,
    reading_processes,
    world_size,
)


def test_a_request_to_stop_is_noted_and_handlers_come_back():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest() as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # the second does what it always does
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    "ranks, gpus, flags",
    [
        (None, 0, []),
        (2, 0, ["--device=cpu", "--distributed_backend=gloo"]),
        (2, 2, []),
        (1, 4, []),
    ],
)
def test_torchrun_without_gpus_trains_on_cpus(monkeypatch, ranks, gpus, flags):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert backend_flags() == flags
    assert world_size() == 1


def test_a_gpu_gets_processes_that_read_audio(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 24)
    assert reading_processes(3, "cpu") == reading_processes(3, "cuda:1") == 3
    assert reading_processes(0, "cuda") == reading_processes(None, "cpu") == 0
    assert reading_processes(None, "cuda:0") == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert reading_processes(None, "cuda:0") == 6


def test_fewer_gpus_than_processes_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="4 processes need 4 GPUs.* has 2"):
        backend_flags()


@pytest.mark.parametrize(
    "error, text",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (RuntimeError("[enforce] inline_container.cc write failed"), "disk is full"),
        (torch.OutOfMemoryError("CUDA out of memory"), "lower batch_size"),
        (RuntimeError("DataLoader worker (pid 3) is killed"), "lower num_workers"),
        (UserError("in DataLoader worker\nUserError: no such file: x"), "^no such fi"),
        (UserError("something else"), "something else"),
    ],
)
def test_errors_from_outside_say_what_to_do(error, text):
    with pytest.raises(UserError, match=text), readable_errors():
        raise error


def test_other_errors_stay():
    for error in (OSError(errno.EACCES, "no"), RuntimeError("a bug")):
        assert not is_full_disk(error)
        with pytest.raises(type(error)), readable_errors():
            raise error
