"""Killed at any moment, or out of disk: the old state or the new one, no litter."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupting import kill_at_each_change, listing, run_with_file_limit
from model_folders import modules, settings, write_model

from sb_margins.cli import main
from sb_margins.inference import SpeakerVerifier, export_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("kill") / "model")


@pytest.fixture(scope="module")
def files(tiny_corpus):
    return [str(path) for path in sorted(tiny_corpus.rglob("*.wav"))[::6]]


def run(words):
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0, words


def embed_case(model, files, folder):
    """Embeddings of one file replaced by those of two."""
    path = folder / "embeddings.npz"
    folder.mkdir()

    def words(*names):
        return ["embed", str(model), *names, "--output", str(path)]

    def state():
        with np.load(path) as data:
            return [str(name) for name in data["ids"]]

    return words(files[0]), words(files[1], files[2]), state


def enroll_case(model, files, folder):
    """A second speaker in a set of one."""
    path = folder / "people.npz"

    def words(*names):
        return ["enroll", str(model), *names, "--set", str(path)]

    def state():
        verifier = SpeakerVerifier.from_hparams(str(model))
        return sorted(verifier.use_enrolled(path).names)

    return words("ann", files[0]), words("bob", files[1]), state


def verify_case(model, files, folder):
    """Scores of one list replaced by those of another, with the embeddings kept."""
    lists = [folder.parent / "one.txt", folder.parent / "two.txt"]
    lists[0].write_text(f"1 {files[0]} {files[0]}\n0 {files[0]} {files[1]}\n")
    lists[1].write_text(f"1 {files[1]} {files[1]}\n0 {files[1]} {files[2]}\n")
    words = ["verify", "--model", str(model), "--data-root", "/", "--bootstrap", "0"]
    words += ["--output-folder", str(folder), "--save-embeddings", "--trials"]

    def state():
        lines = (folder / "scores_t.txt").read_text().splitlines()
        json.loads((folder / "metrics.json").read_text())
        with np.load(folder / "embeddings.npz") as data:
            assert len(data["ids"]) == 2
        assert len(lines) == 2
        return [line.split()[:2] for line in lines]

    return [*words, f"t={lists[0]}"], [*words, f"t={lists[1]}"], state


CASES = [embed_case, enroll_case, verify_case]


@pytest.mark.parametrize("case", CASES)
def test_a_kill_leaves_the_old_state_or_the_new(case, model, files, tmp_path):
    folder = tmp_path / "out"
    first, second, state = case(model, files, folder)
    run(first)
    old = state()
    saved = shutil.copytree(folder, tmp_path / "saved")
    run(second)
    new, names = state(), listing(folder)
    assert new != old
    kills = 0
    shutil.rmtree(folder)
    shutil.copytree(saved, folder)
    step = 5 if case is verify_case else 1  # it writes many files
    for _ in kill_at_each_change(second, folder, step):
        kills += 1
        assert state() in (old, new)
        run(second)
        assert state() == new
        assert listing(folder) == names  # nothing is left of the killed run
        shutil.rmtree(folder)
        shutil.copytree(saved, folder)
    assert kills >= 2


@pytest.mark.parametrize("case", CASES)
def test_a_full_disk_leaves_the_old_state(case, model, files, tmp_path):
    folder = tmp_path / "out"
    first, second, state = case(model, files, folder)
    run(first)
    old, names = state(), listing(folder)
    assert run_with_file_limit(second, 16) == 2
    assert state() == old
    new_names = [name for name in listing(folder) if name not in names]
    assert not [name for name in new_names if "part" in Path(name).suffixes], new_names
    run(second)
    assert state() != old


def test_a_killed_export_leaves_the_old_model_or_the_new(model, tmp_path, monkeypatch):
    """The export over an existing model, killed at each change."""
    import sb_margins.cli as cli

    target = tmp_path / "out" / "model"
    text = settings()
    other = modules(text, seed=8)

    def export(words):
        export_model(other, target, settings=text, labels=["ann", "bob"])
        return 0

    def embedding():
        wav = torch.linspace(-0.5, 0.5, 8000)[None]
        return SpeakerVerifier.from_hparams(str(target)).encode_batch(wav)

    shutil.copytree(model, target)
    old = embedding()
    export([])
    new, names = embedding(), listing(target.parent)
    assert not torch.allclose(old, new)
    monkeypatch.setattr(cli, "main", export)
    kills = 0
    shutil.rmtree(target.parent)
    shutil.copytree(model, target)
    for _ in kill_at_each_change([], target.parent):
        kills += 1
        found = embedding()
        assert torch.equal(found, old) or torch.equal(found, new)
        export([])
        assert torch.equal(embedding(), new)
        assert listing(target.parent) == names
        shutil.rmtree(target.parent)
        shutil.copytree(model, target)
    assert kills >= 2
    assert run_with_file_limit([], 4096) in (2, 98)
    assert torch.equal(embedding(), old) or torch.equal(embedding(), new)
