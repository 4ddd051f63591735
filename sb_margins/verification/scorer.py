"""How embeddings become scores: a similarity, and what a cohort adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb_margins.data.trials import Trials
from sb_margins.verification.calibration import quality_measures
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.normalisation import Normaliser
from sb_margins.verification.scoring import index_trials, model_name, score_trials


@dataclass
class Scorer:
    """How embeddings become scores: similarity, mean to subtract, normalisation."""

    embeddings: Embeddings
    similarity: Any
    name: str
    device: str
    mean: np.ndarray | None = None
    normaliser: Normaliser | None = None

    @property
    def normalisation(self) -> str:
        """The name of the normalisation."""
        return self.normaliser.name if self.normaliser else "none"

    def unit(self, calibrated: bool) -> str:
        """What a score is, for an axis."""
        if calibrated:
            return "log-likelihood ratio (nats)"
        if self.normaliser:
            return f"{self.normaliser.method}-norm score (cohort standard deviations)"
        known = {
            "PLDA": "PLDA score (log-likelihood ratio, nats)",
            "poincare": "negative Poincaré distance",
        }
        return known.get(self.name, self.name)

    def score(self, trials: Trials) -> np.ndarray:
        """[N] scores of a list."""
        return score_trials(
            self.embeddings,
            trials,
            self.similarity,
            mean=self.mean,
            normaliser=self.normaliser,
            device=self.device,
        )

    def quality(
        self, trials: Trials, measures: Sequence[str]
    ) -> tuple[np.ndarray, list[str]]:
        """[N, M] quality measures of a list, and their names."""
        index = index_trials(self.embeddings, trials, self.similarity)
        seconds = dict(self.embeddings.seconds)
        for name, members in trials.models.items():
            seconds[model_name(name)] = sum(seconds.get(m, 0.0) for m in members)
        cohort_mean = None
        if "cohort" in measures and self.normaliser is not None:
            cohort_mean = self.normaliser.cohort_means(index.names)
        return quality_measures(
            index,
            seconds=seconds if "duration" in measures else None,
            magnitude="magnitude" in measures,
            cohort_mean=cohort_mean,
        )
