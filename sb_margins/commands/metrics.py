"""``sb-margins metrics``: the figures of anybody's score files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tyro.conf import Positional

from sb_margins.commands.figures import FigureSettings
from sb_margins.commands.options import Files, parse
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError
from sb_margins.verification.bootstrap import paired_bootstrap
from sb_margins.verification.metrics import EER, standard_metrics
from sb_margins.verification.report import notes_on, print_table
from sb_margins.verification.score_file import read_scores
from sb_margins.versions import versions


@dataclass
class MetricsSettings(FigureSettings):
    """EER, minDCF and Cllr of score files, with intervals.

    With several files of the same trials: whether they differ from the first.
    """

    scores: Positional[Files]
    """Score files; NAME=FILE names one in the table."""
    trials: str | None = None
    """A trial list with the labels."""
    calibrated: bool = False
    """Scores are natural log-likelihood ratios: add Cllr and actual costs."""
    det: str | None = None
    """Draw DET curves to this PNG."""
    json: bool = False
    """Print JSON instead of the table."""


def main(argv: list[str]) -> int:
    """Print the figures of score files."""
    settings = parse(MetricsSettings, argv, "metrics")
    settings.check()
    key = read_trials(settings.trials) if settings.trials else None
    systems = {name: read_scores(path, key) for name, path in settings.scores.items()}
    if not systems:
        raise UserError("no score files. Give one or several FILE or NAME=FILE")
    rows = {
        name: settings.figures(scores, trials, settings.calibrated)
        for name, (trials, scores) in systems.items()
    }
    notes = notes_on(rows)
    if settings.bootstrap and not any("interval" in row for row in rows.values()):
        notes.insert(0, "no intervals: the file does not name its trials")
    notes += _differences(systems, rows, settings)
    if settings.json:
        content = {"scores": rows, "notes": notes, "versions": versions()}
        print(json.dumps(content, indent=2))
    else:
        metrics = standard_metrics(settings.p_target, calibrated=settings.calibrated)
        print_table(rows, metrics, first="scores")
        print("\n".join(notes))
    if settings.det:
        from sb_margins.plots.det import plot_det

        curves = {name: (scores, t.labels) for name, (t, scores) in systems.items()}
        plot_det(curves, settings.det, p_target=settings.p_target[0])
    return 0


def _differences(
    systems: dict[str, tuple[Trials, np.ndarray]],
    rows: dict[str, dict[str, Any]],
    settings: MetricsSettings,
) -> list[str]:
    """Whether the EERs of further files differ from the first's, on the same trials."""
    (first, (trials, base)), *others = systems.items()
    if not others or (speakers := settings.sides(trials)[0]) is None:
        return []
    lines = []
    for name, (its_trials, scores) in others:
        if (its_trials.enrol, its_trials.test) != (trials.enrol, trials.test):
            lines.append(f"{name}: not the same trials in the same order as {first}")
            continue
        found = paired_bootstrap(
            scores, base, trials.labels, speakers, **settings.resampling
        )
        rows[name][f"eer difference to {first}"] = asdict(found)
        differs = "differs" if found.significant else "does not differ"
        value, low, high = (
            EER.number(v, "+") for v in (found.value, found.low, found.high)
        )
        lines.append(
            f"EER of {name} {differs} from {first}: {value} points [{low}, {high}], "
            f"p = {found.p_value:.3f}"
        )
    return lines
