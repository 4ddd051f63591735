"""``sb-margins doctor``: what is installed here, and what to do about it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TextIO

from sb_margins.doctor import Finding, examine

SIGNS = {"good": "✓", "note": "!", "bad": "✗"}
PLAIN_SIGNS = {"good": "ok", "note": "! ", "bad": "x "}
COLOURS = {"good": "32", "note": "33", "bad": "1;31"}


@dataclass
class DoctorSettings:
    """Versions, devices and known traps with their remedies.

    Exit status: 0 when a run can start, otherwise 1.
    """

    json: bool = False
    """Print JSON instead."""


def show(heading: str, findings: list[Finding], stream: TextIO) -> None:
    """Print findings: in colour on a terminal, plainly elsewhere."""
    encoding = (stream.encoding or "ascii").lower()
    signs = SIGNS if encoding.startswith("utf") else PLAIN_SIGNS
    lines = ["", heading]
    for found in findings:
        mark = "bad" if found.bad else "note" if found.remedy else "good"
        text = f"  {signs[mark]} {found.name:<15} {found.detail}"
        if found.remedy:
            text += f"\n       -> {found.remedy}"
        if stream.isatty():
            text = f"\x1b[{COLOURS[mark]}m{text}\x1b[0m"
        lines.append(text)
    text = "\n".join(lines)
    print(text.encode(encoding, "replace").decode(encoding), file=stream)


def main(argv: list[str]) -> int:
    as_json = False
    if argv:  # tyro may be one of the packages that are missing
        from sb_margins.commands.options import parse

        as_json = parse(DoctorSettings, argv, "doctor").json
    examined = list(examine())
    bad = sum(found.bad for _, findings in examined for found in findings)
    if as_json:
        print(
            json.dumps({name: [f._asdict() for f in found] for name, found in examined})
        )
        return 1 if bad else 0
    for heading, findings in examined:
        show(heading, findings, sys.stdout)
    things = "1 problem prevents" if bad == 1 else f"{bad} problems prevent"
    print(f"\n{things} a run (see above)" if bad else "\na run can start")
    return 1 if bad else 0
