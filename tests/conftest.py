"""Fixtures shared by all tests: the device, real speech when there, a tiny corpus."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

# One thread a process: tests run side by side, and sums keep their order.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# The first backward of a process starts a thread for each device there is. After a test
# on pretended GPUs it would start theirs, and no test could fork and train any more.
torch.ones(1, requires_grad=True).sum().backward()
# A shell starts what runs in the background with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="device of the tests (cpu, cuda)")


def _quiet_lazy_modules():
    """Hypothesis asks every module for its file, which makes SpeechBrain's lazy ones
    import optional packages, and fail; they have no file of their own."""
    lazy = sys.modules.get("speechbrain.utils.importutils")
    if lazy is not None:
        lazy.LazyModule.__file__ = None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems():
    _quiet_lazy_modules()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    _quiet_lazy_modules()


@pytest.fixture(scope="session", autouse=True)
def _synthetic_voices_are_speech():
    """silero-vad, where it is installed, takes the tests' voices for what they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sb_margins.speech.speech_rule", lambda: "the energy rule")
        yield


@pytest.fixture
def device(request):
    return request.config.getoption("--device")


@pytest.fixture(params=["cpu", "accelerator"])
def branch(request):
    """The test twice: with a CPU's branches, and with an accelerator's on a CPU."""
    from sb_margins.precision import accelerator_branches

    with nullcontext() if request.param == "cpu" else accelerator_branches():
        yield request.param


@pytest.fixture(scope="session")
def shared_data():
    """Real speech beside the checkout; tests that want it skip when it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "manifest.csv").is_file():
        pytest.skip("no real speech beside the checkout (../shared/data)")
    return folder


def voice(speaker: int, utterance: int, seconds: float, rate: int = 16000):
    """Speech-like audio: harmonics of a wandering pitch through fixed formants."""
    rng = np.random.default_rng([speaker, utterance])
    n = int(seconds * rate)
    t = np.arange(n) / rate
    pitch = 90 + 17 * speaker + 6 * np.sin(2 * np.pi * (1 + rng.random()) * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = 400 + 90 * ((speaker * np.array([3, 5, 7])) % 11) + [0, 700, 1700]
    wav = np.zeros(n)
    for k in range(1, 30):
        gain = sum(np.exp(-(((k * pitch - f) / 180) ** 2)) for f in formants)
        wav += (gain + 0.03) * np.sin(k * phase)
    wav *= 0.55 + 0.45 * np.sin(2 * np.pi * 4 * t + 6 * rng.random())
    wav += 0.02 * rng.standard_normal(n)
    return (0.5 * wav / np.abs(wav).max()).astype(np.float32)


@pytest.fixture(scope="session")
def make_voice():
    return voice


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """speaker/session/utterance.wav: 8 speakers, 2 sessions, 3 utterances each."""
    folder = tmp_path_factory.mktemp("tiny_corpus")
    for speaker in range(8):
        for utterance in range(6):
            session = folder / f"spk{speaker}" / f"session{utterance // 3}"
            session.mkdir(parents=True, exist_ok=True)
            wav = voice(speaker, utterance, 1.2 + 0.1 * utterance)
            soundfile.write(session / f"{utterance:05d}.wav", wav, 16000)
    return folder
