"""What every corpus uses: finding files, IDs, genders, folders."""

import pytest

from sb_margins.data.corpus import (
    Corpus,
    Listing,
    existing_folder,
    genders,
    is_audio,
    path_prefix,
    plain_id,
    refuse_other_files,
    walk,
)
from sb_margins.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_walk(tmp_path):
    touch(tmp_path, "b/2.wav", "b/1.FLAC", "b/c/3.mp3", "a.ogg", "z.txt", "b/._1.wav")
    touch(tmp_path, ".hidden/x.wav")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "e").symlink_to(tmp_path / "b" / "c")
    assert list(walk(tmp_path)) == ["a.ogg", "b/1.FLAC", "b/2.wav", "b/c/3.mp3"]
    assert is_audio("a.b.WAV") and not is_audio("a.txt") and not is_audio("wav")


def test_ids_have_no_white_space_and_stay_distinct():
    assert plain_id("Zoë/take_1.wav") == "Zoë/take_1.wav"
    names = ["a b", "a%20b", "a\tb", "a\u3000b", "ab"]
    ids = [plain_id(name) for name in names]
    assert ids == ["a%20b", "a%2520b", "a%09b", "a%E3%80%80b", "ab"]


def test_genders(tmp_path):
    path = tmp_path / "SPEAKERS.TXT"
    assert genders(path, r"\|") == {}
    path.write_text(";1 | M | a\n14 | F | train | M\n15|m |x\n16 | ? | f.\n")
    assert genders(path, r"\|") == {"14": "f", "15": "m"}


def test_options_are_the_keywords_of_collect():
    def collect(folder, *, seed, lists="O", dev=3):
        return Listing(folder, [])

    assert Corpus("mine", "", collect).options == {"lists": "O", "dev": 3}


def test_a_file_is_no_data_folder(tmp_path, monkeypatch):
    touch(tmp_path, "voices/1.wav")
    monkeypatch.chdir(tmp_path)
    assert existing_folder("voices") == tmp_path / "voices"
    with pytest.raises(UserError, match="is a file"):
        existing_folder("voices/1.wav")
    with pytest.raises(UserError, match="'qqq' is not in .*--data-folder"):
        existing_folder("voices/qqq/deeper")
    assert path_prefix(tmp_path / "a" / "b", tmp_path) == "a/b/"
    assert path_prefix(tmp_path, tmp_path) == ""


def test_other_files(tmp_path):
    refuse_other_files(tmp_path / "none", "demo", "v1")
    touch(tmp_path, "v1/x", ".DS_Store")
    refuse_other_files(tmp_path, "demo", "v1")
    touch(tmp_path, "v12/x")
    with pytest.raises(UserError, match=r"other files \(v12\).*--corpus=folder"):
        refuse_other_files(tmp_path, "demo", "v1")
