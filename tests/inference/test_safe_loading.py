"""Loading a model folder runs nothing of it: a hostile corpus, and what still works."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import hostile_models
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from model_folders import modules, settings, write_model
from speechbrain.inference.speaker import SpeakerRecognition

from sb_margins.errors import UserError
from sb_margins.inference import SpeakerVerifier, safe_hparams
from sb_margins.inference.results import read_results
from sb_margins.inference.safe_build import locate
from sb_margins.inference.safe_yaml import MODULES


@pytest.fixture(scope="module")
def good_model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def copy(good_model, tmp_path):
    return shutil.copytree(good_model, tmp_path / "here" / "model")


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_the_corpus_is_large():
    assert len(hostile_models.CASES) >= 80


@contextmanager
def watched(copy, tmp_path, monkeypatch):
    """Nothing is made, imported or allocated meanwhile, and it does not take long."""
    # As if somebody ran Python in the downloaded folder.
    monkeypatch.chdir(copy)
    monkeypatch.syspath_prepend(str(copy))
    before, imported = tree(tmp_path), set(sys.modules)
    start, peak = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - start < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1_000_000  # KB
    assert tree(tmp_path) == before
    assert not {"antigravity", "payload"} & (set(sys.modules) - imported)


@pytest.mark.parametrize("name", sorted(hostile_models.CASES))
def test_hostile_folder_is_refused(name, copy, tmp_path, monkeypatch):
    hostile_models.CASES[name](copy, tmp_path / "mark")
    if name in hostile_models.KEYS:
        hostile_models.reach(copy, hostile_models.KEYS[name])
    with watched(copy, tmp_path, monkeypatch), pytest.raises(UserError) as caught:
        SpeakerVerifier.from_hparams(copy)
    assert 20 < len(str(caught.value)) < 900


@pytest.mark.parametrize("name", sorted(hostile_models.KEYS))
def test_what_nothing_refers_to_is_passed_over(name, copy, tmp_path, monkeypatch):
    """Training settings stand in many YAMLs of models; they are not looked at."""
    hostile_models.CASES[name](copy, tmp_path / "mark")
    with watched(copy, tmp_path, monkeypatch):
        try:
            SpeakerVerifier.from_hparams(copy)
        except UserError as error:  # not YAML at all, or nested too deeply to read
            assert str(error)
            assert name in {"as_key", "deep_lists", "long", "tag_directive"}


def test_reaching_alone_is_not_refused(copy):
    hostile_models.append(copy, "x: [5, {a: 6}]")
    hostile_models.reach(copy, "x")
    model = SpeakerVerifier.from_hparams(copy)
    assert model.calibration["data"] == [5, {"a": 6}]


@pytest.mark.parametrize("name", sorted(hostile_models.KEYS))
def test_hostile_results_folder_is_refused_or_passed_over(
    name, copy, tmp_path, monkeypatch
):
    """The way of export and of comparisons, also where a setting refers to it."""
    hostile_models.CASES[name](copy, tmp_path / "mark")
    hostile_models.append(copy, f"seed: !ref <{hostile_models.KEYS[name]}>")
    save = copy / "save" / "CKPT+1"
    save.mkdir(parents=True)
    (copy / "embedding_model.ckpt").rename(save / "embedding_model.ckpt")
    (save / "CKPT.yaml").write_text("EER: 0.1\nunixtime: 1.0\n")
    with watched(copy, tmp_path, monkeypatch):
        try:
            parts = read_results(copy)
        except UserError as error:
            assert 20 < len(str(error)) < 900
        else:
            assert parts.checkpoint == save


@pytest.mark.parametrize("size", [600_000_000, 41])
def test_statistics_of_another_size_are_refused(size, tmp_path, monkeypatch):
    """Also ones that take no room in the file and gigabytes in memory."""
    made = modules(settings(norm="global"))
    folder = write_model(tmp_path / "a" / "model", norm="global", modules=made)
    path = folder / "mean_var_norm.ckpt"
    content = torch.load(path, weights_only=True)
    torch.save(content | {"glob_mean": torch.zeros(1).expand(size)}, path)
    with watched(folder, tmp_path, monkeypatch), pytest.raises(UserError):
        SpeakerVerifier.from_hparams(folder)


def test_old_weights_files_are_called_that(copy):
    path = copy / "embedding_model.ckpt"
    weights = torch.load(path, weights_only=True)
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="format of before 1.6.*save it again"):
        SpeakerVerifier.from_hparams(copy)


RUN_ALL = """
import sys
from hyperpyyaml import load_hyperpyyaml
for path in sys.argv[1:]:
    try:
        load_hyperpyyaml(open(path))
    except BaseException:
        pass
