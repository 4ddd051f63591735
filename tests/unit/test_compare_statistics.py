"""Statistics of a comparison against hand computation and simulation."""

from types import SimpleNamespace

import numpy as np
import pytest

from sb_margins.comparison.results import Comparison, System
from sb_margins.comparison.statistics import (
    METRICS,
    Figure,
    _difference,
    figures,
    holm,
    resample,
)
from sb_margins.comparison.variants import Variant
from sb_margins.data.trials import Trials
from sb_margins.verification.bootstrap import bootstrap
from sb_margins.verification.metrics import eer


def trials_of(speakers, each, rng):
    """All pairs of a few utterances, their speakers, and noise-free scores."""
    names = [f"s{s}/{u}" for s in range(speakers) for u in range(each)]
    owner = np.repeat(np.arange(speakers), each)
    one, two = np.triu_indices(len(names), 1)
    labels = (owner[one] == owner[two]).astype(np.int8)
    trials = Trials([names[i] for i in one], [names[i] for i in two], labels)
    return trials, (owner[one], owner[two])


def comparison_of(scores, trials, sides, baseline="am"):
    """``scores``: label of a loss to a list of score vectors, one a seed."""
    plan = SimpleNamespace(baseline=baseline)
    systems = []
    for name, vectors in scores.items():
        results = [
            SimpleNamespace(
                cell=SimpleNamespace(seed=k),
                scores={"test": v},
                best={"EER": 0.1},
                rows=[],
            )
            for k, v in enumerate(vectors)
        ]
        systems.append(System(Variant(name), results))
    return Comparison(plan, None, systems, {"test": trials}, {"test": sides})


@pytest.fixture
def noisy():
    rng = np.random.default_rng(3)
    trials, sides = trials_of(20, 5, rng)

    def scores(quality):
        return quality * trials.labels + rng.standard_normal(len(trials))

    return trials, sides, scores


def test_interval_and_value_are_the_bootstraps_own(noisy):
    trials, sides, scores = noisy
    one = scores(1.5)
    comparison = comparison_of({"am": [one]}, trials, sides)
    figure = figures(comparison, "test", replicates=200)["am"]["eer"]
    reference = bootstrap(one, trials.labels, sides, METRICS, replicates=200)["eer"]
    assert figure.mean == reference.value == eer(one, trials.labels)
    assert (figure.low, figure.high) == (reference.low, reference.high)
    assert np.isnan(figure.spread) and np.isnan(figure.p_holm)


def test_a_better_system_is_found_and_an_equal_one_is_not(noisy):
    trials, sides, scores = noisy
    found = figures(
        comparison_of(
            {
                "am": [scores(1.5) for _ in range(3)],
                "ham": [scores(3.0) for _ in range(3)],
                "aam": [scores(1.5) for _ in range(3)],
            },
            trials,
            sides,
        ),
        "test",
        replicates=400,
    )
    assert found["ham"]["eer"].better and found["ham"]["eer"].change < -0.3
    assert not found["aam"]["eer"].significant
    values = [found["am"]["eer"].mean, found["ham"]["eer"].mean]
    assert found["ham"]["eer"].change == pytest.approx(values[1] / values[0] - 1)


def test_seeds_are_part_of_the_uncertainty(noisy):
    """One lucky seed of three must not make a difference significant."""
    trials, sides, scores = noisy
    base = [scores(1.5) for _ in range(3)]
    lucky = [scores(3.5), *base[1:]]
    found = figures(
        comparison_of({"am": base, "ham": lucky}, trials, sides), "test", replicates=400
    )
    assert not found["ham"]["eer"].significant


def test_few_seeds_do_not_make_the_spread_small():
    """Without any luck of speakers, the interval is that of a mean of n values."""
    n, drawn = 8, 4000
    lucky = np.random.default_rng(1).standard_normal(n)
    values = np.concatenate([lucky, np.zeros(n)])
    pairs = list(range(n)), list(range(n, 2 * n))
    change, low, high, p = _difference(values, np.tile(values, (drawn, 1)), pairs, 0)
    wanted = 2 * 1.96 * lucky.std(ddof=1) / np.sqrt(n)
    assert high - low == pytest.approx(wanted, rel=0.05)


