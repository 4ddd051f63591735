"""Statistics of a comparison against hand computation and simulation."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm as normal, t as student

from sb_margins.comparison.over_lists import mean_changes
from sb_margins.comparison.statistics import (
    LEAST,
    Difference,
    Estimate,
    Part,
    Statistics,
    analyse,
    difference,
    estimate,
    holm,
    too_few,
)
from sb_margins.verification.bootstrap import bootstrap, draws, resample, sign_p_value
from sb_margins.verification.metrics import EER, eer, standard_metrics

METRICS = standard_metrics((0.01,))[:2]
DCF = METRICS[1].name


@pytest.fixture(scope="module")
def trials():
    """All pairs of 5 utterances of 20 speakers: labels and both sides."""
    owner = np.repeat(np.arange(20), 5)
    one, two = np.triu_indices(len(owner), 1)
    return (owner[one] == owner[two]).astype(np.int8), (owner[one], owner[two])


@pytest.fixture(scope="module")
def significance():
    """The simulations of the benchmark, which runs them at large size."""
    root = Path(__file__).parents[2]
    return runpy.run_path(str(root / "benchmarks" / "significance.py"))


@pytest.fixture
def scores(trials):
    """Draws score vectors of a quality."""
    rng = np.random.default_rng(3)

    def draw(quality):
        return quality * trials[0] + rng.standard_normal(len(trials[0]))

    return draw


def analysed(systems, trials, *contrasts, replicates=100, metrics=METRICS):
    """``systems``: score vectors by name, one a seed."""
    runs = {name: dict(enumerate(vectors)) for name, vectors in systems.items()}
    return analyse([Part(runs, *trials)], [contrasts], metrics, replicates)


def test_estimate_is_that_of_the_bootstrap(trials, scores):
    one = scores(1.5)
    got = analysed({"am": [one]}, trials, replicates=200).estimates["am"]
    reference = bootstrap(one, *trials, METRICS, replicates=200)
    for metric in METRICS:
        expected = reference[metric.name]
        assert got[metric.name].mean == expected.value
        assert (got[metric.name].low, got[metric.name].high) == (
            expected.low,
            expected.high,
        )
        assert np.isnan(got[metric.name].spread)
    assert got["eer"].mean == eer(one, trials[0])


def test_estimate_of_several_runs(trials, scores):
    vectors = [scores(1.5) for _ in range(3)]
    got = analysed({"am": vectors}, trials).estimates["am"]["eer"]
    values = [eer(v, trials[0]) for v in vectors]
    assert got.mean == pytest.approx(np.mean(values))
    assert got.spread == pytest.approx(np.std(values, ddof=1))
    assert got.low < got.mean < got.high


def test_estimate_by_hand():
    drawn = np.array([[0.0, 0.2], [0.2, 0.4], [0.1, 0.1], [0.5, 0.7]])
    got = estimate(np.array([0.1, 0.3]), drawn)
    low, high = np.percentile([0.1, 0.3, 0.1, 0.6], [2.5, 97.5])
    expected = Estimate(0.2, 0.1 * np.sqrt(2), low, high)
    assert vars(got) == pytest.approx(vars(expected))


def test_a_better_system_is_significant_and_an_equal_one_is_not(trials, scores):
    qualities = {"am": 1.5, "ham": 3.0, "aam": 1.5}
    systems = {k: [scores(q) for _ in range(3)] for k, q in qualities.items()}
    contrasts = ("ham", "am"), ("aam", "am"), ("am", "ham")
    got = analysed(systems, trials, *contrasts, replicates=400, metrics=[EER])
    better, equal = got.differences["ham", "am"]["eer"], got.differences["aam", "am"]
    assert better.better and not better.worse
    assert not equal["eer"].significant
    values = [got.estimates[k]["eer"].mean for k in ("am", "ham")]
    assert better.change == pytest.approx(values[1] / values[0] - 1)
    assert better.change < -0.3 and better.low < better.high < 0
    worse = got.differences["am", "ham"]["eer"]
    assert worse.worse and not worse.better
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))
    for one, other in ((better.reversed, worse), (worse.reversed, better)):
        assert one.change == pytest.approx(other.change)
        assert (one.low, one.high) == pytest.approx((other.low, other.high))
        assert one.error == pytest.approx(other.error, rel=0.05)
    assert got.between("ham", "am") == got.differences["ham", "am"]
    one = {("ham", "am"): got.differences["ham", "am"]}
    alone = Statistics({}, one, got.draws)
    assert alone.between("am", "ham") == {"eer": better.reversed}
    assert alone.between("am", "aam") == {}


def test_holm_is_over_all_contrasts_and_metrics(trials, scores):
    systems = {name: [scores(q)] for name, q in (("a", 1.5), ("b", 1.7), ("c", 2.0))}
    got = analysed(systems, trials, ("b", "a"), ("c", "a"))
    flat = [d for row in got.differences.values() for d in row.values()]
    assert list(got.differences["b", "a"]) == ["eer", DCF] and len(flat) == 4
    assert [d.p_holm for d in flat] == holm([d.p_value for d in flat])


def test_one_lucky_seed_of_three_is_not_significant(trials, scores):
    base = [scores(1.5) for _ in range(3)]
    systems = {"am": base, "ham": [scores(3.5), *base[1:]]}
    got = analysed(systems, trials, ("ham", "am"), replicates=400)
    assert not got.differences["ham", "am"]["eer"].significant


def test_only_common_seeds_are_paired(trials, scores):
    base = [scores(1.5) for _ in range(3)]
    got = analysed({"am": base, "ham": base[:2]}, trials, ("ham", "am"))
    one = got.differences["ham", "am"]["eer"]
    assert one.change == 0 and one.p_value == 1
    runs = {"am": {1: base[0], 2: base[1]}, "ham": {2: base[1], 3: base[2]}}
    got = analyse([Part(runs, *trials)], [[("ham", "am")]], [EER], 100)
    assert got.differences["ham", "am"]["eer"].change == 0
    runs = {"am": {1: base[0]}, "ham": {2: base[1]}}
    got = analyse([Part(runs, *trials)], [[("ham", "am")]], [EER], 100)
    one = got.differences["ham", "am"]["eer"]
    assert np.isnan([one.change, one.low, one.high, one.p_value, one.p_holm]).all()
    assert not one.significant


def test_few_seeds_do_not_make_the_interval_narrow():
    """Without any variation of speakers, the interval is Student's of n values."""
    n, draws = 8, 4000
    luck = np.random.default_rng(1).standard_normal(n)
    drawn = np.tile(luck, (draws, 1))
    got = difference(luck, np.zeros(n), drawn, np.zeros((draws, n)))
    expected = 2 * student.ppf(0.975, n - 1) * luck.std(ddof=1) / np.sqrt(n)
    assert got.high - got.low == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("seeds, largest", [(2, 2**0.5), (3, 1.5**0.5)])
