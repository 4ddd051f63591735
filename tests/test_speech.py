"""How much speech there is: nothing else is taken for it, and no speech is refused."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from model_folders import write_model

from sb_margins import speech
from sb_margins.audio import SpeechGate, read_recording
from sb_margins.cli import main as cli
from sb_margins.errors import UserError
from sb_margins.inference import SpeakerVerifier
from sb_margins.verification.embed import embed_files

RATE = speech.RATE
RULES = {"silero-vad": speech._by_vad, "energy": speech.by_energy}


@pytest.fixture(params=RULES)
def rule(request):
    if request.param == "silero-vad":
        pytest.importorskip("silero_vad", reason="the extra vad is not installed")
    return request.param


def noise(seconds, level=0.05, seed=0):
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(int(seconds * RATE))).astype(np.float32)


def hum(seconds):
    t = np.arange(int(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * 50 * k * t) / k for k in (1, 2, 3, 5)) / 10


def melody(seconds):
    """Plucked notes, with decay: as lively as speech."""
    t = np.arange(RATE // 4) / RATE
    notes = [220 * 2 ** (k / 12) for k in (0, 4, 7, 12, 7, 4, 0, -5)]
    played = [
        np.exp(-6 * t) * sum(np.sin(2 * np.pi * f * k * t) / k**2 for k in range(1, 6))
        for f in notes
    ]
    return np.tile(np.concatenate(played), 20)[: int(seconds * RATE)] / 4


@pytest.fixture(scope="module")
def voice(make_voice):
    return np.asarray(make_voice(2, 1, 3.0), np.float32)


def clicks(seconds):
    wav = noise(seconds, 1e-3)
    wav[:: RATE // 2] = 0.8
    return wav


NOT_SPEECH = {
    "silence": lambda: np.zeros(5 * RATE),
    "white noise": lambda: noise(5),
    "loud noise": lambda: noise(5, 0.3, 1),
    "hum": lambda: hum(5),
    "hum in noise": lambda: hum(5) + noise(5, 0.01),
    "clicks": lambda: clicks(5),
}


@pytest.mark.parametrize("kind", NOT_SPEECH)
def test_what_is_not_speech(kind, rule):
    assert RULES[rule](NOT_SPEECH[kind]()) < 0.5


def test_music_needs_the_network():
    """What the energy rule cannot do, and says so."""
    pytest.importorskip("silero_vad", reason="the extra vad is not installed")
    assert speech._by_vad(melody(10).astype(np.float32)) < 0.5
    assert speech.by_energy(melody(10)) > 0.5


def test_real_speech_and_noises(shared_data, rule):
    """Thirty files, and speech at known places of noise."""
    files = sorted((shared_data / "audio").rglob("*.flac"))[:: 1807 // 30]
    wavs = [soundfile.read(file, dtype="float32")[0] for file in files]
    assert min(RULES[rule](wav) for wav in wavs) > 0.5
    if rule == "silero-vad":
        for file in (shared_data / "noise").glob("*.flac"):
            assert RULES[rule](soundfile.read(file, dtype="float32")[0]) == 0, file
    for wav in wavs[:5]:
        middle = len(wav) // 2
        level = 0.1 * float(wav.std())
        mixed = noise(10, level)
        short = mixed.copy()
        short[RATE : RATE + RATE // 5] += wav[middle : middle + RATE // 5]
        assert RULES[rule](short) < 0.5
        long = mixed.copy()
        long[4 * RATE : 4 * RATE + len(wav)] += wav
        assert abs(RULES[rule](long) - RULES[rule](wav)) < 0.5 * len(wav) / RATE


def test_loudness_does_not_matter(voice, rule):
    counted = [RULES[rule](voice * gain) for gain in (1e-3, 0.1, 1.0)]
    assert max(counted) - min(counted) < 0.1


@pytest.fixture
def counted(monkeypatch):
    """The rule replaced: a recording holds as much speech as its peak says, in s."""
    monkeypatch.setattr(
        "sb_margins.audio.speech_seconds", lambda wav: 10 * float(np.abs(wav).max())
    )


@pytest.fixture
def files(tmp_path):
    """Files of which ``counted`` says 0.1, 2 and 5 s of speech."""
    paths = {}
    for seconds in (0.1, 2.0, 5.0):
        wav = noise(2, 1.0)
        wav *= seconds / 10 / np.abs(wav).max()
        paths[seconds] = str(tmp_path / f"{seconds}.wav")
        soundfile.write(paths[seconds], wav, RATE, subtype="FLOAT")
    return paths


def test_the_verdict(files, counted):
    gate = SpeechGate()
    with pytest.raises(
        UserError, match=r"0\.10 s of speech, as .* counts; at least 0\.5 s"
    ):
        read_recording(files[0.1], gate=gate)
    few = read_recording(files[2.0], gate=gate)
    assert few.notes == ["holds only 2.0 s of speech"]
    assert few.speech == pytest.approx(2.0, abs=0.01)
    assert read_recording(files[5.0], gate=gate).notes == []
    assert read_recording(files[0.1], gate=SpeechGate(0, 0)).notes == []
    assert read_recording(files[5.0]).speech is None
    assert read_recording(files[5.0], 8000, gate=gate).rate == 8000


def test_verbs_refuse_and_note(files, counted, tmp_path, capsys):
    folder = str(write_model(tmp_path / "m"))
    people = str(tmp_path / "people.npz")
    enrolled = ["--enrolled", people]
    for words in (
        ["verify-files", folder, files[5.0], files[0.1]],
        ["enroll", folder, "ann", files[0.1], *enrolled],
    ):
        assert cli(words) == 2
        assert "0.10 s of speech" in capsys.readouterr().err
        assert cli([*words, "--least-speech", "0"]) == 0
        assert "holds only 0.1 s of speech" in capsys.readouterr().err
        assert cli([*words, "--least-speech", "0", "--warn-speech", "0"]) == 0
        assert capsys.readouterr().err == ""
    assert cli(["identify", folder, files[0.1], *enrolled]) == 2
    assert cli(["identify", folder, files[2.0], *enrolled]) == 0
    assert "holds only 2.0 s of speech" in capsys.readouterr().err
    assert cli(["identify", folder, files[2.0], "--least-speech", "-1", *enrolled]) == 2


def test_seconds_of_speech_are_kept_with_embeddings(files, counted, tmp_path):
    model = SpeakerVerifier.from_hparams(write_model(tmp_path / "m"), device="cpu")
    assert model.embed(files[0.1]).speech == {}
    model.gate = SpeechGate(0, 0)
    assert model.embed(files[0.1]).speech[files[0.1]] == pytest.approx(0.1, abs=0.01)
    options = {"cache": tmp_path / "cache", "progress": False}
    embed_files(model.encoder, files, **options)
    for _ in range(2):  # the second time from the cache
        embeddings = embed_files(model.encoder, files, gate=SpeechGate(0, 0), **options)
        assert {f"{s:.2f}" for s in embeddings.speech.values()} == {
            "0.10",
            "2.00",
            "5.00",
        }


def test_threads_of_torch_are_left_alone():
    pytest.importorskip("silero_vad", reason="the extra vad is not installed")
    before = torch.get_num_threads()
    speech._detector.cache_clear()
    speech._by_vad(noise(1))
    assert torch.get_num_threads() == before
