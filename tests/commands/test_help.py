"""The help of all verbs, side by side: one word for one thing, and no silent change.

``python tests/commands/test_help.py`` writes the snapshot anew: read its difference.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sb_margins.cli import COMMANDS, usage
from sb_margins.commands.completion import flags_of, help_of, main

SNAPSHOT = Path(__file__).parents[1] / "fixtures" / "help.txt"
#: Second names of what has one: these are no flags of any verb.
ONE_NAME = {
    "--data", "--data-root", "--out", "--save", "--top", "--folder", "--results",
    "--normalise", "--enrollment", "--dev", "--half", "--verbose", "--silent",
}  # fmt: skip


def all_help() -> str:
    parts = [usage()]
    for command in COMMANDS:
        text = re.sub(r"[ │╭╮╰╯─]*[╮╯│]$", "", help_of(command), flags=re.MULTILINE)
        parts.append(re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip())
    return "\n\n\n".join(parts) + "\n"


def in_a_terminal_of_100() -> str:
    """The help as a user meets it, whatever the width of the terminal of the tests."""
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
    words = [sys.executable, __file__, "--print"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_is_the_snapshot():
    written, now = SNAPSHOT.read_text(encoding="utf-8"), in_a_terminal_of_100()
    assert now == written, "python tests/commands/test_help.py writes it anew"


@pytest.mark.parametrize("command", COMMANDS)
def test_one_word_for_one_thing(command):
    flags = set(flags_of(command))
    assert flags.isdisjoint(ONE_NAME)
    assert not any("_" in flag for flag in flags)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_every_command_and_flag(shell, capsys):
    assert main([shell]) == 0
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert command in script
    assert "skip-bad" in script and "real_am" in script


def test_bash_completes(capsys, tmp_path):
    main(["bash"])
    script = tmp_path / "completion"
    script.write_text(
        capsys.readouterr().out
        + "\nCOMP_WORDS=($@); COMP_CWORD=$(($# - 1)); _sb_margins; echo ${COMPREPLY[@]}"
    )

    def complete(*words):
        shell = ["bash", str(script), "sb-margins", *words]
        return subprocess.run(shell, capture_output=True, text=True).stdout.split()

    assert complete("verify") == ["verify", "verify-files"]
    assert complete("verify", "--tri") == ["--trials"]
    assert complete("train", "a.yaml", "--loss", "ha") == ["ham"]


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        print(all_help(), end="")
    else:
        SNAPSHOT.write_text(in_a_terminal_of_100(), encoding="utf-8")
