"""Commands killed at each change that they make to the file system, or out of disk."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

CHANGES = {
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "shutil.move",
    "shutil.rmtree",
}


def _run(words: Sequence[str]) -> int:
    from sb_margins.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(list(words))
        except SystemExit as end:
            status = int(end.code or 0)
    if "Traceback" in err.getvalue() or (status and not err.getvalue().strip()):
        return 99
    return status


def _in_child(prepare, words: Sequence[str]) -> int:
    """Fork, prepare, run; the exit status, negative for a signal."""
    child = os.fork()
    if not child:
        status = 98
        try:
            prepare()
            status = _run(words)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at_each_change(
    words: Sequence[str], folder: Path, step: int = 1
) -> Iterator[int]:
    """Run a command and kill it (-9) before its n-th change under ``folder``.

    Yields n = 1, 1 + step, ... after each kill; ends when the command runs to its end.
    """
    for number in itertools.count(1, step):
        left = [number]

        def changes(event: str, arguments: tuple, left=left) -> None:
            if event == "open":
                path, _, flags = arguments
                if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR):
                    return
            elif event in CHANGES:
                path = arguments[0]
            else:
                return
            if isinstance(path, int) or not str(path).startswith(str(folder)):
                return
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        status = _in_child(lambda changes=changes: sys.addaudithook(changes), words)
        if status == 0:
            return
        assert status == -signal.SIGKILL, status
        yield number


def run_with_file_limit(words: Sequence[str], size: int) -> int:
    """Run a command that can write at most ``size`` bytes to a file, as on a full disk.

    The exit status; 99 for a traceback or an error without a message.
    """

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return _in_child(limit, words)


def listing(folder: Path) -> list[str]:
    """Every file under a folder but locks and complete parts of a cache."""
    paths = (path for path in folder.rglob("*") if not path.is_dir())
    names = (str(path.relative_to(folder)) for path in paths)
    kept = (n for n in names if not re.search(r"\.lock$|cache/\w+/part-[^.]*\.npz$", n))
    return sorted(kept)
