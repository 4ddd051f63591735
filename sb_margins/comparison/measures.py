"""How tree-like distances are, and whether they follow the corpus's hierarchy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ADULT = 18  # years


def gromov_delta(
    distances: np.ndarray, *, sample: int = 150, rounds: int = 5, seed: int = 1986
) -> float:
    """Relative Gromov hyperbolicity of distances [N, N]: 0 for a tree, 1 at most.

    delta = max over pairs of (min-max product of the Gromov products - product),
    relative to half of the diameter; the mean over ``rounds`` random samples, each with
    a random base point (Khrulkov et al., "Hyperbolic image embeddings", CVPR 2020).
    """
    rng = np.random.default_rng(seed)
    deltas = []
    for _ in range(rounds):
        rows = rng.permutation(len(distances))[:sample]
        d = distances[np.ix_(rows, rows)]
        products = (d[:, :1] + d[:1, :] - d) / 2
        best = np.full_like(products, -np.inf)
        for k in range(len(rows)):
            np.maximum(best, np.minimum(products[:, k, None], products[k]), out=best)
        diameter = float(d.max())
        delta = float((best - products).max())
        deltas.append(2 * delta / diameter if diameter else 0.0)
    return float(np.mean(deltas))


def tree_fit(distances: np.ndarray) -> float:
    """Cophenetic correlation of distances [N, N] with an average-linkage tree."""
    from scipy.cluster.hierarchy import average, cophenet
    from scipy.spatial.distance import squareform

    flat = squareform(distances, checks=False)
    return float(cophenet(average(flat), flat)[0])


@dataclass(frozen=True)
class Agreement:
    """Spearman's correlation of two matrices over pairs, one-sided p-value, pairs."""

    correlation: float
    p_value: float
    pairs: int


def mantel(
    one: np.ndarray, two: np.ndarray, *, permutations: int = 999, seed: int = 1986
) -> Agreement:
    """Whether two matrices of distances [N, N] between the same things agree.

    Mantel's test: the rows of ``one`` are permuted; pairs with NaN in ``two`` do not
    count.
    """
    from scipy.stats import rankdata

    upper = np.triu_indices(len(one), 1)
    known = ~np.isnan(two[upper])
    rows, columns = upper[0][known], upper[1][known]
    if len(rows) < 3:
        return Agreement(math.nan, math.nan, len(rows))

    def standardise(values: np.ndarray) -> np.ndarray:
        ranks = rankdata(values) - (len(values) + 1) / 2
        length = np.linalg.norm(ranks)
        return ranks / length if length else np.full_like(ranks, np.nan)

    target = standardise(two[rows, columns])
    value = float(standardise(one[rows, columns]) @ target)
    if math.isnan(value):
        return Agreement(value, value, len(rows))
    rng = np.random.default_rng(seed)
    as_large = 0
    for _ in range(permutations):
        order = rng.permutation(len(one))
        moved = standardise(one[order[rows], order[columns]])
        as_large += bool(moved @ target >= value - 1e-12)
    return Agreement(value, (as_large + 1) / (permutations + 1), len(rows))


def speaker_distances(
    distances: np.ndarray, speakers: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """Speakers [S], sorted, and mean distances [S, S] between their utterances."""
    names = sorted(set(speakers))
    share = np.array([[float(s == name) for s in speakers] for name in names])
    share /= share.sum(1, keepdims=True)
    means = share @ distances @ share.T
    np.fill_diagonal(means, 0.0)
    return names, (means + means.T) / 2


def hierarchy(
    speakers: Sequence[str], about: Mapping[str, Mapping[str, str]]
) -> dict[str, np.ndarray]:
    """Distances [S, S] between speakers by ``gender``, ``age`` and ``language``.

    ``language``, ``gender``: 0 when equal, else 1. ``age``: years apart.
    ``hierarchy``: height of the branch that joins two speakers in the tree
    language > gender > child or adult > speaker, of the levels that are known.
    NaN where one of the two is not known; only levels that differ at all are there.
    """
    categories: dict[str, list[str]] = {}
    for key in ("language", "gender"):
        values = [str(about.get(s, {}).get(key, "")).strip().lower() for s in speakers]
        if len(set(values) - {""}) > 1:
            categories[key] = values
    levels = {key: _unequal(values) for key, values in categories.items()}
    ages = np.array([_years(about.get(s, {}).get("age", "")) for s in speakers])
    if len(set(ages[~np.isnan(ages)])) > 1:
        levels["age"] = np.abs(ages[:, None] - ages)
        grown = ["" if math.isnan(age) else str(age >= ADULT) for age in ages]
        if len(set(grown) - {""}) > 1:
            categories["grown"] = grown
    branches = [
        _unequal(categories[key])
        for key in ("grown", "gender", "language")
        if key in categories
    ]
    if len(branches) > 1:
        height = np.ones((len(speakers), len(speakers)))
        for number, branch in enumerate(branches):
            height = np.where(branch == 1, number + 2.0, height)
            height = np.where(np.isnan(branch), np.nan, height)
        np.fill_diagonal(height, 0.0)
        levels["hierarchy"] = height
    return levels


def _unequal(categories: Sequence[str]) -> np.ndarray:
    array = np.array(categories)
    differ = (array[:, None] != array).astype(float)
    unknown = array == ""
    differ[unknown] = np.nan
    differ[:, unknown] = np.nan
    return differ


def _years(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
