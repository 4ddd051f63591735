"""Train cells side by side, each in a process of its own."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from speechbrain.utils.distributed import infer_device

from sb_margins.comparison.cells import finished_marker, mark_finished, score_others
from sb_margins.comparison.plan import Cell, Plan
from sb_margins.data.evaluation import TrialList
from sb_margins.errors import UserError
from sb_margins.messages import progress
from sb_margins.training.log import History

INTERRUPTED = 130  # the exit status of a run that saved and stopped
POLL_SECONDS = 0.1
SECONDS_TO_SAVE = 60


@dataclass
class RunningCell:
    """A cell and its process; ``slot`` is its number among those side by side."""

    cell: Cell
    process: subprocess.Popen
    slot: int
    started: float = field(default_factory=time.monotonic)


def train_cells(
    plan: Plan, data: Mapping[str, str], jobs: int, lock: IO[str]
) -> list[str]:
    """Train what is not finished, ``jobs`` at a time; returns what failed.

    ``data`` are hashes of the corpus by fold.

    A cell that fails does not stop the others. Processes inherit ``lock``: while one
    of them lives, also when the comparison was killed, nobody else writes there.
    ``KeyboardInterrupt`` comes out after the runs have saved.
    """
    cells = plan.references + plan.cells
    waiting = [
        cell for cell in cells if finished_marker(cell, plan, data[cell.fold]) is None
    ]
    total, todo = len(cells), len(waiting)
    rest = f"; {total - todo} are finished" if todo < total else ""
    folds = f"{len(plan.folds)} folds x " if plan.folds != [""] else ""
    progress(
        f"{total} runs: {len(plan.variants)} systems x {folds}{len(plan.seeds)} seeds"
        f"{f' and {len(plan.references)} to choose hard trials' if plan.hard else ''}"
        f"{rest}; {jobs} at a time"
    )
    running: list[RunningCell] = []
    failures, begun = [], time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                slot = min(set(range(jobs)) - {one.slot for one in running})
                running.append(start_cell(plan, waiting.pop(0), slot, jobs, lock))
            time.sleep(POLL_SECONDS)
            for one in [r for r in running if r.process.poll() is not None]:
                running.remove(one)
                if one.process.returncode == INTERRUPTED:
                    raise KeyboardInterrupt
                if problem := _finish(plan, one, jobs):
                    failures.append(problem)
                left = len(waiting) + len(running)
                minutes = (time.monotonic() - begun) / (todo - left) * left / 60
                line = f"[{total - left}/{total}] {problem or _summary(one)}"
                line += f"; about {minutes:.0f} min left" if left else ""
                progress(line)
    except BaseException:
        stop([one.process for one in running])
        raise
    return failures


def score_cells(
    plan: Plan, data: Mapping[str, str], lists: Mapping[str, Mapping[str, TrialList]]
) -> None:
    """Score all finished cells on the lists of ``--eval``, by fold, that are new."""
    for cell in plan.references + plan.cells if plan.evals else []:
        marker = finished_marker(cell, plan, data[cell.fold])
        if marker is None:
            continue
        options = plan.config(cell).run_opts
        device = str(options.device or infer_device())
        if new := score_others(cell, marker, lists[cell.fold], device):
            progress(f"{cell.label}: scored {', '.join(new)}")


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """Have runs save and end, as Ctrl-C does."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + SECONDS_TO_SAVE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # its last checkpoint has to do
            process.terminate()
            process.wait()


def start_cell(
    plan: Plan, cell: Cell, slot: int, jobs: int, lock: IO[str]
) -> RunningCell:
    """Start ``sb-margins train`` for a cell, with its output in ``train.log``."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "sb_margins.cli", "train", *plan.train_argv(cell)]
    with open(cell.folder / "train.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*argv, "--noprogressbar"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(slot, jobs, plan.flags),
            pass_fds=[lock.fileno()],
            # Ctrl-C of a terminal comes through stop(), once.
            start_new_session=True,
        )
    return RunningCell(cell, process, slot)


def environment(slot: int, jobs: int, flags: Sequence[str]) -> dict[str, str]:
    """The environment of a run: its share of the cores, its GPU.

    ``--device=cuda`` without a number means any GPU: runs side by side take turns.
    """
    env = dict(os.environ)
    if jobs > 1 or "OMP_NUM_THREADS" not in env:
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        env["OMP_NUM_THREADS"] = str(max(1, cores // jobs))
    text = " ".join(flags).replace("=", " ")
    if "--device cuda" in text and "--device cuda:" not in text:
        count = torch.cuda.device_count()
        visible = env.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        if count:
            env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % count]
    return env


def _finish(plan: Plan, one: RunningCell, jobs: int) -> str:
    """Mark a cell as finished; what went wrong otherwise."""
    log = one.cell.folder / "train.log"
    if one.process.returncode:
        text = log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        last = lines[-1].strip() if lines else "no output"
        return f"{one.cell.label} FAILED: {last} (see {log})"
    try:
        mark_finished(one.cell, plan, jobs=jobs, machine=machine())
    except UserError as error:
        return f"{one.cell.label} FAILED: {error}"
    return ""


def _summary(one: RunningCell) -> str:
    minutes = (time.monotonic() - one.started) / 60
    best = History(one.cell.folder / "history.csv").best
    dev = f", best dev EER {100 * best['EER']:.2f} %" if best else ""
    return f"{one.cell.label}: {minutes:.1f} min{dev}"


def machine() -> dict[str, Any]:
    """The hardware that a cell was trained on."""
    try:
        named = re.search("model name\\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        named = None
    facts = {
        "processor": named[1] if named else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name(0)
    return facts
