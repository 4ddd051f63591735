"""Maps of embeddings on the disc or in the plane; radius against confusability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.plots.style import (
    BLUE,
    GREY,
    handle,
    label_outer,
    legend_below,
    look,
    panels,
)

PROTOTYPE = {"ms": 4, "mew": 0.7, "alpha": 0.7, "zorder": 1}
EMBEDDING: dict[str, Any] = {"ms": 4.5, "mec": "white", "mew": 0.4, "zorder": 2}


@dataclass
class Map:
    """Places [N, 2] of embeddings; an empty speaker stands for a prototype.

    ``stress`` is the share of the distances that two dimensions get wrong; ``edge``
    the radius that no point can pass on the disc, None in the plane.
    """

    places: np.ndarray
    speakers: list[str]
    stress: float = 0.0
    edge: float | None = None


def plot_maps(maps: Mapping[str, Map], path: str | Path) -> None:
    """Draw a panel for each system."""
    from matplotlib.patches import Circle

    with panels(path, list(maps), height=3.3) as (figure, grid):
        for axes, one in zip(grid, maps.values(), strict=True):
            speakers, on_disc = np.array(one.speakers), one.edge is not None
            prototypes = one.places[speakers == ""]
            axes.plot(*prototypes.T, "+", color=GREY, **PROTOTYPE)
            for number, speaker in enumerate(sorted(set(one.speakers) - {""})):
                colour, _, marker = look(number)
                points = one.places[speakers == speaker]
                axes.plot(*points.T, marker, color=colour, **EMBEDDING)
            if one.edge is not None:
                for radius, dash in ((one.edge, "--"), (1.0, "-")):
                    axes.add_patch(Circle((0, 0), radius, fill=False, ls=dash))
                axes.plot(0, 0, ".", color="black", ms=3)
            far = 1.0 if on_disc else float(np.abs(one.places).max()) or 1.0
            limits = (-1.08 * far, 1.08 * far)
            unit = "disc coordinate" if on_disc else "angle (rad)"
            axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel=unit, ylabel=unit)
            axes.locator_params(axis="y", nbins=3, steps=[1, 2, 5, 10])
            axes.set_title(f"{axes.get_title()}\nstress {100 * one.stress:.0f} %")
        handles = [
            handle("embedding", BLUE, "", "o"),
            handle("prototype", GREY, "", "+"),
        ]
        if any(one.edge is not None for one in maps.values()):
            handles += [
                handle("edge of the clipped ball", "black", "--"),
                handle("edge of the disc (infinity)", "black"),
            ]
        legend_below(figure, handles, columns=2 if len(grid) < 3 else 0)


def plot_radii(
    systems: Mapping[str, tuple[np.ndarray, np.ndarray, float, float]], path: str | Path
) -> None:
    """A panel for each system: radii [C], confusabilities [C], Spearman's rho and p."""
    with panels(path, list(systems)) as (_, grid):
        for axes, one in zip(grid, systems.values(), strict=True):
            radii, confusable, rho, p = one
            axes.plot(confusable, radii, "o", color=BLUE, ms=3, alpha=0.6)
            chance = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
            axes.set_title(f"{axes.get_title()}\nSpearman {rho:+.2f} ({chance})")
        label_outer(
            grid, "confusability (distance)", "radius of the prototype\n(distance)"
        )
