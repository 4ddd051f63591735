"""``sb-margins verify-files MODEL a.wav b.flac``: the same voice?"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from sb_margins.commands.model import VoiceSettings, print_notes
from sb_margins.commands.options import parse
from sb_margins.errors import UserError, printable


@dataclass(kw_only=True)
class VerifyFilesSettings(VoiceSettings):
    """Do two recordings hold the same voice?

    With more than two files, all but the last are of one known speaker.
    """

    files: Annotated[Positional[list[str]], arg(metavar="FILE ...")]
    """Two or more recordings."""
    threshold: str | None = None
    """eer (default), far1, far0.1 of the model, or a score."""
    json: bool = False
    """Print one line of JSON."""


def main(argv: list[str]) -> int:
    """Score two recordings and decide; 0 whatever the decision."""
    settings = parse(VerifyFilesSettings, argv, "verify-files")
    if len(settings.files) < 2:
        raise UserError("verify-files needs two recordings to compare")
    from sb_margins.inference.thresholds import describe

    model = settings.load()
    limit = None
    if settings.threshold is not None or model.thresholds:
        limit = model.threshold(settings.threshold)
    notes: dict[str, list[str]] = {}
    score = float(model.score_files(settings.files[:-1], settings.files[-1], notes))
    print_notes(notes)
    llr = None if model.calibration is None else float(model.llr(score))
    same = None if limit is None else score > limit
    means = None
    if limit is not None:
        means = describe(model.thresholds, settings.threshold)
    if settings.json:
        verdict = {"score": score, "threshold": limit, "same": same, "llr": llr}
        more = {"threshold_meaning": means, "warnings": model.warnings, "notes": notes}
        print(json.dumps({**verdict, **more}))
        return 0
    for text in model.warnings:
        print(printable(f"attention  {text}"))
    kind = "cosine similarity"
    if hasattr(model.similarity, "curvature"):
        kind = "negative Poincaré distance"
    print(f"score      {score:.4f}  ({kind}; larger: more alike)")
    if limit is None:
        print(
            "threshold  none: the model has no calibrated one; give --threshold SCORE"
        )
        return 0
    print(printable(f"threshold  {limit:.4f}  ({means})"))
    if llr is not None:
        times = math.exp(min(abs(llr), 700))
        hypothesis = "the same speaker" if llr > 0 else "two speakers"
        factor = "over 1000" if times > 1000 else f"{times:.3g}"
        print(
            f"evidence   {factor} times as likely if it is {hypothesis} "
            f"(LLR {llr:+.2f})"
        )
    print(f"decision   {'same speaker' if same else 'different speakers'}")
    return 0
