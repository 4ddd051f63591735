"""Before and after fine-tuning: the same trials of unseen speakers, two models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.comparison.statistics import LEAST, Difference, Part, analyse
from sb_margins.data import Prepared
from sb_margins.data.evaluation import TrialList
from sb_margins.errors import UserError
from sb_margins.files import write_json, write_text
from sb_margins.verification.bootstrap import REPLICATES, speakers_of
from sb_margins.verification.metrics import EER, standard_metrics, summary
from sb_margins.verification.report import print_table

METRICS = [metric for metric in standard_metrics() if metric.interval]


def check_lists(prepared: Prepared) -> list[str]:
    """Refuse a corpus without speakers to choose and to judge by; remark on few."""
    lists = list(prepared.trial_lists())
    if "train" not in prepared.splits or "dev" not in lists or len(lists) < 2:
        raise UserError(
            f"{prepared.data_root} has the splits {', '.join(prepared.splits)}, and "
            "fine-tuning takes speakers to train on (train), others to choose the "
            "epoch by (dev) and others to judge by (test): name all three in "
            "splits.csv, or leave that out to have the speakers divided"
        )
    counts = {name: len(prepared.manifest(name).speakers) for name in lists}
    least = LEAST["test speakers"]
    return [
        f"{count} {name} speakers say little: {least} or more would tell whether "
        f"fine-tuning helps. Record more people, or take more of them: "
        f"--corpus-options '{{{name}_share: 0.3}}'"
        for name, count in counts.items()
        if count < least
    ]


def before_and_after(
    lists: Mapping[str, TrialList],
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """By list: figures before and after, and the paired difference over speakers.

    ``before`` and ``after`` are the scores [N] of each list.
    """
    report = {}
    for name, one in lists.items():
        sides = speakers_of(one.trials, one.speakers)
        runs = {"before": {0: before[name]}, "after": {0: after[name]}}
        pair = ("after", "before")
        part = Part(runs, one.labels, sides)
        statistics = analyse([part], [[pair]], METRICS, REPLICATES)
        rows: dict[str, dict[str, Any]] = {}
        for when, scores in (("before", before), ("after", after)):
            rows[when] = dict(summary(scores[name], one.labels))
            for metric in METRICS:
                found = statistics.estimates[when][metric.name]
                rows[when][metric.interval_name] = [found.low, found.high]
        changes = statistics.differences[pair]
        old, new = (rows[when][EER.name] for when in ("before", "after"))
        speakers = len(set(one.speakers.values()))
        said = verdict(old, new, changes[EER.name], speakers)
        if np.array_equal(before[name], after[name]):
            said = "nothing changed: every score is that of the model as it was"
        report[name] = {
            **rows,
            "difference": {m.name: _plain(changes[m.name]) for m in METRICS},
            "speakers": speakers,
            "verdict": said,
        }
    return report


def _plain(found: Difference) -> dict[str, float]:
    return {"low": found.low, "high": found.high, "p": found.p_value}


def verdict(before: float, after: float, found: Difference, speakers: int) -> str:
    """Whether fine-tuning helped, in a sentence: by the EER of unseen speakers.

    A bootstrap over few speakers is too sure of itself, so they are given no verdict.
    """
    changed = (
        f"EER {EER.format(before)} before, {EER.format(after)} after, a change of "
        f"[{100 * found.low:+.2f}, {100 * found.high:+.2f}] points"
    )
    if speakers < LEAST["test speakers"]:
        return f"too few to tell whether fine-tuning helped: {changed}"
    if found.high < 0:
        return f"fine-tuning helped: {changed}"
    if found.low > 0:
        return f"fine-tuning made it worse: {changed}. Keep the model as it was"
    return (
        f"fine-tuning did not help, as far as these speakers tell: {changed}, which "
        "holds 0. Keep the model as it was, or bring more speakers"
    )


def rows_of(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of figures for a table: each list before and after."""
    return {
        f"{name}, {when}": one[when]
        for name, one in report.items()
        for when in ("before", "after")
    }


def differences_of(report: Mapping[str, Any]) -> list[str]:
    """A line for each list: the changes with their intervals."""
    lines = []
    for name, one in report.items():
        parts = []
        for metric in METRICS:
            times, digits = 100 if metric.unit == "%" else 1, metric.digits
            ends = [one["difference"][metric.name][k] for k in ("low", "high")]
            texts = [f"{times * end:+.{digits}f}" for end in ends]
            parts += [f"{metric.label} [{', '.join(texts)}]"]
        lines += [f"{name}, change: {', '.join(parts)}"]
    return lines


def verdicts_of(report: Mapping[str, Any]) -> list[str]:
    """A sentence for each list that chose nothing."""
    return [
        f"{name}, {one['speakers']} unseen speakers: {one['verdict']}"
        for name, one in report.items()
        if name != "dev"
    ]


def print_report(report: Mapping[str, Any]) -> None:
    """The table, the differences and the verdicts."""
    print_table(rows_of(report))
    for line in differences_of(report):
        print(line)
    for line in verdicts_of(report):
        print(line)


def write_report(report: Mapping[str, Any], model: str, folder: Path) -> None:
    """``before_after.json`` and ``before_after.md``."""
    write_json(folder / "before_after.json", {"model": model, "lists": report})
    columns = [metric.label for metric in METRICS]
    lines = [
        f"# {Path(model).name}, before and after",
        "",
        *(f"**{line}**\n" for line in verdicts_of(report)),
        "Brackets: 95 % intervals over speakers; a change is that of the same trials. "
        "The dev speakers chose the epoch, so theirs flatters.",
        "",
        f"| list | trials | {' | '.join(columns)} |",
        "|---|" + "---:|" * (1 + len(columns)),
    ]
    for name, row in rows_of(report).items():
        cells = " | ".join(metric.cell(row) for metric in METRICS)
        lines += [f"| {name} | {row['trials']:,} | {cells} |"]
    lines += ["", *(f"* {line}" for line in differences_of(report)), ""]
    write_text(folder / "before_after.md", "\n".join(lines))
