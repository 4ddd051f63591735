"""Extraction: no padding leak, any order, killed and continued, broken audio named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from sb_margins.audio import AudioInfo
from sb_margins.data import prepare
from sb_margins.encoder import SpeakerEncoder, fingerprint
from sb_margins.errors import UserError
from sb_margins.messages import progress_bar
from sb_margins.similarity import PoincareSimilarity
from sb_margins.verification import embed
from sb_margins.verification.embed import EmbeddingCache, audio_key, embed_files


class Toy(nn.Module):
    """A strided convolution and a mean: padding and neighbours would show."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 12, 400, stride=160)
        self.rows = []

    def forward(self, wavs):
        self.rows.append(tuple(wavs.shape))
        return self.conv(wavs[:, None]).relu().mean(-1)


@pytest.fixture
def corpus(tmp_path, make_voice):
    """Five files: two lengths, and one of another rate in stereo."""
    files = {}
    for number, seconds in enumerate((0.5, 0.7, 0.5, 0.7)):
        files[f"u{number}"] = tmp_path / f"u{number}.wav"
        wav = make_voice(number, 0, seconds)
        soundfile.write(files[f"u{number}"], wav, 16000)
    files["stereo"] = tmp_path / "stereo.flac"
    wav = make_voice(7, 0, 0.6)
    soundfile.write(files["stereo"], np.stack([wav, wav], 1), 8000)
    return files


def alone(encoder, path):
    wav, rate = soundfile.read(path, dtype="float32")
    assert rate == 16000
    with torch.no_grad():
        return encoder(torch.from_numpy(wav)[None])[0].numpy()


def test_each_embedding_is_that_of_the_utterance_alone(corpus, device):
    encoder = Toy().to(device)
    found = embed_files(encoder, corpus, device=device, progress=False)
    assert found.ids == list(corpus)
    assert found.matrix.dtype == np.float32
    assert sorted(encoder.rows) == [(1, 19200), (2, 8000), (2, 11200)]
    encoder = encoder.cpu()
    for name in ("u0", "u1", "u2", "u3"):
        row = found.matrix[found.row_of[name]]
        np.testing.assert_allclose(row, alone(encoder, corpus[name]), atol=1e-5)
    assert found.seconds["u1"] == pytest.approx(0.7)
    assert found.seconds["stereo"] == pytest.approx(1.2)


def test_order_does_not_matter_and_runs_are_identical(corpus):
    one = embed_files(Toy(), corpus, progress=False)
    two = embed_files(Toy(), dict(reversed(corpus.items())), progress=False)
    assert two.ids == one.ids[::-1]
    np.testing.assert_array_equal(one.matrix, two.matrix[::-1])


def test_batches_keep_to_their_size(corpus):
    encoder = Toy()
    embed_files(encoder, corpus, batch_seconds=0.6, progress=False)
    assert all(rows == 1 for rows, _ in encoder.rows)


def test_train_mode_comes_back(corpus):
    encoder = Toy().train()
    embed_files(encoder, corpus, progress=False)
    assert encoder.training


def test_crops_are_averaged(corpus):
    encoder = Toy()
    found = embed_files(encoder, corpus, crops=3, crop_seconds=0.3, progress=False)
    wav, _ = soundfile.read(corpus["u1"], dtype="float32")
    pieces = np.stack([wav[s : s + 4800] for s in (0, 3200, 6400)])
    with torch.no_grad():
        expected = encoder(torch.from_numpy(pieces)).mean(0)
    np.testing.assert_allclose(found.matrix[1], expected, atol=1e-5)
    whole = embed_files(encoder, corpus, crops=3, crop_seconds=9.0, progress=False)
    plain = embed_files(encoder, corpus, progress=False)
    np.testing.assert_array_equal(whole.matrix, plain.matrix)
    with pytest.raises(UserError, match="crops"):
        embed_files(encoder, corpus, crops=-1)


def test_crops_have_four_seconds_unless_told(tmp_path, make_voice):
    files = {"long": tmp_path / "long.wav"}
    soundfile.write(files["long"], make_voice(1, 1, 4.5), 16000)
    encoder = Toy()
    found = embed_files(encoder, files, crops=2, progress=False)
    assert encoder.rows == [(2, 64000)] and found.seconds["long"] == 4.5


def test_bf16_is_close(corpus):
    plain = embed_files(Toy(), corpus, progress=False).matrix
    half = embed_files(Toy(), corpus, precision="bf16", progress=False).matrix
    assert half.dtype == np.float32
    assert 0 < np.abs(half - plain).max() < 0.02 * np.abs(plain).max()


def test_manifests_are_taken(tiny_corpus, tmp_path):
    prepared = prepare("folder", tiny_corpus, tmp_path / "data")
    manifest = prepared.manifest("train")
    found = embed_files(Toy(), manifest, progress=False)
    assert found.ids == [u.id for u in manifest]


