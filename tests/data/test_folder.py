"""Any folder of recordings: what is accepted, and what is refused how."""

import json
import shutil
from dataclasses import replace

import pytest
import soundfile
from corpus_trees import odd_folder, write

from sb_margins.data import Prepared, prepare
from sb_margins.errors import UserError


def quiet(*args, **options):
    return prepare("folder", *args, verbose=False, **options)


def trials_of(prepared, split):
    lines = prepared.trials(split).read_text(encoding="utf-8").splitlines()
    return [(int(line.split()[0]), *line.split()[1:]) for line in lines]


def test_plain_folder(tiny_corpus, tmp_path):
    prepared = quiet(tiny_corpus, tmp_path / "a" / "data")
    assert prepared.splits == ["train", "dev", "test"]
    assert prepared.info["counts"]["dev"] == {
        "speakers": 2,
        "utterances": 12,
        "hours": 0.0,
        "target trials": 30,
        "non-target trials": 36,
    }
    speakers = [set(prepared.manifest(s).speakers) for s in prepared.splits]
    assert [len(s) for s in speakers] == [4, 2, 2]
    assert not speakers[0] & speakers[1] and not speakers[0] & speakers[2]
    assert not speakers[1] & speakers[2]
    for split in ("dev", "test"):
        manifest = prepared.manifest(split)
        known = manifest.by_id()
        trials = trials_of(prepared, split)
        assert sum(label for label, _, _ in trials) == 2 * 15
        assert len(trials) == 2 * 15 + 36
        assert len(set(trials)) == len(trials)
        for label, a, b in trials:
            assert (known[a].spk_id == known[b].spk_id) == bool(label) and a != b
        first = manifest[0]
        assert manifest.path(first).is_file()
        assert first.duration == pytest.approx(
            soundfile.info(manifest.path(first)).duration
        )
    assert not (tmp_path / "data" / "bad_files.txt").exists()


def test_again_is_a_no_op_until_something_changes(tiny_corpus, tmp_path, capsys):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    save = tmp_path / "data"
    prepare("folder", corpus, save)
    stamp = (save / "prepare.json").stat().st_mtime_ns
    before = (save / "train.csv").read_bytes()
    capsys.readouterr()
    prepare("folder", corpus, save)
    assert (save / "prepare.json").stat().st_mtime_ns == stamp
    info = json.loads((save / "prepare.json").read_text())
    assert info["options"].pop("fold") == ""
    (save / "prepare.json").write_text(json.dumps(info))  # as before there were folds
    prepare("folder", corpus, save)
    assert capsys.readouterr().err == ""
    prepare("folder", corpus, save, seed=7)
    assert "seed was 1986, is 7" in capsys.readouterr().err
    prepare("folder", corpus, save, seed=7, min_seconds=0.5)
    assert "min_seconds was 0.4, is 0.5" in capsys.readouterr().err
    write(corpus / "spk0" / "session9" / "new.wav", 0, 9)
    prepare("folder", corpus, save, seed=7, min_seconds=0.5)
    assert "the data have changed" in capsys.readouterr().err
    shutil.rmtree(corpus / "spk0" / "session9")
    quiet(corpus, save)
    assert (save / "train.csv").read_bytes() == before
    (save / "trials_dev.txt").unlink()
    (save / "test.csv").unlink()
    assert quiet(corpus, save).has_trials("dev")
    assert (save / "test.csv").is_file()
    loaded = Prepared.load(save)
    assert loaded.data_root == corpus and loaded.info["seed"] == 1986
    with pytest.raises(UserError, match="Did you mean 'test'"):
        loaded.manifest("tset")


def test_stale_splits_do_not_stay(tiny_corpus, shared_like, tmp_path):
    save = tmp_path / "data"
    assert "test_xx" in quiet(shared_like, save).splits
    assert quiet(tiny_corpus, save).splits == ["train", "dev", "test"]
    assert not (save / "trials_test_xx.txt").exists()


