"""What the verbs that judge scores share: priors, intervals, the figures of a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sb_margins.commands.options import Numbers
from sb_margins.errors import UserError
from sb_margins.verification.bootstrap import CONFIDENCE, REPLICATES, SEED, Sides
from sb_margins.verification.metrics import P_TARGETS, bayes_threshold
from sb_margins.verification.report import figures


@dataclass(kw_only=True)
class FigureSettings:
    """What `verify` and `metrics` say of scores."""

    p_target: Numbers = field(default_factory=lambda: list(P_TARGETS))
    """Priors of the detection costs."""
    bootstrap: int = REPLICATES
    """Replicates over speakers for the intervals; 0: none."""
    confidence: float = CONFIDENCE
    """Of the intervals."""
    seed: int = SEED
    """Of everything that is drawn."""

    def check(self) -> None:
        """Raise for values out of range, before any work is done."""
        if not self.p_target:
            raise UserError("p_target is empty; give one prior at least")
        for p_target in self.p_target:
            bayes_threshold(p_target)  # checks it
        if self.bootstrap == 1 or self.bootstrap < 0:
            raise UserError("bootstrap must be 0 (no intervals) or at least 2")

    @property
    def resampling(self) -> dict[str, Any]:
        """The settings of a bootstrap."""
        return {
            "replicates": self.bootstrap,
            "confidence": self.confidence,
            "seed": self.seed,
        }

    def figures(
        self, scores: np.ndarray, labels: Any, sides: Sides | None, calibrated: bool
    ) -> dict[str, Any]:
        """The figures of a list, see `sb_margins.verification.report.figures`."""
        return figures(
            scores,
            labels,
            speakers=sides,
            p_targets=self.p_target,
            calibrated=calibrated,
            **self.resampling,
        )
