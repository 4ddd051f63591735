"""An installed wheel is whole: code, data files, templates and YAMLs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_wheel_is_whole_and_runs(tmp_path):
    source = tmp_path / "source"
    junk = shutil.ignore_patterns("__pycache__")
    for name in ("sb_margins", "hparams"):
        shutil.copytree(ROOT / name, source / name, ignore=junk)
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps"]
    build += ["--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True, cwd=tmp_path, capture_output=True)

    (wheel,) = tmp_path.glob("sb_margins-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for path in (ROOT / "sb_margins").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (site / path.relative_to(ROOT)).is_file(), path
    yamls = {p.relative_to(ROOT) for p in (ROOT / "hparams").rglob("*.yaml")}
    assert all((site / "sb_margins" / path).is_file() for path in yamls)
    templates = {p.relative_to(ROOT) for p in (ROOT / "sb_margins").rglob("*.j2")}
    assert templates and all((site / path).is_file() for path in templates)
    assert not list(site.rglob("tests"))

    done = subprocess.run(
        [sys.executable, "-m", "sb_margins", "losses"],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "ham" in done.stdout, done.stderr
