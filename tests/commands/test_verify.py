"""`sb-margins verify`, from a model or from embeddings, to files that repeat."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from model_folders import write_model

from sb_margins.cli import main as cli
from sb_margins.commands.options import parse_yaml, read_yaml
from sb_margins.commands.verify_settings import VerifySettings, read_settings
from sb_margins.data import prepare
from sb_margins.data.manifest import Manifest
from sb_margins.data.trials import Trials, read_trials, write_trials
from sb_margins.select import hparams_dir
from sb_margins.similarity import PoincareSimilarity
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.score_file import read_scores


def main(argv):
    """The exit status, also where the parser of flags exits."""
    try:
        return cli(argv)
    except SystemExit as done:
        return done.code


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def lists(tiny_corpus, tmp_path_factory) -> Path:
    """Two lists as VoxCeleb writes them, one with enrolled models."""
    folder = tmp_path_factory.mktemp("lists")
    names = sorted(
        p.relative_to(tiny_corpus).as_posix() for p in tiny_corpus.rglob("*.wav")
    )
    speakers = np.array([n.split("/")[0] for n in names])
    a, b = np.triu_indices(len(names), 1)
    for name, keep in (("all", slice(None)), ("few", slice(None, None, 5))):
        one, two = a[keep], b[keep]
        labels = (speakers[one] == speakers[two]).astype(int)
        sides = [names[i] for i in one], [names[i] for i in two]
        write_trials(folder / f"{name}.txt", Trials(*sides, labels))
    enrol, trials = [], []
    for speaker in sorted(set(speakers)):
        own = [n for n in names if n.startswith(f"{speaker}/")]
        enrol.append(f"{speaker}-enroll {' '.join(own[:3])}\n")
        for test in names:
            if test not in own[:3]:
                trials.append(f"{speaker}-enroll {test} {int(test in own)}\n")
    (folder / "enroll.lst").write_text("".join(enrol))
    (folder / "trials.lst").write_text("".join(trials))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "cache" not in p.parts
    }


def command(model, lists, tiny_corpus, out, *more):
    trials = [f"O={lists / 'few.txt'}", f"E={lists / 'all.txt'}"]
    argv = ["verify", "--model", str(model), "--data-folder", str(tiny_corpus)]
    argv += ["--trials", *trials, "--output-folder", str(out), "--bootstrap", "20"]
    return [*argv, *more]


def test_everything_is_written_and_two_runs_are_identical(
    model, lists, tiny_corpus, tmp_path, capsys
):
    (tmp_path / "v.yaml").write_text("norm: as\ntop_k: 5\np_target: [0.01, 0.1]\n")
    prepared = prepare("folder", tiny_corpus, tmp_path / "data")
    argv = command(model, lists, tiny_corpus, tmp_path / "one")
    argv += [f"C={lists / 'trials.lst'}", "--calibrate-on", "E"]
    argv[argv.index("--trials") + 1 : argv.index("--output-folder")] += [argv.pop(-3)]
    argv += ["--enrolment", f"C={lists / 'enroll.lst'}", "--subtract-mean"]
    argv += ["--cohort", str(prepared.folder / "train.csv")]
    argv += ["--quality", "duration", "magnitude", "cohort", "--save-embeddings"]
    argv.insert(1, str(tmp_path / "v.yaml"))
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "minDCF(0.1)" in out and "Cllr" in out and "as-norm (top 5 of" in out
    first = files_of(tmp_path / "one")
    expected = {"metrics.json", "det.png", "calibration.json", "embeddings.npz"}
    for name in "OEC":
        expected |= {f"{s}_{name}.txt" for s in ("scores", "llr")}
        expected.add(f"histogram_{name}.png")
    assert set(first) == expected
    told = json.loads(first["metrics.json"])
    assert told["lists"]["O"]["list"] == "few.txt" and len(told["model hash"]) >= 16
    assert "min_dcf(p_target=0.1) interval" in told["lists"]["C"]
    shared = "on E (which has 46 of its 46 utterances)"
    assert told["lists"]["O"]["calibration"] == shared
    assert f"O: calibrated {shared}, so Cllr is optimistic" in told["notes"]
    assert "torch" in told["versions"]
    # Again from nothing: the same bytes.
    argv[argv.index(str(tmp_path / "one"))] = str(tmp_path / "two")
    assert main(argv) == 0
    assert files_of(tmp_path / "two") == first


@pytest.mark.parametrize("similarity", [None, PoincareSimilarity(curvature=3.0)])
def test_stored_embeddings_give_the_scores_of_the_model(
    similarity, lists, tiny_corpus, tmp_path, monkeypatch
):
    """Of `embed` and of `--save-embeddings`: the file says how they are compared."""
    model = write_model(tmp_path / "model", similarity=similarity)
    out = {name: tmp_path / name for name in ("model_", "saved", "embed")}
    argv = command(model, lists, tiny_corpus, out["model_"], "--cache", "none")
    assert main([*argv, "--save-embeddings"]) == 0
    monkeypatch.chdir(tiny_corpus)
    files = sorted(p.relative_to(tiny_corpus) for p in tiny_corpus.rglob("*.wav"))
    kept = {"saved": out["model_"] / "embeddings.npz", "embed": tmp_path / "e.npz"}
    argv = ["embed", str(model), *map(str, files), "--output", str(kept["embed"])]
    assert main(argv) == 0
    for name, path in kept.items():
        argv = ["verify", "--embeddings", str(path), "--bootstrap", "0"]
        argv += ["--trials", f"O={lists / 'few.txt'}", "--output-folder"]
        assert main([*argv, str(out[name])]) == 0
    scores, rows, hashes = {}, {}, set()
    for name, folder in out.items():
        content = json.loads((folder / "metrics.json").read_text())
        rows[name] = content["lists"]["O"]
        hashes.add(content["model hash"])
        scores[name] = read_scores(folder / "scores_O.txt")[1]
    np.testing.assert_array_equal(scores["saved"], scores["model_"])
    np.testing.assert_allclose(scores["embed"], scores["model_"], atol=1e-5)
    assert len(hashes) == 1
    kind = "cosine" if similarity is None else "poincare"
    assert {row["similarity"] for row in rows.values()} == {kind}
    assert kind == "cosine" or (scores["model_"] <= 0).all()
    assert "interval" in rows["model_"] and "interval" not in rows["saved"]


@pytest.fixture
def stored(tmp_path):
    """Embeddings of two models, a labelled and an open list; the words of `verify`."""
    matrix = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    names = ["s/a", "s/b", "t/c", "t/d", "u/e", "u/f"]
    for name in ("one", "two"):
        Embeddings(names, matrix, fingerprint=name).save(tmp_path / f"{name}.npz")
    (tmp_path / "t.txt").write_text("1 s/a s/b\n0 s/a t/c\n1 t/c t/d\n0 t/c s/b\n")
    (tmp_path / "open.txt").write_text("s/a s/b\n")
    argv = ["verify", "--embeddings", str(tmp_path / "one.npz"), "--bootstrap", "0"]
    argv += ["--trials", f"t={tmp_path / 't.txt'}", f"open={tmp_path / 'open.txt'}"]
    return [*argv, "--output-folder", str(tmp_path / "out")]


def test_lists_of_other_corpora_stand_in_one_table(
    model, lists, tiny_corpus, tmp_path, capsys
):
    """Two corpora have the same names for other recordings."""
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(tiny_corpus, one)
    for path in sorted(one.rglob("*.wav")):  # other speakers under the same names
        other = tiny_corpus / path.relative_to(one)
        speaker = tiny_corpus / f"spk{7 - int(other.parts[-3][3])}"
        shutil.copy(speaker.joinpath(*other.parts[-2:]), path)
    prepare("folder", tiny_corpus, two, evaluation_only=True)
    argv = command(model, lists, tiny_corpus, tmp_path / "out", "--eval", f"a={one}")
    assert main([*argv, f"--eval=b={two / 'trials_test.txt'}"]) == 0
    assert "mean of 4 lists" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    rows, mean = content["lists"], content["means"]["mean of 4 lists"]
    assert set(rows) == {*"OEab"} and "speakers" not in rows["a"]
    assert mean["eer"] == pytest.approx(np.mean([r["eer"] for r in rows.values()]))
    known, scores = {}, {}
    for name in "Eab":
        trials, values = read_scores(tmp_path / "out" / f"scores_{name}.txt")
        pairs = [*zip(trials.enrol, trials.test, strict=True)]
        scores[name] = dict(zip(pairs, values, strict=True))
        known[name] = set(trials.utterances)
    assert known["a"] == known["b"], "names as they are in the lists"
    common = scores["b"].keys() & scores["E"].keys()
    assert len(common) > 50
    assert all(scores["b"][k] == pytest.approx(scores["E"][k]) for k in common)
    assert scores["a"] != scores["b"]
    for more, told in (
        (["--eval", "O=x"], "no such folder"),
        (["--eval", f"O={two}"], "a list has that name"),
        (["--eval", f"a={two}", "--calibrate-on", "b"], "none of the lists: O, E, a"),
    ):
        argv = command(model, lists, tiny_corpus, tmp_path / "out", *more)
        assert main(argv) == 2 and told in capsys.readouterr().err


def test_a_cohort_of_another_model_is_refused(stored, tmp_path, capsys):
    norm = [*stored, "--norm", "s", "--cohort"]
    assert main([*norm, str(tmp_path / "two.npz")]) == 2
    assert "is of another model" in capsys.readouterr().err
    assert main([*norm, str(tmp_path / "train.csv")]) == 2
    assert "must be an .npz of the same model" in capsys.readouterr().err


def test_a_cohort_is_drawn_by_its_seed_and_centred_by_speaker(stored, tmp_path):
    norm = [*stored, "--norm", "z", "--cohort", str(tmp_path / "one.npz")]

    def row(*more):
        assert main([*norm, *more]) == 0
        scores = read_scores(tmp_path / "out" / "scores_t.txt")[1]
        told = json.loads((tmp_path / "out" / "metrics.json").read_text())
        return scores.tolist(), told["lists"]["t"]["normalisation"]

    every, first = row(), row("--cohort-size", "4")
    assert every[1] == "z-norm (cohort 6)" and first[1] == "z-norm (cohort 4)"
    assert (
        first == row("--cohort-size", "4") != row("--cohort-size", "4", "--seed", "7")
    )
    assert row("--cohort-size", "9") == every
    assert row("--cohort-speaker-means")[1] == "z-norm (cohort 3)"


def test_inverted_labels_and_a_list_calibrated_on_itself_are_noted(
    stored, tmp_path, capsys
):
    (tmp_path / "t.txt").write_text("0 s/a s/a\n0 t/c t/c\n1 s/a t/c\n1 s/b t/d\n")
    (tmp_path / "open.txt").write_text("1 s/a s/a\n1 t/c t/c\n0 s/a t/c\n0 s/b t/d\n")
    assert main([*stored, "--calibrate-on", "open"]) == 0
    out = capsys.readouterr().out
    assert "t: an EER above 50 %" in out and "open: an EER" not in out
    assert "open: calibrated on open (itself), so Cllr is optimistic" in out
    assert "t: calibrated on open (itself)" in out  # the same pairs


def test_utt2spk_gives_the_speakers_of_the_intervals(tmp_path, capsys):
    """10 speakers, of whom some have recordings that no target pair joins."""
    names = [f"u{k}" for k in range(24)]
    speakers = [k % 10 for k in range(24)]
    matrix = np.random.default_rng(0).standard_normal((24, 4)).astype(np.float32)
    Embeddings(names, matrix + np.eye(10, 4)[speakers] * 3).save(tmp_path / "e.npz")
    pairs = [(k, k + 10) for k in range(10)] + [(k, k + 1) for k in range(23)]
    rows = [f"{speakers[a] == speakers[b]:d} u{a} u{b}\n" for a, b in pairs]
    (tmp_path / "t.txt").write_text("".join(rows))
    tell = tmp_path / "utt2spk"
    tell.write_text("".join(f"u{k} s{who}\n" for k, who in enumerate(speakers)))
    out = str(tmp_path / "out")
    argv = ["--bootstrap", "20", "--utt2spk", str(tell)]
    verify = ["verify", "--embeddings", str(tmp_path / "e.npz"), "--output-folder", out]
    verify += ["--trials", str(tmp_path / "t.txt")]
    assert main([*verify, *argv]) == 0
    assert "over 10 speakers" in capsys.readouterr().out
    assert main(["metrics", str(tmp_path / "out" / "scores_t.txt"), *argv]) == 0
    assert "over 10 speakers" in capsys.readouterr().out
    assert main([*verify, "--bootstrap", "20"]) == 0
    out = capsys.readouterr().out
    assert "over 14 speakers" in out  # too many
    assert "t: speakers are guessed from target pairs; --utt2spk tells them" in out
    tell.write_text("".join(tell.read_text().splitlines(keepends=True)[1:]))
    assert main([*verify[:1], *verify[3:], "--model", "/nowhere", *argv]) == 2
    assert main([*verify, *argv]) == 2
    assert "no speaker is known for 1: u0" in capsys.readouterr().err


def test_json_is_what_is_written(stored, tmp_path, capsys):
    assert main([*stored, "--json", "--calibrate-on", "t"]) == 0
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    out = capsys.readouterr().out
    assert json.loads(out) == content
    assert content["notes"][-1] == (
        "t: calibrated on t (itself), so Cllr is optimistic"
    )
    assert content["lists"]["t"]["eer"] <= 1 and "eer" not in content["lists"]["open"]


def test_lists_that_cannot_serve(stored, tmp_path, capsys):
    assert main([*stored, "--calibrate-on", "open"]) == 2
    assert "the list 'open' has no labels" in capsys.readouterr().err
    (tmp_path / "open.txt").write_text("x y\n")
    assert main([*stored, "--skip-bad"]) == 2
    assert "no trial of the list 'open' can be scored" in capsys.readouterr().err


def test_plda_backend(model, lists, tiny_corpus, tmp_path, capsys):
    prepared = prepare("folder", tiny_corpus, tmp_path / "data")
    every = [u for split in prepared.splits for u in prepared.manifest(split)]
    Manifest(every, tiny_corpus).write(prepared.folder / "all.csv")
    argv = command(model, lists, tiny_corpus, tmp_path / "out", "--backend", "plda")
    argv += ["--cohort", str(prepared.folder / "train.csv"), "--plda-rank", "3"]
    assert main(argv) == 2
    assert "more utterances than dimensions" in capsys.readouterr().err
    argv[argv.index("--cohort") + 1] = str(prepared.folder / "all.csv")
    assert main(argv) == 0
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["lists"]["E"]["similarity"] == "PLDA"


def test_missing_and_broken_audio(model, lists, tiny_corpus, tmp_path, capsys):
    corpus = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, corpus / "wav")  # found below wav/ as well
    gone, broken = sorted(corpus.rglob("*.wav"))[:2]
    gone.unlink()
    argv = command(model, lists, corpus, tmp_path / "out")
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "1 of 48 utterances" in err and "spk0/session0/00000.wav" in err
    assert "--skip-bad" in err
    assert (tmp_path / "out" / "missing.txt").read_text() == "spk0/session0/00000.wav\n"
    broken.write_bytes(b"RIFF nonsense")
    assert main([*argv, "--skip-bad"]) == 0
    out, err = capsys.readouterr()
    assert "2 utterances cannot be used" in err
    every = len(read_trials(lists / "all.txt"))
    assert f"E: 93 of {every} trials left out" in out  # 2 x 47, one pair shared
    told = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert told["lists"]["E"]["left out"] == 93 and told["skipped utterances"] == 2
    lines = (tmp_path / "out" / "skipped.txt").read_text().splitlines()
    assert len(lines) == 2 and lines[0].endswith("not found")
    assert len((tmp_path / "out" / "scores_E.txt").read_text().splitlines()) == (
        every - 93
    )


def test_lists_without_labels_are_scored_only(model, tiny_corpus, tmp_path):
    names = sorted(
        p.relative_to(tiny_corpus).as_posix() for p in tiny_corpus.rglob("*.wav")
    )
    (tmp_path / "open.txt").write_text(f"{names[0]} {names[1]}\n")
    argv = ["verify", "--model", str(model), "--data-folder", str(tiny_corpus)]
    argv += ["--trials", str(tmp_path / "open.txt"), "--output-folder"]
    assert main([*argv, str(tmp_path / "out")]) == 0
    (line,) = (tmp_path / "out" / "scores_open.txt").read_text().splitlines()
    assert len(line.split()) == 3


@pytest.mark.parametrize(
    "argv, told",
    [
        ([], "no trials"),
        (["--trials", "O=a"], "give a model"),
        (["a", "b", "--trials", "O=a"], "one MODEL"),
        (["a.yaml", "b.yaml"], "one YAML"),
        (["--trials", "O=a", "--model", "m"], "--data-folder"),
        (["--trials", "O=a", "O=b"], "'O' is given twice"),
        (["--trials", "O=a", "--embeddings", "e", "--norm", "ass"], "'as'"),
        (["--trials", "O=a", "--embeddings", "e", "--norm", "as"], "needs --cohort"),
        (["--trials", "O=a", "--embeddings", "e", "--calibrate-on", "H"], "none of"),
        (["--trials", "O=a", "--embeddings", "e", "--p-target", "2"], "p_target"),
        (["--trials", "O=a", "--embeddings", "e", "--quality", "duratoin"], "duration"),
        (["--trials", "O=/nowhere", "--embeddings", "e"], "no trial list /nowhere"),
        (["nowhere.yaml"], "no settings file"),
    ],
)
def test_wrong_settings_end_with_2(argv, told, capsys):
    assert main(["verify", *argv]) == 2
    assert told in capsys.readouterr().err


def test_yaml_keys_are_checked(tmp_path, capsys):
    path = tmp_path / "v.yaml"
    path.write_text("trails: {O: a.txt}\n")
    assert main(["verify", str(path)]) == 2
    assert "trails Did you mean 'trials'" in capsys.readouterr().err
    path.write_text("bootstrap: many\ntrials: {O: a.txt}\nembeddings: e.npz\n")
    assert main(["verify", str(path)]) == 2
    assert "'many'" in capsys.readouterr().err
    path.write_text("trials: {O: a.txt}\nembeddings: e.npz\nskip_bad: True\n")
    settings = read_settings([str(path), "--norm", "none", "--no-skip_bad"])
    assert settings.trials == {"O": "a.txt"} and not settings.skip_bad
    path.write_text("trials: {O: a.txt}\nmodel: m\ndata_root: wav\n")
    assert read_settings([str(path)]).data_folder == "wav"
    assert read_settings([str(path), "--data-root", "x"]).data_folder == "x"


def test_the_shipped_yaml_has_every_key_and_no_default_of_its_own():
    shipped = hparams_dir() / "verify.yaml"
    values = read_yaml(shipped, VerifySettings)
    assert list(values) and set(values) == {f.name for f in fields(VerifySettings)}
    assert parse_yaml(VerifySettings, shipped, "verify") == VerifySettings()


def test_a_model_is_the_first_word_and_a_yaml_may_be_another(tmp_path, capsys):
    path = tmp_path / "v.yml"
    path.write_text("trials: {O: a.txt}\ndata_folder: wav\nmodel: old\n")
    for words in (["org/new", str(path)], [str(path), "org/new"]):
        settings = read_settings([*words, "--precision", "fp16", "--trust"])
        assert (settings.model, settings.data_folder) == ("org/new", "wav")
        assert settings.precision == "fp16" and settings.trust
    assert read_settings([str(path)]).model == "old"
    other = path.rename(tmp_path / "settings.conf")
    assert read_settings([str(other)]).model == "old"
    path = other
    settings = read_settings([str(path), "--model", "m", "--enrollment", "O=b"])
    assert (settings.model, settings.enrolment) == ("m", {"O": "b"})
    assert "--enrollment is called --enrolment now" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near(precision, model, lists, tiny_corpus, tmp_path):
    trials = ["--trials", f"O={lists / 'few.txt'}", "--bootstrap", "0"]
    argv = [str(model), *trials, "--data-folder", str(tiny_corpus)]
    scores = []
    for more in ([], ["--precision", precision]):
        out = tmp_path / str(len(scores))
        assert main(["verify", *argv, *more, "--output-folder", str(out)]) == 0
        scores.append(read_scores(out / "scores_O.txt")[1])
    gap = np.abs(scores[0] - scores[1]).max()
    assert 0 < gap < 0.05


def test_wrong_inputs_end_with_2(model, lists, tiny_corpus, tmp_path, capsys):
    argv = command(tmp_path, lists, tiny_corpus, tmp_path / "out")
    assert main(argv) == 2  # a folder that is no model
    argv = command(model, lists, tmp_path / "nowhere", tmp_path / "out")
    assert main(argv) == 2
    assert "no such data folder" in capsys.readouterr().err
    Embeddings(["a"], np.ones((1, 2), np.float32)).save(tmp_path / "e.npz")
    argv = ["verify", "--embeddings", str(tmp_path / "e.npz"), "--trials"]
    argv += [f"O={lists / 'few.txt'}", "--output-folder", str(tmp_path / "out")]
    assert main(argv) == 2
    assert "utterances of the trials are not in" in capsys.readouterr().err
    argv[2] = str(tmp_path / "nowhere.npz")
    assert main(argv) == 2


def test_real_speech_end_to_end(model, shared_data, tmp_path):
    """A prepared folder brings its trial lists."""
    prepared = prepare("folder", shared_data, tmp_path / "data")
    for split in ("dev", "test"):
        (prepared.folder / f"trials_{split}.txt").unlink()
    argv = ["verify", "--model", str(model), "--manifest", str(prepared.folder)]
    argv += ["--output-folder", str(tmp_path / "out"), "--bootstrap", "50"]
    assert main(argv) == 0
    (row,) = json.loads((tmp_path / "out" / "metrics.json").read_text())[
        "lists"
    ].values()
    assert row["trials"] == len(read_trials(shared_data / "trials_test_ar.txt"))
    # Even random features know something of a voice.
    assert row["eer interval"][0] <= row["eer"] < 0.45
    assert "30 speakers" in row["interval"]
