"""Hard trials: what a run that is not compared gets most wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sb_margins.comparison.measures import ADULT
from sb_margins.comparison.plan import Hard
from sb_margins.data.evaluation import TrialList
from sb_margins.errors import UserError


@dataclass
class HardList:
    """What a list of hard trials was chosen from, and how many there are."""

    base: str
    hard: Hard
    same: tuple[str, ...]
    targets: int = 0
    nontargets: int = 0

    def count(self, labels: np.ndarray) -> None:
        """Add the trials of a fold."""
        self.targets += int(labels.sum())
        self.nontargets += len(labels) - int(labels.sum())

    @property
    def note(self) -> str:
        """How it was chosen, in a sentence without a full stop."""
        alike = f" with equal {' and '.join(self.same)}" if self.same else ""
        return (
            f"the hardest {100 * self.hard.share:g} % of {self.base} for a run of "
            f"{self.hard.reference.label} that is not compared: {self.targets:,} "
            f"target trials, its lowest scores, and {self.nontargets:,} non-target "
            f"trials{alike}, its highest; they are in hard/{self.base}_hard*.txt with "
            "its scores. Errors are high by choice: only differences count"
        )


def known_columns(one: TrialList, hard: Hard) -> tuple[str, ...]:
    """The columns of ``hard.same`` that the list's manifest has."""
    return tuple(c for c in hard.same if any(u.meta.get(c) for u in one.manifest))


def check_columns(hard: Hard, lists: Iterable[TrialList]) -> None:
    """Refuse a column that no list has, before anything is trained."""
    known = {column for one in lists for column in known_columns(one, hard)}
    if strange := [column for column in hard.same if column not in known]:
        raise UserError(
            f"--hard-same {','.join(strange)}: no manifest of a list has such a column"
        )


def hardest(
    one: TrialList, scores: np.ndarray, share: float, same: tuple[str, ...]
) -> np.ndarray:
    """Which trials [N] are the share of the targets with the lowest scores [N], and of
    the non-targets whose sides are alike in the columns ``same`` with the highest."""
    keep = np.zeros(len(scores), bool)
    there = {1: one.labels == 1, 0: (one.labels == 0) & _alike(one, same)}
    for label, ranked in ((1, scores), (0, -scores)):
        rows = np.flatnonzero(there[label])
        if not len(rows):
            raise UserError(
                f"--hard-same {','.join(same)}: the list {one.split} has no non-target "
                "trials that are alike in these"
            )
        count = max(1, round(share * len(rows)))
        keep[rows[np.argsort(ranked[rows], kind="stable")[:count]]] = True
    return keep


def _alike(one: TrialList, columns: tuple[str, ...]) -> np.ndarray:
    """The trials [N] whose sides are known to be equal in columns of the manifest."""
    names, enrol, test = one.trials.numbered
    about = {u.id: u.meta for u in one.manifest}
    same = np.ones(len(enrol), bool)
    for column in columns:
        values = np.array([_group(column, about[n].get(column, "")) for n in names])
        same &= (values[enrol] == values[test]) & (values[enrol] != "")
    return same


def _group(column: str, value: str) -> str:
    """A value as it is; ages are of children or adults."""
    text = value.strip().lower()
    if column != "age":
        return text
    try:
        return "adult" if float(text) >= ADULT else "child"
    except ValueError:
        return ""
