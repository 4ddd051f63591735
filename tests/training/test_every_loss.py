"""Every loss by its name: a step of training, a checkpoint, an exported model."""

import sys

import pytest
import torch
from trainings import flags, weights

from sb_margins import select
from sb_margins.cli import main as cli
from sb_margins.errors import UserError
from sb_margins.inference import export_results
from sb_margins.training import crops
from sb_margins.training.config import read_config
from sb_margins.training.run import run

STEP = ["--number_of_epochs=1", "--crops_per_utterance=1", "--batch_size=16"]


@pytest.mark.parametrize("name", select.names())
def test_a_step_and_an_exported_model(name, tiny_corpus, tmp_path, monkeypatch):
    batches = []

    def collate(items):
        batches.append(crops.collate(items))
        return batches[-1]

    monkeypatch.setattr("sb_margins.training.run.collate", collate)
    out = tmp_path / "run"
    trained = run(read_config(flags(tiny_corpus, out, *STEP, f"--loss={name}")))
    assert [row["epoch"] for row in trained.history.rows] == [0, 1]
    assert torch.isfinite(torch.tensor(trained.history.rows[1]["loss"]))
    assert 0 <= trained.history.rows[1]["accuracy"] <= 1
    each = select.settings(name).get("utterances_per_speaker", 1)
    for batch in batches:
        rows = batch.labels.reshape(-1, each)
        assert (rows == rows[:, :1]).all()
    head = trained.hparams["head"].state_dict()
    assert head.keys() == weights(out)["head"].keys()
    text = (export_results(out, tmp_path / "model") / "hyperparams.yaml").read_text()
    hyperbolic = trained.hparams["head"].classifier.geometry == "poincare"
    assert ("PoincareSimilarity" in text) == hyperbolic
    assert ("CosineSimilarity" in text) != hyperbolic


@pytest.mark.parametrize(
    "more, words",
    [
        (["--batch_size=6"], "ge2e wants two or more speakers with 4 utterances"),
        (["--batch_size=4"], "a multiple of 4"),
        (["--speeds=[1.0, 0.9]"], "ge2e compares utterances of one voice"),
    ],
)
def test_batches_that_do_not_suit_the_loss_are_refused(
    more, words, tiny_corpus, tmp_path
):
    with pytest.raises(UserError, match=words):
        run(read_config(flags(tiny_corpus, tmp_path / "run", "--loss=ge2e", *more)))


def test_without_the_library_training_says_what_to_install(
    tiny_corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    assert cli(["train", *flags(tiny_corpus, tmp_path / "run", "--loss=metric")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and "pip install 'sb-margins[metric]'" in told[0]
    assert cli(["losses", "metric"]) == 0 and cli(["losses", "--json"]) == 0
