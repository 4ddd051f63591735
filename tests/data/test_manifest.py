"""Manifests of every form, and what is refused with its line."""

import json
import random

import pytest

from sb_margins.data.manifest import Manifest, Utterance, read_utt2spk
from sb_margins.errors import UserError


def read(folder, name, text, **options):
    (folder / name).write_text(text)
    return Manifest.read(folder / name, **options)


def test_columns_of_the_folder_corpus(tmp_path):
    text = "utt_id,spk_id,path,duration,room\nu0,s1,a/0.wav,99,r0\nu1,s0,a/1.wav,,\n"
    manifest = read(tmp_path, "mine.csv", text)
    assert list(manifest) == [
        Utterance("u0", "a/0.wav", 99.0, "s1", 0, {"room": "r0"}),
        Utterance("u1", "a/1.wav", 0.0, "s0", 0, {}),
    ]
    assert manifest.speakers == ["s0", "s1"]
    assert manifest.path(manifest[0]) == tmp_path / "a" / "0.wav"
    assert read(tmp_path, "mine.txt", text)[1].spk_id == "s0"  # by its header


def test_round_trip(tmp_path):
    one = Utterance("a b", "$x/a.wav", 1.25, "s", 8000, {"gender": "f"})
    Manifest([one], tmp_path).write(tmp_path / "train.csv")
    (tmp_path / "prepare.json").write_text(json.dumps({"data_root": "/corpus"}))
    manifest = Manifest.read(tmp_path / "train.csv")
    assert list(manifest) == [one]
    assert manifest.path(one).as_posix() == "/corpus/$x/a.wav"
    assert Manifest.read(tmp_path / "train.csv", tmp_path).root == tmp_path


SPEECHBRAIN = """\
ID,duration,wav,start,stop,spk_id
a--1,4.5,$data_folder/wav/a/1.wav,0,72000,a
b--1,2.0,/corpus/b/1.wav,0,32000,b
"""


def test_speechbrain_csv(tmp_path):
    manifest = read(tmp_path, "test.csv", SPEECHBRAIN, root="/vox")
    first, second = map(manifest.path, manifest)
    assert first.as_posix() == "/vox/wav/a/1.wav"
    assert second.as_posix() == "/corpus/b/1.wav"
    assert (manifest[0].duration, manifest[0].spk_id) == (4.5, "a")
    with pytest.raises(UserError, match="line 2: where is.*--data-folder"):
        Manifest.read(tmp_path / "test.csv")
    part = SPEECHBRAIN.replace(",0,32000", ",16000,48000")
    with pytest.raises(UserError, match="line 3: it starts at sample 16000"):
        read(tmp_path, "test.csv", part, root="/vox")
    # without a stop, it is somebody's metadata
    text = "ID,wav,spk_id,start\na,a.wav,s,16000\n"
    assert read(tmp_path, "x.csv", text)[0].meta == {"start": "16000"}


def test_speechbrain_json(tmp_path):
    entries = {
        "u0": {"wav": "{data_root}/0.wav", "length": 2.5, "spk_id": "s", "words": "a"},
        "u1": {"wav": {"file": "1.wav", "start": 0, "stop": 9}, "sample_rate": 8000},
    }
    text = json.dumps(entries)
    manifest = read(tmp_path, "m.json", text, root="/x")
    assert list(manifest) == [
        Utterance("u0", "0.wav", 2.5, "s", 0, {"words": "a"}),
        Utterance("u1", "1.wav", 0.0, "", 8000, {}),
    ]
    assert manifest.speakers == ["s"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON: .*line 1"),
        ("[" * 100_000, "is not JSON"),
        ('{"u": ' + "9" * 5000 + "}", "is not JSON"),
        ("[1]", "expected {ID"),
        ('{"u": 1}', "'u': expected"),
        ('{"u": {"spk_id": "s"}}', "'u': no 'wav'"),
        ('{"u": {"wav": 3}}', "'u': no 'wav'"),
        ('{"u": {"wav": {"file": "a", "start": 5}}}', "starts at sample 5"),
        ('{"u": {"wav": "a", "start": 5, "stop": 9}}', "starts at sample 5"),
        ('{"u": {"wav": "a", "duration": "long"}}', "'u': could not convert"),
    ],
)
def test_broken_json(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, "m.json", text)


