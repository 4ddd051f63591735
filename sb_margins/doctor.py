"""What is installed here, and the remedy for each known trap.

A package that cannot be imported is a finding, so nothing here needs one.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sb_margins.versions import version

SET_UP = "make setup (in a checkout), or: pip install sb-margins"
CPU_BUILD = "make clean; make setup, without TORCH_INDEX or pip settings for CPU builds"
CUDA_ERRORS = ("libc10", "_torchaudio", "CUDA")
NEEDED = ("hyperpyyaml", "ruamel.yaml", "numpy", "scipy", "sklearn", "tyro", "jinja2")
OPTIONAL = {  # module: (what for, extra)
    "espeakng_loader": ("the demo's synthetic voices", "demo"),
    "tensorboard": ("TensorboardLogger in a YAML", "test"),
    "pytest": ("make test", "test"),
    "sphinx": ("make docs", "docs"),
}


class Finding(NamedTuple):
    """A fact; with a remedy when it is worth knowing, ``bad`` when no run can start."""

    name: str
    detail: str
    remedy: str = ""
    bad: bool = False


def examine() -> Iterator[tuple[str, list[Finding]]]:
    """Headings, each with its findings."""
    torch, why = try_import("torch")
    yield "Machine", [python(), cores(torch), shared_memory(), disk()]
    if torch is None:
        yield "PyTorch", [Finding("PyTorch", why, SET_UP, bad=True)]
    else:
        yield "PyTorch", [build(torch), gpu(torch)]
    yield "Packages", [torchaudio(), speechbrain(), soundfile(), *needed(), *optional()]
    yield "Settings", [program("pip"), program("sb-margins"), hparams()]


def try_import(name: str) -> tuple[Any, str]:
    """A module and ``""``, or None and the error in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name), ""
    except Exception as error:  # OSError of a missing library, and anything else
        text = (str(error).strip() or "no message").splitlines()[0]
        return None, f"{type(error).__name__}: {text}"


def older(text: str, *least: int) -> bool:
    """Whether a version as ``2.13.0+cpu`` is before another."""
    return tuple(int(n) for n in text.split("+")[0].split(".")[:3]) < least


