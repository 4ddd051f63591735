"""The one error that users see: what is wrong, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """Bad input: the message says what is wrong and what to do.

    The command line prints it as one line and exits with 2.

    Example
    -------
    >>> raise UserError("no such folder: x. Give --data-folder a folder")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no such folder: x. Give --data-folder a folder
    """


def nearest(name: str, choices: Iterable[str]) -> str:
    """`` Did you mean 'x' or 'y'?``, or nothing when no choice is near.

    >>> nearest("aamm", ["am", "aam", "ham"])
    " Did you mean 'aam', 'am' or 'ham'?"
    """
    found = difflib.get_close_matches(name, list(choices), cutoff=0.5)
    if not found:
        return ""
    quoted = [f"'{c}'" for c in found]
    listed = quoted[0]
    if len(quoted) > 1:
        listed = ", ".join(quoted[:-1]) + " or " + quoted[-1]
    return f" Did you mean {listed}?"


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message; only the first ``most`` of many.

    >>> listed(["a", "b", "c"], most=2)
    'a, b, ... (and 1 more)'
    """
    more = len(names) - most
    tail = f", ... (and {more} more)" if more > 0 else ""
    return ", ".join(names[:most]) + tail


def printable(text: str) -> str:
    """Control characters and bytes that are not UTF-8 as escapes; lines stay lines.

    >>> printable("a\\x1b[31m.wav")
    'a\\\\x1b[31m.wav'
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode()
        for c in text
    )
