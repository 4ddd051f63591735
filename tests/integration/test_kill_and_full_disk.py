"""Killed at any moment, or out of disk: the old state or the new one, no litter."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupting import kill_at_each_change, listing, run_with_file_limit
from matplotlib.image import imread
from model_folders import modules, settings, write_model
from tiny_brain import tiny_brain

from sb_margins.cli import main
from sb_margins.errors import UserError
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


def metrics_case(model, files, folder):
    """One system's curve replaced by another's."""
    folder.mkdir()
    for name, score in (("one", 0.2), ("two", 0.8)):
        lines = ["1 a b 0.9\n", f"1 c d {score}\n", "0 a c 0.1\n", "0 b d 0.5\n"]
        (folder.parent / f"{name}.txt").write_text("".join(lines))

    def words(name):
        scores = f"system={folder.parent / name}.txt"
        return ["metrics", scores, "--bootstrap", "0", "--det", str(folder / "det.png")]

    def state():
        return imread(folder / "det.png").tobytes()

    return words("one"), words("two"), state


CASES = [embed_case, enroll_case, verify_case, metrics_case]


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
        try:
            export_model(other, target, settings=text, labels=["ann", "bob"])
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
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
    for size in (16, 4096):
        shutil.rmtree(target.parent)
        shutil.copytree(model, target)
        assert run_with_file_limit([], size) == 2
        assert torch.equal(embedding(), old) and listing(target.parent) == names


def test_figures_that_cannot_be_printed_are_an_error(tmp_path):
    """`metrics --json > FILE` on a full disk."""
    (tmp_path / "s.txt").write_text("1 a b 0.9\n0 a c 0.1\n")
    words = [sys.executable, "-m", "sb_margins", "metrics", str(tmp_path / "s.txt")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*words, "--bootstrap", "0", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    assert done.stderr == "sb-margins: error: No space left on device\n"


def test_a_killed_save_leaves_the_old_checkpoint_or_the_new(tmp_path, monkeypatch):
    """The second epoch of a run, killed at each change of its folder."""
    import sb_margins.cli as cli

    save = tmp_path / "save"

    def run_to(epoch):
        brain, loader = tiny_brain(2, folder=save)
        errors = {1: 0.4, 2: 0.3, 3: 0.2}
        brain.validate = lambda encoder: {"EER": errors[brain.epoch]}
        found = brain.checkpointer.recover_if_possible()
        done = found.meta["epoch"] if found else 0
        brain.fit(range(done + 1, epoch + 1), loader)
        return 0

    def state():
        """The epoch, and the weights, that a run would continue from."""
        brain, _ = tiny_brain(2, folder=save)
        found = brain.checkpointer.recover_if_possible()
        weights = brain.modules.embedding_model.weight.detach().clone()
        return found.meta["epoch"], weights

    def names():
        return sorted(re.sub(r"CKPT\+[^/]*", "CKPT", name) for name in listing(save))

    weights = {}
    for epoch in (1, 2, 3):
        run_to(epoch)
        if epoch == 1:
            saved = shutil.copytree(save, tmp_path / "saved")
        found, weights[epoch] = state()
        assert found == epoch
    files = names()
    monkeypatch.setattr(cli, "main", lambda words: run_to(2))
    shutil.rmtree(save)
    shutil.copytree(saved, save)
    kills = 0
    for _ in kill_at_each_change([], save):
        kills += 1
        epoch, kept = state()
        assert epoch in (1, 2) and torch.equal(kept, weights[epoch])
        run_to(3)
        epoch, kept = state()
        assert epoch == 3 and torch.equal(kept, weights[3])
        assert names() == files and not [p for p in save.rglob("*") if _empty(p)]
        shutil.rmtree(save)
        shutil.copytree(saved, save)
    assert kills >= 5
    shutil.rmtree(save)
    shutil.copytree(saved, save)
    assert run_with_file_limit([], 64) == 98  # an error, before the old one is deleted
    epoch, kept = state()
    assert epoch == 1 and torch.equal(kept, weights[1])


def _empty(path):
    return path.is_dir() and not any(path.iterdir())
