"""Maps of points whose distances are known, from the plane, the disc and beyond."""

import numpy as np
import pytest
import torch

from sb_margins.comparison.projection import disc_distances, disc_map, plane_map
from sb_margins.poincare import distance


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


def test_maps_begin_at_the_exact_solution_of_two_dimensions():
    _, d, radii = ball_points(12, 2, 5, far=0.8)
    assert disc_map(d, radii, steps=0)[1] < 1e-3
    x = np.random.default_rng(6).normal(size=(12, 2)) + [5.0, -3.0]
    flat = np.linalg.norm(x[:, None] - x, axis=-1)
    places, stress = plane_map(flat, steps=0)
    assert stress < 1e-3 and np.abs(places.mean(0)).max() < 1e-3
    # Signs are fixed: the largest coordinate of an axis is positive.
    assert (places[np.abs(places).argmax(0), [0, 1]] > 0).all()


@pytest.mark.parametrize("hyperbolic", [True, False])
def test_maps_are_at_a_minimum_of_the_stress(hyperbolic):
    x, d, radii = ball_points(10, 5, 3, far=0.9)

    def stress(places):
        """Relative stress of the distances, on the disc plus that of the radii."""
        if not hyperbolic:
            mapped = np.linalg.norm(places[:, None] - places, axis=-1)
            return ((mapped - d) ** 2).sum() / (d**2).sum()
        pairs = ((disc_distances(places) - d) ** 2).sum() / (d**2).sum()
        home = 2 * np.arctanh(np.linalg.norm(places, axis=1))
        return pairs + ((home - radii) ** 2).sum() / (radii**2).sum()

    places, share = disc_map(d, radii) if hyperbolic else plane_map(d)
    if not hyperbolic:
        assert share == pytest.approx(stress(places) ** 0.5)
    least, rng = stress(places), np.random.default_rng(2)
    for size in (0.003, 0.01, 0.03):
        for _ in range(20):
            moved = places + size * rng.normal(size=places.shape)
            assert stress(moved) > least - 1e-6
    begun = disc_map(d, radii, steps=0) if hyperbolic else plane_map(d, steps=0)
    assert least < 0.95 * stress(begun[0])


def test_a_tree_fits_the_disc_better_than_the_plane():
    i, j = np.indices((63, 63)) + 1
    tree = np.zeros((63, 63))
    while (i != j).any():  # up from the deeper one, by halving heap numbers
        tree += i != j
        i, j = np.where(i > j, i // 2, i), np.where(j > i, j // 2, j)
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
