"""Reads the trial lists that come with a corpus, and checks them against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sb_margins.data.manifest import Utterance
from sb_margins.data.splitting import Trial
from sb_margins.errors import UserError, nearest

_LABELS = {"1": 1, "0": 0, "target": 1, "nontarget": 0, "tgt": 1, "imp": 0, "non": 0}


def read_list(
    path: Path,
    order: Sequence[int] = (0, 1, 2),
    name: Callable[[str], str] = str,
) -> list[Trial]:
    """Read ``label enrol test`` lines (or another order of the three).

    Arguments
    ---------
    path : Path
    order : sequence of int
        Which columns are the label, the enrolment and the test side.
    name : callable
        From the name in the list to the manifest's ID.

    Returns
    -------
    list of (int, str, str)

    Raises
    ------
    UserError
        When a line is not of that form.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> _ = path.write_text("a b target\\n")
    >>> read_list(path, order=(2, 0, 1))
    [(1, 'a', 'b')]
    """
    if not path.is_file():
        raise UserError(f"no trial list {path}")
    trials = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        label = _LABELS.get(words[order[0]].lower()) if len(words) == 3 else None
        if label is None:
            raise UserError(
                f"{path}, line {number}: expected 'label enrol test' with the label "
                f"in column {order[0] + 1} (1 or target, 0 or nontarget), "
                f"found '{line.strip()[:80]}'"
            )
        trials.append((label, name(words[order[1]]), name(words[order[2]])))
    if not trials:
        raise UserError(f"{path} holds no trials")
    return trials


def checked(
    trials: Sequence[Trial],
    split: str,
    known: Mapping[str, Utterance],
    left_out: Mapping[str, str],
    official: bool = False,
) -> tuple[list[Trial], int]:
    """Trials without those of left-out files, or an error for what cannot be.

    Arguments
    ---------
    trials : sequence of (int, str, str)
    split : str
        For messages.
    known : mapping of str to Utterance
        The split's utterances by ID.
    left_out : mapping of str to str
        IDs that the corpus has but that are not used, and why.
    official : bool
        Whether to believe the labels rather than the manifest's speakers.

    Returns
    -------
    tuple of list and int
        The trials that can be scored, and how many cannot.

    Raises
    ------
    UserError
        For unknown IDs, labels that contradict the speakers, or when targets or
        non-targets are missing.

    Example
    -------
    >>> known = {k: Utterance(k, k, 1.0, k[0], 16000) for k in ("a1", "a2", "b1")}
    >>> checked(
    ...     [(1, "a1", "a2"), (0, "a1", "b1"), (0, "a1", "c1")],
    ...     "dev",
    ...     known,
    ...     {"c1": "too short"},
    ... )
    ([(1, 'a1', 'a2'), (0, 'a1', 'b1')], 1)
    """
    kept, strange, wrong = [], {}, []
    for trial in trials:
        label, enrol, test = trial
        outside = [name for name in (enrol, test) if name not in known]
        if outside:
            strange.update(dict.fromkeys(n for n in outside if n not in left_out))
        elif not official and (known[enrol].spk_id == known[test].spk_id) != bool(
            label
        ):
            wrong.append(trial)
        else:
            kept.append(trial)
    if strange:
        near = nearest(next(iter(strange)), list(known)[:5000])
        raise UserError(
            f"the trials of '{split}' name {len(strange)} utterances that are not "
            f"among its {len(known)}: {', '.join(list(strange)[:5])}"
            f"{', ...' if len(strange) > 5 else ''}.{near}"
        )
    if wrong:
        label, enrol, test = wrong[0]
        raise UserError(
            f"{len(wrong)} trials of '{split}' contradict the manifest's speakers: "
            f"'{label} {enrol} {test}', but these are {known[enrol].spk_id} and "
            f"{known[test].spk_id} (1 = same speaker)"
        )
    for label, what in ((1, "target (same speaker)"), (0, "non-target")):
        if not any(trial[0] == label for trial in kept):
            raise UserError(
                f"the trials of '{split}' hold no {what} pair that can be scored: the "
                f"split has {len(known)} utterances of "
                f"{len({u.spk_id for u in known.values()})} speakers"
            )
    return kept, len(trials) - len(kept)


def write_list(path: Path, trials: Sequence[Trial]) -> None:
    """Write ``label enrol test`` lines in one step.

    Arguments
    ---------
    path : Path
    trials : sequence of (int, str, str)

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> write_list(path, [(1, "a", "b")])
    >>> path.read_text()
    '1 a b\\n'
    """
    part = path.with_name(path.name + ".part")
    text = "".join(f"{label} {enrol} {test}\n" for label, enrol, test in trials)
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