def test_broken_audio_is_named_after_the_rest_is_done(corpus, tmp_path):
    corpus["gone"] = tmp_path / "gone.wav"
    corpus["text"] = tmp_path / "text.wav"
    corpus["text"].write_text("this is no audio")
    corpus["empty"] = tmp_path / "empty.wav"
    soundfile.write(corpus["empty"], np.zeros(0), 16000)
    corpus["cut"] = tmp_path / "cut.flac"
    soundfile.write(corpus["cut"], np.random.default_rng(0).random(16000), 16000)
    content = corpus["cut"].read_bytes()
    corpus["cut"].write_bytes(content[: len(content) // 3])
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match="4 of 9 .*cut.*empty.*gone.*text") as told:
        embed_files(Toy(), corpus, cache=cache, progress=False)
    assert "--skip-bad" in str(told.value) and "no such audio file" in str(told.value)
    encoder = Toy()
    found = embed_files(encoder, corpus, cache=cache, skip_bad=True, progress=False)
    assert [*found.skipped] == ["cut", "empty", "gone", "text"]
    assert found.ids == ["u0", "u1", "u2", "u3", "stereo"]
    assert not encoder.rows  # all of the good ones were kept
    with pytest.raises(UserError, match="1 of 1 audio files are unusable"):
        embed_files(Toy(), {"gone": corpus["gone"]}, skip_bad=True, progress=False)


def test_broken_models_are_told(corpus):
    with pytest.raises(UserError, match="5 of 5 embeddings are NaN .*u0"):
        embed_files(lambda wavs: wavs[:, :3] / 0, corpus, progress=False)


def test_cache_is_keyed_by_model_audio_and_options(corpus, tmp_path, make_voice):
    cache = tmp_path / "cache"
    first = embed_files(Toy(), corpus, cache=cache, progress=False)
    encoder = Toy()
    again = embed_files(encoder, corpus, cache=cache, progress=False)
    np.testing.assert_array_equal(first.matrix, again.matrix)
    assert not encoder.rows
    other = Toy()
    with torch.no_grad():
        other.conv.bias.add_(1)
    assert fingerprint(other) != fingerprint(encoder)
    embed_files(other, corpus, cache=cache, progress=False)
    assert other.rows
    embed_files(encoder, corpus, cache=cache, precision="bf16", progress=False)
    assert len(encoder.rows) == 3
    encoder.rows.clear()
    before = audio_key(corpus["u0"])
    soundfile.write(corpus["u0"], make_voice(30, 0, 0.5), 16000)
    os.utime(corpus["u0"], ns=(1, 1))
    assert audio_key(corpus["u0"]) != before
    changed = embed_files(encoder, corpus, cache=cache, progress=False)
    assert encoder.rows == [(2, 8000)]  # its whole batch, as a fresh run makes it
    assert (changed.matrix[0] != first.matrix[0]).any()
    with pytest.raises(UserError, match="needs a torch.nn.Module"):
        embed_files(lambda wavs: wavs[:, :3], corpus, cache=cache)


def test_damaged_parts_are_made_again(corpus, tmp_path):
    cache = tmp_path / "cache"
    first = embed_files(Toy(), corpus, cache=cache, progress=False)
    (part,) = cache.glob("*/part-*.npz")
    part.write_bytes(part.read_bytes()[:100])
    again = embed_files(Toy(), corpus, cache=cache, progress=False)
    np.testing.assert_array_equal(first.matrix, again.matrix)
    part.unlink()
    (part,) = cache.glob("*/part-*.npz")
    with np.load(part) as file:
        arrays = dict(file)
    arrays["seconds"] = arrays["seconds"][:-1]
    np.savez(part, **arrays)  # its columns do not belong together
    again = embed_files(Toy(), corpus, cache=cache, progress=False)
    np.testing.assert_array_equal(first.matrix, again.matrix)
    kept = EmbeddingCache(cache, fingerprint(Toy()), "whole")
    assert all(audio_key(path) in kept for path in corpus.values())


def test_caches_of_older_versions_are_passed_over(corpus, tmp_path):
    old = tmp_path / "cache" / "0123"
    old.mkdir(parents=True)
    (old / "about.json").write_text('{"model": "0123456789abcdef", "options": ""}')
    with pytest.warns(UserWarning, match="0123 holds embeddings of an older version"):
        first = embed_files(Toy(), corpus, cache=tmp_path / "cache", progress=False)
    again = embed_files(Toy(), corpus, cache=tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(first.matrix, again.matrix)


def test_what_is_known_of_the_audio_comes_back_from_the_cache(corpus, tmp_path):
    soundfile.write(corpus["u0"], 1e-3 * np.ones(9600).cumsum() % 1e-3, 16000)
    cache = tmp_path / "cache"
    first = embed_files(Toy(), corpus, cache=cache, progress=False)
    encoder = Toy()
    again = embed_files(encoder, corpus, cache=cache, progress=False)
    assert not encoder.rows
    assert again.notes == first.notes and again.seconds == first.seconds
    assert first.fingerprint == fingerprint(Toy()) == again.fingerprint


def test_a_batch_with_unusable_audio_is_not_made_twice(corpus, tmp_path):
    corpus["silent"] = tmp_path / "silent.wav"
    soundfile.write(corpus["silent"], np.zeros(8000), 16000)  # as long as u0 and u2
    options = {"cache": tmp_path / "cache", "skip_bad": True, "progress": False}
    first = embed_files(Toy(), corpus, **options)
    encoder = Toy()
    again = embed_files(encoder, corpus, **options)
    assert not encoder.rows and "is silent" in again.skipped["silent"]
    np.testing.assert_array_equal(first.matrix, again.matrix)


def test_lengths_that_headers_tell_wrongly(corpus, tmp_path, monkeypatch):
    """Files are batched by their headers; the audio itself is what is embedded."""
    plain = embed_files(Toy(), corpus, progress=False)
    monkeypatch.setattr(
        embed, "audio_info", lambda path: AudioInfo(8000, 16000, 1, [], None, 0)
    )
    encoder = Toy()
    found = embed_files(encoder, corpus, progress=False)
    np.testing.assert_allclose(found.matrix, plain.matrix, atol=1e-6)
    assert sorted(encoder.rows) == [(1, 19200), (2, 8000), (2, 11200)]
    assert found.seconds == plain.seconds


def test_longest_first_and_a_bar_when_there_is_work(corpus, tmp_path, monkeypatch):
    shown = []

    def bar(**settings):
        shown.append((settings["total"], settings["shown"]))
        return progress_bar(**settings)

    monkeypatch.setattr(embed, "progress_bar", bar)
    encoder = Toy()
    embed_files(encoder, corpus, cache=tmp_path / "cache")
    assert [samples for _, samples in encoder.rows] == [19200, 11200, 8000]
    embed_files(Toy(), corpus, cache=tmp_path / "cache")  # nothing to do
    embed_files(Toy(), corpus, progress=False)
    assert shown == [(5, True), (0, False), (5, False)]


@pytest.mark.parametrize(
    "settings", [{"crop_seconds": 0}, {"batch_seconds": 0}, {"crops": -1}]
)
def test_wrong_settings_are_told(corpus, settings):
    with pytest.raises(UserError, match="crops must be >= 0"):
        embed_files(Toy(), corpus, **settings)
    with pytest.raises(UserError, match="no audio files"):
        embed_files(Toy(), {})


def test_rate_and_similarity_are_the_encoder_s(corpus):
    encoder = Toy()
    encoder.sample_rate = 8000
    found = embed_files(encoder, corpus, similarity="poincare", progress=False)
    assert sorted(encoder.rows) == [(1, 9600), (2, 4000), (2, 5600)]
    assert found.similarity["name"] == "poincare"
    assert found.seconds["stereo"] == pytest.approx(1.2)


def test_the_fingerprint_is_the_encoder_s_with_its_similarity(corpus):
    encoder = SpeakerEncoder(lambda wavs: wavs[:, None], lambda feats, _: feats, Toy())
    encoder.embedding_model.forward = lambda feats: feats[:, 0, :3]
    ball = PoincareSimilarity(3.0)
    found = embed_files(encoder, corpus, similarity=ball, progress=False)
    assert found.fingerprint == encoder.fingerprint(ball) != encoder.fingerprint()
    assert found.similarity == ball.settings()
    given = embed_files(encoder, corpus, model="2-given", progress=False)
    assert given.fingerprint == "2-given" and given.similarity is None


SLOW = """
import time
import torch

calls = []
seconds = 0.0

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv1d(1, 16, 400, stride=160)

    def forward(self, wavs):
        calls.append(len(wavs))
        time.sleep(seconds)
        return self.conv(wavs[:, None]).tanh().mean(-1)
"""
SCRIPT = """
import sys
from sb_margins.verification import embed
import slow_encoder
slow_encoder.seconds = 0.1
embed.FLUSH_SECONDS = 0.0
files = {f"u{i}": f"{sys.argv[1]}/u{i}.wav" for i in range(40)}
embed.embed_files(slow_encoder.Slow(), files, cache=sys.argv[2], batch_seconds=1)
"""


def test_killed_and_continued_gives_the_same_file(tmp_path, make_voice, monkeypatch):
    for number in range(40):  # pairs of equal length share batches
        wav = make_voice(number, 0, 0.3 + 0.01 * (number // 2))
        soundfile.write(tmp_path / f"u{number}.wav", wav, 16000)
    files = {f"u{i}": tmp_path / f"u{i}.wav" for i in range(40)}
    (tmp_path / "slow_encoder.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    import slow_encoder

    def run(cache, out):
        slow_encoder.calls.clear()
        found = embed_files(
            slow_encoder.Slow(),
            files,
            cache=tmp_path / cache,
            batch_seconds=1,
            progress=False,
        )
        found.save(tmp_path / out)
        return len(slow_encoder.calls)

    assert run("a", "straight.npz") == 20
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(tmp_path / "b")]
    process = subprocess.Popen(command, env=environment)
    until = time.monotonic() + 60
    while len(list((tmp_path / "b").glob("*/part-*.npz"))) < 8:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < run("b", "killed.npz") <= 16  # the batches that were left
    straight, killed = (tmp_path / f"{n}.npz" for n in ("straight", "killed"))
    assert straight.read_bytes() == killed.read_bytes()
