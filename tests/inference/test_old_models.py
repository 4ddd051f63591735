"""Model folders that version 0.1.0 exported before this layout of the package: they
load, score and decide alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sb_margins.inference import SpeakerVerifier

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "old_models"


@pytest.mark.parametrize("name", ["cosine", "ball"])
@pytest.mark.parametrize("trust", [False, True])
def test_old_models_score_alike(name, trust, tmp_path, make_voice):
    expected = json.loads((FOLDER / "scores.json").read_text())[name]
    paths = []
    for speaker in range(3):
        for utterance in range(2):
            paths.append(tmp_path / f"{speaker}_{utterance}.wav")
            soundfile.write(paths[-1], make_voice(speaker, utterance, 1.5), 16000)
    folder = shutil.copytree(FOLDER / name, tmp_path / name)
    model = SpeakerVerifier.from_hparams(folder, trust=trust, device="cpu")
    scores = model.verify_list([(a, b) for a in paths for b in paths])
    old = np.array(expected["scores"])
    assert np.abs(scores - old).max() < 1e-6 * max(1, np.abs(old).max())
    assert model.threshold() == expected["threshold"]
    same = [bool(model.verify_files(paths[0], path)[1]) for path in paths]
    assert same == (old[:6] > expected["threshold"]).tolist()
    assert model.llr(0.5) == pytest.approx(0.0)
    wav = torch.from_numpy(model.read(paths[0]).wav)[None]
    assert model.classify_batch(wav)[3] == expected["classes"]
