"""The doctor: facts, remedies, and no collapse where packages are broken."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sb_margins import cli, doctor
from sb_margins.commands.doctor import show
from sb_margins.doctor import Finding


def test_here_a_run_can_start(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in (
        "Python",
        "PyTorch",
        "torchaudio",
        "SpeechBrain",
        "soundfile",
        "hparams",
    ):
        assert word in out
    assert out.endswith("a run can start\n")


def test_survives_torchaudio_for_another_cuda(tmp_path):
    """Importing torchaudio raises OSError beside a torch of another CUDA."""
    why = "libc10_cuda.so: cannot open shared object file: No such file"
    package = tmp_path / "torchaudio"
    (package / "lib").mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise OSError({why!r})")
    (package / "lib" / "_torchaudio.abi3.so").touch()
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "sb_margins", "doctor"],
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert f"torchaudio      OSError: {why}" in done.stdout
    assert f'make setup, or: cd "{package}/lib"' in done.stdout
    assert "x  SpeechBrain" in done.stdout and "see torchaudio above" in done.stdout
    assert "2 problems prevent a run" in done.stdout


@pytest.fixture
def without(monkeypatch):
    """Pretend that a module cannot be imported."""

    def hide(name: str, why: str = "ModuleNotFoundError: No module"):
        real = doctor.try_import
        monkeypatch.setattr(
            doctor, "try_import", lambda n: (None, why) if n == name else real(n)
        )

    return hide


@pytest.mark.parametrize(
    "name", ["torch", "torchaudio", "speechbrain.core", "scipy", "soundfile"]
)
def test_missing_package_is_bad_with_remedy(without, name):
    without(name)
    bad = [f for _, findings in doctor.examine() for f in findings if f.bad]
    assert len(bad) == 1 and bad[0].remedy


def test_missing_sound_library(without):
    without("soundfile", why="OSError: sndfile library not found")
    assert "libsndfile1" in doctor.soundfile().remedy


def fake_torch(cuda=None, available=False, mps=False):
    def ones(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_available=lambda: available,
            device_count=lambda: 1,
            get_device_name=lambda i: "NVIDIA X1",
        ),
        ones=ones,
        version=SimpleNamespace(cuda=cuda, hip=None),
        __version__="2.13.0",
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
    )


@pytest.mark.parametrize(
    "kind, seen, bad, words",
    [
        ({}, [], False, "none"),
        ({}, ["NVIDIA X1"], False, "CPU build"),
        ({"cuda": "13.0"}, ["NVIDIA X1"], False, "cannot use it"),
        ({"cuda": "13.0", "available": True}, ["NVIDIA X1"], True, "no kernel image"),
        ({"mps": True}, [], False, "Apple"),
    ],
)
def test_gpu(monkeypatch, kind, seen, bad, words):
    monkeypatch.setattr(doctor, "nvidia_gpus", lambda: seen)
    found = doctor.gpu(fake_torch(**kind))
    assert found.bad == bad and words in found.detail
    assert bool(found.remedy) == (words != "Apple")


@pytest.mark.parametrize("number, bad", [("2.7.0", True), ("2.7.1+cu128", False)])
def test_old_torch(monkeypatch, number, bad):
    torch, _ = doctor.try_import("torch")
    monkeypatch.setattr(torch, "__version__", number)
    found = doctor.build(torch)
    assert found.bad == bad and bool(found.remedy) == bad


@pytest.mark.parametrize("number, bad", [("1.0.3", True), ("1.1.2", False)])
def test_old_speechbrain(monkeypatch, number, bad):
    monkeypatch.setattr(doctor, "version", lambda name: number)
    assert doctor.speechbrain().bad == bad


@pytest.mark.parametrize(
    "numbers, remedy", [((3, 10, 1), False), ((3, 13, 9), False), ((3, 14, 0), True)]
)
def test_python(numbers, remedy):
    found = doctor.python(numbers)
    assert (found.bad, bool(found.remedy)) == (False, remedy)


@pytest.mark.parametrize(
    "free, bad, remedy", [(5e7, True, True), (1e9, False, True), (5e10, False, False)]
)
def test_disk(monkeypatch, free, bad, remedy):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(free=free))
    found = doctor.disk()
    assert (found.bad, bool(found.remedy)) == (bad, remedy)


def test_small_shared_memory(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(total=64e6))
    monkeypatch.setattr(doctor.os.path, "isdir", lambda p: True)
    assert "--num_workers=0" in doctor.shared_memory().remedy


@pytest.mark.parametrize("threads, words", [(2, ""), (8, "OMP_"), (1, "unset")])
def test_threads(monkeypatch, threads, words):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2.0)
    found = doctor.cores(SimpleNamespace(get_num_threads=lambda: threads))
    assert words in found.remedy and bool(words) == bool(found.remedy)


def test_pip_of_another_python(tmp_path, monkeypatch):
    pip = tmp_path / "pip"
    pip.write_text("#!/bin/sh\n")
    pip.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "another Python" in doctor.program("pip").remedy
    assert not doctor.program("no-such-program").remedy


def test_colours_on_a_terminal_and_plain_elsewhere():
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    some = [Finding("disk", "full", "free some space " * 30, bad=True)]
    terminal, plain = Terminal(), io.StringIO()
    show("Machine", some, terminal)
    show("Machine", some, plain)
    assert "\x1b[" in terminal.getvalue() and "✗" in terminal.getvalue()
    assert "\x1b[" not in plain.getvalue() and "x  disk" in plain.getvalue()
    assert "free some space " * 30 in terminal.getvalue(), "one piece, to be copied"
