"""The figures of a report, with their captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sb_margins.comparison.document import Block, Heading, Picture
from sb_margins.comparison.geometry import draw_geometry
from sb_margins.comparison.results import Comparison, System
from sb_margins.plots.det import plot_det
from sb_margins.plots.panels import plot_histograms, plot_learning
from sb_margins.verification.metrics import threshold_at

IN_ONE_DET = 5  # besides the baseline: as many as there are colours


def draw_pictures(
    comparison: Comparison, folder: Path, *, geometry: bool = True
) -> list[Block]:
    """Draw all figures of a report.

    Arguments
    ---------
    comparison : Comparison
    folder : Path
        Where the PNGs go.
    geometry : bool
        Whether to picture the embeddings too.

    Returns
    -------
    list of blocks

    Example
    -------
    >>> grouped([1, 2, 3], 2)
    [[1, 2], [3]]
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    blocks: list[Block] = [Heading("Learning curves")]
    blocks += _learning(comparison, folder)
    blocks.append(Heading("DET curves"))
    for name in comparison.tests:
        blocks += _det(comparison, name, folder)
    blocks.append(Heading("Scores"))
    blocks += [_histograms(comparison, name, folder) for name in comparison.tests]
    if geometry:
        blocks += draw_geometry(comparison, folder)
    return blocks


def grouped(things: Sequence, size: int) -> list[list]:
    """Cut a sequence in pieces of at most ``size``.

    Example
    -------
    >>> grouped("abcde", 2)
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    return [list(things[i : i + size]) for i in range(0, len(things), size)]


def _learning(comparison: Comparison, folder: Path) -> list[Block]:
    base = comparison.baseline.variant.label
    histories = {
        s.variant.label: [r.rows for r in s.results] for s in comparison.systems
    }
    told = {
        "EER": "EER of the dev trials over epochs (epoch 0 is the untrained network)",
        "accuracy": "Accuracy on the training crops, without margin, over epochs",
    }
    blocks: list[Block] = []
    for key, words in told.items():
        if not any(key in row for rows in histories[base] for row in rows):
            continue
        path = folder / f"learning_{key.lower()}.png"
        plot_learning(histories, path, key=key, baseline=base)
        words += ". Lines are means over seeds, bands go from the lowest to the highest"
        blocks.append(Picture(path, f"{words} seed; dotted: {base}.", wide=True))
    return blocks


def _det(comparison: Comparison, name: str, folder: Path) -> list[Block]:
    base = comparison.baseline
    labels = comparison.trials[name].labels
    others = [s for s in comparison.systems if s is not base]
    groups = grouped(others, IN_ONE_DET) or [[]]
    blocks: list[Block] = []
    for number, group in enumerate(groups):
        path = folder / f"det_{name}_{number + 1}.png"
        curves = {
            s.variant.label: (s.typical.scores[name], labels) for s in [base, *group]
        }
        part = f" ({number + 1} of {len(groups)})" if len(groups) > 1 else ""
        plot_det(curves, path, title=f"{name}{part}")
        blocks.append(
            Picture(
                path,
                f"DET curves on {name}{part}, on normal-deviate axes: the seed with "
                "the median dev EER of each system"
                + ("; the baseline is in every picture." if len(groups) > 1 else "."),
            )
        )
    return blocks


def _histograms(comparison: Comparison, name: str, folder: Path) -> Picture:
    path = folder / f"scores_{name}.png"
    labels = comparison.trials[name].labels
    assert labels is not None
    told = {}
    for system in comparison.systems:
        scores = system.typical.scores[name]
        told[system.variant.label] = (
            scores,
            labels,
            threshold_at(scores, labels),
            score_unit(system),
        )
    plot_histograms(told, path)
    return Picture(
        path,
        f"Scores of the target and non-target trials of {name}, the seed with the "
        "median dev EER of each system; densities per unit of score.",
        wide=True,
    )


def score_unit(system: System) -> str:
    """What a score of a system is.

    Example
    -------
    >>> from sb_margins.comparison.variants import Variant
    >>> score_unit(System(Variant("ham"), [])), score_unit(System(Variant("am"), []))
    ('minus Poincaré distance', 'cosine')
    """
    geometry = system.variant.head().classifier.geometry
    return "minus Poincaré distance" if geometry == "poincare" else "cosine"