"""


def test_payloads_are_live(good_model, tmp_path):
    """HyperPyYAML itself runs these, so refusing them means something."""
    paths = []
    for name in sorted(hostile_models.LIVE):
        folder = shutil.copytree(good_model, tmp_path / name / "model")
        hostile_models.CASES[name](folder, tmp_path / f"mark_{name}")
        paths.append(folder / "hyperparams.yaml")
    command = [sys.executable, "-c", RUN_ALL, *paths]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    blanks = [n for n in hostile_models.LIVE if not (tmp_path / f"mark_{n}").exists()]
    assert len(hostile_models.LIVE) >= 15 and not blanks


def test_pickles_are_live(copy, tmp_path):
    mark = tmp_path / "mark"
    hostile_models.CASES["pickle_in_weights"](copy, mark)
    torch.load(copy / "embedding_model.ckpt", weights_only=False)
    assert mark.exists()


def test_trust_is_the_way_out(copy, tmp_path):
    mark = tmp_path / "mark"
    hostile_models.append(copy, f"x: !apply:os.system ['touch {mark}']")
    hostile_models.reach(copy, "x")
    with pytest.raises(UserError, match="trust=True"):
        SpeakerVerifier.from_hparams(copy)
    assert not mark.exists()
    model = SpeakerVerifier.from_hparams(copy, trust=True)
    assert mark.exists() and model.threshold() == 0.5


def test_safe_and_trusting_loads_agree(copy):
    wavs = torch.randn(2, 20000)
    safe = SpeakerVerifier.from_hparams(copy).encode_batch(wavs)
    trusting = SpeakerVerifier.from_hparams(copy, trust=True).encode_batch(wavs)
    assert torch.equal(safe, trusting)


def test_loading_writes_nothing(copy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    SpeakerVerifier.from_hparams(copy)
    assert tree(tmp_path) == before


def test_read_only_folder_loads(copy):
    for path in [*copy.iterdir(), copy]:
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    try:
        SpeakerVerifier.from_hparams(copy)
    finally:
        os.chmod(copy, 0o755)


def test_run_options_of_the_yaml_are_not_followed(copy):
    hostile_models.append(copy, "device: cuda:7\njit: True\ncompile: True\ndebug: True")
    model = SpeakerVerifier.from_hparams(copy, run_opts={"device": "cpu"})
    assert model.device == "cpu" and not model.jit and not model.compile


def test_hub_cache_layout(good_model, tmp_path):
    """Files of the hub's cache are links to blobs of the same repository."""
    repo = tmp_path / "models--a--b"
    (repo / "blobs").mkdir(parents=True)
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(good_model.iterdir()):
        shutil.copy(path, repo / "blobs" / f"{number:040d}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040d}")
    SpeakerVerifier.from_hparams(snapshot)
    savedir = tmp_path / "savedir"
    savedir.mkdir()
    for path in snapshot.iterdir():
        (savedir / path.name).symlink_to(path)
    SpeakerVerifier.from_hparams(savedir)


