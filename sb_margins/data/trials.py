"""Trial lists: the one reader and writer of who is compared with whom."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sb_margins.data.tables import read_columns, read_lines
from sb_margins.errors import UserError, listed, nearest
from sb_margins.files import read_text, write_text

if TYPE_CHECKING:
    from sb_margins.data.manifest import Utterance

LABELS = {
    **dict.fromkeys(("1", "target", "tgt", "true", "same"), 1),
    **dict.fromkeys(("0", "nontarget", "non-target", "non", "imp", "false"), 0),
    **dict.fromkeys(("impostor", "imposter", "different"), 0),
}
_COLUMNS = {
    "enrol": ("enrol", "enroll", "enrolment", "enrollment", "model", "modelid", "utt1"),
    "test": ("test", "segment", "segmentid", "utt2"),
    "label": ("label", "target", "labels", "same", "key", "is_target"),
}


@dataclass
class Trials:
    """Pairs to compare, in the list's order.

    ``labels`` [N] int8 is 1 for target trials (same speaker) and None when the list
    has no labels. ``models`` are the utterances of enrolled models; an enrolled name
    that is not in it is an utterance.
    """

    enrol: list[str]
    test: list[str]
    labels: np.ndarray | None = None
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[int, str, str]]) -> Trials:
        """From ``(label, enrol, test)`` rows."""
        rows = list(rows)
        labels = np.array([label for label, _, _ in rows], dtype=np.int8)
        return cls([e for _, e, _ in rows], [t for _, _, t in rows], labels)

    def __len__(self) -> int:
        return len(self.enrol)

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        """``(label, enrol, test)`` of each trial."""
        if self.labels is None:
            raise UserError("these trials have no labels")
        return zip(self.labels.tolist(), self.enrol, self.test, strict=True)

    @property
    def utterances(self) -> list[str]:
        """Every utterance that the trials need, sorted."""
        needed = set(self.test)
        for name in set(self.enrol):
            needed.update(self.models.get(name, (name,)))
        return sorted(needed)

    @cached_property
    def numbered(self) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The distinct names, sorted, and the number [N] of each side's name."""
        names = sorted({*self.enrol, *self.test})
        number = {name: i for i, name in enumerate(names)}
        # One call for both sides: half the time of a loop for 580,000 trials.
        both = itemgetter(*self.enrol, *self.test)(number) if names else ()
        enrol, test = np.array(both, np.int64).reshape(2, -1)
        return names, enrol, test

    def groups(self) -> tuple[list[str], np.ndarray]:
        """The distinct names, sorted, and a number [N] shared by one speaker's names.

        Names are one speaker's when target trials join them.
        """
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        if self.labels is None:
            raise UserError("trials without labels do not tell who is who")
        names, enrol, test = self.numbered
        same = self.labels == 1
        ones = np.ones(int(same.sum()), np.int8)
        joined = coo_matrix((ones, (enrol[same], test[same])), (len(names),) * 2)
        return names, connected_components(joined)[1].astype(np.int64)

    def renamed(self, name: Callable[[str], str]) -> Trials:
        """The trials under other names, from the list's name to the new one."""
        new = {old: name(old) for old in dict.fromkeys([*self.enrol, *self.test])}
        return Trials(
            [new[e] for e in self.enrol], [new[t] for t in self.test], self.labels
        )

    def subset(self, keep: np.ndarray) -> Trials:
        """The trials at which ``keep`` [N] is true."""
        at = np.flatnonzero(keep)
        return Trials(
            [self.enrol[i] for i in at],
            [self.test[i] for i in at],
            None if self.labels is None else self.labels[at],
            self.models,
        )

    def without(self, utterances: Collection[str]) -> Trials:
        """Without trials and models of some utterances; an empty model goes too."""
        gone = set(utterances)
        if not gone:
            return self
        models = {
            name: tuple(u for u in members if u not in gone)
            for name, members in self.models.items()
        }
        lost = {name for name, members in models.items() if not members}
        lost.update(u for u in gone if u not in models)
        keep = [
            e not in lost and t not in gone
            for e, t in zip(self.enrol, self.test, strict=True)
        ]
        fewer = self.subset(np.array(keep, dtype=bool))
        fewer.models = {name: members for name, members in models.items() if members}
        return fewer

    def check(self, known: Collection[str], where: str = "the data") -> None:
        """Raise one error that names all utterances that are not known."""
        needed, names = self.utterances, set(known)
        missing = [u for u in needed if u not in names]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(needed)} utterances of the trials are not in "
                f"{where}: {listed(missing)}"
            )


