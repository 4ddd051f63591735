"""Python, processor, memory, disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from sb_margins.doctor.finding import Finding

OLDEST, NEWEST_TESTED = (3, 10), (3, 13)
GB = 1e9


def findings() -> list[Finding]:
    """What the machine offers.

    Example
    -------
    >>> [f.name for f in findings()][:2]
    ['Python', 'platform']
    """
    return [
        python(),
        Finding("good", "platform", platform.platform(terse=True)),
        cores(),
        memory(),
        *shared_memory(),
        disk(Path.cwd()),
    ]


def python(version: tuple[int, ...] | None = None) -> Finding:
    """The interpreter.

    Arguments
    ---------
    version : tuple of int, optional
        Default: of the running one.

    Example
    -------
    >>> python((3, 8, 1)).mark, python((3, 12, 0)).mark, python((3, 20, 0)).mark
    ('bad', 'good', 'note')
    """
    version = version or sys.version_info[:3]
    detail = ".".join(map(str, version)) + f" ({sys.prefix})"
    if version[:2] < OLDEST:
        return Finding(
            "bad", "Python", detail, "needs 3.10 or newer: make setup PYTHON=..."
        )
    if version[:2] > NEWEST_TESTED:
        return Finding("note", "Python", detail, "tested with 3.10 to 3.13")
    return Finding("good", "Python", detail)


def _number(path: str) -> float | None:
    """The first word of a file as a number; None when there is none."""
    try:
        return float(Path(path).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def usable_cores() -> float:
    """Cores that this process may use (affinity, container quota).

    Returns
    -------
    float
        At least a fraction of one.

    Example
    -------
    >>> usable_cores() > 0
    True
    """
    if hasattr(os, "sched_getaffinity"):
        count = float(len(os.sched_getaffinity(0)))
    else:
        count = float(os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(count, float(quota) / float(period))
    except (OSError, ValueError):  # no container, or quota "max"
        return count


def cores() -> Finding:
    """Cores, and threads that PyTorch will use.

    Example
    -------
    >>> cores().name
    'cores'
    """
    usable = usable_cores()
    try:
        import torch

        threads = torch.get_num_threads()
    except Exception:  # told by the torch finding
        return Finding("good", "cores", f"{usable:g}")
    detail = f"{usable:g}, PyTorch threads {threads}"
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked:
        detail += f" (OMP_NUM_THREADS={asked})"
    if threads > max(1, usable):
        remedy = (
            f"more threads than cores are slow: export OMP_NUM_THREADS={usable:.0f}"
        )
        return Finding("note", "cores", detail, remedy)
    if threads == 1 and usable >= 2:
        return Finding("note", "cores", detail, "unset OMP_NUM_THREADS to use them all")
    return Finding("good", "cores", detail)


def memory() -> Finding:
    """Memory that is free now, within the container's limit.

    Example
    -------
    >>> memory().name
    'memory'
    """
    available = None
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = float(line.split()[1]) * 1024
    except OSError:
        pass
    limit = _number("/sys/fs/cgroup/memory.max")
    used = _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        free = max(0.0, limit - used)
        available = free if available is None else min(free, available)
    if available is None:
        return Finding("good", "memory", "unknown on this platform")
    detail = f"{available / GB:.1f} GB available"
    if available < 2 * GB:
        return Finding("note", "memory", detail, "use a smaller --batch_size")
    return Finding("good", "memory", detail)


def shared_memory(path: str = "/dev/shm") -> list[Finding]:
    """Shared memory, which data-loading workers need; containers often have 64 MB.

    Arguments
    ---------
    path : str
        Where it is mounted.

    Example
    -------
    >>> shared_memory("/no/such/folder")
    []
    """
    try:
        total = shutil.disk_usage(path).total
    except OSError:
        return []
    if total >= 0.5 * GB:
        return []
    remedy = "use --num_workers=0, or docker run --shm-size=2g"
    return [Finding("note", "shared mem.", f"{total / 1e6:.0f} MB", remedy)]


def disk(folder: Path) -> Finding:
    """Room and permission where results are written.

    Arguments
    ---------
    folder : Path
        Where the command runs.

    Example
    -------
    >>> disk(Path(getfixture("tmpdir"))).name
    'disk'
    """
    free = shutil.disk_usage(folder).free / GB
    detail = f"{free:.1f} GB free in {folder}"
    if free < 0.2:
        return Finding("bad", "disk", detail, "make room: checkpoints would not fit")
    if not os.access(folder, os.W_OK):
        remedy = "no permission to write here: give --output_folder another place"
        return Finding("note", "disk", detail, remedy)
    if free < 2:
        return Finding("note", "disk", detail, "little room for data and checkpoints")
    return Finding("good", "disk", detail)
