"""The public corpora, on generated trees of their real layouts."""

import shutil

import pytest
from corpus_trees import cnceleb, mini_librispeech, sitw, voxceleb, write

from sb_margins.data import prepare
from sb_margins.errors import UserError


def quiet(corpus, folder, save, **options):
    return prepare(corpus, folder, save, verbose=False, **options)


def speakers(prepared, split):
    return set(prepared.manifest(split).speakers)


@pytest.fixture(scope="module")
def vox(tmp_path_factory):
    return voxceleb(tmp_path_factory.mktemp("vox"))


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    root = mini_librispeech(tmp_path_factory.mktemp("mini_librispeech"))
    shutil.rmtree(root / "tree")
    return root


def test_voxceleb(vox, tmp_path):
    prepared = quiet("voxceleb", vox, tmp_path / "data", lists="O,E,H", dev_speakers=2)
    assert prepared.splits == ["train", "dev", "test", "vox1_e", "vox1_h"]
    trained = speakers(prepared, "train") | speakers(prepared, "dev")
    assert trained == {f"id{12 + k:05d}" for k in range(8)}
    assert "id00017" in trained and len(prepared.manifest("train")) == 12
    assert prepared.manifest("train")[0].meta["gender"] == "m"
    given = (vox / "list_test_hard2.txt").read_text()
    assert prepared.trials("vox1_h").read_text() == given
    assert prepared.manifest("test")[0].id == "id10001/5r0dWxy17C8/00001.wav"


def test_voxceleb1_alone(vox, tmp_path):
    prepared = quiet(
        "voxceleb", vox / "wav", tmp_path / "data", dev_speakers=2, train="vox1"
    )
    # the list lies one level above the speakers; 2 of 8 are in it
    assert len(speakers(prepared, "train")) == 4
    assert not speakers(prepared, "train") & {"id10001", "id10002"}