def test_only_seeds_that_both_have_are_paired(noisy):
    trials, sides, scores = noisy
    base = [scores(1.5) for _ in range(3)]
    found = figures(
        comparison_of({"am": base, "ham": base[:2]}, trials, sides),
        "test",
        replicates=100,
    )
    assert found["ham"]["eer"].change == 0 and found["ham"]["eer"].p_value == 1


def test_holm_by_hand():
    p = [0.01, float("nan"), 0.02, 0.04, 0.9]
    corrected = holm(p)
    assert np.isnan(corrected[1])
    assert [round(corrected[i], 3) for i in (0, 2, 3, 4)] == [0.04, 0.06, 0.08, 0.9]
    assert holm([]) == []


def test_all_systems_see_the_same_draws(noisy):
    trials, sides, scores = noisy
    one = scores(1.0)
    full, drawn = resample([one, one], trials.labels, sides, METRICS, replicates=50)
    assert (drawn[:, 0] == drawn[:, 1]).all() and full.shape == (2, len(METRICS))


@pytest.mark.parametrize(
    "p_holm, change, significant, better",
    [
        (0.049, -0.1, True, True),
        (0.049, +0.1, True, False),
        (0.05, -0.1, False, False),
        (0.06, -0.1, False, False),
        (0.19, -0.1, False, False),
        (float("nan"), -0.1, False, False),
        (0.049, 0.0, True, False),
    ],
)
def test_significant_is_below_5_percent_and_better_is_also_lower(
    p_holm, change, significant, better
):
    figure = Figure(0.1, 0.01, 0.08, 0.12, change, -0.1, 0.1, p_holm, p_holm)
    assert (figure.significant, figure.better) == (significant, better)


def test_difference_by_hand():
    """Two seeds, three draws of the speakers; no luck of the seeds in the gap."""
    full = np.array([0.10, 0.20, 0.12, 0.22])  # two seeds of each system
    drawn = np.array([[0.1, 0.2, 0.1, 0.3], [0.0, 0.1, 0.2, 0.2], [0.3, 0.2, 0.2, 0.2]])
    change, low, high, p = _difference(full, drawn, ([0, 1], [2, 3]), 0)
    means = np.array([-0.05, -0.15, 0.05])
    assert change == pytest.approx(-0.02 / 0.17)
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert p == 2 * (1 + 1) / (3 + 1)


def test_one_seed_has_no_luck_of_seeds():
    drawn = np.array([[0.1, 0.3]] * 9)
    change, low, high, p = _difference(np.array([0.1, 0.2]), drawn, ([0], [1]), 0)
    assert (change, low, high) == pytest.approx((-0.5, -0.2, -0.2))
    assert p == pytest.approx(2 * 1 / 10)


def test_no_common_seed_has_no_difference():
    assert np.isnan(_difference(np.ones(2), np.ones((3, 2)), ([], []), 0)).all()
    change = _difference(np.zeros(2), np.zeros((3, 2)), ([0], [1]), 0)[0]
    assert np.isnan(change)  # relative to nothing


def test_spread_is_the_standard_deviation_over_seeds(noisy):
    trials, sides, scores = noisy
    vectors = [scores(1.5) for _ in range(3)]
    comparison = comparison_of({"am": vectors}, trials, sides)
    found = figures(comparison, "test", replicates=100)["am"]["eer"]
    values = [eer(v, trials.labels) for v in vectors]
    assert found.mean == pytest.approx(np.mean(values))
    assert found.spread == pytest.approx(np.std(values, ddof=1))
    each = [
        bootstrap(v, trials.labels, sides, METRICS, replicates=100)["eer"].value
        for v in vectors
    ]
    assert each == values
    assert found.low < found.mean < found.high


def test_draws_without_nontargets_are_left_out():
    """Of two speakers, a draw of one of them twice has no non-target trials."""
    sides = np.array([0, 1, 0]), np.array([0, 1, 1])
    labels = np.array([1, 1, 0])
    _, drawn = resample([labels], labels, sides, METRICS, replicates=100)
    assert 20 < len(drawn) < 80 and (drawn == 0).all()


def test_holm_stays_below_one():
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.5]) == [0.5]
