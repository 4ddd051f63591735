"""Schedules of a loss's margin, scale and delta."""

import math

import numpy as np
import pytest
from torch import nn

from sb_margins import select
from sb_margins.losses import AMSoftmax, HSoftmax, JointLoss, NormSoftmax
from sb_margins.schedules import SHAPES, LossSchedule, current, ramp


@pytest.mark.parametrize("x", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_shapes_are_their_formulas(x):
    assert ramp(x, "linear") == x
    exponential, saturating = ramp(x, "exponential"), ramp(x, "saturating")
    assert exponential == pytest.approx((1000**x - 1) / 999, rel=1e-12)
    end = 1.0 if x == 1 else 1 - 0.001**x
    assert saturating == pytest.approx(end, rel=1e-12)
    assert ramp(x, "constant") == 1.0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_ramp_between_its_ends(shape):
    schedule = LossSchedule("margin", initial=-1.0, start=2, end=10, shape=shape)
    first = 3.0 if shape == "constant" else -1.0
    for progress in (0, 1, 1.999):
        assert schedule.value(progress, 3.0) == first
    for progress in (10, 11, math.inf):
        assert schedule.value(progress, 3.0) == 3.0
    middle = -1 + 4 * ramp(0.25, shape)
    assert schedule.value(4, 3.0) == pytest.approx(middle, rel=1e-12)


def test_a_ramp_without_length_is_a_step():
    schedule = LossSchedule("margin", initial=0.5, start=3, end=3)
    assert [schedule.value(p, 2.0) for p in (0, 2.9, 3, 4)] == [0.5, 0.5, 2.0, 2.0]


def test_defaults_are_a_margin_from_0_and_no_ramp():
    assert LossSchedule().value(0.0, 0.2) == 0.2
    assert LossSchedule(end=2).value(1.0, 0.2) == 0.1
    assert LossSchedule(initial=0.1, end=2).value(2.0, 0.3) == 0.3  # exactly


def test_final_replaces_what_the_loss_was_built_with():
    loss = select.head("am", 4, 3, margin=0.2).loss
    schedule = LossSchedule("margin", initial=0.1, final=0.4, end=2)
    assert schedule(loss, 0.0) == 0.1 == loss.margin
    assert schedule(loss, 2.0) == 0.4 == loss.margin


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


def test_a_setting_on_its_way_stays_in_range():
    for setting, wrong in (("margin", -0.1), ("margin", 3.0), ("scale", 0.0)):
        for end in ("initial", "final"):
            schedule = LossSchedule(setting, **{end: wrong}, end=2)
            with pytest.raises(ValueError, match=f"{setting} is {wrong}"):
                schedule(AMSoftmax(), 1.0)
    LossSchedule("scale", initial=None)(AMSoftmax(), 0.0)
