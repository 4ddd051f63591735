"""SpeakerVerifier: embeddings, scores, decisions, enrolled speakers."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from model_folders import THRESHOLDS, encode, modules, settings, write_model
from speechbrain.inference.speaker import SpeakerRecognition

from sb_margins.errors import UserError
from sb_margins.inference import EnrolledSet, SpeakerVerifier
from sb_margins.similarity import CosineSimilarity, PoincareSimilarity
from sb_margins.verification import embed


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


@pytest.mark.parametrize("encoder", ["ecapa", "resnet", "xvector"])
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


@pytest.mark.parametrize("encoder", ["ecapa", "resnet", "xvector"])
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

    def note(path, *rest):
        seen.append(str(path))
        return read(path, *rest)

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
    model.enroll("ann", [files[0, 0], files[0, 1]])
    assert model.enroll("ann", [files[1, 0]], replace=True) == 1
    want = model.encode_files([files[1, 0]])
    assert torch.allclose(model.enrolled.centres(), want, atol=1e-4)
    model.enrolled.remove("ann")
    with pytest.raises(UserError, match="nobody is enrolled"):
        model.identify(files[0, 0])


def test_order_of_enrolment_does_not_matter():
    rows = torch.randn(5, 8)
    one, two = EnrolledSet("m"), EnrolledSet("m")
    one.add("ann", rows)
    for row in rows.flip(0):
        two.add("ann", row[None])
    assert torch.allclose(one.centres(), two.centres(), atol=1e-6)


def test_centre_on_the_ball_stays_as_far_out():
    rows = torch.nn.functional.normalize(torch.randn(6, 8)) * 0.5
    people = EnrolledSet("m")
    people.add("ann", rows)
    assert people.centres().norm() == pytest.approx(0.5, abs=1e-5)


def test_sets_are_safe(tmp_path, model, files):
    path = tmp_path / "people.npz"
    people = EnrolledSet.open(path, "one")
    people.add("ann", torch.randn(1, 4))
    people.save()
    with pytest.raises(UserError, match="another model"):
        EnrolledSet.open(path, "two")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a set of enrolled"):
        EnrolledSet.open(path, "one")
    np.savez(path, format=1, names=np.array(["x"], dtype=object))
    with pytest.raises(UserError, match="not a set of enrolled"):
        EnrolledSet.open(path, "one")
    with pytest.raises(UserError, match="is a folder"):
        EnrolledSet.open(tmp_path, "one")
    assert not list(tmp_path.glob(".*[0-9]"))  # no half-written files left


@pytest.fixture
def kept(tmp_path):
    """The arrays of a sound set, and its path."""
    people = EnrolledSet.open(tmp_path / "people.npz", "m")
    people.add("ann", torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    people.add("bob", torch.tensor([[1.0, 1.0]]))
    people.save()
    with np.load(people.path) as arrays:
        return people.path, dict(arrays)


def test_damaged_sets_are_refused(kept):
    path, arrays = kept
    np.savez(path, **arrays)
    assert EnrolledSet.open(path, "m").names == ["ann", "bob"]
    for name, value in arrays.items():
        if name in ("format", "model"):
            continue
        damages = [value[:-1], value[None], np.concatenate([value, value])]
        if value.dtype.kind == "f":
            damages += [np.full_like(value, np.nan), np.full_like(value, np.inf)]
        if value.dtype.kind == "i":
            damages += [np.full_like(value, -1)]
        if name == "names":
            damages += [np.array(["ann", "ann"])]
        for damaged in damages:
            np.savez(path, **{**arrays, name: damaged})
            with pytest.raises(UserError, match="damaged"):
                EnrolledSet.open(path, "m")


def test_many_new_speakers_are_enrolled_as_one_by_one():
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)) * 7
    names = [f"s{i}" for i in range(5)]
    together, single = EnrolledSet("m"), EnrolledSet("m")
    together.add_many(names[:2], rows[:2])
    together.add_many(names[2:], rows[2:])
    for name, row in zip(names, rows, strict=True):
        single.add(name, row[None])
    assert together.names == single.names
    assert torch.allclose(together.centres(), single.centres(), atol=1e-6)
    assert torch.allclose(together.centres(), rows, atol=1e-5)
    together.add("s0", rows[1:2])
    single.add("s0", rows[1:2])
    assert torch.allclose(together.centres(), single.centres(), atol=1e-6)
    for bad_names, bad_rows in (
        (["s0"], rows[:1]),
        (["x", "x"], rows[:2]),
        (["x"], rows[:2]),
        (["x"], torch.zeros(1, 4)),
        (["x"], torch.full((1, 4), np.inf)),
        (["x"], torch.ones(1, 5)),
    ):
        with pytest.raises(UserError):
            together.add_many(bad_names, bad_rows)
    assert len(together) == 5


@pytest.mark.parametrize("name", ["", " ann", "a\nb"])
def test_odd_names(name):
    with pytest.raises(UserError, match="not a name"):
        EnrolledSet("m").add(name, torch.ones(1, 2))


@pytest.mark.parametrize(
    "rows", [torch.zeros(1, 2), torch.full((1, 2), np.nan), torch.ones(0, 2)]
)
def test_odd_embeddings(rows):
    with pytest.raises(UserError):
        EnrolledSet("m").add("ann", rows)


def test_two_processes_enroll_at_once(tmp_path):
    """Nobody's update is lost."""
    path = tmp_path / "people.npz"
    script = (
        "import sys, torch\n"
        "from sb_margins.inference.enrolled import EnrolledSet, locked\n"
        "for i in range(20):\n"
        "    with locked(sys.argv[1]):\n"
        "        people = EnrolledSet.open(sys.argv[1], 'm')\n"
        "        people.add(f'{sys.argv[2]}{i}', torch.ones(1, 3))\n"
        "        people.save()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    running = [subprocess.Popen([*command, who]) for who in "ab"]
    assert all(process.wait(60) == 0 for process in running)
    assert len(EnrolledSet.open(path, "m")) == 40


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
