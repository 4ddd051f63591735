"""Settings: types, ranges, what an epoch needs, the results folder they belong to."""

import pytest

from sb_margins.errors import UserError
from sb_margins.training.settings import (
    TrainingSettings,
    check_same_run,
    describe_settings,
    write_run,
)


@pytest.mark.parametrize(
    "plain, message",
    [
        ({"batch_size": 1}, "at least 2"),
        ({"batch_size": 8.0}, "batch_size is 8.0, but must be a whole number"),
        ({"batch_size": True}, "a whole number"),
        ({"skip_bad": 1}, "True or False"),
        ({"sentence_len": 0.01}, "sentence_len"),
        ({"sentence_len": "long"}, "sentence_len is 'long', but must be a number"),
        ({"speeds": "fast"}, "speeds is 'fast', but must be a list"),
        ({"speeds": [1.0, 1.0]}, "different numbers"),
        ({"speeds": [1.0, 3.0]}, "between 0.5 and 2"),
        ({"speeds": ["a"]}, "between 0.5 and 2"),
        ({"speeds": []}, "different numbers"),
        ({"number_of_epochs": 0}, "number_of_epochs is 0; give .* of 1 or more"),
        ({"number_of_epochs": -1, "init_from": "x"}, "number_of_epochs is -1"),
        ({"encoder_rate": 0}, "encoder_rate is 0; give a number above 0"),
        ({"encoder_rate": float("nan")}, "encoder_rate is nan"),
        ({"average_checkpoints": 0}, "average_checkpoints"),
        ({"sample_rate": 8000}, "16000 Hz"),
        ({"corpus_options": "x"}, "mapping"),
    ],
)
def test_invalid_settings_are_named(plain, message):
    with pytest.raises(UserError, match=message):
        TrainingSettings.read(plain)


def test_limits_are_allowed():
    for plain in ({"batch_size": 2}, {"sentence_len": 0.2}, {"sentence_len": 60}):
        TrainingSettings.read({**plain, "number_of_epochs": 1, "speeds": [0.5, 2]})
    TrainingSettings.read({"number_of_epochs": 0, "init_from": "a model"})


def test_what_is_null_or_missing_has_the_default():
    settings = TrainingSettings.read({"batch_size": None, "output_folder": "out"})
    assert settings.batch_size == 32 and settings.save_folder == "out/save"
    assert settings.speeds == [1.0] and settings.init_from is None
    assert TrainingSettings.read({"sentence_len": 3}).sentence_len == 3
    assert "--batch-size" in describe_settings()
    settings.speeds.append(2.0)
    assert TrainingSettings().speeds == [1.0]


def test_an_epoch_fills_a_batch_of_each_process():
    TrainingSettings(batch_size=10).check_epoch(20, processes=2)
    TrainingSettings(batch_size=10, crops_per_utterance=2).check_epoch(5)
    with pytest.raises(UserError, match="crops_per_utterance"):
        TrainingSettings(batch_size=64).check_epoch(20)
    with pytest.raises(UserError, match="on each of 3 processes"):
        TrainingSettings(batch_size=10).check_epoch(20, processes=3)


def test_classes_are_speakers_times_speeds():
    assert TrainingSettings(speeds=[1.0, 0.9, 1.1]).count_classes(10) == 30
    assert TrainingSettings(out_n_neurons=10).count_classes(10) == 10
    with pytest.raises(UserError, match="10 speakers = 10 classes"):
        TrainingSettings(out_n_neurons=7205).count_classes(10)


def test_a_margin_that_never_gets_full_is_remarked():
    short = TrainingSettings(margin_end_epoch=3, number_of_epochs=2)
    assert "before the margin is full (margin_end_epoch is 3)" in short.remarks[0]
    assert not TrainingSettings(margin_end_epoch=3, number_of_epochs=3).remarks


def test_a_results_folder_belongs_to_one_configuration(tmp_path):
    write_run(tmp_path, {"loss": "am", "num_workers": 0})
    check_same_run(tmp_path, {"loss": "am", "num_workers": 4})
    with pytest.raises(UserError, match="loss was 'am', now 'ham'"):
        check_same_run(tmp_path, {"loss": "ham"})
    check_same_run(tmp_path / "new", {"loss": "ham"})
    for damaged in ("{", "[]", '{"settings": 3}'):
        (tmp_path / "run.json").write_text(damaged)
        with pytest.raises(UserError, match="is damaged"):
            check_same_run(tmp_path, {"loss": "am"})
