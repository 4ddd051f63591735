"""``sb-margins identify MODEL a.wav ...``: who is speaking?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from sb_margins.commands.model import DEFAULT_SET, VoiceSettings, print_notes
from sb_margins.commands.options import Formerly, parse
from sb_margins.errors import UserError, printable


@dataclass(kw_only=True)
class IdentifySettings(VoiceSettings):
    """Which enrolled speaker is it?"""

    files: Annotated[Positional[list[str]], arg(metavar="FILE ...")]
    """Recordings."""
    enrolled: Annotated[str, Formerly("set")] = DEFAULT_SET
    """The file that enroll made."""
    matches: Annotated[int, Formerly("top")] = 3
    """How many speakers to show."""
    threshold: str | None = None
    """eer (default), far1, far0.1 of the model, or a score."""
    json: bool = False
    """Print one line of JSON for each recording."""


def main(argv: list[str]) -> int:
    """Print the enrolled speakers most like each recording."""
    settings = parse(IdentifySettings, argv, "identify")
    if settings.matches < 1:
        raise UserError("--matches must be 1 or more")
    if not Path(settings.enrolled).is_file():
        raise UserError(
            f"no enrolled speakers in {settings.enrolled}; run sb-margins enroll first"
        )
    model = settings.load()
    if not len(model.use_enrolled(settings.enrolled)):
        raise UserError(f"nobody is enrolled in {settings.enrolled}")
    notes: dict[str, list[str]] = {}
    embeddings = model.encode_files(settings.files, notes)
    print_notes(notes)
    if not settings.json:
        for text in model.warnings:
            print(printable(f"attention: {text}"))
    for path, embedding in zip(settings.files, embeddings, strict=True):
        matches = model.identify_embedding(
            embedding, settings.matches, settings.threshold
        )
        best = matches[0]
        if settings.json:
            answer = {"file": path, "matches": [asdict(m) for m in matches]}
            print(json.dumps({**answer, "warnings": model.warnings}))
            continue
        who = best.name if best.same is not False else "nobody enrolled"
        others = ", ".join(match.name for match in matches[1:] if match.same)
        who += f" (also above the threshold: {others})" if others else ""
        print(printable(f"{path}: {who}"))
        for match in matches:
            mark = {True: "above the threshold", False: "below", None: ""}[match.same]
            print(f"  {match.score:8.4f}  {match.name}  {mark}".rstrip())
    return 0
