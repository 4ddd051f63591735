"""Trial lists in the forms that corpora ship, and enrolment of several utterances."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sb_margins.errors import UserError, listed

LABELS = {
    **dict.fromkeys(("1", "target", "tgt", "true", "same"), 1),
    **dict.fromkeys(("0", "nontarget", "non-target", "non", "imp", "false"), 0),
    **dict.fromkeys(("impostor", "imposter", "different"), 0),
}
_COLUMNS = {
    "label": ("label", "target", "labels", "same", "key", "is_target"),
    "enrol": ("enrol", "enroll", "enrolment", "enrollment", "model", "modelid", "utt1"),
    "test": ("test", "segment", "segmentid", "utt2"),
}


@dataclass
class Trials:
    """Pairs to score, in the list's order.

    Arguments
    ---------
    enrol : list of str
        The enrolled side of each trial: an utterance, or a model of ``models``.
    test : list of str
        The test utterance of each trial.
    labels : numpy.ndarray or None
        [N] int8, 1 for target trials; None when the list tells no labels.
    models : mapping of str to tuple of str
        The utterances of enrolled models; a name that is not in it is an utterance.

    Example
    -------
    >>> trials = Trials(["m", "a"], ["c", "c"], np.array([1, 0]), {"m": ("a", "b")})
    >>> len(trials), trials.utterances
    (2, ['a', 'b', 'c'])
    """

    enrol: list[str]
    test: list[str]
    labels: np.ndarray | None = None
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.enrol)

    @property
    def utterances(self) -> list[str]:
        """Every utterance that the trials need, sorted."""
        needed = set(self.test)
        for name in set(self.enrol):
            needed.update(self.models.get(name, (name,)))
        return sorted(needed)

    def subset(self, keep: np.ndarray) -> Trials:
        """The trials at which ``keep`` [N] is true.

        Example
        -------
        >>> Trials(["a", "b"], ["c", "d"]).subset(np.array([False, True])).enrol
        ['b']
        """
        at = np.flatnonzero(keep)
        return Trials(
            [self.enrol[i] for i in at],
            [self.test[i] for i in at],
            None if self.labels is None else self.labels[at],
            self.models,
        )

    def without(self, utterances: Collection[str]) -> Trials:
        """Trials and models without some utterances; a model left empty goes too.

        Example
        -------
        >>> Trials(["a", "b"], ["c", "d"]).without({"d"}).test
        ['c']
        """
        gone = set(utterances)
        if not gone:
            return self
        models = {
            name: tuple(u for u in members if u not in gone)
            for name, members in self.models.items()
        }
        lost = {n for n, left in models.items() if not left}
        lost.update(u for u in gone if u not in models)
        keep = [
            e not in lost and t not in gone
            for e, t in zip(self.enrol, self.test, strict=True)
        ]
        fewer = self.subset(np.array(keep, dtype=bool))
        fewer.models = {name: left for name, left in models.items() if left}
        return fewer

    def check(self, known: Collection[str], where: str = "the data") -> None:
        """Raise one error that names all utterances that are not known.

        Arguments
        ---------
        known : collection of str
            Utterances that there are.
        where : str
            What they are, for the message.

        Raises
        ------
        UserError
            When the trials need others.

        Example
        -------
        >>> Trials(["a"], ["b"]).check({"a"}, "a.csv")
        Traceback (most recent call last):
        ...
        sb_margins.errors.UserError: 1 of 2 utterances ... are not in a.csv: b
        """
        needed, names = self.utterances, set(known)
        missing = [u for u in needed if u not in names]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(needed)} utterances of the trials are not in "
                f"{where}: {listed(missing)}"
            )


def read_trials(path: str | Path, *, enrolment: str | Path | None = None) -> Trials:
    """Read a trial list; its form is recognised.

    Lines of three words hold a label (1, 0, target, nontarget, tgt, imp, ...) first,
    as VoxCeleb's lists and ours, or last, as Kaldi's, CN-Celeb's ``trials.lst`` and
    SITW's ``core-core.lst``; lines of two words hold no label. A ``.csv`` has a header
    with ``enrol`` (enroll, model, utt1), ``test`` (segment, utt2) and maybe ``label``
    (target, key).

    Arguments
    ---------
    path : str or Path
        The list.
    enrolment : str or Path, optional
        Which utterances each enrolled model has: lines ``model utterance ...``
        (Kaldi's spk2utt, CN-Celeb's ``enroll.lst``/``enroll.map``, SITW's
        ``enroll-core.lst``); a model may have several lines.

    Returns
    -------
    Trials

    Raises
    ------
    UserError
        When a line is not of the list's form, a label is unknown, or the list is
        empty.

    Example
    -------
    >>> path = getfixture("tmp_path") / "veri_test2.txt"
    >>> _ = path.write_text("1 id1/x/1.wav id1/y/2.wav\\n0 id1/x/1.wav id2/z/3.wav\\n")
    >>> trials = read_trials(path)
    >>> trials.enrol[0], trials.test[1], trials.labels.tolist()
    ('id1/x/1.wav', 'id2/z/3.wav', [1, 0])
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no trial list {path}")
    if path.suffix.lower() == ".csv":
        rows, label_at = _csv_rows(path)
    else:
        rows = list(_lines(path))
        label_at = _label_column(path, rows)
    if not rows:
        raise UserError(f"{path} holds no trials")
    sides = [i for i in range(len(rows[0][1])) if i != label_at]
    same: dict[str, str] = {}  # one string object per name: lists repeat names a lot
    enrol = [same.setdefault(w[sides[0]], w[sides[0]]) for _, w in rows]
    test = [same.setdefault(w[sides[1]], w[sides[1]]) for _, w in rows]
    labels = None
    if label_at is not None:
        values = [LABELS.get(words[label_at].lower(), -1) for _, words in rows]
        labels = np.array(values, dtype=np.int8)
        if (labels < 0).any():
            number, words = rows[int(np.argmax(labels < 0))]
            raise UserError(
                f"{path}, line {number}: '{words[label_at]}' is no label. Use 1 or "
                "target, 0 or nontarget"
            )
    return Trials(enrol, test, labels, read_models(enrolment) if enrolment else {})


