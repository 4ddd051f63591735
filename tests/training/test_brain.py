"""The Brain's steps: where schedules are, what is drawn, what is counted."""

import pytest
import torch
from tiny_brain import BATCH, tiny_brain


def test_schedules_follow_epochs_and_steps_done():
    seen = []

    def schedule(loss, epochs, steps):
        seen.append((round(epochs, 6), steps))

    brain, loader = tiny_brain(4, loss_schedules=[schedule])
    brain.fit([1, 2], loader)
    assert seen == [(step / 4, step) for step in range(8)]
    seen.clear()
    untrained, _ = tiny_brain(4, loss_schedules=[schedule])
    untrained.apply_schedules()
    assert seen == [(0, 0)]


class Draws:
    """An augmentation that notes a random number of each step."""

    def __init__(self):
        self.seen = []

    def __call__(self, wavs, lengths):
        self.seen.append(float(torch.rand(())))
        return wavs, lengths


def drawn(epochs, seed=1):
    augment = Draws()
    brain, loader = tiny_brain(3, settings={"seed": seed}, wav_augment=augment)
    torch.manual_seed(len(epochs))  # what was drawn before does not matter
    brain.fit(epochs, loader)
    return augment.seen


def test_draws_of_a_step_depend_on_seed_epoch_and_step():
    both = drawn([1, 2])
    assert len(set(both)) == 6
    assert drawn([2]) == both[3:]
    assert not set(drawn([1], seed=2)) & set(both)


class Doubling(Draws):
    """Adds a copy of each example, as SpeechBrain's Augmenter does."""

    def __call__(self, wavs, lengths):
        return torch.cat([wavs, wavs]), torch.cat([lengths, lengths])

    def replicate_labels(self, labels):
        return torch.cat([labels, labels])


@pytest.mark.parametrize("augment, times", [(None, 1), (Draws(), 1), (Doubling(), 2)])
def test_copies_of_an_augmentation_are_trained_on(augment, times):
    brain, loader = tiny_brain(2, wav_augment=augment)
    counted = []
    objectives = brain.compute_objectives

    def count(predictions, batch, stage):
        counted.append((len(predictions[0]), predictions[1].tolist()))
        return objectives(predictions, batch, stage)

    brain.compute_objectives = count
    brain.fit([1], loader)
    labels = [batch.labels.tolist() * times for batch in loader]
    assert counted == [(times * BATCH, one) for one in labels]


def test_an_epoch_reports_means_over_its_samples():
    brain, loader = tiny_brain(3)
    losses, correct = [], []
    objectives = brain.compute_objectives

    def note(predictions, batch, stage):
        loss = objectives(predictions, batch, stage)
        losses.append(float(loss.detach()))
        correct.append(float(brain.head.correct.float().mean()))
        return loss

    brain.compute_objectives = note
    brain.fit([1, 2], loader)
    for row, part in zip(brain.history.rows, (slice(3), slice(3, 6)), strict=True):
        assert row["loss"] == pytest.approx(sum(losses[part]) / 3)
        assert row["accuracy"] == pytest.approx(sum(correct[part]) / 3)
        assert row["utt/s"] * row["seconds"] >= 3 * BATCH * 0.9
    assert [row["epoch"] for row in brain.history.rows] == [1, 2]
