"""The model card: what the model is, what it measured, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sb_margins.inference.thresholds import Threshold

MEANING = {
    "eer": "false alarms and misses equally frequent",
    "far1": "at most 1 % false alarms",
    "far0.1": "at most 0.1 % false alarms",
}


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def flat(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics as one row: names joined by spaces, lists left out.

    Arguments
    ---------
    metrics : mapping
        Names to numbers, text or mappings of these.
    prefix : str
        Put before every name.

    Returns
    -------
    dict
        Name to number or text.

    Example
    -------
    >>> flat({"eer": 0.04, "min_dcf": {"0.01": 0.4}})
    {'eer': 0.04, 'min_dcf 0.01': 0.4}
    """
    row: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            row.update(flat(value, f"{prefix}{name} "))
        elif isinstance(value, (int, float, str)):
            row[f"{prefix}{name}"] = value
    return row


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """Measured results as a Markdown table.

    Arguments
    ---------
    metrics : mapping
        Trial list name to its metrics (nested mappings are flattened), or the
        metrics of a single list.

    Returns
    -------
    str
        A table with one line per trial list; a sentence when there are none.

    Example
    -------
    >>> print(metrics_table({"test": {"EER %": 4.2}}))
    | trials | EER % |
    |---|---|
    | test | 4.2 |
    """
    if not metrics:
        return "Nothing was measured before the export."
    nested = all(isinstance(value, Mapping) for value in metrics.values())
    rows = {k: flat(v) for k, v in metrics.items()} if nested else {"": flat(metrics)}
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = ["| trials | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        cells = [_cell(row.get(column, "")) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def thresholds_table(thresholds: Mapping[str, Threshold]) -> str:
    """The thresholds as a Markdown table.

    Arguments
    ---------
    thresholds : mapping of str to Threshold
        What the model folder carries.

    Returns
    -------
    str
        One line per threshold; a sentence when there are none.

    Example
    -------
    >>> print(thresholds_table({"eer": Threshold(0.4, 0.05, 0.05, "dev")}))
    | name | score above | meant for | false alarms | misses | calibrated on |
    |---|---|---|---|---|---|
    | eer | 0.4 | false alarms and misses equally frequent | 5 % | 5 % | dev |
    """
    if not thresholds:
        return (
            "None: the model was exported without development scores. Give "
            "`threshold=` a value found on trials of your own."
        )
    lines = [
        "| name | score above | meant for | false alarms | misses | calibrated on |",
        "|---|---|---|---|---|---|",
    ]
    for name, point in thresholds.items():
        lines.append(
            f"| {name} | {point.value:.4g} | {MEANING.get(name, name)} "
            f"| {100 * point.far:.3g} % | {100 * point.miss:.3g} % | {point.data} |"
        )
    return "\n".join(lines)


def card(
    title: str,
    *,
    about: Mapping[str, Any],
    metrics: Mapping[str, Any],
    thresholds: Mapping[str, Threshold],
    similarity: str,
    plain: bool,
) -> str:
    """The text of a model folder's README.md.

    Arguments
    ---------
    title : str
        Its heading.
    about : mapping
        Facts to list: loss, corpus, size, versions.
    metrics : mapping
        See `metrics_table`.
    thresholds : mapping of str to Threshold
        See `thresholds_table`.
    similarity : str
        How two embeddings are compared, in words.
    plain : bool
        Whether plain SpeechBrain scores this model rightly.

    Returns
    -------
    str
        Markdown.

    Example
    -------
    >>> text = card(
    ...     "Toy",
    ...     about={"loss": "am"},
    ...     metrics={},
    ...     thresholds={},
    ...     similarity="cosine",
    ...     plain=True,
    ... )
    >>> text.splitlines()[10]
    '# Toy'
    """
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    if plain:
        alone = (
            "Or with SpeechBrain alone (cosine score; its fixed threshold of 0.25 "
            "does not fit,\nso compare the score with one of the thresholds above):"
            "\n\n```python\n"
            "from speechbrain.inference.speaker import SpeakerRecognition\n\n"
            'model = SpeakerRecognition.from_hparams(source="THIS_FOLDER")\n'
            'score, _ = model.verify_files("a.wav", "b.wav")\n```\n'
        )
    else:
        alone = (
            "This model is not scored by cosines, so it needs sb_margins: plain "
            "SpeechBrain\nwithout that package refuses to load it rather than score "
            "it wrongly.\n"
        )
    return f"""---
library_name: speechbrain
tags:
- speaker-verification
- speaker-embeddings
- speechbrain
- sb_margins
pipeline_tag: audio-classification
---

# {title}

{facts}

## Measured

{metrics_table(metrics)}

## Thresholds

Scores: {similarity}; larger means more likely the same speaker.

{thresholds_table(thresholds)}

## Use

```
sb-margins verify-files THIS_FOLDER a.wav b.flac
```

```python
from sb_margins.inference import SpeakerVerifier

model = SpeakerVerifier.from_hparams("THIS_FOLDER")
score, same = model.verify_files("a.wav", "b.flac", threshold="far1")
```

{alone}"""
