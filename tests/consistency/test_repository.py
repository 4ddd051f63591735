"""What must not be in the files of the repository, and what must be."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Paths that mean something on one machine only.
LOCAL = re.compile(
    r"(?<![\w.])/(?:work|home/\w+|root|Users/\w+|opt/\w+|tmp/\w+)/[\w./-]*"
)
BINARY = {".png", ".ckpt", ".wav", ".flac", ".npz", ".safetensors", ".ico", ".pt"}


def tracked() -> list[Path]:
    """The repository's text files; outside a repository, those of its folders."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = (ROOT / line for line in listing.stdout.splitlines())
    return [p for p in paths if p.is_file() and p.suffix not in BINARY]


def test_no_path_of_one_machine():
    found = []
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            hits = [h for h in LOCAL.findall(line) if "/path/" not in h]
            found += [f"{path.relative_to(ROOT)}:{number}: {h}" for h in hits]
    assert not found, "\n".join(found)


def test_files_are_small_and_end_well():
    wrong = []
    for path in tracked():
        data = path.read_bytes()
        name = path.relative_to(ROOT).as_posix()
        if len(data) > 1_000_000:
            wrong.append(f"{name}: {len(data)} bytes")
        if data and not data.endswith(b"\n"):
            wrong.append(f"{name}: no newline at the end")
        if b"\r\n" in data:
            wrong.append(f"{name}: Windows line ends")
    assert not wrong, "\n".join(wrong)


def test_nothing_is_left_to_do_later():
    pattern = re.compile("|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]))
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix in {".py", ".yaml", ".md", ".sh", ".cfg", ".toml"}
        for number, line in enumerate(
            path.read_text(encoding="utf-8", errors="replace").splitlines(), 1
        )
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


def test_pins_cover_what_is_asked_for():
    """Everything that setup.cfg names has a version in constraints.txt."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    wanted = parser["options"]["install_requires"].split()
    for extra in parser["options.extras_require"].values():
        wanted += extra.split()
    names = {re.split(r"[<>=!~]", w)[0].lower().replace("_", "-") for w in wanted}
    text = (ROOT / "constraints.txt").read_text()
    pinned = re.findall(r"^([\w.-]+)==", text, re.MULTILINE)
    assert names <= {name.lower().replace("_", "-") for name in pinned}
