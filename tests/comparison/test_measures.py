"""Measures of embeddings against trees and spaces that are known."""

import numpy as np
import pytest

from sb_margins.comparison.measures import (
    gromov_delta,
    hierarchy,
    mantel,
    speaker_distances,
    tree_fit,
)


def binary_tree(depth):
    """Path lengths between all nodes of a binary tree."""
    n = 2 ** (depth + 1) - 1

    def path(i):
        found = [i]
        while i:
            i = (i - 1) // 2
            found.append(i)
        return found

    d = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            a, b = path(i), path(j)
            common = len(set(a) & set(b))
            d[i, j] = len(a) + len(b) - 2 * common
    return d


def test_a_tree_is_hyperbolic_and_a_circle_is_not():
    tree = binary_tree(4)
    assert gromov_delta(tree) == pytest.approx(0, abs=1e-9)
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    gap = np.abs(angle[:, None] - angle)
    circle = np.minimum(gap, 2 * np.pi - gap)
    assert gromov_delta(circle) > 0.4
    with_noise = tree + np.abs(tree - tree.T)
    assert tree_fit(with_noise) > tree_fit(circle)


def naive_delta(d):
    """The four-point condition with base point 0, pair by pair."""
    n = len(d)
    product = [[(d[i][0] + d[0][j] - d[i][j]) / 2 for j in range(n)] for i in range(n)]
    worst = max(
        min(product[i][k], product[k][j]) - product[i][j]
        for i in range(n)
        for j in range(n)
        for k in range(n)
    )
    return 2 * worst / d.max()


def test_gromov_delta_by_hand():
    square = np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0.0]])
    star = np.array([[0, 2, 2, 2], [2, 0, 2, 2], [2, 2, 0, 2], [2, 2, 2, 0.0]])
    assert gromov_delta(square) == gromov_delta(7 * square) == 1.0
    assert gromov_delta(star) == 0.0 and gromov_delta(np.zeros((3, 3))) == 0.0


def test_gromov_delta_is_the_mean_over_samples():
    x = np.random.default_rng(4).normal(size=(9, 3))
    d = np.linalg.norm(x[:, None] - x, axis=-1)
    rng = np.random.default_rng(11)
    expected = []
    for _ in range(3):
        rows = rng.permutation(9)[:6]
        expected.append(naive_delta(d[np.ix_(rows, rows)]))
    got = gromov_delta(d, sample=6, rounds=3, seed=11)
    assert got == pytest.approx(np.mean(expected)) and len(set(expected)) == 3


def test_tree_fit_is_the_correlation_with_the_heights_of_the_tree():
    ultrametric = np.array([[0, 1, 4, 4], [1, 0, 4, 4], [4, 4, 0, 2], [4, 4, 2, 0.0]])
    assert tree_fit(ultrametric) == pytest.approx(1)
    # Joined at 1 and at the mean of 3 and 5.
    d = np.array([[0, 1, 3], [1, 0, 5], [3, 5, 0.0]])
    expected = np.corrcoef([1, 3, 5], [1, 4, 4])[0, 1]
    assert tree_fit(d) == pytest.approx(expected)


def test_mantel_finds_what_is_there_and_nothing_else():
    rng = np.random.default_rng(2)
    group = np.repeat([0, 1], 10)
    x = rng.normal(size=(20, 3))
    noise = np.linalg.norm(x[:, None] - x, axis=-1)
    differ = (group[:, None] != group).astype(float)
    assert mantel(noise, differ, permutations=199).p_value > 0.05
    kept = mantel(noise + 2 * differ, differ, permutations=199)
    assert kept.correlation > 0.6 and kept.p_value < 0.01
    constant = mantel(noise, np.ones_like(noise), permutations=9)
    assert np.isnan(constant.correlation)


def test_mantel_is_spearman_under_permutations_of_rows():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(8)
    one, two = rng.random((2, 7, 7))
    one, two = one + one.T, two + two.T + 0.3 * (one + one.T)
    two[1, 2] = two[2, 1] = two[4, 6] = two[6, 4] = np.nan
    upper = np.triu_indices(7, 1)
    known = ~np.isnan(two[upper])
    target = two[upper][known]
    value = spearmanr(one[upper][known], target)[0]
    rng = np.random.default_rng(12)
    as_large = 0
    for _ in range(60):
        order = rng.permutation(7)
        moved = one[np.ix_(order, order)][upper][known]
        as_large += spearmanr(moved, target)[0] >= value - 1e-9
    got = mantel(one, two, permutations=60, seed=12)
    assert got.correlation == pytest.approx(value) and got.pairs == 19
    assert got.p_value == (as_large + 1) / 61 and 0 < as_large < 60


