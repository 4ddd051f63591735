"""Measures and maps of embeddings against trees and spaces that are known."""

import numpy as np
import pytest
import torch

from sb_margins.comparison.measures import (
    gromov_delta,
    hierarchy,
    mantel,
    speaker_distances,
    tree_fit,
)
from sb_margins.comparison.projection import disc_map, plane_map
from sb_margins.poincare import distance


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


def ball_points(n, size, seed, far=0.95):
    x = np.random.default_rng(seed).normal(size=(n, size))
    r = far * np.random.default_rng(seed + 1).random((n, 1)) ** (1 / size)
    x = torch.as_tensor(x / np.linalg.norm(x, axis=1, keepdims=True) * r)
    d = distance(x[:, None], x).numpy()
    radii = distance(x, torch.zeros_like(x)).numpy()
    return x.numpy(), (d + d.T) / 2, radii


def test_points_of_the_disc_are_found_again():
    x, d, radii = ball_points(25, 2, 5)
    places, stress = disc_map(d, radii)
    assert stress < 0.02
    assert np.allclose(np.hypot(*places.T), np.hypot(*x.T), atol=0.03)


def test_a_tree_fits_the_disc_better_than_the_plane():
    tree = binary_tree(5)
    radii = tree[0]
    assert disc_map(tree, radii)[1] < 0.8 * plane_map(tree)[1]


def test_high_dimensions_give_finite_maps_within_the_disc():
    _, d, radii = ball_points(40, 64, 7, far=0.9999)
    places, stress = disc_map(d, radii, steps=100)
    assert np.isfinite(places).all() and (np.hypot(*places.T) < 1).all()
    assert 0 < stress < 0.6
    same, none = disc_map(np.zeros((3, 3)), np.zeros(3), steps=5)
    assert np.isfinite(same).all() and none == 0


def test_maps_are_reproducible():
    _, d, radii = ball_points(12, 8, 9)
    assert np.array_equal(disc_map(d, radii)[0], disc_map(d, radii)[0])
    assert np.array_equal(plane_map(d)[0], plane_map(d)[0])


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
    d = np.arange(16.0).reshape(4, 4)
    d = d + d.T
    names, found = speaker_distances(d, ["b", "b", "a", "a"])
    assert names == ["a", "b"]
    assert found[0, 1] == d[2:, :2].mean() and found[0, 0] == 0
