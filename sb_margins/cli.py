"""``sb-margins COMMAND ...``: runs one command and turns errors into exit statuses.

A command is a module with ``main(argv) -> int``; only the one that runs is imported,
so that ``--help`` is quick.
"""

from __future__ import annotations

import importlib
import os
import sys

from sb_margins import __version__
from sb_margins.errors import UserError, nearest, printable

COMMANDS = {
    "demo": ("sb_margins.commands.demo", "train, evaluate, export, verify, end to end"),
    "losses": ("sb_margins.commands.losses", "the losses: equation, defaults, source"),
    "prepare": ("sb_margins.commands.prepare", "make manifests and trial lists"),
    "train": ("sb_margins.commands.train", "train a verifier from a YAML"),
    "compare": ("sb_margins.commands.compare", "losses side by side: one report"),
    "plot-loss": ("sb_margins.commands.plot_loss", "draw losses and gradients"),
    "verify": ("sb_margins.commands.verify", "score trial lists with a model"),
    "metrics": ("sb_margins.commands.metrics", "EER, minDCF of a score file"),
    "export": ("sb_margins.commands.export", "results folder to model folder"),
    "verify-files": ("sb_margins.commands.verify_files", "same voice?"),
    "enroll": ("sb_margins.commands.enroll", "keep a speaker's voice"),
    "identify": ("sb_margins.commands.identify", "who is speaking?"),
    "embed": ("sb_margins.commands.embed", "embeddings of files (npz)"),
    "doctor": ("sb_margins.commands.doctor", "versions, devices, known traps"),
}


def usage() -> str:
    """The help page: one line per command."""
    lines = ["usage: sb-margins [--debug] COMMAND [options]", ""]
    lines += [f"  {name:<13} {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "sb-margins COMMAND --help   the options of a command",
        "sb-margins --version        the version",
        "sb-margins --debug COMMAND  show the traceback of an error",
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
    debug = argv[:1] == ["--debug"]
    name, *rest = argv[debug:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name in ("-V", "--version"):
        print(f"sb-margins {__version__}")
        return 0
    if hasattr(sys.stdout, "reconfigure"):  # lines reach a log or a pipe at once
        sys.stdout.reconfigure(line_buffering=True)
    try:
        if name not in COMMANDS:
            guess = nearest(name, COMMANDS)
            raise UserError(f"no command '{name}'.{guess} Try: sb-margins --help")
        command = importlib.import_module(COMMANDS[name][0])
        status = int(command.main(rest) or 0)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("sb-margins: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # ... | head: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, OSError, UnicodeError) as error:
        if debug:
            raise
        print(f"sb-margins: error: {printable(explain(error))}", file=sys.stderr)
        return 2


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
