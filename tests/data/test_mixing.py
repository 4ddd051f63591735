"""Old speakers beside new ones: nobody twice, nobody trained on and tested."""

import shutil

import pytest

from sb_margins.data import prepare
from sb_margins.data.mixing import mixed, old_speakers
from sb_margins.errors import UserError


@pytest.fixture(scope="module")
def own(tiny_corpus, tmp_path_factory):
    return prepare("folder", tiny_corpus, tmp_path_factory.mktemp("own"), verbose=False)


def renamed(tiny_corpus, folder, names):
    for old, new in names.items():
        shutil.copytree(tiny_corpus / old, folder / new)
    return folder


def test_speakers_of_one_name_are_left_out_whatever_their_split(
    own, tiny_corpus, tmp_path
):
    names = {f"spk{n}": f"spk{n}" if n < 4 else f"old{n}" for n in range(8)}
    old = old_speakers(renamed(tiny_corpus, tmp_path / "old", names), tmp_path)
    assert old.folder == tmp_path / "old_speakers"
    manifest, remarks = mixed(own, old)
    trained = {u.spk_id for u in manifest}
    mine = set(own.manifest("train").speakers)
    expected = {s for s in old.manifest("train").speakers if s.startswith("old")}
    assert trained == mine | expected and expected
    left = len(old.manifest("train").speakers) - len(expected)
    assert (f"{left} old speakers are left out" in " ".join(remarks)) == bool(left)
    assert all(manifest.path(u).is_file() for u in manifest)
    again = old_speakers(old.folder, tmp_path / "not used")
    assert again.folder == old.folder and not (tmp_path / "not used").exists()


def test_a_shared_file_is_a_shared_speaker(own, tiny_corpus, tmp_path):
    table = ["utt_id,spk_id,path"]
    for path in sorted(tiny_corpus.rglob("*.wav")):
        name = path.relative_to(tiny_corpus).as_posix()
        table.append(f"{name},other{name[3]},{path}")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "manifest.csv").write_text("\n".join(table) + "\n")
    old = old_speakers(tmp_path / "old", tmp_path)
    with pytest.raises(UserError, match="all 4 training speakers of .* by name or"):
        mixed(own, old)


def test_folders_that_are_no_use(tmp_path, tiny_corpus):
    with pytest.raises(UserError, match="old_speakers: no such folder"):
        old_speakers(tmp_path / "nowhere", tmp_path)
    save = tmp_path / "evaluation"
    prepare("folder", tiny_corpus, save, verbose=False, evaluation_only=True)
    with pytest.raises(UserError, match="has no training speakers"):
        old_speakers(save, tmp_path)
