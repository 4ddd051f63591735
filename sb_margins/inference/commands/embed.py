"""``sb-margins embed MODEL a.wav ... --out e.npz``: embeddings for other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sb_margins.errors import UserError
from sb_margins.inference.commands.common import load, parser_for, tell_notes


def main(argv: list[str]) -> int:
    """Write embeddings of recordings.

    Arguments
    ---------
    argv : list of str
        MODEL, recordings, ``--out``.

    Returns
    -------
    int
        0 when done.
    """
    parser = parser_for(
        "embed",
        "Embeddings of recordings, as an npz file with arrays ids [N] and\n"
        "embeddings [N, D] (float32).",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings")
    parser.add_argument("--out", default="embeddings.npz", help="default %(default)s")
    parser.add_argument("--normalize", action="store_true", help="scale to length 1")
    args = parser.parse_args(argv)
    out = Path(args.out)
    if not out.parent.is_dir():
        raise UserError(f"no such folder: {out.parent}")
    model = load(args)
    notes: dict[str, list[str]] = {}
    found = model.encode_files(args.files, notes).numpy()
    tell_notes(notes)
    if args.normalize:
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    try:
        with out.open("wb") as file:
            np.savez(file, ids=np.array(args.files, dtype=np.str_), embeddings=found)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}") from error
    print(f"{len(found)} embeddings of {found.shape[1]} numbers in {out}")
    return 0
