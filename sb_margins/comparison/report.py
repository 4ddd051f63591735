"""The report: one self-contained HTML page, the same in Markdown, numbers as JSON."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from sb_margins import select
from sb_margins.comparison.geometry import describe_geometry, mean_and_spread
from sb_margins.comparison.learning import (
    Histories,
    Speed,
    loss_and_eer,
    read_histories,
    speed,
    speed_table,
)
from sb_margins.comparison.over_lists import mean_changes
from sb_margins.comparison.results import LAST, CellResult, Comparison, System
from sb_margins.comparison.statistics import (
    Difference,
    Estimate,
    Statistics,
    analyse,
    too_few,
)
from sb_margins.comparison.sweeps import draw_sweeps, swept
from sb_margins.files import write_json, write_text
from sb_margins.plots.curves import Curve, plot_learning
from sb_margins.plots.det import plot_det
from sb_margins.plots.histogram import plot_histograms
from sb_margins.plots.style import COLOURS, ORANGE
from sb_margins.training.log import Row
from sb_margins.training.settings import FREE_TO_CHANGE, TrainingSettings
from sb_margins.verification.metrics import (
    EER,
    Metric,
    standard_metrics,
    threshold_at,
)

METRICS = standard_metrics((0.01,))[:2]  # EER and minDCF(0.01)
UNKNOWN = Difference(*[math.nan] * 4)
MOST_NAMED = 6  # unfinished runs
CHANGE = ["change", "p (Holm)", "visible"]


def write_report(
    comparison: Comparison,
    command: str,
    *,
    replicates: int,
    geometry: bool,
) -> tuple[Path, list[str]]:
    """Write ``report.html``, ``report.md``, ``report.json``, ``figures/``.

    ``command`` reproduces the comparison; without ``geometry`` no embeddings are
    extracted. Returns the page, and its statements and caveats for the terminal.
    """
    output = comparison.plan.output
    figures = output / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for old in figures.glob("*.png"):
        old.unlink()
    histories = read_histories(comparison)
    lists = {
        name: _result(comparison, name, replicates, histories)
        for name in comparison.tests
    }
    quickly = speed(histories)
    caveats = _caveats(comparison)
    over = _over_lists(comparison, lists)
    content = {
        "title": f"Losses compared on {Path(comparison.prepared.data_root).name}",
        "comparison": comparison,
        "command": command,
        "replicates": replicates,
        "lists": lists,
        "caveats": caveats,
        "training": _training_table(comparison, histories),
        "speed": speed_table(quickly) if quickly else None,
        "over": over,
        "plots": _draw(comparison, figures),
        "learning": _draw_learning(comparison, histories, figures),
        "sweeps": _draw_sweeps(comparison, lists, replicates, figures),
        "geometry": describe_geometry(comparison, figures) if geometry else None,
        **_settings(comparison),
    }
    numbers = _numbers(comparison, lists, command)
    numbers["training"] = _training_numbers(comparison, histories, quickly)
    if over:
        numbers["mean_over_lists"] = {
            "lists": over["names"],
            "changes": {
                " against ".join(pair): {m: _known(vars(d)) for m, d in found.items()}
                for pair, found in over["changes"].items()
            },
        }
    write_json(output / "report.json", numbers)
    write_text(output / "report.md", _render(content, "markdown.j2", output))
    write_text(output / "report.html", _render(content, "html.j2", output))
    summary = [
        f"On {name}: {line}" for name, one in lists.items() for line in one["verdict"]
    ]
    summary += [f"Attention: {line}" for line in caveats]
    return output / "report.html", summary


def _render(content: dict[str, Any], page: str, folder: Path) -> str:
    """Fill the template; ``page`` has the macros of a format."""

    def one_line(text: str) -> str:
        return type(text)(" ".join(text.split()))  # type of HTML stays

    def data_uri(path: Path) -> str:
        return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"

    def narrow_width(path: Path) -> int:
        """Pixels on a telephone: text of 10 points stays 10 pixels high, wide figures
        are scrolled."""
        width = int.from_bytes(path.read_bytes()[16:20], "big")  # of a PNG
        return round(0.47 * width)

    environment = Environment(
        loader=PackageLoader("sb_margins.comparison"),
        autoescape=page == "html.j2",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "one_line": one_line,
        "data_uri": data_uri,
        "narrow_width": narrow_width,
        "relative": lambda path: path.relative_to(folder).as_posix(),
    }
    text = environment.get_template("report.j2").render(content, page=page)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _result(
    comparison: Comparison, name: str, replicates: int, histories: Histories
) -> dict[str, Any]:
    """What the template shows of a trial list."""
    parts, base = comparison.parts(name), comparison.baseline.label
    planned, others = comparison.planned, comparison.contrasts
    ends = [
        (system.label + LAST, system.label)
        for system in comparison.systems
        if all(name in result.last for result in system.results)
    ]
    statistics = analyse(parts, [planned, others, ends], METRICS, replicates)
    few = too_few(
        {
            "test speakers": sum(
                len(np.unique(part.sides[0][part.labels == 1])) for part in parts
            ),
            "runs of a system": comparison.common_runs,
            "updates of a run": min(map(_updates, histories.values())),
        }
    )
    labels = np.concatenate([part.labels for part in parts])
    most = len(METRICS) * max(len(planned), len(others))
    return {
        "statistics": statistics,
        "few": few,
        "verdict": _verdict(statistics, few, planned, others),
        "table": _systems_table(comparison, statistics, base, shown=not few),
        "planned": _planned_table(statistics, planned, shown=not few),
        "ends": _ends_table(statistics, ends),
        "targets": int(labels.sum()),
        "nontargets": len(labels) - int(labels.sum()),
        "speakers": sum(len(np.unique(np.stack(part.sides))) for part in parts),
        "note": comparison.hard[name].note if name in comparison.hard else "",
        "comparisons": len(METRICS) * len(others),
        "least_p": 2 / (replicates + 1) * most,
    }


def _over_lists(
    comparison: Comparison, lists: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """The mean relative change over all lists but those of hard trials."""
    used = {n: one for n, one in lists.items() if n not in comparison.hard}
    families = [comparison.planned, comparison.contrasts]
    if len(used) < 2 or not any(families):
        return None
    changes = mean_changes(
        {name: one["statistics"] for name, one in used.items()}, families, METRICS
    )
    few = next((one["few"] for one in used.values() if one["few"]), "")
    head, rows = ["system against reference"], []
    for metric in METRICS:
        head += [f"{metric.label}: mean change", "95 % interval", *CHANGE[1:]]
    for kind, pairs in zip(("planned", "exploratory"), families, strict=True):
        for pair in pairs:
            row = [f"{' against '.join(pair)} ({kind})"]
            for metric in METRICS:
                one = changes[pair][metric.name]
                change, *judged = _difference_cells(one, not few)
                row += [change, _percentages(one), *judged]
            rows.append(row)
    table = {"head": head, "rows": rows}
    return {"names": list(used), "changes": changes, "few": few, "table": table}


def _percentages(one: Difference) -> str:
    """The interval of a mean relative change."""
    if math.isnan(one.low):
        return "-"
    return f"{100 * one.low:+.1f} to {100 * one.high:+.1f} %"


def _systems_table(
    comparison: Comparison, statistics: Statistics, base: str, shown: bool
) -> dict[str, Any]:
    head, rows = ["system"], []
    for metric in METRICS:
        head += [f"{metric.heading} ± sd", "95 % interval", *CHANGE]
    for label in (system.label for system in comparison.systems):
        row = [label]
        for metric in METRICS:
            row += _estimate_cells(metric, statistics.estimates[label][metric.name])
            if label == base:
                row += ["baseline", "-", "-"]
                continue
            one = statistics.between(label, base)[metric.name]
            cells = _difference_cells(one, shown)
            if {label, base} in map(set, comparison.planned):
                cells[1:] = ["planned", "-"]
            row += cells
        rows.append(row)
    return {"head": head, "rows": rows}


def _planned_table(
    statistics: Statistics, planned: Sequence[tuple[str, str]], shown: bool
) -> dict[str, Any]:
    head, rows = ["planned contrast"], []
    for metric in METRICS:
        head += [f"{metric.heading}: 95 % interval", *CHANGE]
    for pair in planned:
        row = [" against ".join(pair)]
        for metric in METRICS:
            one = statistics.differences[pair][metric.name]
            row += [_interval(metric, one), *_difference_cells(one, shown)]
        rows.append(row)
    return {"head": head, "rows": rows}


def _ends_table(
    statistics: Statistics, ends: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Every system at its best dev epoch and at its last one."""
    head, rows = ["system"], []
    for metric in METRICS:
        head += [f"{metric.heading}: best", "last", "gap", "95 % interval", "change"]
    for last, best in ends:
        row = [best]
        for metric in METRICS:
            means = [statistics.estimates[k][metric.name].mean for k in (best, last)]
            one = statistics.differences[last, best][metric.name]
            row += [metric.number(value) for value in (*means, means[1] - means[0])]
            row += [_interval(metric, one), _difference_cells(one, False)[0]]
        rows.append(row)
    return {"head": head, "rows": rows}


