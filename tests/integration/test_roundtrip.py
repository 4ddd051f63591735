"""Train a little, export, move, load elsewhere: the same embeddings and scores."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import encode, modules, settings

from sb_margins import select
from sb_margins.audio import read_recording
from sb_margins.cli import main as cli
from sb_margins.inference import (
    SpeakerVerifier,
    calibrate_thresholds,
    export_model,
    similarity_of,
)

# Plain SpeechBrain, with our package out of reach.
STOCK = """
import importlib.abc, json, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sb_margins":
            raise ImportError("sb_margins is not installed here")

sys.meta_path.insert(0, Block())
from speechbrain.inference.speaker import SpeakerRecognition

folder, *files = sys.argv[1:]
model = SpeakerRecognition.from_hparams(source=folder)
first = model.encode_batch(model.load_audio(files[0])[None]).flatten().tolist()
scores = [float(model.verify_files(files[0], f)[0]) for f in files]
assert "sb_margins" not in sys.modules
print(json.dumps([first, scores]))
"""

OURS = """
import json, sys
from sb_margins.inference import SpeakerVerifier

folder, *files = sys.argv[1:]
model = SpeakerVerifier.from_hparams(folder)
first = model.encode_files(files[:1])[0].tolist()
scores = [float(model.verify_files(files[0], f)[0]) for f in files]
print(json.dumps([first, scores]))
"""


def fresh_process(script, *words):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
    )
    return done, (json.loads(done.stdout) if done.returncode == 0 else None)


@pytest.fixture(scope="module")
def files(tiny_corpus):
    return sorted(tiny_corpus.rglob("*.wav"))[::5]


def train(loss, files):
    """A few steps of training; embeddings and scores as this process has them."""
    made = modules(settings(), seed=0)
    speakers = sorted({path.parts[-3] for path in files})
    head = select.head(loss, input_size=24, out_neurons=len(speakers))
    network = made["embedding_model"].train()
    adam = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=1e-3)
    wavs = np.stack([read_recording(path).wav[:16000] for path in files])
    targets = torch.tensor([speakers.index(path.parts[-3]) for path in files])
    for _ in range(4):
        feats = made["compute_features"](torch.from_numpy(wavs))
        feats = made["mean_var_norm"](feats, torch.ones(len(wavs)))
        adam.zero_grad()
        head(network(feats), targets).backward()
        adam.step()
    network.eval()
    rows = torch.cat(
        [encode(made, torch.from_numpy(read_recording(p).wav)[None]) for p in files]
    )
    similarity = similarity_of(head)
    return made, head, speakers, rows, similarity(rows[:1], rows)


@pytest.mark.parametrize("loss", ["aam", "ham"])
def test_round_trip(loss, files, tmp_path):
    made, head, speakers, rows, scores = train(loss, files)
    labels = np.arange(len(files)) < 2
    folder = export_model(
        made,
        tmp_path / "exported",
        settings=settings(),
        similarity=similarity_of(head),
        classifier=head.classifier,
        labels=speakers,
        thresholds=calibrate_thresholds(scores.numpy(), labels, "toy"),
    )
    (tmp_path / "other place").mkdir()
    moved = Path(shutil.move(folder, tmp_path / "other place" / "model"))

    here = SpeakerVerifier.from_hparams(moved)
    assert torch.allclose(here.encode_files(files), rows, atol=1e-6)
    pairs = [(files[0], path) for path in files]
    assert np.abs(here.verify_list(pairs) - scores.numpy()).max() < 1e-5

    done, found = fresh_process(OURS, moved, *files)
    assert found is not None, done.stderr
    assert np.abs(np.array(found[0]) - rows[0].numpy()).max() < 1e-6
    assert np.abs(np.array(found[1]) - scores.numpy()).max() < 1e-5

    done, found = fresh_process(STOCK, moved, *files)
    if loss == "ham":  # must be told, not scored by a wrong similarity
        assert found is None and "sb_margins" in done.stderr
        return
    assert found is not None, done.stderr
    assert np.abs(np.array(found[0]) - rows[0].numpy()).max() < 1e-6
    assert np.abs(np.array(found[1]) - scores.numpy()).max() < 1e-5


def test_commands(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, head, speakers, _, scores = train("aam", files)
    labels = np.arange(len(files)) < 2
    folder = export_model(
        made,
        "model",
        settings=settings(),
        labels=speakers,
        thresholds=calibrate_thresholds(scores.numpy(), labels, "toy trials"),
        calibration={"scale": 5.0, "offset": -1.0, "data": "toy"},
    )
    one, two = str(files[0]), str(files[1])
    model = str(folder)
    assert cli(["verify-files", model, one, one]) == 0
    told = capsys.readouterr().out
    assert "score      1.0000" in told and "same speaker" in told
    assert "toy trials" in told and "evidence" in told
    assert cli(["verify-files", model, one, two, "--threshold", "1.1"]) == 0
    assert "different speakers" in capsys.readouterr().out
    assert cli(["verify-files", model, one, two, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threshold_meaning"].startswith("eer: false alarms")

    assert cli(["enroll", model, "ann", one, two]) == 0
    assert cli(["enroll", model, "bob", str(files[-1])]) == 0
    assert "2 enrolled in enrolled.npz" in capsys.readouterr().out
    assert cli(["enroll", model, "--list"]) == 0
    assert capsys.readouterr().out == "ann\t2\nbob\t1\n"
    assert cli(["identify", model, str(files[-1]), "--top", "1"]) == 0
    assert f"{files[-1]}: bob" in capsys.readouterr().out
    assert cli(["identify", model, one, "--threshold", "2"]) == 0
    assert "nobody enrolled" in capsys.readouterr().out
    assert cli(["enroll", model, "bob", "--remove"]) == 0
    assert cli(["embed", model, one, two, "--output", "e.npz"]) == 0
    capsys.readouterr()
    with np.load("e.npz") as kept:
        assert kept["ids"].tolist() == [one, two]
        assert kept["embeddings"].shape == (2, 24)

    for words in (
        ["verify-files", model, one],
        ["verify-files", "nowhere", one, two],
        ["verify-files", model, one, "nowhere.wav"],
        ["verify-files", model, one, two, "--threshold", "often"],
        ["enroll", model],
        ["enroll", model, "ann"],
        ["enroll", model, "zoe", "--remove"],
        ["identify", model, one, "--set", "nowhere.npz"],
        ["identify", model, one, "--top", "0"],
        ["embed", model, one, "--output", "nowhere/e.npz"],
        ["verify-files", model, one, two, "--device", "abacus"],
    ):
        assert cli(words) == 2, words
        assert "sb-margins: error: " in capsys.readouterr().err
