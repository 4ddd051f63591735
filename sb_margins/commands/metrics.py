"""``sb-margins metrics``: the figures of anybody's score files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tyro.conf import Positional

from sb_margins.commands.options import Files, Numbers, parse
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError
from sb_margins.verification.bootstrap import SEED, paired_bootstrap, speakers_of
from sb_margins.verification.metrics import EER, standard_metrics
from sb_margins.verification.report import figures, print_table
from sb_margins.verification.score_file import read_scores
from sb_margins.versions import versions


@dataclass
class MetricsSettings:
    """EER, minDCF and Cllr of score files, with intervals.

    With several files of the same trials: whether they differ from the first.
    """

    scores: Positional[Files]
    """Score files; NAME=FILE names one in the table."""
    trials: str | None = None
    """A trial list with the labels."""
    p_target: Numbers = field(default_factory=lambda: [0.01, 0.05])
    """Priors of the detection costs."""
    calibrated: bool = False
    """Scores are natural log-likelihood ratios: add Cllr and actual costs."""
    bootstrap: int = 1000
    """Replicates over speakers for the intervals; 0: none."""
    confidence: float = 0.95
    """Of the intervals."""
    seed: int = SEED
    """Of the bootstrap."""
    det: str | None = None
    """Draw DET curves to this PNG."""
    json: bool = False
    """Print JSON instead of the table."""


def main(argv: list[str]) -> int:
    """Print the figures of score files."""
    settings = parse(MetricsSettings, argv, "metrics")
    key = read_trials(settings.trials) if settings.trials else None
    systems = {name: read_scores(path, key) for name, path in settings.scores.items()}
    if not systems:
        raise UserError("no score files. Give one or several FILE or NAME=FILE")
    rows: dict[str, dict[str, Any]] = {}
    for name, (trials, scores) in systems.items():
        assert trials.labels is not None
        rows[name] = figures(
            scores,
            trials.labels,
            speakers=_sides(trials) if settings.bootstrap else None,
            p_targets=settings.p_target,
            calibrated=settings.calibrated,
            replicates=settings.bootstrap,
            confidence=settings.confidence,
            seed=settings.seed,
        )
    notes = _intervals(rows, settings) + _differences(systems, rows, settings)
    if settings.json:
        print(json.dumps({"scores": rows, "versions": versions()}, indent=2))
    else:
        metrics = standard_metrics(settings.p_target, calibrated=settings.calibrated)
        print_table(rows, metrics, first="scores")
        print("\n".join(notes))
    if settings.det:
        from sb_margins.plots.det import plot_det

        curves = {name: (scores, t.labels) for name, (t, scores) in systems.items()}
        plot_det(curves, settings.det, p_target=settings.p_target[0])
    return 0


def _sides(trials: Trials) -> tuple[np.ndarray, np.ndarray] | None:
    """The speakers of both sides, unless the file names no trials or one speaker."""
    if not any(trials.test):
        return None
    sides = speakers_of(trials)
    return sides if max(side.max() for side in sides) > 0 else None


def _intervals(rows: dict[str, dict[str, Any]], settings: MetricsSettings) -> list[str]:
    """What the intervals are."""
    kinds = sorted({row["interval"] for row in rows.values() if "interval" in row})
    if kinds:
        return [f"[low, high]: {'; '.join(kinds)}"]
    return ["no intervals: the file does not name its trials"] * bool(
        settings.bootstrap
    )


def _differences(
    systems: dict[str, tuple[Trials, np.ndarray]],
    rows: dict[str, dict[str, Any]],
    settings: MetricsSettings,
) -> list[str]:
    """Whether the EERs of further files differ from the first's, on the same trials."""
    (first, (trials, base)), *others = systems.items()
    sides = _sides(trials)
    if not settings.bootstrap or sides is None:
        return []
    lines = []
    for name, (its_trials, scores) in others:
        same = (its_trials.enrol, its_trials.test) == (trials.enrol, trials.test)
        if not same:
            lines.append(f"{name}: not the same trials in the same order as {first}")
            continue
        difference = paired_bootstrap(
            scores,
            base,
            trials.labels,
            sides,
            replicates=settings.bootstrap,
            confidence=settings.confidence,
            seed=settings.seed,
        )
        rows[name][f"eer difference to {first}"] = asdict(difference)
        differs = "differs" if difference.significant else "does not differ"
        value, low, high = (
            EER.number(v, "+")
            for v in (difference.value, difference.low, difference.high)
        )
        lines.append(
            f"EER of {name} {differs} from {first}: {value} points [{low}, {high}], "
            f"p = {difference.p_value:.3f}"
        )
    return lines
