"""The report: one self-contained page, and the same in Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sb_margins.comparison.document import (
    Block,
    Code,
    Heading,
    Table,
    Text,
    to_html,
    to_markdown,
)
from sb_margins.comparison.pictures import draw_pictures
from sb_margins.comparison.results import Comparison, System
from sb_margins.comparison.statistics import METRICS, Figure, figures
from sb_margins.files import write_json, write_text
from sb_margins.training.checks import FREE_TO_CHANGE
from sb_margins.verification.metrics import Metric

SYNTHETIC = (
    "The corpus is synthetic: eSpeak NG voices, made on the spot. It shows that "
    "everything runs; its figures say nothing about real speech."
)


def write_report(
    comparison: Comparison,
    command: str,
    *,
    replicates: int = 2000,
    geometry: bool = True,
    minutes: float | None = None,
) -> Path:
    """Write ``report.html``, ``report.md``, ``report.json`` and ``figures/``.

    Arguments
    ---------
    comparison : Comparison
    command : str
        What reproduces it.
    replicates : int
        Of the bootstrap.
    geometry : bool
        Whether to picture the embeddings (they are extracted once more).
    minutes : float, optional
        The budget, when training time was made equal instead of updates.

    Returns
    -------
    Path
        The HTML page.

    Example
    -------
    >>> import inspect
    >>> inspect.signature(write_report).parameters["replicates"].default
    2000
    """
    output = comparison.plan.output
    tables = {
        name: figures(comparison, name, replicates=replicates)
        for name in comparison.tests
    }
    corpus = Path(comparison.prepared.data_root).name
    title = f"Losses compared on {corpus}"
    blocks: list[Block] = [Heading(title, 1), *_summary(comparison, tables, minutes)]
    blocks.append(Heading("Results"))
    for name, table in tables.items():
        blocks += _results(comparison, name, table, replicates)
    blocks += [Heading("Training"), _training(comparison), *_choice(comparison)]
    blocks += draw_pictures(comparison, output / "figures", geometry=geometry)
    blocks += _settings(comparison)
    blocks += _reproduction(comparison, command)
    write_json(output / "report.json", _numbers(comparison, tables, command))
    write_text(output / "report.md", to_markdown(blocks, output))
    page = output / "report.html"
    write_text(page, to_html(blocks, title))
    return page


def _summary(
    comparison: Comparison,
    tables: Mapping[str, Mapping[str, Mapping[str, Figure]]],
    minutes: float | None,
) -> list[Block]:
    base = comparison.baseline.variant.label
    seeds = len(comparison.plan.seeds)
    equal = (
        f"as many epochs as fit in {minutes:g} minutes for each"
        if minutes
        else "the same number of updates for each"
    )
    counted = f"{seeds} seed{'s' if seeds > 1 else ''}"
    blocks: list[Block] = [
        Text(
            f"{len(comparison.systems)} systems x {counted}; {equal}, from the same "
            "initial encoder weights and the same order of crops for a seed. The "
            f"baseline is {base}."
        )
    ]
    for name, table in tables.items():
        told = []
        for metric in METRICS:
            name_of, words = metric.name, metric.label
            better = [k for k, row in table.items() if row[name_of].better]
            worse = [
                k
                for k, row in table.items()
                if row[name_of].significant and row[name_of].change > 0
            ]
            if better:
                told.append(f"significantly lower {words} than {base}: {_join(better)}")
            if worse:
                told.append(f"significantly higher {words} than {base}: {_join(worse)}")
            if not better and not worse and len(table) > 1:
                told.append(f"no significant difference in {words} from {base}")
        if told:
            where = f"On {name}" + (", of these single trainings" if seeds < 2 else "")
            blocks.append(Text(f"{where}: {'. '.join(_capital(t) for t in told)}."))
    if seeds < 2:
        blocks.append(
            Text(
                "One seed says nothing about the luck of initial weights and data "
                "order: take differences as anecdotes."
            )
        )
    if comparison.missing:
        blocks.append(Text(f"Not finished, and left out: {_join(comparison.missing)}."))
    if any(_first(s).settings.get("corpus") == "demo" for s in comparison.systems):
        blocks.append(Text(SYNTHETIC))
    return blocks


def _join(names: Sequence[str]) -> str:
    return "; ".join(names)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _first(system: System) -> Any:
    return system.results[0]


def _results(
    comparison: Comparison,
    name: str,
    table: Mapping[str, Mapping[str, Figure]],
    replicates: int,
) -> list[Block]:
    trials = comparison.trials[name]
    assert trials.labels is not None
    targets = int(trials.labels.sum())
    speakers = 1 + max(int(side.max()) for side in comparison.sides[name])
    head = ["system"]
    for metric in METRICS:
        head += [f"{metric.heading} ± sd", "95 % interval", "change", "p (Holm)"]
    rows = []
    for label, row in table.items():
        cells = [label]
        for metric in METRICS:
            cells += _cells(row[metric.name], metric)
        rows.append(cells)
    base = comparison.baseline.variant.label
    least = 2 / (replicates + 1) * 2 * (len(table) - 1)
    few = (
        f" With {replicates} replicates p cannot fall below {least:.2g}: raise "
        "--replicates to see significance."
        if least >= 0.05
        else ""
    )
    caption = (
        f"{name}: {targets:,} target and {len(trials) - targets:,} non-target trials "
        f"of {speakers} speakers. Mean over seeds ± standard deviation; the interval "
        f"is over speakers ({replicates} bootstrap replicates); change is relative to "
        f"{base}; p is of the paired difference over speakers and seeds, corrected by "
        f"Holm for the {2 * (len(table) - 1)} comparisons of this table; * marks "
        "p < 0.05. "
    )
    return [Heading(f"{name}", 3), Table(head, rows, caption.strip() + few)]


def _cells(figure: Figure, metric: Metric) -> list[str]:
    mean = metric.number(figure.mean)
    if not math.isnan(figure.spread):
        mean += f" ± {metric.number(figure.spread)}"
    cells = [mean, f"{metric.number(figure.low)} to {metric.number(figure.high)}"]
    if math.isnan(figure.p_value):
        return [*cells, "baseline" if math.isnan(figure.change) else "-", "-"]
    star = " *" if figure.significant else ""
    change = "-" if math.isnan(figure.change) else f"{100 * figure.change:+.1f} %"
    return [*cells, change, f"{figure.p_holm:.3f}{star}"]


def _training(comparison: Comparison) -> Table:
    head = ["system", "dev EER % ± sd", "chosen", "seeds", "updates", "minutes"]
    head += ["best epoch", "of", "accuracy %"]
    rows = []
    for system in comparison.systems:
        results = system.results
        dev = [100 * r.best.get("EER", math.nan) for r in results]
        own = [s for s in comparison.systems if s.variant.loss == system.variant.loss]
        chosen = comparison.chosen(system.variant.loss) is system
        rows.append(
            [
                system.variant.label,
                _mean(dev, 2, spread=True),
                ("yes" if chosen else "no") + f" (of {len(own)})",
                str(len(results)),
                f"{_updates(comparison, system):,}",
                _mean([r.minutes for r in results], 1),
                ", ".join(f"{r.best['epoch']:.0f}" for r in results),
                str(int(results[0].settings.get("number_of_epochs", 1))),
                _mean([100 * r.best.get("accuracy", math.nan) for r in results], 1),
            ]
        )
    caption = (
        "The weights that are evaluated are those of the epoch with the lowest dev "
        "EER, which also chooses between the settings of a loss. Minutes are of "
        "training with its dev evaluations, as measured beside whatever else ran. Best "
        "epoch: one number a seed. Accuracy: of the training crops, without margin, at "
        "that epoch."
    )
    return Table(head, rows, caption)


def _mean(values: Sequence[float], digits: int, spread: bool = False) -> str:
    import statistics

    mean = statistics.fmean(values)
    if math.isnan(mean):
        return "-"
    text = f"{mean:.{digits}f}"
    if spread and len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return text


def _updates(comparison: Comparison, system: System) -> int:
    """Optimiser updates of one training (without adaptive accumulation)."""
    settings = _first(system).settings
    count = len(comparison.prepared.manifest("train"))
    crops = count * (settings.get("crops_per_utterance") or 1)
    steps = crops // settings.get("batch_size", 32)
    factor = settings.get("grad_accumulation_factor") or 1
    return int(settings.get("number_of_epochs", 1)) * -(-steps // factor)


def _choice(comparison: Comparison) -> list[Block]:
    told = []
    for loss in comparison.losses:
        own = [s for s in comparison.systems if s.variant.loss == loss]
        best = comparison.chosen(loss).variant.label
        many = f"{len(own)} setting{'s' if len(own) > 1 else ''}"
        told.append(f"{loss}: {many} tried" + (f", {best} chosen" * (len(own) > 1)))
    return [
        Text(
            f"Settings tried: {_join(told)}. Choices are made by the mean EER of the "
            "dev trials alone; the speakers of the other lists choose nothing. All "
            "settings that were tried are in the tables."
        )
    ]


def _settings(comparison: Comparison) -> list[Block]:
    from sb_margins import select

    rows = []
    for system in comparison.systems:
        variant = system.variant
        asked = dict(variant.settings)
        values = {**select.settings(variant.loss), **asked}
        text = ", ".join(f"{k}={v}" for k, v in values.items() if v is not None)
        rows.append([variant.label, text])
    blocks: list[Block] = [
        Heading("Settings"),
        Table(["system", "settings of its loss"], rows, left=(1,)),
    ]
    every = [r.settings for s in comparison.systems for r in s.results]
    keys = sorted(set().union(*every))
    same = {
        k: every[0].get(k)
        for k in keys
        if all(e.get(k) == every[0].get(k) for e in every)
    }
    shared = ", ".join(
        f"{k}={json.dumps(v)}"
        for k, v in same.items()
        if k not in FREE_TO_CHANGE and k != "loss_options"
    )
    blocks.append(Text(f"Shared by all trainings: {shared}."))
    return blocks


def _reproduction(comparison: Comparison, command: str) -> list[Block]:
    results = [r for s in comparison.systems for r in s.results]
    versions = [r.versions for r in results]
    text = ", ".join(f"{k} {v}" for k, v in sorted(versions[0].items()))
    blocks: list[Block] = [
        Heading("Reproduction"),
        Text(
            "The same command continues an unfinished comparison, leaves finished "
            "trainings alone, and writes this report again:"
        ),
        Code(command),
        Text(f"Versions: {text}."),
    ]
    if any(v != versions[0] for v in versions):
        blocks.append(
            Text(
                "Attention: not all trainings were made with the same versions; "
                "run.json in each cell's folder tells which."
            )
        )
    machines = []
    for result in results:
        told = result.marker.get("machine", {})
        words = ", ".join(f"{k} {v}" for k, v in sorted(told.items()))
        device = result.settings.get("device") or "cpu"
        jobs = result.marker.get("jobs", 1)
        machines.append(f"{words}; {device}; {jobs} at a time")
    blocks.append(Text(f"Trained on: {_join(list(dict.fromkeys(machines)))}."))
    blocks.append(
        Text(
            "Two trainings of a cell on the same CPU with the same number of threads "
            "are equal bit for bit."
        )
    )
    return blocks


def _numbers(
    comparison: Comparison,
    tables: Mapping[str, Mapping[str, Mapping[str, Figure]]],
    command: str,
) -> dict[str, Any]:
    """The tables, for programs."""

    def plain(figure: Figure) -> dict[str, float | None]:
        values = vars(figure).items()
        return {k: None if math.isnan(v) else v for k, v in values}

    return {
        "baseline": comparison.baseline.variant.label,
        "command": command,
        "chosen_on_dev": {
            loss: comparison.chosen(loss).variant.label for loss in comparison.losses
        },
        "lists": {
            name: {
                label: {metric: plain(f) for metric, f in row.items()}
                for label, row in table.items()
            }
            for name, table in tables.items()
        },
        "missing": comparison.missing,
        "seeds": comparison.plan.seeds,
    }
