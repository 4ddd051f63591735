"""Whether torch, torchaudio and the machine's GPU go together."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

# torchaudio goes on in pure Python when its extension files are not there.
ASIDE = ".cuda"


def _version(site: Path, package: str) -> dict[str, object]:
    """What `<package>/version.py` says; importing the package itself may fail."""
    path = site / package / "version.py"
    return runpy.run_path(str(path)) if path.is_file() else {}


def repair(site: Path) -> list[str]:
    """Put right a torchaudio that was made for another CUDA than torch (or for none).

    Its compiled files need the libraries of its own CUDA, so that `import torchaudio`
    (and with it speechbrain) fails. They are moved aside, or back when torch has
    become the fitting build.

    Arguments
    ---------
    site : Path
        The `site-packages` folder.

    Returns
    -------
    list of str
        What was done; empty when all was well.
    """
    torch, audio = _version(site, "torch"), _version(site, "torchaudio")
    made_for = re.search(r"\+cu(\d+)(\d)$", str(audio.get("__version__", "")))
    if not torch or not made_for:
        return []
    cuda, folder = torch.get("cuda"), site / "torchaudio" / "lib"
    if str(cuda).split(".")[:2] != list(made_for.groups()):
        moved = sorted(folder.glob("*.so"))
        for path in moved:
            path.replace(path.with_name(path.name + ASIDE))
        torch_for = f"CUDA {cuda}" if cuda else "the CPU"
        what = f"is for CUDA, torch for {torch_for}: compiled files moved aside"
    else:
        moved = sorted(folder.glob("*.so" + ASIDE))
        for path in moved:
            path.replace(path.with_name(path.name.removesuffix(ASIDE)))
        what = f"and torch are both for CUDA {cuda}: compiled files moved back"
    return [f"repaired: torchaudio {what} ({len(moved)})"] if moved else []


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver sees."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def gpu_lines(site: Path) -> list[str]:
    """What to tell about the GPU: it is used, or why not and the remedy."""
    torch, found = _version(site, "torch"), gpus()
    name = f"PyTorch {torch.get('__version__')}"
    if not found:
        return [f"{name}, no NVIDIA GPU: training runs on the CPU"]
    if torch.get("cuda") is None and torch.get("hip") is None:
        return [
            f"! {name} is a CPU build, but there is a GPU ({found[0]}). To use it,",
            "  take away the pip setting that leads to CPU builds (pip config list,",
            "  variables PIP_*), then: make clean; make setup",
        ]
    return [f"{name}, GPU: {', '.join(found)}"]
