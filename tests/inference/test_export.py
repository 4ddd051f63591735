"""Exported folders: what is in them, and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml
from hyperpyyaml import load_hyperpyyaml
from model_folders import THRESHOLDS, encode, modules, settings, write_model
from speechbrain.inference.speaker import SpeakerRecognition
from speechbrain.utils.run_opts import RunOptions

from sb_margins import select
from sb_margins.classifiers import CosineClassifier, LinearClassifier
from sb_margins.cli import main as cli
from sb_margins.errors import UserError
from sb_margins.inference import (
    SpeakerVerifier,
    export_model,
    export_results,
    load_encoder_weights,
    similarity_of,
)
from sb_margins.inference.results import best_checkpoint
from sb_margins.inference.thresholds import calibrate_thresholds
from sb_margins.similarity import PoincareSimilarity


def test_weights_load_with_weights_only(tmp_path):
    folder = write_model(tmp_path / "m", classifier=CosineClassifier(24, 2))
    for path in folder.glob("*.ckpt"):
        if path.name != "label_encoder.ckpt":
            assert torch.load(path, weights_only=True)


def test_no_absolute_paths(tmp_path):
    folder = write_model(tmp_path / "m")
    for path in folder.iterdir():
        content = path.read_bytes()
        assert str(tmp_path).encode() not in content
        assert b"/nowhere" not in content


def test_cosine_models_name_stock_classes_only(tmp_path):
    folder = write_model(tmp_path / "m", classifier=CosineClassifier(24, 2))
    text = (folder / "hyperparams.yaml").read_text()
    names = re.findall(r"!(?:new|name|apply):(\S+)", text)
    assert len(names) >= 6
    assert all(name.startswith(("speechbrain.", "torch.nn.")) for name in names)


def test_keys_are_no_run_options(tmp_path):
    """SpeechBrain takes such keys for options of its own."""
    folder = write_model(
        tmp_path / "m", calibration={"scale": 1.0, "offset": 0.0, "data": "dev"}
    )
    keys = load_hyperpyyaml((folder / "hyperparams.yaml").read_text())
    assert not set(keys) & set(RunOptions().as_dict())


@pytest.mark.parametrize("encoder", ["ecapa", "resnet"])
def test_speechbrain_gives_the_same_embeddings(tmp_path, encoder):
    made = modules(settings(encoder))
    folder = write_model(tmp_path / "m", encoder, modules=made)
    stock = SpeakerRecognition.from_hparams(source=str(folder))
    wavs = torch.randn(2, 16000)
    found = stock.encode_batch(wavs).reshape(2, -1)
    assert torch.allclose(found, encode(made, wavs), atol=1e-6)


def test_global_statistics_travel(tmp_path):
    made = modules(settings(norm="global"))
    assert made["mean_var_norm"].count > 0
    folder = write_model(tmp_path / "m", norm="global", modules=made)
    wavs = torch.randn(2, 16000)
    for cls in (SpeakerRecognition, SpeakerVerifier):
        found = cls.from_hparams(str(folder)).encode_batch(wavs).reshape(2, -1)
        assert torch.allclose(found, encode(made, wavs), atol=1e-6)


def test_moved_folder(tmp_path):
    folder = write_model(tmp_path / "m")
    wavs = torch.randn(1, 16000)
    before = SpeakerVerifier.from_hparams(folder).encode_batch(wavs)
    (tmp_path / "far away").mkdir()
    moved = shutil.move(folder, tmp_path / "far away" / "renamed model")
    assert torch.equal(SpeakerVerifier.from_hparams(moved).encode_batch(wavs), before)


def test_card_tells_what_was_measured(tmp_path):
    folder = write_model(
        tmp_path / "m",
        metrics={"dev": {"eer": 0.0512, "trials": 900}, "test": {"eer": 0.0634}},
        about={"loss": "aam"},
    )
    card = (folder / "README.md").read_text()
    assert "| dev | 0.0512 | 900 |" in card and "| test | 0.0634 |" in card
    assert "at most 1 % false alarms" in card
    assert THRESHOLDS["eer"].data in card and "- loss: aam" in card
    assert "SpeakerRecognition" in card
    lines = card.splitlines()
    for before, line in zip(lines, lines[1:], strict=False):
        if line.startswith("#"):
            assert not before, f"no empty line before {line}"
        if before.startswith("|") and line.startswith("|"):
            assert before.count("|") == line.count("|"), line


def test_ball_models_say_that_they_need_the_package(tmp_path):
    folder = write_model(tmp_path / "m", similarity=PoincareSimilarity(3.0))
    assert "without that package refuses" in (folder / "README.md").read_text()


def test_similarity_keeps_the_heads_settings(tmp_path):
    for loss, curvature in (("h", 4.0), ("ham", 2.5)):
        head = select.head(loss, 24, 2, curvature=curvature)
        folder = write_model(tmp_path / loss, similarity=similarity_of(head))
        found = SpeakerVerifier.from_hparams(folder).similarity
        assert (found.curvature, found.metric) == (curvature, "unit")
    assert similarity_of(select.head("aam", 24, 2)).__class__.__name__ == (
        "CosineSimilarity"
    )


def test_textbook_metric_travels(tmp_path):
    given = PoincareSimilarity(0.5, "curvature", clip_norm=2.0)
    folder = write_model(tmp_path / "m", similarity=given)
    found = SpeakerVerifier.from_hparams(folder).similarity
    kept = found.curvature, found.metric, found.clip_norm
    assert kept == (0.5, "curvature", 2.0)


def test_classifiers_that_the_folder_cannot_hold_are_left_out(tmp_path):
    for name, classifier in {
        "linear": LinearClassifier(24, 2),
        "sub": CosineClassifier(24, 2, sub_centers=3),
        "more": CosineClassifier(24, 5),
    }.items():
        folder = write_model(tmp_path / name, classifier=classifier)
        assert not (folder / "classifier.ckpt").exists()
        SpeakerVerifier.from_hparams(folder)


def test_odd_labels_survive(tmp_path):
    labels = ["o'brien", "a=>b", 'q"', "日本", "back\\slash"]
    folder = write_model(tmp_path / "m", labels=labels)
    encoder = SpeakerVerifier.from_hparams(folder).hparams.label_encoder
    assert [encoder.ind2lab[i] for i in range(5)] == labels


# Refusals


def test_diverged_weights_are_not_exported(tmp_path):
    made = modules(settings())
    made["embedding_model"].fc.conv.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="are not finite; the training diverged"):
        write_model(tmp_path / "m", modules=made)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "block, message",
    [
        ("!new:sb_margins.encoder.SpeakerEncoder {}", "is not a class of SpeechBrain"),
        ("!apply:operator.add [1, 2]", "is not a class of SpeechBrain"),
        ("12", "has no block"),
        ("!new:torch.nn.Linear [!name:os.system , 2]", "is not a class of SpeechBrain"),
        (
            "!new:torch.nn.Linear [!apply:os.cpu_count [], 2]",
            "is not a class of SpeechBrain",
        ),
    ],
)
def test_encoders_that_speechbrain_does_not_have(tmp_path, block, message):
    text = settings().split("embedding_model:")[0] + f"embedding_model: {block}\n"
    with pytest.raises(UserError, match=message):
        export_model(modules(settings()), tmp_path / "m", settings=text)


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        write_model(tmp_path / "m")
    assert (tmp_path / "m" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "f").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        write_model(tmp_path / "f")


def test_exporting_again_replaces(tmp_path):
    write_model(tmp_path / "m", classifier=CosineClassifier(24, 2))
    folder = write_model(tmp_path / "m", labels=[])
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "embedding_model.ckpt",
        "hyperparams.yaml",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


# Results folders


def results(folder, loss="aam", epochs=((1, 0.2), (2, 0.1), (3, 0.3)), corpus="mine"):
    """What a training leaves behind, with random weights."""
    text = settings() + (
        f"corpus: {corpus}\n"
        f"loss: {loss}\nhead: !apply:sb_margins.select.head\n"
        f"    loss: {loss}\n    input_size: !ref <emb_dim>\n    out_neurons: 3\n"
        "    margin: null\n"
    )
    folder.mkdir()
    (folder / "hyperparams.yaml").write_text(text)
    (folder / "label_encoder.txt").write_text(
        "'a' => 0\n'b' => 1\n'c' => 2\n================\n'starting_index' => 0\n"
    )
    made = {}
    for epoch, error in epochs:
        at = folder / "save" / f"CKPT+{epoch}"
        at.mkdir(parents=True)
        made[epoch] = modules(text.split("head:")[0], seed=epoch)
        torch.save(
            made[epoch]["embedding_model"].state_dict(), at / "embedding_model.ckpt"
        )
        head = select.head(loss, 24, 3)
        torch.save(head.state_dict(), at / "head.ckpt")
        meta = {"EER": error, "epoch": epoch, "unixtime": float(epoch)}
        (at / "CKPT.yaml").write_text(yaml.safe_dump(meta))
        (at / "COMPLETE").touch()
    return made


@pytest.mark.parametrize("loss", ["aam", "ham"])
def test_results_become_a_model(tmp_path, loss):
    made = results(tmp_path / "r", loss)
    (tmp_path / "r" / "metrics.json").write_text(json.dumps({"test": {"eer": 0.07}}))
    dev = ([0.9, 0.5, 0.4, 0.1], [1, 1, 0, 0], "dev trials")
    folder = export_results(tmp_path / "r", tmp_path / "m", dev=dev)
    found = SpeakerVerifier.from_hparams(folder)
    wavs = torch.randn(2, 16000)
    assert torch.allclose(found.encode_batch(wavs), encode(made[2], wavs), atol=1e-6)
    assert isinstance(found.similarity, PoincareSimilarity) == (loss == "ham")
    assert found.threshold() == pytest.approx(0.45)
    assert found.calibration is not None
    assert found.hparams.label_encoder.ind2lab[2] == "c"
    assert "classifier" in found.mods
    card = (folder / "README.md").read_text()
    assert "| test | 0.07 |" in card and f"- loss: {loss}" in card
    assert "epoch 2" in card


def test_verdicts_say_what_a_model_was_trained_on(tmp_path, capsys, caplog):
    results(tmp_path / "r", corpus="demo")
    results(tmp_path / "few")
    few = SpeakerVerifier.from_hparams(export_results(tmp_path / "few", tmp_path / "f"))
    assert "trained on 3 speakers only" in few.warnings[0] and len(few.warnings) == 1
    dev = ([0.9, 0.5, 0.4, 0.1], [1, 1, 0, 0], "dev trials")
    folder = export_results(tmp_path / "r", tmp_path / "m", dev=dev)
    model = SpeakerVerifier.from_hparams(folder)
    assert "synthetic voices" in model.warnings[0]
    assert len(model.warnings) == 1 and not caplog.text
    card = (folder / "README.md").read_text()
    assert all(f"Attention: {text}." in card for text in model.warnings)
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    words = ["verify-files", str(folder), *[str(tmp_path / "a.wav")] * 2]
    words += ["--least-speech", "0"]
    assert cli(words) == 0
    printed = capsys.readouterr().out
    assert all(f"attention  {text}\n" in printed for text in model.warnings)
    assert cli([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == model.warnings
    for _ in range(2):  # in Python: once
        model.verify_files(*words[2:4])
    assert caplog.text.count("synthetic voices") == 1


def test_models_of_older_versions_tell_by_their_thresholds(tmp_path):
    data = "the dev trials of the synthetic demo corpus"
    points = calibrate_thresholds([0.9, 0.5, 0.4, 0.1], [1, 1, 0, 0], data)
    folder = write_model(tmp_path / "m", thresholds=points)
    assert "synthetic" in SpeakerVerifier.from_hparams(folder).warnings[0]
    folder = write_model(tmp_path / "n", warnings=["only tones"])
    assert SpeakerVerifier.from_hparams(folder).warnings == ["only tones"]
    yaml_file = folder / "hyperparams.yaml"
    yaml_file.write_text(yaml_file.read_text().replace("only tones", "3"))
    with pytest.raises(UserError, match="must be a list of texts"):
        SpeakerVerifier.from_hparams(folder)


def test_half_written_checkpoints_are_passed_over(tmp_path):
    results(tmp_path / "r")
    (tmp_path / "r" / "save" / "CKPT+2" / "COMPLETE").unlink()
    assert best_checkpoint(tmp_path / "r" / "save").name == "CKPT+1"


@pytest.mark.parametrize(
    "errors", [(".nan", 0.1, 0.2), (0.2, 0.1, ".nan"), ("-.inf", 0.1, 0.2), ("x", 0.1)]
)
def test_an_error_that_is_not_a_number_is_not_the_best(tmp_path, errors):
    for number, error in enumerate(errors):
        folder = tmp_path / f"CKPT+{number}"
        folder.mkdir()
        for name in ("COMPLETE", "embedding_model.ckpt"):
            (folder / name).touch()
        (folder / "CKPT.yaml").write_text(f"EER: {error}\nunixtime: {number}.0\n")
    assert errors[int(best_checkpoint(tmp_path).name[-1])] == 0.1


def test_command(tmp_path, capsys):
    results(tmp_path / "r")
    assert cli(["export", str(tmp_path / "r"), str(tmp_path / "m")]) == 0
    assert "verify-files" in capsys.readouterr().out
    assert cli(["export", str(tmp_path / "none"), str(tmp_path / "m2")]) == 2
    assert "no results folder" in capsys.readouterr().err
    assert SpeakerVerifier.from_hparams(tmp_path / "m").thresholds == {}


# Fine-tuning


def test_encoder_weights_come_from_models_and_results(tmp_path):
    made = results(tmp_path / "r")
    folder = export_results(tmp_path / "r", tmp_path / "m")
    wavs = torch.randn(1, 16000)
    for source in (tmp_path / "r", folder, folder.parent / "r" / "save" / "CKPT+2"):
        fresh = modules(settings(), seed=9)
        assert not torch.allclose(encode(fresh, wavs), encode(made[2], wavs))
        loaded = load_encoder_weights(source, fresh)
        assert list(loaded) == ["embedding_model"]
        assert torch.allclose(encode(fresh, wavs), encode(made[2], wavs))


def test_encoder_weights_must_fit(tmp_path):
    folder = write_model(tmp_path / "m")
    other = modules(settings().replace("half: 12", "half: 13"))
    with pytest.raises(UserError, match="belong to different models"):
        load_encoder_weights(folder, other)
    with pytest.raises(UserError, match="belongs to another model"):
        load_encoder_weights(folder, modules(settings("xvector")))
    with pytest.raises(UserError, match="no such model folder"):
        load_encoder_weights("./nowhere", other)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no embedding_model.ckpt"):
        load_encoder_weights(tmp_path / "empty", other)


def test_an_encoder_of_ours_says_what_speechbrain_needs(tmp_path):
    """With this package installed it loads, also with padded batches."""
    folder = write_model(tmp_path / "m", "resnet_tsp")
    card = (folder / "README.md").read_text()
    assert "SpeechBrain loads it too where sb_margins is installed" in card
    assert "SpeechBrain alone" not in card
    assert (
        "SpeechBrain alone" in (write_model(tmp_path / "o") / "README.md").read_text()
    )
    wavs = torch.randn(2, 16000)
    wavs[1, 8000:] = 0
    stock = SpeakerRecognition.from_hparams(source=str(folder))
    ours = SpeakerVerifier.from_hparams(folder)
    lengths = torch.tensor([1.0, 0.5])
    theirs = stock.encode_batch(wavs, lengths)
    assert torch.allclose(theirs[0], ours.encode_batch(wavs[:1]), atol=1e-5)
    padded = torch.cosine_similarity(theirs[1], ours.encode_batch(wavs[1:, :8000]))
    assert padded > 0.999
