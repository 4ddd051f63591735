"""The report's part on geometry: maps, tree-likeness, hierarchy, prototype radii."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb_margins.comparison.document import Block, Heading, Picture, Table, Text
from sb_margins.comparison.embeddings import (
    MOST_TRAIN,
    Geometry,
    about_speakers,
    embed,
    evenly,
    read_geometry,
)
from sb_margins.comparison.results import Comparison, System
from sb_margins.data import Manifest
from sb_margins.plots.geometry import (
    Agreement,
    gromov_delta,
    hierarchy,
    mantel,
    speaker_distances,
    tree_fit,
)
from sb_margins.plots.hyperbolic_map import disc_map, plane_map
from sb_margins.plots.maps import Map, choose_points, plot_maps, plot_radii

MOST_PROTOTYPES = 40
IN_ONE_PICTURE = 9


def draw_geometry(comparison: Comparison, folder: Path) -> list[Block]:
    """Figures and measures of the embeddings, one setting of each loss.

    Arguments
    ---------
    comparison : Comparison
    folder : Path
        Where the PNGs go.

    Returns
    -------
    list of blocks

    Example
    -------
    >>> spread([0.5])
    '0.500'
    """
    split = comparison.tests[0]
    manifest = comparison.prepared.manifest(split)
    systems = [comparison.chosen(loss) for loss in comparison.losses]
    models: dict[str, Geometry] = {}
    for system in systems:
        model = read_geometry(system.typical)
        if model is not None:
            models[system.variant.label] = model
    if not models:
        return []
    found = {name: embed(model, manifest, split) for name, model in models.items()}
    blocks: list[Block] = [Heading("Geometry of the embeddings")]
    blocks += _maps(models, found, manifest, split, folder)
    known = [s for s in systems if s.variant.label in models]
    blocks.append(_measures(known, manifest, split))
    blocks += _radii(comparison, models, folder)
    return blocks


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and standard deviation over seeds, in a table.

    Example
    -------
    >>> spread([0.1, 0.3]), spread([0.25], "+.2f")
    ('0.200 ± 0.141', '+0.25')
    """
    text = format(float(np.mean(values)), form)
    if len(values) > 1:
        text += f" ± {format(float(np.std(values, ddof=1)), form.lstrip('+'))}"
    return text


def shown(agreements: Sequence[Agreement]) -> str:
    """A correlation over seeds and the largest of its p-values, in a table.

    Example
    -------
    >>> shown([Agreement(0.123, 0.04, 10), Agreement(0.143, 0.02, 10)])
    '+0.13 ± 0.01 (0.040)'
    >>> shown([Agreement(float("nan"), float("nan"), 0)])
    '-'
    """
    values = [one.correlation for one in agreements]
    if np.isnan(values).any():
        return "-"
    return f"{spread(values, '+.2f')} ({max(one.p_value for one in agreements):.3f})"


def _maps(
    models: dict[str, Geometry],
    found: dict[str, np.ndarray],
    manifest: Manifest,
    split: str,
    folder: Path,
) -> list[Block]:
    speakers = [u.spk_id for u in manifest]
    rows = choose_points(speakers)
    maps = {}
    for name, model in models.items():
        points = found[name][rows]
        told = [speakers[row] for row in rows]
        prototypes = model.prototypes
        if prototypes is not None:
            many = min(MOST_PROTOTYPES, len(prototypes))
            at = np.linspace(0, len(prototypes) - 1, many).astype(int)
            points = np.concatenate([points, prototypes[at]])
            told += [""] * many
        d = model.distances(points, points)
        d = (d + d.T) / 2
        np.fill_diagonal(d, 0.0)
        if model.hyperbolic:
            places, stress = disc_map(d, model.radii(points))
            maps[name] = Map(places, told, stress, model.edge())
        else:
            places, stress = plane_map(d)
            maps[name] = Map(places, told, stress)
    blocks: list[Block] = []
    names = list(maps)
    for start in range(0, len(names), IN_ONE_PICTURE):
        path = folder / f"maps_{start // IN_ONE_PICTURE + 1}.png"
        plot_maps({n: maps[n] for n in names[start : start + IN_ONE_PICTURE]}, path)
        blocks.append(
            Picture(
                path,
                f"Embeddings of {len({speakers[r] for r in rows})} speakers of {split} "
                "(one colour and mark a speaker) and prototypes of training speakers. "
                "Hyperbolic models on the Poincaré disc, by least squares on their "
                "hyperbolic distances and radii; others in the plane, on their angles. "
                "Stress: the share of the distances that two dimensions get wrong. "
                "The seed with the median dev EER.",
                wide=True,
            )
        )
    return blocks


