"""Reports: metrics as people read them, rows with intervals, tables."""

from __future__ import annotations

import numpy as np
import pytest

from sb_margins.verification import metrics
from sb_margins.verification.bootstrap import bootstrap
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.metrics import EER, OperatingPoints, standard_metrics
from sb_margins.verification.report import (
    figures,
    notes_on,
    print_table,
    report_audio,
)


@pytest.fixture(scope="module")
def trials():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3 == 0
    one = np.arange(300) % 10
    scores = rng.standard_normal(300) + 2 * labels
    return scores, labels, (one, np.where(labels, one, (one + 1) % 10))


def test_the_standard_metrics_are_the_functions(trials):
    scores, labels, _ = trials
    points = OperatingPoints.of(scores, labels)
    chosen = standard_metrics((0.01, 0.3), calibrated=True)
    expected = {
        ("eer", "EER"): metrics.eer(scores, labels),
        ("min_dcf(p_target=0.01)", "minDCF(0.01)"): metrics.min_dcf(scores, labels),
        ("min_dcf(p_target=0.3)", "minDCF(0.3)"): metrics.min_dcf(
            scores, labels, p_target=0.3
        ),
        ("act_dcf(p_target=0.01)", "actDCF(0.01)"): metrics.act_dcf(scores, labels),
        ("act_dcf(p_target=0.3)", "actDCF(0.3)"): metrics.act_dcf(
            scores, labels, p_target=0.3
        ),
        ("cllr", "Cllr"): metrics.cllr(scores, labels),
        ("min_cllr", "min Cllr"): metrics.min_cllr(scores, labels),
    }
    assert {(m.name, m.label): m(points) for m in chosen} == expected
    summary = metrics.summary(scores, labels, p_targets=(0.01, 0.3), calibrated=True)
    assert {m.name: summary[m.name] for m in chosen} == {
        name: value for (name, _), value in expected.items()
    }
    counts = [summary[name] for name in ("trials", "targets", "nontargets")]
    assert counts == [300, 100, 200]
    assert summary["eer_rocch"] == metrics.eer(scores, labels, "rocch")
    assert summary["eer_threshold"] == metrics.threshold_at(scores, labels)
    assert not {"cllr", "act_dcf(p_target=0.01)"} & set(metrics.summary(scores, labels))


def test_figures_are_written_with_unit_and_interval():
    dcf = standard_metrics((0.05,))[1]
    assert (EER.heading, dcf.heading) == ("EER %", "minDCF(0.05)")
    assert (EER.format(0.12345), dcf.format(0.12345)) == ("12.35 %", "0.123")
    assert (EER.number(0.01, "+"), dcf.number(-0.0126, "+")) == ("+1.00", "-0.013")
    row = {"eer": 0.1, "eer interval": [0.05, 0.2], "min_dcf(p_target=0.05)": 0.5}
    assert EER.cell(row) == "10.00 % [5.00, 20.00]" and dcf.cell(row) == "0.500"


def test_costs_and_priors_matter(trials):
    """By the definition, at the best of all thresholds."""
    scores, labels, _ = trials
    points = OperatingPoints.of(scores, labels)
    miss = points.misses / points.targets
    fa = points.false_alarms / points.nontargets
    for p, c_miss, c_fa in ((0.01, 1, 1), (0.1, 10, 2), (0.7, 1, 3)):
        cost = c_miss * p * miss + c_fa * (1 - p) * fa
        cost /= min(c_miss * p, c_fa * (1 - p))
        costs = {"p_target": p, "c_miss": c_miss, "c_fa": c_fa}
        found = metrics.min_dcf(scores, labels, **costs)
        assert found == pytest.approx(cost.min(), rel=1e-12)
        cut = metrics.bayes_threshold(p, c_miss, c_fa)
        assert cut == pytest.approx(np.log(c_fa * (1 - p) / (c_miss * p)))
        at = np.flatnonzero(points.thresholds <= cut)[-1]
        assert metrics.act_dcf(scores, labels, **costs) == pytest.approx(cost[at])
        best = metrics.threshold_at(scores, labels, prior=p, c_miss=c_miss, c_fa=c_fa)
        assert best == points.cut(int(np.argmin(cost)))


