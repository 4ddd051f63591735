"""``sb-margins prepare CORPUS``: manifests and trial lists from a corpus."""

from __future__ import annotations

import argparse
from typing import Any

from sb_margins.data.corpus import Corpus
from sb_margins.data.preparation import (
    COMMON,
    COMMON_HELP,
    CORPORA,
    corpus_named,
    prepare,
)
from sb_margins.errors import UserError

PROG = "sb-margins prepare"


def main(argv: list[str]) -> int:
    """Run the command.

    Arguments
    ---------
    argv : list of str
        The words after ``sb-margins prepare``.

    Returns
    -------
    int
        0 when done.

    Raises
    ------
    UserError
        For bad input, before anything is written.

    Example
    -------
    >>> main([])
    usage: sb-margins prepare CORPUS --data_folder FOLDER --save_folder FOLDER ...
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if argv[0].startswith("-"):
        raise UserError(f"the corpus comes first: {PROG} CORPUS ... ({argv[0]} found)")
    layout = corpus_named(argv[0])
    given = vars(_parser(layout).parse_args(argv[1:]))
    fixed = ("data_folder", "save_folder", "seed", "workers")
    options = {k: v for k, v in given.items() if k not in fixed and v is not None}
    prepared = prepare(layout.name, **{name: given[name] for name in fixed}, **options)
    print(f"{prepared.folder}: {', '.join(prepared.splits)}")
    return 0


def _usage() -> str:
    lines = [
        f"usage: {PROG} CORPUS --data_folder FOLDER --save_folder FOLDER [options]",
        "",
        "Write manifests (<split>.csv) and trial lists (trials_<split>.txt). Corpora:",
        "",
    ]
    lines += [f"  {name:<17} {corpus_named(name).title}" for name in CORPORA]
    lines += ["", f"{PROG} CORPUS --help tells a corpus's own options."]
    return "\n".join(lines)


def _parser(layout: Corpus) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{PROG} {layout.name}", description=layout.title, allow_abbrev=False
    )
    made = layout.default_folder is not None
    parser.add_argument(
        "--data_folder",
        required=not made,
        help="where the audio is" + (" or goes (default: the cache)" if made else ""),
    )
    parser.add_argument("--save_folder", required=True, help="where manifests go")
    parser.add_argument("--seed", type=int, default=1986, help="of splits and trials")
    parser.add_argument(
        "--workers", type=int, default=0, help="threads; 0 (default) = two per core"
    )
    options = {**COMMON, **layout.options}
    for name, default in options.items():
        text = {**COMMON_HELP, **layout.help}.get(name, "")
        flag: dict[str, Any] = {"type": type(default)}
        if isinstance(default, bool):
            flag = {"type": _truth, "nargs": "?", "const": True}
        parser.add_argument(
            f"--{name}",
            metavar=type(default).__name__.upper(),
            help=f"{text} (default: {default if default != '' else 'none'})",
            **flag,
        )
    return parser


def _truth(word: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False}
    if word.lower() not in {**known, "0": False}:
        raise argparse.ArgumentTypeError(f"'{word}' is neither true nor false")
    return known.get(word.lower(), False)
