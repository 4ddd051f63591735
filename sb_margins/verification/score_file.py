"""Score files: ours, and those of other toolkits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb_margins.data.tables import read_columns
from sb_margins.data.trials import LABELS, Trials, labels_of, refuse_contradictions
from sb_margins.errors import UserError
from sb_margins.files import write_text

# Positions of label and score, by the number of columns.
_ORDERS = {2: ((0, 1), (1, 0)), 4: ((2, 3), (3, 2), (0, 3))}


def write_scores(path: str | Path, trials: Trials, scores: np.ndarray) -> None:
    """Write ``label enrol test score`` lines (``enrol test score`` without labels).

    Nine significant digits: a float32 score survives the round trip.
    """
    rows = zip(trials.enrol, trials.test, scores.tolist(), strict=True)
    lines = [f"{e} {t} {s:.9g}\n" for e, t, s in rows]
    if trials.labels is not None:
        lines = [f"{x} {row}" for x, row in zip(trials.labels, lines, strict=True)]
    write_text(path, "".join(lines))


def read_scores(
    path: str | Path, key: Trials | None = None
) -> tuple[Trials, np.ndarray]:
    """Read a score file; its form is recognised. Returns trials and scores [N].

    Columns: ``enrol test label score`` (SpeechBrain), ``enrol test score label``
    (wespeaker) or ``label enrol test score`` (ours); ``enrol test score``, with labels
    from the ``key``, a labelled trial list; a label and a score, of trials without
    names. White space or commas between columns; a header is skipped. With a ``key``,
    its trials are returned, in its order.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no score file {path}")
    numbers, columns = read_columns(
        path,
        (2, 3, 4),
        "'enrol test label score' in any usual order, 'enrol test score' or 'label "
        "score'",
        commas=True,
        is_header=lambda words: not any(map(_is_number, words)),
    )
    if not columns:
        raise UserError(f"{path} has no scores")
    label_at, score_at = _columns(path, columns)
    scores = np.array(columns[score_at], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise UserError(
            f"{path}, line {numbers[bad[0]]}: the score is {scores[bad[0]]:g} (so are "
            f"{bad.size} of {len(scores)} NaN or infinite). A broken model or silent "
            "audio makes them: find the cause, do not drop them"
        )
    names = [c for at, c in enumerate(columns) if at not in (label_at, score_at)]
    enrol, test = map(list, names or [("",) * len(scores)] * 2)
    trials = Trials(enrol, test)
    if label_at is not None:
        trials.labels = labels_of(path, columns[label_at], numbers)
        if names:
            refuse_contradictions(path, trials, numbers)
    if key is not None:
        if not names:
            raise UserError(f"{path} names no trials, so --trials cannot be matched")
        return key, _matched(path, trials, scores, key, numbers)
    if trials.labels is None:
        raise UserError(
            f"{path} has no labels (enrol test score). Give the trial list that "
            "has them: --trials LIST"
        )
    return trials, scores


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _columns(path: Path, columns: list[tuple[str, ...]]) -> tuple[int | None, int]:
    """Which column is the label (None: none), and which the score."""
    width = len(columns)
    numbers = {i for i in range(width) if all(map(_is_number, columns[i]))}
    labels = {i for i in range(width) if {w.lower() for w in columns[i]} <= set(LABELS)}
    if width == 3 and 2 in numbers:
        return None, 2
    fits = [
        (label, score)
        for label, score in _ORDERS.get(width, ())
        if label in labels and score in numbers
    ]
    if len(fits) > 1:  # a score column has other numbers than 1 and 0
        fits = [(label, score) for label, score in fits if score not in labels]
    if len(fits) == 1:
        return fits[0]
    raise UserError(
        f"{path}: cannot tell the columns of '{' '.join(c[0] for c in columns)}'. "
        "Known forms: 'enrol test label score', 'enrol test score label', 'label enrol "
        "test score', 'enrol test score' (with --trials) and 'label score', with "
        "labels 1/0 or target/nontarget"
    )


def _matched(
    path: Path,
    trials: Trials,
    scores: np.ndarray,
    key: Trials,
    numbers: Sequence[int],
) -> np.ndarray:
    """The file's score of each trial of the key."""
    if key.labels is None:
        raise UserError("the list of --trials has no labels")
    row_of: dict[tuple[str, str], int] = {}
    for row, pair in enumerate(zip(trials.enrol, trials.test, strict=True)):
        first = row_of.setdefault(pair, row)
        if scores[first] != scores[row]:
            raise UserError(
                f"{path}, lines {numbers[first]} and {numbers[row]}: "
                f"'{' '.join(pair)}' has two scores"
            )
    wanted = list(zip(key.enrol, key.test, strict=True))
    lost = [pair for pair in wanted if pair not in row_of]
    if lost:
        raise UserError(
            f"{path} lacks {len(lost)} of the list's {len(key)} trials, the first: "
            f"{' '.join(lost[0])}"
        )
    rows = np.array([row_of[pair] for pair in wanted])
    if trials.labels is not None:
        wrong = np.flatnonzero(trials.labels[rows] != key.labels)
        if wrong.size:
            raise UserError(
                f"{path}, line {numbers[rows[wrong[0]]]}: the label of "
                f"'{' '.join(wanted[wrong[0]])}' is not that of --trials (so are "
                f"{wrong.size} labels)"
            )
    return scores[rows]
