"""The doctor: facts, remedies, and no collapse where packages are broken."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sb_margins import cli
from sb_margins.doctor import audio, finding, machine, packages, settings
from sb_margins.doctor.finding import Finding


def test_here_a_training_can_start(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("Python", "PyTorch", "torchaudio", "SpeechBrain", "soundfile", "gloo"):
        assert word in out
    assert out.endswith("a training can start\n")


def broken(folder, name: str, text: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(text)


def test_survives_torchaudio_for_another_cuda(tmp_path):
    """Trap T1 as it is met: importing torchaudio raises OSError."""
    why = "libc10_cuda.so: cannot open shared object file: No such file"
    broken(tmp_path, "torchaudio", f"raise OSError({why!r})")
    (tmp_path / "torchaudio" / "lib").mkdir()
    (tmp_path / "torchaudio" / "lib" / "_torchaudio.abi3.so").touch()
    done = subprocess.run(
        [sys.executable, "-m", "sb_margins.cli", "doctor"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert f"torchaudio      OSError: {why}" in done.stdout
    assert f'make setup, or: cd "{tmp_path}/torchaudio/lib"' in done.stdout
    assert "x  SpeechBrain" in done.stdout and "see torchaudio above" in done.stdout
    assert "2 things stand in the way" in done.stdout


@pytest.fixture
def without(monkeypatch):
    """Pretend that some modules cannot be imported."""

    def hide(*names: str, why: str = "ModuleNotFoundError: No module"):
        real = packages.try_import

        def fake(name):
            return (None, why) if name in names else real(name)

        for module in (packages, audio, settings):
            monkeypatch.setattr(module, "try_import", fake)

    return hide


@pytest.mark.parametrize(
    "name, look",
    [
        ("torch", packages.torch_findings),
        ("torchaudio", packages.torch_findings),
        ("speechbrain.core", packages.speechbrain_findings),
        ("scipy", packages.speechbrain_findings),
        ("soundfile", audio.findings),
    ],
)
def test_missing_package_is_bad_with_remedy(without, name, look):
    without(name)
    bad = [f for f in look() if f.mark == "bad"]
    assert len(bad) == 1 and bad[0].remedy


def test_missing_sound_library(without):
    without("soundfile", why="OSError: sndfile library not found")
    assert "libsndfile1" in audio.findings()[0].remedy


def fake_torch(**kind):
    cuda = SimpleNamespace(
        is_available=lambda: kind.get("available", False),
        device_count=lambda: 1,
        get_device_name=lambda i: "NVIDIA X1",
    )

    def ones(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    return SimpleNamespace(
        __version__="2.13.0",
        cuda=cuda,
        ones=ones,
        version=SimpleNamespace(cuda=kind.get("cuda"), hip=None),
        backends=SimpleNamespace(
            mps=SimpleNamespace(is_available=lambda: kind.get("mps", False))
        ),
    )


@pytest.mark.parametrize(
    "kind, seen, mark, words",
    [
        ({}, [], "note", "none"),
        ({}, ["NVIDIA X1"], "note", "CPU build"),
        ({"cuda": "13.0"}, ["NVIDIA X1"], "note", "cannot use it"),
        ({"cuda": "13.0", "available": True}, ["NVIDIA X1"], "bad", "no kernel image"),
        ({"mps": True}, [], "good", "Apple"),
    ],
)
def test_gpu(kind, seen, mark, words):
    found = packages.gpu(fake_torch(**kind), seen)
    assert found.mark == mark and words in found.detail


def test_old_torch_and_old_speechbrain(monkeypatch):
    torch = packages.try_import("torch")[0]
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    assert packages.torch_findings()[0].mark == "bad"
    monkeypatch.setattr(packages, "version", lambda name: "1.0.3")
    assert packages.speechbrain_findings()[0].mark == "bad"


@pytest.mark.parametrize("free, mark", [(5e7, "bad"), (1e9, "note"), (5e10, "good")])
def test_disk(tmp_path, monkeypatch, free, mark):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(free=free))
    assert machine.disk(tmp_path).mark == mark


def test_small_shared_memory(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(total=64e6))
    (found,) = machine.shared_memory()
    assert found.mark == "note" and "--num_workers=0" in found.remedy


def test_threads(monkeypatch):
    import torch

    monkeypatch.setattr(machine, "usable_cores", lambda: 2.0)
    for threads, mark in ((2, "good"), (8, "note"), (1, "note")):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        assert machine.cores().mark == mark


def test_pip_of_another_python(tmp_path, monkeypatch):
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\n")
    pip.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = settings.program("pip")
    assert found.mark == "note" and "python -m pip" in found.remedy


def test_swallowed_keys_are_told(tmp_path, monkeypatch):
    import sb_margins.select

    (tmp_path / "bad.yaml").write_text("# x\noptimizer: adam\nmargin: 0.2\n")
    monkeypatch.setattr(sb_margins.select, "hparams_dir", lambda: tmp_path)
    found = settings.hparams()
    assert found[0].mark == "good" and len(found) == 2
    assert "--optimizer is taken for --optimizer_step_limit" in found[1].detail


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_colours_on_a_terminal_and_plain_elsewhere(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    some = [Finding("bad", "disk", "full", "make room " * 30)]
    terminal, plain = Terminal(), io.StringIO()
    finding.show("Machine", some, terminal)
    finding.show("Machine", some, plain)
    assert "\x1b[" in terminal.getvalue() and "✗" in terminal.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert "make room " * 29 in terminal.getvalue(), "remedies stay in one piece"


def test_terminal_without_rich(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    terminal = Terminal()
    finding.show("Machine", [Finding("good", "a", "b")], terminal)
    assert terminal.getvalue() == "\nMachine\n  ✓ a               b\n"
