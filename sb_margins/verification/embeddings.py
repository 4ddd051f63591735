"""Embeddings by name, in memory and in one kind of file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from sb_margins.errors import UserError, listed
from sb_margins.files import read_arrays, write_whole


def lookup(row_of: Mapping[str, int], names: Sequence[str]) -> np.ndarray:
    """Numbers [len(names)] of names, int64; a KeyError when one is not there."""
    if len(names) < 2:
        return np.array([row_of[name] for name in names], np.int64)
    # One call for all names: half the time of a loop for 580,000 trials.
    return np.array(itemgetter(*names)(row_of), np.int64)


@dataclass
class Embeddings:
    """Embeddings by name, and what is known about where they come from.

    ``ids`` [N] are distinct, ``matrix`` is [N, D] float32, not normalised; ``row_of``
    maps each name to its row. Where known: utterances whose audio is unusable and why
    (``skipped``), durations in ``seconds``, those of ``speech``, what makes audio poor
    (``notes``, see `sb_margins.audio.Recording`), the ``fingerprint`` of the model
    (`sb_margins.encoder.SpeakerEncoder`), settings of its ``similarity``.

    Example
    -------
    >>> embeddings = Embeddings(["a", "b"], np.eye(2, dtype=np.float32))
    >>> embeddings.rows(["b", "a", "b"]).tolist()
    [1, 0, 1]
    """

    ids: list[str]
    matrix: np.ndarray
    skipped: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fingerprint: str | None = None
    similarity: Mapping[str, Any] | None = None
    speech: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or len(self.matrix) != len(self.ids):
            raise UserError(
                f"{len(self.ids)} utterances but embeddings of shape "
                f"{list(self.matrix.shape)}; expected [{len(self.ids)}, D]"
            )
        self.row_of = {name: row for row, name in enumerate(self.ids)}
        if len(self.row_of) != len(self.ids):
            raise UserError("embeddings name an utterance twice")

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: object) -> bool:
        return name in self.row_of

    def rows(self, names: Sequence[str]) -> np.ndarray:
        """Row numbers [len(names)] of some utterances, or one error for all unknown."""
        try:
            return lookup(self.row_of, names)
        except KeyError:
            missing = sorted({n for n in names if n not in self.row_of})
            raise UserError(
                f"{len(missing)} utterances have no embedding: {listed(missing)}"
            ) from None

    def subset(self, keep: Sequence[int] | np.ndarray) -> Embeddings:
        """The embeddings at some rows, in that order."""
        return Embeddings(
            [self.ids[row] for row in keep],
            self.matrix[keep],
            fingerprint=self.fingerprint,
            similarity=self.similarity,
        )

    def save(self, path: str | Path) -> None:
        """Write an ``.npz``: ids, embeddings, fingerprint, similarity (as JSON).

        The same embeddings give the same bytes.
        """
        about = "" if self.similarity is None else json.dumps(self.similarity)
        with write_whole(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                ids=np.array(self.ids, dtype=np.str_),
                embeddings=self.matrix,
                fingerprint=np.array(self.fingerprint or ""),
                similarity=np.array(about),
            )

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Read an ``.npz`` with ``ids`` [N] (text) and ``embeddings`` [N, D].

        ``matrix`` is an older name of ``embeddings``; ``fingerprint`` and
        ``similarity`` may be absent. A UserError says what is wrong with the file.
        """
        arrays = read_arrays(path)
        kept = arrays.get("embeddings", arrays.get("matrix"))
        if kept is None or "ids" not in arrays:
            raise UserError(
                f"{path} has the arrays {listed(sorted(arrays)) or 'none'}; an .npz of "
                "embeddings has ids [N] (text) and embeddings [N, D]"
            )
        ids = arrays["ids"]
        shaped = ids.ndim == 1 and kept.ndim == 2
        if not (shaped and ids.dtype.kind == "U" and kept.dtype.kind in "fiu"):
            raise UserError(
                f"{path}: expected ids [N] of text and embeddings [N, D] of numbers, "
                f"not {ids.dtype} {list(ids.shape)} and {kept.dtype} {list(kept.shape)}"
            )
        matrix = np.ascontiguousarray(kept, dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if bad.size:
            raise UserError(
                f"{bad.size} of {len(ids)} embeddings in {path} are NaN or infinite: "
                f"{listed(ids[bad].tolist())}"
            )
        about = str(arrays.get("similarity", ""))
        try:
            similarity = json.loads(about) if about else None
        except ValueError as error:
            raise UserError(f"{path}: its similarity is damaged: {error}") from error
        return cls(
            ids.tolist(),
            matrix,
            fingerprint=str(arrays.get("fingerprint", "")) or None,
            similarity=similarity,
        )
