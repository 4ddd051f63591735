"""Crops: what is cut depends on seed, epoch and position only."""

import numpy as np
import pytest
import soundfile
import torch

from sb_margins.data.manifest import Manifest, Utterance
from sb_margins.errors import UserError
from sb_margins.training import crops as module
from sb_margins.training.crops import (
    CropDataset,
    CropSampler,
    SpeakerSampler,
    check_audio,
    collate,
)


@pytest.fixture
def manifest(tmp_path, make_voice):
    rows = []
    for k, (seconds, rate) in enumerate([(2.0, 16000), (0.5, 16000), (2.0, 8000)]):
        name = f"{k}.wav"
        soundfile.write(tmp_path / name, make_voice(k, 0, seconds, rate), rate)
        rows.append(Utterance(name, name, seconds, f"s{k}", rate, {}))
    return Manifest(rows, tmp_path)


CLASSES = {"s0": 0, "s1": 1, "s2": 2}


def crops(manifest, **options):
    return CropDataset(manifest, CLASSES, seconds=1.0, seed=7, **options)


@pytest.mark.parametrize("preload", [True, False])
def test_crops_depend_on_seed_epoch_and_place_only(manifest, preload):
    one, two = crops(manifest, preload=preload), crops(manifest, preload=preload)
    two[1, 2], two[3, 0]  # what was read before does not matter
    for key in [(1, 0), (1, 1), (1, 2), (2, 5)]:
        np.testing.assert_array_equal(one[key][1], two[key][1])
        assert one[key][1].shape == (16000,)
        assert np.isfinite(one[key][1]).all()
    assert not np.array_equal(one[1, 0][1], one[2, 0][1])
    assert not np.array_equal(one[1, 0][1], one[1, 3][1])


def test_short_speech_is_repeated_not_padded(manifest):
    wav = crops(manifest)[1, 1][1]
    np.testing.assert_array_equal(wav[:8000], wav[8000:])


def test_speeds_make_new_speakers(manifest):
    dataset = crops(manifest, speeds=[1.0, 0.9, 1.1])
    seen = {}
    for epoch in range(40):
        _, wav, label = dataset[epoch, 0]
        assert wav.shape == (16000,)
        seen.setdefault(label, []).append(np.abs(np.fft.rfft(wav)).argmax())
    assert sorted(seen) == [0, 3, 6]
    # Slower speech is lower in pitch, faster speech higher.
    slow, plain, fast = (np.median(seen[k]) for k in (3, 0, 6))
    assert slow < plain < fast


@pytest.fixture
def ramp(tmp_path):
    """Two seconds in which each sample tells its own position."""
    wav = np.arange(32000, dtype=np.int16)
    soundfile.write(tmp_path / "ramp.wav", wav, 16000, subtype="PCM_16")
    return Manifest([Utterance("r", "ramp.wav", 2.0, "s", 16000, {})], tmp_path)


@pytest.mark.parametrize("preload", [True, False])
def test_a_crop_is_a_run_of_samples_at_a_uniform_place(ramp, preload):
    dataset = CropDataset(ramp, {"s": 0}, seconds=1.5, seed=3, preload=preload)
    starts = []
    for epoch in range(60):
        name, wav, label = dataset[epoch, 0]
        positions = np.round(wav * 32768).astype(int)
        assert (name, label) == ("r", 0)
        np.testing.assert_array_equal(np.diff(positions), 1)
        starts.append(int(positions[0]))
    assert 0 <= min(starts) < 800 and 7200 < max(starts) <= 8000
    assert 3000 < np.mean(starts) < 5000


def test_a_crop_as_long_as_the_audio_is_all_of_it(ramp):
    dataset = CropDataset(ramp, {"s": 0}, seconds=2.0, seed=3)
    positions = np.round(dataset[5, 0][1] * 32768).astype(int)
    np.testing.assert_array_equal(positions, np.arange(32000))


def test_every_place_is_drawn_and_none_beyond(ramp):
    dataset = CropDataset(ramp, {"s": 0}, seconds=31999 / 16000, seed=3)
    crops = [np.round(dataset[epoch, 0][1] * 32768) for epoch in range(30)]
    assert {int(crop[0]) for crop in crops} == {0, 1}
    assert all((np.diff(crop) == 1).all() for crop in crops)


def test_longer_crops_repeat_the_audio_from_its_start(ramp):
    for preload in (True, False):
        dataset = CropDataset(ramp, {"s": 0}, seconds=5.0, seed=3, preload=preload)
        positions = np.round(dataset[5, 0][1] * 32768).astype(int)
        np.testing.assert_array_equal(positions, np.arange(80000) % 32000)


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_another_speed_reads_as_much_as_it_squeezes(ramp, speed):
    dataset = CropDataset(ramp, {"s": 0}, seconds=1.0, seed=3, speeds=[speed])
    wav = dataset[1, 0][1] * 32768
    assert wav.shape == (16000,)
    slope = (wav[15000] - wav[1000]) / 14000  # samples of the file in one of the crop
    assert slope == pytest.approx(speed, rel=0.01)


