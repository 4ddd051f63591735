"""``sb-margins embed MODEL a.wav ... --out e.npz``: embeddings for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import Positional, arg

from sb_margins.commands.model import ModelSettings, print_notes
from sb_margins.commands.options import parse
from sb_margins.errors import UserError


@dataclass(kw_only=True)
class EmbedSettings(ModelSettings):
    """Embeddings of recordings, as an npz file that `verify --embeddings` reads.

    Its arrays: ids [N], embeddings [N, D] (float32), fingerprint, similarity.
    """

    files: Annotated[Positional[list[str]], arg(metavar="FILE ...")]
    """Recordings."""
    out: str = "embeddings.npz"
    """The file to write."""
    normalize: bool = False
    """Scale embeddings to length 1."""


def main(argv: list[str]) -> int:
    """Write embeddings of recordings."""
    settings = parse(EmbedSettings, argv, "embed")
    out = Path(settings.out)
    if out.suffix != ".npz":
        raise UserError(f"--out {out} should end in .npz")
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
