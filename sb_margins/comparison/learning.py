"""What the histories tell: how soon a dev EER is reached, whether the loss tells it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb_margins.comparison.geometry import mean_and_spread
from sb_margins.comparison.results import CellResult, Comparison, System
from sb_margins.training.log import Row
from sb_margins.training.settings import TrainingSettings

Histories = dict[str, dict[Any, list[Row]]]  # by system, then by run: fold and seed
FEWEST_EPOCHS = 4  # for a rank correlation


def read_histories(comparison: Comparison) -> Histories:
    """The rows of every run, with what was done since its beginning.

    Besides the columns of ``history.csv``: ``samples``, ``minutes``, ``updates`` (where
    an older run did not count them: as without adaptive accumulation) and ``window``,
    the batches of an update of that epoch.
    """
    utterances = {
        name: len(fold.prepared.manifest("train"))
        for name, fold in comparison.folds.items()
    }
    return {
        system.label: {
            result.cell.run: _counted(result, utterances[result.cell.fold])
            for result in system.results
        }
        for system in comparison.systems
    }


def _counted(result: CellResult, utterances: int) -> list[Row]:
    settings = TrainingSettings.read(result.settings)
    batches = utterances * settings.crops_per_utterance // settings.batch_size
    factor = result.settings.get("grad_accumulation_factor") or 1
    rows, minutes, before = [], 0.0, 0.0
    for row in result.history.rows:
        if row["epoch"] > 0:
            minutes += row.get("seconds", 0.0) / 60
            updates = row.get("updates", row["epoch"] * -(-batches // factor))
            samples = row["epoch"] * batches * settings.batch_size
            row = {**row, "samples": samples, "minutes": minutes, "updates": updates}
            if updates > before:  # else all were skipped
                row["window"] = batches / (updates - before)
            before = updates
        for key, of in (("kept", max), ("zero_loss", min)):  # of a joint loss's parts
            if parts := [v for k, v in row.items() if k.endswith(f".{key}")]:
                row = {**row, key: of(parts)}
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Speed:
    """Of each run that all systems have: the lowest dev EER that all of them reach.

    ``reached`` has each system's first row with it, run by run.
    """

    targets: list[float]
    reached: dict[str, list[Row]]


def speed(histories: Histories) -> Speed | None:
    """How soon every system is as good as the worst one becomes; None without EERs."""
    judged = {
        label: {
            run: [row for row in rows if row["epoch"] > 0 and "EER" in row]
            for run, rows in runs.items()
        }
        for label, runs in histories.items()
    }
    several = list(judged.values())
    common = [run for run in several[0] if all(runs.get(run) for runs in several)]
    targets = [
        max(min(r["EER"] for r in runs[run]) for runs in several) for run in common
    ]
    reached = {
        label: [
            next(row for row in runs[run] if row["EER"] <= target)
            for run, target in zip(common, targets, strict=True)
        ]
        for label, runs in judged.items()
    }
    return Speed(targets, reached) if common else None


def speed_table(found: Speed) -> dict[str, Any]:
    """What the template shows: means over runs, their standard deviation."""
    forms = {"epoch": ".1f", "updates": ",.0f", "samples": ",.0f", "minutes": ".1f"}
    heads = ["epochs", "updates", "samples", "minutes"]
    rows = [
        [label, *(mean_and_spread([r[k] for r in rows], f) for k, f in forms.items())]
        for label, rows in found.reached.items()
    ]
    return {
        "head": ["system", *(f"{head} ± sd" for head in heads)],
        "rows": rows,
        "target": mean_and_spread([100 * t for t in found.targets], ".2f"),
        "runs": len(found.targets),
    }


def loss_and_eer(system: System, runs: dict[Any, list[Row]]) -> list[float]:
    """Spearman's correlation over epochs of training loss and dev EER, of each run.

    Epochs count whose batches all had the full margin; NaN for fewer than four.
    """
    return [_spearman(rows, system.settings.margin_end_epoch) for rows in runs.values()]


def _spearman(rows: Sequence[Row], full: float) -> float:
    from scipy.stats import spearmanr

    both = [
        (row["loss"], row["EER"])
        for row in rows
        if row["epoch"] >= full + 1 and "loss" in row and "EER" in row
    ]
    values = np.array(both).reshape(-1, 2)
    if len(values) < FEWEST_EPOCHS or (values == values[0]).all(0).any():
        return math.nan
    return float(spearmanr(values[:, 0], values[:, 1]).statistic)
