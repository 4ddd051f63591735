"""Any folder of recordings: what is accepted, and what is refused how."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from corpus_trees import odd_folder, write

from sb_margins.audio import audio_info
from sb_margins.data import Prepared, checking, prepare
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
    assert len(DynamicItemDataset(prepared.manifest("dev").as_dict())) == 8


@pytest.fixture
def broken(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    (corpus / "spk1" / "session0" / "zero.wav").touch()
    (corpus / "spk2" / "session0" / "text.flac").write_text("this is not audio")
    whole = (corpus / "spk3" / "session0" / "00000.wav").read_bytes()
    (corpus / "spk3" / "session0" / "cut.wav").write_bytes(whole[: len(whole) // 2])
    wav = soundfile.read(corpus / "spk4" / "session0" / "00000.wav")[0]
    flac = corpus / "spk4" / "session0" / "cut.flac"
    soundfile.write(flac, wav, 16000)
    flac.write_bytes(flac.read_bytes()[:12000])
    nan = np.full(16000, np.nan, np.float32)
    soundfile.write(corpus / "spk5" / "nan.wav", nan, 16000, "FLOAT")
    soundfile.write(corpus / "spk6" / "none.wav", np.zeros(0), 16000)
    soundfile.write(corpus / "spk7" / "short.wav", wav[:800], 16000)
    return corpus


BROKEN = ("zero.wav", "text.flac", "cut.wav", "cut.flac", "nan.wav", "none.wav")


def test_bad_files_are_told_all_at_once(broken, tmp_path):
    with pytest.raises(UserError) as told:
        quiet(broken, tmp_path / "data")
    for name in BROKEN:
        assert name in str(told.value)
    assert "short.wav" not in str(told.value) and "skip_bad" in str(told.value)
    assert "is empty" in str(told.value) and "is truncated" in str(told.value)
    assert not (tmp_path / "data" / "prepare.json").exists()
    listed = (tmp_path / "data" / "bad_files.txt").read_text()
    assert len(listed.splitlines()) == len(BROKEN) + 1


def test_bad_files_can_be_left_out(broken, tmp_path, capsys):
    prepared = prepare("folder", broken, tmp_path / "data", skip_bad=True)
    told = capsys.readouterr().err
    every = [u.wav for s in prepared.splits for u in prepared.manifest(s)]
    assert len(every) == 48
    for name in (*BROKEN, "short.wav"):
        assert name in told and not any(name in wav for wav in every)


def test_silence_is_left_out(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    noise = np.sin(np.arange(32000))
    soundfile.write(corpus / "spk0" / "silent.wav", 1.5e-4 * noise, 16000, "FLOAT")
    middle = 2.5e-4 * noise
    middle[:12000] = middle[-12000:] = 0
    soundfile.write(corpus / "spk1" / "quiet.wav", middle, 16000, "FLOAT")
    prepared = quiet(corpus, tmp_path / "data")
    every = [u.wav for s in prepared.splits for u in prepared.manifest(s)]
    assert "spk1/quiet.wav" in every and "spk0/silent.wav" not in every
    assert "left out 1 silent files:\n  spk0/silent.wav" in prepared.info["notes"][0]
    assert (tmp_path / "data" / "bad_files.txt").read_text() == (
        "spk0/silent.wav\tsilent\n"
    )
    prepared = quiet(corpus, tmp_path / "data", check="full")
    assert "spk0/silent.wav" in prepared.info["notes"][0]
    prepared = quiet(corpus, tmp_path / "data", check="header")
    assert prepared.info["notes"] == []


def test_short_files_and_several_channels(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    wav = np.random.default_rng(0).normal(0, 0.1, (16000, 2))
    for frames in (6399, 6400):
        soundfile.write(corpus / "spk0" / f"{frames}.wav", wav[:frames], 16000)
    soundfile.write(corpus / "spk1" / "mono.wav", wav[:, 0], 16000)
    short, channels = quiet(corpus, tmp_path / "data").info["notes"]
    assert short == (
        "left out 1 files shorter than 0.4 s (min_seconds):\n  spk0/6399.wav: 0.40 s"
    )
    assert channels == "1 files have several channels"


def test_long_lists_of_files_are_shortened(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    for number in range(25):
        (corpus / "spk0" / f"empty{number:02d}.wav").touch()
    with pytest.raises(UserError) as raised:
        quiet(corpus, tmp_path / "data")
    lines = str(raised.value).splitlines()
    assert lines[20].startswith("  spk0/empty19.wav: ")
    assert lines[21].startswith("  ... and 5 more, all in ")
    assert "ffmpeg" not in str(raised.value)
    assert len((tmp_path / "data" / "bad_files.txt").read_text().splitlines()) == 25
    for number in range(20, 25):
        (corpus / "spk0" / f"empty{number:02d}.wav").unlink()
    with pytest.raises(UserError) as raised:
        quiet(corpus, tmp_path / "data")
    assert "more" not in str(raised.value)
    for number in range(20):
        one = corpus / "spk0" / f"empty{number:02d}.wav"
        wav = np.random.default_rng(number).normal(0, 0.1, 8000)
        soundfile.write(one, wav, 16000)
        shutil.copy(one, corpus / "spk1" / one.name)
    (note,) = quiet(corpus, tmp_path / "data").info["notes"]
    assert len(note.splitlines()) == 21 and "more" not in note
    shutil.copy(corpus / "spk2" / "session0" / "00000.wav", corpus / "spk3" / "c.wav")
    (note,) = quiet(corpus, tmp_path / "data").info["notes"]
    assert note.splitlines()[21:] == ["  ... and 1 more"]


def test_copies_under_two_speakers_are_named(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    one = corpus / "spk3" / "session0" / "00001.wav"
    shutil.copy(one, corpus / "spk5" / "mine.wav")
    shutil.copy(one, corpus / "spk3" / "again.wav")  # one speaker's: not named
    shutil.copy(corpus / "spk2" / "session0" / "00000.wav", corpus / "spk2" / "b.wav")
    # the same length and the same (silent) ends only
    for speaker, level in (("spk6", 0.1), ("spk7", 0.2)):
        wav = np.zeros(16000)
        wav[8000] = level
        soundfile.write(corpus / speaker / "alike.wav", wav, 16000)
    (note,) = quiet(corpus, tmp_path / "data").info["notes"]
    assert note.startswith("1 recordings are under several speakers")
    assert note.splitlines()[1:] == [
        "  spk3/again.wav = spk3/session0/00001.wav = spk5/mine.wav"
    ]


def test_copies_in_other_formats_are_named(tiny_corpus, tmp_path, monkeypatch):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    one = corpus / "spk0" / "session0" / "00000.wav"
    wav, rate = soundfile.read(one)
    soundfile.write(corpus / "spk1" / "a.flac", wav, rate)
    soundfile.write(corpus / "spk2" / "b.wav", wav, rate, "PCM_24", format="RF64")
    soundfile.write(corpus / "spk3" / "c.aiff", wav, rate, "FLOAT")
    soundfile.write(corpus / "spk4" / "d.wav", np.stack([wav, wav], 1), rate)
    # the same length, and the same ends at another rate or level
    soundfile.write(corpus / "spk5" / "e.wav", wav, 2 * rate)
    soundfile.write(corpus / "spk6" / "f.wav", wav / 2, rate)
    decoded = []
    load = checking.load_audio
    monkeypatch.setattr(
        checking, "load_audio", lambda path: decoded.append(path.name) or load(path)
    )
    *_, note = quiet(corpus, tmp_path / "data").info["notes"]
    assert note.splitlines()[1:] == [
        "  spk0/session0/00000.wav"
        " = spk1/a.flac = spk2/b.wav = spk3/c.aiff = spk4/d.wav"
    ]
    assert sorted(decoded) == ["00000.wav", "a.flac", "b.wav", "c.aiff", "d.wav"]
    *_, note = quiet(corpus, tmp_path / "data", check="full").info["notes"]
    assert len(note.splitlines()) == 2


def test_damage_between_silent_or_equal_ends(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    for speaker, level in (("spk0", 0), ("spk1", 0.1), ("spk2", 0.1)):
        wav = np.full(16000, 0, np.float32)
        wav[1000:-1000] = level
        wav[500] = level
        wav[8000] = np.nan
        soundfile.write(corpus / speaker / "nan.wav", wav, 16000, "FLOAT")
    with pytest.raises(UserError, match="1 of 49 files(?s:.*)spk0/nan.wav"):
        for speaker in ("spk1", "spk2"):
            (corpus / speaker / "nan.wav").rename(tmp_path / f"{speaker}.wav")
        quiet(corpus, tmp_path / "data")
    (corpus / "spk0" / "nan.wav").unlink()
    for speaker in ("spk1", "spk2"):
        (tmp_path / f"{speaker}.wav").rename(corpus / speaker / "nan.wav")
    assert quiet(corpus, tmp_path / "data").info["notes"] == []


def test_files_outside_speaker_folders_are_named(tiny_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus)
    write(corpus / "loose.wav", 1, 1)
    (note,) = quiet(corpus, tmp_path / "data").info["notes"]
    assert note == "passed over 1 files outside speaker folders: loose.wav"


def test_damage_in_the_middle_takes_the_full_check(tmp_path, make_voice):
    path = tmp_path / "a.flac"
    soundfile.write(path, make_voice(1, 1, 4.0), 16000)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    assert audio_info(path, "ends").notes == []
    with pytest.raises(UserError, match="cannot be read"):
        audio_info(path, "full")


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
