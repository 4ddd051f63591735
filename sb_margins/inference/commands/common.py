"""What the commands that use a model share."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sb_margins.inference.verifier import SpeakerVerifier

DEFAULT_SET = "enrolled.npz"


def parser_for(
    name: str, description: str, epilog: str = ""
) -> argparse.ArgumentParser:
    """A parser with the options of every command that loads a model.

    Arguments
    ---------
    name : str
        The command.
    description, epilog : str
        For its help.

    Returns
    -------
    argparse.ArgumentParser

    Example
    -------
    >>> parser_for("embed", "Embeddings.").parse_args(["model"]).model
    'model'
    """
    parser = argparse.ArgumentParser(
        prog=f"sb-margins {name}",
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="a model folder, or a name on the hub")
    parser.add_argument(
        "--device", help="cpu, cuda, ...; default: a GPU if there is one"
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        choices=("fp32", "bf16", "fp16"),
        help="default fp32",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run whatever the model's YAML names; only for models of people you trust",
    )
    return parser


def load(args: argparse.Namespace) -> SpeakerVerifier:
    """The model that the options ask for.

    Arguments
    ---------
    args : argparse.Namespace
        From a parser of `parser_for`.

    Returns
    -------
    SpeakerVerifier

    Example
    -------
    >>> load(parser_for("embed", "Embeddings.").parse_args(["./nowhere"]))
    Traceback (most recent call last):
    ...
    sb_margins.errors.UserError: no such model folder: ./nowhere
    """
    from sb_margins.inference.verifier import SpeakerVerifier

    logging.getLogger("speechbrain").setLevel(logging.ERROR)
    run_opts = {"precision": args.precision}
    if args.device:
        run_opts["device"] = args.device
    return SpeakerVerifier.from_hparams(args.model, trust=args.trust, run_opts=run_opts)


def tell_notes(notes: dict[str, list[str]]) -> None:
    """Say on standard error what is poor about recordings.

    Arguments
    ---------
    notes : dict of str to list of str
        From `SpeakerVerifier.encode_files`.

    Example
    -------
    >>> tell_notes({})
    """
    for path, lines in notes.items():
        for line in lines:
            print(f"note: {path} {line}", file=sys.stderr)
