"""Finished cells, read back: scores, histories, versions."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb_margins.comparison.cells import finished
from sb_margins.comparison.plan import Cell, Plan, data_fingerprint
from sb_margins.comparison.variants import Variant
from sb_margins.data import Prepared
from sb_margins.data.trials import Trials, read_trials
from sb_margins.errors import UserError
from sb_margins.training.history import History, Row
from sb_margins.verification.bootstrap import speakers_of
from sb_margins.verification.score_file import read_scores


@dataclass
class CellResult:
    """What one training gave.

    Arguments
    ---------
    cell : Cell
    rows : list of dict
        Its history.
    scores : dict of str to numpy.ndarray
        [N] of each trial list.
    settings, versions, marker : dict
        From ``run.json`` and ``finished.json``.

    Example
    -------
    >>> rows = [{"epoch": 1, "EER": 0.3, "seconds": 60}, {"epoch": 2, "EER": 0.2}]
    >>> cell: Any = None
    >>> result = CellResult(cell, rows, {}, {}, {}, {})
    >>> result.best["epoch"], result.minutes
    (2, 1.0)
    """

    cell: Cell
    rows: list[Row]
    scores: dict[str, np.ndarray]
    settings: dict[str, Any]
    versions: dict[str, str]
    marker: dict[str, Any]

    @property
    def minutes(self) -> float:
        """Of training and dev evaluations."""
        return sum(r.get("seconds", 0.0) for r in self.rows if r["epoch"] > 0) / 60

    @property
    def best(self) -> Row:
        """The row of the epoch whose weights were evaluated."""
        trained = [r for r in self.rows if r["epoch"] > 0]
        if not any("EER" in r for r in trained):
            return trained[-1]
        return min((r for r in trained if "EER" in r), key=lambda r: r["EER"])


@dataclass
class System:
    """A variant with its seeds.

    Arguments
    ---------
    variant : Variant
    results : list of CellResult
        In the order of the seeds.

    Example
    -------
    >>> System(Variant("am"), []).variant.label
    'am'
    """

    variant: Variant
    results: list[CellResult]

    @property
    def dev_eer(self) -> float:
        """Mean over seeds of the best dev EER; what chooses between settings."""
        found = [r.best.get("EER", float("nan")) for r in self.results]
        return float(np.mean(found))

    @property
    def typical(self) -> CellResult:
        """The seed in the middle by dev EER: the one that pictures show."""
        ranked = sorted(self.results, key=lambda r: r.best.get("EER", 0.0))
        return ranked[(len(ranked) - 1) // 2]


@dataclass
class Comparison:
    """All that a report is made of.

    Arguments
    ---------
    plan : Plan
    prepared : Prepared
    systems : list of System
        Those with at least one finished cell.
    trials : dict of str to Trials
        By list; dev first.
    sides : dict of str to pair of numpy.ndarray
        Speakers of both sides of each trial.
    missing : list of str
        Cells that are not finished.

    Example
    -------
    >>> nothing: Any = None
    >>> Comparison(nothing, nothing, [], {"dev": nothing, "test": nothing}, {}).tests
    ['test']
    """

    plan: Plan
    prepared: Prepared
    systems: list[System]
    trials: dict[str, Trials]
    sides: dict[str, tuple[np.ndarray, np.ndarray]]
    missing: list[str] = field(default_factory=list)

    @property
    def tests(self) -> list[str]:
        """The lists that are reported: all but dev (dev when there is no other)."""
        return [name for name in self.trials if name != "dev"] or list(self.trials)

    def chosen(self, loss: str) -> System:
        """The setting of a loss with the lowest mean dev EER (the first of equals)."""
        own = [s for s in self.systems if s.variant.loss == loss]
        return min(own, key=lambda s: (np.isnan(s.dev_eer), s.dev_eer))

    @property
    def losses(self) -> list[str]:
        """Losses in order."""
        return list(dict.fromkeys(s.variant.loss for s in self.systems))

    @property
    def baseline(self) -> System:
        """What the others are compared with."""
        name = self.plan.baseline
        for system in self.systems:
            if system.variant.label == name and name not in self.losses:
                return system
        if name not in self.losses:
            raise UserError(
                f"no cell of the baseline '{name}' is finished: train it, or choose "
                "another --baseline"
            )
        return self.chosen(name)


def load(plan: Plan) -> Comparison:
    """Read every finished cell of a plan.

    Arguments
    ---------
    plan : Plan

    Returns
    -------
    Comparison

    Raises
    ------
    UserError
        When no cell is finished, or some are of other data or settings.

    Example
    -------
    >>> from pathlib import Path
    >>> load(Plan(Path("t.yaml"), [], [], [1], Path("nowhere"), "am"))
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: nowhere... is not a prepared folder ...
    """
    prepared = Prepared.load(plan.output / "data")
    data = data_fingerprint(prepared)
    trials, sides = {}, {}
    for split in prepared.splits[1:]:
        if prepared.has_trials(split):
            trials[split] = read_trials(prepared.trials(split))
            speakers = {u.id: u.spk_id for u in prepared.manifest(split)}
            sides[split] = speakers_of(trials[split], speakers)
    found: dict[Variant, list[CellResult]] = {v: [] for v in plan.variants}
    missing = []
    for cell in plan.cells:
        marker = finished(cell, plan, data)
        if marker is None:
            missing.append(cell.label)
        else:
            found[cell.variant].append(_read(cell, marker, trials))
    systems = [System(v, results) for v, results in found.items() if results]
    if not systems:
        raise UserError(f"no training in {plan.output} is finished: nothing to report")
    return Comparison(plan, prepared, systems, trials, sides, missing)


def _read(cell: Cell, marker: dict[str, Any], trials: dict[str, Trials]) -> CellResult:
    run = json.loads((cell.folder / "run.json").read_text(encoding="utf-8"))
    scores = {}
    for name, asked in trials.items():
        path = cell.folder / f"scores_{name}.txt"
        if not path.is_file():
            raise UserError(f"{cell.label} has no scores of the list {name}")
        told, values = read_scores(path)
        if told.enrol != asked.enrol or told.test != asked.test:
            raise UserError(
                f"{path} scores other trials than the others: such figures cannot "
                "stand in one table"
            )
        scores[name] = values
    rows = History(cell.folder / "history.csv").rows
    return CellResult(cell, rows, scores, run["settings"], run["versions"], marker)
