"""``sb-margins enroll MODEL NAME a.wav ...``: keep a speaker's voice."""

from __future__ import annotations

from sb_margins.errors import UserError
from sb_margins.inference.commands.common import (
    DEFAULT_SET,
    load,
    parser_for,
    tell_notes,
)
from sb_margins.inference.enrolled import locked


def main(argv: list[str]) -> int:
    """Enroll, list or forget speakers.

    Arguments
    ---------
    argv : list of str
        MODEL, NAME and recordings.

    Returns
    -------
    int
        0 when done.
    """
    parser = parser_for("enroll", "Keep the voice of a speaker, for identify.")
    parser.add_argument("name", nargs="?", help="the speaker's name")
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="recordings of the speaker"
    )
    parser.add_argument(
        "--set", default=DEFAULT_SET, help="file to keep; default %(default)s"
    )
    parser.add_argument(
        "--replace", action="store_true", help="forget earlier recordings"
    )
    parser.add_argument("--remove", action="store_true", help="forget the speaker")
    parser.add_argument("--list", action="store_true", help="who is enrolled")
    args = parser.parse_args(argv)
    if not args.list and not args.name:
        raise UserError("enroll needs a NAME and recordings (or --list)")
    if not args.list and bool(args.files) == args.remove:
        raise UserError("give either recordings to enroll, or --remove")
    model = load(args)
    people = model.use_enrolled(args.set)
    if args.list:
        for name in people.names:
            print(f"{name}\t{people.count(name)}")
        return 0
    if args.remove:
        with locked(args.set):
            people = model.use_enrolled(args.set)
            people.remove(args.name)
            people.save()
        print(f"{args.name} is forgotten; {len(people)} speakers in {args.set}")
        return 0
    notes: dict[str, list[str]] = {}
    count = model.enroll(args.name, args.files, replace=args.replace, notes=notes)
    tell_notes(notes)
    plural = "recording" if count == 1 else "recordings"
    total = len(model.enrolled)
    print(f"{args.name}: {count} {plural}; {total} enrolled in {args.set}")
    return 0
