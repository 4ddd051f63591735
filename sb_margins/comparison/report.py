"""The report: one self-contained HTML page, the same in Markdown, numbers as JSON."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sb_margins import select
from sb_margins.comparison.geometry import describe_geometry, mean_and_spread
from sb_margins.comparison.results import Comparison, System
from sb_margins.comparison.statistics import Difference, Estimate, Statistics, analyse
from sb_margins.files import write_json, write_text
from sb_margins.plots.curves import plot_learning
from sb_margins.plots.det import plot_det
from sb_margins.plots.histogram import plot_histograms
from sb_margins.plots.style import COLOURS
from sb_margins.training.settings import FREE_TO_CHANGE, TrainingSettings
from sb_margins.verification.metrics import Metric, standard_metrics, threshold_at

METRICS = standard_metrics((0.01,))[:2]  # EER and minDCF(0.01)


DIFFERENCE_KEYS = ("change", "difference_low", "difference_high", "p_value", "p_holm")


def write_report(
    comparison: Comparison,
    command: str,
    *,
    metrics: Sequence[Metric] = METRICS,
    replicates: int = 2000,
    geometry: bool = True,
) -> Path:
    """Write ``report.html``, ``report.md``, ``report.json``, ``figures/``; the page.

    ``command`` reproduces the comparison; without ``geometry`` no embeddings are
    extracted.
    """
    output, contrasts = comparison.plan.output, comparison.contrasts
    statistics = {}
    for name in comparison.tests:
        statistics[name] = analyse(
            comparison.runs(name),
            comparison.labels(name),
            comparison.sides[name],
            contrasts,
            metrics,
            replicates=replicates,
        )
    figures = output / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for old in figures.glob("*.png"):
        old.unlink()
    content = {
        "title": f"Losses compared on {Path(comparison.prepared.data_root).name}",
        "comparison": comparison,
        "command": command,
        "replicates": replicates,
        "conclusions": {
            name: _conclusions(comparison, one, metrics)
            for name, one in statistics.items()
        },
        "lists": [
            _list_table(comparison, name, one, metrics, replicates)
            for name, one in statistics.items()
        ],
        "training": _training_table(comparison),
        "plots": _draw(comparison, figures),
        "geometry": describe_geometry(comparison, figures) if geometry else None,
        **_settings(comparison),
        **_origin(comparison),
    }
    write_json(output / "report.json", _numbers(comparison, statistics, command))
    write_text(output / "report.md", _render(content, "markdown.j2", output))
    write_text(output / "report.html", _render(content, "html.j2", output))
    return output / "report.html"


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


def _conclusions(
    comparison: Comparison, statistics: Statistics, metrics: Sequence[Metric]
) -> list[str]:
    """What is significant on a list, in sentences without full stops."""
    base = comparison.baseline.label
    lines = []
    for metric in metrics:
        rows = {k[0]: row[metric.name] for k, row in statistics.differences.items()}
        lower = "; ".join(label for label, one in rows.items() if one.better)
        higher = "; ".join(label for label, one in rows.items() if one.worse)
        if lower:
            lines.append(f"Significantly lower {metric.label} than {base}: {lower}")
        if higher:
            lines.append(f"Significantly higher {metric.label} than {base}: {higher}")
        if rows and not lower and not higher:
            lines.append(f"No significant difference in {metric.label} from {base}")
    return lines


def _list_table(
    comparison: Comparison,
    name: str,
    statistics: Statistics,
    metrics: Sequence[Metric],
    replicates: int,
) -> dict[str, Any]:
    """The results on a trial list."""
    labels = comparison.labels(name)
    base = comparison.baseline.label
    head = ["system"]
    for metric in metrics:
        head += [f"{metric.heading} ± sd", "95 % interval", "change", "p (Holm)"]
    rows = []
    for label, estimates in statistics.estimates.items():
        row = [label]
        differences = statistics.differences.get((label, base), {})
        for metric in metrics:
            row += _estimate_cells(metric, estimates[metric.name])
            row += _difference_cells(differences.get(metric.name))
        rows.append(row)
    comparisons = len(metrics) * len(statistics.differences)
    return {
        "name": name,
        "head": head,
        "rows": rows,
        "targets": int(labels.sum()),
        "nontargets": len(labels) - int(labels.sum()),
        "speakers": 1 + max(int(side.max()) for side in comparison.sides[name]),
        "comparisons": comparisons,
        "least_p": 2 / (replicates + 1) * comparisons,
    }


def _estimate_cells(metric: Metric, one: Estimate) -> list[str]:
    mean = metric.number(one.mean)
    if not math.isnan(one.spread):
        mean += f" ± {metric.number(one.spread)}"
    return [mean, f"{metric.number(one.low)} to {metric.number(one.high)}"]


def _difference_cells(one: Difference | None) -> list[str]:
    if one is None:
        return ["baseline", "-"]
    if math.isnan(one.p_value):
        return ["-", "-"]
    change = "-" if math.isnan(one.change) else f"{100 * one.change:+.1f} %"
    return [change, f"{one.p_holm:.3f}{' *' if one.significant else ''}"]


def _training_table(comparison: Comparison) -> dict[str, Any]:
    rows = []
    for system in comparison.systems:
        loss, results = system.variant.loss, system.results
        settings = results[0].settings
        chosen = "yes" if comparison.chosen(loss) is system else "no"
        dev = [100 * r.best.get("EER", math.nan) for r in results]
        accuracy = [100 * r.best.get("accuracy", math.nan) for r in results]
        row = [
            system.label,
            mean_and_spread(dev, ".2f"),
            f"{chosen} (of {len(comparison.settings_of(loss))})",
            str(len(results)),
            f"{_updates(comparison, settings):,}",
            _mean([r.minutes for r in results]),
            ", ".join(f"{r.best['epoch']:.0f}" for r in results),
            str(TrainingSettings.read(settings).number_of_epochs),
            _mean(accuracy),
        ]
        rows.append(row)
    head = ["system", "dev EER % ± sd", "chosen", "seeds", "updates", "minutes"]
    return {"head": [*head, "best epoch", "of", "accuracy %"], "rows": rows}


def _mean(values: Sequence[float]) -> str:
    mean = math.fsum(values) / len(values)
    return "-" if math.isnan(mean) else f"{mean:.1f}"


def _updates(comparison: Comparison, settings: dict[str, Any]) -> int:
    """Optimiser updates of a run (without adaptive accumulation)."""
    typed = TrainingSettings.read(settings)
    crops = len(comparison.prepared.manifest("train")) * typed.crops_per_utterance
    batches = crops // typed.batch_size
    factor = settings.get("grad_accumulation_factor") or 1
    return typed.number_of_epochs * -(-batches // factor)


def _draw(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Draw all plots but those of the geometry; their paths, for the template."""
    base, systems = comparison.baseline, comparison.systems
    plots: dict[str, Any] = {"learning": {}, "det": [], "scores": {}}
    histories = {s.label: [r.rows for r in s.results] for s in systems}
    for key in ("EER", "accuracy"):
        if any(key in row for rows in histories[base.label] for row in rows):
            path = plots["learning"][key] = folder / f"learning_{key.lower()}.png"
            plot_learning(histories, path, key=key, baseline=base.label)
    others = [s for s in systems if s is not base]
    size = len(COLOURS) - 1  # besides the baseline
    groups = [others[i : i + size] for i in range(0, len(others), size)] or [[]]
    for name in comparison.tests:
        labels = comparison.labels(name)
        for number, group in enumerate(groups, 1):
            several = len(groups) > 1
            title = f"{name} ({number} of {len(groups)})" if several else name
            path = folder / f"det_{name}_{number}.png"
            scores = {s.label: s.typical.scores[name] for s in [base, *group]}
            plot_det({k: (v, labels) for k, v in scores.items()}, path, title=title)
            plots["det"].append({"path": path, "title": title, "several": several})
        path = plots["scores"][name] = folder / f"scores_{name}.png"
        densities = {}
        for system in systems:
            scores_of = system.typical.scores[name]
            threshold = threshold_at(scores_of, labels)
            densities[system.label] = (scores_of, labels, threshold, score_unit(system))
        plot_histograms(densities, path)
    return plots


