"""``sb-margins embed MODEL a.wav ... --output e.npz``: embeddings as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from sb_margins.commands.model import ModelSettings, print_notes
from sb_margins.commands.options import Formerly, parse
from sb_margins.errors import UserError


@dataclass(kw_only=True)
class EmbedSettings(ModelSettings):
    """Embeddings of recordings, as an npz file that `verify --embeddings` reads.

    Its arrays: ids [N], embeddings [N, D] (float32), fingerprint, similarity.
    """

    files: Annotated[Positional[list[str]], arg(metavar="FILE ...")]
    """Recordings."""
    output: Annotated[str, Formerly("out")] = "embeddings.npz"
    """The file to write."""
    normalize: Annotated[bool, Formerly("normalise")] = False
    """Scale embeddings to length 1."""


def main(argv: list[str]) -> int:
    """Write embeddings of recordings."""
    settings = parse(EmbedSettings, argv, "embed")
    out = Path(settings.output)
    if out.suffix != ".npz":
        raise UserError(f"--output {out} should end in .npz")
    if not out.parent.is_dir():
        raise UserError(f"no such folder: {out.parent}")
    model = settings.load()
    embeddings = model.embed(settings.files)
    print_notes(embeddings.notes)
    if settings.normalize:
        matrix = embeddings.matrix
        embeddings.matrix = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    embeddings.save(out)
    count, size = embeddings.matrix.shape
    print(f"{count} embeddings of {size} numbers in {out}")
    return 0
