"""Whole trainings on a tiny corpus: learning, resuming, refusing."""

import json
import logging
import multiprocessing
import shutil
import signal

import pytest
import soundfile
import torch
from corpus_trees import sitw
from trainings import assert_same, flags, run_killed, weights

from sb_margins.cli import main as cli
from sb_margins.data import prepare
from sb_margins.errors import UserError
from sb_margins.inference import SpeakerVerifier
from sb_margins.select import hparams_dir
from sb_margins.training.accumulation import AdaptiveAccumulation
from sb_margins.training.config import read_config
from sb_margins.training.run import run

ENCODERS = sorted(p.stem for p in (hparams_dir() / "encoders").glob("*.yaml"))


def test_training_learns_and_writes_its_results(tiny_corpus, tmp_path, capsys):
    out = tmp_path / "run"
    more = ["--number_of_epochs=4", "--lr=0.01", "--loss=real_am", "--margin=0.1"]
    more.append("--tensorboard=True")
    other = sitw(tmp_path / "sitw")
    prepare("sitw", other, tmp_path / "other", verbose=False)
    lists = ["--eval=sitw=" + str(other), "--eval", f"one={tmp_path / 'other'}"]
    assert cli(["train", *flags(tiny_corpus, out, *more, *lists)]) == 0
    told = capsys.readouterr().out
    for word in ("loss", "acc", "margin 0.10", "dev EER", "minDCF(0.01)"):
        assert word in told
    rows = json.loads((out / "metrics.json").read_text())["lists"]
    names = {"dev", "test", "sitw_dev", "sitw_test", "one_dev", "one_test"}
    assert set(rows) == names and rows["sitw_test"] == rows["one_test"]
    assert "mean of 5 lists" in told, "dev chose the epoch"
    for name in names:
        assert (out / f"scores_{name}.txt").stat().st_size
    assert "of the utterances are shorter" not in told
    history = (out / "history.csv").read_text().splitlines()
    names = history[0].split(",")
    rows = [dict(zip(names, r.split(","), strict=True)) for r in history[1:]]
    assert [float(r["epoch"]) for r in rows] == [0, 1, 2, 3, 4]
    assert float(rows[4]["loss"]) < float(rows[1]["loss"])
    assert float(rows[0]["margin"]) == 0  # it grows from there
    for name in ("target_score", "hardest_score", "zero_loss", "kept"):
        assert rows[4][name] and name in (out / "train_log.txt").read_text()
    gap = [float(r["target_score"]) - float(r["hardest_score"]) for r in rows[1:]]
    assert gap[3] > gap[0]
    assert list((out / "tensorboard").glob("events*"))
    for name in ("curve.png", "metrics.json", "train_log.txt", "hyperparams.yaml"):
        assert (out / name).stat().st_size > 0
    recorded = json.loads((out / "run.json").read_text())
    assert recorded["settings"]["loss"] == "real_am" and "torch" in recorded["versions"]

    # The same command again has nothing left to train, and says so.
    run(read_config(flags(tiny_corpus, out, *more)))
    assert "already trained" in capsys.readouterr().out


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_trains_exports_and_verifies(tiny_corpus, tmp_path, encoder):
    out = tmp_path / "run"
    more = ["--number_of_epochs=1", "--loss=ham", "--crops_per_utterance=1"]
    more.append(f"--encoder={encoder}")
    words = flags(tiny_corpus, out, *more, yaml="train.yaml")
    if encoder != "ecapa":
        words.remove("--attention_channels=8")
    assert cli(["train", *words]) == 0
    model = SpeakerVerifier.from_hparams(out / "model")
    assert model.encode_batch(torch.randn(3, 16000)).shape == (3, 16)
    wavs = sorted(tiny_corpus.glob("spk0/*/*.wav"))[:2]
    score, _ = model.verify_files(*wavs)
    assert score.isfinite()
    assert json.loads((out / "run.json").read_text())["settings"]["encoder"] == encoder


def test_bf16_with_augmentation(tiny_corpus, tmp_path, long_words):
    more = ["--number_of_epochs=1", "--precision=bf16", "--loss=ham", long_words[5]]
    trained = run(read_config(flags(tiny_corpus, tmp_path / "run", *more)))
    row = trained.history.rows[1]
    assert 0 < row["loss"] < 20 and 0 <= row["embedding_edge"] <= 1
    assert 0 < row["prototype_edge_min"] <= row["prototype_edge"] <= 1


def test_processes_that_read_change_nothing_and_stay(
    tiny_corpus, tmp_path, monkeypatch
):
    started = []
    start = multiprocessing.Process.start
    monkeypatch.setattr(
        multiprocessing.Process, "start", lambda p: (started.append(p), start(p))[1]
    )
    for workers in (0, 2):
        out = tmp_path / str(workers)
        more = ["--number_of_epochs=2", f"--num_workers={workers}"]
        run(read_config(flags(tiny_corpus, out, *more)))
        assert len(started) == workers  # once, for both epochs
    assert not any(process.is_alive() for process in started)
    assert_same(weights(tmp_path / "0"), weights(tmp_path / "2"))


