"""Each epoch's figures: one row of a CSV, one line on the screen."""

from __future__ import annotations

import csv
from pathlib import Path

from sb_margins.verification.metrics import standard_metrics

Row = dict[str, float]
VALIDATION = standard_metrics((0.01,))[:2]  # EER, minDCF(0.01); columns by label


class History:
    """The figures of a training, epoch by epoch, kept in a CSV file.

    Arguments
    ---------
    path : Path
        The file; an existing one is continued. Running an epoch again replaces its
        row, so that a resumed training leaves no doubles.

    Example
    -------
    >>> history = History(getfixture("tmp_path") / "history.csv")
    >>> history.add({"epoch": 1, "loss": 2.5, "EER": 0.125, "seconds": 3.0})
    >>> History(history.path).rows[0]["EER"]
    0.125
    >>> print(history.line(history.rows[0], 20))
    epoch  1/20  loss 2.500  dev EER 12.50 %  3 s
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.rows: list[Row] = []
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    self.rows.append({k: float(v) for k, v in row.items() if v})

    def add(self, row: Row) -> None:
        """Add an epoch's row; a row of the same or a later epoch goes."""
        self.rows = [r for r in self.rows if r["epoch"] < row["epoch"]] + [dict(row)]
        names = list(dict.fromkeys(name for r in self.rows for name in r))
        new = self.path.with_suffix(".new")
        with open(new, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        new.replace(self.path)

    @property
    def best(self) -> Row | None:
        """The row with the lowest EER (of the trained epochs), None without any."""
        trained = [r for r in self.rows if "EER" in r and r["epoch"] > 0]
        return min(trained, key=lambda r: r["EER"], default=None)

    def line(self, row: Row, epochs: int) -> str:
        """One epoch for the screen."""
        width = len(str(epochs))
        parts = [f"epoch {int(row['epoch']):>{width}}/{epochs}"]
        shown = {
            "loss": "loss {:.3f}",
            "accuracy": "acc {:.1%}",
            "margin": "margin {:.2f}",
            "lr": "lr {:.1e}",
        }
        for name, form in shown.items():
            if name in row:
                parts.append(form.format(row[name]).replace("%", " %"))
        measured = [m for m in VALIDATION if m.label in row]
        dev = [f"{m.label} {m.format(row[m.label])}" for m in measured]
        if dev:
            parts.append("dev " + "  ".join(dev))
        for name, form in {"utt/s": "{:.0f} utt/s", "seconds": "{:.0f} s"}.items():
            if name in row:
                parts.append(form.format(row[name]))
        return "  ".join(parts)
