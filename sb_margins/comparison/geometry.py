"""The report's part on geometry: maps, tree-likeness, hierarchy, prototype radii."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    Agreement,
    gromov_delta,
    hierarchy,
    mantel,
    speaker_distances,
    tree_fit,
)
from sb_margins.comparison.projection import disc_map, plane_map
from sb_margins.comparison.results import Comparison, System
from sb_margins.data import Manifest
from sb_margins.plots.maps import Map, plot_maps, plot_radii

MOST_TRAIN = 600  # utterances of training speakers
MOST_PROTOTYPES = 40
IN_ONE_PLOT = 9


def describe_geometry(comparison: Comparison, folder: Path) -> dict[str, Any] | None:
    """What the template shows of the embeddings, one setting of each loss.

    Draws the maps and radii into ``folder``; None when no head is one of ours.
    """
    split = comparison.tests[0]
    manifest = comparison.prepared.manifest(split)
    systems, models = [], {}
    for system in (comparison.chosen(loss) for loss in comparison.losses):
        model = read_model(system.typical)
        if model is not None:
            systems.append(system)
            models[system.label] = model
    if not models:
        return None
    speakers = [u.spk_id for u in manifest]
    rows = choose_points(speakers)
    maps = {
        label: _map(
            model, embed(model, manifest, split)[rows], [speakers[r] for r in rows]
        )
        for label, model in models.items()
    }
    paths = []
    for start in range(0, len(maps), IN_ONE_PLOT):
        paths.append(folder / f"maps_{start // IN_ONE_PLOT + 1}.png")
        plot_maps(dict(list(maps.items())[start : start + IN_ONE_PLOT]), paths[-1])
    levels = hierarchy(sorted(set(speakers)), about_speakers(manifest))
    return {
        "split": split,
        "maps": paths,
        "mapped_speakers": len({speakers[r] for r in rows}),
        "levels": list(levels),
        "rows": [_measures(system, manifest, split, levels) for system in systems],
        **_draw_radii(comparison, models, folder / "radii.png"),
    }


def mean_and_spread(values: Sequence[float], form: str = ".3f") -> str:
    """Mean and standard deviation (n - 1), NaN as a dash.

    >>> mean_and_spread([0.1, 0.3]), mean_and_spread([0.25], "+.2f")
    ('0.200 ± 0.141', '+0.25')
    """
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
    system: System, manifest: Manifest, split: str, levels: dict[str, np.ndarray]
) -> list[str]:
    """A row of the table: means over the seeds of a system."""
    speakers = [u.spk_id for u in manifest]
    deltas, fits = [], []
    agreements: dict[str, list[Agreement]] = {name: [] for name in levels}
    for result in system.results:
        model = read_model(result)
        assert model is not None
        distances = model.among(embed(model, manifest, split))
        deltas.append(gromov_delta(distances))
        fits.append(tree_fit(distances))
        _, between = speaker_distances(distances, speakers)
        for name, level in levels.items():
            agreements[name].append(mantel(between, level))
    cells = [system.label, mean_and_spread(deltas), mean_and_spread(fits)]
    for several in agreements.values():
        text = mean_and_spread([a.correlation for a in several], "+.2f")
        if text != "-":
            text += f" ({max(a.p_value for a in several):.3f})"
        cells.append(text)
    return cells


def _draw_radii(
    comparison: Comparison, models: dict[str, TrainedModel], path: Path
) -> dict[str, Any]:
    """Radius of the prototypes on a ball against how confusable their speakers are."""
    balls = {
        label: model
        for label, model in models.items()
        if model.hyperbolic and model.prototypes is not None
    }
    if not balls:
        return {"radii": None, "flat": []}
    train = comparison.prepared.manifest("train")
    few = evenly(train, MOST_TRAIN)
    number = {speaker: i for i, speaker in enumerate(train.speakers)}
    classes = np.array([number[u.spk_id] for u in few])
    systems = {}
    for label, model in balls.items():
        prototypes = model.prototypes
        assert prototypes is not None
        prototypes = prototypes[: len(number)]  # of voices at unchanged speed
        distances = model.distances(embed(model, few, "train_few"), prototypes)
        radii = model.radii(prototypes)
        systems[label] = radius_against_confusability(radii, distances, classes)
    plot_radii(systems, path)
    flat = [label for label, one in systems.items() if math.isnan(one[2])]
    return {"radii": path, "flat": flat}


def radius_against_confusability(
    radii: np.ndarray, distances: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Of the speakers in ``classes`` [N]: radii, confusabilities, Spearman's rho and p.

    ``distances`` [N, C] are those of utterances to prototypes. A speaker's
    confusability is the distance to its own prototype minus that to the nearest other
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
