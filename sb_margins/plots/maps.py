"""Pictures of embeddings: discs, planes, and prototype radius against confusability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sb_margins.plots.panels import ACROSS, _wrapped, grid_of
from sb_margins.plots.style import COLOURS, GREY, save

MARKERS = "os^DvP"


@dataclass
class Map:
    """One panel: where the embeddings of some speakers came to lie.

    Arguments
    ---------
    places : numpy.ndarray
        [N, 2].
    speakers : list of str
        [N]; the empty word for a prototype.
    stress : float
        Share of the distances that the picture gets wrong.
    edge : float or None
        Radius beyond which nothing can lie (the clipped ball); None in a plane.

    Example
    -------
    >>> Map(np.zeros((1, 2)), ["a"]).edge is None
    True
    """

    places: np.ndarray
    speakers: list[str] = field(default_factory=list)
    stress: float = 0.0
    edge: float | None = None


def plot_maps(maps: Mapping[str, Map], path: str | Path) -> None:
    """Draw a panel for each system to a PNG.

    Arguments
    ---------
    maps : mapping of str to Map
    path : str or Path
        The PNG file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "maps.png"
    >>> plot_maps({"ham": Map(np.zeros((2, 2)), ["a", ""], 0.1, 0.5)}, path)
    >>> path.is_file()
    True
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle

    fig, panels = grid_of(len(maps), sharey=False)
    fig.set_figheight(fig.get_figheight() * 1.25)
    every = zip(panels, maps.items(), strict=True)
    for place, (axes, (name, one)) in enumerate(every):
        speakers = np.array(one.speakers)
        protos = one.places[speakers == ""]
        axes.plot(*protos.T, "+", color=GREY, ms=4, mew=0.7, alpha=0.7, zorder=1)
        for number, speaker in enumerate(sorted(set(one.speakers) - {""})):
            axes.plot(
                *one.places[speakers == speaker].T,
                MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
                color=COLOURS[number % len(COLOURS)],
                ms=4.5,
                mec="white",
                mew=0.4,
                zorder=2,
            )
        far = float(np.abs(one.places).max()) or 1.0
        if one.edge is not None:
            far = 1.0
            for radius, dash in ((one.edge, "--"), (1.0, "-")):
                axes.add_patch(Circle((0, 0), radius, fill=False, ec="black", ls=dash))
            axes.plot(0, 0, ".", color="black", ms=3)
        axes.set(xlim=(-1.08 * far, 1.08 * far), ylim=(-1.08 * far, 1.08 * far))
        axes.set_aspect("equal")
        axes.tick_params(labelsize=7)
        unit = "disc coordinate" if one.edge is not None else "angle (rad)"
        axes.set_xlabel(unit, fontsize=8)
        if place % ACROSS == 0:
            axes.set_ylabel(unit, fontsize=8)
        told = f"{_wrapped(name)}\nstress {100 * one.stress:.0f} %"
        axes.set_title(told, fontsize=9)
    handles = [
        Line2D([], [], color=COLOURS[0], marker="o", ls="", ms=5, label="embedding"),
        Line2D([], [], color=GREY, marker="+", ls="", ms=6, label="prototype"),
    ]
    if any(one.edge is not None for one in maps.values()):
        handles += [
            Line2D([], [], color="black", ls="--", label="edge of the clipped ball"),
            Line2D([], [], color="black", label="edge of the disc (infinity)"),
        ]
    columns = 2 if fig.get_figwidth() < 6 else len(handles)
    fig.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
    )
    save(fig, path)


def plot_radii(
    systems: Mapping[str, tuple[np.ndarray, np.ndarray, float, float]],
    path: str | Path,
) -> None:
    """Draw prototype radius against confusability to a PNG, a panel a system.

    Arguments
    ---------
    systems : mapping of str to tuple
        Radii [C], confusabilities [C], Spearman's correlation, its p-value.
    path : str or Path
        The PNG file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "radii.png"
    >>> plot_radii({"ham": (np.ones(3), np.arange(3), 0.0, 1.0)}, path)
    >>> path.is_file()
    True
    """
    fig, panels = grid_of(len(systems), sharey=False)
    for number, (axes, (name, told)) in enumerate(
        zip(panels, systems.items(), strict=True)
    ):
        radii, confusable, rho, p = told
        axes.plot(confusable, radii, "o", color=COLOURS[0], ms=3, alpha=0.6)
        axes.set_title(f"{_wrapped(name)}\nSpearman {rho:+.2f} ({_p(p)})", fontsize=9)
        axes.set_xlabel("confusability (distance)", fontsize=8)
        axes.tick_params(labelsize=8)
        if number % ACROSS == 0:
            axes.set_ylabel("radius of the prototype\n(distance)", fontsize=8)
    save(fig, path)


def _p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def choose_points(
    speakers: Sequence[str], *, most_speakers: int = 10, most_each: int = 8
) -> list[int]:
    """Which utterances a map shows: a few of a few speakers, evenly from the list.

    Arguments
    ---------
    speakers : sequence of str
        [N], of each utterance.
    most_speakers, most_each : int

    Returns
    -------
    list of int
        Rows.

    Example
    -------
    >>> choose_points(["a", "a", "b", "b", "c"], most_speakers=2, most_each=1)
    [0, 4]
    """
    names = sorted(set(speakers))
    at = np.linspace(0, len(names) - 1, min(most_speakers, len(names))).round()
    kept = []
    for name in (names[int(i)] for i in at):
        kept += [row for row, s in enumerate(speakers) if s == name][:most_each]
    return kept
