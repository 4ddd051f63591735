"""Starting from other trainings, and what comes out at the end."""

import math
import shutil

import pytest
import torch
from tiny_brain import tiny_brain
from torch import nn
from trainings import assert_same, flags, weights

from sb_margins.cli import main as cli
from sb_margins.errors import UserError
from sb_margins.select import hparams_dir
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.checkpoints import (
    WHOLE,
    WholeCheckpointer,
    copy_classes,
    load_best,
)
from sb_margins.training.config import read_config
from sb_margins.training.run import run


@pytest.fixture(scope="module")
def first(tiny_corpus, tmp_path_factory):
    """A finished training with speed-changed voices as further classes."""
    out = tmp_path_factory.mktemp("first")
    words = ["--number_of_epochs=1", "--speeds=[1.0, 0.9, 1.1]"]
    assert cli(["train", *flags(tiny_corpus, out, *words)]) == 0
    return out


def best(folder):
    path = next((folder / "save").glob("CKPT+*"))
    names = ("embedding_model", "head")
    return {n: torch.load(path / f"{n}.ckpt", weights_only=True) for n in names}


def test_large_margin_fine_tuning(tiny_corpus, tmp_path, first, monkeypatch, capsys):
    before = best(first)
    assert len(before["head"]["classifier.weight"]) == 12  # 4 speakers x 3 speeds
    began = {}

    def start(self, *args, **kwargs):
        began["head"] = self.head.classifier.weight.detach().clone()
        began["samples"] = args[1].samples
        return fit(self, *args, **kwargs)

    fit = SpeakerBrain.fit
    monkeypatch.setattr(SpeakerBrain, "fit", start)
    more = [f"--init_from={first}", "--number_of_epochs=1", "--sentence_len=1.4"]
    yaml = "finetune_large_margin.yaml"
    words = flags(tiny_corpus, tmp_path / "run", *more, yaml=yaml)
    trained = run(read_config(words))
    assert "and 4 of its classes" in capsys.readouterr().out
    assert torch.equal(began["head"], before["head"]["classifier.weight"][:4])
    assert trained.hparams["head"].loss.margin == 0.5
    assert trained.history.rows[1]["margin"] == 0.5
    assert began["samples"] == 1.4 * 16000
    # 6 s crops of 2 s utterances would all be repetitions: refused.
    words = flags(tiny_corpus, tmp_path / "no", *more[:2], yaml=yaml)
    with pytest.raises(UserError, match="lower sentence_len"):
        run(read_config([*words, "--sentence_len=6"]))
    base = read_config([str(hparams_dir() / yaml), "--data_folder=x", more[0]]).plain
    assert base["sentence_len"] == 6 and base["speeds"] == [1.0]


def test_a_run_killed_before_its_first_epoch_continues_from_the_start(
    tiny_corpus, tmp_path, first, monkeypatch
):
    """The weights that it started from are a checkpoint, of both rates' optimizer."""
    more = [f"--init_from={first}", "--number_of_epochs=1", "--encoder_rate=0.1"]
    whole = run(read_config(flags(tiny_corpus, tmp_path / "whole", *more)))
    fit_batch = SpeakerBrain.fit_batch

    def die(self, batch):
        if self.step == 3:
            raise KeyboardInterrupt
        return fit_batch(self, batch)

    words = flags(tiny_corpus, tmp_path / "killed", *more)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SpeakerBrain, "fit_batch", die)
        run(read_config(words))
    assert len(list((tmp_path / "killed" / "save").glob("CKPT*"))) == 1
    killed = run(read_config(words))
    assert killed.history.rows[1]["loss"] == whole.history.rows[1]["loss"]
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.parametrize("source", ["model", ""])
def test_a_frozen_encoder_does_not_move(tiny_corpus, tmp_path, first, source, capsys):
    more = [f"--init_from={first / source}", "--number_of_epochs=1"]
    words = flags(tiny_corpus, tmp_path / "run", *more, "--freeze_steps=99")
    run(read_config(words))
    told = capsys.readouterr().out
    assert "starting from the encoder of" in told
    encoder = {"embedding_model": best(first)["embedding_model"]}
    assert_same(encoder, best(tmp_path / "run"))  # batch statistics included


