"""The verdict on fine-tuning: it helped, it did not, it made things worse."""

import numpy as np
import pytest

from sb_margins.comparison.adaptation import (
    before_and_after,
    differences_of,
    rows_of,
    verdicts_of,
    write_report,
)
from sb_margins.comparison.statistics import LEAST
from sb_margins.data import prepare
from sb_margins.data.evaluation import own_lists


@pytest.fixture(scope="module")
def lists(tiny_corpus, tmp_path_factory):
    place = tmp_path_factory.mktemp("lists")
    options = {"dev_share": 0.25, "test_share": 0.5}
    prepared = prepare("folder", tiny_corpus, place, verbose=False, **options)
    return own_lists(prepared)


def scores(lists, gap, seed=3):
    """Gaussian scores whose classes are ``gap`` standard deviations apart."""
    noise = np.random.default_rng(seed)
    return {
        name: gap * one.labels + noise.standard_normal(len(one.labels))
        for name, one in lists.items()
    }


@pytest.mark.parametrize(
    "before, after, told",
    [
        (0.0, 6.0, "fine-tuning helped: EER"),
        (6.0, 0.0, "fine-tuning made it worse: EER"),
        (1.0, 1.2, "did not help, as far as these speakers tell: EER"),
        (1.0, 1.0, "nothing changed: every score is that of the model as it was"),
    ],
)
def test_verdicts(lists, before, after, told, tmp_path, monkeypatch):
    monkeypatch.setattr("sb_margins.comparison.adaptation.REPLICATES", 200)
    monkeypatch.setitem(LEAST, "test speakers", 4)
    report = before_and_after(lists, scores(lists, before), scores(lists, after))
    (line,) = verdicts_of(report)
    assert line.startswith("test, 4 unseen speakers: ") and told in line
    change = report["test"]["difference"]["eer"]
    row = {when: report["test"][when]["eer"] for when in ("before", "after")}
    assert change["low"] <= row["after"] - row["before"] <= change["high"]
    low, high = report["test"]["after"]["eer interval"]
    assert low <= row["after"] <= high
    assert ("Keep the model as it was" in line) == (after < 5 and before != after)
    write_report(report, "here/model", tmp_path)
    text = (tmp_path / "before_after.md").read_text()
    assert text.startswith("# model, before and after") and told in text
    assert all(f"| {name} |" in text for name in rows_of(report))
    assert all(line in text for line in differences_of(report))


def test_few_speakers_get_no_verdict(lists):
    """Two who must both be drawn would have an interval without width."""
    report = before_and_after(lists, scores(lists, 0.0), scores(lists, 6.0))
    (line,) = verdicts_of(report)
    assert line.startswith("test, 4 unseen speakers: too few to tell whether fine-tun")
