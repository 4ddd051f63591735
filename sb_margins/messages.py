"""What a command prints beside its results: progress (``--quiet``), ``--log-file``."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

QUIET = "SB_MARGINS_QUIET"


@contextlib.contextmanager
def no_progress() -> Iterator[None]:
    """Only results, warnings and errors, here and in processes started from here."""
    before = os.environ.get(QUIET, "")
    os.environ[QUIET] = "1"
    try:
        yield
    finally:
        os.environ[QUIET] = before


def progress(text: str, file: TextIO | None = None) -> None:
    """Print what is going on, unless the user wants results only."""
    if not os.environ.get(QUIET):
        print(text, file=file, flush=True)


def progress_bar(*args: Any, shown: bool = True, **keywords: Any) -> Any:
    """A ``tqdm``: on a terminal only, and not with ``--quiet``."""
    from tqdm import tqdm

    hidden = not shown or bool(os.environ.get(QUIET))
    return tqdm(*args, disable=hidden or None, **keywords)


@contextlib.contextmanager
def log_to(path: str | Path, argv: Sequence[str]) -> Iterator[None]:
    """Append what is printed to a file too; progress bars stay on the terminal."""
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as log:
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        log.write(f"\n# {when} sb-margins {shlex.join(argv)}\n")
        with (
            contextlib.redirect_stdout(_Tee(sys.stdout, log)),
            contextlib.redirect_stderr(_Tee(sys.stderr, log)),
        ):
            yield


class _Tee:
    """A stream that also writes to a log; everything else is the stream's."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self.stream, self.log = stream, log

    def write(self, text: str) -> int:
        if "\r" not in text:
            self.log.write(text)
            self.log.flush()
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
