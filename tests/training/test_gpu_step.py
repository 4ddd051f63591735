"""A step of a whole run on a GPU waits at most every tenth time; what it does is right.

Counted on a pretended GPU (helpers/pretended_gpu.py); values on the CPU, through the
branches of accelerators.
"""

import copy
import logging

import pytest
import soundfile
import torch
from gpu_brain import SMALL, gpu_brain, train
from tiny_brain import tiny_brain

from sb_margins.errors import UserError
from sb_margins.precision import accelerator_branches


@pytest.fixture
def recordings(tmp_path, make_voice):
    """Flags of a folder of noise and one of rooms."""
    for name, seconds in (("noise", 0.7), ("rir", 0.1)):
        (tmp_path / name).mkdir()
        for k in range(3):
            wav = make_voice(k, 1, seconds)
            soundfile.write(tmp_path / name / f"{k}.wav", wav, 16000)
    return [f"--{name}_folder={tmp_path / name}" for name in ("noise", "rir")]


SMALLER = ["--encoder=xvector", "--emb_dim=12", "--channels=8"]
CASES = {
    "ecapa": SMALL,
    "xvector": SMALLER,
    "ham": [*SMALLER, "--loss=ham"],
    "a loss that can be zero": [*SMALLER, "--loss=real_am"],
    "noise and rooms": SMALLER,
}


@pytest.mark.parametrize(
    "name, precision",
    [
        ("ecapa", "bf16"),
        ("xvector", "fp32"),
        ("xvector", "fp16"),
        ("ham", "bf16"),
        ("a loss that can be zero", "bf16"),
        ("noise and rooms", "fp32"),
    ],
)
def test_ten_steps_wait_once(name, precision, tmp_path, recordings):
    flags = CASES[name] + (recordings if name == "noise and rooms" else [])
    with gpu_brain(tmp_path, *flags, precision=precision) as (brain, device):
        train(brain, 1, 16, 8000)  # the first update is looked at
        assert all(p.grad is None for p in brain.modules.parameters())
        device.clear()
        train(brain, 8, 16, 8000)
        assert not device.copies and not device.waits
        train(brain, 1, 16, 8000)
        assert not device.copies
        assert device.waits.total() == 1, device.waits
        assert device.launches.total() / 9 < 1300
        states = brain.optimizer.state.values()
        assert {s["exp_avg"].device.type for s in states} == {"cuda"}
        assert len(states) == len(list(brain.modules.parameters()))


def test_a_step_waits_when_the_optimizer_cannot_skip_by_itself(tmp_path):
    with gpu_brain(tmp_path, *SMALLER) as (brain, device):
        brain.opt_class = torch.optim.SGD
        brain.init_optimizers()
        train(brain, 1, 8, 8000)
        device.clear()
        train(brain, 3, 8, 8000)
        assert device.waits.total() == 3


def trained(optimizer, broken, patience=100):
    """A Brain after 25 steps, those in ``broken`` with a gradient of NaN."""
    brain, loader = tiny_brain(25)
    brain.opt_class = optimizer
    brain.nonfinite_patience = patience
    objectives = brain.compute_objectives

    def spoil(*arguments):
        return objectives(*arguments) * (float("nan") if brain.step in broken else 1.0)

    brain.compute_objectives = spoil
    brain.fit([1], loader)
    return brain


def fused_adam(parameters):
    return torch.optim.Adam(parameters, lr=0.1, fused=True)


def fused_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)


@pytest.mark.parametrize("optimizer", [fused_adam, fused_sgd])
def test_updates_skipped_on_the_device_are_those_that_a_cpu_skips(optimizer, caplog):
    broken = {1, 4, 5, 12, 25}
    one = trained(optimizer, broken)
    assert caplog.text.count("is skipped") == 5
    caplog.clear()
    with accelerator_branches(), caplog.at_level(logging.WARNING):
        two = trained(optimizer, broken)
    assert caplog.text.count("is skipped") == 1  # the first, with no state yet
    assert "up to step 10: 2 gradients" in caplog.text
    assert "up to step 20: 1 gradients" in caplog.text
    assert "up to step 25: 1 gradients" in caplog.text
    for brain in (one, two):
        assert brain.optimizer_step == 20 and brain.nonfinite_count == 1
    torch.testing.assert_close(one.modules.state_dict(), two.modules.state_dict())
    states = (brain.optimizer.state_dict()["state"] for brain in (one, two))
    torch.testing.assert_close(*states)


def test_too_many_skipped_in_a_row_end_a_run_at_the_next_look():
    for row, ends in (({2, 3, 4, 9}, False), ({2, 3, 4, 5, 9}, True)):
        with accelerator_branches():
            if not ends:
                trained(fused_adam, row, patience=3)
                continue
            with pytest.raises(UserError, match="4 updates in a row"):
                trained(fused_adam, row, patience=3)


def test_a_row_of_skipped_updates_goes_on_over_looks():
    with accelerator_branches(), pytest.raises(UserError, match="5 updates in a row"):
        trained(fused_adam, {8, 9, 10, 11, 12}, patience=4)
    with accelerator_branches():
        brain = trained(fused_adam, {8, 9, 11, 12}, patience=2)
    assert brain.nonfinite_count == 0 and brain.optimizer_step == 21


def test_a_checkpoint_counts_only_updates_that_were_made(tmp_path):
    with accelerator_branches():
        brain, loader = tiny_brain(25, folder=tmp_path)
        brain.opt_class = fused_adam
        brain.ckpt_interval_minutes, brain.ckpt_interval_steps = 0, 7
        objectives = brain.compute_objectives
        brain.compute_objectives = lambda *arguments: (
            objectives(*arguments) * (float("nan") if brain.step == 6 else 1.0)
        )
        saved = []
        save = brain._save_intra_epoch_ckpt
        brain._save_intra_epoch_ckpt = lambda: (
            saved.append((brain.step, brain.optimizer_step)),
            save(),
        )
        brain.fit([1], loader)
    assert saved[0] == (7, 6)


def test_figures_of_the_bar_are_read_every_tenth_batch():
    brain, loader = tiny_brain(25)
    shown = []

    class Bar:
        n, total, disable = 0, 25 * 8, False

        def update(self, number):
            self.n += number

        def set_postfix(self, values, refresh):
            shown.append((brain.step, values, copy.deepcopy(brain.tally).means()))

        def close(self):
            pass

    start = brain.on_stage_start

    def with_bar(*arguments):
        start(*arguments)
        brain.bar = Bar()

    brain.on_stage_start = with_bar
    brain.fit([1], loader)
    assert [step for step, *_ in shown] == [10, 20, 25]
    for _, values, means in shown:
        assert values["acc"] == f"{means['accuracy']:.1%}"
