"""Odd names, lists and files at the command line: used, or one line and status 2."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml
from model_folders import modules, settings, write_model

from sb_margins.cli import main
from sb_margins.inference import SpeakerVerifier


@pytest.fixture(scope="module")
def good_model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("odd") / "model")


@pytest.fixture
def place(tmp_path, monkeypatch, good_model, make_voice):
    """A folder to work in: a model, recordings, scores, a list."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(good_model, "model")
    for speaker in range(2):
        for number in range(2):
            wav = make_voice(speaker, number, 1.2)
            soundfile.write(f"s{speaker}u{number}.wav", wav, 16000)
    (tmp_path / "t.txt").write_text("1 s0u0.wav s0u1.wav\n0 s0u0.wav s1u0.wav\n")
    (tmp_path / "s.txt").write_text("1 a b 0.9\n0 a c 0.1\n")
    return tmp_path


VERIFY = "verify --data-folder . --bootstrap 0 --device cpu".split()
A, B, C = "s0u0.wav", "s0u1.wav", "s1u0.wav"


@pytest.fixture
def refused(capsys):
    """Run words that must end in one line and exit status 2; the line."""

    def run(*words):
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2, words
        lines = capsys.readouterr().err.strip().splitlines()
        (line,) = (line for line in lines if not line.startswith("note: "))
        assert line.startswith("sb-margins: error: "), line
        return line

    return run


# Settings of the features (a model is not its weights alone)


@pytest.fixture
def other(place):
    """The model with the same weights and other settings of its features."""
    shutil.copytree("model", "other")
    path = place / "other" / "hyperparams.yaml"
    text = path.read_text()
    assert "n_mels: 40" in text and "std_norm: false" in text
    text = text.replace("n_mels: 40", "n_mels: 40\n  f_min: 2000")
    path.write_text(text.replace("std_norm: false", "std_norm: true"))
    return "other"


def test_a_set_of_a_model_with_other_features_is_refused(other, refused):
    assert main(["enroll", "model", "ann", A]) == 0
    assert "another model" in refused("identify", other, B)


def test_a_shared_cache_keeps_models_with_other_features_apart(other, place):
    def scores(model, cache):
        words = ["--model", model, "--trials", "t.txt", "--cache", cache]
        assert main([*VERIFY, *words, "--output-folder", "out"]) == 0
        return (place / "out" / "scores_t.txt").read_text()

    first = scores("model", "shared")
    assert scores("other", "shared") == scores("other", "own") != first


def test_renaming_a_model_leaves_its_fingerprint(place):
    before = SpeakerVerifier.from_hparams("model").fingerprint
    os.rename("model", "another name")
    assert SpeakerVerifier.from_hparams("another name").fingerprint == before


# Names


def test_names_that_are_not_utf8(place, refused, capsys):
    name = os.fsdecode(b"caf\xe9.wav")
    os.rename(A, name)
    for words in (
        ["enroll", "model", "ann", name],
        ["identify", "model", name],
        ["verify-files", "model", name, B],
        ["verify-files", "model", name, B, "--json"],
        ["embed", "model", name],
    ):
        assert main(words) == 0, words
    capsys.readouterr()
    gone = os.fsdecode(b"\xe9.wav")
    assert r"\udce9.wav" in refused("verify-files", "model", gone, B)


def test_names_that_are_too_long(place, refused):
    long = "x" * 300
    for words in (
        ["verify-files", "model", f"{long}.wav", A],
        ["verify-files", long, A, B],
        ["embed", "model", A, "--out", f"{long}.npz"],
        ["enroll", "model", "ann", A, "--enrolled", f"{long}.npz"],
        ["identify", "model", A, "--enrolled", long],
        ["metrics", long],
        ["export", long, "out"],
        [*VERIFY, "--model", "model", "--trials", long],
    ):
        refused(*words)


# Files of another kind, damaged, or not to be written


def test_a_npy_for_an_npz(place, refused):
    np.save("e.npy", np.ones((2, 24)))
    shutil.copy("e.npy", "e.npz")
    for path in ("e.npy", "e.npz"):
        refused("identify", "model", A, "--enrolled", path)
        refused("verify", "--embeddings", path, "--trials", "t.txt")


@pytest.mark.parametrize("at", ["s.txt/x", "/proc/x"])
def test_outputs_that_cannot_be_written(place, refused, at):
    results_folder(place / "results")
    for words in (
        ["embed", "model", A, "--out", f"{at}.npz"],
        ["enroll", "model", "ann", A, "--enrolled", f"{at}.npz"],
        ["export", "results", at],
        ["metrics", "s.txt", "--bootstrap", "0", "--det", f"{at}.png"],
        [*VERIFY, "--model", "model", "--trials", "t.txt", "--output-folder", at],
    ):
        refused(*words)


def results_folder(folder):
    """What a run leaves."""
    save = folder / "save" / "CKPT+1"
    save.mkdir(parents=True)
    (folder / "hyperparams.yaml").write_text(settings())
    encoder = modules(settings())["embedding_model"]
    torch.save(encoder.state_dict(), save / "embedding_model.ckpt")
    (save / "CKPT.yaml").write_text(yaml.safe_dump({"EER": 0.1, "unixtime": 1.0}))


@pytest.mark.parametrize(
    "name",
    [
        "metrics.json",
        "label_encoder.txt",
        "hyperparams.yaml",
        "save/CKPT+1/CKPT.yaml",
        "save/CKPT+1/embedding_model.ckpt",
    ],
)
def test_damaged_results_are_not_exported(place, refused, name):
    results_folder(place / "results")
    (place / "results" / name).write_bytes(b"\x80damaged\xff")
    assert name.split("/")[-1] in refused("export", "results", "out") or "CKPT" in name
    assert not (place / "out").exists()


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "latin-1"])
def test_lists_of_other_encodings(place, refused, coding):
    """As PowerShell and old editors write them."""
    os.rename(A, "zoë.wav")
    for name, words in (
        ("t.txt", [*VERIFY, "--model", "model", "--trials", "t.txt"]),
        ("s.txt", ["metrics", "s.txt", "--bootstrap", "0"]),
    ):
        text = (place / name).read_text().replace(A, "zoë.wav").replace("b", "ë")
        (place / name).write_text(text, encoding=coding)
        if coding == "utf-16":
            assert main(words) == 0
        else:
            assert "UTF-8" in refused(*words)


def test_control_characters_of_a_threshold_are_not_printed(place, capsys):
    path = place / "model" / "hyperparams.yaml"
    text = path.read_text()
    assert "dev trials of the test corpus" in text
    path.write_text(text.replace("dev trials of the test corpus", r'"\e[2J\a trials"'))
    assert main(["verify-files", "model", A, B]) == 0
    out = capsys.readouterr().out
    assert r"on \x1b[2J\x07 trials" in out and "\x1b" not in out
