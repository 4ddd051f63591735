"""How the benchmarks measure: one clock, turns, peak memory, the machine, tables."""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

WARM, REPEATS = 3, 5  # steps on a GPU: before the clock runs, and between two events
PACKAGES = ("torch", "speechbrain", "pytorch-metric-learning", "cut-cross-entropy")


def is_cuda(device: str) -> bool:
    """Whether times are a GPU's."""
    return torch.device(device).type == "cuda"


def seconds(step: Callable[[], object], device: str, times: int = 1) -> float:
    """Seconds of one call, the mean over ``times``: a process's own on a CPU, which
    the load of others disturbs least; between two events on a GPU."""
    if not is_cuda(device):
        start = time.process_time()
        for _ in range(times):
            step()
        return (time.process_time() - start) / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(times):
        step()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / times


def keep_freed(keep: bool) -> bool:
    """Have glibc keep freed memory, or return it; False where there is no glibc."""
    try:
        libc = ctypes.CDLL(None)
        # <malloc.h>: M_MMAP_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        libc.mallopt(-4, 0 if keep else 65536)
        libc.mallopt(-3, 128 << 10)
        libc.mallopt(-1, 2**31 - 1 if keep else 128 << 10)
        libc.malloc_trim(0)
    except (OSError, TypeError, AttributeError):
        return False
    return True


def take_turns(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    device: str,
    keep: bool = True,
) -> dict[str, tuple[float, float, float, float]]:
    """Median milliseconds, and median and quartiles of the ratios to the first."""
    if not is_cuda(device):
        keep_freed(keep)
    times: dict[str, list[float]] = {name: [] for name in steps}
    names, base = list(steps), next(iter(steps))
    many = REPEATS if is_cuda(device) else 1
    for name in names:
        seconds(steps[name], device, WARM if is_cuda(device) else 1)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            gc.disable()
            times[name].append(seconds(steps[name], device, many))
            gc.enable()
    found = {}
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times[base], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        middle = statistics.median(ratios)
        found[name] = (1e3 * statistics.median(own), middle, low, high)
    return found


def peak_bytes(step: Callable[[], object], device: str) -> int:
    """What torch's allocator handed out at most during a step."""
    gc.collect()
    if is_cuda(device):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profile.export_chrome_trace(file.name)
        with open(file.name) as stream:
            events = json.load(stream)["traceEvents"]
    events = [e for e in events if e.get("name") == "[memory]"]
    live = top = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        live += event["args"]["Bytes"]
        top = max(top, live)
    return top


def processor() -> str:
    """The CPU's name."""
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def setting(device: str) -> str:
    """Date, machine, clock, versions: the line above every table."""
    chip, how = processor(), "CPU time, one thread"
    if is_cuda(device):
        chip = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
        how = "time between CUDA events"
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    return f"{date.today()}; {chip}; {how}; {', '.join(found)}."


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as Markdown; the columns are the keys of all, in their order."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(columns)} |"]
    lines += ["|" + "|".join("---" if i == 0 else "---:" for i in range(len(columns)))]
    lines[-1] += "|"
    for row in rows:
        lines.append(f"| {' | '.join(_cell(row.get(key, '')) for key in columns)} |")
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value).replace("|", "/").replace("\n", " ")
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:,.3g}"
