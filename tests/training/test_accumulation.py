"""Windows of gradient accumulation, against plain gradient descent written out."""

import logging

import pytest
import torch
from speechbrain.utils.run_opts import RunOptions
from tiny_brain import tiny_brain

from sb_margins.errors import UserError
from sb_margins.training.accumulation import AdaptiveAccumulation

BATCHES = 7


def train(factor=1, adaptive=None, **more):
    options = {"grad_accumulation_factor": factor, "max_grad_norm": 0.0, **more}
    return tiny_brain(BATCHES, options, accumulation=adaptive)


def by_hand(windows):
    """The weights after SGD on the mean gradient of each window of batches."""
    brain, loader = train()
    parameters = list(brain.modules.parameters())
    batches = iter(loader)
    for window in windows:
        total = [torch.zeros_like(p) for p in parameters]
        for _ in range(window):
            batch = next(batches)
            embeddings = brain.modules.embedding_model(batch.wavs)
            loss = brain.modules.head(embeddings, batch.labels)
            for sum_, one in zip(
                total, torch.autograd.grad(loss, parameters), strict=True
            ):
                sum_ += one / window
        with torch.no_grad():
            for parameter, gradient in zip(parameters, total, strict=True):
                parameter -= 0.1 * gradient
    return parameters


@pytest.mark.parametrize(
    "factor, windows", [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (9, [7])]
)
def test_an_update_is_the_mean_gradient_of_its_window(factor, windows):
    brain, loader = train(factor)
    brain.fit([1], loader)
    assert brain.optimizer_step == len(windows) == brain.history.rows[-1]["updates"]
    for ours, theirs in zip(brain.modules.parameters(), by_hand(windows), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_adaptive_windows_follow_the_share_of_zero_losses():
    adaptive = AdaptiveAccumulation(maximum=4)
    brain, loader = train(adaptive=adaptive)
    asked = []

    def note(samples, zero):
        asked.append((samples, zero))
        adaptive.window = [3, 1, 2, 1][len(asked) - 1]

    adaptive.after_window = note
    brain.fit([1], loader)
    # 1, then 3, 1 and 2 batches of 8
    assert [samples for samples, _ in asked] == [8, 24, 8, 16]
    assert all(0 <= zero <= samples for samples, zero in asked)
    for ours, theirs in zip(
        brain.modules.parameters(), by_hand([1, 3, 1, 2]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_maximum_of_one_leaves_the_factor_in_charge():
    brain, loader = train(factor=2, adaptive=AdaptiveAccumulation(maximum=1))
    brain.fit([1], loader)
    assert brain.optimizer_step == 4


@pytest.mark.parametrize(
    "samples, zero, window", [(16, 0, 1), (16, 5, 1), (16, 6, 2), (16, 8, 2)]
)
def test_as_speed(samples, zero, window):
    adaptive = AdaptiveAccumulation(maximum=6)
    assert adaptive.after_window(samples, zero) == window == adaptive.window
    assert AdaptiveAccumulation(2.0, 9, 3).after_window(16, 0) == 3  # the minimum
    assert AdaptiveAccumulation(2.0, 9, 1).after_window(16, 0) == 2  # lambda


def test_windows_grow_by_one_up_to_the_maximum_and_never_shrink():
    """As the authors' code has it: max(wanted, before), at most one more, the cap."""
    adaptive = AdaptiveAccumulation(maximum=4)
    windows = [adaptive.after_window(16, zero) for zero in (15, 0, 10, 16, 16, 16, 2)]
    assert windows == [2, 2, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("wrong", [(0.0, 8, 1), (1.0, 1, 2), (1.0, 8, 0)])
def test_numbers_without_a_window_are_refused(wrong):
    with pytest.raises(UserError, match="1 <= minimum <= maximum"):
        AdaptiveAccumulation(*wrong)
    AdaptiveAccumulation(1.0, 1, 1)


def test_a_saved_window_is_kept_within_the_bounds(tmp_path):
    saved = AdaptiveAccumulation(maximum=8)
    saved.window = 7
    saved._save(tmp_path / "state")
    for minimum, maximum, window in ((1, 8, 7), (1, 4, 4), (8, 9, 8)):
        again = AdaptiveAccumulation(maximum=maximum, minimum=minimum)
        again._load(tmp_path / "state", True)
        assert again.window == window


def test_gradients_are_clipped_at_max_grad_norm():
    seen = []
    for limit in (0.0, 0.05):
        brain, loader = tiny_brain(1, {"max_grad_norm": limit})
        before = [p.detach().clone() for p in brain.modules.parameters()]
        brain.fit([1], loader)
        moved = [
            (p.detach() - b).reshape(-1)
            for p, b in zip(brain.modules.parameters(), before, strict=True)
        ]
        seen.append(float(torch.cat(moved).norm()) / 0.1)  # SGD: the gradient's norm
    assert seen[0] > 0.06 and seen[1] == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("bad, ends", [(3, False), (4, True)])
def test_updates_that_are_not_finite_are_skipped_until_patience_ends(bad, ends, caplog):
    brain, loader = train(nonfinite_patience=3)
    objectives = brain.compute_objectives

    def spoiled(predictions, batch, stage):
        loss = objectives(predictions, batch, stage)
        return loss * float("nan") if 2 <= brain.step < 2 + bad else loss

    brain.compute_objectives = spoiled
    with caplog.at_level(logging.WARNING):
        if ends:
            with pytest.raises(UserError, match="4 updates in a row"):
                brain.fit([1], loader)
        else:
            brain.fit([1], loader)
            assert brain.optimizer_step == BATCHES - bad
            assert brain.nonfinite_count == 0  # a good update forgives
    assert caplog.text.count("this update is skipped") == bad
    assert all(torch.isfinite(p).all() for p in brain.modules.parameters())


def test_a_gradient_scaler_searches_longer_and_in_silence(caplog, monkeypatch):
    brain, loader = train(nonfinite_patience=0)
    monkeypatch.setattr(brain.scaler, "is_enabled", lambda: True)
    brain.init_optimizers()
    brain.nonfinite_count = 29

    def skip():
        for parameter in brain.modules.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan)
        brain.optimizers_step()

    with caplog.at_level(logging.WARNING):
        skip()
        assert brain.nonfinite_count == 30 and brain.optimizer_step == 0
        with pytest.raises(UserError, match="31 updates"):
            skip()
    assert "skipped" not in caplog.text


def test_run_options_are_speechbrains():
    assert RunOptions().nonfinite_patience == 3
