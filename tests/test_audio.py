"""The reader of audio: one verdict on a file, never a wrong silent score."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from model_folders import write_model
from odd_audio import flac_of_unknown_length, wav_of_rate

from sb_margins.audio import LONGEST, audio_info, load_audio, read_recording, resample
from sb_margins.errors import UserError
from sb_margins.inference import SpeakerVerifier
from sb_margins.verification.embed import embed_files

RATE = 16000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return SpeakerVerifier.from_hparams(
        write_model(tmp_path_factory.mktemp("audio") / "model")
    )


@pytest.fixture(scope="module")
def voice(make_voice):
    return make_voice(2, 1, 2.5)


def cosine(model, one, two):
    found = model.encode_files([one, two])
    return float(torch.nn.functional.cosine_similarity(found[:1], found[1:])[0])


@pytest.fixture
def plain(voice, tmp_path):
    path = tmp_path / "plain.wav"
    soundfile.write(path, voice, RATE, subtype="FLOAT")
    return path


LOSSLESS = [
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "PCM_32"),
    ("wav", "FLOAT"),
    ("wav", "DOUBLE"),
    ("flac", "PCM_16"),
    ("flac", "PCM_24"),
    ("aiff", "PCM_16"),
    ("au", "PCM_16"),
    ("caf", "PCM_16"),
    ("w64", "PCM_16"),
    ("rf64", "PCM_16"),
]
LOSSY = [
    ("wav", "PCM_U8"),
    ("wav", "ULAW"),
    ("wav", "ALAW"),
    ("wav", "IMA_ADPCM"),
    ("wav", "MS_ADPCM"),
    ("wav", "GSM610"),
    ("ogg", "VORBIS"),
    ("ogg", "OPUS"),
    ("mp3", "MPEG_LAYER_III"),
]


@pytest.mark.parametrize("kind, subtype", LOSSLESS)
def test_every_lossless_format_gives_the_same(
    model, voice, plain, tmp_path, kind, subtype
):
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, voice, RATE, subtype=subtype, format=kind.upper())
    assert not read_recording(path).notes
    assert cosine(model, plain, path) > 0.9999


@pytest.mark.parametrize("kind, subtype", LOSSY)
def test_every_lossy_format_is_read(model, voice, plain, tmp_path, kind, subtype):
    if subtype not in soundfile.available_subtypes(kind.upper()):
        pytest.skip(f"this libsndfile has no {subtype}")
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, voice, RATE, subtype=subtype, format=kind.upper())
    assert not read_recording(path).notes
    assert cosine(model, plain, path) > 0.8


def test_same_samples_in_wav_and_flac_score_the_same(model, voice, tmp_path):
    whole = np.round(voice * 32767).astype(np.int16)
    for kind in ("wav", "flac"):
        soundfile.write(tmp_path / f"x.{kind}", whole, RATE)
    one = model.encode_files([tmp_path / "x.wav"])
    two = model.encode_files([tmp_path / "x.flac"])
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    "rate", [8000, 11025, 22050, 44100, 44101, 48000, 96000, 192000]
)
def test_sampling_rates(model, voice, tmp_path, rate):
    """Resampled speech stays near its band-limited original."""
    from scipy.signal import resample_poly

    other = resample(voice, RATE, rate)
    soundfile.write(tmp_path / "other.wav", other, rate, subtype="FLOAT")
    band = voice
    if rate < RATE:
        band = resample_poly(resample_poly(voice, rate, RATE), RATE, rate)
    soundfile.write(tmp_path / "own.wav", band, RATE, subtype="FLOAT")
    got = read_recording(tmp_path / "other.wav")
    assert abs(len(got.wav) - len(voice)) <= 2
    assert cosine(model, tmp_path / "own.wav", tmp_path / "other.wav") > 0.99


def test_low_rate_is_told(voice, tmp_path):
    soundfile.write(tmp_path / "x.wav", voice[::4], 4000)
    assert "bandwidth of 2 kHz" in read_recording(tmp_path / "x.wav").notes[0]


@pytest.mark.parametrize("channels", [2, 8])
def test_equal_channels_are_one(model, voice, plain, tmp_path, channels):
    path = tmp_path / "many.wav"
    soundfile.write(path, np.stack([voice] * channels, 1), RATE, subtype="FLOAT")
    assert cosine(model, plain, path) > 0.99999


def test_one_silent_channel_is_fine(model, voice, plain, tmp_path):
    path = tmp_path / "left.wav"
    both = np.stack([voice, np.zeros_like(voice)], 1)
    soundfile.write(path, both, RATE, subtype="FLOAT")
    assert cosine(model, plain, path) > 0.999


def bad(tmp_path, wav, rate=RATE, subtype="FLOAT"):
    path = tmp_path / "bad.wav"
    soundfile.write(path, wav, rate, subtype=subtype)
    return path


ERRORS = {
    "10 ms": (lambda v: v[:160], "too short: 0.010 s"),
    "nothing": (lambda v: v[:0], "too short: it holds no samples"),
    "zeros": (np.zeros_like, "is silent"),
    "constant": (lambda v: np.full_like(v, 0.5), "is silent"),
    "whisper of noise": (lambda v: v * 1e-5, "is silent"),
    "one NaN": (lambda v: np.where(np.arange(len(v)) == 9, np.nan, v), "NaN"),
    "one infinity": (lambda v: np.where(np.arange(len(v)) == 9, -np.inf, v), "NaN or"),
    "cancelling": (lambda v: np.stack([v, -v], 1), "cancel each other"),
    "spike": (lambda v: np.where(np.arange(len(v)) == 9, 1e30, v), "is damaged"),
}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_hopeless_audio_is_refused(model, voice, tmp_path, name):
    change, message = ERRORS[name]
    path = bad(tmp_path, change(voice))
    with pytest.raises(UserError, match=message) as caught:
        model.encode_files([path])
    assert str(path) in str(caught.value)


NOTES = {
    "short": (lambda v: v[:8000], "only 0.50 s long"),
    "quiet": (lambda v: v * 1e-3, "very quiet"),
    "clipped": (lambda v: np.clip(v * 8, -1, 1), "clipped"),
    "integers": (lambda v: v * 32768, "times full scale; scaled back"),
    "mostly silence": (lambda v: np.where(np.arange(len(v)) < 4000, v, 0), "of sound"),
}


@pytest.mark.parametrize("name", sorted(NOTES))
def test_poor_audio_is_told(voice, tmp_path, name):
    change, message = NOTES[name]
    notes = read_recording(bad(tmp_path, change(voice))).notes
    assert any(message in note for note in notes), notes


def test_integer_scale_does_not_change_the_score(model, voice, plain, tmp_path):
    assert cosine(model, plain, bad(tmp_path, voice * 32768)) > 0.9999


def test_good_audio_is_not_told(plain):
    assert read_recording(plain).notes == []


def test_an_hour_is_read_to_the_limit(voice, tmp_path):
    path = tmp_path / "hour.wav"
    block = voice[::2]
    with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_U8") as file:
        written = 0
        while written < 3600 * 8000:
            file.write(block)
            written += len(block)
    recording = read_recording(path)
    assert recording.seconds == LONGEST
    assert "the first 300 s are used" in recording.notes[0]


@pytest.mark.parametrize("name", ["none.wav", "folder", "text.wav", "empty.wav"])
def test_not_audio(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.wav").write_text("this is not audio" * 100)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(UserError, match="no such audio file|cannot be read as audio"):
        read_recording(tmp_path / name)


def test_device_files_are_not_read():
    with pytest.raises(UserError, match="no such audio file"):
        read_recording("/dev/zero")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "aiff"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
def test_truncation_is_told(voice, tmp_path, kind, share):
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, voice, RATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    try:
        assert read_recording(path).notes
    except UserError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("offset, value", [(22, 9), (24, 999), (24, 7999)])
def test_wrong_header_is_told(voice, tmp_path, offset, value):
    """Channels or rate changed, the rest of the header left as it was."""
    path = tmp_path / "x.wav"
    soundfile.write(path, voice, RATE)
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, offset, value)
    path.write_bytes(content)
    try:
        notes = read_recording(path).notes
    except UserError:
        return
    assert any("contradicts itself" in note for note in notes)


@pytest.mark.parametrize("share", [0.6, 0.999])
def test_truncated_ogg_is_noted(voice, tmp_path, share):
    path = tmp_path / "x.ogg"
    soundfile.write(path, voice, RATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "last page is missing" in read_recording(path).notes[0]


ODD_FILES = {  # name: (how to write it, part of the verdict; "" for a good file)
    "gsm.wav": (
        lambda path, v: soundfile.write(path, v, RATE, subtype="GSM610"),
        "",
    ),
    "unknown.flac": (flac_of_unknown_length, ""),
    "one_sample.wav": (lambda path, v: soundfile.write(path, v[:1], RATE), "too short"),
    "hundred.wav": (lambda path, v: soundfile.write(path, v[:100], RATE), "too short"),
    "1_hz.wav": (lambda path, v: wav_of_rate(path, v, 1), "1 Hz .* out of range"),
    "2_31_hz.wav": (
        lambda path, v: wav_of_rate(path, v, 2**31),
        "out of range|cannot be read",
    ),
    "silent.wav": (lambda path, v: soundfile.write(path, 0 * v, RATE), "is silent"),
    "antiphase.wav": (
        lambda path, v: soundfile.write(path, np.stack([v, -v], 1), RATE),
        "cancel each other",
    ),
    "folder.wav": (lambda path, v: path.mkdir(), "no such audio file"),
    "empty.wav": (lambda path, v: path.touch(), "0 bytes"),
    "unfit.raw": (lambda path, v: path.write_bytes(bytes(9999)), "cannot be read as"),
    "aac.m4a": (lambda path, v: path.write_bytes(bytes(9999)), "AAC is not supported"),
}


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory, voice):
    folder = tmp_path_factory.mktemp("odd")
    for name, (write, _) in ODD_FILES.items():
        write(folder / name, voice)
    return folder


@pytest.mark.parametrize("name", sorted(ODD_FILES))
def test_odd_files_have_one_verdict(name, odd_files, model):
    """The reader itself, a verifier and the embedding of lists say the same."""
    path, verdict = odd_files / name, ODD_FILES[name][1]
    plain = lambda wavs: wavs[:, :2]  # noqa: E731
    if not verdict:
        recording = read_recording(path)
        assert recording.seconds == pytest.approx(2.5, abs=0.05)
        assert recording.notes == []
        found = embed_files(plain, {"x": path}, progress=False)
        np.testing.assert_array_equal(found.matrix[0], recording.wav[:2])
        assert found.seconds["x"] == recording.seconds
        return
    for read in (
        lambda: read_recording(path),
        lambda: model.encode_files([path]),
        lambda: embed_files(plain, {"x": path}, progress=False),
    ):
        with pytest.raises(UserError, match=verdict) as caught:
            read()
        assert name in str(caught.value)


def test_all_odd_files_can_be_skipped(odd_files):
    files = {name: odd_files / name for name in ODD_FILES}
    found = embed_files(lambda wavs: wavs[:, :2], files, skip_bad=True, progress=False)
    assert sorted(found.ids) == ["gsm.wav", "unknown.flac"]
    assert len(found.skipped) == len(ODD_FILES) - 2
    for name, why in found.skipped.items():
        assert name in why


def test_file_names_of_any_kind(voice, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_recording(tmp_path / ("x" * 300 + ".wav"))
    odd = tmp_path / b"caf\xe9 \n.wav".decode(errors="surrogateescape")
    soundfile.write(odd.open("wb"), voice, RATE, format="WAV")
    assert read_recording(odd).notes == []


def test_header_of_good_files(voice, tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([voice, voice], 1), 8000)
    for decode in ("header", "ends", "full"):
        info = audio_info(path, decode)
        assert info[:4] == (len(voice), 8000, 2, [])
        assert info.seconds == len(voice) / 8000
    flac_of_unknown_length(tmp_path / "x.flac", voice)
    assert audio_info(tmp_path / "x.flac").frames == len(voice)


@pytest.mark.parametrize("kind", ["flac", "mp3"])
@pytest.mark.parametrize("decode", ["ends", "full"])
def test_truncation_that_a_header_does_not_show(voice, tmp_path, kind, decode):
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, voice, RATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(0.7 * len(content))])
    try:
        notes = audio_info(path, decode).notes
    except UserError as error:
        assert "cannot be read" in str(error)
        return
    if kind == "flac":
        assert "truncated" in notes[0]


@pytest.mark.parametrize("kind", ["mp3", "ogg"])
def test_healthy_files_of_formats_that_seek_badly(tmp_path, capfd, kind):
    for seed in (21, 43, 47, 49, 62):  # libsndfile gives too little of these Ogg files
        rng = np.random.default_rng(seed)
        length = int(rng.integers(8000, 40000))
        level = np.repeat(rng.random(length // 1600 + 1) ** 3, 1600)[:length]
        wav = resample(0.3 * rng.standard_normal(length) * level, 16000, 48000)
        path = tmp_path / f"{seed}.{kind}"
        soundfile.write(path, np.clip(wav, -1, 1), 48000)
        assert audio_info(path, "ends").notes == []
    assert capfd.readouterr().err == ""  # libmpg123 writes there


def test_damage_in_the_middle_is_found_by_decoding_everything(voice, tmp_path):
    path = tmp_path / "x.wav"
    wav = voice.copy()
    wav[len(wav) // 2] = np.nan
    soundfile.write(path, wav, RATE, subtype="FLOAT")
    assert audio_info(path, "ends").notes == []
    with pytest.raises(UserError, match="NaN"):
        audio_info(path, "full")


def test_peak_and_checksum_are_of_what_was_decoded(voice, tmp_path):
    path, other = tmp_path / "x.wav", tmp_path / "y.wav"
    wav = np.stack([0.1 * voice, voice + 0.25], 1)
    soundfile.write(path, wav, RATE, subtype="FLOAT")
    info = audio_info(path, "full")
    assert info.peak == pytest.approx(np.ptp(voice) / 2, rel=1e-5)  # an offset is none
    ends = np.concatenate([voice[:1600], voice[-1600:]])
    parts = [np.ptp(part) / 2 for part in (ends[:1600], ends[1600:])]
    assert audio_info(path, "ends").peak == pytest.approx(max(parts), rel=1e-5)
    assert audio_info(path).peak is None
    wav[len(wav) // 2] = 0.01
    soundfile.write(other, wav, RATE, subtype="FLOAT")
    assert audio_info(other, "full").checksum != info.checksum
    assert audio_info(other, "ends")[:4] == audio_info(path, "ends")[:4]


def test_training_reads_the_same_samples(voice, tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([voice, 0.5 * voice], 1), 8000, subtype="FLOAT")
    whole = load_audio(path)
    assert np.array_equal(whole, read_recording(path).wav)
    piece = load_audio(path, rate=8000, start=0.5, seconds=0.25)
    np.testing.assert_array_equal(piece, 0.75 * voice[4000:6000])
    judged = read_recording(path, 8000, start=0.5, seconds=0.25)
    np.testing.assert_array_equal(judged.wav, piece)
    assert judged.notes == ["is only 0.25 s long"]
    last = load_audio(path, rate=8000, start=4.9, seconds=9.0)
    np.testing.assert_array_equal(last, 0.75 * voice[39200:])
    soundfile.write(path, 32768 * voice, RATE, subtype="FLOAT")
    scaled = load_audio(path)
    assert np.array_equal(scaled, read_recording(path).wav)
    assert np.abs(scaled).max() == pytest.approx(1)


def test_training_takes_silence_and_short_pieces(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.zeros(RATE), RATE)
    assert load_audio(path, seconds=0.1).shape == (1600,)
    assert load_audio(path, start=0.5, seconds=0.00001).shape == (1,)
    with pytest.raises(UserError, match="no samples"):
        load_audio(path, start=2.0)


@pytest.mark.parametrize("source, target", [(8000, 16000), (44100, 16000)])
def test_resampling_keeps_a_tone(source, target):
    tone = np.sin(2 * np.pi * 440 * np.arange(source) / source)
    expected = np.sin(2 * np.pi * 440 * np.arange(target) / target)
    out = resample(tone, source, target)
    assert out.dtype == np.float32 and out.shape == (target,)
    middle = slice(target // 4, 3 * target // 4)
    np.testing.assert_allclose(out[middle], expected[middle], atol=2e-3)


LEVELS = {  # just on this side and just on that side of each limit
    "short": (0.19, 1.0, "too short"),
    "long enough": (0.21, 1.0, "is only 0.21 s long"),
    "short note": (0.99, 1.0, "is only 0.99 s long"),
    "good": (1.01, 1.0, None),
    "silent": (1.5, 1.9e-4, "is silent"),
    "nearly silent": (1.5, 2.1e-4, "is very quiet"),
    "quiet": (1.5, 4.9e-3, "is very quiet"),
    "not quiet": (1.5, 5.1e-3, None),
    "loud": (1.5, 1.99, None),
    "too loud": (1.5, 2.01, "times full scale; scaled back"),
}


@pytest.mark.parametrize("name", LEVELS)
def test_limits(name, tmp_path):
    seconds, peak, verdict = LEVELS[name]
    wav = np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
    wav /= np.abs(wav).max()
    path = bad(tmp_path, peak * wav)
    try:
        notes = read_recording(path).notes
    except UserError as error:
        notes = [str(error)]
    if verdict is None:
        assert notes == []
    else:
        assert len(notes) == 1 and verdict in notes[0], notes


FORMATS = ["wav", "flac", "ogg", "mp3", "aiff"]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(data=st.data(), kind=st.sampled_from(FORMATS))
def test_damaged_files_never_give_nonsense(data, kind, model, voice, tmp_path):
    """Bits flipped, bytes cut out, put in, cut off: embeddings are finite and the
    sound is what is left of the original, or an error names the file."""
    path = tmp_path / f"fuzz.{kind}"
    soundfile.write(path, voice[: 16000 + 4000], RATE)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "end", "header"]))
        if how == "flip" and content:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del content[at : at + data.draw(st.integers(1, 2000))]
        elif how == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=64))
        elif how == "end":
            del content[at:]
        elif content:
            content[at % min(64, len(content))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        recording = read_recording(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert np.isfinite(recording.wav).all() and recording.seconds >= 0.2
    embedding = model.encode_batch(torch.from_numpy(recording.wav[: RATE * 3]))
    assert torch.isfinite(embedding).all()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(
    seed=st.integers(0, 2**31),
    level=st.floats(-90, 30),
    rate=st.sampled_from([4000, 8000, 12000, 16000, 32000, 44100, 192000]),
    channels=st.integers(1, 8),
    subtype=st.sampled_from(["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE"]),
    seconds=st.floats(0.0, 1.5),
)
def test_any_signal(seed, level, rate, channels, subtype, seconds, model, tmp_path):
    noise = np.random.default_rng(seed).standard_normal((int(rate * seconds), channels))
    noise *= 0.1 * 10 ** (level / 20)
    path = tmp_path / "any.wav"
    soundfile.write(path, noise, rate, subtype=subtype)
    try:
        found = model.encode_files([path])
    except UserError as error:
        assert str(path) in str(error)
        return
    assert torch.isfinite(found).all() and found.norm() > 0
