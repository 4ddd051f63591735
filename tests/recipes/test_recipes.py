"""Each recipe on a generated tree of its corpus: prepare, train, verify."""

import json
import runpy
import sys
from pathlib import Path

import corpus_trees
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sb_margins.cli import main
from sb_margins.data import Prepared
from sb_margins.training.config import read_config

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = [
    "--number_of_epochs=1",
    "--channels=8",
    "--emb_dim=16",
    "--n_mels=24",
    "--batch_size=8",
    "--sentence_len=0.5",
    "--warmup_epochs=1",
    "--num_workers=0",
    "--noprogressbar",
    "--loss=ham",
]
ONLY_ECAPA = ["--attention_channels=8", "--last_channels=24"]
VOX = "--corpus_options={train: vox2, lists: 'O,E,H', dev_speakers: 2}"
ENCODERS = ("ecapa", "resnet34", "resnet34_tsp", "xvector")
TREES = {
    "Folder": (corpus_trees.odd_folder, [], "d/session 1", ["test"]),
    "VoxCeleb": (
        corpus_trees.voxceleb,
        [VOX, "--encoder=resnet34_tsp"],
        "vox2/dev/aac/id00012/21Uxsk56VDQ",
        ["test", "vox1_e", "vox1_h"],
    ),
    "CNCeleb": (
        corpus_trees.cnceleb,
        ["--corpus_options={dev_speakers: 2}", "--encoder=xvector"],
        "CN-Celeb_flac/data/id00000",
        ["test"],
    ),
    "MiniLibriSpeech": (
        corpus_trees.mini_librispeech,
        [],
        "LibriSpeech/train-clean-5/100/77",
        ["test"],
    ),
}


def run(recipe, script, *words):
    """Run a recipe's script in this process; its exit status."""
    argv, sys.argv = sys.argv, [script, *map(str, words)]
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(RECIPES / recipe / script), run_name="__main__")
    finally:
        sys.argv = argv
    return ended.value.code


def train(recipe, corpus, out, *more, yaml="train.yaml"):
    yaml = RECIPES / recipe / "hparams" / yaml
    places = [f"--data_folder={corpus}", f"--output_folder={out}"]
    if not any(word.startswith("--encoder") for word in more):
        places += ONLY_ECAPA
    return run(recipe, "train.py", yaml, *places, *SMALL, *more)