def score_unit(system: System) -> str:
    """What a score of a system is."""
    geometry = system.variant.head().classifier.geometry
    return "minus Poincaré distance" if geometry == "poincare" else "cosine"


def _settings(comparison: Comparison) -> dict[str, Any]:
    """Settings of the losses, those shared by all runs, and what to beware of."""
    rows = []
    for variant in (system.variant for system in comparison.systems):
        values = {**select.settings(variant.loss), **dict(variant.settings)}
        text = ", ".join(f"{k}={v}" for k, v in values.items() if v is not None)
        rows.append([variant.label, text])
    every = [result.settings for result in comparison.results()]
    first = every[0]
    shared = ", ".join(
        f"{key}={json.dumps(first[key])}"
        for key in sorted(first)
        if key not in FREE_TO_CHANGE
        and key != "loss_options"
        and all(key in one and one[key] == first[key] for one in every)
    )
    typed = [TrainingSettings.read(one) for one in every]
    return {
        "settings": rows,
        "shared": shared,
        "synthetic": any(one.corpus == "demo" for one in typed),
        "remarks": list(dict.fromkeys(text for one in typed for text in one.remarks)),
    }


def _origin(comparison: Comparison) -> dict[str, Any]:
    """Versions and machines of the runs."""
    versions, machines = [], []
    for result in comparison.results():
        versions.append(result.versions)
        facts = result.marker.get("machine", {})
        text = ", ".join(f"{key} {value}" for key, value in sorted(facts.items()))
        device = result.settings.get("device") or "cpu"
        machines.append(f"{text}; {device}; {result.marker.get('jobs', 1)} at a time")
    first = versions[0]
    return {
        "versions": ", ".join(f"{k} {v}" for k, v in sorted(first.items())),
        "mixed_versions": any(one != first for one in versions),
        "machines": list(dict.fromkeys(machines)),
    }


def _numbers(
    comparison: Comparison, statistics: dict[str, Statistics], command: str
) -> dict[str, Any]:
    """The tables, for programs."""
    base = comparison.baseline.label
    lists: dict[str, Any] = {}
    for name, one in statistics.items():
        for label, estimates in one.estimates.items():
            differences = one.differences.get((label, base), {})
            for metric, estimate in estimates.items():
                # Null for the baseline.
                values = dict.fromkeys(DIFFERENCE_KEYS, math.nan) | vars(estimate)
                difference = differences.get(metric)
                if difference is not None:
                    renamed = {"low": "difference_low", "high": "difference_high"}
                    values |= {
                        renamed.get(k, k): v for k, v in vars(difference).items()
                    }
                plain = {k: None if math.isnan(v) else v for k, v in values.items()}
                lists.setdefault(name, {}).setdefault(label, {})[metric] = plain
    return {
        "baseline": base,
        "command": command,
        "chosen_on_dev": {
            loss: comparison.chosen(loss).label for loss in comparison.losses
        },
        "lists": lists,
        "missing": comparison.missing,
        "seeds": comparison.plan.seeds,
    }
