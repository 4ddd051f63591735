"""Finished cells read back: scores, histories, settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb_margins.comparison.cells import finished_marker
from sb_margins.comparison.plan import Cell, Plan, data_hash
from sb_margins.comparison.variants import Variant
from sb_margins.data import Prepared
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError
from sb_margins.training.log import History, Row
from sb_margins.training.settings import TrainingSettings
from sb_margins.verification.bootstrap import speakers_of
from sb_margins.verification.score_file import read_scores


@dataclass
class CellResult:
    """A finished run: its history, and its scores [N] of each trial list."""

    cell: Cell
    history: History
    scores: dict[str, np.ndarray]
    settings: dict[str, Any]  # from run.json
    versions: dict[str, str]
    marker: dict[str, Any]

    @property
    def minutes(self) -> float:
        """Of training and dev evaluations."""
        trained = [r for r in self.history.rows if r["epoch"] > 0]
        return sum(r.get("seconds", 0.0) for r in trained) / 60

    @property
    def best(self) -> Row:
        """The row of the epoch whose weights were evaluated."""
        return self.history.best or self.history.rows[-1]


@dataclass
class System:
    """A variant with its finished runs, in the order of the seeds."""

    variant: Variant
    results: list[CellResult]

    @property
    def label(self) -> str:
        return self.variant.label

    @property
    def settings(self) -> TrainingSettings:
        """Those of its runs, the seed aside."""
        return TrainingSettings.read(self.results[0].settings)

    def best(self, key: str) -> list[float]:
        """A figure of the epoch that was evaluated, of each run; NaN if unknown."""
        return [r.best.get(key, math.nan) for r in self.results]

    @property
    def dev_eer(self) -> float:
        """The mean over seeds of the best dev EER, which chooses between settings."""
        return float(np.mean(self.best("EER")))

    @property
    def typical(self) -> CellResult:
        """The run with the median dev EER, which is drawn."""
        ranked = sorted(self.results, key=lambda r: r.best.get("EER", 0.0))
        return ranked[(len(ranked) - 1) // 2]


@dataclass
class Comparison:
    """All that a report is made of.

    ``trials`` and ``sides`` (speakers of both sides of each trial) are by list, dev
    first; ``missing`` are the labels of unfinished cells.
    """

    plan: Plan
    prepared: Prepared
    systems: list[System]
    trials: dict[str, Trials]
    sides: dict[str, tuple[np.ndarray, np.ndarray]]
    missing: list[str] = field(default_factory=list)

    @property
    def tests(self) -> list[str]:
        """The lists that are reported: all but dev, or dev when it is the only one."""
        return [name for name in self.trials if name != "dev"] or list(self.trials)

    @property
    def losses(self) -> list[str]:
        return list(dict.fromkeys(s.variant.loss for s in self.systems))

    def settings_of(self, loss: str) -> list[System]:
        """The systems of a loss, one for each setting."""
        return [s for s in self.systems if s.variant.loss == loss]

    def chosen(self, loss: str) -> System:
        """The setting of a loss with the lowest mean dev EER (the first of equals)."""
        return min(
            self.settings_of(loss), key=lambda s: (math.isnan(s.dev_eer), s.dev_eer)
        )

    @property
    def baseline(self) -> System:
        """The system that the others are compared with."""
        name = self.plan.baseline
        if name in self.losses:
            return self.chosen(name)
        named = [system for system in self.systems if system.label == name]
        if not named:
            raise UserError(
                f"no run of the baseline '{name}' is finished: train it, or choose "
                "another --baseline"
            )
        return named[0]

    @property
    def contrasts(self) -> list[tuple[str, str]]:
        """The differences that are tested: every system against the baseline."""
        base = self.baseline.label
        return [(s.label, base) for s in self.systems if s.label != base]

    @property
    def common_runs(self) -> int:
        """The fewest runs that a system shares with the baseline."""
        seeds = [{r.cell.seed for r in s.results} for s in self.systems]
        base = {r.cell.seed for r in self.baseline.results}
        return min(len(base & one) for one in seeds)

    def labels(self, name: str) -> np.ndarray:
        """The labels [N] of a trial list."""
        labels = self.trials[name].labels
        assert labels is not None, "prepared lists have labels"
        return labels

    def runs(self, name: str) -> dict[str, dict[int, np.ndarray]]:
        """The scores of a trial list, by system and seed."""
        return {
            s.label: {r.cell.seed: r.scores[name] for r in s.results}
            for s in self.systems
        }

    def results(self) -> Iterable[CellResult]:
        return (result for system in self.systems for result in system.results)


def load(plan: Plan) -> Comparison:
    """Read every finished cell of a plan."""
    prepared = Prepared.load(plan.output / "data")
    data = data_hash(prepared)
    trials, sides = {}, {}
    for split in prepared.splits[1:]:
        if prepared.has_trials(split):
            trials[split] = read_trials(prepared.trials(split))
            speakers = {u.id: u.spk_id for u in prepared.manifest(split)}
            sides[split] = speakers_of(trials[split], speakers)
    finished: dict[Variant, list[CellResult]] = {v: [] for v in plan.variants}
    missing = []
    for cell in plan.cells:
        marker = finished_marker(cell, plan, data)
        if marker is None:
            missing.append(cell.label)
        else:
            finished[cell.variant].append(_read(cell, marker, trials))
    systems = [System(v, results) for v, results in finished.items() if results]
    if not systems:
        raise UserError(f"no run in {plan.output} is finished: nothing to report")
    return Comparison(plan, prepared, systems, trials, sides, missing)


def _read(cell: Cell, marker: dict[str, Any], trials: dict[str, Trials]) -> CellResult:
    run = json.loads((cell.folder / "run.json").read_text(encoding="utf-8"))
    scores = {}
    for name, expected in trials.items():
        path = cell.folder / f"scores_{name}.txt"
        if not path.is_file():
            raise UserError(f"{cell.label} has no scores of the list {name}")
        scored, scores[name] = read_scores(path)
        if scored.enrol != expected.enrol or scored.test != expected.test:
            raise UserError(
                f"{path} scores other trials than those of the comparison: the results "
                "cannot be compared. Delete its folder to train it again"
            )
    history = History(cell.folder / "history.csv")
    return CellResult(cell, history, scores, run["settings"], run["versions"], marker)