def test_drawn_seeds_are_rescaled(seeds, largest):
    """Rao and Wu: deviations of n runs are stretched by sqrt(n / (n - 1)); Student."""
    largest *= student.ppf(0.975, seeds - 1) / 1.959964
    luck = np.array([1.0] * (seeds - 1) + [1.0 - seeds])  # mean 0
    drawn = np.tile(luck, (5000, 1))
    got = difference(luck, np.zeros(seeds), drawn, np.zeros((5000, seeds)))
    assert got.high == pytest.approx(largest)
    assert got.low == pytest.approx((1 - seeds) * largest)


def test_difference_by_hand():
    """Two seeds with the same gap: only the draws of speakers count."""
    full, reference = np.array([0.10, 0.20]), np.array([0.12, 0.22])
    drawn = np.array([[0.1, 0.2], [0.0, 0.1], [0.3, 0.2]])
    reference_drawn = np.array([[0.1, 0.3], [0.2, 0.2], [0.2, 0.2]])
    got = difference(full, reference, drawn, reference_drawn)
    means = np.array([-0.05, -0.15, 0.05])
    assert got.change == pytest.approx(-0.02 / 0.17)
    expected = tuple(np.percentile(means, [2.5, 97.5]))
    assert (got.low, got.high) == pytest.approx(expected)
    assert got.p_value == 2 * (1 + 1) / (3 + 1)


