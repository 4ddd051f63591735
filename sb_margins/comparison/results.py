"""Finished cells read back: scores, histories, settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.comparison.cells import finished_marker
from sb_margins.comparison.hard import HardList, hardest, known_columns
from sb_margins.comparison.plan import Cell, Hard, Plan, data_hash, list_hash
from sb_margins.comparison.statistics import Part
from sb_margins.comparison.variants import Variant
from sb_margins.data import Prepared
from sb_margins.data.evaluation import TrialList, own_lists
from sb_margins.data.splitting import DIVIDED
from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.training.log import History, Row
from sb_margins.training.settings import TrainingSettings
from sb_margins.verification.score_file import read_scores, write_scores

LAST = ", last epoch"  # a system's label at the end of training


@dataclass
class CellResult:
    """A finished run: its history, and its scores [N] of each trial list.

    ``scores`` are of the best epoch, ``last`` of the last one (none in older runs).
    """

    cell: Cell
    history: History
    scores: dict[str, np.ndarray]
    last: dict[str, np.ndarray]
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
    """A variant with its finished runs, in the order of the seeds and folds."""

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
        """The mean over runs of the best dev EER, which chooses between settings."""
        return float(np.mean(self.best("EER")))

    @property
    def typical(self) -> CellResult:
        """The run with the median dev EER (of the first fold), which is drawn."""
        fold = self.results[0].cell.fold
        same = [r for r in self.results if r.cell.fold == fold]
        ranked = sorted(same, key=lambda r: r.best.get("EER", 0.0))
        return ranked[(len(ranked) - 1) // 2]


@dataclass
class Fold:
    """The corpus as the runs on a fold see it (without folds: as all do), and lists.

    ``trials`` and ``sides`` (speakers of both sides of each trial) are by list, dev
    first. Lists that share speakers have the same ``stream``, and number their speakers
    alike, ``among`` so many.
    """

    prepared: Prepared
    lists: dict[str, TrialList]
    trials: dict[str, Trials] = field(default_factory=dict)
    sides: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    among: dict[str, int] = field(default_factory=dict)
    stream: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, others: Mapping[str, TrialList]) -> Fold:
        """From what ``prepare`` wrote, and the lists of ``--eval``."""
        prepared = Prepared.load(folder)
        fold = cls(prepared, own_lists(prepared) | dict(others))
        groups: list[tuple[list[str], dict[str, None]]] = []  # lists, their speakers
        for name in sorted(fold.lists, key=lambda name: name == "dev"):
            one = fold.lists[name]
            speakers = dict.fromkeys(one.speakers[u] for u in one.trials.numbered[0])
            joined = [group for group in groups if group[1].keys() & speakers.keys()]
            names = [*(n for group in joined for n in group[0]), name]
            for group in joined:
                groups.remove(group)
                speakers = group[1] | speakers
            groups.append((names, speakers))
        for stream, (names, speakers) in enumerate(groups):
            number = {speaker: k for k, speaker in enumerate(speakers)}
            for name in names:
                fold._add(name, fold.lists[name], number, stream)
        fold.trials = {name: fold.trials[name] for name in fold.lists}
        return fold

    def _add(
        self, name: str, one: TrialList, number: dict[str, int], stream: int
    ) -> None:
        names, enrol, test = one.trials.numbered
        of_name = np.array([number[one.speakers[n]] for n in names])
        self.trials[name] = one.trials
        self.sides[name] = of_name[enrol], of_name[test]
        self.among[name], self.stream[name] = len(number), stream

    def add_part(self, name: str, base: str, keep: np.ndarray) -> None:
        """The trials of a list at which ``keep`` [N] is true, as one more list."""
        one, two = self.sides[base]
        self.trials[name] = self.trials[base].subset(keep)
        self.sides[name] = one[keep], two[keep]
        self.among[name], self.stream[name] = self.among[base], self.stream[base]

    def labels(self, name: str) -> np.ndarray:
        """The labels [N] of a trial list."""
        labels = self.trials[name].labels
        assert labels is not None, "prepared lists have labels"
        return labels


@dataclass
class Comparison:
    """All that a report is made of.

    ``missing`` are the labels of unfinished cells; ``hard`` says what the lists of hard
    trials are.
    """

    plan: Plan
    folds: dict[str, Fold]
    systems: list[System]
    missing: list[str] = field(default_factory=list)
    hard: dict[str, HardList] = field(default_factory=dict)

    @property
    def prepared(self) -> Prepared:
        """The corpus, of the first fold."""
        return self.folds[self.plan.folds[0]].prepared

    def on_first_fold(self, system: System) -> list[CellResult]:
        """The runs whose test speakers are those of ``prepared``."""
        return [r for r in system.results if r.cell.fold == self.plan.folds[0]]

    @property
    def tests(self) -> list[str]:
        """The lists that are reported: all but dev, or dev when it is the only one."""
        lists = list(self.folds[self.plan.folds[0]].trials)
        return [name for name in lists if name != "dev"] or lists

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

    def named(self, name: str) -> System | None:
        """The chosen setting of a loss, or the system with that label; None: no run."""
        if name in self.losses:
            return self.chosen(name)
        return next((s for s in self.systems if s.label == name), None)

    @property
    def baseline(self) -> System:
        """The system that the others are compared with."""
        name = self.plan.baseline
        if (system := self.named(name)) is None:
            raise UserError(
                f"no run of the baseline '{name}' is finished: train it, or choose "
                "another --baseline"
            )
        return system

    @property
    def planned(self) -> list[tuple[str, str]]:
        """The contrasts that were asked for, as far as both systems have runs."""
        sides = ([self.named(n) for n in pair] for pair in self.plan.contrasts)
        pairs: dict[frozenset[str], tuple[str, str]] = {}  # ham:am is am:ham
        for one, two in sides:
            if one and two and one is not two:
                pair = one.label, two.label
                pairs.setdefault(frozenset(pair), pair)
        return list(pairs.values())

    @property
    def contrasts(self) -> list[tuple[str, str]]:
        """The other differences: every system against the baseline."""
        base, planned = self.baseline.label, {frozenset(p) for p in self.planned}
        pairs = [(s.label, base) for s in self.systems if s.label != base]
        return [pair for pair in pairs if frozenset(pair) not in planned]

    @property
    def common_runs(self) -> int:
        """The fewest runs that two systems of a contrast share."""
        runs = {s.label: {r.cell.run for r in s.results} for s in self.systems}
        pairs = self.planned + self.contrasts
        base = self.baseline.label
        return min(len(runs[a] & runs[b]) for a, b in pairs or [(base, base)])

    def parts(self, name: str) -> list[Part]:
        """The scores of a list, a part for each fold; one if all folds' runs share it.

        A system's scores of the last epoch are there as those of one more system.
        """
        parts: dict[str, Part] = {}
        for result in self.results():
            key = result.cell.fold if self.is_divided(name) else ""
            fold, label = self.folds[result.cell.fold], result.cell.variant.label
            draws = fold.among[name], fold.stream[name]
            part = Part({}, fold.labels(name), fold.sides[name], *draws)
            runs = parts.setdefault(key, part).runs
            runs.setdefault(label, {})[result.cell.run] = result.scores[name]
            if name in result.last:
                runs.setdefault(label + LAST, {})[result.cell.run] = result.last[name]
        return [parts[key] for key in sorted(parts)]

    def is_divided(self, name: str) -> bool:
        """Whether the runs on each fold have a list of their own of that name."""
        return (self.hard[name].base if name in self.hard else name) in DIVIDED

    def results(self) -> Iterable[CellResult]:
        return (result for system in self.systems for result in system.results)


def load(plan: Plan, others: Mapping[str, Mapping[str, TrialList]]) -> Comparison:
    """Read every finished cell of a plan; ``others``: the lists of --eval, by fold."""
    folds = {
        fold: Fold.load(plan.place(fold) / "data", others[fold]) for fold in plan.folds
    }
    data = {key: data_hash(fold.prepared) for key, fold in folds.items()}
    finished: dict[Variant, list[CellResult]] = {v: [] for v in plan.variants}
    missing, references = [], {}
    for cell in plan.references + plan.cells:
        marker = finished_marker(cell, plan, data[cell.fold])
        if marker is None:
            missing.append(cell.label)
            continue
        result = _read(cell, marker, folds[cell.fold].lists)
        if cell.seed in plan.seeds:
            finished[cell.variant].append(result)
        else:
            references[cell.fold] = result
    systems = [System(v, results) for v, results in finished.items() if results]
    if not systems:
        raise UserError(f"no run in {plan.output} is finished: nothing to report")
    comparison = Comparison(plan, folds, systems, missing)
    if plan.hard and references.keys() == folds.keys():
        _add_hard(comparison, plan.hard, references)
    return comparison


def _add_hard(
    comparison: Comparison, hard: Hard, references: Mapping[str, CellResult]
) -> None:
    """The hard trials of each list that is reported, as further lists."""
    plan, folds = comparison.plan, comparison.folds
    for base in comparison.tests:
        name = f"{base}_hard"
        if name in folds[plan.folds[0]].lists:
            raise UserError(f"{name} is a list already: rename it, or leave out --hard")
        same = known_columns(folds[plan.folds[0]].lists[base], hard)
        one = HardList(base, hard, same)
        for key, fold in folds.items():
            # A list that all folds share is chosen from once.
            first = key if base in DIVIDED else plan.folds[0]
            scores = references[first].scores[base]
            keep = hardest(fold.lists[base], scores, hard.share, same)
            fold.add_part(name, base, keep)
            if first == key:
                one.count(fold.labels(name))
                at = f"{name}-{key.replace('/', 'of')}" if key else name
                path = plan.output / "hard" / f"{at}.txt"
                write_scores(path, fold.trials[name], scores[keep])
            for result in comparison.results():
                if result.cell.fold == key:
                    for ends in (result.scores, result.last):
                        if base in ends:
                            ends[name] = ends[base][keep]
        comparison.hard[name] = one


def _read(
    cell: Cell, marker: dict[str, Any], lists: Mapping[str, TrialList]
) -> CellResult:
    run = json.loads((cell.folder / "run.json").read_text(encoding="utf-8"))
    best: dict[str, np.ndarray] = {}
    last: dict[str, np.ndarray] = {}
    for end, scores in (("", best), ("last_", last)):
        for name, one in lists.items():
            path = cell.folder / f"scores_{end}{name}.txt"
            if path.name not in marker["files"]:
                if end:
                    continue
                raise UserError(
                    f"{cell.label} has no scores of the list {name}. Without "
                    "--report-only they are made"
                )
            scored, scores[name] = read_scores(path)
            if (
                (scored.enrol, scored.test) != (one.trials.enrol, one.trials.test)
            ) or marker.get("lists", {}).get(name, list_hash(one)) != list_hash(one):
                raise UserError(
                    f"{path} scores other trials than those of the comparison: the "
                    "results cannot be compared. Delete its folder to train it again"
                )
    history = History(cell.folder / "history.csv")
    settings, versions = run["settings"], run["versions"]
    return CellResult(cell, history, best, last, settings, versions, marker)
