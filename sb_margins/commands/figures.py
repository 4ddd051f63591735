"""What the verbs that judge scores share: priors, intervals, the figures of a list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sb_margins.commands.options import Numbers
from sb_margins.data.manifest import read_utt2spk
from sb_margins.data.trials import Trials
from sb_margins.errors import UserError
from sb_margins.verification.bootstrap import (
    CONFIDENCE,
    REPLICATES,
    SEED,
    Sides,
    guessed_speakers_of,
    known_speakers_of,
)
from sb_margins.verification.metrics import P_TARGETS, bayes_threshold
from sb_margins.verification.report import figures


@dataclass(kw_only=True)
class FigureSettings:
    """What `verify` and `metrics` say of scores."""

    p_target: Numbers = field(default_factory=lambda: list(P_TARGETS))
    """Priors of the detection costs."""
    bootstrap: int = REPLICATES
    """Replicates over speakers for the intervals; 0: none."""
    utt2spk: str | None = None
    """Speakers for the intervals: lines 'utterance speaker', or a CSV; else guessed."""
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

    @cached_property
    def given_speakers(self) -> dict[str, str]:
        """The speakers of ``utt2spk``; the name of a speaker is that speaker's, too."""
        if not self.utt2spk:
            return {}
        speakers = read_utt2spk(self.utt2spk)
        return {who: who for who in speakers.values()} | speakers

    def sides(
        self, trials: Trials, known: Mapping[str, str] = {}
    ) -> tuple[Sides | None, bool]:
        """The speakers of both sides, and whether they are guessed.

        None where there are to be no intervals. ``known`` speakers of manifests count
        when they are those of all utterances.
        """
        if not self.bootstrap or trials.labels is None or not any(trials.test):
            return None, False
        complete = known and all(u in known for u in trials.utterances)
        speakers = self.given_speakers or (known if complete else None)
        sides: Sides | None = known_speakers_of(trials, speakers)
        guessed = sides is None
        if sides is None:
            sides = guessed_speakers_of(trials)
        return (sides, guessed) if max(s.max() for s in sides) > 0 else (None, False)

    @property
    def resampling(self) -> dict[str, Any]:
        """The settings of a bootstrap."""
        return {
            "replicates": self.bootstrap,
            "confidence": self.confidence,
            "seed": self.seed,
        }

    def figures(
        self,
        scores: np.ndarray,
        trials: Trials,
        calibrated: bool,
        known: Mapping[str, str] = {},
    ) -> dict[str, Any]:
        """The figures of a list, see `sb_margins.verification.report.figures`."""
        assert trials.labels is not None
        sides, guessed = self.sides(trials, known)
        row = figures(
            scores,
            trials.labels,
            speakers=sides,
            p_targets=self.p_target,
            calibrated=calibrated,
            **self.resampling,
        )
        return row | ({"speakers": "guessed from target pairs"} if guessed else {})
