"""The one error that users see: what is wrong, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """Bad input, told in words; the command line prints it and exits with 2.

    Example
    -------
    >>> raise UserError("no such folder: x. Give --data_folder a folder")
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no such folder: x. Give --data_folder a folder
    """


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of a sentence that guesses what was meant.

    Arguments
    ---------
    name : str
        What the user wrote.
    choices : iterable of str
        What exists.

    Returns
    -------
    str
        ``" Did you mean 'x' or 'y'?"``, or ``""`` when nothing is near.

    Example
    -------
    >>> nearest("aamm", ["am", "aam", "ham"])
    " Did you mean 'aam', 'am' or 'ham'?"
    >>> nearest("qqq", ["am"])
    ''
    """
    found = difflib.get_close_matches(name, list(choices), n=3, cutoff=0.5)
    if not found:
        return ""
    quoted = [f"'{c}'" for c in found]
    listed = quoted[0]
    if len(quoted) > 1:
        listed = ", ".join(quoted[:-1]) + " or " + quoted[-1]
    return f" Did you mean {listed}?"


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message; only the first ``most`` of many.

    Example
    -------
    >>> listed(["a", "b", "c"], most=2)
    'a, b, ... (and 1 more)'
    """
    more = len(names) - most
    tail = f", ... (and {more} more)" if more > 0 else ""
    return ", ".join(names[:most]) + tail
