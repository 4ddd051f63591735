"""Schedules, history, checks, checkpoints."""

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from sb_margins import select
from sb_margins.errors import UserError
from sb_margins.losses import HSoftmax, JointLoss, NormSoftmax
from sb_margins.schedules import SHAPES, LossSchedule, current, ramp
from sb_margins.training.augment import build_augmenter
from sb_margins.training.checkpoints import WHOLE, WholeCheckpointer
from sb_margins.training.checks import check_numbers
from sb_margins.training.history import History


@pytest.mark.parametrize("shape", SHAPES)
def test_ramps_rise_from_end_to_end(shape):
    values = [ramp(x / 10, shape) for x in range(-2, 13)]
    assert values == sorted(values)
    assert values[-1] == values[-3] == 1.0
    assert values[0] == (1.0 if shape == "constant" else 0.0)


def test_schedule_ignores_losses_without_the_setting_and_rejects_nonsense():
    loss = nn.Identity()
    assert LossSchedule("margin", end=2)(loss, 1.0) is None
    with pytest.raises(ValueError, match="start"):
        LossSchedule(start=3, end=1)
    with pytest.raises(ValueError, match="shape"):
        LossSchedule(end=1, shape="cubic")


def test_schedules_in_steps_and_of_every_setting():
    loss = select.head("as", 4, 3, delta=0.2, scale=20).loss
    by_step = LossSchedule("delta", initial=1.0, start=10, end=20, unit="steps")
    values = [by_step(loss, 0.0, step) for step in (0, 10, 15, 20, 99)]
    assert values == pytest.approx([1, 1, 0.6, 0.2, 0.2]) and loss.delta == 0.2
    assert LossSchedule("scale", initial=10, end=2)(loss, 1.0) == 15 == loss.scale
    assert LossSchedule("scale", initial=None)(loss, 1.0) == 15  # left as it is
    assert LossSchedule("margin", end=2)(loss, 1.0) == 0  # AS alone has none
    with pytest.raises(ValueError, match="number of steps"):
        by_step(loss, 0.5)
    with pytest.raises(ValueError, match="'epochs' or 'steps'"):
        LossSchedule(unit="hours")


def test_parts_of_a_joint_loss_move_to_their_own_margins():
    loss = select.head("joint", 4, 3).loss
    loss.losses[1].margin = 0.4
    schedule = LossSchedule("margin", end=2)
    assert schedule(loss, 1.0) == pytest.approx(0.1)
    assert loss.losses[1].margin == pytest.approx(0.2)
    schedule(loss, 2.0)
    assert [part.margin for part in loss.losses] == [0.2, 0.4]
    assert current(loss, "margin") == 0.2 and current(loss, "delta") is None
    plain = JointLoss([NormSoftmax(), HSoftmax()], [0.5, 0.5])
    assert LossSchedule("margin", end=2)(plain, 1.0) is None  # nobody has one


@pytest.mark.parametrize("name", select.names())
def test_the_default_schedules_suit_every_loss(name):
    loss = select.head(name, 8, 3).loss
    before = {s: current(loss, s) for s in ("margin", "scale", "delta")}
    for setting, initial in (("margin", 0.0), ("scale", None), ("delta", None)):
        schedule = LossSchedule(setting, initial=initial, end=3)
        for progress in (0.0, 1.5, 3.0):
            schedule(loss, progress)
    assert {s: current(loss, s) for s in before} == before


def test_saturating_is_the_curve_of_wespeaker():
    for x in (0.1, 0.2, 0.5):
        theirs = 1 - np.exp(x * np.log(1e-3 / (1 + 1e-6)))
        assert ramp(x, "saturating") == pytest.approx(theirs, abs=1e-6)


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