def _verdict(
    statistics: Statistics,
    few: str,
    planned: Sequence[tuple[str, str]],
    others: Sequence[tuple[str, str]],
) -> list[str]:
    """What is significant on a list, in sentences without full stops."""
    if not planned and not others:
        return []
    if few:
        return [f"Too few for a statement on significance: {few}"]
    lines = []
    for kind, pairs in (("Planned", planned), ("Exploratory", others)):
        for metric in METRICS if pairs else ():
            rows = [(p, statistics.differences[p][metric.name]) for p in pairs]
            lower = _named([pair for pair, one in rows if one.better], kind)
            higher = _named([pair for pair, one in rows if one.worse], kind)
            found = []
            if lower:
                found.append(f"Significantly lower {metric.label} {lower}")
            if higher:
                found.append(f"Significantly higher {metric.label} {higher}")
            whole = f"from {others[0][1]}" if kind != "Planned" else "of any contrast"
            found = found or [f"No significant difference in {metric.label} {whole}"]
            lines += [f"{kind}: {line}" if planned else line for line in found]
    return lines


def _named(pairs: Sequence[tuple[str, str]], kind: str) -> str:
    """For a sentence: planned pairs in full, others share their reference."""
    if not pairs:
        return ""
    if kind == "Planned":
        return "of " + "; ".join(f"{one} than of {two}" for one, two in pairs)
    return f"than {pairs[0][1]}: " + "; ".join(one for one, _ in pairs)


