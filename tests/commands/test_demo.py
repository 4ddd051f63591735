"""The demo's steps, without its training."""

import pytest

from sb_margins.commands.demo import DemoSettings, pick_pairs
from sb_margins.data import Manifest, Utterance
from sb_margins.errors import UserError
from sb_margins.training.config import read_config


@pytest.mark.parametrize(
    "data, corpus, folder, output",
    [
        (None, "demo", "data/demo", "results/demo_ham"),
        ("my corpus", "folder", "my corpus", "results/my corpus_ham"),
        (
            "mini_librispeech",
            "mini_librispeech",
            "data/mini_librispeech",
            "results/mini_librispeech_ham",
        ),
    ],
)
def test_flags_lead_to_the_corpus_meant(data, corpus, folder, output):
    plain = read_config(DemoSettings(data, "ham").training_flags()).plain
    told = plain["corpus"], plain["data_folder"], plain["output_folder"], plain["loss"]
    assert told == (corpus, folder, output, "ham")


def test_smallest_is_smaller_and_output_is_obeyed():
    full = read_config(DemoSettings().training_flags()).plain
    small = read_config(
        DemoSettings(output_folder="here", smallest=True).training_flags()
    ).plain
    assert small["number_of_epochs"] < full["number_of_epochs"]
    assert small["corpus_options"]["speakers"] < 100
    assert small["output_folder"] == "here"
    own = read_config(DemoSettings(smallest=True).training_flags()).plain
    assert own["output_folder"] != full["output_folder"]  # else the full one refuses


def test_no_pair_to_compare_is_told():
    rows = [Utterance(s, f"{s}.wav", 2.0, s, 16000, {}) for s in "abc"]
    with pytest.raises(UserError, match="two utterances"):
        pick_pairs(Manifest(rows, "root"))
