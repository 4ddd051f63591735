"""One trial has one score, and one file one verdict, whichever command is asked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from model_folders import write_model
from odd_audio import flac_of_unknown_length, wav_of_rate

from sb_margins.cli import main
from sb_margins.inference import SpeakerVerifier
from sb_margins.similarity import PoincareSimilarity
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.score_file import read_scores

SIMILARITIES = {"cosine": None, "ball": PoincareSimilarity(3.0)}


@pytest.fixture(scope="module", params=SIMILARITIES)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / request.param
    return write_model(folder, similarity=SIMILARITIES[request.param])


@pytest.fixture
def corpus(tmp_path, make_voice, monkeypatch):
    """Files, a list of single trials and one of models with three utterances."""
    monkeypatch.chdir(tmp_path)
    names, trials, models, enrol = [], [], [], []
    for speaker in range(3):
        for utterance in range(4):
            names.append(f"s{speaker}u{utterance}.wav")
            wav = make_voice(speaker, utterance, 1.1 + 0.1 * utterance)
            soundfile.write(names[-1], wav, 16000)
        enrol.append(f"m{speaker} {' '.join(names[-4:-1])}\n")
    for one in names:
        trials += [f"{int(one[:2] == two[:2])} {one} {two}\n" for two in names]
    for m in range(3):
        models += [f"{int(m == s)} m{m} s{s}u3.wav\n" for s in range(3)]
    (tmp_path / "trials.txt").write_text("".join(trials))
    (tmp_path / "models.txt").write_text("".join(models))
    (tmp_path / "enrol.txt").write_text("".join(enrol))
    return names


LISTS = ["--trials", "T=trials.txt", "M=models.txt", "--enrolment", "M=enrol.txt"]
LISTS += ["--bootstrap", "0", "--device", "cpu"]


def scores_of(folder):
    return {n: read_scores(f"{folder}/scores_{n}.txt")[1] for n in ("T", "M")}


def test_embed_then_verify_scores_as_verify_does(model, corpus):
    """Of the model, of `embed`'s file, and of what `verify --save-embeddings` wrote."""
    words = ["embed", str(model), *corpus, "--output", "e.npz", "--device", "cpu"]
    assert main(words) == 0
    by_model = ["verify", "--model", str(model), "--data-folder", ".", *LISTS]
    assert main([*by_model, "--output-folder", "a", "--save-embeddings"]) == 0
    for kept, out in (("e.npz", "b"), ("a/embeddings.npz", "c")):
        command = ["verify", "--embeddings", kept, *LISTS, "--output-folder", out]
        assert main(command) == 0
    expected = scores_of("a")
    for out in ("b", "c"):
        for name, scores in scores_of(out).items():
            np.testing.assert_allclose(scores, expected[name], atol=1e-6)
    # and SpeakerVerifier gives the same, for one and for three enrolled utterances
    verifier = SpeakerVerifier.from_hparams(model, run_opts={"device": "cpu"})
    one = float(verifier.score_files(corpus[0], corpus[5]))
    assert one == pytest.approx(expected["T"][5], abs=2e-5)
    three = float(verifier.score_files(corpus[:3], corpus[7]))
    assert three == pytest.approx(expected["M"][1], abs=2e-5)
    assert Embeddings.load("e.npz").fingerprint == verifier.fingerprint


def test_unusable_and_poor_audio_is_counted(tmp_path, make_voice, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = write_model(tmp_path / "model")
    voice = make_voice(1, 1, 1.5)
    good = {
        "a": voice,
        "b": make_voice(2, 1, 1.5),
        "clipped": np.clip(9 * voice, -1, 1),
    }
    for name, wav in good.items():
        soundfile.write(f"{name}.wav", wav, 16000)
    bad = {"silent": 0 * voice, "one": voice[:1], "anti": np.stack([voice, -voice], 1)}
    bad["hundred"] = voice[:100]
    for name, wav in bad.items():
        soundfile.write(f"{name}.wav", wav, 16000)
    wav_of_rate(tmp_path / "rate1.wav", voice, 1)
    wav_of_rate(tmp_path / "rate31.wav", voice, 2**31)
    unusable = [*bad, "rate1", "rate31"]
    soundfile.write("gsm.wav", voice, 16000, subtype="GSM610")
    flac_of_unknown_length(tmp_path / "unknown.flac", voice)
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[: 9 * len(content) // 10])
    files = [f"{n}.wav" for n in [*good, *unusable, "gsm", "cut"]] + ["unknown.flac"]
    pairs = [f"{int(n == 'a.wav')} a.wav {n}\n" for n in files]
    (tmp_path / "t.txt").write_text("".join(pairs))
    command = ["verify", "--model", str(model), "--trials", "t=t.txt"]
    command += ["--data-folder", ".", "--bootstrap", "0", "--device", "cpu"]
    assert main([*command, "--output-folder", "out"]) == 2
    assert "6 of 12 audio files are unusable" in capsys.readouterr().err
    assert main([*command, "--output-folder", "out", "--skip-bad"]) == 0
    skipped = (tmp_path / "out" / "skipped.txt").read_text()
    for name, why in {
        "silent": "is silent",
        "one": "too short",
        "hundred": "too short",
        "anti": "channels cancel",
        "rate1": "out of range",
    }.items():
        rows = [row for row in skipped.splitlines() if row.startswith(f"{name}.wav")]
        assert why in rows[0]
    notes = (tmp_path / "out" / "notes.txt").read_text()
    assert notes.startswith("clipped.wav\tis clipped")
    assert "cut.wav\tis truncated" in notes and len(notes.splitlines()) == 2
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["skipped utterances"] == 6 and metrics["poor recordings"] == 2
    assert metrics["lists"]["t"]["left out"] == 6
    # again, from the cache: the notes are still there
    assert main([*command, "--output-folder", "out", "--skip-bad"]) == 0
    assert (tmp_path / "out" / "notes.txt").read_text() == notes