def _measures(systems: Sequence[System], manifest: Manifest, split: str) -> Table:
    speakers = [u.spk_id for u in manifest]
    levels = hierarchy(sorted(set(speakers)), about_speakers(manifest))
    head = ["system", "Gromov delta", "tree fit", *levels]
    rows = []
    for system in systems:
        deltas, fits = [], []
        agreements: dict[str, list[Agreement]] = {name: [] for name in levels}
        for result in system.results:
            model = read_geometry(result)
            assert model is not None
            points = embed(model, manifest, split)
            d = model.distances(points, points)
            d = (d + d.T) / 2
            np.fill_diagonal(d, 0.0)
            _, between = speaker_distances(d, speakers)
            deltas.append(gromov_delta(d))
            fits.append(tree_fit(d))
            for name, level in levels.items():
                agreements[name].append(mantel(between, level))
        row = [system.variant.label, spread(deltas), spread(fits)]
        rows.append(row + [shown(found) for found in agreements.values()])
    told = (
        "The other columns: Spearman correlation between the mean distance of two "
        "speakers and their distance in the corpus's own hierarchy (the largest p of "
        "the seeds, by permuting speakers 999 times, not corrected); "
        "hierarchy: language > gender > child or adult, as far as the manifest tells."
        if levels
        else "The manifest tells neither gender, age nor language that differ: there "
        "is no hierarchy to agree with."
    )
    caption = (
        f"{split}; means over seeds ± standard deviation; each model in its own "
        "distance (Poincaré, or the angle). Gromov "
        "delta: relative to half of the diameter, 0 for a tree. Tree fit: cophenetic "
        f"correlation with an average-linkage tree, 1 for a tree. {told}"
    )
    return Table(head, rows, caption)


def _radii(
    comparison: Comparison, models: dict[str, Geometry], folder: Path
) -> list[Block]:
    from scipy.stats import spearmanr

    balls = {
        name: model
        for name, model in models.items()
        if model.hyperbolic and model.prototypes is not None
    }
    if not balls:
        return []
    train = comparison.prepared.manifest("train")
    few = evenly(train, MOST_TRAIN)
    number = {s: i for i, s in enumerate(train.speakers)}
    own = np.array([number[u.spk_id] for u in few])
    told = {}
    for name, model in balls.items():
        prototypes = model.prototypes
        assert prototypes is not None
        prototypes = prototypes[: len(number)]  # unchanged voices come first
        d = model.distances(embed(model, few, "train_few"), prototypes)
        at = np.arange(len(own)), own
        mine = d[at].copy()
        d[at] = np.inf
        behind = mine - d.min(1)
        known = np.unique(own)
        confusable = np.array([behind[own == s].mean() for s in known])
        radii = model.radii(prototypes)[known]
        if np.ptp(radii) < 1e-6:
            rho = p = float("nan")
        else:
            rho, p = spearmanr(radii, confusable)
        told[name] = (radii, confusable, float(rho), float(p))
    path = folder / "radii.png"
    plot_radii(told, path)
    caption = (
        "Distance of the training speakers' prototypes from the origin against how "
        "confusable a speaker is: the distance of its training utterances to its own "
        "prototype minus that to the nearest other one, on average (above 0: taken for "
        "somebody else)."
    )
    flat = [name for name, one in told.items() if np.isnan(one[2])]
    blocks: list[Block] = [Picture(path, caption, wide=True)]
    if flat:
        blocks.append(
            Text(f"All prototypes have the same radius (the edge): {'; '.join(flat)}.")
        )
    return blocks
