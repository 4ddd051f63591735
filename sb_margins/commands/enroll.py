"""``sb-margins enroll MODEL NAME a.wav ...``: keep a speaker's voice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from tyro.conf import Positional, arg

from sb_margins.commands.model import DEFAULT_SET, VoiceSettings, print_notes
from sb_margins.commands.options import Formerly, parse
from sb_margins.errors import UserError
from sb_margins.files import locked


@dataclass(kw_only=True)
class EnrollSettings(VoiceSettings):
    """Keep the voice of a speaker, for identify."""

    name: Annotated[Positional[str | None], arg(metavar="NAME")] = None
    """The speaker's name."""
    files: Annotated[Positional[list[str]], arg(metavar="FILE ...")] = field(
        default_factory=list
    )
    """Recordings of the speaker."""
    enrolled: Annotated[str, Formerly("set")] = DEFAULT_SET
    """The file that keeps the speakers."""
    replace: bool = False
    """Forget earlier recordings."""
    remove: bool = False
    """Forget the speaker."""
    list_: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Who is enrolled."""
    json: bool = False
    """With --list: print JSON, name to number of recordings."""


def main(argv: list[str]) -> int:
    """Enroll, list or forget speakers."""
    settings = parse(EnrollSettings, argv, "enroll")
    name, path = settings.name, settings.enrolled
    if not settings.list_ and not name:
        raise UserError("enroll needs a NAME and recordings (or --list)")
    if not settings.list_ and bool(settings.files) == settings.remove:
        raise UserError("give either recordings to enroll, or --remove")
    model = settings.load()
    people = model.use_enrolled(path)
    if settings.list_:
        if settings.json:
            print(json.dumps({known: people.count(known) for known in people.names}))
            return 0
        for known in people.names:
            print(f"{known}\t{people.count(known)}")
        return 0
    assert name is not None
    if settings.remove:
        with locked(path):
            people = model.use_enrolled(path)
            people.remove(name)
            people.save()
        print(f"{name} is forgotten; {len(people)} speakers in {path}")
        return 0
    notes: dict[str, list[str]] = {}
    count = model.enroll(name, settings.files, replace=settings.replace, notes=notes)
    print_notes(notes)
    plural = "recording" if count == 1 else "recordings"
    print(f"{name}: {count} {plural}; {len(model.enrolled)} enrolled in {path}")
    return 0
