"""The demo corpus: synthetic, distinct, reproducible, resumable."""

import hashlib
import shutil
import sys
from pathlib import Path

import pytest
import soundfile

from sb_margins.cli import main
from sb_margins.data import prepare
from sb_margins.data.preparation import corpus_named
from sb_margins.data.synthetic.voices import SENTENCES, make_sayings, make_speakers
from sb_margins.errors import UserError
from sb_margins.select import hparams_dir

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


def test_same_bytes_after_an_interruption(made, tmp_path):
    _, prepared = made
    before = hashes(prepared.data_root)
    again = tmp_path / "a" / prepared.data_root.name
    shutil.copytree(prepared.data_root, again)
    # as killed in the middle of the second batch
    (again / "made.txt").rename(again / "making.txt")
    (again / "batches").mkdir()
    (again / "batches" / "0").touch()
    for path in [*again.rglob("syn-01?-*.flac"), again / "splits.csv"]:
        path.unlink()
    (again / "audio" / "syn-011" / "syn-011-00.99.part").touch()
    quiet(tmp_path / "a", tmp_path / "q")
    assert hashes(again) == before


def test_other_sizes_and_voices_lie_side_by_side(made):
    folder, prepared = made
    save = prepared.folder.parent / "other"
    other = quiet(folder, save, voice_seed=2, utterances=2)
    assert other.data_root.name == "v1-12x2-seed2"
    assert prepared.data_root.name == "v1-12x3-seed1986"
    assert hashes(other.data_root) != hashes(prepared.data_root)
    same = quiet(folder, save, seed=5)
    assert same.data_root == prepared.data_root


def test_recordings_of_a_user_are_left_alone(tiny_corpus, made, tmp_path, capsys):
    """`train hparams/demo.yaml --data_folder mine` refuses, and writes nothing."""
    mine = tmp_path / "mine"
    shutil.copytree(tiny_corpus, mine)
    before = hashes(mine)
    yaml = str(hparams_dir() / "demo.yaml")
    flags = [f"--data_folder={mine}", f"--output_folder={tmp_path / 'out'}"]
    assert main(["train", yaml, *flags]) == 2
    message = capsys.readouterr().err
    assert "mine holds other files (spk0, spk1, spk2, ... (and 5 more))" in message
    assert "--corpus=folder" in message
    assert hashes(mine) == before
    # one that an older version wrote into
    shutil.copytree(made[1].data_root, mine / made[1].data_root.name)
    with pytest.raises(UserError, match="holds other files"):
        quiet(mine, tmp_path / "p")
    # a corpus of that name which is not ours
    foreign = tmp_path / "b" / made[1].data_root.name
    foreign.mkdir(parents=True)
    (foreign / "thesis.doc").touch()
    with pytest.raises(UserError, match="thesis.doc"):
        quiet(tmp_path / "b", tmp_path / "p")


def test_a_seed_gives_the_same_voices_in_every_version():
    speakers = make_speakers(140, seed=1986)
    text = repr(speakers)
    text += repr(
        [
            (saying.text, saying.pitch, saying.pitch_range, saying.rate)
            for speaker in speakers
            for saying in make_sayings(speaker, 12, seed=1986)
        ]
    )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "6bff18a32bd013e1"


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
    for size in ({"speakers": 11}, {"utterances": 1}, {"utterances": 21}):
        with pytest.raises(UserError, match="12 speakers or more"):
            quiet(tmp_path, tmp_path / "p", **size)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r'pip install "sb-margins\[demo\]"'):
        quiet(tmp_path / "x", tmp_path / "p")


def test_default_folder_is_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert corpus_named("demo").default_folder == tmp_path / "sb_margins" / "demo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert corpus_named("demo").default_folder == (
        tmp_path / ".cache" / "sb_margins" / "demo"
    )