def test_costs_are_1_and_the_prior_1_percent_unless_given(trials):
    scores, labels, _ = trials
    costs = {"c_miss": 1.0, "c_fa": 1.0}
    assert metrics.bayes_threshold(0.01) == metrics.bayes_threshold(0.01, **costs)
    for function in (metrics.min_dcf, metrics.act_dcf):
        explicit = function(scores, labels, p_target=0.01, **costs)
        assert function(scores, labels) == explicit


def test_a_score_at_the_bayes_threshold_is_rejected():
    scores, labels = [0.0, 1.0, 0.0, -1.0], [1, 1, 0, 0]
    assert metrics.act_dcf(scores, labels, p_target=0.5) == 0.5


def test_rows_have_intervals_where_speakers_are_known(trials):
    scores, labels, sides = trials
    row = figures(scores, labels, speakers=sides, replicates=20, confidence=0.8, seed=3)
    chosen = standard_metrics()[:3]
    expected = bootstrap(
        scores, labels, sides, chosen, replicates=20, confidence=0.8, seed=3
    )
    for metric in chosen:
        limits = expected[metric.name]
        assert row[metric.interval_name] == [limits.low, limits.high]
    assert row["interval"] == ("80%, 20 bootstrap replicates over 10 speakers, seed 3")
    assert "min_cllr interval" not in row
    for without in ({}, {"speakers": sides, "replicates": 0}):
        assert not any("interval" in key for key in figures(scores, labels, **without))


def test_the_table_shows_what_a_row_has(trials, capsys):
    scores, labels, sides = trials
    row = figures(scores, labels, speakers=sides, replicates=20)
    print_table({"O": row | {"norm": "none"}}, extra=["norm"])
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == [
        *("list", "trials", "EER", "minDCF(0.01)", "minDCF(0.05)", "min", "Cllr"),
        "norm",
    ]
    assert line.startswith("O") and EER.cell(row) in line and "none" in line
    print_table({"s": row}, standard_metrics((0.01,))[:2], first="scores")
    assert capsys.readouterr().out.split()[:4] == [
        *("scores", "trials", "EER", "minDCF(0.01)")
    ]


def test_notes_say_what_intervals_are():
    rows = {"a": {"interval": "y"}, "b": {}, "c": {"interval": "x"}}
    assert notes_on(rows) == ["[low, high]: x; y"]
    assert notes_on({"b": {}}) == []


def test_notes_say_what_is_doubtful():
    """Inverted scores, a map fitted on what it is judged on, lost trials."""
    good = {"eer": 0.5, "calibration": "on d", "left out": 0, "trials": 4}
    assert notes_on({"good": good}) == []
    bad = {"eer": 0.6, "cllr": 2.0, "calibration": "on bad (itself)"}
    bad |= {"left out": 1, "trials": 4}
    inverted, calibrated, lost = notes_on({"bad": bad})
    assert "larger scores must mean more alike" in inverted
    assert calibrated.startswith("bad: calibrated on bad (itself)")
    assert lost == "bad: 1 of 5 trials left out"


def test_unusable_and_poor_audio_is_listed(tmp_path, capsys):
    skipped = {"d": "not found", "c": "is silent"}
    notes = {"b": ["is clipped"], "a": ["is quiet", "is short"]}
    embeddings = Embeddings(["a"], np.ones((1, 2), np.float32), skipped, notes=notes)
    report_audio(embeddings, tmp_path)
    assert capsys.readouterr().err.splitlines() == [
        f"2 utterances cannot be used; see {tmp_path / 'skipped.txt'}",
        f"2 recordings are poor; see {tmp_path / 'notes.txt'}",
    ]
    text = (tmp_path / "skipped.txt").read_text()
    assert text == "c\tis silent\nd\tnot found\n"
    text = (tmp_path / "notes.txt").read_text()
    assert text == "a\tis quiet\na\tis short\nb\tis clipped\n"
    # A later run without problems leaves no list of an older one.
    for _ in range(2):
        report_audio(Embeddings(["a"], np.ones((1, 2), np.float32)), tmp_path)
        assert capsys.readouterr().err == "" and not list(tmp_path.iterdir())