EQUAL = """
a: 3
b: !ref <a> * 2
c: !ref <b> // 4 + 1.5
d: !ref <a>/x/<b>
e: [!ref <a>, 1e-3, true, null, yes, 0x10, 1_000, "1", -4, .5]
f: (3, 4.5, x)
g: !tuple (1, 2)
i: {k: {l: !ref <c>}}
j: !ref <i[k][l]>
k: !copy <e>
l: !new:torch.nn.Linear [!ref <a>, !ref <b>]
m: !ref <l>
n: !name:torch.nn.LeakyReLU
    negative_slope: 0.2
o: !new:torch.nn.ReLU
p: !name:torch.nn.ReLU
q: &anchored [1, 2]
r: *anchored
s: 'quoted (1, 2)'
t: "(1, 2)"
u: !ref -<a>
v: 2 ** 3
w: !ref <a> ** 2 % 5
__hidden: 1
"""


def test_same_meaning_as_hyperpyyaml():
    ours, theirs = safe_hparams(EQUAL), load_hyperpyyaml(EQUAL)
    assert set(ours) == set(theirs)
    for key in set(theirs) - {"l", "m", "n", "o", "p"}:
        assert ours[key] == theirs[key], key
        assert type(ours[key]) is type(theirs[key]), key
    assert ours["m"] is ours["l"] and ours["r"] is ours["q"]
    assert ours["k"] is not ours["e"]
    assert ours["n"]().negative_slope == theirs["n"]().negative_slope
    assert ours["p"] is theirs["p"] and isinstance(ours["o"], torch.nn.ReLU)


def test_overrides():
    text = "n: 3\nm: !ref <n> * 2\nx: !PLACEHOLDER"
    assert safe_hparams(text, {"n": 5, "x": 1}) == {"n": 5, "m": 10, "x": 1}
    with pytest.raises(UserError, match="no z to override"):
        safe_hparams("n: 1", {"z": 1})


@pytest.mark.parametrize("name", sorted(MODULES))
def test_listed_modules_exist(name):
    """A misspelt or renamed module in the list would refuse good models."""
    import importlib

    classes = [
        value
        for key, value in vars(importlib.import_module(name)).items()
        if isinstance(value, type)
        and issubclass(value, torch.nn.Module)
        and value.__module__ == name
        and not key.startswith("_")
    ]
    assert classes
    for found in classes:
        assert locate(f"{name}.{found.__name__}") is found


def test_listed_modules_do_not_touch_files():
    """The list's premise: no class on it opens files, sockets, processes or names."""
    import ast
    import importlib

    banned = {"open", "eval", "exec", "load", "system", "urlopen", "urlretrieve"}
    banned |= {"import_module", "__import__", "fetch", "popen", "Popen", "locate"}
    for name in MODULES:
        path = importlib.import_module(name).__file__
        with open(path, encoding="utf-8") as file:
            parsed = ast.parse(file.read())
        for node in ast.walk(parsed):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if called == "load" and name == "speechbrain.processing.features":
                    continue  # InputNormalization's hook, which we do not call
                assert called not in banned, (name, node.lineno, called)


@pytest.mark.parametrize(
    "source, message",
    [
        ("./nowhere", "no such model folder"),
        ("/nowhere/at/all", "no such model folder"),
        ("a b c", "no such model folder"),
    ],
)
def test_mistyped_sources(source, message):
    with pytest.raises(UserError, match=message):
        SpeakerVerifier.from_hparams(source)


def test_options_of_speechbrain_need_trust(good_model):
    with pytest.raises(UserError, match="only with trust=True"):
        SpeakerVerifier.from_hparams(good_model, savedir="x")


def test_stock_interface_still_loads(good_model):
    assert SpeakerRecognition.from_hparams(source=str(good_model)).mods


def test_loading_does_not_import_the_compiler(good_model):
    """PyTorch has operations of the meta device that would: 1.5 s of a cold start."""
    code = (
        "import sys; from sb_margins.inference import SpeakerVerifier\n"
        f"SpeakerVerifier.from_hparams({str(good_model)!r})\n"
        "assert not {'torch._dynamo', 'sympy', 'scipy.signal'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
