"""Cells side by side: environments, interruption, processes that do not listen."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sb_margins.comparison import run
from sb_margins.comparison.plan import Plan
from sb_margins.comparison.variants import Variant


def test_runs_share_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert run.environment(0, 1, [])["OMP_NUM_THREADS"] == "7", "the user's choice"
    assert run.environment(0, 10**6, [])["OMP_NUM_THREADS"] == "1"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert run.environment(0, 3, [])["OMP_NUM_THREADS"] == "2"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert run.environment(0, 1, [])["OMP_NUM_THREADS"] == "8"


@pytest.mark.parametrize("flags", [["--device=cuda"], ["--device", "cuda", "--lr=1"]])
def test_runs_take_turns_on_the_gpus(monkeypatch, flags):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [run.environment(k, 3, flags)["CUDA_VISIBLE_DEVICES"] for k in range(3)]
    assert seen == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    assert run.environment(1, 3, flags)["CUDA_VISIBLE_DEVICES"] == "3"
    named = run.environment(1, 3, ["--device=cuda:1"])
    assert named["CUDA_VISIBLE_DEVICES"] == "5,3", "a GPU that was asked for by number"


def test_stop_interrupts_and_ends_what_does_not_listen(monkeypatch):
    monkeypatch.setattr(run, "SECONDS_TO_SAVE", 0.5)
    listens = "print(flush=True); input()"
    ignores = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {listens}"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    processes = [
        subprocess.Popen([sys.executable, "-c", code], **pipes)
        for code in (listens, ignores)
    ]
    for process in processes:
        process.stdout.readline()  # it has begun
    run.stop(processes)
    assert [process.returncode for process in processes] == [-2, -15]
    for process in processes:
        process.communicate()


class Fake:
    """A process that ends with a status after some polls."""

    def __init__(self, status, polls=1):
        self.returncode, self.status, self.left, self.signals = None, status, polls, []

    def poll(self):
        self.left -= 1
        if self.left <= 0:
            self.returncode = self.status
        return self.returncode

    def send_signal(self, signal):
        self.signals.append(signal)

    def wait(self, timeout=None):
        self.returncode = run.INTERRUPTED


@pytest.fixture
def plan(monkeypatch, tmp_path):
    monkeypatch.setattr(run, "POLL_SECONDS", 0)
    monkeypatch.setattr(run, "finished_marker", lambda *_: None)
    monkeypatch.setattr(run, "_finish", lambda plan, one, jobs: "")
    monkeypatch.setattr(run, "_summary", lambda one: one.cell.label)
    variants = [Variant("am"), Variant("ham")]
    return Plan(Path("t.yaml"), [], variants, [1, 2], tmp_path, "am")


def start(monkeypatch, fakes, slots=None):
    waiting = iter(fakes)

    def begin(plan, cell, slot, jobs, lock):
        if slots is not None:
            slots.append(slot)
        return run.RunningCell(cell, next(waiting), slot)

    monkeypatch.setattr(run, "start_cell", begin)


def test_an_interrupted_cell_stops_the_others(plan, monkeypatch):
    fakes = [Fake(0, 9), Fake(run.INTERRUPTED, 2)]
    start(monkeypatch, fakes)
    with pytest.raises(KeyboardInterrupt):
        run.train_cells(plan, {"": ""}, 2, SimpleNamespace())
    assert fakes[0].signals == [2] and fakes[0].returncode == run.INTERRUPTED
    assert not fakes[1].signals, "it has ended"


def test_no_more_than_jobs_at_a_time_and_slots_are_used_again(
    plan, monkeypatch, capsys
):
    slots = []
    start(monkeypatch, [Fake(0, 3), Fake(0, 1), Fake(0, 1), Fake(0, 1)], slots)
    assert run.train_cells(plan, {"": ""}, 2, SimpleNamespace()) == []
    assert slots == [0, 1, 1, 0] or slots == [0, 1, 1, 1]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 runs: 2 systems x 2 seeds; 2 at a time"
    assert lines[-1].startswith("[4/4]") and "left" not in lines[-1]
    assert [line[:5] for line in lines[1:]] == [f"[{k}/4]" for k in (1, 2, 3, 4)]
