"""Schedulers of SpeechBrain and of torch: the rates they give, and give again."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from speechbrain.nnet import schedulers as sb
from speechbrain.utils.epoch_loop import EpochCounter
from tiny_brain import tiny_brain
from torch.optim import lr_scheduler as torch_schedulers
from trainings import assert_same, flags, weights

from sb_margins.select import hparams_dir
from sb_margins.training.brain import SpeakerBrain
from sb_margins.training.config import read_config
from sb_margins.training.learning_rate import LearningRate, slow_down
from sb_margins.training.process import Interrupted
from sb_margins.training.run import run

STEPS, EPOCHS, RATE = 4, 3, 0.1


def from_torch(name, **settings):
    """As ``!name:torch.optim.lr_scheduler.NAME`` in a YAML."""
    return lambda: partial(getattr(torch_schedulers, name), **settings)


def chained(optimizer):
    """Schedulers of schedulers come from a function of the optimizer."""
    parts = (
        torch_schedulers.ConstantLR(optimizer),
        torch_schedulers.StepLR(optimizer, 1),
    )
    return torch_schedulers.SequentialLR(optimizer, parts, milestones=[1])


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
    "WarmCool": lambda: sb.WarmCoolDecayLRSchedule(RATE, 3, 4, 12),
    "LinearWarmup": lambda: sb.LinearWarmupScheduler(RATE, 2, 12),
    "NoamInterval": lambda: sb.NoamIntervalScheduler(RATE, 3, [6, 9], [0.5, 0.1]),
    "LinearNoam": lambda: sb.LinearNoamScheduler(RATE, 3, 4),
    "CyclicCosine": lambda: sb.CyclicCosineScheduler(3, RATE, total_steps=12),
    "Interval": lambda: sb.IntervalScheduler(
        [{"steps": 3, "lr": RATE}, {"steps": 6, "lr": 0.01}]
    ),
    "InverseSquareRoot": lambda: sb.InverseSquareRootScheduler(3),
    "OneCycleLR": from_torch("OneCycleLR", max_lr=RATE, total_steps=12),
    "torch CyclicLR": from_torch(
        "CyclicLR", base_lr=0.01, max_lr=RATE, step_size_up=3, cycle_momentum=False
    ),
    "StepLR": from_torch("StepLR", step_size=1, gamma=0.5),
    "MultiStepLR": from_torch("MultiStepLR", milestones=[1]),
    "LambdaLR": from_torch("LambdaLR", lr_lambda=lambda epoch: 1 / (1 + epoch)),
    "MultiplicativeLR": from_torch("MultiplicativeLR", lr_lambda=lambda epoch: 0.5),
    "ConstantLR": from_torch("ConstantLR", total_iters=1),
    "LinearLR": from_torch("LinearLR"),
    "ExponentialLR": from_torch("ExponentialLR", gamma=0.5),
    "PolynomialLR": from_torch("PolynomialLR", total_iters=3),
    "CosineAnnealingLR": from_torch("CosineAnnealingLR", T_max=3),
    "WarmRestarts": from_torch("CosineAnnealingWarmRestarts", T_0=2),
    "torch Plateau": from_torch("ReduceLROnPlateau", patience=0, threshold=9),
    "Sequential": lambda: partial(chained),
}
# Not schedulers of a rate; made of other schedulers, as `chained`; the old name.
NONE = {"ScheduledLoss", "SequentialLR", "ChainedScheduler", "LRScheduler"}
NONE |= {"SWALR"}


def test_every_scheduler_is_here():
    made = [make() for make in SCHEDULERS.values()]
    ours = {getattr(one, "func", type(one)).__name__ for one in made}
    for module in (sb, torch_schedulers):
        theirs = {k for k, v in vars(module).items() if isinstance(v, type)}
        theirs = {k for k in theirs if vars(module)[k].__module__ == module.__name__}
        assert not {k for k in theirs if k[0] != "_"} - ours - NONE


def train(scheduler, folder, epochs, stop=None):
    """The rate of each update; a second call in the same folder continues.

    ``stop`` is an (epoch, step) after which Ctrl-C is pressed.
    """
    brain, loader = tiny_brain(STEPS, rate=RATE, folder=folder, lr_annealing=scheduler)
    counter = EpochCounter(epochs)
    brain.checkpointer.add_recoverable("counter", counter)
    rates = []
    step = brain.optimizers_step

    def noted():
        rates.append(brain.optimizer.param_groups[0]["lr"])
        brain.stop.asked = (brain.epoch, brain.step) == stop
        step()

    brain.optimizers_step = noted
    brain.validate = lambda encoder: {"EER": 0.1 * brain.epoch}  # it gets worse
    with pytest.raises(Interrupted) if stop else nullcontext():
        brain.fit(counter, loader)
    shown = {row["epoch"]: row["lr"] for row in brain.history.rows}
    assert shown.get(epochs, rates[-1]) == rates[-1]
    return rates


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_resumed_run_has_the_rates_of_a_straight_one(name, tmp_path):
    make = SCHEDULERS[name]
    straight = train(make(), tmp_path / "straight", EPOCHS)
    assert len(straight) == STEPS * EPOCHS
    first = train(make(), tmp_path / "broken", EPOCHS, stop=(2, 2))
    assert first == straight[: STEPS + 2]
    assert first + train(make(), tmp_path / "broken", EPOCHS) == straight
    assert (len(set(straight)) > 1) == (name != "none")


@pytest.mark.parametrize("name", ["Plateau", "Step", "StepLR", "OneCycleLR"])
def test_a_run_that_goes_on_after_an_epoch(name, tmp_path):
    make = SCHEDULERS[name]
    straight = train(make(), tmp_path / "straight", EPOCHS)
    first = train(make(), tmp_path / "broken", 1)
    assert first + train(make(), tmp_path / "broken", EPOCHS) == straight


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
    for name in ("torch CyclicLR", "OneCycleLR"):  # as in a loop of plain torch
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=RATE)
        scheduler, expected = SCHEDULERS[name]()(optimizer), []
        for _ in range(STEPS * EPOCHS):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates(name) == expected
    assert expected[0] == pytest.approx(RATE / 25) and max(expected) > 0.099
    assert expected[-1] < RATE / 1000


SPEECHBRAINS = "!new:speechbrain.nnet.schedulers."
STEPS_OF_ALL = "!ref <number_of_epochs> * <steps_per_epoch>"
IN_YAML = {  # and the rate that each epoch shows
    f"""{SPEECHBRAINS}CyclicLRScheduler
    base_lr: 0.001
    max_lr: !ref <lr>
    step_size: !ref <steps_per_epoch>""": [0.01, 0.001, 0.01],
    f"""{SPEECHBRAINS}NoamScheduler
    lr_initial: !ref <lr>
    n_warmup_steps: !ref <steps_per_epoch>""": [0.01, 0.01 / 2**0.5, 0.01 / 3**0.5],
    f"""{SPEECHBRAINS}LinearScheduler
    initial_value: !ref <lr>
    final_value: 0.002
    epoch_count: !ref <number_of_epochs>""": [0.01, 0.006, 0.002],
    f"""{SPEECHBRAINS}NewBobScheduler
    initial_value: !ref <lr>""": [0.01, 0.01, 0.005],
    f"""{SPEECHBRAINS}ReduceLROnPlateau
    patience: 0
    dont_halve_until_epoch: 1""": [0.01, 0.01, 0.005],
    f"""!name:torch.optim.lr_scheduler.OneCycleLR
    max_lr: !ref <lr>
    total_steps: {STEPS_OF_ALL}
    pct_start: 0.5""": [None, None, 0.01 / 25 / 1e4],
}


@pytest.mark.parametrize("node", IN_YAML)
def test_a_yaml_of_ours_with_another_scheduler(
    node, tiny_corpus, tmp_path, monkeypatch
):
    """It trains, stops within an epoch, goes on exactly, and shows the right rate."""
    monkeypatch.setattr(
        SpeakerBrain, "validation_stats", lambda self: {"EER": 0.1 + 0.1 * self.epoch}
    )
    yaml = tmp_path / "mine.yaml"
    base = hparams_dir() / "train_ecapa.yaml"
    yaml.write_text(f"base: {base}\nlr: 0.01\nlr_annealing: {node}\n")
    more = ["--number_of_epochs=3", "--crops_per_utterance=1"]
    straight = run(read_config(flags(tiny_corpus, tmp_path / "a", *more, yaml=yaml)))
    words = flags(tiny_corpus, tmp_path / "b", *more, yaml=yaml)
    end = SpeakerBrain.on_fit_batch_end

    def stop(brain, *args):
        end(brain, *args)
        brain.stop.asked = (brain.epoch, brain.step) == (2, 2)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(SpeakerBrain, "on_fit_batch_end", stop)
        run(read_config(words))
    resumed = run(read_config(words))
    assert_same(weights(straight.folder), weights(resumed.folder))
    for one, two in zip(straight.history.rows, resumed.history.rows, strict=True):
        times = {"seconds", "utt/s"}
        assert {k: one[k] for k in one if k not in times} == {
            k: two[k] for k in two if k not in times
        }
    shown = [row["lr"] for row in straight.history.rows[1:]]
    for rate, expected in zip(shown, IN_YAML[node], strict=True):
        assert expected is None or rate == pytest.approx(expected)


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
    rate.after_epoch(1, 0.5)
    assert calls == [(optimizer, 7)]


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adadelta"])
def test_some_parameters_go_at_a_share_of_the_rate(name):
    """As two optimizers would, whatever sets the rate, and after a load."""
    kind = getattr(torch.optim, name)
    torch.manual_seed(4)
    start = [torch.randn(3, 2), torch.randn(4)]
    wanted = [t.clone().requires_grad_() for t in start]
    both = [
        kind([p], lr=r, weight_decay=0.1)
        for p, r in zip(wanted, (0.2, 0.05), strict=True)
    ]
    found = [t.clone().requires_grad_() for t in start]
    one = kind(found, lr=0.2, weight_decay=0.1)
    slow_down(one, found[1:], 0.25)
    for step in range(4):
        if step == 2:
            state = one.state_dict()
            one = kind(found, lr=9.0, weight_decay=0.1)
            slow_down(one, found[1:], 0.25)
            one.load_state_dict(state)
        for group in one.param_groups:
            group["lr"] = 0.2 / (1 + step)
        for optimizer, rate in zip(both, (0.2, 0.05), strict=True):
            optimizer.param_groups[0]["lr"] = rate / (1 + step)
        for p in (*wanted, *found):
            p.grad = torch.full_like(p, 0.1 + step)
        for optimizer in (*both, one):
            optimizer.step()
        assert {g["lr"] for g in one.param_groups} == {0.2 / (1 + step)}
    for p, q in zip(wanted, found, strict=True):
        torch.testing.assert_close(p, q)
    assert [len(g["params"]) for g in one.param_groups] == [1, 1]


def test_the_encoder_is_slower_than_the_head():
    moved = {}
    for rate in (1.0, 0.5):
        brain, loader = tiny_brain(1, settings={"encoder_rate": rate})
        parts = brain.modules.embedding_model.weight, brain.head.classifier.weight
        before = [p.detach().clone() for p in parts]
        brain.fit([1], loader)
        moved[rate] = [p.detach() - b for p, b in zip(parts, before, strict=True)]
    torch.testing.assert_close(moved[0.5][0], 0.5 * moved[1.0][0])
    torch.testing.assert_close(moved[0.5][1], moved[1.0][1])