def read_trials(
    path: str | Path,
    *,
    enrolment: str | Path | None = None,
    labelled: bool = False,
) -> Trials:
    """Read a trial list; its form is recognised.

    Lines of three words have a label (1, 0, target, nontarget, tgt, imp, ...) first,
    as VoxCeleb's lists and ours, or last, as Kaldi's, CN-Celeb's ``trials.lst`` and
    SITW's ``core-core.lst``; lines of two words have no label (an error when
    ``labelled``). A ``.csv`` has a header with ``enrol`` (enroll, model, utt1),
    ``test`` (segment, utt2) and maybe ``label`` (target, key). ``enrolment`` is the
    file for ``read_models``.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no trial list {path}")
    is_csv = path.suffix.lower() == ".csv"
    if is_csv:
        numbers, columns = _csv_columns(path)
    else:
        numbers, columns = read_columns(
            path,
            (2, 3),
            "'label enrol test', 'enrol test label' or 'enrol test'. Names with spaces "
            "need a .csv with the columns label,enrol,test",
        )
    if not columns:
        raise UserError(f"{path} has no trials")
    label_at = None
    if len(columns) == 3:
        label_at = 2 if is_csv else _label_column(path, columns)
    elif labelled:
        raise UserError(f"{path} has no labels: expected 'label enrol test' lines")
    same: dict[str, str] = {}  # one string object per name: lists repeat names a lot
    enrol, test = (
        [same.setdefault(name, name) for name in column]
        for at, column in enumerate(columns)
        if at != label_at
    )
    trials = Trials(enrol, test, models=read_models(enrolment) if enrolment else {})
    if label_at is not None:
        trials.labels = labels_of(path, columns[label_at], numbers)
        refuse_contradictions(path, trials, numbers)
    return trials


def _csv_columns(path: Path) -> tuple[list[int], list[tuple[str, ...]]]:
    """Line numbers and the columns enrol, test (and label) of a table."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    header = [name.strip().lower() for name in next(reader, [])]
    found = [
        next((header.index(name) for name in names if name in header), None)
        for names in _COLUMNS.values()
    ]
    if found[0] is None or found[1] is None:
        raise UserError(
            f"{path}: its header is '{','.join(header)}'; a trial list needs the "
            "columns enrol and test (and label)"
        )
    numbers, rows = [], []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise UserError(
                f"{path}, line {reader.line_num}: {len(row)} fields, the header "
                f"has {len(header)}"
            )
        numbers.append(reader.line_num)
        rows.append([row[at] for at in found if at is not None])
    return numbers, list(zip(*rows, strict=True))


def _label_column(path: Path, columns: Sequence[Sequence[str]]) -> int:
    """The first or the last: the one with nothing but labels, else with any."""
    found = [
        at for at in (0, 2) if all(word.lower() in LABELS for word in columns[at])
    ] or [at for at in (0, 2) if any(word.lower() in LABELS for word in columns[at])]
    if len(found) != 1:
        raise UserError(
            f"{path}: cannot tell which column is the label (first line: "
            f"'{' '.join(column[0] for column in columns)}'). Use 'label enrol test' "
            "with labels 1 and 0"
        )
    return found[0]