def test_mantel_of_ties_counts_equal_correlations():
    """Permuting within groups changes nothing: those count as being as large."""
    differ = (np.arange(4)[:, None] // 2 != np.arange(4) // 2).astype(float)
    got = mantel(differ, differ, permutations=300)
    assert got.correlation == pytest.approx(1)
    assert got.p_value == pytest.approx(1 / 3, abs=0.1)


def test_mantel_needs_three_pairs():
    two = np.full((4, 4), np.nan)
    two[0, 1], two[0, 2] = 1.0, 2.0
    got = mantel(np.ones((4, 4)), two)
    assert np.isnan(got.correlation) and np.isnan(got.p_value) and got.pairs == 2
    two[0, 3] = 3.0
    d = np.abs(np.arange(4.0)[:, None] - np.arange(4))
    assert mantel(d, two, permutations=9).correlation == pytest.approx(1)


def test_hierarchy_leaves_out_what_does_not_differ():
    about = {"a": {"age": "30", "gender": "f"}, "b": {"age": "30", "gender": "f"}}
    assert hierarchy(["a", "b"], about) == {}
    about["c"] = {"gender": "f"}
    assert hierarchy(["a", "b", "c"], about) == {}
    about["c"]["age"] = "18"
    levels = hierarchy(["a", "b", "c"], about)
    assert list(levels) == ["age"], "all are grown up: one level is no hierarchy"
    about["c"] = {"age": "40", "gender": "m"}
    assert list(hierarchy(["a", "b", "c"], about)) == ["gender", "age"]
    about["c"] = {"gender": "m"}
    assert list(hierarchy(["a", "b", "c"], about)) == ["gender"]
    about["c"] = {"age": "17.9", "gender": "m"}
    levels = hierarchy(["a", "b", "c"], about)
    assert list(levels) == ["gender", "age", "hierarchy"]
    assert levels["hierarchy"].tolist() == [[0, 1, 3], [1, 0, 3], [3, 3, 0]]


def test_hierarchy_has_the_branch_of_the_highest_level():
    about = {
        "a": {"language": "en", "gender": "f", "age": "9"},
        "b": {"language": "en", "gender": "f", "age": "40"},
        "c": {"language": "en", "gender": "m", "age": "9"},
        "d": {"language": "ar", "gender": "f", "age": "9"},
    }
    levels = hierarchy(list("abcd"), about)
    assert levels["hierarchy"][0].tolist() == [0, 2, 3, 4]
    assert levels["language"][0].tolist() == [0, 0, 0, 1]


def test_hierarchy_takes_what_the_corpus_tells():
    about = {
        "a": {"gender": "f", "age": "7", "language": "en"},
        "b": {"gender": "F", "age": "9", "language": "en"},
        "c": {"gender": "m", "age": "40", "language": "en"},
        "d": {"gender": "", "age": "unknown", "language": "ar"},
    }
    found = hierarchy(list("abcd"), about)
    assert found["gender"][0, 1] == 0 and found["gender"][0, 2] == 1
    assert np.isnan(found["gender"][0, 3])
    assert found["age"][0, 2] == 33 and found["language"][0, 3] == 1
    assert found["hierarchy"][0, 1] == 1 and found["hierarchy"][0, 2] == 3
    assert hierarchy(["a", "b"], {"a": {}, "b": {}}) == {}


def test_speaker_distances_are_means():
    d = np.arange(25.0).reshape(5, 5)
    d = d + d.T
    names, found = speaker_distances(d, ["b", "b", "a", "a", "c"])
    assert names == ["a", "b", "c"]
    assert found[0, 1] == d[2:4, :2].mean() and found[2, 0] == d[2:4, 4].mean()
    assert np.diag(found).tolist() == [0, 0, 0] and (found == found.T).all()


def test_adults_are_18():
    about = {
        name: {"age": age, "gender": "fm"[age == "17"]}
        for name, age in (("a", "17"), ("b", "18"), ("c", "30"))
    }
    height = hierarchy(list("abc"), about)["hierarchy"]
    assert height[1, 2] == 1 and height[0, 1] == 3


def test_defaults_of_the_measures():
    x = np.random.default_rng(3).normal(size=(155, 4))
    d = np.linalg.norm(x[:, None] - x, axis=-1)
    assert gromov_delta(d) == gromov_delta(d, sample=150, rounds=5, seed=1986)
    one, two = d[:9, :9], d[20:29, 20:29]
    assert mantel(one, two) == mantel(one, two, permutations=999, seed=1986)
