"""SpeakerVerifier: embeddings, scores, decisions, enrolled speakers."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest
import soundfile
import torch
from model_folders import ENCODERS, THRESHOLDS, encode, modules, settings, write_model
from speechbrain.inference.speaker import SpeakerRecognition

from sb_margins.cli import main as cli
from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.inference import EnrolledSet, SpeakerVerifier, verifier
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity
from sb_margins.verification import embed
from sb_margins.verification.scoring import score_trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(
        tmp_path_factory.mktemp("verifier") / "model",
        calibration={"scale": 10.0, "offset": -5.0, "data": "dev"},
    )


@pytest.fixture(scope="module")
def ball_folder(tmp_path_factory):
    return write_model(
        tmp_path_factory.mktemp("verifier") / "ball",
        similarity=PoincareSimilarity(curvature=3.0),
        thresholds={},
    )


@pytest.fixture(scope="module")
def model(folder):
    return SpeakerVerifier.from_hparams(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory, make_voice):
    """Four speakers, three utterances, lengths that repeat."""
    root = tmp_path_factory.mktemp("voices")
    found = {}
    for speaker in range(4):
        for utterance in range(3):
            path = root / f"{speaker}_{utterance}.wav"
            wav = make_voice(speaker, utterance, 1.5 + 0.25 * (utterance % 2))
            soundfile.write(path, wav, 16000)
            found[speaker, utterance] = path
    return found


# SpeechBrain's x-vector adds a little noise in its pooling, also in eval mode.
NOISE = {"xvector": 1e-3}

# Embeddings


@pytest.mark.parametrize("encoder", ENCODERS)
def test_embeddings_are_rows(tmp_path, encoder):
    made = modules(settings(encoder))
    found = SpeakerVerifier.from_hparams(
        write_model(tmp_path / "m", encoder, modules=made)
    )
    wavs = torch.randn(3, 16000)
    rows = found.encode_batch(wavs)
    assert rows.shape == (3, 24) and rows.dtype == torch.float32
    assert torch.allclose(rows, encode(made, wavs), atol=NOISE.get(encoder, 1e-5))
    assert found.verify_batch(wavs, wavs)[0].shape == (3,)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_does_not_leak(tmp_path, encoder):
    found = SpeakerVerifier.from_hparams(write_model(tmp_path / "m", encoder))
    lengths = [16000, 9000, 12345, 9000]
    rows = [torch.randn(n) for n in lengths]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    together = found.encode_batch(batch, torch.tensor(lengths) / 16000)
    alone = torch.cat([found.encode_batch(row) for row in rows])
    near = NOISE.get(encoder, 1e-5)
    assert torch.allclose(together, alone, atol=near)
    batch[1, 9000:] = 7.0  # whatever the padding holds
    again = found.encode_batch(batch, torch.tensor(lengths) / 16000)
    assert torch.allclose(together, again, atol=near if encoder in NOISE else 0)


def test_scores_do_not_depend_on_the_batch_or_the_order(model, files):
    paths = list(files.values())
    pairs = [(one, two) for one in paths for two in paths]
    whole = model.verify_list(pairs)
    backwards = model.verify_list(pairs[::-1])[::-1]
    rng = np.random.default_rng(0)
    single = [float(model.score_files(*pairs[i])) for i in rng.permutation(144)[:40]]
    picked = [whole[i] for i in np.random.default_rng(0).permutation(144)[:40]]
    assert np.abs(whole - backwards).max() < 1e-5
    assert np.abs(np.array(single) - picked).max() < 1e-5
    assert np.abs(whole.reshape(12, 12) - whole.reshape(12, 12).T).max() < 1e-5


def test_files_are_read_once(model, files, monkeypatch):
    seen = []
    read = embed.read_recording

    def note(path, **rest):
        seen.append(str(path))
        return read(path, **rest)

    monkeypatch.setattr(embed, "read_recording", note)
    paths = [str(path) for path in files.values()]
    model.verify_list([(a, b) for a in paths for b in paths])
    assert sorted(seen) == sorted(paths)


def test_equals_speechbrain(folder, model, files):
    stock = SpeakerRecognition.from_hparams(source=str(folder))
    for one, two in [((0, 0), (0, 1)), ((0, 0), (1, 0)), ((2, 2), (3, 1))]:
        theirs, _ = stock.verify_files(str(files[one]), str(files[two]))
        ours, _ = model.verify_files(files[one], files[two])
        assert abs(float(theirs) - float(ours)) < 1e-5


def test_embeddings_need_no_gradient(model):
    assert not model.encode_batch(torch.randn(1, 16000)).requires_grad
    assert not any(p.requires_grad for p in model.parameters())


def test_bf16(folder, files):
    exact = SpeakerVerifier.from_hparams(folder, run_opts={"device": "cpu"})
    options = {"device": "cpu", "precision": "bf16"}
    rough = SpeakerVerifier.from_hparams(folder, run_opts=options)
    paths = list(files.values())
    one, two = exact.encode_files(paths), rough.encode_files(paths)
    assert two.dtype == torch.float32 and not torch.equal(one, two)
    assert torch.nn.functional.cosine_similarity(one, two).min() > 0.99


def test_on_the_device_under_test(folder, files, device):
    if device == "cpu":
        pytest.skip("needs --device cuda")
    there = SpeakerVerifier.from_hparams(folder, run_opts={"device": device})
    here = SpeakerVerifier.from_hparams(folder, run_opts={"device": "cpu"})
    paths = list(files.values())
    pairs = [(a, b) for a in paths for b in paths]
    assert np.abs(there.verify_list(pairs) - here.verify_list(pairs)).max() < 1e-3
    there.enroll("ann", paths[:3])
    assert there.identify(paths[0])[0].name == "ann"


@pytest.mark.parametrize(
    "wavs, lens, message",
    [
        (torch.randn(2, 3, 4), None, "must be"),
        (torch.randn(0, 16000), None, "must be"),
        (torch.randn(2, 16000), torch.tensor([1.0]), "one number"),
        (torch.randn(2, 16000), torch.tensor([1.0, 0.0]), "one number"),
        (torch.randn(2, 16000), torch.tensor([1.0, 2.0]), "one number"),
        (torch.full((1, 16000), float("nan")), None, "not finite"),
    ],
)
def test_bad_batches(model, wavs, lens, message):
    with pytest.raises(UserError, match=message):
        model.encode_batch(wavs, lens)


# Decisions


def test_thresholds_by_name_and_value(model, files):
    assert model.threshold() == THRESHOLDS["eer"].value
    assert model.threshold("far1") == THRESHOLDS["far1"].value
    assert model.threshold(0.9) == model.threshold("0.9") == 0.9
    with pytest.raises(UserError, match="has: eer, far1"):
        model.threshold("far")
    with pytest.raises(UserError, match="finite"):
        model.threshold(float("nan"))
    pair = files[0, 0], files[0, 1]
    score, same = model.verify_files(*pair, threshold=-1.1)
    assert same and score.dim() == 0
    assert not model.verify_files(*pair, threshold=1.1)[1]


def test_a_score_on_the_threshold_is_not_above_it(model, files):
    one, two = files[0, 0], files[1, 1]
    limit = float(model.score_files(one, two))
    below = np.nextafter(np.float32(limit), np.float32(-2)).item()
    model.enrolled = EnrolledSet(model.fingerprint)
    model.enrolled.add("ann", model.encode_files([one]))
    exact = model.identify(two)[0].score
    for threshold, same in ((limit, False), (below, True)):
        assert bool(model.verify_files(one, two, threshold=threshold)[1]) is same
    for threshold, same in ((exact, False), (exact - 1e-6, True)):
        assert model.identify(two, threshold=threshold)[0].same is same
    wavs = torch.randn(1, 16000), torch.randn(1, 12000)
    score, _ = model.verify_batch(*wavs)
    assert not model.verify_batch(*wavs, threshold=float(score))[1]


def test_many_pairs_are_scored_in_parts(model, files, monkeypatch):
    paths = list(files.values())[:3]
    pairs = [(a, b) for a in paths for b in paths]
    whole = model.verify_list(pairs)
    monkeypatch.setattr(verifier, "PAIRS", 4)
    assert np.allclose(model.verify_list(pairs), whole, atol=1e-6)
    assert whole.dtype == np.float32 and model.verify_list([]).shape == (0,)


def test_how_many_are_named(model):
    model.enrolled = EnrolledSet(model.fingerprint)
    rows = torch.randn(7, 24)
    model.enrolled.add_many([f"s{i}" for i in range(7)], rows)
    assert len(model.identify_embedding(rows[0])) == 5
    assert [m.name for m in model.identify_embedding(rows[3], top=0)] == ["s3"]
    assert len(model.identify_embedding(rows[0], top=99)) == 7


def test_lengths_and_normalisation(model):
    wavs = torch.randn(2, 9000)
    rows = model.encode_batch(wavs, torch.tensor([1.0, 1 + 5e-7]), normalize=True)
    assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(
        rows, torch.nn.functional.normalize(model.encode_batch(wavs)), atol=1e-5
    )
    with pytest.raises(UserError, match="one number"):
        model.encode_batch(wavs, torch.tensor([1.0, 1 + 1e-5]))
    assert SpeakerVerifier(dict(model.mods.items()), {}).sample_rate == 16000


def test_llr(model):
    assert model.llr(0.5) == 0 and model.llr(0.6) == pytest.approx(1.0)
    assert torch.equal(model.llr(torch.tensor([0.5])), torch.tensor([0.0]))


def test_no_threshold_no_decision(ball_folder, files):
    ball = SpeakerVerifier.from_hparams(ball_folder)
    with pytest.raises(UserError, match="no calibrated threshold"):
        ball.verify_files(files[0, 0], files[0, 1])
    with pytest.raises(UserError, match="without a calibration"):
        ball.llr(0.0)
    assert ball.verify_files(files[0, 0], files[0, 1], threshold=-100)[1]


def test_ball_scores(ball_folder, files):
    ball = SpeakerVerifier.from_hparams(ball_folder)
    assert isinstance(ball.similarity, PoincareSimilarity)
    assert ball.similarity.curvature == 3.0
    found = ball.encode_files([files[0, 0], files[1, 0]])
    want = PoincareSimilarity(3.0)(found[:1], found[1:])[0]
    assert torch.equal(ball.score_files(files[0, 0], files[1, 0]), want)
    assert ball.score_files(files[0, 0], files[0, 0]) > want


def test_several_enrolment_files(model, files):
    known = [files[1, 0], files[1, 1]]
    score = model.score_files(known, files[1, 2])
    rows = torch.nn.functional.normalize(model.encode_files([*known, files[1, 2]]))
    want = CosineSimilarity()(rows[:2].mean(0), rows[2])
    assert abs(float(score) - float(want)) < 1e-5


def test_speechbrains_arguments(model, files):
    model.verify_files(str(files[0, 0]), str(files[0, 1]), savedir="x")
    with pytest.raises(UserError, match="does not take volume"):
        model.verify_files(files[0, 0], files[0, 1], volume=1)
    wav = model.load_audio(files[0, 0])
    assert wav.dim() == 1
    score, _ = model.verify_batch(wav[None], wav[None], torch.ones(1), torch.ones(1))
    assert score[0] == pytest.approx(1.0, abs=1e-5)


def test_classify_names_training_speakers(tmp_path):
    from sb_margins.classifiers import CosineClassifier

    classifier = CosineClassifier(24, 2)
    found = SpeakerVerifier.from_hparams(
        write_model(tmp_path / "m", classifier=classifier)
    )
    wavs = torch.randn(2, 16000)
    scores, _, index, names = found.classify_batch(wavs)
    want = classifier(found.encode_batch(wavs)).squeeze(1)
    assert torch.allclose(scores, want, atol=1e-5)
    assert names == [["ann", "bob"][i] for i in index]


# Enrolled speakers


@pytest.mark.parametrize("kind", ["cosine", "ball"])
def test_one_score_of_a_trial(kind, folder, ball_folder, files, tmp_path, capsys):
    """Three enrolment utterances: `verify`, `verify-files`, `identify` and their
    methods agree."""
    where = folder if kind == "cosine" else ball_folder
    known, probe = [files[1, i] for i in range(3)], files[2, 1]
    model = SpeakerVerifier.from_hparams(where)
    scores = [float(model.score_files(known, probe))]
    model.use_enrolled(tmp_path / "people.npz")
    model.enroll("bea", known[:1])
    model.enroll("bea", known[1:])
    scores.append(model.identify(probe)[0].score)

    named = {path.stem: path for path in files.values()}
    embeddings = embed.embed_files(model.encoder, named, similarity=model.similarity)
    trials = Trials(["bea"], [probe.stem], models={"bea": [p.stem for p in known]})
    scores.append(float(score_trials(embeddings, trials)[0]))

    words = ["verify-files", str(where), *map(str, known), str(probe), "--json"]
    assert cli(words) == 0
    scores.append(json.loads(capsys.readouterr().out)["score"])
    people = ["--set", str(tmp_path / "people.npz"), "--json"]
    assert cli(["identify", str(where), str(probe), *people]) == 0
    scores.append(json.loads(capsys.readouterr().out)["matches"][0]["score"])
    assert max(scores) - min(scores) < 1e-5 * max(1, abs(scores[0]))
    single = float(model.score_files(known[0], probe))
    assert abs(single - scores[0]) > 1e-4  # the centre matters


def test_enroll_and_identify(folder, model, files, tmp_path):
    model.use_enrolled(tmp_path / "people.npz")
    for speaker in range(4):
        count = model.enroll(f"speaker {speaker}", [files[speaker, 0]])
        assert count == 1
    assert model.enroll("speaker 0", files[0, 1]) == 2
    fresh = SpeakerVerifier.from_hparams(folder)
    fresh.use_enrolled(tmp_path / "people.npz")
    for speaker in range(4):
        best = fresh.identify(files[speaker, 0], top=4)
        assert best[0].name == f"speaker {speaker}" and len(best) == 4
        assert best[0].score >= best[-1].score and best[0].same
    assert [m.same for m in fresh.identify(files[0, 0], threshold=1.5)] == [False] * 4


def test_enrolling_again_replaces_or_adds(model, files):
    model.enrolled = EnrolledSet(model.fingerprint)
    assert model.enroll("ann", [files[0, 0], files[0, 1], files[0, 0]]) == 2
    assert model.enroll("ann", [files[1, 0]], replace=True) == 1
    want = torch.nn.functional.normalize(model.encode_files([files[1, 0]]))
    assert torch.allclose(model.enrolled.centres(), want, atol=1e-4)
    model.enrolled.remove("ann")
    with pytest.raises(UserError, match="nobody is enrolled"):
        model.identify(files[0, 0])


@pytest.mark.parametrize("similarity", ["cosine", "ball"])
def test_ten_thousand_speakers(folder, ball_folder, tmp_path, similarity):
    """Right answers among 10,000 (the time is in benchmarks/inference.py)."""
    found = SpeakerVerifier.from_hparams(
        folder if similarity == "cosine" else ball_folder
    )
    rows = torch.randn(10_000, 24, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "many.npz"
    people = EnrolledSet(found.fingerprint, path)
    people.add_many([f"s{i}" for i in range(10_000)], rows)
    people.save()
    found.use_enrolled(path)
    for i in (0, 4321, 9999):
        assert found.identify_embedding(rows[i] * 1.01)[0].name == f"s{i}"
    start = time.perf_counter()
    found.identify_embedding(rows[5])
    assert time.perf_counter() - start < 1.0  # a loaded machine's bound, not a claim


# Words


def test_wrong_devices(folder):
    with pytest.raises(UserError, match="no such kind of device"):
        SpeakerVerifier.from_hparams(folder, run_opts={"device": "abacus"})
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            SpeakerVerifier.from_hparams(folder, run_opts={"device": "cuda"})


def test_results_folder_for_a_model_folder(folder, tmp_path):
    (tmp_path / "results" / "save" / "CKPT+1").mkdir(parents=True)
    (tmp_path / "results" / "hyperparams.yaml").write_text("seed: !apply:os.getpid")
    with pytest.raises(UserError, match="sb-margins export"):
        SpeakerVerifier.from_hparams(tmp_path / "results")
    shutil.copytree(folder, tmp_path / "results" / "model")
    for trust in (False, True):
        with pytest.raises(UserError, match="did you mean .*results/model"):
            SpeakerVerifier.from_hparams(tmp_path / "results", trust=trust)


def test_damaged_speakers_are_not_compared(model):
    model.enrolled = EnrolledSet(model.fingerprint)
    model.enrolled.add("ann", torch.ones(1, 24))
    with pytest.raises(UserError, match="not finite"):
        model.identify_embedding(torch.full((24,), np.nan))


def test_device_by_name(folder):
    assert SpeakerVerifier.from_hparams(folder, device="cpu").device == "cpu"
    with pytest.raises(UserError, match="no such kind of device"):
        SpeakerVerifier.from_hparams(folder, device="abacus")


@pytest.mark.parametrize("trust", [False, True])
def test_overrides(folder, trust):
    found = SpeakerVerifier.from_hparams(
        folder, trust=trust, overrides={"sample_rate": 8000}
    )
    assert found.sample_rate == 8000 and found.encoder.sample_rate == 8000
