"""``sb-margins COMMAND ...``: runs one command and turns errors into exit statuses.

A command is a module with ``main(argv) -> int``; only the one that runs is imported,
so that ``--help`` is quick.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

from sb_margins import __version__
from sb_margins.commands import COMMANDS
from sb_margins.errors import UserError, nearest, printable
from sb_margins.messages import log_to, no_progress


def usage() -> str:
    """The help page: one line per command."""
    lines = ["usage: sb-margins COMMAND [options]", ""]
    lines += [f"  {name:<13} {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "sb-margins COMMAND --help   the options of a command",
        "sb-margins --version        the version",
        "",
        "With every command:",
        "  --quiet          no progress: results, warnings and errors only",
        "  --log-file FILE  also append what is printed to a file",
        "  --debug          show the traceback of an error",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Arguments
    ---------
    argv : list of str, optional
        The words after ``sb-margins``; default: those of the process.

    Returns
    -------
    int
        0 when done, 2 for bad input (explained on standard error), 130 when
        interrupted; a command may return others.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    with contextlib.ExitStack() as stack:  # the log, if one is asked for
        try:
            return _run(_common_options(argv, stack))
        except KeyboardInterrupt:
            print("sb-margins: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # ... | head: nobody reads on
            _drop_output()
            return 0
        except (UserError, OSError, UnicodeError) as error:
            if "--debug" in argv:
                raise
            print(f"sb-margins: error: {printable(explain(error))}", file=sys.stderr)
            try:
                sys.stdout.flush()
            except OSError:  # of a full disk: Python would try it again at its end
                _drop_output()
            return 2


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _common_options(argv: list[str], stack: contextlib.ExitStack) -> list[str]:
    """Obey what every command understands; the words without it."""
    words = []
    rest = iter(argv)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag.replace("_", "-") == "--log-file":
            value = value if equals else next(rest, "")
            if not value:
                raise UserError("--log-file needs the name of a file")
            stack.enter_context(log_to(value, argv))
        elif word == "--quiet":
            stack.enter_context(no_progress())
        elif word != "--debug":
            words.append(word)
    return words


def _run(argv: list[str]) -> int:
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name in ("-V", "--version"):
        print(f"sb-margins {__version__}")
        return 0
    if hasattr(sys.stdout, "reconfigure"):  # lines reach a log or a pipe at once
        sys.stdout.reconfigure(line_buffering=True)
    if name not in COMMANDS:
        guess = nearest(name, COMMANDS)
        raise UserError(f"no command '{name}'.{guess} Try: sb-margins --help")
    command = importlib.import_module(COMMANDS[name][0])
    status = int(command.main(rest) or 0)
    sys.stdout.flush()
    return status


def explain(error: Exception) -> str:
    """What to print for an error that no command has explained itself."""
    if isinstance(error, UnicodeError) and not isinstance(error, UserError):
        return f"a text is not UTF-8: {error}. Convert it, or rename the file"
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        )
    return str(error) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