def test_kaldi(tmp_path):
    scp = "u0 /corpus/a b.wav\n\nu1\tc.flac \n"
    assert read(tmp_path, "wav.scp", scp).speakers == []
    (tmp_path / "utt2spk").write_text("u0 s0\nu1 s1\nmore s1\n")
    for path in (tmp_path / "wav.scp", tmp_path):
        assert list(Manifest.read(path)) == [
            Utterance("u0", "/corpus/a b.wav", 0.0, "s0", 0),
            Utterance("u1", "c.flac", 0.0, "s1", 0),
        ]
    (tmp_path / "utt2spk").write_text("u0 s0\n")
    with pytest.raises(UserError, match="wav.scp, line 3: 'u1' is not in .*utt2spk"):
        Manifest.read(tmp_path)
    (tmp_path / "segments").write_text("u0-1 u0 0.0 1.5\n")
    with pytest.raises(UserError, match="segments: parts of files.*extract-segments"):
        Manifest.read(tmp_path)
    with pytest.raises(UserError, match="no manifest .*wav.scp"):
        Manifest.read(tmp_path.parent)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u1 sph2pipe -f wav a.sph |", "line 2: 'sph2pipe.*is a command.*wav-copy"),
        ("u1 rm -rf x|", "is a command"),
        ("u1", "line 2: expected 'utterance path', found 'u1'"),
        ("u1 raw_wav.3.ark:1024", "line 2: expected 'utterance path'"),
        ("u0 b.wav", "line 2: the ID 'u0' stands there twice"),
    ],
)
def test_kaldi_commands_and_archives_are_refused(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, "wav.scp", f"u0 a.wav\n{line}\n")


def test_lists_of_paths(tmp_path):
    manifest = read(tmp_path, "files.txt", "a/1.wav\n/b/my take.flac\n", root="/x")
    assert [u.id for u in manifest] == ["a/1.wav", "/b/my take.flac"]
    paths = [manifest.path(u).as_posix() for u in manifest]
    assert paths == ["/x/a/1.wav", "/b/my take.flac"] and manifest.speakers == []


def test_bad_tables_are_refused(tmp_path):
    path = tmp_path / "m.csv"
    with pytest.raises(UserError, match="no manifest"):
        Manifest.read(path)
    with pytest.raises(UserError, match="no column spk_id or speaker"):
        read(tmp_path, "m.csv", "ID,wav\n")
    head = "ID,duration,wav,spk_id,sample_rate\n"
    for rows, message in (
        ("a,x,a.wav,s,16000\n", "line 2: could not convert"),
        ("a,1.0,a.wav,s,16000\n" * 2, "line 3: the ID 'a' stands there twice"),
        ("a,1.0,a.wav,,16000\n", "line 2: no ID, speaker or path"),
    ):
        with pytest.raises(UserError, match=message):
            read(tmp_path, "m.csv", head + rows)


def test_speakers_of_utterances(tmp_path):
    path = tmp_path / "utt2spk"
    path.write_text("u0 s0\nu1 s1\n\nu0 s0\n")
    assert read_utt2spk(path) == {"u0": "s0", "u1": "s1"}
    table = tmp_path / "speakers.csv"
    table.write_text("utt_id,spk_id,path\nu 0,s 0,x\n")
    assert read_utt2spk(table) == {"u 0": "s 0"}
    for text, message in (
        ("u0 s0\nu1\n", "line 2: expected 'utterance speaker'"),
        ("u0 s0\nu0 s1\n", "line 2: 'u0' is of s1, and of s0 above"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_utt2spk(path)
    table.write_text("utt_id,spk_id\nu0,\n")
    with pytest.raises(UserError, match="line 2: expected"):
        read_utt2spk(table)


WHOLE = {
    "m.csv": SPEECHBRAIN,
    "m.json": '{"a": {"wav": {"file": "{r}/a", "start": 0}, "length": 1.5, "x": []}}',
    "wav.scp": "a /x/a.wav\nb c.wav\n",
    "files.txt": "a.wav\nb c.wav\n",
}
PIECES = '\0 nan 1e999 -1 " \r \n , { } null [[[[ | \u2028 \ufeff 0x1 .. true'.split(
    " "
)
PIECES += [" ", "\t", "9" * 5000]


@pytest.mark.parametrize("name", WHOLE)
def test_damage_of_any_kind_is_one_error(tmp_path, name):
    rng = random.Random(name)
    (tmp_path / "utt2spk").write_text("a s\nb t\n")
    for _ in range(150):
        text = WHOLE[name]
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text) + 1)
            cut = rng.choice([0, 0, 1, 5])
            text = text[:at] + rng.choice(["", *PIECES]) + text[at + cut :]
        try:
            read(tmp_path, name, text, root="/x").write(tmp_path / "out.csv")
        except UserError as error:
            assert name in str(error) or "utt2spk" in str(error)