@pytest.fixture(scope="module")
def long_words(tmp_path_factory, make_voice):
    """Noise, a margin on its way, windows that change: all that a resume must keep."""
    noise = tmp_path_factory.mktemp("noise")
    for k in range(3):
        soundfile.write(noise / f"{k}.wav", make_voice(k, 9, 0.7), 16000)
    return [
        "--number_of_epochs=3",
        "--crops_per_utterance=4",
        "--ckpt_interval_minutes=0",
        "--ckpt_interval_steps=3",
        "--margin_end_epoch=3",
        f"--noise_folder={noise}",
        "--loss=real_am",
        "--margin=0.05",
        "--max_accumulation=3",
        "--lr=0.01",
    ]


@pytest.fixture(scope="module")
def straight(tiny_corpus, tmp_path_factory, long_words):
    out, windows = tmp_path_factory.mktemp("straight"), set()
    after = AdaptiveAccumulation.after_window

    def note(self, samples, zero):
        windows.add(after(self, samples, zero))
        return self.window

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdaptiveAccumulation, "after_window", note)
        trained = run(read_config(flags(tiny_corpus, out, *long_words)))
    assert len(windows) > 1  # they do change
    return trained


@pytest.mark.parametrize(
    "how, status", [("SIGKILL", -9), ("SIGINT", 130), ("writing", -9)]
)
def test_resume_in_the_middle_of_an_epoch_is_exact(
    tiny_corpus, tmp_path, long_words, straight, caplog, capsys, how, status
):
    broken = flags(tiny_corpus, tmp_path / "broken", *long_words)
    log = tmp_path / "log"
    assert run_killed(how, broken, log) == status
    assert "epoch 1/3" in log.read_text()  # lines are in a log as they happen
    capsys.readouterr()
    with caplog.at_level(logging.WARNING):
        resumed = run(read_config(broken))
    assert "continuing in epoch 2 after step" in capsys.readouterr().out
    assert ("half-written" in caplog.text) == (how == "writing")
    assert_same(weights(straight.folder), weights(resumed.folder))
    for one, two in zip(straight.history.rows, resumed.history.rows, strict=True):
        for name in set(one) - {"seconds", "utt/s"}:
            assert one[name] == pytest.approx(two[name], rel=1e-6), name
    assert len(list((resumed.folder / "save").iterdir())) == len(
        list((straight.folder / "save").iterdir())
    )  # nothing half-written stays


@pytest.mark.parametrize(
    "change, message",
    [
        (["--data_folder=/nowhere/at/all"], "/nowhere/at/all"),
        (["--loss=hamm"], "Did you mean 'ham'"),
        (["--out_n_neurons=7205"], "out_n_neurons is 7205"),
        (["--batch_size=1"], "at least 2"),
        (["--batch_size=512"], "crops_per_utterance"),
        (["--margn=1"], "Did you mean 'margin'"),
        (["--delta=0.1"], "delta"),
        (["--noise_folder=/nowhere/at/all"], "no such noise folder"),
        (["--speeds=fast"], "speeds"),
        (["--sentence_len=5"], "longer than all training audio"),
    ],
)
def test_bad_input_ends_with_2_before_training(
    tiny_corpus, tmp_path, capsys, change, message
):
    assert cli(["train", *flags(tiny_corpus, tmp_path / "run"), *change]) == 2
    told = capsys.readouterr()
    assert message in told.err and "epoch" not in told.out


def test_one_speaker_and_corrupt_audio(tiny_corpus, tmp_path, capsys):
    one = tmp_path / "one" / "only"
    one.mkdir(parents=True)
    for wav in sorted(tiny_corpus.glob("spk0/*/*.wav"))[:3]:
        (one / wav.name).write_bytes(wav.read_bytes())
    assert cli(["train", *flags(one.parent, tmp_path / "r1")]) == 2
    assert "speaker" in capsys.readouterr().err

    bad = tmp_path / "bad"
    shutil.copytree(tiny_corpus, bad)
    (bad / "spk3" / "session0" / "00001.wav").write_bytes(b"RIFF not a wav")
    assert cli(["train", *flags(bad, tmp_path / "r2")]) == 2
    assert "00001.wav" in capsys.readouterr().err


def test_results_folder_of_another_configuration(tiny_corpus, tmp_path):
    out = tmp_path / "run"
    run(read_config(flags(tiny_corpus, out, "--number_of_epochs=1")))
    with pytest.raises(UserError, match="loss was 'aam', now 'am'"):
        run(read_config(flags(tiny_corpus, out, "--number_of_epochs=1", "--loss=am")))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
