"""``sb-margins doctor``: what is here, and the remedy for each known trap."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from sb_margins.doctor.finding import Finding, show


def examine() -> Iterable[tuple[str, list[Finding]]]:
    """Look at everything, room by room.

    Yields
    ------
    tuple of (str, list of Finding)
        A heading, and what was found under it. Nothing raises: a package that
        cannot be imported is a finding.

    Example
    -------
    >>> heading, findings = next(iter(examine()))
    >>> heading
    'Machine'
    """
    from sb_margins.doctor import audio, machine, packages, settings

    yield "Machine", machine.findings()
    yield "PyTorch and GPU", packages.torch_findings()
    yield "SpeechBrain", packages.speechbrain_findings()
    yield "Audio", audio.findings()
    yield "Optional packages", packages.optional_findings()
    yield "Settings", settings.findings()


def main(argv: list[str]) -> int:
    """Print what was found, with remedies.

    Arguments
    ---------
    argv : list of str
        No options but ``--help``.

    Returns
    -------
    int
        0 when a training could start, 1 when something stands in its way.
    """
    parser = argparse.ArgumentParser(
        prog="sb-margins doctor",
        description="What is installed here, and a remedy for each known trap.",
        epilog="Exit status: 0 when a training could start, otherwise 1.",
        allow_abbrev=False,
    )
    parser.parse_args(argv)
    bad = 0
    for heading, findings in examine():
        show(heading, findings, sys.stdout)
        bad += sum(finding.mark == "bad" for finding in findings)
    if bad:
        things = "one thing stands" if bad == 1 else f"{bad} things stand"
        print(f"\n{things} in the way of a training (see above)")
    else:
        print("\na training can start")
    return 1 if bad else 0
