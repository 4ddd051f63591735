"""Means over an epoch, summed on the device so that no step waits for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from speechbrain.utils.distributed import ddp_all_reduce
from torch import Tensor


class Tally:
    """Sums of the figures of batches, over all samples of an epoch.

    Values that are not finite are left out. ``state`` and ``load`` carry the sums
    through a checkpoint, so that a resumed epoch tells the means of the whole epoch.

    Example
    -------
    >>> tally = Tally()
    >>> tally.add(2, {"loss": torch.tensor(1.0)})
    >>> tally.add(6, {"loss": torch.tensor(3.0)})
    >>> tally.add(4, {"loss": torch.tensor(float("nan"))})
    >>> tally.means()
    {'loss': 2.5}
    >>> again = Tally()
    >>> again.load(tally.state())
    >>> again.means()
    {'loss': 2.5}
    """

    def __init__(self) -> None:
        # Names of the figures -> [2, K]: their sums, and the samples in them.
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def reset(self) -> None:
        """Forget everything: a new epoch begins."""
        self._sums = {}

    @torch.no_grad()
    def add(self, samples: int, values: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Arguments
        ---------
        samples : int
            Its size.
        values : mapping of str to torch.Tensor
            Means over the batch, 0-dim.
        """
        names = tuple(values)
        row = torch.stack([v.detach().float() for v in values.values()])
        finite = row.isfinite()
        row = torch.where(finite, row, 0.0)
        both = torch.stack([row, finite.to(row.dtype)]).double() * samples
        before = self._sums.get(names)
        self._sums[names] = both if before is None else before.to(both) + both

    def means(self, everywhere: bool = False) -> dict[str, float]:
        """The means so far (waits for the device).

        Arguments
        ---------
        everywhere : bool
            Whether to take the samples of all processes; then all must call.

        Returns
        -------
        dict of str to float
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

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from the sums of a checkpoint."""
        self._sums = {
            tuple(names.split(" ")): torch.tensor(sums, dtype=torch.float64)
            for names, sums in state.items()
        }