def test_voxceleb_two_roots_and_converted_files(vox, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(vox / "wav", one / "VoxCeleb1" / "vox1_dev_wav" / "wav")
    shutil.copytree(vox / "vox2" / "dev", two / "dev")
    for path in sorted(two.rglob("*.flac")):
        path.with_suffix(".m4a").write_bytes(b"\0\0\0 ftypM4A not read")
    lists = tmp_path / "lists"
    lists.mkdir()
    text = (vox / "veri_test2.txt").read_text()
    (lists / "veri_test2.txt").write_text(text)
    options = {"voxceleb2": str(two), "list_folder": str(lists), "dev_speakers": 2}
    prepared = quiet("voxceleb", one, tmp_path / "data", **options)
    assert prepared.data_root == tmp_path
    train = prepared.manifest("train")
    assert all(train.path(u).is_file() and u.wav.endswith("flac") for u in train)
    for path in sorted(two.rglob("*.flac")):
        path.unlink()
    with pytest.raises(UserError, match=r"16 of \d+ files(?s:.*)ffmpeg"):
        quiet("voxceleb", one, tmp_path / "data", **options)


def test_voxceleb_refusals(vox, tmp_path):
    save = tmp_path / "data"
    with pytest.raises(UserError, match="no speaker is left.*VoxCeleb2"):
        quiet("voxceleb", vox, save, lists="E", train="vox1")
    with pytest.raises(UserError, match="no trial list 'X'.*E: Vox1-E"):
        quiet("voxceleb", vox, save, lists="X")
    with pytest.raises(UserError, match="train=vox2, but there is no VoxCeleb2"):
        quiet("voxceleb", vox / "wav", save, train="vox2")
    lonely = tmp_path / "deep" / "er" / "lonely"
    write(lonely / "wav" / "id10001" / "v" / "00001.wav", 1, 1)
    with pytest.raises(UserError, match="veri_test2.txt is in none of .*robots.ox"):
        quiet("voxceleb", lonely, save)
    (lonely / "veri_test2.txt").write_text("1 id10001/v/00001.wav id10009/v/00001.wav")
    with pytest.raises(UserError, match="names 1 files .*id10009/v/00001.wav"):
        quiet("voxceleb", lonely, save)
    write(tmp_path / "names" / "A.J._Buckley" / "x" / "1.wav", 1, 1)
    with pytest.raises(
        UserError, match="no VoxCeleb in .*expected .*id10001.*It holds: A.J._Buckley$"
    ):
        quiet("voxceleb", tmp_path / "names", save)


def test_cnceleb(tmp_path):
    root = cnceleb(tmp_path / "corpus")
    prepared = quiet("cnceleb", root, tmp_path / "data", dev_speakers=2)
    assert prepared.splits == ["train", "dev", "test"]
    assert len(speakers(prepared, "train") | speakers(prepared, "dev")) == 12
    assert speakers(prepared, "test") == {"id00800", "id00801", "id00802"}
    first = prepared.trials("test").read_text().splitlines()[0]
    assert first == "1 enroll/id00800-enroll.flac test/id00800-movie-01-001.flac"
    enrolled = prepared.manifest("test")[0]
    assert enrolled.meta == {"genre": "enroll"}
    assert enrolled.wav == f"CN-Celeb_flac/eval/{enrolled.id}"
    assert prepared.manifest("test")[3].meta == {"genre": "movie"}
    one = prepared.manifest("train")[0]
    assert one.wav in (f"CN-Celeb{n}_flac/data/{one.id}" for n in ("", "2"))
    genres = {u.meta["genre"] for u in prepared.manifest("train")}
    assert genres == {"singing", "interview"}
    alone = quiet(
        "cnceleb",
        root / "CN-Celeb_flac",
        tmp_path / "data1",
        dev_speakers=2,
        train="cnceleb1",
    )
    assert len(speakers(alone, "train")) == 4
    assert alone.manifest("train")[0].wav.startswith("CN-Celeb_flac/data/id0")
    second = root / "CN-Celeb2_flac"
    second.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no CN-Celeb2_flac by"):
        quiet("cnceleb", root, tmp_path / "data2", train="cnceleb2")
    options = {"cnceleb2": str(tmp_path / "elsewhere"), "train": "cnceleb2"}
    other = quiet("cnceleb", root, tmp_path / "data2", dev_speakers=2, **options)
    assert {s[:4] for s in speakers(other, "train")} == {"id10"}
    with pytest.raises(UserError, match="train='both': choose all, cnceleb1"):
        quiet("cnceleb", root, tmp_path / "data2", train="both")
    listed = root / "CN-Celeb_flac" / "dev" / "dev.lst"
    listed.write_text(listed.read_text() + "id00077\nid00800\n")
    with pytest.raises(UserError, match="1 speakers of .* no folder .*id00077"):
        quiet("cnceleb", root, tmp_path / "data2")
    (root / "CN-Celeb_flac" / "eval" / "test" / "id00801-movie-01-002.flac").unlink()
    with pytest.raises(UserError, match="names 1 files"):
        quiet("cnceleb", root, tmp_path / "data2")
    shutil.rmtree(root / "CN-Celeb_flac" / "eval" / "enroll")
    with pytest.raises(UserError, match="no eval/enroll"):
        quiet("cnceleb", root, tmp_path / "data2")


def test_sitw(tmp_path):
    root = sitw(tmp_path / "corpus")
    prepared = quiet("sitw", root, tmp_path / "data")
    assert prepared.splits == ["dev", "test"]
    lines = prepared.trials("test").read_text().splitlines()
    assert len(lines) == 9
    assert lines[0] == "1 eval/audio/enr0.flac eval/audio/tst0.flac"
    assert speakers(prepared, "test") == {"enr0", "enr1", "enr2"}
    stamp = (tmp_path / "data" / "prepare.json").stat().st_mtime_ns
    quiet("sitw", root, tmp_path / "data")  # it has no stamp of its data
    assert (tmp_path / "data" / "prepare.json").stat().st_mtime_ns == stamp
    assert {u.id[-4:] for u in prepared.manifest("dev")} == {"flac"}
    one = root / "dev" / "audio" / "tst1.flac"
    write(one.with_suffix(".wav"), 1, 1)
    one.unlink()
    converted = quiet("sitw", root, tmp_path / "data1").manifest("dev")
    assert converted.by_id()["dev/audio/tst1.wav"].spk_id == "enr1"
    shutil.rmtree(root / "dev")
    assert quiet("sitw", root, tmp_path / "data2").splits == ["test"]
    (root / "eval" / "audio" / "tst1.flac").unlink()
    with pytest.raises(UserError, match="audio/tst1.flac"):
        quiet("sitw", root, tmp_path / "data3")


def test_mini_librispeech_from_archives(archives, tmp_path):
    root = tmp_path / "corpus"
    shutil.copytree(archives, root)
    prepared = quiet("mini_librispeech", root, tmp_path / "data")
    assert prepared.data_root == root / "LibriSpeech"
    assert [len(speakers(prepared, s)) for s in prepared.splits] == [3 + 10 - 6, 2, 4]
    assert prepared.manifest("train")[0].id == "100-77-0000"
    assert prepared.manifest("train")[0].meta == {"gender": "m"}
    assert {u.meta["gender"] for u in prepared.manifest("test")} == {"m", "f"}
    assert not list(root.glob(".unpacking*"))
    inside = quiet("mini_librispeech", root / "LibriSpeech", tmp_path / "data2")
    assert inside.info["counts"] == prepared.info["counts"]


def test_mini_librispeech_fetches(archives, tmp_path):
    folder = tmp_path / "corpus"
    address = str(archives)
    prepared = quiet("mini_librispeech", folder, tmp_path / "data", address=address)
    assert (folder / "train-clean-5.tar.gz").is_file() and prepared.splits[0] == "train"


def test_mini_librispeech_refusals(archives, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot fetch .*demo corpus"):
        quiet("mini_librispeech", tmp_path / "c", tmp_path / "data", address=nowhere)
    assert not list((tmp_path / "c").glob("*"))
    write(tmp_path / "mine" / "ann" / "1.wav", 1, 1)
    with pytest.raises(UserError, match="mine holds other files .ann."):
        quiet("mini_librispeech", tmp_path / "mine", tmp_path / "data", address=nowhere)
    root = tmp_path / "corpus"
    shutil.copytree(archives, root)
    archive = root / "dev-clean-2.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:9000])
    with pytest.raises(UserError, match="dev-clean-2.tar.gz is damaged"):
        quiet("mini_librispeech", root, tmp_path / "data")
    shutil.copy(root / "train-clean-5.tar.gz", archive)
    with pytest.raises(UserError, match="holds no LibriSpeech/dev-clean-2"):
        quiet("mini_librispeech", root, tmp_path / "data")
