"""Schedules, history, checks, checkpoints."""

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from sb_margins.errors import UserError
from sb_margins.training.augment import build_augmenter
from sb_margins.training.checkpoints import WHOLE, WholeCheckpointer
from sb_margins.training.checks import check_numbers
from sb_margins.training.history import History


def test_history_replaces_epochs_that_run_again(tmp_path):
    history = History(tmp_path / "history.csv")
    for epoch in (0, 1, 2, 3):
        history.add({"epoch": epoch, "EER": 0.5 - 0.1 * epoch})
    again = History(tmp_path / "history.csv")
    again.add({"epoch": 2, "EER": 0.05, "loss": 1.0})
    again = History(tmp_path / "history.csv")
    assert [r["epoch"] for r in again.rows] == [0, 1, 2]
    assert again.best == {"epoch": 2, "EER": 0.05, "loss": 1.0}


@pytest.mark.parametrize(
    "plain, message",
    [
        ({"batch_size": 1}, "at least 2"),
        ({"batch_size": 64}, "crops_per_utterance"),
        ({"batch_size": 8, "sentence_len": 0.01}, "sentence_len"),
        ({"batch_size": 8, "number_of_epochs": 0}, "number_of_epochs"),
    ],
)
def test_numbers_that_cannot_train(plain, message):
    with pytest.raises(UserError, match=message):
        check_numbers(plain, 20)


def test_every_process_needs_a_batch():
    check_numbers({"batch_size": 10}, 20, processes=2)
    with pytest.raises(UserError, match="on each of 3 processes"):
        check_numbers({"batch_size": 10}, 20, processes=3)


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


def test_augmenter_keeps_the_batch_and_needs_what_it_names(tmp_path, make_voice):
    for name in ("noise", "rir"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a b.wav", make_voice(1, 1, 0.6), 16000)
    augment = build_augmenter(
        str(tmp_path / "save"),
        noise_folder=str(tmp_path / "noise"),
        rir_folder=str(tmp_path / "rir"),
        probability=1.0,
    )
    wavs = torch.from_numpy(np.stack([make_voice(k, 0, 1.0) for k in range(10)]))
    out, lengths = augment(wavs, torch.ones(10))
    assert out.shape == wavs.shape and torch.isfinite(out).all()
    assert lengths.shape == (10,)
    changed = [(out[k] - wavs[k]).abs().max() > 0 for k in range(10)]
    assert sum(changed) >= 7  # a silenced chunk may fall on silence
    once, again = (
        [torch.manual_seed(5), augment(wavs, torch.ones(10))[0]][1] for _ in range(2)
    )
    torch.testing.assert_close(once, again, rtol=0, atol=0)
    with pytest.raises(UserError, match="no such noise folder"):
        build_augmenter("x", noise_folder=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no audio"):
        build_augmenter("x", rir_folder=str(tmp_path / "empty"))
    nothing = {"white_noise": False, "drop_freq": False, "drop_chunk": False}
    assert build_augmenter("x", **nothing) is None
