"""``sb-margins identify MODEL a.wav ...``: who is speaking?"""

from __future__ import annotations

from pathlib import Path

from sb_margins.errors import UserError
from sb_margins.inference.commands.common import (
    DEFAULT_SET,
    load,
    parser_for,
    tell_notes,
)


def main(argv: list[str]) -> int:
    """Print the enrolled speakers most like each recording.

    Arguments
    ---------
    argv : list of str
        MODEL and recordings.

    Returns
    -------
    int
        0 when done.
    """
    parser = parser_for("identify", "Which enrolled speaker is it?")
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings")
    parser.add_argument(
        "--set", default=DEFAULT_SET, help="made by enroll; default %(default)s"
    )
    parser.add_argument(
        "--top", type=int, default=3, help="how many; default %(default)s"
    )
    parser.add_argument(
        "--threshold", help="eer (default), far1, far0.1 of the model, or a score"
    )
    args = parser.parse_args(argv)
    if args.top < 1:
        raise UserError("--top must be 1 or more")
    if not Path(args.set).is_file():
        raise UserError(
            f"no enrolled speakers in {args.set}; run sb-margins enroll first"
        )
    model = load(args)
    if not len(model.use_enrolled(args.set)):
        raise UserError(f"nobody is enrolled in {args.set}")
    notes: dict[str, list[str]] = {}
    found = model.encode_files(args.files, notes)
    tell_notes(notes)
    for path, embedding in zip(args.files, found, strict=True):
        matches = model.identify_embedding(embedding, args.top, args.threshold)
        best = matches[0]
        who = best.name if best.same is not False else "nobody enrolled"
        print(f"{path}: {who}")
        for match in matches:
            mark = {True: "above the threshold", False: "below", None: ""}[match.same]
            print(f"  {match.score:8.4f}  {match.name}  {mark}".rstrip())
    return 0
