"""Figures of a scored list, and the table that shows them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.files import write_text
from sb_margins.verification.bootstrap import (
    CONFIDENCE,
    REPLICATES,
    SEED,
    Sides,
    bootstrap,
)
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.metrics import (
    P_TARGETS,
    Metric,
    standard_metrics,
    summary,
)


def figures(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    speakers: Sides | None = None,
    p_targets: Sequence[float] = P_TARGETS,
    calibrated: bool = False,
    replicates: int = REPLICATES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> dict[str, Any]:
    """``metrics.summary``, with the key ``<name> interval``: [low, high] where known.

    Intervals need the ``speakers`` of ``bootstrap.speakers_of`` and replicates.
    """
    row: dict[str, Any] = summary(
        scores, labels, p_targets=p_targets, calibrated=calibrated
    )
    if speakers is None or replicates == 0:
        return row
    metrics = [metric for metric in standard_metrics(p_targets) if metric.interval]
    intervals = bootstrap(
        scores,
        labels,
        speakers,
        metrics,
        replicates=replicates,
        confidence=confidence,
        seed=seed,
    )
    for metric in metrics:
        interval = intervals[metric.name]
        row[metric.interval_name] = [interval.low, interval.high]
    row["interval"] = (
        f"{confidence:.0%}, {replicates} bootstrap replicates over "
        f"{1 + max(int(side.max()) for side in speakers)} speakers, seed {seed}"
    )
    return row


def notes_on(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines to read with rows of ``figures``: what intervals are, what is doubtful.

    Besides figures a row may say how many trials are ``left out``, where ``speakers``
    come from, and (in parentheses) what the list shares with the one of its
    ``calibration``.
    """
    kinds = sorted({row["interval"] for row in rows.values() if "interval" in row})
    notes = [f"[low, high]: {'; '.join(kinds)}"] if kinds else []
    for name, row in rows.items():
        if row.get("eer", 0) > 0.5:
            notes.append(
                f"{name}: an EER above 50 %: larger scores must mean more alike. Are "
                "scores (distances?) or labels inverted?"
            )
        if "speakers" in row:
            notes.append(
                f"{name}: speakers are {row['speakers']}; --utt2spk tells them"
            )
        how = row.get("calibration", "")
        if "cllr" in row and "(" in how:
            notes.append(f"{name}: calibrated {how}, so Cllr is optimistic")
        if lost := row.get("left out"):
            notes.append(f"{name}: {lost} of {row['trials'] + lost} trials left out")
    return notes


def with_mean(
    rows: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[Metric] | None = None,
    but: str | None = "dev",
) -> dict[str, Mapping[str, Any]]:
    """Rows of ``figures`` and, of several lists, a row of their means.

    The list ``but``, on which something was chosen, does not count.
    """
    counted = [row for name, row in rows.items() if name != but]
    if len(counted) < 2:
        return dict(rows)
    mean: dict[str, Any] = {"trials": sum(row["trials"] for row in counted)}
    for metric in metrics or standard_metrics():
        mean[metric.name] = float(np.mean([row[metric.name] for row in counted]))
    return {**rows, f"mean of {len(counted)} lists": mean}


def print_table(
    rows: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[Metric] | None = None,
    *,
    first: str = "list",
    extra: Sequence[str] = (),
) -> None:
    """Print one row of ``figures`` per list or system.

    ``first`` heads the names; ``extra`` are further keys to show. Default metrics:
    the standard ones that the first row has.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    if metrics is None:
        one = next(iter(rows.values()))
        metrics = [m for m in standard_metrics(calibrated=True) if m.name in one]
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    plain = box.SIMPLE_HEAD if console.is_terminal else None
    table = Table(box=plain, header_style="bold", pad_edge=False)
    table.add_column(first)
    for label in ("trials", *(metric.label for metric in metrics)):
        table.add_column(label, justify="right")
    for key in extra:
        table.add_column(key)
    for name, row in rows.items():
        cells = [metric.cell(row) for metric in metrics]
        more = [str(row.get(key, "")) for key in extra]
        table.add_row(name, f"{row['trials']:,}", *cells, *more)
    console.print(table)


def report_audio(embeddings: Embeddings, folder: Path) -> None:
    """Say how much audio cannot be used or is poor; which, in files of ``folder``."""
    skipped = [f"{name}\t{why}" for name, why in sorted(embeddings.skipped.items())]
    poor = sorted(embeddings.notes.items())
    notes = [f"{name}\t{note}" for name, all_of_it in poor for note in all_of_it]
    for name, lines, what in (
        ("skipped.txt", skipped, f"{len(skipped)} utterances cannot be used"),
        ("notes.txt", notes, f"{len(poor)} recordings are poor"),
    ):
        write_lines(folder / name, lines)
        if lines:
            print(f"{what}; see {folder / name}", file=sys.stderr)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines; where there are none, remove the file of an older run."""
    text = "".join(f"{line}\n" for line in lines)
    if text:
        write_text(path, text)
    else:
        path.unlink(missing_ok=True)
