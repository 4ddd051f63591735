"""Where the audio of a list lies: manifests, corpora's folders, other suffixes."""

from __future__ import annotations

import pytest

from sb_margins.data.manifest import Manifest, Utterance
from sb_margins.errors import UserError
from sb_margins.verification.sources import locate, read_manifests


@pytest.fixture
def corpus(tmp_path):
    """Files as VoxCeleb, CN-Celeb and others keep them."""
    for name in ("wav/a/1.wav", "wav/a/2.flac", "eval/b.m4a", "c.wav", "data/d.mp3"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def test_files_are_found_below_the_usual_folders_with_any_suffix(corpus):
    names = ["a/1.wav", "a/2.wav", "b", "c.wav", "d", "a/3.wav", "e"]
    files, missing = locate(names, str(corpus), [])
    found = {name: path.relative_to(corpus).as_posix() for name, path in files.items()}
    assert found == {
        "a/1.wav": "wav/a/1.wav",
        "a/2.wav": "wav/a/2.flac",
        "b": "eval/b.m4a",
        "c.wav": "c.wav",
        "d": "data/d.mp3",
    }
    assert missing == ["a/3.wav", "e"]
    with pytest.raises(UserError, match="no such data folder"):
        locate(names, str(corpus / "nowhere"), [])


def test_manifests_come_first(corpus, tmp_path):
    path = corpus / "some.csv"
    Manifest([Utterance("a/1.wav", "c.wav", 1.0, "s", 16000)], corpus).write(path)
    manifests = read_manifests([str(path)], str(corpus))
    files, missing = locate(["a/1.wav", "b"], None, manifests)
    assert files == {"a/1.wav": corpus / "c.wav"} and missing == ["b"]
    files, missing = locate(["a/1.wav", "b"], str(corpus), manifests)
    assert files["a/1.wav"] == corpus / "c.wav" and not missing
