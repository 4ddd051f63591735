"""The folder `.venv`: is it whole, is it current, and how it is made."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from problems import SetupError, say

# Measured: .venv has 1.5 GB with PyTorch for the CPU, 5.2 GB for CUDA; the rest is
# for what pip unpacks on the way.
NEEDED_GB, NEEDED_CUDA_GB, NEEDED_AGAIN_GB, NEEDED_TEMP_GB = 2.0, 8.0, 0.3, 0.7
SOURCES = ("constraints.txt", "setup.cfg", "pyproject.toml", "setup.py")
HEALTH = """
import importlib.util, sys
names = ("torch", "torchaudio", "speechbrain", "sb_margins")
sys.exit(any(importlib.util.find_spec(name) is None for name in names))
"""


class Environment:
    """`.venv` of a checkout.

    Arguments
    ---------
    root : Path
        The checkout.
    extras : str
        Extras of the package to install, with commas.
    """

    def __init__(self, root: Path, extras: str):
        self.root, self.extras = root, extras
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"
        self.stamp = self.folder / "setup.json"
        self.log = self.folder / "setup.log"

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """One set-up at a time; a pip that outlived its set-up counts too.

        The lock lies on this checkout's constraints.txt and is given to pip.
        """
        descriptor = os.open(self.root / "constraints.txt", os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another set-up is at work here; waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
            yield descriptor
        finally:
            os.close(descriptor)

    def wanted(self) -> dict[str, str]:
        """What a finished set-up has written down."""
        digest = hashlib.sha256(self.extras.encode())
        for name in SOURCES:
            path = self.root / name
            digest.update(path.read_bytes() if path.is_file() else b"")
        return {"root": str(self.root), "digest": digest.hexdigest()}

    def _written(self) -> dict[str, object]:
        try:
            return dict(json.loads(self.stamp.read_text()))
        except (OSError, ValueError):
            return {}

    def mark(self, complete: bool) -> None:
        """Write down what this environment holds, or that it is under way."""
        text = json.dumps({**self.wanted(), "complete": complete})
        fresh = self.stamp.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.stamp)

    def _runs(self, *arguments: str) -> bool:
        try:
            command = [str(self.python), *arguments]
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False

    def is_current(self) -> bool:
        """True when the last set-up was finished, for these files, and still works."""
        if self._written() != {**self.wanted(), "complete": True}:
            return False
        return (self.folder / "bin" / "sb-margins").is_file() and self._runs(
            "-c", HEALTH
        )

    def is_usable(self) -> bool:
        """True when there is an interpreter with pip, made for this folder."""
        root = self._written().get("root", str(self.root))
        if root != str(self.root):
            say("The checkout has moved, so its .venv is made again")
            return False
        return self._runs("-m", "pip", "--version")

    def create(self, base: str) -> None:
        """Make it from nothing, in place of a broken one."""
        if self.folder.is_symlink() or self.folder.is_file():
            raise SetupError(f"{self.folder} is not a folder; move it away")
        if self.folder.is_dir():
            known = {"bin", "lib", "lib64", "include", "share", "pyvenv.cfg"}
            known |= {"etc", ".gitignore", self.stamp.name, self.log.name}
            strange = {p.name for p in self.folder.iterdir()} - known
            if strange and not (self.folder / "pyvenv.cfg").is_file():
                raise SetupError(
                    f"{self.folder} is no Python environment (it holds "
                    f"{sorted(strange)[0]}); move it away"
                )
            shutil.rmtree(self.folder)
        command = [base, "-m", "venv", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = (done.stdout + done.stderr).strip()
            shutil.rmtree(self.folder, ignore_errors=True)
            if "ensurepip" in said:
                raise SetupError(
                    "this Python cannot make environments: its venv module is missing."
                    "\n        On Debian and Ubuntu: sudo apt install "
                    f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
                )
            if "No space left" in said:
                raise SetupError.from_os(OSError(28, ""))
            raise SetupError(f"no environment could be made: {said.splitlines()[-1]}")

    def site_packages(self) -> Path:
        """Its folder of packages."""
        found = sorted(self.folder.glob("lib/python3*/site-packages"))
        return found[-1] if found else self.folder / "lib" / "site-packages"

    def drop_half_installed(self) -> list[str]:
        """Forget packages that pip was killed over, so that it installs them again.

        pip takes a package for installed as soon as its metadata lies there. Its very
        last act is to list its own INSTALLER file in RECORD.
        """
        dropped = []
        for info in sorted(self.site_packages().glob("*.dist-info")):
            record = info / "RECORD"
            text = record.read_text(errors="replace") if record.is_file() else ""
            if f"{info.name}/INSTALLER," not in text:
                shutil.rmtree(info)
                dropped.append(info.name.split("-")[0])
        for stash in self.site_packages().glob("~*"):  # of an interrupted upgrade
            shutil.rmtree(stash) if stash.is_dir() else stash.unlink()
        return dropped

    def check_space(self) -> None:
        """Refuse early when the disk is too small for what is missing."""
        has_torch = (self.site_packages() / "torch" / "version.py").is_file()
        needed = NEEDED_AGAIN_GB if has_torch else NEEDED_GB
        free = shutil.disk_usage(self.root).free / 1e9
        if free < needed:
            raise SetupError(
                f"the disk has {free:.1f} GB free where the checkout lies, and "
                f"{needed:.1f} GB are needed\n        ({NEEDED_CUDA_GB:.0f} GB with "
                "PyTorch for CUDA). Make room, or put the checkout elsewhere."
            )
        temp = Path(tempfile.gettempdir())
        free_temp = shutil.disk_usage(temp).free / 1e9
        if not has_torch and free_temp < NEEDED_TEMP_GB:
            raise SetupError(
                f"{temp} has {free_temp:.1f} GB free, and pip unpacks "
                f"{NEEDED_TEMP_GB} GB there.\n        Name a folder with more room: "
                "export TMPDIR=/path/to/folder"
            )
        if not has_torch and free < NEEDED_CUDA_GB and sys.platform == "linux":
            say(
                f"! {free:.1f} GB free: enough with PyTorch for the CPU, "
                f"not for CUDA ({NEEDED_CUDA_GB:.0f} GB)"
            )

    def describe(self) -> str:
        """`.venv, Python 3.11.7, PyTorch 2.13.0+cpu`."""
        parts = [self.folder.name]
        config = self.folder / "pyvenv.cfg"
        text = config.read_text() if config.is_file() else ""
        parts += [f"Python {v}" for v in re.findall(r"^version = (\S+)", text, re.M)]
        torch = self.site_packages() / "torch" / "version.py"
        text = torch.read_text() if torch.is_file() else ""
        parts += [
            f"PyTorch {v}" for v in re.findall(r"^__version__ = '(.+)'", text, re.M)
        ]
        return ", ".join(parts)