def _lines(path: Path) -> Iterable[tuple[int, list[str]]]:
    width = 0
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            words = line.split()
            if not words:
                continue
            width = width or len(words)
            if len(words) != width or width not in (2, 3):
                raise UserError(
                    f"{path}, line {number}: expected 'label enrol test', 'enrol test "
                    f"label' or 'enrol test', found '{line.strip()[:80]}'. Names with "
                    "spaces need a .csv with the columns label,enrol,test"
                )
            yield number, words


def _label_column(path: Path, rows: list[tuple[int, list[str]]]) -> int | None:
    if not rows or len(rows[0][1]) == 2:
        return None
    found = [
        at for at in (0, 2) if sum(words[at].lower() in LABELS for _, words in rows)
    ]
    if len(found) == 2:  # names that look like labels: the column that always is one
        found = [
            at for at in (0, 2) if all(words[at].lower() in LABELS for _, words in rows)
        ]
    if len(found) != 1:
        raise UserError(
            f"{path}: cannot tell which column is the label (first line: "
            f"'{' '.join(rows[0][1])}'). Use 'label enrol test' with labels 1 and 0"
        )
    return found[0]


def _csv_rows(path: Path) -> tuple[list[tuple[int, list[str]]], int | None]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        header = [name.strip().lower() for name in next(reader, [])]
        at = {
            want: next((header.index(n) for n in names if n in header), None)
            for want, names in _COLUMNS.items()
        }
        enrol, test, label = at["enrol"], at["test"], at["label"]
        if enrol is None or test is None:
            raise UserError(
                f"{path}: its header is '{','.join(header)}'; a trial list needs the "
                "columns enrol and test (and label)"
            )
        rows = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} fields, the header "
                    f"has {len(header)}"
                )
            words = [row[enrol], row[test]]
            rows.append(
                (reader.line_num, words + ([row[label]] if label is not None else []))
            )
    return rows, None if label is None else 2


def read_models(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read which utterances each enrolled model has.

    Arguments
    ---------
    path : str or Path
        Lines ``model utterance [utterance ...]``; lines of one model are joined.

    Returns
    -------
    dict of str to tuple of str

    Raises
    ------
    UserError
        When the file is missing or a line has no utterance.

    Example
    -------
    >>> path = getfixture("tmp_path") / "spk2utt"
    >>> _ = path.write_text("m1 a b\\nm2 c\\nm1 d\\n")
    >>> read_models(path)
    {'m1': ('a', 'b', 'd'), 'm2': ('c',)}
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no enrolment list {path}")
    models: dict[str, list[str]] = {}
    text = path.read_text(encoding="utf-8-sig")
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if len(words) == 1:
            raise UserError(
                f"{path}, line {number}: expected 'model utterance ...', found "
                f"'{line.strip()}'"
            )
        if words:
            models.setdefault(words[0], []).extend(words[1:])
    return {name: tuple(dict.fromkeys(members)) for name, members in models.items()}


def write_trials(path: str | Path, trials: Trials) -> None:
    """Write ``label enrol test`` lines (``enrol test`` without labels).

    Arguments
    ---------
    path : str or Path
    trials : Trials

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> write_trials(path, Trials(["a"], ["b"], np.array([1])))
    >>> path.read_text()
    '1 a b\\n'
    """
    pairs = zip(trials.enrol, trials.test, strict=True)
    lines = [f"{e} {t}\n" for e, t in pairs]
    if trials.labels is not None:
        lines = [f"{x} {row}" for x, row in zip(trials.labels, lines, strict=True)]
    write_text(path, "".join(lines))


def write_scores(path: str | Path, trials: Trials, scores: np.ndarray) -> None:
    """Write ``label enrol test score`` lines (``enrol test score`` without labels).

    Nine significant digits: a float32 score survives the round trip.

    Arguments
    ---------
    path : str or Path
    trials : Trials
    scores : numpy.ndarray
        [N].

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> write_scores(path, Trials(["a"], ["b"], np.array([1])), np.array([0.25]))
    >>> path.read_text()
    '1 a b 0.25\\n'
    """
    rows = zip(trials.enrol, trials.test, scores.tolist(), strict=True)
    lines = [f"{e} {t} {s:.9g}\n" for e, t, s in rows]
    if trials.labels is not None:
        lines = [f"{x} {row}" for x, row in zip(trials.labels, lines, strict=True)]
    write_text(path, "".join(lines))


def write_text(path: str | Path, text: str) -> None:
    """Write a file in one step: readers see the old one or the new one.

    Example
    -------
    >>> path = Path(getfixture("tmpdir")) / "trials.txt"
    >>> write_text(path, "1 a b\\n")
    >>> path.read_text()
    '1 a b\\n'
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
