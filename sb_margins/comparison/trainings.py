"""Cells trained side by side, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sb_margins.comparison.cells import finished, mark_finished
from sb_margins.comparison.plan import Cell, Plan
from sb_margins.errors import UserError

INTERRUPTED = 130
PAUSE = 0.1  # seconds between looks
PATIENCE = 60  # seconds for a training to save


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen
    slot: int
    started: float = field(default_factory=time.monotonic)


def environment(slot: int, jobs: int, flags: Sequence[str]) -> dict[str, str]:
    """The environment of a training: its share of the cores, its GPU.

    Arguments
    ---------
    slot : int
        Which of the ``jobs`` side by side it is.
    jobs : int
    flags : sequence of str
        Training flags; ``--device=cuda`` without a number means: any.

    Returns
    -------
    dict of str to str

    Example
    -------
    >>> environment(0, 10**6, [])["OMP_NUM_THREADS"]
    '1'
    """
    env = dict(os.environ)
    if jobs > 1 or "OMP_NUM_THREADS" not in env:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        env["OMP_NUM_THREADS"] = str(max(1, (cores or os.cpu_count() or 1) // jobs))
    text = " ".join(flags).replace("=", " ")
    if "--device cuda" in text and "--device cuda:" not in text:
        import torch

        count = torch.cuda.device_count()
        seen = env.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        if count:
            env["CUDA_VISIBLE_DEVICES"] = seen.split(",")[slot % count]
    return env


def train_cells(plan: Plan, data: str, jobs: int, lock: IO[str]) -> list[str]:
    """Train what is not finished; a cell that fails does not stop the others.

    Arguments
    ---------
    plan : Plan
    data : str
        ``data_fingerprint`` of the corpus.
    jobs : int
        How many at a time.
    lock : file
        From ``locked``.

    Returns
    -------
    list of str
        What failed, in words.

    Raises
    ------
    UserError
        Before any training, when a cell's folder holds something else.
    KeyboardInterrupt
        After the trainings have saved where they are.

    Example
    -------
    >>> plan = Plan(Path("t.yaml"), [], [], [1], Path("nowhere"), "am")
    >>> with open(getfixture("tmp_path") / "lock", "w") as lock:
    ...     train_cells(plan, "", 1, lock)
    0 trainings: 0 systems x 1 seeds; 1 at a time
    []
    """
    waiting = [cell for cell in plan.cells if finished(cell, plan, data) is None]
    total = len(plan.cells)
    told = f"{total} trainings: {len(plan.variants)} systems x {len(plan.seeds)} seeds"
    if len(waiting) < total:
        told += f"; {total - len(waiting)} are finished"
    print(f"{told}; {jobs} at a time", flush=True)
    running: list[_Running] = []
    failed: list[str] = []
    begun, number = time.monotonic(), len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                slots = set(range(jobs)) - {one.slot for one in running}
                running.append(_start(plan, waiting.pop(0), min(slots), jobs, lock))
            time.sleep(PAUSE)
            for one in [r for r in running if r.process.poll() is not None]:
                running.remove(one)
                if one.process.returncode == INTERRUPTED:
                    raise KeyboardInterrupt
                problem = _end(plan, one, jobs)
                failed += [problem] if problem else []
                left = len(waiting) + len(running)
                spent = time.monotonic() - begun
                rest = spent / (number - left) * left / 60
                done = f"[{total - left}/{total}] {problem or _told(one)}"
                print(
                    done + (f"; about {rest:.0f} min left" if left else ""), flush=True
                )
    except BaseException:
        stop([one.process for one in running])
        raise
    return failed


def stop(processes: Sequence[subprocess.Popen]) -> None:
    """Have trainings save where they are and end, as Ctrl-C does.

    Arguments
    ---------
    processes : sequence of subprocess.Popen

    Example
    -------
    >>> sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
    >>> stop([sleeper])
    >>> sleeper.returncode == 0
    False
    """
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:  # deaf: its last checkpoint will do
            process.terminate()
            process.wait()


def _start(plan: Plan, cell: Cell, slot: int, jobs: int, lock: IO[str]) -> _Running:
    cell.folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "sb_margins.cli", "train", *plan.words(cell)]
    with open(cell.folder / "train.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*words, "--noprogressbar"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(slot, jobs, plan.flags),
            pass_fds=[lock.fileno()],
            # Ctrl-C comes from us, once, whatever the terminal sends.
            start_new_session=True,
        )
    return _Running(cell, process, slot)


def _end(plan: Plan, one: _Running, jobs: int) -> str:
    log = one.cell.folder / "train.log"
    if one.process.returncode:
        return f"{one.cell.label} FAILED: {_last_line(log)} (see {log})"
    try:
        mark_finished(one.cell, plan, jobs=jobs, machine=machine())
    except UserError as error:
        return f"{one.cell.label} FAILED: {error}"
    return ""


def _told(one: _Running) -> str:
    from sb_margins.training.history import History

    minutes = (time.monotonic() - one.started) / 60
    best = History(one.cell.folder / "history.csv").best
    dev = f", best dev EER {100 * best['EER']:.2f} %" if best else ""
    return f"{one.cell.label}: {minutes:.1f} min{dev}"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.strip()]
    return said[-1].strip() if said else "it said nothing"


def machine() -> dict[str, Any]:
    """The hardware that a cell was trained on.

    Returns
    -------
    dict
        ``processor``, ``cores``, ``system`` and, when there is one, ``gpu``.

    Example
    -------
    >>> sorted(machine())[:3]
    ['cores', 'processor', 'system']
    """
    import platform

    import torch

    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    found: dict[str, Any] = {
        "processor": name,
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
    return found