def test_freeze_ends_after_its_updates():
    brain, loader = tiny_brain(7, settings={"freeze_steps": 3})
    seen, step = [], brain.optimizers_step

    def look():
        step()
        seen.append(float(brain.modules.embedding_model.weight.detach().sum()))

    brain.optimizers_step = look
    brain.fit([1], loader)
    assert seen[0] == seen[1] == seen[2] and len(set(seen[2:])) == len(seen[2:])


def test_mean_of_the_last_checkpoints(tmp_path):
    settings = {"average_checkpoints": 2}
    brain, loader = tiny_brain(4, settings=settings, folder=tmp_path)
    network, after = brain.modules.embedding_model, []

    def validate(encoder):
        after.append(network.weight.detach().clone())
        return {"EER": 0.25}

    brain.validate = validate
    brain.fit([1, 2, 3], loader)
    assert load_best(brain, 2) == "the mean of the last 2 epochs' weights"
    torch.testing.assert_close(network.weight.detach(), (after[1] + after[2]) / 2)
    brain.validate = lambda encoder: {"EER": 0.5}  # a mean that is worse than the best
    brain.checkpointer.recover_if_possible()
    assert load_best(brain, 3).startswith("the weights of epoch")


def test_half_written_checkpoint_is_passed_over_and_told(tmp_path, caplog):
    net = nn.Linear(2, 2)
    saver = WholeCheckpointer(tmp_path, {"net": net})
    saver.save_checkpoint(name="good", meta={"unixtime": 1.0})
    with torch.no_grad():
        net.weight.zero_()
    half = saver.save_checkpoint(name="half")
    (half.path / WHOLE).unlink()
    (half.path / "net.ckpt").write_bytes(b"half")
    found = WholeCheckpointer(tmp_path, {"net": net}).recover_if_possible()
    assert found.path.name == "CKPT+good" and net.weight.abs().sum() > 0
    assert "half-written" in caplog.text


def test_class_weights_go_to_the_same_speakers():
    head = nn.Linear(2, 3, bias=False)
    other = {"weight": torch.tensor([[1.0, 1.0], [2.0, 2.0]])}
    now = {"b": 0, "c": 1, "d": 2}
    before = head.weight.detach().clone()
    assert copy_classes(head, other, {"a": 0, "b": 1}, now) == 1
    assert head.weight[0].tolist() == [2.0, 2.0]
    assert torch.equal(head.weight[1:], before[1:])
    assert copy_classes(head, {"weight": torch.ones(2, 5)}, {"b": 1}, now) == 0
    assert copy_classes(head, {"other": torch.ones(2, 2)}, {"b": 1}, now) == 0


@pytest.mark.parametrize(
    "name", ["label_encoder.txt", "head.ckpt", "embedding_model.ckpt", "CKPT.yaml"]
)
def test_damaged_parts_to_start_from_are_one_line(
    tiny_corpus, tmp_path, first, name, capsys
):
    broken = tmp_path / "broken"
    shutil.copytree(first, broken)
    for path in [*broken.glob(name), *broken.glob(f"save/CKPT*/{name}")]:
        path.write_bytes(b"\x80damaged\xff")
    words = flags(tiny_corpus, tmp_path / "run", f"--init_from={broken}")
    assert cli(["train", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    (told,) = [line for line in lines if not line.startswith("prepare folder:")]
    assert str(broken) in told or name.partition(".")[0] in told


@pytest.mark.parametrize("name", ["optimizer.ckpt", "brain.ckpt", "head.ckpt"])
def test_a_damaged_checkpoint_is_named(tiny_corpus, tmp_path, first, name, capsys):
    out = tmp_path / "run"
    shutil.copytree(first, out)
    for path in out.glob(f"save/CKPT*/{name}"):
        path.write_bytes(b"damaged")
    more = ["--number_of_epochs=1", "--speeds=[1.0, 0.9, 1.1]"]
    assert cli(["train", *flags(tiny_corpus, out, *more)]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cannot be loaded" in told and "CKPT+" in told and "Delete it" in told


def test_an_error_that_is_not_a_number_wins_nothing(tmp_path):
    brain, loader = tiny_brain(2, folder=tmp_path)
    errors = iter([0.4, math.nan, 0.3])
    brain.validate = lambda encoder: {"EER": next(errors)}
    brain.fit([1, 2], loader)
    assert "EER" not in brain.history.rows[-1]
    assert load_best(brain) == "the weights of epoch 1"
    brain.fit([3], loader)
    assert load_best(brain) == "the weights of epoch 3"
