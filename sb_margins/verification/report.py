"""Figures of a scored list, and the table that shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.files import write_text
from sb_margins.verification.bootstrap import SEED, bootstrap
from sb_margins.verification.metrics import summary, threshold_at


def figures(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    speakers: Sequence[np.ndarray] | None = None,
    p_targets: Sequence[float] = (0.01, 0.05),
    calibrated: bool = False,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = SEED,
) -> dict[str, Any]:
    """``metrics.summary`` with intervals.

    Arguments
    ---------
    scores, labels : numpy.ndarray
        [N] each.
    speakers : pair of numpy.ndarray, optional
        From ``bootstrap.speakers_of``; without, there are no intervals.
    p_targets : sequence of float
    calibrated : bool
        Whether scores are log-likelihood ratios.
    replicates, confidence, seed
        Of the bootstrap; 0 replicates: no intervals.

    Returns
    -------
    dict
        As ``summary``; for each metric with an interval also ``<name> interval``:
        [low, high].

    Example
    -------
    >>> found = figures(np.array([0.9, 0.1]), np.array([1, 0]))
    >>> found["eer"]
    0.0
    """
    found: dict[str, Any] = summary(
        scores, labels, p_targets=tuple(p_targets), calibrated=calibrated
    )
    if speakers is None or replicates == 0:
        return found
    names = ["eer", *(f"min_dcf(p_target={p:g})" for p in p_targets)]
    intervals = bootstrap(
        scores,
        labels,
        speakers,
        metrics=names,
        replicates=replicates,
        confidence=confidence,
        seed=seed,
    )
    for name, interval in intervals.items():
        found[f"{name} interval"] = [interval.low, interval.high]
    found["interval"] = (
        f"{confidence:.0%}, {replicates} bootstrap replicates over "
        f"{1 + max(int(side.max()) for side in speakers)} speakers, seed {seed}"
    )
    return found


def marked_thresholds(
    scores: np.ndarray, labels: np.ndarray, p_targets: Sequence[float]
) -> dict[str, float]:
    """The thresholds that a histogram marks.

    Example
    -------
    >>> marked_thresholds(np.array([0.9, 0.1]), np.array([1, 0]), [0.01])
    {'EER': 0.5, 'minDCF(0.01)': 0.5}
    """
    marks = {"EER": threshold_at(scores, labels)}
    for p in p_targets:
        marks[f"minDCF({p:g})"] = threshold_at(scores, labels, prior=p)
    return marks


def print_table(
    rows: Mapping[str, Mapping[str, Any]],
    *,
    first: str = "list",
    extra: Sequence[str] = (),
) -> None:
    """Print one row per list or system.

    Arguments
    ---------
    rows : mapping of str to mapping
        What ``figures`` gives, by name.
    first : str
        Heading of the names.
    extra : sequence of str
        Further keys to show, e.g. ``"normalisation"``.

    Example
    -------
    >>> print_table({"O": figures(np.array([0.9, 0.1]), np.array([1, 0]))})
    list trials EER minDCF(0.01) minDCF(0.05) min Cllr
    O 2 0.00 % 0.000 0.000 0.000
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    plain = box.SIMPLE_HEAD if console.is_terminal else None
    table = Table(box=plain, header_style="bold", pad_edge=False)
    one = next(iter(rows.values()))
    costs = [name for name in one if name.startswith("min_dcf") and name[-1] == ")"]
    table.add_column(first)
    heads = ["trials", "EER", *(f"minDCF({_prior(name)})" for name in costs)]
    calibrated = "cllr" in one
    heads += ["Cllr", "min Cllr"] if calibrated else ["min Cllr"]
    for head in heads:
        table.add_column(head, justify="right")
    for key in extra:
        table.add_column(key)
    for name, row in rows.items():
        cells = [name, f"{row['trials']:,}", _shown(row, "eer", 100, 2, " %")]
        cells += [_shown(row, cost, 1, 3, "") for cost in costs]
        if calibrated:
            cells.append(f"{row['cllr']:.3f}")
        cells.append(f"{row['min_cllr']:.3f}")
        table.add_row(*cells, *(str(row.get(key, "")) for key in extra))
    console.print(table)


def _prior(name: str) -> str:
    return name[len("min_dcf(p_target=") : -1]


def _shown(
    row: Mapping[str, Any], name: str, factor: int, digits: int, unit: str
) -> str:
    text = f"{factor * row[name]:.{digits}f}{unit}"
    if f"{name} interval" in row:
        low, high = (factor * value for value in row[f"{name} interval"])
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return text


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys in one step: the same content, the same bytes.

    Example
    -------
    >>> path = getfixture("tmp_path") / "metrics.json"
    >>> write_json(path, {"eer": 0.01})
    >>> json.loads(path.read_text())
    {'eer': 0.01}
    """
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
    write_text(path, text + "\n")