@pytest.fixture(scope="module")
def model(tiny_corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert train("Folder", tiny_corpus, out) == 0
    return out / "model"


@pytest.mark.parametrize("recipe", TREES)
def test_recipe(recipe, tmp_path, capsys):
    make, options, where, lists = TREES[recipe]
    corpus, out = make(tmp_path / "corpus of voices"), tmp_path / "results"
    if recipe == "MiniLibriSpeech":
        corpus = corpus / "tree"
    (corpus / where / "zero length.flac").touch()
    (corpus / where / "corrupt.x.flac").write_bytes(b"fLaC" + bytes(2000))
    corpus_trees.write(corpus / where / "other rate.flac", 60, 1, 1.0, rate=22050)
    assert train(recipe, corpus, out, *options) == 2
    told = capsys.readouterr().err
    assert "zero length.flac" in told and "corrupt.x.flac" in told
    assert not (out / "save").exists()

    elsewhere = []  # VoxCeleb's run evaluates on all that the papers do
    if recipe == "VoxCeleb":
        sitw = corpus_trees.sitw(tmp_path / "sitw")
        cnceleb = corpus_trees.cnceleb(tmp_path / "cn") / "CN-Celeb_flac"
        elsewhere = ["--eval", f"sitw={sitw}", f"cnceleb={cnceleb}"]
    assert train(recipe, corpus, out, "--skip_bad=True", *options, *elsewhere) == 0
    prepared = Prepared.load(out / "data")
    assert (out / "model" / "hyperparams.yaml").is_file()
    assert any("22050" in note for note in prepared.info["notes"])
    metrics = json.loads((out / "metrics.json").read_text())

    verified = tmp_path / "verified"
    flags = ["--output-folder", verified, "--bootstrap", 0, "--device", "cpu"]
    assert run(recipe, "verify.py", out / "model", out / "data", *flags) == 0
    again = json.loads((verified / "metrics.json").read_text())
    other = ["sitw_dev", "sitw_test", "cnceleb"] if elsewhere else []
    assert set(metrics["lists"]) == {"dev", *lists, *other}
    assert set(again["lists"]) == {"dev", *lists}
    if (RECIPES / recipe / "hparams" / "finetune.yaml").is_file():
        more = ["--skip_bad=True", f"--init_from={out}", *options]
        tuned = tmp_path / "tuned"
        assert train(recipe, corpus, tuned, *more, yaml="finetune.yaml") == 0
        assert "margin 0.50" in capsys.readouterr().out
        assert (tuned / "metrics.json").is_file()


def test_sitw_is_for_evaluation(model, tmp_path, capsys):
    data = tmp_path / "data"
    corpus = corpus_trees.sitw(tmp_path / "sitw")
    places = ["--data-folder", corpus, "--output-folder", data]
    assert run("SITW", "prepare.py", *places) == 0
    assert "nothing to train on" in capsys.readouterr().err
    flags = ["--output-folder", tmp_path / "v", "--bootstrap", 0, "--device", "cpu"]
    assert run("SITW", "verify.py", model, data, *flags) == 0
    assert (tmp_path / "v" / "metrics.json").is_file()
    assert "MODEL_FOLDER" in run("SITW", "verify.py")


def test_cnceleb_enrolled_by_several_utterances(model, tmp_path):
    """The README's other protocol: the mean of the enrolment utterances."""
    corpus = corpus_trees.cnceleb(tmp_path / "cnceleb") / "CN-Celeb_flac"
    lists = corpus / "eval" / "lists"
    words = ["verify", "--model", model, "--data-root", corpus]
    words += ["--trials", f"Avg={lists / 'trials.lst'}"]
    words += ["--enrolment", f"Avg={lists / 'enroll.map'}", "--bootstrap", 0]
    words += ["--output-folder", tmp_path / "v", "--device", "cpu"]
    assert main([str(word) for word in words]) == 0
    assert "Avg" in (tmp_path / "v" / "metrics.json").read_text()


@pytest.mark.parametrize("yaml", sorted(RECIPES.glob("*/hparams/*.yaml")), ids=str)
def test_every_yaml_is_readable(yaml, tmp_path):
    words = [f"--data_folder={tmp_path}", "--loss=real_am", "--init_from=results"]
    config = read_config([str(yaml), *words])
    assert config.plain["corpus"] != ""
    assert "real_am" in config.plain["output_folder"]


# Millions of parameters and billions of multiply-adds for 200 frames: wespeaker's
# examples/voxceleb/v2/README.md, of which its x-vector has a second segment layer;
# that of SpeechBrain's ResNet is not published, so it is counted here.
PUBLISHED = {
    "ecapa": (14.65, 2.65),
    "resnet34": (15.44, 28.18),
    "resnet34_tsp": (6.63, 4.55),
    "xvector": (4.61 - (512 + 1) * 512 / 1e6, None),
}


@pytest.mark.parametrize("recipe", ["VoxCeleb", "CNCeleb"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_encoders_have_the_published_sizes(recipe, encoder):
    yaml = str(RECIPES / recipe / "hparams" / "train.yaml")
    config = read_config([yaml, "--data_folder=x", f"--encoder={encoder}"])
    with torch.device("meta"):
        built = config.build(out_n_neurons=3, steps_per_epoch=2)
        network = built["embedding_model"].eval()
        features = torch.zeros(1, 200, 80)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(features)
    published, billions = PUBLISHED[encoder]
    assert millions == pytest.approx(published, rel=0.003)
    if billions:
        assert counter.get_total_flops() / 2e9 == pytest.approx(billions, rel=0.006)


def test_xvector_has_the_size_of_its_paper():
    """4.2 million on the 24 filters of Snyder et al. 2018."""
    yaml = str(RECIPES / "VoxCeleb" / "hparams" / "train.yaml")
    words = ["--data_folder=x", "--encoder=xvector", "--n_mels=24"]
    built = read_config([yaml, *words]).build(out_n_neurons=3, steps_per_epoch=2)
    size = sum(p.numel() for p in built["embedding_model"].parameters())
    assert size == pytest.approx(4.2e6, rel=0.005)


def test_every_recipe_has_what_a_recipe_has():
    folders = sorted(p for p in RECIPES.iterdir() if (p / "README.md").is_file())
    assert len(folders) >= 5
    for folder in folders:
        readme = (folder / "README.md").read_text()
        assert (folder / "prepare.py").is_file() and (folder / "verify.py").is_file()
        assert "Disk" in readme
        assert "of our own yet" in readme or folder.name == "Folder"
