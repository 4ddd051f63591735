"""PyTorch, its GPU and its companions; SpeechBrain; what is optional."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import subprocess
import warnings
from pathlib import Path
from types import ModuleType

from sb_margins.doctor.finding import Finding

SET_UP = "make setup (in a checkout), or: pip install sb-margins"
OPTIONAL = {
    "espeakng_loader": ("espeakng-loader", "the demo's synthetic voices", "[demo]"),
    "tensorboard": ("tensorboard", "TensorboardLogger in a YAML", "[test]"),
    "pytest": ("pytest", "make test", "[test]"),
}


def version(distribution: str) -> str | None:
    """The installed version, without importing anything.

    Arguments
    ---------
    distribution : str
        Its name as pip knows it.

    Example
    -------
    >>> version("no-such-package") is None
    True
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def try_import(name: str) -> tuple[ModuleType | None, str]:
    """Import, or tell why not.

    Arguments
    ---------
    name : str
        A module.

    Returns
    -------
    tuple of (module or None, str)
        The module and ``""``, or None and the error in one line.

    Example
    -------
    >>> try_import("no_such_module")
    (None, "ModuleNotFoundError: No module named 'no_such_module'")
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name), ""
    except Exception as error:  # OSError of a missing library, and anything else
        text = (str(error).strip() or "no message").splitlines()[0]
        return None, f"{type(error).__name__}: {text}"


def nvidia_gpus() -> list[str]:
    """GPUs that the driver sees, whatever PyTorch thinks.

    Returns
    -------
    list of str
        Their names.

    Example
    -------
    >>> isinstance(nvidia_gpus(), list)
    True
    """
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def torch_findings() -> list[Finding]:
    """PyTorch's build, the GPU, distributed backends, torchaudio.

    Example
    -------
    >>> torch_findings()[0].name
    'PyTorch'
    """
    torch, why = try_import("torch")
    if torch is None:
        return [Finding("bad", "PyTorch", why, SET_UP)]
    numbers = tuple(int(n) for n in torch.__version__.split("+")[0].split(".")[:2])
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    if getattr(torch.version, "hip", None):
        build = f"ROCm {torch.version.hip}"
    detail = f"{torch.__version__} (build for {build})"
    first = Finding("good", "PyTorch", detail)
    if numbers < (2, 7):
        first = Finding("bad", "PyTorch", detail, "SpeechBrain needs 2.7.1 or newer")
    return [first, gpu(torch, nvidia_gpus()), backends(torch), torchaudio(torch)]


def gpu(torch: ModuleType, seen: list[str]) -> Finding:
    """Whether a GPU is here and PyTorch can use it.

    Arguments
    ---------
    torch : module
        PyTorch.
    seen : list of str
        GPUs that the driver sees.

    Example
    -------
    >>> import torch
    >>> gpu(torch, []).name
    'GPU'
    """
    if torch.cuda.is_available():
        names = [
            torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
        ]
        try:
            torch.ones(2, device="cuda").sum().item()
        except RuntimeError as error:
            why = f"{names[0]}: {str(error).splitlines()[0]}"
            remedy = "this build has no code for that GPU: install a fitting torch"
            return Finding("bad", "GPU", why, remedy)
        return Finding("good", "GPU", ", ".join(names))
    if seen and not torch.version.cuda and not getattr(torch.version, "hip", None):
        remedy = (
            "take away the pip setting that leads to CPU builds (pip config list), "
            "then: make clean; make setup"
        )
        return Finding("note", "GPU", f"{seen[0]}, but PyTorch is a CPU build", remedy)
    if seen:
        remedy = (
            "the driver is too old for this PyTorch, or CUDA_VISIBLE_DEVICES hides it"
        )
        return Finding("note", "GPU", f"{seen[0]}, but PyTorch cannot use it", remedy)
    if torch.backends.mps.is_available():
        return Finding("good", "GPU", "Apple GPU: --device=mps (slow operations: cpu)")
    remedy = "training runs on the CPU; --precision=bf16 works there, fp16 does not"
    return Finding("note", "GPU", "none", remedy)


def backends(torch: ModuleType) -> Finding:
    """What several processes can talk through.

    Arguments
    ---------
    torch : module
        PyTorch.

    Example
    -------
    >>> import torch
    >>> backends(torch).name
    'DDP backends'
    """
    dist = torch.distributed
    if not dist.is_available():
        return Finding("note", "DDP backends", "none", "one process only")
    found = [
        name
        for name in ("nccl", "gloo", "mpi")
        if getattr(dist, f"is_{name}_available", lambda: False)()
    ]
    detail = ", ".join(found) or "none"
    if found and "nccl" not in found:
        detail += " (torchrun needs --distributed_backend=gloo)"
    return Finding("good" if found else "note", "DDP backends", detail)


def torchaudio(torch: ModuleType) -> Finding:
    """Whether torchaudio can be imported; the usual reason when not.

    Arguments
    ---------
    torch : module
        PyTorch.

    Example
    -------
    >>> import torch
    >>> torchaudio(torch).name
    'torchaudio'
    """
    module, why = try_import("torchaudio")
    if module is not None:
        detail = getattr(module, "__version__", "?")
        folder = Path(str(module.__file__)).parent / "lib"
        if list(folder.glob("*.so.cuda")):
            detail += " (repaired: compiled files moved aside, not needed here)"
        return Finding("good", "torchaudio", detail)
    spec = importlib.util.find_spec("torchaudio")
    if spec is None or spec.origin is None:
        return Finding("bad", "torchaudio", why, SET_UP)
    folder = Path(spec.origin).parent / "lib"
    if list(folder.glob("*.so")) and (
        "libc10" in why or "_torchaudio" in why or "CUDA" in why
    ):
        remedy = (
            f"torchaudio was built for another CUDA than PyTorch {torch.__version__}: "
            f'make setup, or: cd "{folder}" && for f in *.so; do mv $f $f.cuda; done'
        )
        return Finding("bad", "torchaudio", why, remedy)
    return Finding("bad", "torchaudio", why, SET_UP)


def speechbrain_findings() -> list[Finding]:
    """SpeechBrain and what it brings along.

    Example
    -------
    >>> speechbrain_findings()[0].name
    'SpeechBrain'
    """
    module, why = try_import("speechbrain.core")
    if module is None:
        remedy = SET_UP
        if "torchaudio" in why or "libc10" in why:
            remedy = "see torchaudio above"
        return [Finding("bad", "SpeechBrain", why, remedy)]
    found = version("speechbrain") or "?"
    first = Finding("good", "SpeechBrain", found)
    numbers = tuple(int(n) for n in found.split(".")[:3] if n.isdigit())
    if numbers < (1, 1, 2):
        first = Finding("bad", "SpeechBrain", found, "pip install 'speechbrain>=1.1.2'")
    out = [first]
    for name in ("hyperpyyaml", "ruamel.yaml", "numpy", "scipy", "safetensors"):
        imported, why = try_import(name)
        good = imported is not None
        detail = version(name) or "?" if good else why
        out.append(
            Finding("good" if good else "bad", name, detail, "" if good else SET_UP)
        )
    hub = version("huggingface_hub")
    note = "only for models of the Hub; local folders need no network"
    out.append(Finding("good", "HF hub", f"{hub or 'not installed'} ({note})"))
    return out


def optional_findings() -> list[Finding]:
    """Packages that only some commands need.

    Example
    -------
    >>> len(optional_findings()) >= 3
    True
    """
    out = []
    for module, (name, purpose, extra) in OPTIONAL.items():
        if importlib.util.find_spec(module) is not None:
            out.append(Finding("good", name, f"{version(name)} ({purpose})"))
        else:
            remedy = f"pip install 'sb-margins{extra}'"
            out.append(Finding("note", name, f"not here: needed by {purpose}", remedy))
    return out