def labels_of(path: Path, words: Sequence[str], numbers: Sequence[int]) -> np.ndarray:
    """[N] int8 of the words that stand in these lines."""
    value = {word: LABELS.get(word.lower(), -1) for word in set(words)}
    labels = np.fromiter(map(value.__getitem__, words), np.int8, len(words))
    if (labels < 0).any():
        first = int(np.argmax(labels < 0))
        raise UserError(
            f"{path}, line {numbers[first]}: '{words[first]}' is not a label. Use 1 or "
            "target, 0 or nontarget"
        )
    return labels


def refuse_contradictions(path: Path, trials: Trials, numbers: Sequence[int]) -> None:
    """The same pair twice is fine, with two labels it is not."""
    assert trials.labels is not None
    names, enrol, test = trials.numbered
    pair = enrol * len(names) + test
    order = np.argsort(pair, kind="stable")
    pair, labels = pair[order], trials.labels[order]
    at = np.flatnonzero((pair[1:] == pair[:-1]) & (labels[1:] != labels[:-1]))
    if at.size:
        one, two = order[at[0]], order[at[0] + 1]
        raise UserError(
            f"{path}, lines {numbers[one]} and {numbers[two]}: "
            f"'{trials.enrol[one]} {trials.test[one]}' is both target and non-target"
            + (f" (and {at.size - 1} more such pairs)" if at.size > 1 else "")
        )


def read_models(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Which utterances each enrolled model has.

    Lines ``model utterance [utterance ...]``, as Kaldi's spk2utt, CN-Celeb's
    ``enroll.lst`` and ``enroll.map`` and SITW's ``enroll-core.lst``; lines of one
    model are joined.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no enrolment list {path}")
    models: dict[str, list[str]] = {}
    for number, line in read_lines(path):
        model, *utterances = line.split()
        if not utterances:
            raise UserError(
                f"{path}, line {number}: expected 'model utterance ...', found '{line}'"
            )
        models.setdefault(model, []).extend(utterances)
    return {name: tuple(dict.fromkeys(members)) for name, members in models.items()}


def write_trials(path: str | Path, trials: Trials) -> None:
    """Write ``label enrol test`` lines (``enrol test`` without labels)."""
    labels = [] if trials.labels is None else [map(str, trials.labels.tolist())]
    rows = zip(*labels, trials.enrol, trials.test, strict=True)
    write_text(path, "".join(f"{' '.join(row)}\n" for row in rows))


def usable_trials(
    trials: Trials,
    split: str,
    known: Mapping[str, Utterance],
    left_out: Collection[str] = (),
    official: bool = False,
) -> Trials:
    """A split's trials without those of left-out utterances, checked.

    ``known`` are the split's utterances by ID, ``left_out`` the IDs of a corpus that
    are not used. ``official`` labels are believed rather than the manifest's speakers.
    Raises for unknown IDs, labels that contradict the speakers, and when targets or
    non-targets are missing.
    """
    names = dict.fromkeys(name for _, *pair in trials for name in pair)
    unknown = [name for name in names if name not in known and name not in left_out]
    if unknown:
        near = nearest(unknown[0], list(known)[:5000])
        raise UserError(
            f"the trials of '{split}' name {len(unknown)} utterances that are not "
            f"among its {len(known)}: {listed(unknown, 5)}.{near}"
        )
    kept = trials.subset(np.array([e in known and t in known for _, e, t in trials]))
    wrong = [
        (label, enrol, test)
        for label, enrol, test in kept
        if (known[enrol].spk_id == known[test].spk_id) != bool(label)
    ]
    if wrong and not official:
        label, enrol, test = wrong[0]
        raise UserError(
            f"{len(wrong)} trials of '{split}' contradict the manifest's speakers: "
            f"'{label} {enrol} {test}', but these are {known[enrol].spk_id} and "
            f"{known[test].spk_id} (1 = same speaker)"
        )
    for label, kind in ((1, "target (same speaker)"), (0, "non-target")):
        if label not in [value for value, _, _ in kept]:
            raise UserError(
                f"the trials of '{split}' have no {kind} pair that can be scored: the "
                f"split has {len(known)} utterances of "
                f"{len({u.spk_id for u in known.values()})} speakers"
            )
    return kept
