"""The report's part on geometry: maps, tree-likeness, hierarchy, prototype radii."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.comparison.embeddings import (
    TrainedModel,
    about_speakers,
    choose_points,
    embed,
    evenly,
    read_model,
)
from sb_margins.comparison.measures import (
    gromov_delta,
    hierarchy,
    mantel,
    speaker_distances,
    tree_fit,
)
from sb_margins.comparison.projection import disc_map, plane_map
from sb_margins.comparison.results import Comparison
from sb_margins.plots.maps import Map, plot_maps, plot_radii

MOST_TRAIN = 600  # utterances of training speakers
MOST_PROTOTYPES = 40
IN_ONE_PLOT = 9


def describe_geometry(comparison: Comparison, folder: Path) -> dict[str, Any] | None:
    """What the template shows of the embeddings, one setting of each loss.

    Draws maps and radii of the typical runs into ``folder``; None when no head is one
    of ours.
    """
    split = comparison.tests[0]
    manifest = comparison.prepared.manifest(split)
    speakers = [u.spk_id for u in manifest]
    levels = hierarchy(sorted(set(speakers)), about_speakers(manifest))
    mapped = choose_points(speakers)
    train = comparison.prepared.manifest("train")
    few = evenly(train, MOST_TRAIN)
    class_of = {speaker: i for i, speaker in enumerate(train.speakers)}
    classes = np.array([class_of[u.spk_id] for u in few])
    rows, maps, radii = [], {}, {}
    for system in (comparison.chosen(loss) for loss in comparison.losses):
        all_distances = []
        for result in comparison.on_first_fold(system):
            model = read_model(result)
            if model is None:
                break
            points = embed(model, manifest, split)
            all_distances.append(model.among(points))
            if result is not system.typical:
                continue
            maps[system.label] = _map(
                model, points[mapped], [speakers[i] for i in mapped]
            )
            if model.hyperbolic and model.prototypes is not None:
                # Those of voices at unchanged speed come first.
                prototypes = model.prototypes[: len(class_of)]
                distances = model.distances(embed(model, few, "train_few"), prototypes)
                radii[system.label] = radius_against_confusability(
                    model.radii(prototypes), distances, classes
                )
        if all_distances:
            rows.append([system.label, *_measures(all_distances, speakers, levels)])
    if not rows:
        return None
    paths = []
    for start in range(0, len(maps), IN_ONE_PLOT):
        paths.append(folder / f"maps_{start // IN_ONE_PLOT + 1}.png")
        plot_maps(dict(list(maps.items())[start : start + IN_ONE_PLOT]), paths[-1])
    if radii:
        plot_radii(radii, folder / "radii.png")
    return {
        "split": split,
        "maps": paths,
        "mapped_speakers": len({speakers[i] for i in mapped}),
        "levels": list(levels),
        "rows": rows,
        "radii": folder / "radii.png" if radii else None,
        "flat": [label for label, one in radii.items() if math.isnan(one[2])],
    }


def mean_and_spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and standard deviation (n - 1), NaN as a dash."""
    mean = float(np.mean(values))
    if math.isnan(mean):
        return "-"
    text = format(mean, form)
    if len(values) > 1:
        text += f" ± {format(float(np.std(values, ddof=1)), form.lstrip('+'))}"
    return text


def _map(model: TrainedModel, points: np.ndarray, speakers: list[str]) -> Map:
    prototypes = model.prototypes
    if prototypes is not None:
        count = min(MOST_PROTOTYPES, len(prototypes))
        rows = np.linspace(0, len(prototypes) - 1, count).astype(int)
        points = np.concatenate([points, prototypes[rows]])
        speakers = speakers + [""] * count
    distances = model.among(points)
    if model.hyperbolic:
        places, stress = disc_map(distances, model.radii(points))
        return Map(places, speakers, stress, model.edge)
    places, stress = plane_map(distances)
    return Map(places, speakers, stress)


def _measures(
    all_distances: Sequence[np.ndarray],
    speakers: Sequence[str],
    levels: Mapping[str, np.ndarray],
) -> list[str]:
    """Cells of the table: Gromov delta, tree fit, agreements; means over runs."""
    between = [speaker_distances(d, speakers)[1] for d in all_distances]
    cells = [
        mean_and_spread([measure(d) for d in all_distances])
        for measure in (gromov_delta, tree_fit)
    ]
    for level in levels.values():
        agreements = [mantel(one, level) for one in between]
        text = mean_and_spread([a.correlation for a in agreements], "+.2f")
        if text != "-":
            text += f" ({max(a.p_value for a in agreements):.3f})"
        cells.append(text)
    return cells


def radius_against_confusability(
    radii: np.ndarray, distances: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Of the speakers in ``classes`` [N]: radii, confusabilities, Spearman's rho and p.

    ``distances`` [N, C] are those of utterances to prototypes. A speaker's
    confusability is the distance to its prototype minus that to the nearest other
    one, on average. rho is NaN when all radii are equal.
    """
    from scipy.stats import spearmanr

    rows = np.arange(len(classes))
    others = distances.copy()
    others[rows, classes] = np.inf
    behind = distances[rows, classes] - others.min(1)
    known = np.unique(classes)
    confusable = np.array([behind[classes == c].mean() for c in known])
    radii = radii[known]
    if np.ptp(radii) < 1e-6:
        return radii, confusable, math.nan, math.nan
    rho, p = spearmanr(radii, confusable)
    return radii, confusable, float(rho), float(p)
