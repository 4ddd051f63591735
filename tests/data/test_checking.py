"""Which recordings are usable: damage, silence, copies; each is named."""

import shutil

import numpy as np
import pytest
import soundfile

from sb_margins.audio import audio_info
from sb_margins.data import checking, prepare
from sb_margins.errors import UserError


def quiet(*args, **options):
    return prepare("folder", *args, verbose=False, **options)


@pytest.fixture
def broken(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    (corpus / "spk1" / "session0" / "zero.wav").touch()
    (corpus / "spk2" / "session0" / "text.flac").write_text("this is not audio")
    whole = (corpus / "spk3" / "session0" / "00000.wav").read_bytes()
    (corpus / "spk3" / "session0" / "cut.wav").write_bytes(whole[: len(whole) // 2])
    wav = soundfile.read(corpus / "spk4" / "session0" / "00000.wav")[0]
    flac = corpus / "spk4" / "session0" / "cut.flac"
    soundfile.write(flac, wav, 16000)
    flac.write_bytes(flac.read_bytes()[:12000])
    nan = np.full(16000, np.nan, np.float32)
    soundfile.write(corpus / "spk5" / "nan.wav", nan, 16000, "FLOAT")
    soundfile.write(corpus / "spk6" / "none.wav", np.zeros(0), 16000)
    soundfile.write(corpus / "spk7" / "short.wav", wav[:800], 16000)
    return corpus


BROKEN = ("zero.wav", "text.flac", "cut.wav", "cut.flac", "nan.wav", "none.wav")


def test_bad_files_are_told_all_at_once(broken, tmp_path):
    with pytest.raises(UserError) as told:
        quiet(broken, tmp_path / "data")
    for name in BROKEN:
        assert name in str(told.value)
    assert "short.wav" not in str(told.value) and "skip_bad" in str(told.value)
    assert "is empty" in str(told.value) and "is truncated" in str(told.value)
    assert not (tmp_path / "data" / "prepare.json").exists()
    listed = (tmp_path / "data" / "bad_files.txt").read_text()
    assert len(listed.splitlines()) == len(BROKEN) + 1


def test_bad_files_can_be_left_out(broken, tmp_path, capsys):
    prepared = prepare("folder", broken, tmp_path / "data", skip_bad=True)
    told = capsys.readouterr().err
    every = [u.wav for s in prepared.splits for u in prepared.manifest(s)]
    assert len(every) == 48
    for name in (*BROKEN, "short.wav"):
        assert name in told and not any(name in wav for wav in every)


def test_silence_is_left_out(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    noise = np.sin(np.arange(32000))
    soundfile.write(corpus / "spk0" / "silent.wav", 1.5e-4 * noise, 16000, "FLOAT")
    middle = 2.5e-4 * noise
    middle[:12000] = middle[-12000:] = 0
    soundfile.write(corpus / "spk1" / "quiet.wav", middle, 16000, "FLOAT")
    prepared = quiet(corpus, tmp_path / "data")
    every = [u.wav for s in prepared.splits for u in prepared.manifest(s)]
    assert "spk1/quiet.wav" in every and "spk0/silent.wav" not in every
    assert "left out 1 silent files:\n  spk0/silent.wav" in prepared.info["notes"][0]
    assert (tmp_path / "data" / "bad_files.txt").read_text() == (
        "spk0/silent.wav\tsilent\n"
    )
    prepared = quiet(corpus, tmp_path / "data", check="full")
    assert "spk0/silent.wav" in prepared.info["notes"][0]
    prepared = quiet(corpus, tmp_path / "data", check="header")
    assert prepared.info["notes"] == []


def test_short_files_and_several_channels(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    wav = np.random.default_rng(0).normal(0, 0.1, (16000, 2))
    for frames in (6399, 6400):
        soundfile.write(corpus / "spk0" / f"{frames}.wav", wav[:frames], 16000)
    soundfile.write(corpus / "spk1" / "mono.wav", wav[:, 0], 16000)
    short, channels = quiet(corpus, tmp_path / "data").info["notes"]
    assert short == (
        "left out 1 files shorter than 0.4 s (min_seconds):\n  spk0/6399.wav: 0.40 s"
    )
    assert channels == "1 files have several channels"


def test_long_lists_of_files_are_shortened(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    for number in range(25):
        (corpus / "spk0" / f"empty{number:02d}.wav").touch()
    with pytest.raises(UserError) as raised:
        quiet(corpus, tmp_path / "data")
    lines = str(raised.value).splitlines()
    assert lines[20].startswith("  spk0/empty19.wav: ")
    assert lines[21].startswith("  ... and 5 more, all in ")
    assert "ffmpeg" not in str(raised.value)
    assert len((tmp_path / "data" / "bad_files.txt").read_text().splitlines()) == 25
    for number in range(20, 25):
        (corpus / "spk0" / f"empty{number:02d}.wav").unlink()
    with pytest.raises(UserError) as raised:
        quiet(corpus, tmp_path / "data")
    assert "more" not in str(raised.value)
    for number in range(20):
        one = corpus / "spk0" / f"empty{number:02d}.wav"
        wav = np.random.default_rng(number).normal(0, 0.1, 8000)
        soundfile.write(one, wav, 16000)
        shutil.copy(one, corpus / "spk1" / one.name)
    (note,) = quiet(corpus, tmp_path / "data").info["notes"]
    assert len(note.splitlines()) == 21 and "more" not in note
    shutil.copy(corpus / "spk2" / "session0" / "00000.wav", corpus / "spk3" / "c.wav")
    (note,) = quiet(corpus, tmp_path / "data").info["notes"]
    assert note.splitlines()[21:] == ["  ... and 1 more"]


def test_copies_under_two_speakers_are_named(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    one = corpus / "spk3" / "session0" / "00001.wav"
    shutil.copy(one, corpus / "spk5" / "mine.wav")
    shutil.copy(one, corpus / "spk3" / "again.wav")  # one speaker's: not named
    shutil.copy(corpus / "spk2" / "session0" / "00000.wav", corpus / "spk2" / "b.wav")
    # the same length and the same (silent) ends only
    for speaker, level in (("spk6", 0.1), ("spk7", 0.2)):
        wav = np.zeros(16000)
        wav[8000] = level
        soundfile.write(corpus / speaker / "alike.wav", wav, 16000)
    (note,) = quiet(corpus, tmp_path / "data").info["notes"]
    assert note.startswith("1 recordings are under several speakers")
    assert note.splitlines()[1:] == [
        "  spk3/again.wav = spk3/session0/00001.wav = spk5/mine.wav"
    ]


def test_copies_in_other_formats_are_named(tiny_corpus, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    one = corpus / "spk0" / "session0" / "00000.wav"
    wav, rate = soundfile.read(one)
    soundfile.write(corpus / "spk1" / "a.flac", wav, rate)
    soundfile.write(corpus / "spk2" / "b.wav", wav, rate, "PCM_24", format="RF64")
    soundfile.write(corpus / "spk3" / "c.aiff", wav, rate, "FLOAT")
    soundfile.write(corpus / "spk4" / "d.wav", np.stack([wav, wav], 1), rate)
    # the same length, and the same ends at another rate or level
    soundfile.write(corpus / "spk5" / "e.wav", wav, 2 * rate)
    soundfile.write(corpus / "spk6" / "f.wav", wav / 2, rate)
    decoded = []
    load = checking.load_audio
    monkeypatch.setattr(
        checking, "load_audio", lambda path: decoded.append(path.name) or load(path)
    )
    *_, note = quiet(corpus, tmp_path / "data").info["notes"]
    assert note.splitlines()[1:] == [
        "  spk0/session0/00000.wav"
        " = spk1/a.flac = spk2/b.wav = spk3/c.aiff = spk4/d.wav"
    ]
    assert sorted(decoded) == ["00000.wav", "a.flac", "b.wav", "c.aiff", "d.wav"]
    *_, note = quiet(corpus, tmp_path / "data", check="full").info["notes"]
    assert len(note.splitlines()) == 2


def test_damage_between_silent_or_equal_ends(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    for speaker, level in (("spk0", 0), ("spk1", 0.1), ("spk2", 0.1)):
        wav = np.full(16000, 0, np.float32)
        wav[1000:-1000] = level
        wav[500] = level
        wav[8000] = np.nan
        soundfile.write(corpus / speaker / "nan.wav", wav, 16000, "FLOAT")
    with pytest.raises(UserError, match="1 of 49 files(?s:.*)spk0/nan.wav"):
        for speaker in ("spk1", "spk2"):
            (corpus / speaker / "nan.wav").rename(tmp_path / f"{speaker}.wav")
        quiet(corpus, tmp_path / "data")
    (corpus / "spk0" / "nan.wav").unlink()
    for speaker in ("spk1", "spk2"):
        (tmp_path / f"{speaker}.wav").rename(corpus / speaker / "nan.wav")
    assert quiet(corpus, tmp_path / "data").info["notes"] == []


def test_damage_in_the_middle_takes_the_full_check(tmp_path, make_voice):
    path = tmp_path / "a.flac"
    soundfile.write(path, make_voice(1, 1, 4.0), 16000)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    assert audio_info(path, "ends").notes == []
    with pytest.raises(UserError, match="cannot be read"):
        audio_info(path, "full")