def test_one_seed_has_no_variation_of_seeds():
    drawn, reference = np.full((9, 1), 0.1), np.full((9, 1), 0.3)
    got = difference(np.array([0.1]), np.array([0.2]), drawn, reference)
    assert (got.change, got.low, got.high) == pytest.approx((-0.5, -0.2, -0.2))
    assert got.p_value == pytest.approx(2 * 1 / 10)


def test_change_relative_to_nothing_is_unknown():
    zero = np.zeros((3, 1))
    got = difference(np.ones(1), np.zeros(1), zero, zero)
    assert np.isnan(got.change) and got.p_value == 1


@pytest.mark.parametrize(
    "p_holm, change, significant",
    [
        (0.049, -0.1, True),
        (0.049, 0.1, True),
        (0.049, 0.0, True),
        (0.05, -0.1, False),
        (0.06, -0.1, False),
        (0.19, 0.1, False),
        (float("nan"), -0.1, False),
    ],
)
def test_significance_is_below_5_percent_and_has_a_direction(
    p_holm, change, significant
):
    got = Difference(change, -0.1, 0.1, 0.001, p_holm)
    assert got.significant is significant
    assert got.better is (significant and change < 0)
    assert got.worse is (significant and change > 0)


def test_a_difference_that_was_not_corrected_is_not_significant():
    assert not Difference(-0.1, -0.2, -0.1, 0.001).significant


def test_holm_by_hand():
    corrected = holm([0.01, float("nan"), 0.02, 0.04, 0.9])
    assert np.isnan(corrected[1])
    assert [round(corrected[i], 3) for i in (0, 2, 3, 4)] == [0.04, 0.06, 0.08, 0.9]
    assert holm([]) == [] and holm([0.5]) == [0.5] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_folds_are_pooled_by_hand():
    """Means of folds count the same; speakers of each are drawn by themselves."""
    folds = np.array([0, 0, 1])
    full, reference = np.array([0.1, 0.3, 0.4]), np.array([0.2, 0.4, 0.5])
    drawn = np.array([[0.1, 0.3, 0.5], [0.0, 0.2, 0.1], [0.2, 0.4, 0.6]])
    got = estimate(full, drawn, folds)
    assert got.mean == pytest.approx((0.2 + 0.4) / 2)
    assert got.spread == pytest.approx(full.std(ddof=1))
    low, high = np.percentile([0.35, 0.1, 0.45], [2.5, 97.5])
    assert (got.low, got.high) == pytest.approx((low, high))
    got = difference(full, reference, drawn, np.full((3, 3), 0.3), folds)
    assert got.change == pytest.approx(-0.1 / ((0.3 + 0.5) / 2))
    low, high = np.percentile([0.05, -0.2, 0.15], [2.5, 97.5])
    assert (got.low, got.high) == pytest.approx((low, high)), "equal gaps: no luck"
    assert got.error == pytest.approx(np.std([0.05, -0.2, 0.15]) / 0.4)


def test_what_speakers_explain_is_no_luck_of_runs():
    """Folds that differ as the draws say; then far more than these say."""
    rng = np.random.default_rng(4)
    folds = np.arange(10)
    gap, drawn = rng.standard_normal(10), rng.standard_normal((4000, 10))
    none, nothing = np.zeros(10), np.zeros((4000, 10))

    def width(scale):
        got = difference(scale * gap, none, drawn, nothing, folds)
        return (got.high - got.low) / (2 * 1.96 / np.sqrt(10))

    of_draws = 1 / gap.std(ddof=1)  # such that they differ exactly so
    assert width(of_draws / 2) == pytest.approx(1, rel=0.05), "speakers alone"
    expected = np.sqrt(1 + 1 / 9 * (student.ppf(0.975, 9) / 1.96) ** 2)
    assert width(of_draws) == pytest.approx(expected, rel=0.05), "8 of 9 are taken off"
    expected = np.sqrt(1 + (100 - 8 / 9) * (student.ppf(0.975, 9) / 1.96) ** 2)
    assert width(10 * of_draws) == pytest.approx(expected, rel=0.05)


