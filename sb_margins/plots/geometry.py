"""How tree-like embeddings are, and whether they keep the corpus's own hierarchy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ADULT = 18  # years


def gromov_delta(
    distances: np.ndarray, *, sample: int = 150, rounds: int = 5, seed: int = 1986
) -> float:
    """Relative Gromov hyperbolicity: 0 for a tree, 1 at most.

    delta = max over the points of (min-max product of the Gromov products - product),
    relative to half of the diameter; the mean over random samples, each with a random
    base point (Khrulkov et al., "Hyperbolic image embeddings", CVPR 2020).

    Arguments
    ---------
    distances : numpy.ndarray
        [N, N], symmetric.
    sample : int
        Points of a round.
    rounds : int
        Samples (one when all points fit in it).
    seed : int

    Returns
    -------
    float
        2 delta / diameter.

    Example
    -------
    >>> star = np.array([[0, 2, 2, 2], [2, 0, 2, 2], [2, 2, 0, 2], [2, 2, 2, 0.0]])
    >>> gromov_delta(star)
    0.0
    >>> square = np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0.0]])
    >>> gromov_delta(square)
    1.0
    """
    rng = np.random.default_rng(seed)
    n = len(distances)
    found = []
    for _ in range(rounds):
        at = rng.permutation(n)[:sample]
        d = distances[np.ix_(at, at)]
        products = (d[:, :1] + d[:1, :] - d) / 2
        best = np.full_like(products, -np.inf)
        for k in range(len(at)):
            np.maximum(best, np.minimum(products[:, k, None], products[k]), out=best)
        diameter = float(d.max())
        found.append(2 * float((best - products).max()) / diameter if diameter else 0.0)
    return float(np.mean(found))


def tree_fit(distances: np.ndarray) -> float:
    """Cophenetic correlation: how well an average-linkage tree tells the distances.

    Arguments
    ---------
    distances : numpy.ndarray
        [N, N], symmetric.

    Returns
    -------
    float
        1 for a perfect (ultrametric) tree.

    Example
    -------
    >>> d = np.array([[0, 1, 4, 4], [1, 0, 4, 4], [4, 4, 0, 2], [4, 4, 2, 0.0]])
    >>> round(tree_fit(d), 6)
    1.0
    """
    from scipy.cluster.hierarchy import average, cophenet
    from scipy.spatial.distance import squareform

    flat = squareform(distances, checks=False)
    return float(cophenet(average(flat), flat)[0])


@dataclass(frozen=True)
class Agreement:
    """Rank correlation of two matrices of distances, and its p-value.

    Arguments
    ---------
    correlation : float
        Spearman's, over pairs.
    p_value : float
        By permuting the speakers (Mantel's test), one-sided: larger than by chance.
    pairs : int

    Example
    -------
    >>> Agreement(0.4, 0.001, 780).correlation
    0.4
    """

    correlation: float
    p_value: float
    pairs: int


def mantel(
    one: np.ndarray, two: np.ndarray, *, permutations: int = 999, seed: int = 1986
) -> Agreement:
    """Whether two matrices of distances between the same things agree.

    Arguments
    ---------
    one, two : numpy.ndarray
        [N, N], symmetric; pairs with NaN in ``two`` do not count.
    permutations : int
    seed : int

    Returns
    -------
    Agreement

    Example
    -------
    >>> x = np.arange(8.0)
    >>> d = np.abs(x[:, None] - x)
    >>> found = mantel(d, d**2)
    >>> found.correlation > 0.999, found.p_value < 0.01
    (True, True)
    """
    from scipy.stats import rankdata

    upper = np.triu_indices(len(one), 1)
    known = ~np.isnan(two[upper])
    rows, columns = upper[0][known], upper[1][known]
    if len(rows) < 3:
        return Agreement(float("nan"), float("nan"), len(rows))

    def standard(values: np.ndarray) -> np.ndarray:
        ranks = rankdata(values) - (len(values) + 1) / 2
        length = np.linalg.norm(ranks)
        return ranks / length if length else ranks * np.nan

    target = standard(two[rows, columns])
    value = float(standard(one[rows, columns]) @ target)
    if np.isnan(value):
        return Agreement(value, value, len(rows))
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(permutations):
        order = rng.permutation(len(one))
        moved = standard(one[order[rows], order[columns]])
        hits += bool(moved @ target >= value - 1e-12)
    return Agreement(value, (hits + 1) / (permutations + 1), len(rows))


def speaker_distances(
    distances: np.ndarray, speakers: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """Mean distance between the utterances of every two speakers.

    Arguments
    ---------
    distances : numpy.ndarray
        [N, N] between utterances.
    speakers : sequence of str
        [N].

    Returns
    -------
    tuple
        Speakers [S], sorted, and distances [S, S] with a zero diagonal.

    Example
    -------
    >>> d = np.array([[0, 1, 3], [1, 0, 5], [3, 5, 0.0]])
    >>> speaker_distances(d, ["a", "a", "b"])[1].tolist()
    [[0.0, 4.0], [4.0, 0.0]]
    """
    names = sorted(set(speakers))
    share = np.array([[float(s == name) for s in speakers] for name in names])
    share /= share.sum(1, keepdims=True)
    found = share @ distances @ share.T
    np.fill_diagonal(found, 0.0)
    return names, (found + found.T) / 2


def hierarchy(
    speakers: Sequence[str], about: Mapping[str, Mapping[str, str]]
) -> dict[str, np.ndarray]:
    """Distances between speakers by what the corpus tells about them.

    ``language``, ``gender``: 0 when equal, else 1. ``age``: years apart.
    ``hierarchy``: height of the branch that joins two speakers in the tree
    language > gender > child or adult > speaker, of the levels that are known.

    Arguments
    ---------
    speakers : sequence of str
        [S].
    about : mapping of str to mapping
        Metadata of each speaker: ``gender``, ``age`` (years), ``language``.

    Returns
    -------
    dict of str to numpy.ndarray
        [S, S] each, NaN where one of the two is not told; only what differs at all.

    Example
    -------
    >>> about = {"a": {"gender": "f", "age": "8"}, "b": {"gender": "f", "age": "30"}}
    >>> about["c"] = {"gender": "m", "age": "30"}
    >>> found = hierarchy(["a", "b", "c"], about)
    >>> found["hierarchy"][0].tolist(), found["age"][0].tolist()
    ([0.0, 2.0, 3.0], [0.0, 22.0, 22.0])
    """
    words: dict[str, list[str]] = {}
    for key in ("language", "gender"):
        told = [str(about.get(s, {}).get(key, "")).strip().lower() for s in speakers]
        if len(set(told) - {""}) > 1:
            words[key] = told
    found = {key: _unequal(told) for key, told in words.items()}
    ages = np.array([_years(about.get(s, {}).get("age", "")) for s in speakers])
    if len(set(ages[~np.isnan(ages)])) > 1:
        found["age"] = np.abs(ages[:, None] - ages)
        grown = ["" if np.isnan(a) else str(a >= ADULT) for a in ages]
        if len(set(grown) - {""}) > 1:
            words["grown"] = grown
    levels = [_unequal(words[k]) for k in ("language", "gender", "grown") if k in words]
    if len(levels) > 1:
        height = np.ones((len(speakers), len(speakers)))
        for number, level in enumerate(reversed(levels)):
            height = np.where(level == 1, number + 2.0, height)
            height = np.where(np.isnan(level), np.nan, height)
        np.fill_diagonal(height, 0.0)
        found["hierarchy"] = height
    return found


def _unequal(told: Sequence[str]) -> np.ndarray:
    array = np.array(told)
    differ = (array[:, None] != array).astype(float)
    unknown = array == ""
    differ[unknown] = np.nan
    differ[:, unknown] = np.nan
    return differ


def _years(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
