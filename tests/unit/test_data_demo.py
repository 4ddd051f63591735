"""The demo corpus: synthetic, distinct, reproducible, resumable."""

import hashlib
import sys
from pathlib import Path

import pytest
import soundfile

from sb_margins.data import prepare
from sb_margins.data.demo import default_folder
from sb_margins.data.synthetic.sentences import SENTENCES
from sb_margins.data.synthetic.speakers import make_sayings, make_speakers
from sb_margins.errors import UserError

SIZE = {"speakers": 12, "utterances": 3}


def quiet(folder, save, **options):
    return prepare("demo", folder, save, verbose=False, **{**SIZE, **options})


def hashes(folder: Path):
    return {
        p.relative_to(folder).as_posix(): hashlib.md5(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    pytest.importorskip("espeakng_loader", reason="needs the [demo] extra")
    folder = tmp_path_factory.mktemp("demo")
    return folder / "audio", quiet(folder / "audio", folder / "data")


def test_layout(made):
    folder, prepared = made
    assert prepared.splits == ["train", "dev", "test"]
    assert [len(prepared.manifest(s).speakers) for s in prepared.splits] == [4, 4, 4]
    assert "SYNTHETIC" in (prepared.data_root / "README.txt").read_text()
    assert "synthetic" in " ".join(prepared.info["notes"])
    one = prepared.manifest("train")[0]
    assert {"gender", "language", "variant", "tract", "text"} <= set(one.meta)
    info = soundfile.info(prepared.manifest("train").path(one))
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    assert not list(prepared.data_root.rglob("*.part"))


def test_same_bytes_again_and_after_an_interruption(made, tmp_path):
    _, prepared = made
    before = hashes(prepared.data_root)
    again = quiet(tmp_path / "a", tmp_path / "p").data_root
    assert hashes(again) == before
    # as killed in the middle of the second batch
    (again / "made.txt").rename(again / "making.txt")
    (again / "batches").mkdir()
    (again / "batches" / "0").touch()
    for path in [*again.rglob("syn-011*.flac"), again / "splits.csv"]:
        path.unlink()
    quiet(tmp_path / "a", tmp_path / "q")
    assert hashes(again) == before


def test_other_sizes_and_seeds_live_side_by_side(made):
    folder, prepared = made
    save = prepared.folder.parent / "other"
    other = quiet(folder, save, voice_seed=2)
    assert other.data_root != prepared.data_root
    same = quiet(folder, save, seed=5)
    assert same.data_root == prepared.data_root


def test_full_size_has_no_two_alike():
    speakers = make_speakers(140, seed=1986)
    fixed = {(s.voice, s.tract, s.pitch, s.pitch_range, s.rate) for s in speakers}
    assert len(fixed) == 140 == len({s.name for s in speakers})
    assert {s.gender for s in speakers} == {"m", "f"}
    for speaker in speakers:
        sayings = make_sayings(speaker, 12, seed=1986)
        assert len({s.text for s in sayings}) == 12
        assert len({s.pitch for s in sayings}) > 2
    for texts in SENTENCES.values():
        assert len(set(texts)) == len(texts) >= 20


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="12 speakers or more"):
        quiet(tmp_path, tmp_path / "p", speakers=5)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r'pip install "sb-margins\[demo\]"'):
        quiet(tmp_path / "x", tmp_path / "p")


def test_default_folder_is_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder(1, {}) == tmp_path / "sb_margins" / "demo"