def test_parts_have_draws_of_their_own(trials, scores):
    one, two = scores(1.5), scores(1.8)
    parts = [Part({"am": {0: v}}, *trials) for v in (one, two)]  # of the same name
    got = analyse(parts, [], [EER], 100).estimates["am"]["eer"]
    assert got.mean == pytest.approx(np.mean([eer(v, trials[0]) for v in (one, two)]))
    drawn = [
        resample([v], *trials, [EER], replicates=100, seed=1986 + k)[1][:, 0, 0]
        for k, v in enumerate((one, two))
    ]
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    assert (got.low, got.high) == pytest.approx((low, high))


def test_each_family_is_corrected_by_itself(trials, scores):
    systems = {name: {0: scores(q)} for name, q in (("a", 1.5), ("b", 1.7), ("c", 2))}
    families = [("c", "b")], [("b", "a"), ("c", "a")]
    got = analyse([Part(systems, *trials)], families, [EER], 100).differences
    for family in families:
        found = [got[pair]["eer"] for pair in family]
        assert [d.p_holm for d in found] == holm([d.p_value for d in found])
        for one in found:
            errors = one.visible / one.error
            alpha = 2 * normal.sf(errors - normal.ppf(0.8))
            assert alpha == pytest.approx(0.05 / len(family))


@pytest.mark.parametrize("runs, folds", [(1, 5), (2, 3)])
@pytest.mark.parametrize("ratio", [0, 1, 4])
def test_false_alarms_of_folds(significance, runs, folds, ratio):
    alarms = significance["of_runs"](runs, ratio, 500, 200, folds)
    assert 0.01 < alarms < 0.085


def test_known_differences_of_folds(significance):
    """As many are found as the report's figures promise; few of those that are none."""
    changes = {"none": 0.0, "much": -0.6, "more": 0.6}
    found = significance["of_folds"](changes, speakers=10, rounds=30, replicates=200)
    assert found["none"][0] <= 0.15 and found["any"] == pytest.approx(
        (found["none"][0], 0.05)
    )
    for name in ("much", "more"):
        hits, promised = found[name]
        assert 0.2 < promised < 0.9 and abs(hits - promised) < 0.25


@pytest.mark.parametrize("gain, expected", [(0.0, 0.05), (1.0, 0.9)])
def test_false_alarms_and_power(gain, expected):
    """Systems with a known difference, by simulation of what the draws give."""
    rng = np.random.default_rng(5)
    n, draws, hits, rounds = 3, 200, 0, 300
    for _ in range(rounds):
        of_speakers = 0.2 * rng.standard_normal()
        gap = of_speakers - gain + 0.1 * rng.standard_normal(n)
        drawn = gap + 0.2 * rng.standard_normal((draws, 1))
        got = difference(gap + 2, np.full(n, 2.0), drawn + 2, np.full((draws, n), 2.0))
        hits += got.p_value < 0.05
    if gain:
        assert hits / rounds > expected
    else:
        assert hits / rounds < 2 * expected


def false_alarms_of_speakers(speakers, rounds=2000):
    """A difference that is a mean over speakers, drawn around 0."""
    rng = np.random.default_rng(0)
    weights = np.array(list(draws(speakers, 500, 1))) / speakers
    values = rng.standard_normal((rounds, speakers)) @ weights.T
    return np.mean([sign_p_value(v) < 0.05 for v in values])


def false_alarms_of_runs(runs, rounds=1000):
    """The luck of a run is twice that of the speakers."""
    rng = np.random.default_rng(0)
    none, draws = np.zeros(runs), np.zeros((300, runs))
    hits = 0
    for k in range(rounds):
        gap = rng.standard_normal() + 2 * rng.standard_normal(runs)
        drawn = gap + rng.standard_normal((300, 1))
        hits += difference(gap, none, drawn, draws, seed=k).p_value < 0.05
    return hits / rounds


