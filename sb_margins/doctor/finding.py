"""One thing that the doctor found, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TextIO

Mark = Literal["good", "note", "bad"]
SIGNS = {"good": "✓", "note": "!", "bad": "✗"}
PLAIN_SIGNS = {"good": "ok", "note": "! ", "bad": "x "}
COLOURS = {"good": "green", "note": "yellow", "bad": "bold red"}


@dataclass(frozen=True)
class Finding:
    """A fact, how good it is, and a remedy.

    Arguments
    ---------
    mark : str
        ``good``, ``note`` (worth knowing), or ``bad`` (no training can start).
    name : str
        What was looked at.
    detail : str
        What was found.
    remedy : str
        What to do; ``""`` for nothing.

    Example
    -------
    >>> Finding("good", "Python", "3.11.7").remedy
    ''
    """

    mark: Mark
    name: str
    detail: str
    remedy: str = ""


def lines(findings: list[Finding], signs: dict[str, str]) -> list[tuple[str, str]]:
    """The text of each line, with the mark that colours it.

    Arguments
    ---------
    findings : list of Finding
        Of one heading.
    signs : dict of str to str
        From marks to what is printed.

    Returns
    -------
    list of tuples of str
        (mark, line).

    Example
    -------
    >>> lines([Finding("note", "GPU", "none", "rent one")], PLAIN_SIGNS)
    [('note', '  !  GPU             none'), ('note', '       -> rent one')]
    """
    out: list[tuple[str, str]] = []
    for found in findings:
        sign = signs[found.mark]
        out.append((found.mark, f"  {sign} {found.name:<15} {found.detail}"))
        if found.remedy:
            out.append((found.mark, f"       -> {found.remedy}"))
    return out


def show(heading: str, findings: list[Finding], stream: TextIO) -> None:
    """Print one room: in colour on a terminal, plainly elsewhere.

    Arguments
    ---------
    heading : str
        Its title.
    findings : list of Finding
        What was found there.
    stream : file
        Where to.

    Example
    -------
    >>> import sys
    >>> show("Machine", [Finding("good", "Python", "3.11.7")], sys.stdout)
    <BLANKLINE>
    Machine
      ... Python          3.11.7
    """
    encoding = (getattr(stream, "encoding", None) or "ascii").lower()
    signs = SIGNS if encoding.startswith("utf") else PLAIN_SIGNS
    texts = lines(findings, signs)
    if stream.isatty():
        try:
            from rich.console import Console
            from rich.text import Text
        except ImportError:  # the doctor comes also where packages are missing
            pass
        else:
            console = Console(file=stream, highlight=False)
            console.print()
            console.print(Text(heading, style="bold"))
            for mark, text in texts:
                # soft wrap: remedies can be copied in one piece
                console.print(Text(text, style=COLOURS[mark]), soft_wrap=True)
            return
    safe = "\n".join(["", heading, *(text for _, text in texts)])
    print(safe.encode(encoding, "replace").decode(encoding), file=stream)