def python(numbers: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    detail = f"{'.'.join(map(str, numbers))} ({sys.prefix}, {platform.platform(True)})"
    newer = numbers >= (3, 14)
    return Finding("Python", detail, "tested with 3.10 to 3.13" if newer else "")


def usable_cores() -> float:
    """Cores that this process may use: affinity, and a container's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(count, float(quota) / float(period))
    except (OSError, ValueError):  # no container, or the quota is "max"
        return count


def cores(torch: ModuleType | None) -> Finding:
    usable, remedy = usable_cores(), ""
    threads = torch.get_num_threads() if torch else 0
    if threads > max(1, usable):
        remedy = f"more threads are slower: export OMP_NUM_THREADS={usable:.0f}"
    elif threads == 1 and usable >= 2:
        remedy = "unset OMP_NUM_THREADS to use them all"
    return Finding("cores", f"{usable:g}; PyTorch uses {threads} threads", remedy)


def shared_memory() -> Finding:
    """Workers that load data need it; containers often have 64 MB."""
    if not os.path.isdir("/dev/shm"):
        return Finding("shared memory", "none on this platform, none needed")
    total = shutil.disk_usage("/dev/shm").total
    remedy = "use --num_workers=0, or docker run --shm-size=2g" if total < 5e8 else ""
    return Finding("shared memory", f"{total / 1e9:.2g} GB", remedy)


def disk() -> Finding:
    folder, remedy = Path.cwd(), ""
    free = shutil.disk_usage(folder).free / 1e9
    if free < 2:
        remedy = "free some space for data and checkpoints"
    elif not os.access(folder, os.W_OK):
        remedy = "no permission to write here: name another --output-folder"
    return Finding("disk", f"{free:.1f} GB free in {folder}", remedy, bad=free < 0.2)


def build(torch: Any) -> Finding:
    cuda, rocm = torch.version.cuda, getattr(torch.version, "hip", None)
    kind = f"CUDA {cuda}" if cuda else f"ROCm {rocm}" if rocm else "CPU"
    old = older(torch.__version__, 2, 7, 1)
    remedy = "SpeechBrain needs 2.7.1 or newer" if old else ""
    return Finding("PyTorch", f"{torch.__version__} (build for {kind})", remedy, old)


def nvidia_gpus() -> list[str]:
    """GPUs that the driver sees, whatever PyTorch thinks."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def gpu(torch: Any) -> Finding:
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
        try:
            torch.ones(2, device="cuda").sum().item()
        except RuntimeError as error:
            detail = f"{names}: {str(error).splitlines()[0]}"
            remedy = "this build has no code for that GPU: install a fitting torch"
            return Finding("GPU", detail, remedy, bad=True)
        return Finding("GPU", names)
    if seen := nvidia_gpus():
        if "CPU" in build(torch).detail:
            return Finding("GPU", f"{seen[0]}, but PyTorch is a CPU build", CPU_BUILD)
        remedy = "too old a driver for this PyTorch, or CUDA_VISIBLE_DEVICES hides it"
        return Finding("GPU", f"{seen[0]}, but PyTorch cannot use it", remedy)
    if torch.backends.mps.is_available():
        return Finding("GPU", "Apple GPU: --device=mps")
    remedy = "training runs on the CPU; --precision=bf16 works there, fp16 does not"
    return Finding("GPU", "none", remedy)


def torchaudio() -> Finding:
    """Its compiled files fail beside a torch of another CUDA, or of none."""
    module, why = try_import("torchaudio")
    spec = importlib.util.find_spec("torchaudio")
    library = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
    if module is not None:
        aside = list(library.glob("*.so.cuda"))
        note = " (repaired: compiled files set aside, not needed)" if aside else ""
        return Finding("torchaudio", module.__version__ + note)
    remedy = SET_UP
    if list(library.glob("*.so")) and any(w in why for w in CUDA_ERRORS):
        remedy = (
            "it was built for another CUDA than PyTorch: make setup, or: "
            f'cd "{library}" && for f in *.so; do mv $f $f.cuda; done'
        )
    return Finding("torchaudio", why, remedy, bad=True)


def speechbrain() -> Finding:
    module, why = try_import("speechbrain.core")
    if module is None:
        audio = "torchaudio" in why or "libc10" in why
        remedy = "see torchaudio above" if audio else SET_UP
        return Finding("SpeechBrain", why, remedy, bad=True)
    number = version("speechbrain") or "0"
    old = older(number, 1, 1, 2)
    remedy = "pip install 'speechbrain>=1.1.2'" if old else ""
    return Finding("SpeechBrain", number, remedy, bad=old)


def soundfile() -> Finding:
    module, why = try_import("soundfile")
    if module is None:
        remedy = "sudo apt install libsndfile1" if "OSError" in why else SET_UP
        return Finding("soundfile", why, remedy, bad=True)
    mp3 = "MP3" in module.available_formats()
    reads = f"reads wav, flac, ogg{', mp3' * mp3}; m4a needs ffmpeg -i a.m4a a.wav"
    remedy = "" if mp3 else "pip install -U soundfile"
    return Finding("soundfile", f"{module.__version__}, {reads}", remedy)


def needed() -> Iterator[Finding]:
    for name in NEEDED:
        module, why = try_import(name)
        detail = why or getattr(module, "__version__", "installed")
        yield Finding(name, detail, SET_UP if why else "", bad=bool(why))


def optional() -> Iterator[Finding]:
    for module, (purpose, extra) in OPTIONAL.items():
        name = module.replace("_", "-")
        missing = importlib.util.find_spec(module) is None
        detail = f"{'missing' if missing else version(name)} ({purpose})"
        yield Finding(name, detail, f"pip install 'sb-margins[{extra}]'" * missing)


def program(name: str) -> Finding:
    """Whether the program on PATH belongs to the running Python."""
    found, here = shutil.which(name), Path(sys.prefix) / "bin"
    if found is None or Path(found).parent.resolve() == here.resolve():
        return Finding(name, found or f"not on PATH ({here / name})")
    return Finding(name, found, f"another Python's; this one's is {here / name}")


def hparams() -> Finding:
    select, why = try_import("sb_margins.select")
    return Finding("hparams", why or f"the YAMLs are in {select.hparams_dir()}")