def _caveats(comparison: Comparison) -> list[str]:
    """What a reader has to know of the runs, in sentences without full stops."""
    typed = [TrainingSettings.read(one.settings) for one in comparison.results()]
    caveats = list(dict.fromkeys(text for one in typed for text in one.remarks))
    if comparison.missing:
        missing = "; ".join(comparison.missing[:MOST_NAMED])
        if (more := len(comparison.missing) - MOST_NAMED) > 0:
            missing += f"; and {more} more"
        caveats.append(f"not finished, and left out: {missing}")
    for name in comparison.plan.evals and comparison.tests:
        gone = [r.cell.label for r in comparison.results() if name not in r.last]
        if gone:
            caveats.append(
                f"{name}: there are no scores of the last epoch of {'; '.join(gone)}, "
                "whose checkpoint is gone"
            )
    if typed[0].corpus == "demo":
        caveats.append(
            "the corpus is synthetic, eSpeak NG voices: it shows that everything runs; "
            "its results say nothing about real speech"
        )
    return caveats


def _estimate_cells(metric: Metric, one: Estimate) -> list[str]:
    mean = metric.number(one.mean)
    if not math.isnan(one.spread):
        mean += f" ± {metric.number(one.spread)}"
    return [mean, f"{metric.number(one.low)} to {metric.number(one.high)}"]


def _interval(metric: Metric, one: Difference) -> str:
    if math.isnan(one.low):
        return "-"
    return f"{metric.number(one.low)} to {metric.number(one.high)}"


def _difference_cells(one: Difference, shown: bool) -> list[str]:
    """The change, its p-value if it is to be ``shown``, what would have been seen."""
    change = "-" if math.isnan(one.change) else f"{100 * one.change:+.1f} %"
    visible = "-" if math.isnan(one.visible) else f"{100 * one.visible:.0f} %"
    if not shown or math.isnan(one.p_value):
        return [change, "-", "-"]
    return [change, f"{one.p_holm:.3f}{' *' if one.significant else ''}", visible]


