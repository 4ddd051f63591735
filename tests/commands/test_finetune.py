"""``sb-margins finetune``: what it starts from, what it ends with, what it refuses."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from model_folders import write_model
from trainings import flags

from sb_margins.cli import main as cli
from sb_margins.commands.finetune import adaptation
from sb_margins.data import Prepared, prepare
from sb_margins.errors import UserError
from sb_margins.inference import SpeakerVerifier
from sb_margins.inference.results import read_model
from sb_margins.similarity import PoincareSimilarity

QUICK = ["--batch_size=8", "--sentence_len=0.6", "--noprogressbar", "--freeze_steps=2"]


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """No pictures, and few draws of speakers."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plot_training", "plot_scores"):
            patch.setattr(f"sb_margins.training.evaluate.{name}", lambda *args: None)
        patch.setattr("sb_margins.comparison.adaptation.REPLICATES", 50)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder with random weights."""
    return write_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def run_of_ours(tiny_corpus, tmp_path_factory):
    """A results folder."""
    out = tmp_path_factory.mktemp("base") / "run"
    assert cli(["train", *flags(tiny_corpus, out, "--number_of_epochs=1")]) == 0
    return out


def words(model, corpus, out, *more):
    places = [f"--data_folder={corpus}", f"--output_folder={out}"]
    return ["finetune", str(model), *places, *QUICK, *more]


def scores(model, files):
    verifier = SpeakerVerifier.from_hparams(str(model))
    embeddings = verifier.embed([str(path) for path in files])
    return verifier.fingerprint, embeddings.matrix


@pytest.fixture(scope="module")
def adapted(model, tiny_corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapted") / "run"
    assert cli(words(model, tiny_corpus, out, "--number_of_epochs=2", "--lr=0.01")) == 0
    return out


def test_report_thresholds_and_card(adapted):
    report = json.loads((adapted / "before_after.json").read_text())["lists"]
    assert set(report) == {"dev", "test"} and report["test"]["speakers"] == 2
    for one in report.values():
        assert {"before", "after", "difference", "verdict"} < set(one)
        low, high = one["difference"]["eer"]["low"], one["difference"]["eer"]["high"]
        assert low <= high
    text = (adapted / "before_after.md").read_text()
    assert "| test, before |" in text and "test, 2 unseen speakers: too few" in text
    verifier = SpeakerVerifier.from_hparams(str(adapted / "model"))
    assert "eer" in verifier.thresholds and not verifier.warnings
    assert "started from" in (adapted / "model" / "README.md").read_text()


def test_the_best_epoch_may_be_the_model_as_it_was(adapted):
    """The start is a checkpoint like those of the epochs, so dev chooses among all."""
    history = (adapted / "history.csv").read_text().splitlines()
    assert len(history) == 4 and history[1].startswith("0,")
    metrics = json.loads((adapted / "metrics.json").read_text())["lists"]["dev"]
    before = json.loads((adapted / "before_after.json").read_text())["lists"]["dev"]
    assert metrics["eer"] == before["after"]["eer"] <= before["before"]["eer"]


@pytest.mark.parametrize("source", ["model", "run_of_ours"])
def test_zero_epochs_change_no_score(source, tiny_corpus, tmp_path, request, capsys):
    start = request.getfixturevalue(source)
    out = tmp_path / "run"
    assert cli(words(start, tiny_corpus, out, "--number_of_epochs=0")) == 0
    assert "nothing changed: every score is" in capsys.readouterr().out
    report = json.loads((out / "before_after.json").read_text())["lists"]
    assert all(one["before"] == one["after"] for one in report.values())
    files = sorted(tiny_corpus.rglob("*.wav"))[:6]
    there = start / "model" if source == "run_of_ours" else start
    (before, one), (after, two) = scores(there, files), scores(out / "model", files)
    assert before == after and np.array_equal(one, two)


def test_a_model_on_the_ball_stays_there(tiny_corpus, tmp_path):
    ball = write_model(
        tmp_path / "ball", similarity=PoincareSimilarity(2.5, "curvature", 0.9)
    )
    out = tmp_path / "run"
    assert cli(words(ball, tiny_corpus, out, "--number_of_epochs=0")) == 0
    files = sorted(tiny_corpus.rglob("*.wav"))[:6]
    assert scores(ball, files)[0] == scores(out / "model", files)[0]
    told = adaptation(read_model(ball), ["--data_folder=x", "--loss=am"]).plain["loss"]
    assert told == "am"


def test_old_speakers_are_added_and_their_class_weights_taken(
    run_of_ours, make_voice, tmp_path, capsys
):
    mine = tmp_path / "mine"
    for speaker in range(7):  # two of them have the names of old speakers
        name = f"spk{speaker}" if speaker < 2 else f"new{speaker}"
        for utterance in range(4):
            path = mine / name / f"{utterance}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, make_voice(20 + speaker, utterance, 0.9), 16000)
    old = set(Prepared.load(run_of_ours / "data").manifest("train").speakers)
    left = old - {"spk0", "spk1"}
    out = tmp_path / "run"
    more = ["--number_of_epochs=0", f"--old-speakers={run_of_ours}"]
    assert cli(words(run_of_ours, mine, out, *more)) == 0
    told = capsys.readouterr().out
    assert f"{len(left)} old speakers are trained on too" in told
    assert ("old speakers are left out" in told) == (len(left) < len(old))
    classes = (out / "label_encoder.txt").read_text()
    assert all(f"'{name}'" in classes for name in left)


def test_what_is_no_use_is_refused_before_anything_is_written(
    model, run_of_ours, tiny_corpus, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    (tmp_path / "mine.yaml").write_text("base: finetune.yaml\nn_mels: 40\n")
    (tmp_path / "other.yaml").write_text("base: train.yaml\nencoder: resnet34\n")
    (tmp_path / "norm.yaml").write_text(
        "base: finetune.yaml\nmean_var_norm:\n    std_norm: True\n"
    )
    (tmp_path / "empty").mkdir()
    damaged = shutil.copytree(model, tmp_path / "damaged")
    (damaged / "embedding_model.ckpt").write_bytes(b"damaged")

    def refused(model, *more, place=out):
        assert cli(words(model, tiny_corpus, place, *more)) == 2
        assert not out.exists()
        return capsys.readouterr().err.strip()

    own = "features and encoder are the model's: leave "
    assert own + "n_mels out of the command line" in refused(model, "--n-mels=24")
    assert own + "encoder out of" in refused(model, "--encoder=resnet34")
    for file, key in [
        ("mine.yaml", "n_mels"),
        ("other.yaml", "encoder"),
        ("norm.yaml", "mean_var_norm"),
    ]:
        argv = words(model, tiny_corpus, out)
        assert cli([*argv[:2], file, *argv[2:]]) == 2
        assert f"{own}{key} out of {file}" in capsys.readouterr().err
    assert not out.exists()
    assert "no such model folder: ./nowhere" in refused("./nowhere")
    assert "hyperparams.yaml" in refused(tmp_path / "empty")
    assert "embedding_model" in refused(damaged)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "neither a folder here nor a model that the hub gives" in refused("no/one")
    assert "leave --init-from out" in refused(model, "--init-from=x")
    for folder in (model, run_of_ours):
        assert "is the model's own folder" in refused(folder, place=folder)
    assert "encoder_rate is 0" in refused(model, "--encoder-rate=0")
    told = refused(model, "--old-speakers=nowhere").splitlines()[-1]
    assert "old_speakers: no such folder" in told
    mine, others = tmp_path / "mine", tmp_path / "others"
    for folder, name in ((mine, "me"), (others, "they")):
        for speaker in sorted(tiny_corpus.iterdir()):
            shutil.copytree(speaker, folder / f"{name}{speaker.name}")
    prepare("folder", others, tmp_path / "old", verbose=False)
    more = [f"--old-speakers={tmp_path / 'old'}", f"--eval=all={others}"]
    assert cli(words(model, mine, tmp_path / "not", *more)) == 2
    told = capsys.readouterr().err
    assert "--eval all: 24 of its files are trained on" in told
    assert not (tmp_path / "not" / "save").exists()


def test_too_few_speakers_and_other_settings(
    model, tiny_corpus, adapted, tmp_path, capsys
):
    few = tmp_path / "few"
    for name in sorted(p.name for p in tiny_corpus.iterdir())[:3]:
        shutil.copytree(tiny_corpus / name, few / name)
    assert cli(words(model, few, tmp_path / "out")) == 2
    assert "takes at least 6 speakers" in capsys.readouterr().err
    listed = tmp_path / "listed"
    listed.mkdir()
    files = sorted(tiny_corpus.rglob("*.wav"))
    lines = [f"{p.parts[-3]}-{p.name},{p.parts[-3]},{p}" for p in files]
    rows = dict.fromkeys(line.split(",")[1] for line in lines)
    table = "utt_id,spk_id,path\n" + "\n".join(dict.fromkeys(lines[::3])) + "\n"
    (listed / "manifest.csv").write_text(table)
    splits = [f"{name},{'dev' if n < 3 else 'train'}" for n, name in enumerate(rows)]
    (listed / "splits.csv").write_text("spk_id,split\n" + "\n".join(splits) + "\n")
    assert cli(words(model, listed, tmp_path / "out")) == 2
    told = capsys.readouterr().err
    assert "has the splits train, dev, and" in told and "to judge by (test)" in told
    assert not (tmp_path / "out" / "save").exists()
    assert cli(words(model, tiny_corpus, adapted, "--lr=0.02")) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_adaptation_takes_the_features_of_the_model(model):
    config = adaptation(read_model(model), ["--data_folder=x"])
    resolved = config.resolve(out_n_neurons=3, steps_per_epoch=2)
    assert "n_mels: 40" in resolved and "input_size: 24" in resolved
    assert (
        config.settings.encoder_rate == 0.1 and config.plain["encoder"] == "ECAPA_TDNN"
    )
    with pytest.raises(UserError, match="name a model first"):
        from sb_margins.commands.finetune import main

        main(["--data_folder=x"])
