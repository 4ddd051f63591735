"""What a run reports: means over an epoch, where embeddings lie, the history."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.distributed import ddp_all_reduce
from torch import Tensor

from sb_margins.classifiers import PoincareClassifier
from sb_margins.errors import UserError
from sb_margins.files import write_whole
from sb_margins.verification.metrics import Metric, standard_metrics

Row = dict[str, float]

VALIDATION = standard_metrics((0.01,))[:2]  # EER, minDCF(0.01); columns by label


def _measured(metric: Metric, value: float) -> str:
    first = "dev " if metric is VALIDATION[0] else ""
    return f"{first}{metric.label} {metric.format(value)}"


# What the line of an epoch shows, in this order.
SHOWN: dict[str, Callable[[float], str]] = {
    "loss": "loss {:.3f}".format,
    "accuracy": lambda share: f"acc {100 * share:.1f} %",
    "margin": "margin {:.2f}".format,
    "lr": "lr {:.1e}".format,
    **{metric.label: partial(_measured, metric) for metric in VALIDATION},
    "utt/s": "{:.0f} utt/s".format,
    "seconds": "{:.0f} s".format,
}


class History:
    """The figures of a run, epoch by epoch, kept in a CSV file.

    An existing file is continued. Running an epoch again replaces its row and drops
    later ones, so that a resumed run leaves no doubles.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.rows: list[Row] = []
        if not self.path.is_file():
            return
        try:
            with open(self.path, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    self.rows.append({k: float(v) for k, v in row.items() if v})
            [row["epoch"] for row in self.rows]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path} is damaged ({error}). Delete it to begin a new one"
            ) from error

    def add(self, row: Row) -> None:
        """Add an epoch's row."""
        self.rows = [r for r in self.rows if r["epoch"] < row["epoch"]] + [dict(row)]
        names = list(dict.fromkeys(name for r in self.rows for name in r))
        with write_whole(self.path) as temporary:
            with open(temporary, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, names)
                writer.writeheader()
                writer.writerows(self.rows)

    @property
    def best(self) -> Row | None:
        """The row with the lowest EER (of the trained epochs), None without any."""
        trained = [r for r in self.rows if "EER" in r and r["epoch"] > 0]
        return min(trained, key=lambda r: r["EER"], default=None)

    def line(self, row: Row, epochs: int) -> str:
        """One epoch for the screen."""
        parts = [f"epoch {int(row['epoch']):>{len(str(epochs))}}/{epochs}"]
        parts += [write(row[name]) for name, write in SHOWN.items() if name in row]
        return "  ".join(parts)


class Tally:
    """Means over the samples of an epoch, summed on the device: no step waits.

    Values that are not finite are left out. ``state`` and ``load`` carry the sums
    through a checkpoint, so that a resumed epoch reports the means of all of it.

    Example
    -------
    >>> tally = Tally()
    >>> tally.add(2, {"loss": torch.tensor(1.0)})
    >>> tally.add(6, {"loss": torch.tensor(3.0)})
    >>> tally.add(4, {"loss": torch.tensor(float("nan"))})
    >>> tally.means()
    {'loss': 2.5}
    """

    def __init__(self) -> None:
        # Names of the figures -> [2, K]: their sums, and the samples in them.
        self._sums: dict[tuple[str, ...], Tensor] = {}

    @torch.no_grad()
    def add(self, samples: int, values: Mapping[str, Tensor]) -> None:
        """Add a batch: its size, and 0-dim means over it."""
        names = tuple(values)
        row = torch.stack([v.detach().float() for v in values.values()])
        finite = row.isfinite()
        row = torch.where(finite, row, 0.0)
        both = torch.stack([row, finite.to(row.dtype)]).double() * samples
        before = self._sums.get(names)
        self._sums[names] = both if before is None else before + both

    def mean(self, name: str) -> Tensor:
        """The mean of one figure so far, on the device (NaN without any)."""
        columns = [s[:, n.index(name)] for n, s in self._sums.items() if name in n]
        total, count = sum(columns[1:], columns[0])
        return total / count

    def means(self, everywhere: bool = False) -> dict[str, float]:
        """The means so far (waits for the device).

        ``everywhere`` takes the samples of all processes; then all must call.
        """
        means: dict[str, float] = {}
        for names, sums in self._sums.items():
            if everywhere:
                sums = ddp_all_reduce(sums.clone(), torch.distributed.ReduceOp.SUM)
            total, count = sums.tolist()
            for name, value, n in zip(names, total, count, strict=True):
                if n:
                    means[name] = value / n
        return means

    def state(self) -> dict[str, Any]:
        """The sums as plain lists."""
        return {" ".join(names): s.tolist() for names, s in self._sums.items()}

    def load(self, state: Mapping[str, Any], device: Any = "cpu") -> None:
        """Continue from the sums of a checkpoint."""
        self._sums = {
            tuple(names.split(" ")): torch.tensor(
                sums, dtype=torch.float64, device=device
            )
            for names, sums in state.items()
        }


def edge_distance(classifier: PoincareClassifier, vectors: Tensor) -> Tensor:
    """How far vectors [N, D] are from the edge of the ball: 1 in its centre, 0 at it.

    The unit metric's ball ends where it clips; the textbook ball's at 1 / sqrt(c),
    where ``vectors`` are tangents at the origin.
    """
    root = classifier.curvature**0.5
    norms = vectors.norm(dim=1)
    if classifier.metric == "unit":
        return (1 - norms * root / (1 - 1e-5)).clamp_min(0)
    # 1 - tanh(z), without its cancellation
    return 2 / ((2 * root * norms).exp() + 1)


def _balls(head: Any) -> list[tuple[str, PoincareClassifier]]:
    """The hyperbolic classifiers of a head, those of a joint head numbered."""
    parts = getattr(head.classifier, "classifiers", None)
    named = [("", head.classifier)]
    if parts is not None:
        named = [(f"{i}.", part) for i, part in enumerate(parts)]
    return [(n, part) for n, part in named if isinstance(part, PoincareClassifier)]


@torch.no_grad()
def embedding_figures(head: Any, embeddings: Tensor) -> dict[str, Tensor]:
    """Mean norm of a batch, and for a ball its mean distance from the edge."""
    vectors = embeddings.detach().float()
    figures = {"embedding_norm": vectors.norm(dim=1).mean()}
    for prefix, ball in _balls(head):
        clipped = vectors if ball.metric == "unit" else ball.clipped(vectors)
        figures[f"{prefix}embedding_edge"] = edge_distance(ball, clipped).mean()
    return figures


@torch.no_grad()
def prototype_figures(head: Any) -> dict[str, float]:
    """For a ball, the classes' mean and least distance from its edge."""
    figures: dict[str, float] = {}
    for prefix, ball in _balls(head):
        edges = edge_distance(ball, ball.weight.detach().float())
        mean = head.ranks.sum(edges.sum()) / ball.out_neurons
        figures[f"{prefix}prototype_edge"] = float(mean)
        least = -head.ranks.maximum(-edges.min())
        figures[f"{prefix}prototype_edge_min"] = float(least)
    return figures