def test_a_bar_is_shown_on_a_terminal_when_it_is_wanted(manifest, monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "progress_bar", lambda rows, *_, shown, **__: seen.append(shown) or rows
    )
    crops(manifest)
    crops(manifest, progress=True)
    assert seen == [False, True]


def test_audio_is_kept_in_memory_below_a_gigabyte(manifest, monkeypatch):
    total = 4 * 16000 * 4.5
    for limit, kept in ((total + 1, True), (total, False)):
        monkeypatch.setattr(module, "PRELOAD_BYTES", limit)
        assert (crops(manifest).audio is not None) is kept
    assert crops(manifest, preload=True).audio is not None
    monkeypatch.undo()
    assert module.PRELOAD_BYTES == 2**30
    assert crops(manifest, preload=False).audio is None


def test_sampler_covers_every_epoch_in_its_own_order():
    sampler = CropSampler(5, repeats=2, seed=1)
    assert {epoch for epoch, _ in sampler} == {0}
    orders = []
    for epoch in (1, 2):
        sampler.set_epoch(epoch)
        order = [position for _, position in sampler]
        assert {e for e, _ in sampler} == {epoch}
        assert sorted(order) == list(range(10)) and len(sampler) == 10
        orders.append(order)
    assert orders[0] != orders[1] and orders[0] != list(range(10))
    again = CropSampler(5, repeats=2, seed=2)
    again.set_epoch(2)
    assert [position for _, position in again] != orders[1]


def test_positions_beyond_the_manifest_are_further_crops(manifest):
    dataset = crops(manifest)
    assert len(dataset) == 3
    names = [dataset[1, position][0] for position in range(6)]
    assert names == ["0.wav", "1.wav", "2.wav"] * 2


def test_collate_and_batch(manifest):
    dataset = crops(manifest)
    batch = collate([dataset[1, 0], dataset[1, 1]]).to("cpu")
    assert batch.wavs.shape == (2, 16000) and batch.wavs.dtype == torch.float32
    assert batch.labels.tolist() == [0, 1] and batch.labels.dtype == torch.int64
    assert batch.ids == ["0.wav", "1.wav"]


def test_audio_that_is_gone_or_short_is_noticed_before_training(manifest, monkeypatch):
    assert check_audio(manifest, 0.4) == []
    (remark,) = check_audio(manifest, 1.0)
    assert remark.startswith("33% of the utterances are shorter than a crop")
    assert check_audio(manifest, 2.0)[0].startswith("33%")  # as long as a crop is fine
    with pytest.raises(UserError, match=r"longest utterance has 2.0 s\): lower"):
        check_audio(manifest, 2.1)
    (manifest.root / "1.wav").unlink()
    with pytest.raises(UserError, match="1.wav is gone"):
        check_audio(manifest, 1.0)
    monkeypatch.setattr(module, "LOOK", 1)  # a large corpus is looked at in places
    check_audio(manifest, 1.0)


def rows_of(sampler, speakers, rank=0):
    """What a process gets in epoch 2: utterances, and their speakers, in rows."""
    sampler.set_epoch(2)
    order = list(sampler)[rank :: sampler.processes]
    assert {epoch for epoch, _ in order} <= {2}
    place = np.array([position for _, position in order])
    utterances = (place % len(speakers)).reshape(-1, sampler.each)
    return place, utterances, np.asarray(speakers)[utterances]


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("each", [2, 4])
def test_a_speaker_has_several_utterances_in_a_row(each, repeats):
    counts = np.array([9, 1, 3, 6, 6, 6, 6, 6])
    speakers = np.random.default_rng(0).permutation(np.repeat(np.arange(8), counts))
    sampler = SpeakerSampler(speakers, each=each, repeats=repeats, seed=5)
    place, utterances, rows = rows_of(sampler, speakers)
    assert len(place) == len(sampler) == len(set(place)), "every crop is another one"
    assert (rows == rows[:, :1]).all()
    wanted = -(-counts * repeats // each)
    np.testing.assert_array_equal(np.bincount(rows[:, 0]), wanted)
    assert set(utterances.ravel()) == set(range(len(speakers))), "all are heard"
    many = counts[rows[:, 0]] >= 2 * each  # few rows have an utterance twice
    distinct = [len(set(row)) == each for row in utterances[many]]
    assert np.mean(distinct or [1]) > 0.5
    sampler.set_epoch(2)
    again = [position for _, position in sampler]
    sampler.set_epoch(3)
    assert again == list(place) != [position for _, position in sampler]


def test_speakers_are_spread_over_the_epoch():
    speakers = np.repeat(np.arange(40), 20)
    sampler = SpeakerSampler(speakers, each=2, repeats=1, seed=5)
    *_, rows = rows_of(sampler, speakers)
    batches = rows[:, 0].reshape(-1, 20)
    assert np.mean([len(set(batch)) for batch in batches]) > 18  # of 20


def test_processes_get_whole_rows():
    speakers = np.repeat(np.arange(7), 5)
    sampler = SpeakerSampler(speakers, each=2, repeats=1, seed=5, processes=2)
    assert len(sampler) == 2 * 2 * (7 * 3 // 2)
    for rank in (0, 1):
        *_, rows = rows_of(sampler, speakers, rank)
        assert (rows == rows[:, :1]).all() and len(rows) == 10