@pytest.mark.parametrize(
    "false_alarms, name, too_small",
    [
        (false_alarms_of_speakers, "test speakers", 6),
        (false_alarms_of_runs, "runs of a system", 1),
    ],
)
def test_the_least_numbers_keep_false_alarms_near_5_percent(
    false_alarms, name, too_small
):
    """Within half of the nominal rate, where this number alone decides."""
    assert false_alarms(LEAST[name]) < 0.08
    assert false_alarms(too_small) > 0.1


@pytest.mark.parametrize("name", LEAST)
def test_too_few_names_what_is_below_the_least(name):
    assert too_few(LEAST) == ""
    short = {**LEAST, name: LEAST[name] - 1}
    assert too_few(short) == f"{name}: {LEAST[name] - 1} (needed: {LEAST[name]})"
    assert too_few(dict.fromkeys(LEAST, 0)).count("needed") == 3


def test_the_least_numbers_are_those_of_the_documents():
    page = Path(__file__).parents[2] / "docs" / "comparison.md"
    speakers, runs, updates = LEAST.values()
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert f"**{speakers} test speakers, {runs} runs of each system and" in text
    assert f"and {updates} updates of each run** on" in text


def of_lists(shared, trials, scores, replicates=400):
    """Two lists of the same three runs, of the same or of other speakers."""
    runs = {k: ("", k) for k in range(3)}
    made = {name: [scores(q) for _ in runs] for name, q in (("am", 1), ("ham", 1.3))}
    lists = {}
    for number in range(2):
        if number and not shared:
            made = {n: [scores(1 + 0.3 * (n == "ham")) for _ in runs] for n in made}
        systems = {n: dict(zip(runs.values(), v, strict=True)) for n, v in made.items()}
        part = Part(systems, *trials, stream=0 if shared else number)
        lists[str(number)] = analyse([part], [[("ham", "am")]], [EER], replicates)
    mean = mean_changes(lists, [[("ham", "am")]], [EER])["ham", "am"]["eer"]
    return [one.differences["ham", "am"]["eer"] for one in lists.values()], mean


def test_the_mean_over_lists_of_the_same_speakers_is_no_surer(trials, scores):
    (one, two), mean = of_lists(True, trials, scores)
    assert one == two
    for key in ("change", "p_value", "error", "p_holm"):
        assert getattr(mean, key) == pytest.approx(getattr(one, key))
    assert mean.low < mean.change < mean.high


def test_the_mean_over_lists_of_other_speakers_is_surer(trials, scores):
    (one, two), mean = of_lists(False, trials, scores)
    assert mean.change == pytest.approx((one.change + two.change) / 2)
    alone = np.hypot(one.error, two.error) / 2
    assert mean.error == pytest.approx(alone, rel=0.35)
    assert mean.error < 0.9 * min(one.error, two.error)


def test_speakers_that_are_not_on_a_list_are_drawn_with_it(trials, scores):
    """Without them, the draws of two lists would be of other speakers."""
    v = scores(1.0)
    few, (one, two) = (trials[1][0] < 4) & (trials[1][1] < 4), trials[1]
    part = trials[0][few], (one[few], two[few])
    full, drawn = resample([v[few]], *part, [EER], replicates=50, among=20)
    assert len(drawn) == 50 and np.isnan(drawn).any() and np.isfinite(full).all()
    for times, row in zip(draws(20, 50, 1986), drawn[:, 0, 0], strict=True):
        weight = np.where(part[0], times[part[1][0]], times[one[few]] * times[two[few]])
        both = [weight[part[0] == k].sum() for k in (0, 1)]
        if not all(both):
            assert np.isnan(row)
            continue
        expected = eer(np.repeat(v[few], weight), np.repeat(part[0], weight))
        assert row == pytest.approx(expected)
