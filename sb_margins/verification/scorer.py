"""How embeddings become scores: a similarity, and what a cohort adds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.similarity import Similarity
from sb_margins.verification.calibration import Calibration
from sb_margins.verification.embeddings import Embeddings
from sb_margins.verification.normalisation import Normaliser
from sb_margins.verification.scoring import index_trials, model_name, score_trials

UNITS = {
    "PLDA": "PLDA score (log-likelihood ratio, nats)",
    "poincare": "negative Poincaré distance",
}


@dataclass
class Scorer:
    """How embeddings become scores: similarity, mean to subtract, normalisation."""

    embeddings: Embeddings
    similarity: Similarity
    device: str = "cpu"
    mean: np.ndarray | None = None
    normaliser: Normaliser | None = None

    @property
    def name(self) -> str:
        """The similarity and what is subtracted, for a table."""
        name = self.similarity.settings()["name"]
        return name if self.mean is None else f"{name}, mean subtracted"

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
        return UNITS.get(self.name, self.name)

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

    def calibrate(
        self,
        lists: Mapping[str, Trials],
        scores: Mapping[str, np.ndarray],
        dev: str,
        measures: Collection[str] = (),
        p_target: float = 0.05,
    ) -> tuple[Calibration, dict[str, np.ndarray]]:
        """A map fitted on the list ``dev``, and the log-likelihood ratios of all."""
        quality = {name: self.quality(lists[name], measures) for name in lists}
        calibration = Calibration.fit(
            scores[dev], lists[dev].labels, quality[dev], p_target=p_target
        )
        llrs = {name: calibration.apply(scores[name], quality[name]) for name in lists}
        return calibration, llrs

    def quality(
        self, trials: Trials, measures: Collection[str]
    ) -> dict[str, np.ndarray]:
        """How hard a trial is: the smaller and the larger value [N] of both sides.

        ``duration``, that of ``speech`` (of a model: the sum) and ``magnitude`` (the
        embedding's length) as logarithms; ``cohort``: the mean cohort score.
        """
        if not measures:
            return {}
        index = index_trials(self.embeddings, trials, self.similarity)
        values: dict[str, np.ndarray] = {}
        known = {
            "duration": ("log seconds", self.embeddings.seconds, 1e-3),
            "speech": ("log seconds of speech", self.embeddings.speech, 0.1),
        }
        for measure in known.keys() & measures:
            column, given, least = known[measure]
            seconds = dict(given)
            for name, members in trials.models.items():
                seconds[model_name(name)] = sum(seconds.get(m, 0.0) for m in members)
            unknown = [name for name in index.names if name not in seconds]
            if unknown:
                raise UserError(f"no {measure} is known for {len(unknown)} utterances")
            durations = np.array([seconds[name] for name in index.names])
            values[column] = np.log(np.maximum(durations, least))
        if "magnitude" in measures:
            norms = np.linalg.norm(index.matrix.astype(np.float64), axis=1)
            values["log magnitude"] = np.log(np.maximum(norms, 1e-12))
        if "cohort" in measures:
            if self.normaliser is None:
                raise UserError("the quality measure cohort needs a normalisation")
            values["cohort mean"] = self.normaliser.cohort_means(index.names)
        columns = {}
        for name, value in values.items():
            sides = value[index.enrol], value[index.test]
            columns[f"{name}, smaller"] = np.minimum(*sides)
            columns[f"{name}, larger"] = np.maximum(*sides)
        return columns
