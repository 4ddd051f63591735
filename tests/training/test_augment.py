"""Augmentation: one part for each example, drawn by the seed of the step."""

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.augment.time_domain import DropChunk, DropFreq
from speechbrain.processing.signal_processing import reverberate

from sb_margins.errors import UserError
from sb_margins.training.augment import (
    AudioFiles,
    DropBands,
    DropChunks,
    MixedAugmenter,
    NoiseFiles,
    Reverb,
    build_augmenter,
)


def test_augmenter_keeps_the_batch_and_needs_what_it_names(tmp_path, make_voice):
    for name in ("noise", "rir"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a b.wav", make_voice(1, 1, 0.6), 16000)
    augment = build_augmenter(
        str(tmp_path / "save"),
        noise_folder=str(tmp_path / "noise"),
        rir_folder=str(tmp_path / "rir"),
        probability=1.0,
    )
    wavs = torch.from_numpy(np.stack([make_voice(k, 0, 1.0) for k in range(10)]))
    out, lengths = augment(wavs, torch.ones(10))
    assert out.shape == wavs.shape and torch.isfinite(out).all()
    assert lengths.shape == (10,)
    changed = [(out[k] - wavs[k]).abs().max() > 0 for k in range(10)]
    assert sum(changed) >= 7  # a silenced chunk may fall on silence
    once, again = (
        [torch.manual_seed(5), augment(wavs, torch.ones(10))[0]][1] for _ in range(2)
    )
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    with pytest.raises(UserError, match="no such noise folder"):
        build_augmenter("x", noise_folder=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio"):
        build_augmenter("x", rir_folder=str(tmp_path / "empty"))
    nothing = {"white_noise": False, "drop_freq": False, "drop_chunk": False}
    assert build_augmenter("x", **nothing) is None


@pytest.mark.parametrize("shape", [(6, 16000), (3, 1500), (4, 700)])
def test_drops_are_speechbrains_bit_for_bit(shape, branch):
    theirs = DropChunk(drop_length_low=1000, drop_length_high=2000, drop_count_high=5)
    bands = DropFreq(drop_freq_count_high=3)
    for seed in range(10):
        torch.manual_seed(seed)
        wavs = torch.randn(shape)
        state = torch.get_rng_state()
        expected = theirs(wavs, torch.ones(len(wavs))), bands(wavs), torch.rand(1)
        torch.set_rng_state(state)
        ours = DropChunks(1000, 2000, 5), DropBands(drop_freq_count_high=3)
        got = *(part(wavs) for part in ours), torch.rand(1)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.fixture
def files(tmp_path):
    """Four files: a ramp whose samples say where they are, over a different offset."""
    for k in range(4):
        ramp = (np.arange(8000 if k else 1000) + 8000 * k).astype(np.int16)
        soundfile.write(tmp_path / f"{k}.wav", ramp, 16000, subtype="PCM_16")
    return AudioFiles(tmp_path, "noise")


def test_pieces_of_noise_are_runs_of_samples_of_any_file(files):
    torch.manual_seed(0)
    pieces = files.draw(200, 2000)
    assert {number for number, *_ in pieces} == set(range(4))
    starts = [start for number, start, _ in pieces if number]
    assert 0 <= min(starts) < 300 and 5700 < max(starts) <= 6000
    for (number, start, _), wav in zip(pieces, files.read(pieces), strict=True):
        assert len(wav) == (2000 if number else 1000)
        samples = np.round(wav * 32768).astype(int)
        np.testing.assert_array_equal(samples - samples[0], np.arange(len(wav)))
        assert samples[0] == 8000 * number + start


def test_noise_of_files_is_mixed_at_its_level(files):
    part = NoiseFiles(files, snr_low=6.0, snr_high=6.0)
    wavs = torch.randn(5, 4000)
    part.pieces = part.draw(5, 4000, None)
    noise = torch.stack(
        [torch.from_numpy(np.resize(wav, 4000)) for wav in files.read(part.pieces)]
    )
    share = 1 / (10 ** (6 / 20) + 1)
    rms = wavs.square().mean(1, keepdim=True).sqrt()
    scaled = noise / noise.square().mean(1, keepdim=True).sqrt() * rms
    expected = (1 - share) * wavs + share * scaled
    torch.testing.assert_close(
        part(wavs, torch.ones(5)), expected, rtol=1e-4, atol=1e-4
    )


def test_reverb_is_speechbrains(tmp_path, make_voice):
    room = make_voice(1, 0, 0.3) * np.exp(-np.arange(4800) / 400)
    soundfile.write(tmp_path / "a.wav", room, 16000, subtype="FLOAT")
    part = Reverb(AudioFiles(tmp_path, "rir"))
    wavs = torch.randn(3, 8000)
    part.pieces = part.draw(3, 8000, None)
    room = torch.from_numpy(room.astype(np.float32))
    torch.testing.assert_close(part(wavs), reverberate(wavs, room))


def test_files_of_the_next_step_are_read_ahead(files, monkeypatch):
    parts = [NoiseFiles(files), Reverb(files), DropChunks(100, 200, 2)]
    augment = MixedAugmenter(parts, probability=0.9)
    wavs, begun = torch.randn(12, 3000), []
    ahead = AudioFiles.ahead
    monkeypatch.setattr(
        AudioFiles, "ahead", lambda *a: (begun.append(a[1]), ahead(*a))[1]
    )
    torch.manual_seed(5)
    expected, _ = augment(wavs, torch.ones(12))
    assert len(begun) == 2  # nothing was announced: read when needed
    begun.clear()
    parts[1].files = AudioFiles(files.paths[0].parent, "rir")  # each has its own
    torch.manual_seed(3)
    state = torch.get_rng_state()
    augment.read_ahead(5, 12, 3000)
    torch.testing.assert_close(torch.get_rng_state(), state)
    assert len(begun) == 2
    torch.manual_seed(5)
    got, _ = augment(wavs, torch.ones(12))
    assert len(begun) == 2  # all was there
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    augment.read_ahead(6, 12, 3000)  # announced, and then something else is wanted
    torch.manual_seed(5)
    got, _ = augment(wavs, torch.ones(12))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
