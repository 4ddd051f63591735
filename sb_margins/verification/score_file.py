"""``sb-margins metrics``: the figures of anybody's score file."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.data.trials import LABELS, Trials, read_trials
from sb_margins.errors import UserError
from sb_margins.files import write_json, write_text
from sb_margins.verification.bootstrap import paired_bootstrap, speakers_of
from sb_margins.verification.metrics import standard_metrics
from sb_margins.verification.report import figures, print_table
from sb_margins.versions import versions


def read_scores(
    path: str | Path, key: Trials | None = None
) -> tuple[Trials, np.ndarray]:
    """Read a score file; its form is recognised.

    Four columns: two names, a label and a score, as SpeechBrain (``enrol test label
    score``), wespeaker (``enrol test score label``) and we (``label enrol test
    score``) write them. Three columns: ``enrol test score``, for which the labels
    come from a trial list. Two columns: a label and a score.

    Arguments
    ---------
    path : str or Path
        White space or commas between columns; a header is skipped.
    key : Trials, optional
        The labels of three-column files, and the trials that count.

    Returns
    -------
    tuple
        Trials (names are empty for two columns), and scores [N] float64.

    Raises
    ------
    UserError
        When the columns cannot be told apart or the file is not a score file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> _ = path.write_text("a b 1 0.75\\na c 0 -0.1\\n")
    >>> trials, scores = read_scores(path)
    >>> trials.labels.tolist(), scores.tolist()
    ([1, 0], [0.75, -0.1])
    """
    path = Path(path)
    rows = _rows(path)
    width = len(rows[0])
    columns = list(zip(*rows, strict=True))
    label_at, score_at = _columns(path, columns)
    scores = np.array(columns[score_at], dtype=np.float64)
    names = [i for i in range(width) if i not in (label_at, score_at)]
    enrol, test = ([""] * len(rows), [""] * len(rows))
    if names:
        enrol, test = (list(columns[i]) for i in names)
    if label_at is not None:
        told = [LABELS[word.lower()] for word in columns[label_at]]
        trials = Trials(enrol, test, np.array(told, dtype=np.int8))
    else:
        trials = Trials(enrol, test)
    if key is None:
        if trials.labels is None:
            raise UserError(
                f"{path} has no labels (enrol test score). Give the trial list that "
                "has them: --trials LIST"
            )
        return trials, scores
    if not names:
        raise UserError(f"{path} names no trials, so --trials cannot be matched")
    return _matched(path, trials, scores, key)


def write_scores(path: str | Path, trials: Trials, scores: np.ndarray) -> None:
    """Write ``label enrol test score`` lines (``enrol test score`` without labels).

    Nine significant digits: a float32 score survives the round trip.
    """
    rows = zip(trials.enrol, trials.test, scores.tolist(), strict=True)
    lines = [f"{e} {t} {s:.9g}\n" for e, t, s in rows]
    if trials.labels is not None:
        lines = [f"{x} {row}" for x, row in zip(trials.labels, lines, strict=True)]
    write_text(path, "".join(lines))


def _rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise UserError(f"no score file {path}")
    rows: list[list[str]] = []
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            words = line.replace(",", " ").split()
            if not words:
                continue
            if not rows and not any(map(_number, words)):
                continue  # a header
            if len(words) not in (2, 3, 4) or rows and len(words) != len(rows[0]):
                raise UserError(
                    f"{path}, line {number}: expected 'enrol test label score' in any "
                    "usual order, 'enrol test score' or 'label score', found "
                    f"'{line.strip()[:80]}'"
                )
            rows.append(words)
    if not rows:
        raise UserError(f"{path} holds no scores")
    return rows


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _columns(path: Path, columns: list[tuple[str, ...]]) -> tuple[int | None, int]:
    """Which column is the label (None: none), and which the score."""
    width = len(columns)
    numbers = [i for i in range(width) if all(map(_number, columns[i]))]
    labels = [i for i in range(width) if {w.lower() for w in columns[i]} <= set(LABELS)]
    if width == 3:
        if numbers[-1:] == [2]:
            return None, 2
    else:
        # The orders in use; a score column holds more than ones and noughts.
        orders = ((0, 1), (1, 0)) if width == 2 else ((2, 3), (3, 2), (0, 3))
        fits = [(a, b) for a, b in orders if a in labels and b in numbers]
        if len(fits) > 1:
            fits = [(a, b) for a, b in fits if b not in labels]
        if len(fits) == 1:
            return fits[0]
    raise UserError(
        f"{path}: cannot tell the columns of '{' '.join(c[0] for c in columns)}'. "
        "Known forms: 'enrol test label score', 'enrol test score label', 'label enrol "
        "test score', 'enrol test score' (with --trials) and 'label score', with "
        "labels 1/0 or target/nontarget"
    )


def _matched(
    path: Path, trials: Trials, scores: np.ndarray, key: Trials
) -> tuple[Trials, np.ndarray]:
    """The key's trials in its order, with the file's scores."""
    if key.labels is None:
        raise UserError("the list of --trials has no labels")
    pairs = zip(trials.enrol, trials.test, scores.tolist(), strict=True)
    score_of = {(e, t): s for e, t, s in pairs}
    wanted = list(zip(key.enrol, key.test, strict=True))
    lost = [pair for pair in wanted if pair not in score_of]
    if lost:
        raise UserError(
            f"{path} lacks {len(lost)} of the list's {len(key)} trials, the first: "
            f"{' '.join(lost[0])}"
        )
    return key, np.array([score_of[pair] for pair in wanted])


def parser() -> argparse.ArgumentParser:
    """The flags.

    Example
    -------
    >>> parser().parse_args(["scores.txt"]).p_target
    [0.01, 0.05]
    """
    tool = argparse.ArgumentParser(
        prog="sb-margins metrics",
        description="EER, minDCF and Cllr of score files, with intervals; with several "
        "files of the same trials, whether they differ from the first.",
        allow_abbrev=False,
    )
    tool.add_argument("scores", nargs="+", help="score files, or NAME=FILE")
    tool.add_argument("--trials", help="a trial list with the labels")
    tool.add_argument("--p-target", nargs="+", type=float, default=[0.01, 0.05])
    tool.add_argument(
        "--calibrated",
        action="store_true",
        help="scores are natural log-likelihood ratios: add Cllr and actual costs",
    )
    tool.add_argument(
        "--bootstrap", type=int, default=1000, help="replicates; 0: no intervals"
    )
    tool.add_argument("--det", metavar="PNG", help="write a DET plot")
    tool.add_argument("--json", metavar="FILE", help="write the figures")
    return tool


def main(argv: list[str]) -> int:
    """Print the figures of score files.

    Arguments
    ---------
    argv : list of str
        See ``--help``.

    Returns
    -------
    int
        0.

    Raises
    ------
    UserError
        For files that are no score files.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> _ = path.write_text("1 0.75\\n0 -0.1\\n")
    >>> main([str(path)])
    scores trials EER minDCF(0.01) minDCF(0.05) min Cllr
    scores 2 0.00 % 0.000 0.000 0.000
    no intervals: the file does not name its trials
    0
    """
    args = parser().parse_args(argv)
    if args.bootstrap < 0 or args.bootstrap == 1:
        raise UserError("--bootstrap must be 0 (no intervals) or at least 2")
    key = read_trials(args.trials) if args.trials else None
    systems: dict[str, tuple[Trials, np.ndarray]] = {}
    for word in args.scores:
        name, equals, path = word.partition("=")
        if not equals or Path(word).is_file():
            name, path = Path(word).stem, word
        if name in systems:
            raise UserError(f"two files are called '{name}': use NAME=FILE")
        systems[name] = read_scores(path, key)
    rows: dict[str, dict[str, Any]] = {}
    for name, (trials, scores) in systems.items():
        assert trials.labels is not None
        rows[name] = figures(
            scores,
            trials.labels,
            speakers=_sides(trials) if args.bootstrap else None,
            p_targets=args.p_target,
            calibrated=args.calibrated,
            replicates=args.bootstrap,
        )
    metrics = standard_metrics(args.p_target, calibrated=args.calibrated)
    print_table(rows, metrics, first="scores")
    told = {row.get("interval", "") for row in rows.values()} - {""}
    if told:
        print(f"[low, high]: {'; '.join(sorted(told))}")
    elif args.bootstrap:
        print("no intervals: the file does not name its trials")
    if len(systems) > 1 and args.bootstrap:
        _compare(systems, rows, args.bootstrap)
    if args.det:
        from sb_margins.plots.det import plot_det

        curves = {name: (scores, t.labels) for name, (t, scores) in systems.items()}
        plot_det(curves, args.det, p_target=args.p_target[0])
    if args.json:
        write_json(args.json, {"scores": rows, "versions": versions()})
    return 0


def _sides(trials: Trials) -> tuple[np.ndarray, np.ndarray] | None:
    if not any(trials.test):
        return None
    sides = speakers_of(trials)
    return sides if max(side.max() for side in sides) > 0 else None


def _compare(
    systems: dict[str, tuple[Trials, np.ndarray]],
    rows: dict[str, dict[str, Any]],
    replicates: int,
) -> None:
    """Whether the EERs of further files differ from the first's, on the same trials."""
    (first, (trials, base)), *others = systems.items()
    sides = _sides(trials)
    for name, (own, scores) in others:
        if sides is None or (own.enrol, own.test) != (trials.enrol, trials.test):
            print(f"{name}: not the same trials in the same order as {first}")
            continue
        found = paired_bootstrap(
            scores, base, trials.labels, sides, replicates=replicates
        )
        rows[name][f"eer difference to {first}"] = asdict(found)
        word = "differs" if found.significant else "does not differ"
        value, low, high = (100 * v for v in (found.value, found.low, found.high))
        print(
            f"EER of {name} {word} from {first}: {value:+.2f} points "
            f"[{low:+.2f}, {high:+.2f}], p = {found.p_value:.3f}"
        )