def test_odd_names_and_rates(tmp_path):
    corpus = odd_folder(tmp_path / "my voices.v1")
    prepared = quiet(corpus, tmp_path / "data", eval_utterances=0)
    every = [u for split in prepared.splits for u in prepared.manifest(split)]
    assert len(every) == 8 * 4 + 1
    assert len({u.id for u in every}) == len(every)
    assert not any(c.isspace() for u in every for c in u.id + u.spk_id)
    assert {u.sample_rate for u in every} == {8000, 16000, 44100}
    assert all((corpus / u.wav).is_file() for u in every)
    assert "only%20once" in prepared.manifest("train").speakers
    assert any("sample rates differ" in note for note in prepared.info["notes"])
    for split in ("dev", "test"):
        assert all(len(t) == 3 for t in trials_of(prepared, split))
    from speechbrain.dataio.dataset import DynamicItemDataset

    dataset = DynamicItemDataset.from_csv(str(prepared.folder / "train.csv"))
    assert len(dataset) == len(prepared.manifest("train"))


def test_files_outside_speaker_folders_are_named(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    write(corpus / "loose.wav", 1, 1)
    (note,) = quiet(corpus, tmp_path / "data").info["notes"]
    assert note == "passed over 1 files outside speaker folders: loose.wav"


def test_no_such_folder_names_neighbours(tiny_corpus, tmp_path):
    with pytest.raises(UserError, match="no such folder.*Did you mean 'voices'"):
        (tmp_path / "voices").mkdir()
        quiet(tmp_path / "voicse" / "deeper", tmp_path / "data")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        quiet(tmp_path / "file", tmp_path / "data")


def test_wrong_layouts(tmp_path):
    with pytest.raises(UserError, match="no audio .* expected <data folder>/<speaker>"):
        (tmp_path / "a" / "b").mkdir(parents=True)
        quiet(tmp_path / "a", tmp_path / "data")
    write(tmp_path / "flat" / "1.wav", 1, 1)
    with pytest.raises(UserError, match="no speaker folders"):
        quiet(tmp_path / "flat", tmp_path / "data")
    for k in range(3):
        write(tmp_path / "one" / "wav" / f"spk{k}" / "1.wav", k, 1)
    with pytest.raises(UserError, match="only one speaker.*--data-folder .*one/wav"):
        quiet(tmp_path / "one", tmp_path / "data")
    for name in ("train-clean-100", "test"):
        write(tmp_path / "split" / name / "ann" / "1.wav", 1, 1)
    with pytest.raises(UserError, match="look like splits.*--data-folder"):
        quiet(tmp_path / "split", tmp_path / "data")
    for k in range(4):
        for n in (1, 2):
            write(tmp_path / "few" / f"spk{k}" / f"{n}.wav", k, n)
    with pytest.raises(UserError, match="at least 6 speakers.*found 4"):
        quiet(tmp_path / "few", tmp_path / "data")


def test_speakers_may_be_called_test(tmp_path):
    for k in range(6):
        for n in (1, 2):
            write(tmp_path / "corpus" / f"test{k}" / f"{n}.wav", k, n)
    assert len(quiet(tmp_path / "corpus", tmp_path / "data").manifest("dev")) == 4


def test_options_are_checked(tiny_corpus, tmp_path):
    with pytest.raises(UserError, match="no option 'skipbad'. Did you mean 'skip_bad'"):
        quiet(tiny_corpus, tmp_path, skipbad=True)
    with pytest.raises(UserError, match="takes bool"):
        quiet(tiny_corpus, tmp_path, skip_bad="yes")
    with pytest.raises(UserError, match="choose header, ends, full"):
        quiet(tiny_corpus, tmp_path, check="deep")
    with pytest.raises(UserError, match="needs its folder"):
        quiet(None, tmp_path)
    with pytest.raises(UserError, match="no corpus 'voxcelb'. Did you mean 'voxceleb'"):
        prepare("voxcelb", tiny_corpus, tmp_path)


@pytest.fixture
def shared_like(tmp_path):
    """An annotated folder: tables with several evaluation splits."""
    folder = tmp_path / "annotated"
    rows, splits, speakers = ["utt_id,spk_id,path,duration,room"], [], []
    for k in range(11):
        split = "train" if k < 5 else ("dev", "test", "test_xx")[k % 3]
        speakers.append(f"s{k},{'mf'[k % 2]}")
        for n in range(3):
            write(folder / "audio" / f"{k}-{n}.flac", k, n)
            rows.append(f"u{k}-{n},s{k},audio/{k}-{n}.flac,99,r{n}")
            splits.append(f"u{k}-{n},s{k},{split}")
    (folder / "manifest.csv").write_text("\n".join(rows))
    (folder / "splits.csv").write_text("utt_id,spk_id,split\n" + "\n".join(splits))
    (folder / "speakers.csv").write_text("spk_id,gender\n" + "\n".join(speakers))
    dev = sorted({s.split(",")[1] for s in splits if s.endswith(",dev")})
    a, b = (s[1:] for s in dev)
    (folder / "trials_dev.txt").write_text(f"1 u{a}-0 u{a}-1\n0 u{a}-0 u{b}-2\n")
    return folder


def test_annotated_folder(shared_like, tmp_path):
    prepared = quiet(shared_like, tmp_path / "data")
    assert prepared.splits == ["train", "dev", "test", "test_xx"]
    given = (shared_like / "trials_dev.txt").read_text()
    assert prepared.trials("dev").read_text() == given
    assert len(trials_of(prepared, "test")) > 2
    one = prepared.manifest("train")[0]
    assert one.meta == {"room": "r0", "gender": "m"}
    assert one.duration == pytest.approx(0.9)
    info = json.loads((tmp_path / "data" / "prepare.json").read_text())
    assert info["counts"]["dev"]["target trials"] == 1


def test_trials_of_files_that_were_left_out(shared_like, tmp_path):
    trials = shared_like / "trials_dev.txt"
    target = trials.read_text().split()[1]  # u<speaker>-0
    speaker = target[1:-2]
    trials.write_text(f"{trials.read_text()}1 {target} u{speaker}-2\n")
    write(shared_like / "audio" / f"{speaker}-2.flac", 1, 1, seconds=0.2)
    prepared = quiet(shared_like, tmp_path / "data")
    short, lost = prepared.info["notes"]
    assert lost == "1 trials of 'dev' need files that were left out"
    assert len(trials_of(prepared, "dev")) == 2


def test_annotated_contradictions(shared_like, tmp_path):
    good = (shared_like / "trials_dev.txt").read_text()
    for line, told in (
        ("1 u0-0 nobody", "name 2 utterances that are not among"),
        ("1 u6-0 u9-0", "contradict the manifest"),
        ("7 u6-0 u9-0", "'7' is not a label"),
    ):
        (shared_like / "trials_dev.txt").write_text(good + line + "\n")
        with pytest.raises(UserError, match=told):
            quiet(shared_like, tmp_path / "data")
    (shared_like / "trials_dev.txt").write_text(good)
    table = (shared_like / "splits.csv").read_text()
    (shared_like / "splits.csv").write_text(
        table.replace("u0-0,s0,train", "u0-0,s0,dev")
    )
    with pytest.raises(UserError, match="in 'train' and in another split: s0"):
        quiet(shared_like, tmp_path / "data")
    (shared_like / "splits.csv").write_text(table.replace(",train", ",training"))
    with pytest.raises(UserError, match="no split 'train'; it has.*Is it 'training'"):
        quiet(shared_like, tmp_path / "data")
    (shared_like / "splits.csv").write_text(table)
    (shared_like / "manifest.csv").write_text("name,who\na,b\n")
    with pytest.raises(UserError, match="no column utt_id or ID"):
        quiet(shared_like, tmp_path / "data")


def test_a_folder_with_our_column_names_as_well(shared_like, tmp_path):
    """utt_id and path count; metadata never takes the name of a manifest's column."""
    header, *rows = (shared_like / "manifest.csv").read_text().splitlines()
    rows = [f"{row},i{n},w{n}" for n, row in enumerate(rows)]
    (shared_like / "manifest.csv").write_text("\n".join([f"{header},ID,wav", *rows]))
    one = quiet(shared_like, tmp_path / "data").manifest("train")[0]
    assert (one.id, one.wav) == ("u0-0", "audio/0-0.flac")
    assert one.meta == {"room": "r0", "gender": "m"}


def test_no_dev_in_the_splits_holds_some_out(shared_like, tmp_path):
    table = (shared_like / "splits.csv").read_text()
    (shared_like / "splits.csv").write_text(table.replace(",dev", ",train"))
    prepared = quiet(shared_like, tmp_path / "data")
    assert len(prepared.manifest("dev").speakers) == 2
    assert len(prepared.manifest("train").speakers) == 5


def test_evaluation_only(shared_like, tmp_path):
    table = (shared_like / "splits.csv").read_text().splitlines()
    kept = [line for line in table if not line.endswith(",train")]
    (shared_like / "splits.csv").write_text("\n".join(kept))
    prepared = quiet(shared_like, tmp_path / "data")
    assert prepared.splits == ["dev", "test", "test_xx"]
    left_out, only = prepared.info["notes"]
    assert left_out == (
        "left out 15 utterances without a split: "
        + ", ".join(f"u{k}-{n}" for k in range(5) for n in range(3))
    )
    assert only == "no split 'train': for evaluation only"
    (shared_like / "splits.csv").write_text("utt_id,split\nnobody,test\n")
    with pytest.raises(UserError, match="share no utterance"):
        quiet(shared_like, tmp_path / "data")
    (shared_like / "manifest.csv").write_text("utt_id,spk_id,path\n")
    with pytest.raises(UserError, match="manifest.csv is empty"):
        quiet(shared_like, tmp_path / "data")


def test_manifests_of_others_in_the_folder(shared_like, tmp_path):
    before = quiet(shared_like, tmp_path / "a").manifest("train")
    (shared_like / "manifest.csv").rename(tmp_path / "manifest.csv")
    rows = [(f"u{k}-{n}", k, n) for k in range(11) for n in range(3)]
    kaldi = {
        "wav.scp": [f"{u} {shared_like}/audio/{k}-{n}.flac" for u, k, n in rows],
        "utt2spk": [f"{u} s{k}" for u, k, n in rows],
    }
    for name, lines in kaldi.items():
        (shared_like / name).write_text("\n".join(lines))
    train = quiet(shared_like, tmp_path / "b").manifest("train")
    assert [u.id for u in train] == [u.id for u in before]
    assert train.path(train[3]) == before.path(before[3]) and train[0].spk_id == "s0"
    stamp = (tmp_path / "b" / "prepare.json").stat().st_mtime_ns
    quiet(shared_like, tmp_path / "b")
    assert (tmp_path / "b" / "prepare.json").stat().st_mtime_ns == stamp
    content = {
        u: {"wav": f"{{data_root}}/audio/{k}-{n}.flac", "spk_id": f"s{k}", "length": 1}
        for u, k, n in rows
    }
    (shared_like / "manifest.json").write_text(json.dumps(content))
    prepared = quiet(shared_like, tmp_path / "c")
    assert prepared.manifest("train")[4] == replace(before[4], meta={"gender": "f"})
    content["u0-0"].pop("spk_id")
    (shared_like / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="no speaker of 'u0-0'"):
        quiet(shared_like, tmp_path / "c")


def test_real_speech(shared_data, tmp_path):
    prepared = quiet(shared_data, tmp_path / "data")
    assert prepared.splits == ["train", "dev", "test", "test_ar"]
    assert len(prepared.manifest("train").speakers) == 377
    assert len(trials_of(prepared, "test")) == 11120
    counts = prepared.info["counts"]
    assert list(counts) == ["train", "dev", "test", "test_ar"]
    assert [count["hours"] for count in counts.values()] == [0.95, 0.17, 0.28, 0.12]


def test_sizes_of_the_splits_are_options(tiny_corpus, tmp_path):
    shares = {"dev_share": 0.4, "test_share": 0.3, "eval_utterances": 4}
    prepared = quiet(tiny_corpus, tmp_path / "data", **shares)
    groups = [prepared.manifest(split) for split in prepared.splits]
    assert [len(group.speakers) for group in groups] == [3, 3, 2]
    assert [len(group) for group in groups] == [18, 12, 8]


def test_save_folder_that_cannot_be_written(tiny_corpus, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        quiet(tiny_corpus, tmp_path / "file" / "data")


def test_manifests_do_not_go_among_the_data(shared_like):
    with pytest.raises(UserError, match="are the same"):
        quiet(shared_like, shared_like)
