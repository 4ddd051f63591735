"""What goes wrong in the middle: one clear message, and a checkpoint to go on from."""

import os
import resource
import signal
from contextlib import contextmanager

import torch
from trainings import flags, weights

from sb_margins.cli import main as cli
from sb_margins.training import crops
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.config import read_config
from sb_margins.training.run import run


def goes_on(words, capsys, epoch=2, of=2):
    """The same command again finishes what was begun."""
    capsys.readouterr()
    run(read_config(words))
    told = capsys.readouterr().out
    assert f"continuing after epoch {epoch - 1}" in told or "continuing in" in told
    assert f"epoch {of}/{of}" in told


def spoil(monkeypatch, spoils):
    """Make the loss NaN where ``spoils(epoch, step)``."""
    objectives = SpeakerBrain.compute_objectives

    def bad(self, predictions, batch, stage):
        loss = objectives(self, predictions, batch, stage)
        return loss * float("nan") if spoils(self.epoch, self.step) else loss

    monkeypatch.setattr(SpeakerBrain, "compute_objectives", bad)


def test_one_nan_is_skipped_and_told_once(tiny_corpus, tmp_path, monkeypatch, caplog):
    spoil(monkeypatch, lambda epoch, step: (epoch, step) == (1, 3))
    words = flags(tiny_corpus, tmp_path / "run", "--number_of_epochs=2")
    run(read_config(words))
    told = [r.message for r in caplog.records if r.name.startswith("sb_margins")]
    assert told == ["step 3: the gradient is not finite; this update is skipped"]
    for part in weights(tmp_path / "run").values():
        assert all(torch.isfinite(v).all() for v in part.values())


def test_nan_without_end_stops(tiny_corpus, tmp_path, monkeypatch, capsys):
    words = flags(tiny_corpus, tmp_path / "run", "--number_of_epochs=2")
    with monkeypatch.context() as patch:
        spoil(patch, lambda epoch, step: epoch == 2)
        assert cli(["train", *words]) == 2
    told = capsys.readouterr()
    assert "4 updates in a row were not finite" in told.err
    assert "Traceback" not in told.err
    goes_on(words, capsys)


def test_a_worker_that_dies(tiny_corpus, tmp_path, monkeypatch, capsys):
    words = flags(tiny_corpus, tmp_path / "run", "--number_of_epochs=2")
    words.append("--num_workers=1")
    read = crops.CropDataset.__getitem__

    def die(self, key):
        if key[0] == 2 and key[1] == 7 and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(crops.CropDataset, "__getitem__", die)
        assert cli(["train", *words]) == 2
    told = capsys.readouterr().err
    assert "a process that reads audio died" in told
    assert "lower num_workers" in told
    goes_on(words, capsys)


def test_a_file_that_goes_bad(tiny_corpus, tmp_path, monkeypatch, capsys):
    words = flags(tiny_corpus, tmp_path / "run", "--number_of_epochs=2")
    words += ["--num_workers=1", "--preload=False"]
    load = crops.load_audio

    def broken(path, **options):
        return load(tmp_path / "gone.wav", **options)

    with monkeypatch.context() as patch:
        patch.setattr(crops, "load_audio", broken)
        assert cli(["train", *words]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("sb-margins: error: no such audio file")
    assert "gone.wav" in told


@contextmanager
def small_files(size):
    """No file may grow beyond ``size``: to the writer, the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(tiny_corpus, tmp_path, monkeypatch, capsys):
    words = flags(tiny_corpus, tmp_path / "run", "--number_of_epochs=2")
    save = tmp_path / "run" / "save"
    validate = SpeakerBrain.validation_stats
    limit = []

    def then_full(self):
        if self.epoch == 2 and not limit:
            limit.append(small_files(20_000))
            limit[0].__enter__()
        return validate(self)

    with monkeypatch.context() as patch:
        patch.setattr(SpeakerBrain, "validation_stats", then_full)
        try:
            assert cli(["train", *words]) == 2
        finally:
            limit[0].__exit__(None, None, None)
    told = capsys.readouterr().err
    assert "cannot write a checkpoint" in told and "disk is full" in told
    assert str(save) in told and "Traceback" not in told
    assert len(list(save.glob("CKPT*"))) == 1  # the whole one of epoch 1
    goes_on(words, capsys)