def _training_table(comparison: Comparison, histories: Histories) -> dict[str, Any]:
    def per_cent(values: list[float]) -> list[float]:
        return [100 * value for value in values]

    def chosen(system: System) -> str:
        loss = system.variant.loss
        word = "yes" if comparison.chosen(loss) is system else "no"
        return f"{word} (of {len(comparison.settings_of(loss))})"

    columns: dict[str, Callable[[System], str]] = {
        "system": lambda s: s.label,
        "dev EER % ± sd": lambda s: mean_and_spread(per_cent(s.best("EER")), ".2f"),
        "chosen": chosen,
        "runs": lambda s: str(len(s.results)),
        "updates": lambda s: f"{_updates(histories[s.label]):,}",
        "minutes": lambda s: _mean([r.minutes for r in s.results]),
        "best epoch": lambda s: ", ".join(f"{e:.0f}" for e in s.best("epoch")),
        "of": lambda s: str(s.settings.number_of_epochs),
        "accuracy %": lambda s: _mean(per_cent(s.best("accuracy"))),
        "loss and EER ± sd": lambda s: mean_and_spread(
            loss_and_eer(s, histories[s.label]), "+.2f"
        ),
    }
    rows = [[cell(s) for cell in columns.values()] for s in comparison.systems]
    return {"head": list(columns), "rows": rows}


def _mean(values: Sequence[float]) -> str:
    return mean_and_spread([math.fsum(values) / len(values)], ".1f")


def _updates(runs: Mapping[Any, list[Row]]) -> int:
    """Optimiser updates of the run with the fewest."""
    return int(min(rows[-1].get("updates", 0) for rows in runs.values()))


def _training_numbers(
    comparison: Comparison, histories: Histories, quickly: Speed | None
) -> dict[str, Any]:
    """For programs: run by run, what was reached when, and loss against dev EER."""
    keys = ("epoch", "updates", "samples", "minutes")
    numbers: dict[str, Any] = {}
    for system in comparison.systems:
        found = loss_and_eer(system, histories[system.label])
        numbers[system.label] = {"loss_and_eer": [_plain(value) for value in found]}
        if quickly:
            numbers[system.label] |= {
                f"{key}_to_target": [row[key] for row in quickly.reached[system.label]]
                for key in keys
            }
    return {"target_eer": quickly.targets if quickly else [], "systems": numbers}


LEARNING = {
    "loss": ([Curve("loss", "training loss")], "training loss (nats)"),
    "eer": ([Curve("EER", "dev EER", ORANGE, factor=100)], "dev EER (%)"),
    "accuracy": ([Curve("accuracy", "accuracy", factor=100)], "accuracy (%)"),
    "shares": (
        [
            Curve("kept", "non-targets kept", factor=100),
            Curve("zero_loss", "crops that keep none", ORANGE, "--", 100),
        ],
        "share (%)",
    ),
    "windows": ([Curve("window", "batches of an update")], "batches of an update"),
}


def _draw_learning(
    comparison: Comparison, histories: Histories, folder: Path
) -> dict[str, Path]:
    """Draw what the histories have over epochs; paths by the names of ``LEARNING``."""
    base = comparison.baseline
    adaptive = {
        system.label
        for system in comparison.systems
        if system.results[0].settings.get("max_accumulation", 1) > 1
    }
    paths: dict[str, Path] = {}
    for name, (curves, unit) in LEARNING.items():
        keys = {curve.key for curve in curves}
        shown = {
            label: list(runs.values())
            for label, runs in histories.items()
            if any(keys & set(row) for rows in runs.values() for row in rows)
            and (name != "windows" or label in adaptive)
        }
        if shown:
            plot_learning(
                shown,
                paths.setdefault(name, folder / f"learning_{name}.png"),
                curves,
                unit,
                baseline=base.label if name in ("eer", "accuracy") else "",
                full=base.settings.margin_end_epoch,
            )
    return paths


def _draw_sweeps(
    comparison: Comparison,
    lists: Mapping[str, Mapping[str, Any]],
    replicates: int,
    folder: Path,
) -> list[tuple[str, str, Path]]:
    """Draw EERs against the values of settings, on dev and the lists reported."""
    groups = [group for *_, lines in swept(comparison) for group in lines.values()]
    if not groups:
        return []
    estimates = {name: one["statistics"].estimates for name, one in lists.items()}
    if "dev" not in estimates:
        shown = {comparison.baseline.label, *(s.label for one in groups for s in one)}
        parts = [
            replace(part, runs={k: v for k, v in part.runs.items() if k in shown})
            for part in comparison.parts("dev")
        ]
        dev = analyse(parts, [], [EER], replicates).estimates
        estimates = {"dev": dev, **estimates}
    return draw_sweeps(comparison, estimates, folder)


