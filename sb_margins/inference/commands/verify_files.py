"""``sb-margins verify-files MODEL a.wav b.flac``: the same voice?"""

from __future__ import annotations

import json
import math
from typing import Any

from sb_margins.errors import UserError
from sb_margins.inference.commands.common import load, parser_for, tell_notes
from sb_margins.inference.thresholds import describe


def main(argv: list[str]) -> int:
    """Score two recordings and decide.

    Arguments
    ---------
    argv : list of str
        MODEL, one or more files of the known voice, the file in question.

    Returns
    -------
    int
        0, whatever the decision.
    """
    parser = parser_for(
        "verify-files",
        "Do two recordings hold the same voice?\n"
        "With more than two files, all but the last are of one known speaker.",
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="two or more recordings"
    )
    parser.add_argument(
        "--threshold", help="eer (default), far1, far0.1 of the model, or a score"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args(argv)
    if len(args.files) < 2:
        raise UserError("verify-files needs two recordings to compare")
    model = load(args)
    limit = None
    if args.threshold is not None or model.thresholds:
        limit = model.threshold(args.threshold)
    notes: dict[str, list[str]] = {}
    score = float(model.score_files(args.files[:-1], args.files[-1], notes))
    tell_notes(notes)
    llr = None if model.calibration is None else float(model.llr(score))
    same = None if limit is None else score > limit
    what = "negative Poincaré distance" if _is_distance(model) else "cosine similarity"
    if args.json:
        found = {"score": score, "threshold": limit, "same": same, "llr": llr}
        means = None if limit is None else describe(model.thresholds, args.threshold)
        print(json.dumps({**found, "threshold_meaning": means, "notes": notes}))
        return 0
    print(f"score      {score:.4f}  ({what}; larger: more alike)")
    if limit is None:
        print(
            "threshold  none: the model has no calibrated one; give --threshold SCORE"
        )
        return 0
    print(f"threshold  {limit:.4f}  ({describe(model.thresholds, args.threshold)})")
    if llr is not None:
        times = math.exp(min(abs(llr), 700))
        kind = "the same speaker" if llr > 0 else "two speakers"
        told = "over 1000" if times > 1000 else f"{times:.3g}"
        print(f"evidence   {told} times as likely if it is {kind} (LLR {llr:+.2f})")
    print(f"decision   {'same speaker' if same else 'different speakers'}")
    return 0


def _is_distance(model: Any) -> bool:
    return hasattr(model.similarity, "curvature")
