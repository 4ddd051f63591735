"""Speakers who are known by name, kept in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb_margins.encoder import check_fingerprint
from sb_margins.errors import UserError, nearest
from sb_margins.files import read_arrays, write_whole
from sb_margins.similarity import similarity_from

FORMAT = 2
_ARRAYS = ("format", "model", "names", "sums", "counts")


class EnrolledSet:
    """Named speakers, each as the centre of the embeddings of their utterances.

    The centre is the one of the similarity (`Similarity.centre`): the mean of the
    embeddings as it prepares them. Sums are kept, so utterances can be added later.

    Arguments
    ---------
    model : str
        The fingerprint of the model whose embeddings these are.
    path : str or Path, optional
        The file that keeps the set; None keeps it in memory only.
    similarity : optional
        How embeddings are compared, see `sb_margins.similarity.similarity_from`;
        default: cosine.

    Example
    -------
    >>> people = EnrolledSet("model-1")
    >>> people.add("ann", torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    2
    >>> people.names, people.centres()
    (['ann'], tensor([[0.5000, 0.5000]]))
    """

    def __init__(
        self, model: str, path: str | Path | None = None, similarity: Any = None
    ) -> None:
        self.model = model
        self.path = None if path is None else Path(path)
        self.similarity = similarity_from(similarity)
        self._sums: dict[str, np.ndarray] = {}  # [D] float64, of prepared embeddings
        self._counts: dict[str, int] = {}
        self._centres: Tensor | None = None

    @classmethod
    def open(cls, path: str | Path, model: str, similarity: Any = None) -> EnrolledSet:
        """The set that a file keeps; an empty one when there is no file yet.

        Arguments
        ---------
        path : str or Path
            An ``.npz`` file.
        model : str
            The fingerprint of the model in use.
        similarity : optional
            The model's; default: cosine.

        Raises
        ------
        UserError
            When the file is damaged, or was made with another model.
        """
        people = cls(model, path, similarity)
        path = Path(path)
        if path.is_dir():
            raise UserError(
                f"{path} is a folder; name a file such as {path}/people.npz"
            )
        if path.exists():
            people._take(read_arrays(path))
        return people

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        path = self.path
        if not {"format", "model", "names"} <= set(arrays):
            raise UserError(f"{path} is not a set of enrolled speakers")
        check_fingerprint(
            str(arrays["model"]),
            self.model,
            str(path),
            "Enroll the recordings again, in another file.",
        )
        current = str(arrays["format"]) == str(FORMAT) and set(arrays) == set(_ARRAYS)
        if not current or not _sound(arrays["names"], arrays["sums"], arrays["counts"]):
            raise UserError(f"{path} is damaged; restore it or enroll again")
        names = arrays["names"].tolist()
        self._sums = dict(zip(names, arrays["sums"].astype(np.float64), strict=True))
        self._counts = dict(zip(names, arrays["counts"].tolist(), strict=True))

    @property
    def names(self) -> list[str]:
        """The speakers, in the order of `centres`."""
        return list(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def __contains__(self, name: object) -> bool:
        return name in self._sums

    def add(self, name: str, embeddings: Tensor, replace: bool = False) -> int:
        """Add utterances of a speaker, new or known; how many there are now.

        Arguments
        ---------
        name : str
            The speaker.
        embeddings : torch.Tensor
            [N, D], N >= 1.
        replace : bool
            Forget earlier utterances of this speaker. Default False.

        Raises
        ------
        UserError
            For an empty name, or embeddings of another size, zero or not finite.
        """
        if not _is_name(name):
            raise UserError(f"{name!r} is not a name for a speaker")
        total, count = self._prepared(embeddings, f"'{name}'").sum(0), len(embeddings)
        if name in self and not replace:
            total, count = total + self._sums[name], count + self._counts[name]
        self._sums[name], self._counts[name] = total, count
        self._centres = None
        return count

    def add_many(self, names: list[str], embeddings: Tensor) -> None:
        """Add one utterance each of many new speakers, at once.

        Arguments
        ---------
        names : list of str
            N names that are not in the set.
        embeddings : torch.Tensor
            [N, D].

        Raises
        ------
        UserError
            For names that are there already or twice, or bad embeddings.
        """
        known = any(name in self or not _is_name(name) for name in names)
        if known or len(set(names)) != len(names) or len(names) != len(embeddings):
            raise UserError("add_many takes new names, each once, one embedding each")
        rows = self._prepared(embeddings, "add_many")
        self._sums.update(zip(names, rows, strict=True))
        self._counts.update(dict.fromkeys(names, 1))
        self._centres = None

    def _prepared(self, embeddings: Tensor, who: str) -> np.ndarray:
        """[N, D] float64 rows as the similarity prepares them, checked."""
        rows = embeddings.detach().cpu().double()
        if rows.dim() != 2 or not len(rows) or not rows.isfinite().all():
            raise UserError(f"{who}: embeddings must be [N, D] finite numbers, N > 0")
        size = len(next(iter(self._sums.values()), rows[0]))
        if rows.shape[1] != size:
            raise UserError(
                f"{who}: embeddings of {rows.shape[1]} numbers, but the set has {size}"
            )
        if not rows.any(dim=1).all():
            raise UserError(f"{who}: an embedding is zero; it has no direction")
        return self.similarity.prepare(rows).numpy()

    def remove(self, name: str) -> None:
        """Forget a speaker; a UserError when there is none of that name."""
        if name not in self:
            raise UserError(
                f"no speaker '{name}' is enrolled.{nearest(name, self.names)}"
            )
        del self._sums[name], self._counts[name]
        self._centres = None

    def count(self, name: str) -> int:
        """How many utterances a speaker was enrolled with."""
        return self._counts[name]

    def centres(self) -> Tensor:
        """[N, D] float32 centres, in the order of ``names``; kept until a change."""
        if self._centres is None:
            means = [self._sums[name] / self._counts[name] for name in self._sums]
            self._centres = torch.from_numpy(np.array(means, np.float32))
        return self._centres

    def save(self) -> None:
        """Write the file, whole or not at all; a UserError when that fails."""
        if self.path is None:
            raise UserError("this set has no file; open it with EnrolledSet.open(path)")
        sums = np.array([*self._sums.values()], np.float32)
        with write_whole(self.path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                format=np.array(FORMAT),
                model=np.array(self.model),
                names=np.array(self.names, dtype=np.str_),
                sums=sums.reshape(len(self), -1 if len(self) else 0),
                counts=np.array([*self._counts.values()], np.int64),
            )


def _is_name(name: str) -> bool:
    return bool(name) and name == name.strip() and name.isprintable()


def _sound(names: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> bool:
    """Whether arrays of a file are what `EnrolledSet.save` writes."""
    if (names.ndim, sums.ndim, counts.ndim) != (1, 2, 1):
        return False
    if names.dtype.kind + sums.dtype.kind + counts.dtype.kind != "Ufi":
        return False
    listed = names.tolist()
    return (
        len(names) == len(sums) == len(counts) == len(set(listed))
        and all(map(_is_name, listed))
        and bool(np.isfinite(sums).all())
        and bool((counts > 0).all())
    )