def _draw(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Draw all plots but those of the geometry; their paths, for the template."""
    base, systems = comparison.baseline, comparison.systems
    plots: dict[str, Any] = {"det": [], "scores": {}}
    others = [s for s in systems if s is not base]
    size = len(COLOURS) - 1  # besides the baseline
    groups = [others[i : i + size] for i in range(0, len(others), size)] or [[]]
    for name in comparison.tests:
        drawn = {
            s.label: (
                s.typical.scores[name],
                comparison.folds[s.typical.cell.fold].labels(name),
            )
            for s in systems
        }
        for number, group in enumerate(groups, 1):
            several = len(groups) > 1
            title = f"{name} ({number} of {len(groups)})" if several else name
            path = folder / f"det_{name}_{number}.png"
            plot_det(
                {s.label: drawn[s.label] for s in [base, *group]}, path, title=title
            )
            plots["det"].append({"path": path, "title": title, "several": several})
        path = plots["scores"][name] = folder / f"scores_{name}.png"
        densities = {}
        for system in systems:
            one = drawn[system.label]
            densities[system.label] = (*one, threshold_at(*one), score_unit(system))
        plot_histograms(densities, path)
    return plots


def score_unit(system: System) -> str:
    """What a score of a system is."""
    geometry = system.variant.head().classifier.geometry
    return "minus Poincaré distance" if geometry == "poincare" else "cosine"


def _settings(comparison: Comparison) -> dict[str, Any]:
    """Settings of the losses and those that all runs share; versions and machines."""
    rows = []
    for variant in (system.variant for system in comparison.systems):
        values = {**select.settings(variant.loss), **dict(variant.settings)}
        text = ", ".join(f"{k}={v}" for k, v in values.items() if v is not None)
        rows.append([variant.label, text])
    results = list(comparison.results())
    settings, versions = results[0].settings, results[0].versions
    shared = [
        f"{key}={json.dumps(settings[key])}"
        for key in sorted(settings)
        if key not in FREE_TO_CHANGE
        and key != "loss_options"
        and all(r.settings.get(key, math.nan) == settings[key] for r in results)
    ]
    return {
        "settings": rows,
        "shared": ", ".join(shared),
        "versions": ", ".join(f"{k} {v}" for k, v in sorted(versions.items())),
        "mixed_versions": any(r.versions != versions for r in results),
        "machines": list(dict.fromkeys(_machine(r) for r in results)),
    }


def _machine(result: CellResult) -> str:
    facts = result.marker.get("machine", {})
    text = ", ".join(f"{key} {value}" for key, value in sorted(facts.items()))
    device = result.settings.get("device") or "cpu"
    return f"{text}; {device}; {result.marker.get('jobs', 1)} at a time"


def _numbers(
    comparison: Comparison, lists: dict[str, dict[str, Any]], command: str
) -> dict[str, Any]:
    """The tables, for programs; null is what is not known, as of the baseline."""
    base = comparison.baseline.label

    def plain(estimate: Estimate, one: Difference) -> dict[str, float | None]:
        values = vars(one) | {"difference_low": one.low, "difference_high": one.high}
        values |= vars(estimate)
        return _known(values)

    tables, contrasts = {}, {}
    for name, result in lists.items():
        statistics, known = result["statistics"], result["statistics"].differences
        tables[name] = {
            label: {
                metric: plain(
                    estimate, statistics.between(label, base).get(metric, UNKNOWN)
                )
                for metric, estimate in estimates.items()
            }
            for label, estimates in statistics.estimates.items()
        }
        contrasts[name] = {
            " against ".join(pair): {
                metric: _known(vars(one)) for metric, one in known[pair].items()
            }
            for pair in comparison.planned
        }
    return {
        "baseline": base,
        "command": command,
        "chosen_on_dev": {
            loss: comparison.chosen(loss).label for loss in comparison.losses
        },
        "lists": tables,
        "planned": contrasts,
        "too_few": {name: result["few"] for name, result in lists.items()},
        "missing": comparison.missing,
        "hard": {name: one.note for name, one in comparison.hard.items()},
        "seeds": comparison.plan.seeds,
        "folds": [fold for fold in comparison.plan.folds if fold],
    }


def _known(values: Mapping[str, float]) -> dict[str, float | None]:
    return {k: _plain(v) for k, v in values.items()}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
