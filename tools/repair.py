"""Puts right what pip leaves behind; tools/setup.sh runs it with its site-packages."""

import re
import runpy
import shutil
import sys
from pathlib import Path


def packages(site: Path) -> list[str]:
    """Forget packages that pip was killed over, so that it installs them again.

    pip takes a package for installed as soon as its metadata is there; its last act
    is to list the file INSTALLER in RECORD.
    """
    dropped = []
    for info in sorted(site.glob("*.dist-info")):
        record = info / "RECORD"
        text = record.read_text(errors="replace") if record.is_file() else ""
        if f"{info.name}/INSTALLER," not in text:
            shutil.rmtree(info)
            dropped.append(f"{info.name.split('-')[0]}: was half installed")
    for rest in site.glob("~*"):  # of an interrupted upgrade
        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
    return dropped


def torchaudio(site: Path) -> list[str]:
    """Set aside torchaudio's compiled files when they are for another CUDA than torch.

    Package registries have torchaudio for CUDA only; beside a torch for the CPU its
    import fails, and with it SpeechBrain's. Without those files it works in plain
    Python. They come back when torch has become the fitting build.
    """
    files = [site / name / "version.py" for name in ("torch", "torchaudio")]
    if not all(path.is_file() for path in files):
        return []
    torch, audio = (runpy.run_path(str(path)) for path in files)
    built_for = re.search(r"\+cu(\d+)(\d)$", str(audio.get("__version__")))
    if not built_for:
        return []
    cuda = torch.get("cuda")
    fits = str(cuda).split(".")[:2] == list(built_for.groups())
    old, new = (".cuda", "") if fits else ("", ".cuda")
    moved = list((site / "torchaudio" / "lib").glob(f"*.so{old}"))
    for path in moved:
        path.replace(path.with_name(path.name.removesuffix(".cuda") + new))
    what = "brought back" if fits else f"set aside (torch is for {cuda or 'the CPU'})"
    return [f"torchaudio: compiled files {what}"] if moved else []


if __name__ == "__main__":
    repair = {"packages": packages, "torchaudio": torchaudio}[sys.argv[1]]
    for line in repair(Path(sys.argv[2])):
        print(f"  {line}", flush=True)
