"""One step of a set-up: a line on the screen, everything else in the log."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from typing import TextIO

from environment import Environment
from problems import SetupError, explain, say

IMPORTS = "import torch, torchaudio, speechbrain, sb_margins"


class Steps:
    """Runs the steps of one set-up in its environment.

    Arguments
    ---------
    env : Environment
        Where.
    lock : int
        A file descriptor that each step keeps open, so that a pip which outlives
        its killed set-up keeps the next one waiting.
    """

    def __init__(self, env: Environment, lock: int):
        self.env, self.lock = env, lock

    def pip(self, title: str, arguments: list[str]) -> None:
        """`pip install`; the user's own settings of pip hold."""
        command = ["-m", "pip", "install", "--progress-bar=off", *arguments]
        status, said = self._run(title, command)
        if status:
            raise SetupError(f"{explain(said, status)}\n        Log: {self.env.log}")

    def check_imports(self) -> None:
        """Import what everything rests on, once."""
        status, said = self._run("checking that it works", ["-c", IMPORTS])
        if status:
            last = said.strip().splitlines()[-1:] or [f"status {status}"]
            raise SetupError(
                f"what was installed cannot be imported: {last[0]}\n"
                f"        From nothing: make clean; make setup. Log: {self.env.log}"
            )

    def _run(self, title: str, arguments: list[str]) -> tuple[int, str]:
        start = time.monotonic()
        command = [str(self.env.python), *arguments]
        environ = {
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **os.environ,
            "PYTHONUNBUFFERED": "1",
        }
        with open(self.env.log, "a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            begin = log.tell()
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environ,
                pass_fds=(self.lock,),
            )
        with open(self.env.log, encoding="utf-8", errors="replace") as reader:
            reader.seek(begin)
            said = self._watch(child, reader, title, start)
        outcome = "failed after " if child.returncode else ""
        say(f"  {title}: {outcome}{time.monotonic() - start:.0f} s")
        return child.returncode, said

    def _watch(
        self, child: subprocess.Popen, reader: TextIO, title: str, start: float
    ) -> str:
        """Wait for the child; on a terminal, show what it is at."""
        said, shown, retried = "", False, False
        try:
            while True:
                ended = child.poll() is not None
                said += reader.read()
                if "Retrying (" in said and not retried:
                    say("  the package registry does not answer; trying again ...")
                    retried = True
                if ended:
                    return said
                if sys.stdout.isatty():
                    doing = re.findall(
                        r"^ *(Downloading|Installing) (.{,40})", said, re.M
                    )
                    what = " ".join(doing[-1]) if doing else "..."
                    line = f"  {title}: {time.monotonic() - start:.0f} s  {what}"
                    print(f"\r{line[:78]:<78}", end="", flush=True)
                    shown = True
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=0.3)
        except BaseException:
            child.terminate()
            child.wait()
            raise
        finally:
            if shown:
                print(f"\r{'':<78}\r", end="", flush=True)
