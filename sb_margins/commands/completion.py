"""``sb-margins completion SHELL``: a script that completes commands and flags."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from sb_margins import select
from sb_margins.commands import COMMANDS
from sb_margins.commands.options import parse


@dataclass
class CompletionSettings:
    """A script that completes commands, flags and losses in a shell.

    bash and zsh: put eval "$(sb-margins completion bash)" into ~/.bashrc (~/.zshrc);
    fish: sb-margins completion fish > ~/.config/fish/completions/sb-margins.fish
    """

    shell: Annotated[Positional[Literal["bash", "zsh", "fish"]], arg(metavar="SHELL")]
    """bash, zsh or fish."""


def help_of(command: str) -> str:
    """What ``sb-margins COMMAND --help`` prints."""
    text = io.StringIO()
    module = importlib.import_module(COMMANDS[command][0])
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        module.main(["--help"])
    return text.getvalue()


def flags_of(command: str) -> list[str]:
    """The flags of a command, as its help names them."""
    after_start_or_name = r"(?:^[│ ]*|, |[A-Z] )(--[a-z][\w-]*)"
    return sorted(set(re.findall(after_start_or_name, help_of(command), re.MULTILINE)))


def main(argv: list[str]) -> int:
    """Print the script."""
    shell = parse(CompletionSettings, argv, "completion").shell
    print(_fish() if shell == "fish" else _bash(zsh=shell == "zsh"))
    return 0


def _bash(zsh: bool) -> str:
    cases = "\n".join(
        f'    {name}) words="{" ".join(flags_of(name))}" ;;' for name in COMMANDS
    )
    first = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n"
    return f"""{first if zsh else ""}_sb_margins() {{
  local words="" verb="" cur="${{COMP_WORDS[COMP_CWORD]}}"
  if [ "$COMP_CWORD" -gt 1 ]; then verb="${{COMP_WORDS[1]}}"; fi
  case "${{COMP_WORDS[COMP_CWORD-1]}}" in
    --loss|--losses|plot-loss|losses) words="{" ".join(select.names())}" ;;
    *) case "$verb" in
{cases}
    *) words="{" ".join(COMMANDS)}" ;;
  esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _sb_margins sb-margins"""


def _fish() -> str:
    words = []
    for name, (_, text) in COMMANDS.items():
        words.append(f"-n __fish_use_subcommand -a {name} -d '{text}'")
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        words += [f"{seen} -l {flag[2:]}" for flag in flags_of(name)]
    words.append(f"-l loss -x -a '{' '.join(select.names())}'")
    return "\n".join(f"complete -c sb-margins {word}" for word in words)
