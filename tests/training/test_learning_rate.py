"""Schedulers of SpeechBrain and of torch: the rates they give, and give again."""

from functools import partial

import pytest
import torch
from speechbrain.nnet import schedulers as sb
from speechbrain.utils.epoch_loop import EpochCounter
from tiny_brain import tiny_brain
from torch.optim import lr_scheduler as torch_schedulers

from sb_margins.training.learning_rate import LearningRate

STEPS, EPOCHS, RATE = 4, 3, 0.1
SCHEDULERS = {
    "none": lambda: None,
    "WarmAndExp": lambda: sb.WarmAndExpDecayLRSchedule(RATE, 2, 12),
    "CyclicLR": lambda: sb.CyclicLRScheduler(0.01, RATE, step_size=3),
    "Noam": lambda: sb.NoamScheduler(RATE, 5),
    "Linear": lambda: sb.LinearScheduler(RATE, 0.02, EPOCHS),
    "Step": lambda: sb.StepScheduler(RATE, decay_factor=0.5, decay_drop=1),
    "NewBob": lambda: sb.NewBobScheduler(RATE, patient=0, improvement_threshold=9),
    "Plateau": lambda: sb.ReduceLROnPlateau(patience=0, dont_halve_until_epoch=1),
    "TriStage": lambda: sb.TriStageLRSchedule(RATE, 3, 3, 6, total_steps=12),
    "OneCycleLR": lambda: partial(
        torch_schedulers.OneCycleLR, max_lr=RATE, total_steps=12
    ),
    "StepLR": lambda: partial(torch_schedulers.StepLR, step_size=1, gamma=0.5),
    "MultiStepLR": lambda: partial(torch_schedulers.MultiStepLR, milestones=[1]),
    "torch Plateau": lambda: partial(
        torch_schedulers.ReduceLROnPlateau, patience=0, threshold=9
    ),
}


def train(scheduler, folder, epochs):
    """The rate of each update; a second call in the same folder continues."""
    brain, loader = tiny_brain(STEPS, rate=RATE, folder=folder, lr_annealing=scheduler)
    counter = EpochCounter(epochs)
    brain.checkpointer.add_recoverable("counter", counter)
    rates = []
    step = brain.optimizers_step

    def noted():
        rates.append(brain.optimizer.param_groups[0]["lr"])
        step()

    brain.optimizers_step = noted
    brain.validate = lambda encoder: {"EER": 0.1 * brain.epoch}  # it gets worse
    brain.fit(counter, loader)
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resumed_run_has_the_rates_of_a_straight_one(name, tmp_path):
    make = SCHEDULERS[name]
    straight = train(make(), tmp_path / "straight", EPOCHS)
    assert len(straight) == STEPS * EPOCHS
    first = train(make(), tmp_path / "broken", 1)
    assert first == straight[:STEPS]
    rest = train(make(), tmp_path / "broken", EPOCHS)
    assert first + rest == pytest.approx(straight, rel=1e-9)
    assert (len(set(straight)) > 1) == (name != "none")


def per_epoch(*rates):
    return [rate for rate in rates for _ in range(STEPS)]


def test_rates_are_what_the_schedulers_say(tmp_path):
    def rates(name):
        return train(SCHEDULERS[name](), tmp_path / name, EPOCHS)

    assert rates("none") == [RATE] * 12
    assert rates("CyclicLR")[:6] == pytest.approx([0.04, 0.07, 0.1, 0.07, 0.04, 0.01])
    noam = [5**0.5 * min(n**-0.5, n * 5**-1.5) * RATE for n in range(1, 13)]
    assert rates("Noam") == pytest.approx(noam)
    assert rates("Linear") == pytest.approx(per_epoch(0.1, 0.06, 0.02))
    assert rates("StepLR") == pytest.approx(per_epoch(0.1, 0.05, 0.025))
    assert rates("MultiStepLR") == pytest.approx(per_epoch(0.1, 0.01, 0.01))
    assert rates("NewBob") == pytest.approx(per_epoch(0.1, 0.1, 0.05))
    one_cycle = rates("OneCycleLR")
    assert one_cycle[0] == pytest.approx(RATE / 25) and max(one_cycle) > 0.099
    assert one_cycle[-1] < RATE / 1000


def test_a_metric_is_the_dev_error_or_else_the_training_loss():
    seen = []

    def newbob(metric_value):
        seen.append(metric_value)
        return 0.1, 0.1

    for stats in (None, {"EER": 0.25}):
        brain, loader = tiny_brain(2, lr_annealing=newbob)
        brain.validate = (lambda encoder, s=stats: s) if stats else None
        brain.fit([1], loader)
    assert seen[0] == brain.tally.means()["loss"] and seen[1] == 0.25


def test_a_schedule_has_its_length_in_epochs_whatever_accumulates():
    rates = []
    for factor in (1, 3):  # of 4 batches the second window is cut short
        options = {"grad_accumulation_factor": factor}
        scheduler = sb.WarmAndExpDecayLRSchedule(RATE, 2, 12)
        brain, loader = tiny_brain(STEPS, options, lr_annealing=scheduler)
        brain.fit([1, 2], loader)
        rates.append([row["lr"] for row in brain.history.rows])
    assert rates[0] == rates[1] and rates[0][0] != rates[0][1]


def test_a_scheduler_of_batches_and_optimizer():
    calls = []
    rate = LearningRate(lambda opt, num_updates: calls.append((opt, num_updates)))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rate.attach(optimizer)
    rate.before_batch(7)
    rate.after_batch()
    rate.after_epoch(1, 0.5)
    assert calls == [(optimizer, 7)] and rate.recoverable is None
